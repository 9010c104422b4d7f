//! Blobs: reading them, whole or a range, deleting them, and the ways to push one.

use std::io::SeekFrom;

use eyot_http::{Body, Response};
use http::{HeaderName, Method, StatusCode, header, request::Parts};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{ApiError, CONTENT_DIGEST, bare, blocking, finish, is_read, parameter, text_header};
use crate::{
    Registry,
    name::{Digest, Name},
    upload::{Chunk, Upload},
};

/// Bytes read from the disk at once.
const READ: usize = 256 * 1024;
static UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `/v2/<name>/blobs/<digest>`
pub(super) async fn answer(
    registry: Registry,
    name: Name,
    digest: &str,
    request: &Parts,
) -> Result<Response, ApiError> {
    let digest: Digest = digest.parse().map_err(|error| ApiError::digest(&error))?;
    match &request.method {
        method if is_read(method) => read(registry, name, digest, request).await,
        &Method::DELETE => {
            let unknown = unknown(&name, &digest);
            let removed =
                blocking(move || Ok(registry.content().remove_blob(&name, &digest)?)).await?;
            if !removed {
                return Err(unknown);
            }
            finish(bare(StatusCode::ACCEPTED).body(eyot_http::empty()))
        }
        _ => Err(ApiError::method("GET, HEAD and DELETE")),
    }
}

async fn read(
    registry: Registry,
    name: Name,
    digest: Digest,
    request: &Parts,
) -> Result<Response, ApiError> {
    let path = registry.content().path(&digest);
    let unknown = unknown(&name, &digest);
    let text = digest.to_string();
    let length = blocking(move || Ok(registry.content().blob(&name, &digest)?)).await?;
    let length = length.ok_or(unknown)?;
    let range = match text_header(request, &header::RANGE) {
        Some(range) if length > 0 => parse_range(range, length)?,
        _ => None,
    };
    let builder = http::Response::builder()
        .header(&CONTENT_DIGEST, &text)
        .header(header::ETAG, format!("\"{text}\""))
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream");
    let (builder, start, count) = match range {
        Some((start, end)) => {
            let range = format!("bytes {start}-{end}/{length}");
            let builder = builder.status(StatusCode::PARTIAL_CONTENT);
            (
                builder.header(header::CONTENT_RANGE, range),
                start,
                end - start + 1,
            )
        }
        None => (builder, 0, length),
    };
    let builder = builder.header(header::CONTENT_LENGTH, count);
    if request.method == Method::HEAD {
        return finish(builder.body(eyot_http::empty()));
    }
    let mut file = tokio::fs::File::open(path).await?;
    if start > 0 {
        file.seek(SeekFrom::Start(start)).await?;
    }
    let stream = ReaderStream::with_capacity(file.take(count), READ);
    finish(builder.body(eyot_http::from_stream(stream)))
}

/// One range of bytes, inclusive. Several ranges, or other units, are answered with the whole.
fn parse_range(text: &str, length: u64) -> Result<Option<(u64, u64)>, ApiError> {
    let Some(range) = text
        .strip_prefix("bytes=")
        .filter(|range| !range.contains(','))
    else {
        return Ok(None);
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Ok(None);
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => (start, end.min(length - 1)),
        (Ok(start), Err(_)) if last.is_empty() => (start, length - 1),
        (Err(_), Ok(count)) if first.is_empty() && count > 0 => {
            (length.saturating_sub(count), length - 1)
        }
        (Err(_), Ok(0)) if first.is_empty() => (length, length),
        // RFC 9110 has it ignored, and allows to refuse it, as the conformance suite wants.
        (Ok(_), Ok(_)) => (length, length),
        _ => return Ok(None),
    };
    if start >= length {
        let message = format!("range {range} has no byte of the blob, which has {length}");
        return Err(ApiError::range(message, length));
    }
    Ok(Some((start, end)))
}

/// `POST /v2/<name>/blobs/uploads/`: start an upload, or push or mount a blob in one request.
pub(super) async fn start(
    registry: Registry,
    name: Name,
    request: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    if request.method != Method::POST {
        return Err(ApiError::method("POST"));
    }
    if let Some(mount) = parameter(request, "mount") {
        let digest: Digest = mount.parse().map_err(|error| ApiError::digest(&error))?;
        // Without `from` a client would have to guess who has it; an unknown `from` is no error
        // either: the specification falls back to an upload.
        let from = parameter(request, "from").and_then(|from| from.parse::<Name>().ok());
        if let Some(from) = from
            && mounted(&registry, &name, from, &digest).await?
        {
            return created(&name, &digest);
        }
    }
    let digest = parameter(request, "digest");
    let digest: Option<Digest> = digest
        .map(|digest| digest.parse())
        .transpose()
        .map_err(|error| ApiError::digest(&error))?;
    let upload = registry.uploads().start(&name)?;
    match digest {
        None => accepted(&name, &upload),
        Some(digest) => complete(&registry, &name, &upload, body, None, digest).await,
    }
}

async fn mounted(
    registry: &Registry,
    name: &Name,
    from: Name,
    digest: &Digest,
) -> Result<bool, ApiError> {
    let (registry, name, digest) = (registry.clone(), name.clone(), digest.clone());
    blocking(move || {
        let content = registry.content();
        if content.blob(&from, &digest)?.is_none() {
            return Ok(false);
        }
        Ok(content.add_blob(&name, &digest)?)
    })
    .await
}

/// `/v2/<name>/blobs/uploads/<id>`
pub(super) async fn upload(
    registry: Registry,
    name: Name,
    id: &str,
    request: &Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let upload = registry.uploads().find(&name, id)?;
    match request.method {
        Method::GET => {
            let builder = bare(StatusCode::NO_CONTENT);
            finish(progress(builder, &name, &upload).body(eyot_http::empty()))
        }
        Method::PATCH => {
            let chunk = chunk(request)?;
            upload.append(body, chunk).await?;
            accepted(&name, &upload)
        }
        Method::PUT => {
            let digest = parameter(request, "digest").ok_or_else(|| {
                ApiError::bad(
                    "DIGEST_INVALID",
                    "the query parameter digest=sha256:… is missing",
                )
            })?;
            let digest = digest.parse().map_err(|error| ApiError::digest(&error))?;
            let chunk = chunk(request)?;
            complete(&registry, &name, &upload, body, chunk, digest).await
        }
        Method::DELETE => {
            registry.uploads().forget(&upload);
            finish(bare(StatusCode::NO_CONTENT).body(eyot_http::empty()))
        }
        _ => Err(ApiError::method("GET, PATCH, PUT and DELETE")),
    }
}

async fn complete(
    registry: &Registry,
    name: &Name,
    upload: &Upload,
    body: Body,
    chunk: Option<Chunk>,
    digest: Digest,
) -> Result<Response, ApiError> {
    // A chunk out of order may be sent again; everything after it uses the upload up.
    upload.append(body, chunk).await?;
    registry.uploads().forget(upload);
    let file = upload.finish(&digest).await?;
    let (owner, to, of) = (registry.clone(), name.clone(), digest.clone());
    blocking(move || Ok(owner.content().admit(&to, &of, file)?)).await?;
    created(name, &digest)
}

/// `Content-Range: <start>-<end>`, with the end included and no unit; a unit is let pass.
fn chunk(request: &Parts) -> Result<Option<Chunk>, ApiError> {
    let Some(text) = text_header(request, &header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let range = text
        .strip_prefix("bytes")
        .unwrap_or(text)
        .trim_start_matches([' ', '=']);
    let range = range.split_once('/').map_or(range, |(range, _)| range);
    let parsed = range.split_once('-').and_then(|(start, end)| {
        Some(Chunk {
            start: start.trim().parse().ok()?,
            end: end.trim().parse().ok()?,
        })
    });
    let parsed = parsed.filter(|chunk| chunk.start <= chunk.end && chunk.end < u64::MAX);
    parsed.map(Some).ok_or_else(|| {
        let message = format!("Content-Range {text:?} is not <first byte>-<last byte>");
        ApiError::bad("BLOB_UPLOAD_INVALID", message)
    })
}

fn accepted(name: &Name, upload: &Upload) -> Result<Response, ApiError> {
    finish(progress(bare(StatusCode::ACCEPTED), name, upload).body(eyot_http::empty()))
}

fn progress(
    builder: http::response::Builder,
    name: &Name,
    upload: &Upload,
) -> http::response::Builder {
    builder
        .header(
            header::LOCATION,
            format!("/v2/{name}/blobs/uploads/{}", upload.id),
        )
        .header(
            header::RANGE,
            format!("0-{}", upload.length().saturating_sub(1)),
        )
        .header(&UPLOAD_UUID, upload.id.to_string())
}

fn created(name: &Name, digest: &Digest) -> Result<Response, ApiError> {
    let builder = bare(StatusCode::CREATED)
        .header(header::LOCATION, format!("/v2/{name}/blobs/{digest}"))
        .header(&CONTENT_DIGEST, digest.to_string());
    finish(builder.body(eyot_http::empty()))
}

fn unknown(name: &Name, digest: &Digest) -> ApiError {
    ApiError::not_found(
        "BLOB_UNKNOWN",
        format!("repository {name} has no blob {digest}"),
    )
}
