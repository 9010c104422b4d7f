//! Bodies: made from bytes, JSON or streams, and read with a limit.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};

use crate::limits::DISCARD;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The one body type of requests and responses.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Why a request body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body broke off: {0}")]
    Broken(BoxError),
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body without bytes.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body whose bytes come as the stream yields them.
pub fn from_stream<S, E>(stream: S) -> Body
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    StreamBody::new(stream.map(|chunk| chunk.map(Frame::data).map_err(Into::into))).boxed_unsync()
}

/// Read the whole body, at most `limit` bytes.
pub async fn collect<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    if body.size_hint().lower() > limit as u64 {
        discard(body).await;
        return Err(BodyError::TooLarge { limit });
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame
            .map_err(|error| BodyError::Broken(error.into()))?
            .into_data()
        else {
            continue;
        };
        let held = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if held + data.len() > limit {
            discard(body).await;
            return Err(BodyError::TooLarge { limit });
        }
        // Most bodies are one frame: hand that on without a copy.
        if first.is_none() && rest.is_empty() {
            first = Some(data);
        } else {
            if let Some(first) = first.take() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

/// Read a body and throw it away, up to [`DISCARD`] bytes.
pub(crate) async fn discard<B>(mut body: std::pin::Pin<&mut B>)
where
    B: http_body::Body<Data = Bytes> + Send,
{
    let mut left = DISCARD;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        if size > left {
            return;
        }
        left -= size;
    }
}

/// An answer of JSON.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> crate::Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(status, "application/json", bytes),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// An answer of plain text.
pub fn text(status: StatusCode, message: impl Into<String>) -> crate::Response {
    with_type(status, "text/plain; charset=utf-8", message.into())
}

fn with_type(status: StatusCode, media: &'static str, bytes: impl Into<Bytes>) -> crate::Response {
    let mut response = http::Response::new(full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(media));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_even_without_a_length() {
        let chunks = [b"12345"; 3].map(|c| Ok::<_, BoxError>(Bytes::from_static(c)));
        let error = collect(from_stream(futures::stream::iter(chunks)), 14)
            .await
            .unwrap_err();
        assert!(
            matches!(error, BodyError::TooLarge { limit: 14 }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn chunks_are_joined_in_order() {
        let chunks = [&b"ab"[..], b"", b"cd", b"e"].map(|c| Ok::<_, BoxError>(Bytes::from(c)));
        let bytes = collect(from_stream(futures::stream::iter(chunks)), 5)
            .await
            .unwrap();
        assert_eq!(bytes, "abcde");
    }
}
