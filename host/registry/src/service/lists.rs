//! Lists: the version check, tags, repositories and referrers.

use eyot_http::Response;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::{ApiError, blocking, is_read, parameter};
use crate::{
    Registry,
    manifest::{Descriptor, OCI_INDEX},
    name::{Digest, Name},
};

/// Entries in one answer at most; the rest is behind the `Link` header.
const PAGE: usize = 1000;

/// `/v2/`: yes, this is a registry.
pub(super) fn version(method: &Method) -> Result<Response, ApiError> {
    if !is_read(method) {
        return Err(ApiError::method("GET and HEAD"));
    }
    Ok(eyot_http::json(StatusCode::OK, &json!({})))
}

/// `/v2/_catalog`
pub(super) async fn catalog(registry: Registry, request: &Parts) -> Result<Response, ApiError> {
    let page = Page::of(request)?;
    let all = blocking(move || Ok(registry.content().repositories()?)).await?;
    let (entries, next) = page.cut(all, String::as_str);
    let response = eyot_http::json(StatusCode::OK, &json!({ "repositories": entries }));
    linked(response, "/v2/_catalog", &page, next, None)
}

/// `/v2/<name>/tags/list`
pub(super) async fn tags(
    registry: Registry,
    name: Name,
    request: &Parts,
) -> Result<Response, ApiError> {
    let page = Page::of(request)?;
    let of = name.clone();
    let all = blocking(move || Ok(registry.content().tags(&of)?)).await?;
    let all = all.ok_or_else(|| {
        ApiError::not_found("NAME_UNKNOWN", format!("there is no repository {name}"))
    })?;
    let (entries, next) = page.cut(all, String::as_str);
    let answer = json!({ "name": name.as_str(), "tags": entries });
    let path = format!("/v2/{name}/tags/list");
    linked(
        eyot_http::json(StatusCode::OK, &answer),
        &path,
        &page,
        next,
        None,
    )
}

/// `/v2/<name>/referrers/<digest>`: an index of the manifests about another, empty if none is.
pub(super) async fn referrers(
    registry: Registry,
    name: Name,
    digest: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    let page = Page::of(request)?;
    let digest: Digest = digest.parse().map_err(|error| ApiError::digest(&error))?;
    let wanted = parameter(request, "artifactType").filter(|wanted| !wanted.is_empty());
    let path = format!("/v2/{name}/referrers/{digest}");
    let mut all = blocking(move || Ok(registry.content().referrers(&name, &digest)?)).await?;
    if let Some(wanted) = &wanted {
        all.retain(|entry| entry.artifact_type.as_ref() == Some(wanted));
    }
    let (entries, next) = page.cut(all, |entry: &Descriptor| &entry.digest);
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let mut response = eyot_http::json(StatusCode::OK, &index);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
    if wanted.is_some() {
        headers.insert(
            "oci-filters-applied",
            HeaderValue::from_static("artifactType"),
        );
    }
    linked(response, &path, &page, next, wanted.as_deref())
}

/// Which part of a list was asked for: `n` entries after `last`.
struct Page {
    n: usize,
    last: Option<String>,
}

impl Page {
    fn of(request: &Parts) -> Result<Self, ApiError> {
        if !is_read(&request.method) {
            return Err(ApiError::method("GET and HEAD"));
        }
        let n = match parameter(request, "n") {
            None => PAGE,
            Some(n) => n.parse::<usize>().map(|n| n.min(PAGE)).map_err(|_| {
                ApiError::bad("UNSUPPORTED", format!("n={n:?} is not a number of entries"))
            })?,
        };
        Ok(Self {
            n,
            last: parameter(request, "last"),
        })
    }

    /// The page of a sorted list, and the last entry if more follow.
    fn cut<T>(&self, mut all: Vec<T>, key: fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        if let Some(last) = &self.last {
            all.retain(|entry| key(entry) > last.as_str());
        }
        let more = all.len() > self.n;
        all.truncate(self.n);
        let next = all
            .last()
            .filter(|_| more)
            .map(|entry| key(entry).to_owned());
        (all, next)
    }
}

fn linked(
    mut response: Response,
    path: &str,
    page: &Page,
    next: Option<String>,
    artifact_type: Option<&str>,
) -> Result<Response, ApiError> {
    let Some(last) = next else {
        return Ok(response);
    };
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let filter = artifact_type
        .map(|t| format!("&artifactType={}", encode(t)))
        .unwrap_or_default();
    let link = format!(
        "<{path}?n={}&last={}{filter}>; rel=\"next\"",
        page.n,
        encode(&last)
    );
    if let Ok(value) = HeaderValue::from_str(&link) {
        response.headers_mut().insert(header::LINK, value);
    }
    Ok(response)
}
