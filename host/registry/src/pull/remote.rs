//! One repository of another registry, spoken to over HTTP: who we are, redirects, and blobs that go
//! on where a connection broke.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use eyot_http::{
    Body,
    trust::{Trust, trusting},
};
use eyot_runtime::Credential;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use serde::Deserialize;

use super::{
    challenge::Challenge,
    hosts::{Endpoint, Host, Registries},
};
use crate::{chain, refusal};

/// For a connection to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// For the head of an answer.
const ANSWER: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;
/// Largest answer of a token service.
const TOKEN_LIMIT: usize = 256 * 1024;
const IDLE_TIME: Duration = Duration::from_secs(30);
const AGENT: &str = concat!("eyot/", env!("CARGO_PKG_VERSION"));

type Http = Client<HttpsConnector<HttpConnector>, Body>;

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error("{0}: not found")]
    NotFound(String),
    #[error("pull access denied for {what}: {reason}")]
    Denied { what: String, reason: String },
    #[error("{what}: unexpected answer: {reason}")]
    Refused { what: String, reason: String },
    #[error("{host}: {reason}")]
    Unreachable { host: String, reason: String },
    /// What came is not what was asked for.
    #[error("{0}")]
    Wrong(String),
    #[error("storing {what}: {source}")]
    Disk {
        what: String,
        source: std::io::Error,
    },
}

impl RemoteError {
    /// Whether the same may go well in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Connections to all registries.
#[derive(Debug)]
pub(crate) struct Connections {
    /// By host: TLS differs.
    clients: Mutex<HashMap<String, Http>>,
}

/// Hosts with connections of their own; past this all are given up and made anew.
const HOSTS: usize = 64;

impl Connections {
    pub(crate) fn new() -> Self {
        Self {
            clients: Mutex::default(),
        }
    }

    fn to(&self, host: &str, settings: Option<&Host>) -> Result<Http, String> {
        // Those without settings of their own differ in nothing.
        let key = settings.map_or("", |_| host);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        let client = connect(settings)?;
        if clients.len() >= HOSTS {
            clients.clear();
        }
        clients.insert(key.to_owned(), client.clone());
        Ok(client)
    }
}

fn connect(settings: Option<&Host>) -> Result<Http, String> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let ca = settings.and_then(|settings| settings.ca.as_ref());
    let ca = ca.map(read).transpose()?.unwrap_or_default();
    let trust = match settings {
        Some(settings) if settings.skip_verify => Trust::Anybody,
        _ => Trust::Authorities(&ca),
    };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    http.set_nodelay(true);
    let tls = match settings.and_then(|settings| settings.identity.clone()) {
        Some(file) => trusting(trust)?.with_client_cert_resolver(Arc::new(Shown(file))),
        None => trusting(trust)?.with_no_client_auth(),
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIME)
        .build(connector))
}

/// Shows the identity in a file, as it is at each handshake.
#[derive(Debug)]
struct Shown(PathBuf);

impl Shown {
    fn read(&self) -> Result<CertifiedKey, Box<dyn std::error::Error>> {
        let pem = std::fs::read(&self.0)?;
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem)?;
        let provider = rustls::crypto::ring::default_provider();
        Ok(CertifiedKey::from_der(chain, key, &provider)?)
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match self.read() {
            Ok(key) => Some(Arc::new(key)),
            Err(error) => {
                tracing::warn!(file = %self.0.display(), %error, "the identity for a registry cannot be read");
                None
            }
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// One repository at one endpoint, for somebody.
pub(crate) struct Remote {
    pub(crate) endpoint: Endpoint,
    client: Http,
    credential: Option<Credential>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Remote {
    pub(crate) fn new(
        connections: &Arc<Connections>,
        registries: &Registries,
        endpoint: Endpoint,
        credential: Option<Credential>,
    ) -> Result<Self, RemoteError> {
        let settings = registries.of(&endpoint.host);
        let client = connections.to(&endpoint.host, settings).map_err(|reason| {
            RemoteError::Unreachable {
                host: endpoint.host.clone(),
                reason,
            }
        })?;
        Ok(Self {
            endpoint,
            client,
            credential,
            authorization: Mutex::default(),
        })
    }

    /// `HOST/REPOSITORY`, for messages.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.endpoint.host, self.endpoint.repository)
    }

    /// Ask for a path below the repository; any answer but a success is an error.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Response<Incoming>, RemoteError> {
        let uri = self.below(path)?;
        let response = self.exchange(&method, uri, headers, Bytes::new()).await?;
        self.judge(response, path).await
    }

    /// The address of a path below the repository.
    pub(crate) fn below(&self, path: &str) -> Result<Uri, RemoteError> {
        self.at(&format!("/v2/{}/{path}", self.endpoint.repository))
    }

    /// The address that a `Location` means, or of a path of the registry.
    pub(crate) fn at(&self, location: &str) -> Result<Uri, RemoteError> {
        let base = format!("{}/", self.endpoint.base).parse().ok();
        base.and_then(|base| resolve(&base, location))
            .ok_or_else(|| self.unreachable(format!("{location:?} is no address")))
    }

    /// Send a request, once more if the registry wants to know who asks. Every status is an answer.
    pub(crate) async fn exchange(
        &self,
        method: &Method,
        uri: Uri,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Response<Incoming>, RemoteError> {
        let response = self.send(method, uri.clone(), headers, &body).await?;
        match Challenge::of(response.headers()) {
            Some(challenge) if response.status() == StatusCode::UNAUTHORIZED => {
                let value = self.answer(challenge).await?;
                *self.lock() = Some(value);
                self.send(method, uri, headers, &body).await
            }
            _ => Ok(response),
        }
    }

    /// Send a body of any length, for as long as it takes, as the one that the registry knows since
    /// the last request.
    pub(crate) async fn stream(
        &self,
        method: Method,
        uri: Uri,
        headers: &[(HeaderName, String)],
        body: Body,
    ) -> Result<Response<Incoming>, RemoteError> {
        let headers = self.headers(&uri, headers);
        self.start(method, uri, headers, body)
            .await
            .map_err(|error| self.unreachable(chain(&error)))
    }

    /// Only the registry itself is told who we are.
    fn headers(&self, uri: &Uri, headers: &[(HeaderName, String)]) -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                all.append(name.clone(), value);
            }
        }
        let own = self.endpoint.base.parse::<Uri>().ok();
        let own = own.as_ref().and_then(Uri::authority);
        if let Some(value) = self.lock().clone().filter(|_| uri.authority() == own) {
            all.insert(header::AUTHORIZATION, value);
        }
        all
    }

    async fn judge(
        &self,
        response: Response<Incoming>,
        path: &str,
    ) -> Result<Response<Incoming>, RemoteError> {
        let status = response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let what = format!("{}/{path}", self.name());
        let reason = refusal(response).await;
        Err(match status.as_u16() {
            404 => RemoteError::NotFound(what),
            401 | 403 => RemoteError::Denied {
                what: self.name(),
                reason: self.with_remedy(&reason),
            },
            // Busy or broken, and worth another attempt.
            429 | 500..=599 => RemoteError::Unreachable {
                host: self.endpoint.host.clone(),
                reason,
            },
            _ => RemoteError::Refused { what, reason },
        })
    }

    /// Why access is denied, and to whom, or what would help.
    fn with_remedy(&self, reason: &str) -> String {
        match &self.credential {
            None => format!("{reason}; give credentials in imagePullSecrets"),
            Some(credential) => format!("{reason} (as {:?})", credential.user),
        }
    }

    /// Send, and follow where the answer leads.
    async fn send(
        &self,
        method: &Method,
        mut uri: Uri,
        headers: &[(HeaderName, String)],
        body: &Bytes,
    ) -> Result<Response<Incoming>, RemoteError> {
        let secure = uri.scheme_str() == Some("https");
        let follows = matches!(*method, Method::GET | Method::HEAD);
        for _ in 0..=REDIRECTS {
            let all = self.headers(&uri, headers);
            let response = self
                .once(method, &uri, all, eyot_http::full(body.clone()))
                .await?;
            if !response.status().is_redirection() || !follows {
                return Ok(response);
            }
            let to = response.headers().get(header::LOCATION);
            let to = to.and_then(|value| value.to_str().ok());
            let to = to
                .and_then(|to| resolve(&uri, to))
                .ok_or_else(|| self.unreachable(format!("{} leads nowhere", response.status())))?;
            if secure && to.scheme_str() != Some("https") {
                return Err(self.unreachable(format!("{to} is not HTTPS, and {uri} was")));
            }
            uri = to;
        }
        Err(self.unreachable(format!("more than {REDIRECTS} redirects")))
    }

    async fn once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>, RemoteError> {
        let sent = self.start(method.clone(), uri.clone(), headers, body);
        let answered = tokio::time::timeout(ANSWER, sent)
            .await
            .map_err(|_| self.unreachable(format!("no answer within {} s", ANSWER.as_secs())))?;
        answered.map_err(|error| self.unreachable(chain(&error)))
    }

    fn start(
        &self,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: Body,
    ) -> hyper_util::client::legacy::ResponseFuture {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let agent = HeaderValue::from_static(AGENT);
        request.headers_mut().insert(header::USER_AGENT, agent);
        self.client.request(request)
    }

    /// What to say to a challenge.
    async fn answer(&self, challenge: Challenge) -> Result<HeaderValue, RemoteError> {
        let denied = |reason: String| RemoteError::Denied {
            what: self.name(),
            reason,
        };
        let value = match challenge {
            Challenge::Basic => {
                let credential = self
                    .credential
                    .as_ref()
                    .ok_or_else(|| denied("give credentials in imagePullSecrets".to_owned()))?;
                basic(credential)
            }
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let token = self.token(&realm, service.as_deref(), scope).await?;
                format!("Bearer {token}")
            }
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| denied("the credential has characters that no header may".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Ask the token service of the registry.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<String>,
    ) -> Result<String, RemoteError> {
        let scope =
            scope.unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
        let plain = self.endpoint.base.starts_with("http://");
        let bad = |reason: &str| self.unreachable(format!("token service {realm:?}: {reason}"));
        let at: Uri = realm.parse().map_err(|_| bad("is no URL"))?;
        match at.scheme_str() {
            Some("https") => {}
            Some("http") if plain => {}
            // A secret would be sent in the open.
            _ => return Err(bad("is not HTTPS")),
        }
        let (method, uri, headers, body) = self
            .token_request(&at, service, &scope)
            .map_err(|reason| bad(&reason))?;
        let response = self.once(&method, &uri, headers, body).await?;
        if matches!(
            response.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
        ) {
            let reason = format!("the token service answered {}", refusal(response).await);
            return Err(RemoteError::Denied {
                what: self.name(),
                reason: self.with_remedy(&reason),
            });
        }
        if !response.status().is_success() {
            return Err(bad(&refusal(response).await));
        }
        let body = eyot_http::collect(response.into_body(), TOKEN_LIMIT);
        let body = tokio::time::timeout(ANSWER, body)
            .await
            .map_err(|_| bad("stopped within its answer"))?
            .map_err(|error| bad(&error.to_string()))?;
        let token: Token = serde_json::from_slice(&body).map_err(|e| bad(&e.to_string()))?;
        let token = [token.token, token.access_token].into_iter().flatten();
        token
            .into_iter()
            .find(|token| !token.is_empty())
            .ok_or_else(|| bad("gave no token"))
    }

    fn token_request(
        &self,
        at: &Uri,
        service: Option<&str>,
        scope: &str,
    ) -> Result<(Method, Uri, HeaderMap, Body), String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        if let Some(service) = service {
            form.append_pair("service", service);
        }
        form.append_pair("scope", scope);
        let mut headers = HeaderMap::new();
        let identity = self
            .credential
            .as_ref()
            .and_then(|c| c.identity_token.as_deref());
        Ok(match (identity, &self.credential) {
            (Some(token), _) => {
                form.append_pair("grant_type", "refresh_token");
                form.append_pair("client_id", "eyot");
                form.append_pair("refresh_token", token);
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(header::CONTENT_TYPE, kind);
                (
                    Method::POST,
                    at.clone(),
                    headers,
                    eyot_http::full(form.finish()),
                )
            }
            (None, credential) => {
                if let Some(credential) = credential {
                    form.append_pair("account", &credential.user);
                    let value = HeaderValue::from_str(&basic(credential));
                    let mut value = value.map_err(|_| "would get a wrong credential".to_owned())?;
                    value.set_sensitive(true);
                    headers.insert(header::AUTHORIZATION, value);
                }
                let joint = if at.query().is_some() { '&' } else { '?' };
                let uri = format!("{at}{joint}{}", form.finish()).parse();
                let uri: Uri = uri.map_err(|_| "is no URL".to_owned())?;
                (Method::GET, uri, headers, eyot_http::empty())
            }
        })
    }

    pub(crate) fn unreachable(&self, reason: String) -> RemoteError {
        RemoteError::Unreachable {
            host: self.endpoint.host.clone(),
            reason,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(credential: &Credential) -> String {
    let pair = format!("{}:{}", credential.user, credential.password);
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// Where a `Location` leads from `base`.
fn resolve(base: &Uri, to: &str) -> Option<Uri> {
    if to.starts_with('/') {
        let (scheme, authority) = (base.scheme_str()?, base.authority()?);
        return format!("{scheme}://{authority}{to}").parse().ok();
    }
    let uri: Uri = to.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri)
}
