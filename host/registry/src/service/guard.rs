//! Who may do what in the registry.
//!
//! Who somebody is and what they may is decided by a [`Gatekeeper`]: this crate knows no users. What
//! is shown is one of its tokens, as `Bearer`, or as the password of `Basic` with any name. Clients
//! that go by the distribution project's token flow are sent to `/token`, which gives them back the
//! token that they showed as their password: there is nothing that a second kind of token would add.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_http::{BoxError, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::Authority};
use serde_json::json;

use super::{ApiError, is_read, parameter};

/// What the token flow calls this registry.
const SERVICE: &str = "eyot";
/// Seconds after which a client shows its password again, which the protocol asks for.
const EXPIRES: u32 = 300;

/// Somebody that a [`Gatekeeper`] knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

/// What is done to repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Create,
    Delete,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Delete => "delete",
        }
    }
}

/// Knows tokens and rights.
#[async_trait]
pub trait Gatekeeper: Send + Sync {
    /// Whose token that is; `None` if it is nobody's. An error if that cannot be found out.
    async fn who(&self, token: &str) -> Result<Option<Who>, BoxError>;

    /// Whether they may do that to the repository, or to all without a name.
    async fn may(&self, who: &Who, verb: Verb, repository: Option<&str>) -> Result<bool, BoxError>;
}

/// What those may do who do not say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    Nothing,
    Read,
    Everything,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject<'a> {
    /// Whether there is a registry.
    Registry,
    /// All repositories, or what the node has of other registries.
    All,
    Repository(&'a str),
}

impl<'a> Subject<'a> {
    fn repository(self) -> Option<&'a str> {
        match self {
            Self::Repository(name) => Some(name),
            Self::Registry | Self::All => None,
        }
    }
}

/// The rules of one door of the registry.
#[derive(Clone)]
pub struct Guard {
    pub keeper: Arc<dyn Gatekeeper>,
    pub anonymous: Anonymous,
    /// Whether that door speaks TLS.
    pub tls: bool,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("anonymous", &self.anonymous)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// A request that is not let in.
pub(super) enum Stopped {
    Error(ApiError),
    /// Who says who they are may be let in.
    Challenge(ApiError, Option<HeaderValue>),
}

impl From<ApiError> for Stopped {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl Stopped {
    pub(super) fn into_response(self) -> Response {
        match self {
            Self::Error(error) => error.into_response(),
            Self::Challenge(error, challenge) => {
                let mut response = error.into_response();
                if let Some(value) = challenge {
                    response
                        .headers_mut()
                        .insert(header::WWW_AUTHENTICATE, value);
                }
                response
            }
        }
    }
}

impl Guard {
    /// Let the request pass, or say why not.
    pub(super) async fn pass(&self, request: &Parts, subject: Subject<'_>) -> Result<(), Stopped> {
        let repository = subject.repository();
        let Some(token) = token(&request.headers) else {
            let is_open = match self.anonymous {
                Anonymous::Everything => true,
                Anonymous::Read => is_read(&request.method),
                Anonymous::Nothing => false,
            };
            return match is_open {
                true => Ok(()),
                false => Err(self.challenge(request, repository)),
            };
        };
        let Some(who) = self.who(&token).await? else {
            return Err(self.challenge(request, repository));
        };
        let Some(verb) = verb(&request.method, subject) else {
            return Ok(());
        };
        self.allow(&who, verb, repository).await?;
        // A blob is taken out of another repository, too.
        let from = parameter(request, "from").filter(|_| parameter(request, "mount").is_some());
        match from {
            Some(from) => self.allow(&who, Verb::Get, Some(&from)).await,
            None => Ok(()),
        }
    }

    /// `/token`: the token flow.
    pub(super) async fn give_token(&self, request: &Parts) -> Result<Response, Stopped> {
        if !is_read(&request.method) {
            return Err(ApiError::method("GET").into());
        }
        let unauthorized = || {
            let message = "show a token of the Kubernetes API as the password".to_owned();
            let basic = HeaderValue::from_static("Basic realm=\"eyot\"");
            Stopped::Challenge(unauthorized(message), Some(basic))
        };
        let token = token(&request.headers).ok_or_else(unauthorized)?;
        if self.who(&token).await?.is_none() {
            return Err(unauthorized());
        }
        let answer = json!({ "token": token, "access_token": token, "expires_in": EXPIRES });
        let mut response = eyot_http::json(StatusCode::OK, &answer);
        let never = HeaderValue::from_static("no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, never);
        Ok(response)
    }

    async fn who(&self, token: &str) -> Result<Option<Who>, ApiError> {
        self.keeper.who(token).await.map_err(|error| broken(&error))
    }

    async fn allow(&self, who: &Who, verb: Verb, repository: Option<&str>) -> Result<(), Stopped> {
        let may = self.keeper.may(who, verb, repository).await;
        if may.map_err(|error| broken(&error))? {
            return Ok(());
        }
        let what = repository.map_or("repositories".to_owned(), |name| {
            format!("repository {name}")
        });
        let message = format!(
            "user {:?} may not {} {what}: grant the verb on repositories.eyot.dev",
            who.name,
            verb.as_str()
        );
        let denied = ApiError::new(StatusCode::FORBIDDEN, "DENIED", message);
        Err(denied.into())
    }

    fn challenge(&self, request: &Parts, repository: Option<&str>) -> Stopped {
        let message = "show a token of the Kubernetes API, as Bearer or as the password of Basic";
        let scope = repository.map(|name| {
            let actions = match is_read(&request.method) {
                true => "pull",
                false => "pull,push",
            };
            format!(",scope=\"repository:{name}:{actions}\"")
        });
        // Where the client reached us is where it reaches the token service.
        let host = request
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = host.or(request.uri.authority().map(Authority::as_str));
        let host = host.filter(|host| host.parse::<Authority>().is_ok());
        let scheme = if self.tls { "https" } else { "http" };
        let challenge = match host {
            Some(host) => format!(
                "Bearer realm=\"{scheme}://{host}/token\",service=\"{SERVICE}\"{}",
                scope.unwrap_or_default()
            ),
            None => "Basic realm=\"eyot\"".to_owned(),
        };
        Stopped::Challenge(
            unauthorized(message.to_owned()),
            HeaderValue::from_str(&challenge).ok(),
        )
    }
}

/// What a request does; `None` if it only asks whether there is a registry.
fn verb(method: &Method, subject: Subject<'_>) -> Option<Verb> {
    match (subject, method) {
        (Subject::Registry, _) => None,
        (_, &Method::DELETE) => Some(Verb::Delete),
        (Subject::All, _) => Some(Verb::List),
        (_, method) if is_read(method) => Some(Verb::Get),
        _ => Some(Verb::Create),
    }
}

fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let token = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => rest.trim().to_owned(),
        "basic" => {
            let decoded = BASE64_STANDARD.decode(rest.trim()).ok()?;
            let pair = String::from_utf8(decoded).ok()?;
            pair.split_once(':')?.1.to_owned()
        }
        _ => return None,
    };
    (!token.is_empty()).then_some(token)
}

fn unauthorized(message: String) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
}

fn broken(error: &BoxError) -> ApiError {
    tracing::warn!(%error, "the registry cannot ask who may do what");
    let message = "who may do what cannot be found out now; try again".to_owned();
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", message)
}
