//! The client side of a push.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eyot_http::Body;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::artifact::{Artifact, Blob, Source};
use crate::name::{Digest, Name, NameError, Reference, Selector};

/// How often progress is told while a blob is on its way.
const TICK: Duration = Duration::from_millis(100);
/// Largest error body that is read for its message.
const ERROR_LIMIT: usize = 64 * 1024;
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
    #[error(
        "{host} is not on this machine; this version pushes to the embedded registry only, leave \
         the host name away (to copy an image elsewhere, use skopeo)"
    )]
    Remote { host: String },
    #[error("the registry at {address} cannot be reached: {reason}; is `eyot up` running?")]
    Unreachable { address: String, reason: String },
    #[error("the registry refused {what}: {reason}")]
    Refused { what: String, reason: String },
    #[error("{0} changed while it was pushed, or cannot be read")]
    Source(String),
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
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Digest, PushError> {
    let parsed: Reference = reference.parse().map_err(|source| PushError::Reference {
        reference: reference.to_owned(),
        source,
    })?;
    let host = parsed.host.clone().unwrap_or_else(|| registry.to_owned());
    if !is_local(&host) {
        return Err(PushError::Remote { host });
    }
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
        client: Client::builder(TokioExecutor::new()).build_http(),
        name: parsed.name.clone(),
        host,
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

/// Only this machine is spoken to in plain HTTP.
fn is_local(host: &str) -> bool {
    let Ok(uri) = format!("http://{host}/").parse::<Uri>() else {
        return false;
    };
    let name = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

struct Session {
    client: Client<HttpConnector, Body>,
    host: String,
    name: Name,
}

impl Session {
    async fn has(&self, blob: &Blob) -> Result<bool, PushError> {
        let path = format!("/v2/{}/blobs/{}", self.name, blob.digest);
        let response = self
            .request(Method::HEAD, &path, &[], eyot_http::empty())
            .await?;
        Ok(response.status() == StatusCode::OK)
    }

    async fn send(
        &self,
        blob: &Blob,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<(), PushError> {
        let what = format!("blob {}", blob.digest);
        let path = format!("/v2/{}/blobs/uploads/", self.name);
        let started = self
            .request(Method::POST, &path, &[], eyot_http::empty())
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
        let sent = Arc::new(AtomicU64::new(0));
        let body = body(blob, &sent).await?;
        let headers = [
            (header::CONTENT_LENGTH, blob.size.to_string()),
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        ];
        let put = self.request(Method::PUT, &target, &headers, body);
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
        bytes: &bytes::Bytes,
    ) -> Result<(), PushError> {
        let path = format!("/v2/{}/manifests/{reference}", self.name);
        let headers = [(header::CONTENT_TYPE, media_type.to_owned())];
        let body = eyot_http::full(bytes.clone());
        let response = self.request(Method::PUT, &path, &headers, body).await?;
        expect(
            response,
            StatusCode::CREATED,
            &format!("manifest {reference}"),
        )
        .await?;
        Ok(())
    }

    async fn request(
        &self,
        method: Method,
        target: &str,
        headers: &[(http::HeaderName, String)],
        body: Body,
    ) -> Result<Response<Incoming>, PushError> {
        let unreachable = |reason: String| PushError::Unreachable {
            address: self.host.clone(),
            reason,
        };
        // A registry may answer with a whole URL or with a path.
        let uri = match target.starts_with('/') {
            true => format!("http://{}{target}", self.host),
            false => target.to_owned(),
        };
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        let request = builder
            .body(body)
            .map_err(|error| unreachable(error.to_string()))?;
        self.client
            .request(request)
            .await
            .map_err(|error| unreachable(chain(&error)))
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
    let found = response.status();
    let body = eyot_http::collect(response.into_body(), ERROR_LIMIT)
        .await
        .unwrap_or_default();
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let error = parsed.as_ref().and_then(|value| value["errors"].get(0));
    let reason = match error {
        Some(error) => {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            format!("{found}, {}: {}", text("code"), text("message"))
        }
        None => format!("{found}, expected {status}"),
    };
    Err(PushError::Refused {
        what: what.to_owned(),
        reason,
    })
}

/// The innermost reasons are the telling ones: "connection refused".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
