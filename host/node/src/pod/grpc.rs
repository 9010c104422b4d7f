//! The health question of gRPC (`grpc.health.v1.Health/Check`) over cleartext HTTP/2.
//!
//! The two messages have one field each, so they are written and read here by hand instead of with a
//! gRPC library: see the protocol buffers' encoding and the gRPC protocol over HTTP/2.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::request::dial;

/// An answer has six bytes, or seven; more is no answer.
const MAX_ANSWER: usize = 64 << 10;
/// gRPC's codes that are told apart.
const UNIMPLEMENTED: &str = "12";
/// Names of `HealthCheckResponse.ServingStatus` by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Ask the server whether `service` is healthy; why not, in the kubelet's words.
pub(super) async fn check(
    host: &str,
    port: u16,
    service: &str,
    patience: Duration,
) -> Result<(), String> {
    let address = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let stream = match tokio::time::timeout(patience, dial(host, port)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(format!(
                "error: failed to connect service at \"{address}\": {error}"
            ));
        }
        Err(_) => {
            return Err(format!(
                "timeout: failed to connect service \"{address}\" within {patience:?}: context \
                 deadline exceeded"
            ));
        }
    };
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc probe failed: {error}");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = request(&address, service).map_err(|error| failed(&error))?;
    let answer = async {
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| error.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok::<_, String>((head.status, head.headers, trailers, body.to_bytes()))
    };
    let asked = async {
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Err(error) => Err(error.to_string()),
                Ok(()) => answer.await,
            },
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok((status, headers, trailers, body))) => judge(status, &headers, &trailers, &body),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(format!(
            "timeout: health rpc did not complete within {patience:?}"
        )),
    }
}

fn request(authority: &str, service: &str) -> Result<Request<Full<Bytes>>, http::Error> {
    // Field 1, a string; a message that is not compressed, with its length.
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend(message);
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(frame.freeze()))
}

fn put_varint(to: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        to.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8((number & 0x7f) as u8);
}

fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    trailers: &HeaderMap,
    body: &[u8],
) -> Result<(), String> {
    let said = |name: &str| {
        let value = trailers.get(name).or_else(|| headers.get(name));
        value.and_then(|value| value.to_str().ok())
    };
    let message = said("grpc-message").unwrap_or_default();
    match said("grpc-status") {
        Some("0") => {}
        Some(UNIMPLEMENTED) => {
            return Err(format!(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): {message}"
            ));
        }
        Some(code) => {
            return Err(format!(
                "error: health rpc probe failed: rpc error: code = {code} desc = {message}"
            ));
        }
        None => {
            return Err(format!(
                "error: health rpc probe failed: the answer is not gRPC: HTTP status {status}"
            ));
        }
    }
    match health(body) {
        Some("SERVING") => Ok(()),
        Some(other) => Err(format!("service unhealthy (responded with \"{other}\")")),
        None => Err("error: health rpc probe failed: the answer cannot be read".to_owned()),
    }
}

/// The status that a framed `HealthCheckResponse` has: field 1, a number, 0 if it is absent.
fn health(frame: &[u8]) -> Option<&'static str> {
    let (&[0, a, b, c, d], message) = frame.split_first_chunk::<5>()? else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    let number = match message.get(..length)? {
        [] => 0,
        [0x08, number, ..] => usize::from(*number),
        _ => return None,
    };
    STATUSES.get(number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn judged(code: &str, body: &[u8], expected: Result<(), &str>) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.try_into().unwrap());
        trailers.insert("grpc-message", "why".try_into().unwrap());
        let found = judge(StatusCode::OK, &HeaderMap::new(), &trailers, body);
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn answers_are_judged_as_the_kubelet_judges_them() {
        judged("0", &[0, 0, 0, 0, 2, 8, 1], Ok(()));
        let unhealthy = |name| format!("service unhealthy (responded with \"{name}\")");
        judged("0", &[0, 0, 0, 0, 2, 8, 2], Err(&unhealthy("NOT_SERVING")));
        judged("0", &[0, 0, 0, 0, 0], Err(&unhealthy("UNKNOWN")));
        judged(
            "12",
            &[],
            Err(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): why",
            ),
        );
        judged(
            "5",
            &[],
            Err("error: health rpc probe failed: rpc error: code = 5 desc = why"),
        );
        let nonsense = "error: health rpc probe failed: the answer cannot be read";
        for frame in [
            &[][..],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 9, 8, 1],
            &[0, 0, 0, 0, 2, 8, 77],
        ] {
            judged("0", frame, Err(nonsense));
        }
    }

    #[test]
    fn a_long_name_is_written_with_its_length() {
        let request = request("h:1", &"x".repeat(200)).unwrap();
        let body = request.into_body();
        let length = hyper::body::Body::size_hint(&body).exact();
        assert_eq!(length, Some(5 + 1 + 2 + 200));
    }

    /// A server that answers one question with this status and service.
    async fn server(answer: &'static [u8], code: &'static str) -> u16 {
        use http_body_util::{BodyExt, StreamBody};
        use hyper::body::Frame;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(
                move |request: Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()[header::CONTENT_TYPE], "application/grpc");
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(&asked[..], b"\0\0\0\0\x05\x0a\x03web");
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", code.try_into().unwrap());
                    let frames = [
                        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(answer))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let body = StreamBody::new(futures::stream::iter(frames));
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                },
            );
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        port
    }

    #[tokio::test]
    async fn a_server_is_asked_over_http_2() {
        let patience = Duration::from_secs(10);
        let port = server(&[0, 0, 0, 0, 2, 8, 1], "0").await;
        assert_eq!(check("127.0.0.1", port, "web", patience).await, Ok(()));
        let port = server(&[0, 0, 0, 0, 2, 8, 2], "0").await;
        let unhealthy = "service unhealthy (responded with \"NOT_SERVING\")".to_owned();
        assert_eq!(
            check("127.0.0.1", port, "web", patience).await,
            Err(unhealthy)
        );
    }
}
