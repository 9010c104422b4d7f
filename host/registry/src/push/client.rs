//! The client side of a push.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use eyot_http::Body;
use eyot_runtime::Credential;
use futures::StreamExt;
use http::{Method, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::artifact::{Artifact, Blob, Source};
use crate::{
    name::{Digest, NameError, Reference, Selector},
    pull::{
        Connections, Registries, Remote, RemoteError, canonical, credentials::matching, is_loopback,
    },
    refusal,
};

/// How often progress is told while a blob is on its way.
const TICK: Duration = Duration::from_millis(100);
/// Bytes read from the file at once.
const READ: usize = 256 * 1024;

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("image reference {reference:?} is not valid: {source}")]
    Reference {
        reference: String,
        source: NameError,
    },
    #[error("the registry at {address} cannot be reached: {reason}{}", hint(.address))]
    Unreachable { address: String, reason: String },
    #[error("the registry refused {what}: {reason}")]
    Refused { what: String, reason: String },
    #[error("{0} changed while it was pushed, or cannot be read")]
    Source(String),
}

fn hint(address: &str) -> &'static str {
    match is_loopback(address) {
        true => "; is `eyot up` running?",
        false => "",
    }
}

impl From<RemoteError> for PushError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Unreachable { host, reason } => Self::Unreachable {
                address: host,
                reason,
            },
            RemoteError::Denied { what, reason } => Self::Refused { what, reason },
            error => Self::Refused {
                what: "the image".to_owned(),
                reason: error.to_string(),
            },
        }
    }
}

/// Who pushes, and how registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub registries: Registries,
    /// Those whose scope fits the registry are tried, the narrowest one only.
    pub credentials: Vec<Credential>,
}

/// How far a push is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the registry has; what it had before counts from the start.
    pub sent: u64,
    /// Bytes of all blobs.
    pub total: u64,
}

/// Push `artifact` as `reference` to the registry at `registry` (`HOST:PORT`), unless the
/// reference names another. Returns the digest of the image.
pub async fn push(
    registry: &str,
    reference: &str,
    artifact: &Artifact,
    options: &Options,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Digest, PushError> {
    let parsed: Reference = reference.parse().map_err(|source| PushError::Reference {
        reference: reference.to_owned(),
        source,
    })?;
    let Some((root, others)) = artifact.manifests.split_last() else {
        return Err(PushError::Source(reference.to_owned()));
    };
    if let Selector::Digest(expected) = &parsed.selector
        && *expected != root.digest
    {
        let reason = format!("the image has the digest {}", root.digest);
        return Err(PushError::Refused {
            what: parsed.to_string(),
            reason,
        });
    }
    let session = Session {
        remote: remote(registry, &parsed, options)?,
    };
    let total = artifact.blobs.iter().map(|blob| blob.size).sum();
    let mut sent = 0;
    for blob in &artifact.blobs {
        if !session.has(blob).await? {
            session
                .send(blob, |of_blob| {
                    progress(Progress {
                        sent: sent + of_blob,
                        total,
                    })
                })
                .await?;
        }
        sent += blob.size;
        progress(Progress { sent, total });
    }
    for manifest in others {
        let by = manifest.digest.to_string();
        session
            .manifest(&by, &manifest.media_type, &manifest.bytes)
            .await?;
    }
    session
        .manifest(&parsed.selector.to_string(), &root.media_type, &root.bytes)
        .await?;
    Ok(root.digest.clone())
}

/// The repository that a reference means.
fn remote(registry: &str, reference: &Reference, options: &Options) -> Result<Remote, PushError> {
    let (host, name) = match &reference.host {
        Some(host) => canonical(host, reference.name.as_str()),
        None => (registry.to_owned(), reference.name.to_string()),
    };
    remote_of(&host, &name, options)
}

/// A repository of the registry at `host`, with who we are there.
pub(crate) fn remote_of(host: &str, name: &str, options: &Options) -> Result<Remote, PushError> {
    let endpoint = options.registries.origin(host, name);
    let credential = matching(&options.credentials, host, name)
        .first()
        .map(|credential| (*credential).clone());
    let connections = Arc::new(Connections::new());
    Ok(Remote::new(
        &connections,
        &options.registries,
        endpoint,
        credential,
    )?)
}

struct Session {
    remote: Remote,
}

impl Session {
    async fn has(&self, blob: &Blob) -> Result<bool, PushError> {
        let uri = self.remote.below(&format!("blobs/{}", blob.digest))?;
        let response = self
            .remote
            .exchange(&Method::HEAD, uri, &[], Bytes::new())
            .await?;
        Ok(response.status() == StatusCode::OK)
    }

    async fn send(
        &self,
        blob: &Blob,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(), PushError> {
        let what = format!("blob {}", blob.digest);
        let uri = self.remote.below("blobs/uploads/")?;
        let started = self
            .remote
            .exchange(&Method::POST, uri, &[], Bytes::new())
            .await?;
        let started = expect(started, StatusCode::ACCEPTED, &what).await?;
        let location = started
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| PushError::Refused {
            what: what.clone(),
            reason: "the answer has no Location".to_owned(),
        })?;
        let joint = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{joint}digest={}", blob.digest);
        let target = self.remote.at(&target)?;
        let sent = Arc::new(AtomicU64::new(0));
        let body = body(blob, &sent).await?;
        let headers = [
            (header::CONTENT_LENGTH, blob.size.to_string()),
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        ];
        let put = self.remote.stream(Method::PUT, target, &headers, body);
        tokio::pin!(put);
        let mut tick = tokio::time::interval(TICK);
        let response = loop {
            tokio::select! {
                response = &mut put => break response?,
                _ = tick.tick() => progress(sent.load(Ordering::Relaxed)),
            }
        };
        expect(response, StatusCode::CREATED, &what)
            .await
            .map(|_| ())
    }

    async fn manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(), PushError> {
        let uri = self.remote.below(&format!("manifests/{reference}"))?;
        let headers = [(header::CONTENT_TYPE, media_type.to_owned())];
        let response = self
            .remote
            .exchange(&Method::PUT, uri, &headers, bytes.clone())
            .await?;
        expect(
            response,
            StatusCode::CREATED,
            &format!("manifest {reference}"),
        )
        .await?;
        Ok(())
    }
}

async fn body(blob: &Blob, sent: &Arc<AtomicU64>) -> Result<Body, PushError> {
    let slice = match &blob.source {
        Source::Bytes(bytes) => return Ok(eyot_http::full(bytes.clone())),
        Source::Slice(slice) => slice,
    };
    let failed = |error| PushError::Source(format!("{}: {error}", slice.path.display()));
    let mut file = tokio::fs::File::open(&slice.path).await.map_err(failed)?;
    file.seek(std::io::SeekFrom::Start(slice.offset))
        .await
        .map_err(failed)?;
    let sent = Arc::clone(sent);
    let stream = ReaderStream::with_capacity(file.take(slice.length), READ);
    let counted = stream.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    Ok(eyot_http::from_stream(counted))
}

async fn expect(
    response: Response<Incoming>,
    status: StatusCode,
    what: &str,
) -> Result<Response<Incoming>, PushError> {
    if response.status() == status {
        return Ok(response);
    }
    Err(PushError::Refused {
        what: what.to_owned(),
        reason: refusal(response).await,
    })
}
