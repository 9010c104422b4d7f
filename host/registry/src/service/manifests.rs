//! Manifests: pushing, pulling and deleting them, and tags with them.

use eyot_http::{Body, Response};
use http::{HeaderName, Method, StatusCode, header, request::Parts};

use super::{
    ApiError, CONTENT_DIGEST, bare, blocking, finish, is_read, parameter, parameters, text_header,
};
use crate::{
    Registry,
    content::MANIFEST_LIMIT,
    manifest::{Content, Manifest},
    name::{Algorithm, Digest, Name, Selector, Tag},
};

/// Tells the client that the referrers list has the manifest, so that it keeps none of its own.
static SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Tells the client which tags the manifest was given.
static TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Tags that one request may give; the specification has registries take ten at least.
const TAGS: usize = 64;

/// `/v2/<name>/manifests/<reference>`
pub(super) async fn answer(
    registry: Registry,
    name: Name,
    reference: &str,
    request: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let selector = reference.parse::<Selector>();
    match &request.method {
        method if is_read(method) => {
            // What cannot be a tag is a tag that does not exist.
            let Ok(selector) = selector else {
                return Err(unknown(&name, reference));
            };
            read(registry, name, selector, request.method == Method::HEAD).await
        }
        &Method::PUT => {
            let selector = selector.map_err(|error| match reference.contains(':') {
                true => ApiError::digest(&error),
                false => ApiError::bad("MANIFEST_INVALID", error.to_string()),
            })?;
            put(registry, name, selector, request, body).await
        }
        &Method::DELETE => {
            let Ok(selector) = selector else {
                return Err(unknown(&name, reference));
            };
            delete(registry, name, selector).await
        }
        _ => Err(ApiError::method("GET, HEAD, PUT and DELETE")),
    }
}

async fn read(
    registry: Registry,
    name: Name,
    by: Selector,
    head: bool,
) -> Result<Response, ApiError> {
    let unknown = unknown(&name, &by.to_string());
    let stored = blocking(move || Ok(registry.content().manifest(&name, &by)?)).await?;
    let stored = stored.ok_or(unknown)?;
    let digest = stored.digest.to_string();
    let builder = http::Response::builder()
        .header(header::CONTENT_TYPE, stored.media_type)
        .header(header::CONTENT_LENGTH, stored.bytes.len())
        .header(header::ETAG, format!("\"{digest}\""))
        .header(&CONTENT_DIGEST, digest);
    let body = if head {
        eyot_http::empty()
    } else {
        eyot_http::full(stored.bytes)
    };
    finish(builder.body(body))
}

async fn put(
    registry: Registry,
    name: Name,
    selector: Selector,
    request: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let content_type = text_header(request, &header::CONTENT_TYPE).map(str::to_owned);
    // A tag may be pushed with the digest that the client computed.
    let expected = parameter(request, "digest")
        .map(|digest| digest.parse::<Digest>())
        .transpose()
        .map_err(|error| ApiError::digest(&error))?;
    let bytes = eyot_http::collect(body, MANIFEST_LIMIT).await?;
    let manifest = Manifest::parse(content_type.as_deref(), &bytes)?;
    let (tags, expected) = match selector {
        Selector::Tag(tag) => (vec![tag], expected),
        Selector::Digest(digest) => (tags(request)?, Some(digest)),
    };
    let algorithm = expected
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let digest = Digest::of_with(algorithm, &bytes);
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        let message = format!("the manifest has the digest {digest}, not {expected}");
        return Err(ApiError::bad("DIGEST_INVALID", message));
    }
    let builder = bare(StatusCode::CREATED)
        .header(header::LOCATION, format!("/v2/{name}/manifests/{digest}"))
        .header(&CONTENT_DIGEST, digest.to_string());
    let builder = match &manifest.subject {
        Some(subject) => builder.header(&SUBJECT, subject.to_string()),
        None => builder,
    };
    let builder = tags.iter().fold(builder, |builder, tag| {
        builder.header(&TAG, tag.to_string())
    });
    blocking(move || {
        complete(&registry, &name, &manifest)?;
        let content = registry.content();
        Ok(content.put_manifest(&name, &digest, &tags, &manifest, &bytes)?)
    })
    .await?;
    finish(builder.body(eyot_http::empty()))
}

/// The tags that a manifest pushed by its digest is to have.
fn tags(request: &Parts) -> Result<Vec<Tag>, ApiError> {
    let tags = parameters(request, "tag").map(|tag| tag.parse::<Tag>());
    let tags = tags.take(TAGS + 1).collect::<Result<Vec<_>, _>>();
    let tags = tags.map_err(|error| ApiError::bad("MANIFEST_INVALID", error.to_string()))?;
    match tags.len() > TAGS {
        true => {
            let message = format!("more than {TAGS} tags in one request");
            Err(ApiError::bad("MANIFEST_INVALID", message))
        }
        false => Ok(tags),
    }
}

/// Everything that the manifest refers to must be in the repository. Its subject need not be.
fn complete(registry: &Registry, name: &Name, manifest: &Manifest) -> Result<(), ApiError> {
    for digest in manifest.references()? {
        let (there, what) = match manifest.content {
            Content::Image { .. } => (registry.content().blob(name, &digest)?.is_some(), "blob"),
            Content::Index { .. } => (registry.content().has_manifest(name, &digest)?, "manifest"),
        };
        if !there {
            let message = format!("push the {what} {digest} to {name} first");
            return Err(ApiError::bad("MANIFEST_BLOB_UNKNOWN", message));
        }
    }
    Ok(())
}

async fn delete(registry: Registry, name: Name, by: Selector) -> Result<Response, ApiError> {
    let unknown = unknown(&name, &by.to_string());
    let removed = blocking(move || {
        Ok(match by {
            Selector::Tag(tag) => registry.content().remove_tag(&name, &tag)?,
            Selector::Digest(digest) => registry.content().remove_manifest(&name, &digest)?,
        })
    });
    if !removed.await? {
        return Err(unknown);
    }
    finish(bare(StatusCode::ACCEPTED).body(eyot_http::empty()))
}

fn unknown(name: &Name, reference: &str) -> ApiError {
    let message = format!("repository {name} has no manifest {reference:?}");
    ApiError::not_found("MANIFEST_UNKNOWN", message)
}
