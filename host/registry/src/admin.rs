//! The client side of `eyot image`: what a running host has, and removing from it.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::{
    name::{Reference, Selector},
    pull::Remote,
    push::{self, PushError},
    refusal,
};

/// Largest list that is read.
const LIST_LIMIT: usize = 64 << 20;

/// An image that the host has.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Listed {
    pub names: Vec<String>,
    pub digest: String,
    /// Bytes of all blobs.
    pub size: u64,
    /// It came from another registry.
    pub fetched: bool,
}

#[derive(Deserialize)]
struct List {
    images: Vec<Listed>,
}

/// All images of the host whose registry is at `registry` (`HOST:PORT`), largest first.
pub async fn list(registry: &str, options: &push::Options) -> Result<Vec<Listed>, PushError> {
    let remote = push::remote_of(registry, "_eyot", options)?;
    let uri = remote.at("/v2/_eyot/images")?;
    let response = remote
        .exchange(&Method::GET, uri, &[], Bytes::new())
        .await?;
    let refused = |reason: String| PushError::Refused {
        what: "the list of images".to_owned(),
        reason,
    };
    if response.status() != StatusCode::OK {
        return Err(refused(refusal(response).await));
    }
    let body = eyot_http::collect(response.into_body(), LIST_LIMIT).await;
    let body = body.map_err(|error| refused(error.to_string()))?;
    let list: List = serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))?;
    Ok(list.images)
}

/// Remove the image of that name: a tag or a manifest of the registry, or one that was fetched, with
/// all of its names. What runs from it goes on.
pub async fn remove(registry: &str, name: &str, options: &push::Options) -> Result<(), PushError> {
    let reference: Reference = name.parse().map_err(|source| PushError::Reference {
        reference: name.to_owned(),
        source,
    })?;
    let wanted = |listed: &Listed| {
        let tagged = reference.to_string();
        listed
            .names
            .iter()
            .any(|known| *known == tagged || known == name)
            || matches!(&reference.selector, Selector::Digest(digest) if listed.digest == digest.to_string())
    };
    let images = list(registry, options).await?;
    let fetched = images
        .iter()
        .find(|listed| listed.fetched && wanted(listed));
    let (remote, uri) = match fetched {
        Some(listed) => {
            let remote = push::remote_of(registry, "_eyot", options)?;
            let uri = remote.at(&format!("/v2/_eyot/images?digest={}", listed.digest))?;
            (remote, uri)
        }
        None => {
            let repository = match &reference.host {
                Some(host) if host != registry => format!("{host}/{}", reference.name),
                _ => reference.name.to_string(),
            };
            let remote = push::remote_of(registry, &repository, options)?;
            let uri = remote.below(&format!("manifests/{}", reference.selector))?;
            (remote, uri)
        }
    };
    delete(&remote, uri, name).await
}

async fn delete(remote: &Remote, uri: http::Uri, name: &str) -> Result<(), PushError> {
    let response = remote
        .exchange(&Method::DELETE, uri, &[], Bytes::new())
        .await?;
    if response.status().is_success() {
        return Ok(());
    }
    Err(PushError::Refused {
        what: format!("to remove {name}"),
        reason: refusal(response).await,
    })
}
