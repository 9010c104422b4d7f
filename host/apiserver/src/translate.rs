//! From the answer that a verb gave to the bytes that the client asked for.
//!
//! Verbs answer JSON. Here it becomes YAML, protobuf or readable JSON where the client prefers that,
//! and large answers are compressed. A client that wants JSON pays nothing for any of it.

use bytes::Bytes;
use eyot_http::{BoxError, Request, Response};
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::{
    compress,
    media::{self, Encoding},
    protobuf,
};

/// Smaller answers are not worth the processor's time: Kubernetes' own threshold.
const WORTH_COMPRESSING: u64 = 128 * 1024;
/// Larger answers are compressed beside the executor, which has other requests to serve.
const LONG_WORK: usize = 1024 * 1024;

/// What a request says about the form of its answer.
pub(crate) struct Wish {
    encoding: Encoding,
    gzip: bool,
}

impl Wish {
    pub(crate) fn of(request: &Request) -> Wish {
        let headers = request.headers();
        let mut encoding = media::encoding(headers);
        if encoding == Encoding::Json && is_human(request.uri().query(), headers) {
            encoding = Encoding::Pretty;
        }
        Wish {
            encoding,
            gzip: request.method() == Method::GET && compress::is_accepted(headers),
        }
    }
}

/// Whether `pretty` says so, or without it the name of the client.
fn is_human(query: Option<&str>, headers: &HeaderMap) -> bool {
    if let Some(query) = query.filter(|query| query.contains("pretty"))
        && let Some((_, value)) = form_urlencoded::parse(query.as_bytes())
            .find(|(key, value)| key == "pretty" && !value.is_empty())
    {
        return matches!(&*value, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers
        .get(header::USER_AGENT)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"]
        .iter()
        .any(|known| agent.starts_with(known))
}

/// Among the extensions of another server's answer, which is in the form wished for already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsItIs;

/// Bring an answer into the form wished for.
pub(crate) async fn translate(response: Response, wish: Wish) -> Response {
    if response.extensions().get::<AsItIs>().is_some() {
        return response;
    }
    let large_list = response.extensions().get::<LargeList>().is_some();
    let size = match response.body().size_hint().exact() {
        Some(size) => size,
        None if large_list => u64::MAX,
        // Watches and logs have their own form, and no end to wait for.
        None => return response,
    };
    let negotiated = response.extensions().get::<Encoding>().copied();
    let encoding = match (negotiated, wish.encoding) {
        (Some(Encoding::Json) | None, wished @ Encoding::Pretty) => wished,
        (Some(negotiated), _) => negotiated,
        (None, wished) => wished,
    };
    let json = HeaderValue::from_static("application/json");
    let is_json = response.headers().get(header::CONTENT_TYPE) == Some(&json)
        && !response.headers().contains_key(header::CONTENT_ENCODING);
    let response = if encoding != Encoding::Json && is_json {
        encode(response, encoding).await
    } else {
        response
    };
    match wish.gzip && size > WORTH_COMPRESSING {
        true if response.body().size_hint().exact().is_none() => pack_stream(response),
        true => pack(response).await,
        false => response,
    }
}

/// Among the extensions of an answer that is sent piece by piece and has an end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LargeList;

/// Compress piece by piece.
fn pack_stream(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let pieces = stream::unfold(
        Some((body, compress::Pieces::default())),
        |state| async move {
            let (mut body, mut packer) = state?;
            loop {
                match body.frame().await {
                    None => {
                        let last = packer.finish().map_err(BoxError::from);
                        return Some((last, None));
                    }
                    Some(Err(error)) => return Some((Err(error), None)),
                    Some(Ok(frame)) => {
                        let packed = match frame.into_data() {
                            Ok(data) => packer.add(&data),
                            Err(_) => continue,
                        };
                        match packed {
                            Ok(packed) if packed.is_empty() => {}
                            Ok(packed) => return Some((Ok(packed), Some((body, packer)))),
                            Err(error) => return Some((Err(error.into()), None)),
                        }
                    }
                }
            }
        },
    );
    packed(&mut parts.headers);
    http::Response::from_parts(parts, eyot_http::from_stream(pieces))
}

fn packed(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

async fn encode(response: Response, encoding: Encoding) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
    else {
        return eyot_http::text(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "the answer broke off",
        );
    };
    let (media, encoded) = match (encoding, serde_json::from_slice::<Value>(&body)) {
        (Encoding::Pretty, Ok(value)) => {
            ("application/json", serde_json::to_vec_pretty(&value).ok())
        }
        (Encoding::Yaml, Ok(value)) => (
            "application/yaml",
            serde_saphyr::to_string(&value).ok().map(String::into_bytes),
        ),
        (Encoding::Protobuf, Ok(value)) => (
            "application/vnd.kubernetes.protobuf",
            protobuf::encode(&value),
        ),
        _ => ("application/json", None),
    };
    // What has no other form stays JSON, which every client reads.
    let body: Bytes = match encoded {
        Some(encoded) => {
            parts
                .headers
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
            encoded.into()
        }
        None => body,
    };
    http::Response::from_parts(parts, eyot_http::full(body))
}

async fn pack(response: Response) -> Response {
    let kind = response
        .headers()
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    let object = kind.is_some_and(|kind| {
        kind.starts_with(b"application/json")
            || kind == b"application/yaml"
            || kind == b"application/vnd.kubernetes.protobuf"
    });
    if !object || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
    else {
        return eyot_http::text(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "the answer broke off",
        );
    };
    let plain = body.clone();
    let packed = if body.len() > LONG_WORK {
        tokio::task::spawn_blocking(move || compress::gzip_fast(&plain))
            .await
            .ok()
            .and_then(Result::ok)
    } else {
        compress::gzip_fast(&plain).ok()
    };
    let body = match packed {
        Some(packed) => {
            self::packed(&mut parts.headers);
            packed
        }
        None => body,
    };
    http::Response::from_parts(parts, eyot_http::full(body))
}
