//! The OCI Distribution API, version 1.1, as a `tower::Service`.
//!
//! This file finds out what a request is about; `guard` says whether it may, `blobs`, `manifests`,
//! `lists` and `images` answer. A
//! repository name may have any depth and contain words like `blobs`, so paths are read from
//! their end.

mod blobs;
mod error;
pub(crate) mod guard;
mod images;
mod lists;
mod manifests;

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use eyot_http::{Request, Response};
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use percent_encoding::percent_decode_str;

use self::{
    error::ApiError,
    guard::{Guard, Stopped, Subject},
};
use crate::{Registry, name::Name};

static CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Serves one registry; clones share it.
#[derive(Debug, Clone)]
pub struct RegistryService {
    registry: Registry,
    guard: Option<Guard>,
}

impl RegistryService {
    pub(crate) fn new(registry: Registry, guard: Option<Guard>) -> Self {
        Self { registry, guard }
    }
}

impl tower::Service<Request> for RegistryService {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (registry, guard) = (self.registry.clone(), self.guard.clone());
        async move {
            let answer = answer(registry, guard, request).await;
            let mut response = answer.unwrap_or_else(Stopped::into_response);
            // Old clients look for it before they believe that this is a registry.
            let version = HeaderName::from_static("docker-distribution-api-version");
            response
                .headers_mut()
                .insert(version, HeaderValue::from_static("registry/2.0"));
            Ok(response)
        }
        .boxed()
    }
}

async fn answer(
    registry: Registry,
    guard: Option<Guard>,
    request: Request,
) -> Result<Response, Stopped> {
    let (request, body) = request.into_parts();
    let path = percent_decode_str(request.uri.path())
        .decode_utf8_lossy()
        .into_owned();
    if let (Some(guard), "/token") = (&guard, path.as_str()) {
        return guard.give_token(&request).await;
    }
    let route = Route::of(&path)?;
    if let Some(guard) = &guard {
        guard.pass(&request, route.subject()).await?;
    }
    let answer = match route {
        Route::Version => lists::version(&request.method),
        Route::Catalog => lists::catalog(registry, &request).await,
        Route::Images => images::answer(registry, &request).await,
        Route::Tags(name) => lists::tags(registry, name, &request).await,
        Route::Referrers(name, digest) => lists::referrers(registry, name, digest, &request).await,
        Route::Manifest(name, reference) => {
            manifests::answer(registry, name, reference, &request, body).await
        }
        Route::Start(name) => blobs::start(registry, name, &request, body).await,
        Route::Upload(name, id) => blobs::upload(registry, name, id, &request, body).await,
        Route::Blob(name, digest) => blobs::answer(registry, name, digest, &request).await,
    };
    Ok(answer?)
}

/// What a path leads to.
enum Route<'a> {
    Version,
    Catalog,
    Images,
    Tags(Name),
    Referrers(Name, &'a str),
    Manifest(Name, &'a str),
    Start(Name),
    Upload(Name, &'a str),
    Blob(Name, &'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Result<Self, ApiError> {
        let unknown =
            || ApiError::not_found("UNSUPPORTED", format!("{path} is no path of a registry"));
        let rest = match path {
            "/v2" => "",
            path => path.strip_prefix("/v2/").ok_or_else(unknown)?,
        };
        match rest {
            "" => return Ok(Self::Version),
            "_catalog" => return Ok(Self::Catalog),
            images::PATH => return Ok(Self::Images),
            _ => {}
        }
        let parts: Vec<&str> = rest.split('/').collect();
        Ok(match parts.as_slice() {
            [name @ .., "tags", "list"] => Self::Tags(parse(name)?),
            [name @ .., "referrers", _] => Self::Referrers(parse(name)?, last(rest)),
            [name @ .., "manifests", _] => Self::Manifest(parse(name)?, last(rest)),
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                Self::Start(parse(name)?)
            }
            [name @ .., "blobs", "uploads", _] => Self::Upload(parse(name)?, last(rest)),
            [name @ .., "blobs", _] => Self::Blob(parse(name)?, last(rest)),
            _ => return Err(unknown()),
        })
    }

    fn subject(&self) -> Subject<'_> {
        match self {
            Self::Version => Subject::Registry,
            Self::Catalog | Self::Images => Subject::All,
            Self::Tags(name)
            | Self::Referrers(name, _)
            | Self::Manifest(name, _)
            | Self::Start(name)
            | Self::Upload(name, _)
            | Self::Blob(name, _) => Subject::Repository(name.as_str()),
        }
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn parse(parts: &[&str]) -> Result<Name, ApiError> {
    parts
        .join("/")
        .parse()
        .map_err(|error| ApiError::name(&error))
}

/// The values of a query parameter.
fn parameter(request: &Parts, name: &str) -> Option<String> {
    parameters(request, name).next()
}

/// All values of a parameter that may be there several times.
fn parameters<'a>(request: &'a Parts, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let query = request.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn text_header<'a>(request: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    request
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok())
}

/// An answer without a body.
fn bare(status: StatusCode) -> http::response::Builder {
    http::Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, 0)
}

fn finish(built: Result<Response, http::Error>) -> Result<Response, ApiError> {
    built.map_err(|error| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            error.to_string(),
        )
    })
}

/// Run what blocks on files.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// What a client is told of an upload that failed.
#[cfg(test)]
pub(crate) fn error_answer(error: crate::upload::UploadError) -> Response {
    ApiError::from(error).into_response()
}
