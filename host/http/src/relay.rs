//! Passing a request on to another server, and its answer back.

use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::{Body, Response, Upgrade};

/// Headers about one connection, which the next one does not inherit (RFC 9110, section 7.6.1).
const OF_THE_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Remove the headers that are about this connection alone: the known ones, and those that it names
/// itself.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_THE_CONNECTION) {
        headers.remove(name);
    }
}

/// The next server's answer as the client gets it. Where both agree to speak something else than
/// HTTP, what they say is carried to and fro.
pub fn relay(response: http::Response<Incoming>, upgrade: Option<Upgrade>) -> Response {
    relay_with(response, upgrade, |body| {
        body.map_err(Into::into).boxed_unsync()
    })
}

/// The same, with something done to the answer's body.
pub fn relay_with(
    mut response: http::Response<Incoming>,
    upgrade: Option<Upgrade>,
    wrap: impl FnOnce(Incoming) -> Body,
) -> Response {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = upgrade
    {
        let backend = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(backend), Ok(mut client)) = tokio::join!(backend, client.connection()) {
                let _ =
                    tokio::io::copy_bidirectional(&mut TokioIo::new(backend), &mut client).await;
            }
        });
        return response.map(|_| crate::empty());
    }
    strip(response.headers_mut());
    response.map(wrap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_names_stays_on_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("connection", "HTTP2-Settings"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("x-hop", "1"),
            ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("trailer", "grpc-status"),
            ("x-end", "2"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["trailer", "x-end"]);
    }
}
