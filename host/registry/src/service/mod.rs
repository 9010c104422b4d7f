//! The OCI Distribution API, version 1.1, as a `tower::Service`.
//!
//! This file finds out what a request is about; `blobs`, `manifests` and `lists` answer. A
//! repository name may have any depth and contain words like `blobs`, so paths are read from
//! their end.

mod blobs;
mod error;
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

use self::error::ApiError;
use crate::{Registry, name::Name};

static CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Serves one registry; clones share it.
#[derive(Debug, Clone)]
pub struct RegistryService {
    registry: Registry,
}

impl RegistryService {
    pub(crate) fn new(registry: Registry) -> Self {
        Self { registry }
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
        let registry = self.registry.clone();
        async move {
            let answer = answer(registry, request).await;
            let mut response = answer.unwrap_or_else(ApiError::into_response);
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

async fn answer(registry: Registry, request: Request) -> Result<Response, ApiError> {
    let (request, body) = request.into_parts();
    let path = percent_decode_str(request.uri.path())
        .decode_utf8_lossy()
        .into_owned();
    let unknown = || ApiError::not_found("UNSUPPORTED", format!("{path} is no path of a registry"));
    if path == "/v2" || path == "/v2/" {
        return lists::version(&request.method);
    }
    let rest = path.strip_prefix("/v2/").ok_or_else(unknown)?;
    if rest == "_catalog" {
        return lists::catalog(registry, &request).await;
    }
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        [name @ .., "tags", "list"] => lists::tags(registry, parse(name)?, &request).await,
        [name @ .., "referrers", digest] => {
            lists::referrers(registry, parse(name)?, digest, &request).await
        }
        [name @ .., "manifests", reference] => {
            manifests::answer(registry, parse(name)?, reference, &request, body).await
        }
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
            blobs::start(registry, parse(name)?, &request, body).await
        }
        [name @ .., "blobs", "uploads", id] => {
            blobs::upload(registry, parse(name)?, id, &request, body).await
        }
        [name @ .., "blobs", digest] => {
            blobs::answer(registry, parse(name)?, digest, &request).await
        }
        _ => Err(unknown()),
    }
}

fn parse(parts: &[&str]) -> Result<Name, ApiError> {
    parts
        .join("/")
        .parse()
        .map_err(|error| ApiError::name(&error))
}

/// The values of a query parameter.
fn parameter(request: &Parts, name: &str) -> Option<String> {
    let query = request.uri.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs
        .find(|(key, _)| key == name)
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
