//! A request as a backend gets it: the client's, without what was about its connection, and with what
//! the router knows of the client.
//!
//! `Host` is the client's own. What a client says about where it comes from is worth nothing here, as
//! with ingress-nginx: the `X-Forwarded-…` headers are the router's, and the client's own chain is kept
//! as `X-Original-Forwarded-For`.

use std::fmt::Write as _;

use eyot_http::{Body, Peer, Request, Upgrade, relay};
use http::{HeaderName, HeaderValue, Uri, Version, header, request::Parts, uri::PathAndQuery};

/// Which door a request came through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door {
    pub scheme: &'static str,
    pub port: u16,
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The host that the client asks for; `None` if it names more than one. HTTP/2 says it in the address.
pub(crate) fn host(request: &Request) -> Option<&str> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str());
    }
    let mut named = request.headers().get_all(header::HOST).iter();
    let host = named.next();
    if named.next().is_some() {
        return None;
    }
    Some(host.and_then(|host| host.to_str().ok()).unwrap_or_default())
}

/// Make a client's request one for backends that speak HTTP/1.1: what of it is sent, its body, and the
/// right to take over its connection if the client wants to.
pub(crate) fn forwarded(
    request: Request,
    host: &str,
    door: Door,
) -> (Parts, Body, Option<Upgrade>) {
    let (mut parts, body) = request.into_parts();
    let upgrade = Upgrade::take(&mut parts.extensions);
    let peer = parts.extensions.remove::<Peer>().map(|peer| peer.address);
    parts.extensions.clear();
    // What waits on the connection to hear of HTTP/2 is not let through (RFC 9113, section 3.1).
    let protocol = parts.headers.remove(header::UPGRADE);
    let protocol = protocol.filter(|protocol| {
        let is_h2c = |word: &[u8]| word.trim_ascii().eq_ignore_ascii_case(b"h2c");
        upgrade.is_some() && !protocol.as_bytes().split(|byte| *byte == b',').any(is_h2c)
    });
    let takes_trailers = takes_trailers(&parts);
    relay::strip(&mut parts.headers);
    let headers = &mut parts.headers;
    let upgrade = match protocol {
        Some(protocol) => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, protocol);
            upgrade
        }
        None => None,
    };
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // The server before this one answers that by itself.
    headers.remove(header::EXPECT);
    headers.remove(header::FORWARDED);
    if let Some(chain) = headers.remove(FORWARDED_FOR) {
        headers.insert("x-original-forwarded-for", chain);
    }
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("host", host);
    set("x-forwarded-host", host);
    set("x-forwarded-proto", door.scheme);
    set("x-forwarded-scheme", door.scheme);
    if let Some(peer) = peer {
        let ip = peer.ip().to_canonical().to_string();
        set("x-forwarded-for", &ip);
        set("x-real-ip", &ip);
    }
    headers.insert("x-forwarded-port", door.port.into());
    if !headers.contains_key(REQUEST_ID) {
        let mut id = String::with_capacity(32);
        // Writing to a String cannot fail.
        let _ = write!(id, "{:032x}", rand::random::<u128>());
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
    }
    parts.version = Version::HTTP_11;
    let target = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    (parts, body, upgrade)
}

/// Make it one for backends that speak HTTP/2, where a `Host` is an address; `fallback` stands for one
/// that the client did not name.
pub(crate) fn for_http2(parts: &mut Parts, tls: bool, fallback: &str) {
    let host = parts.headers.remove(header::HOST);
    let authority = host.and_then(|host| host.to_str().ok()?.parse().ok());
    let target = parts.uri.path_and_query().cloned();
    let built = Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(authority.unwrap_or_else(|| fallback.parse().unwrap_or_else(|_| localhost())))
        .path_and_query(target.unwrap_or_else(|| PathAndQuery::from_static("/")))
        .build();
    parts.uri = built.unwrap_or_default();
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::CONNECTION);
    parts.headers.remove(header::UPGRADE);
}

fn localhost() -> http::uri::Authority {
    http::uri::Authority::from_static("localhost")
}

/// Whether the client takes trailers, as gRPC's do.
fn takes_trailers(parts: &Parts) -> bool {
    parts.headers.get_all(header::TE).iter().any(|value| {
        let mut words = value.as_bytes().split(|byte| *byte == b',');
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOOR: Door = Door {
        scheme: "https",
        port: 443,
    };

    fn sent(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("http://shop.example/a?b");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(eyot_http::empty()).unwrap();
        request.extensions_mut().insert(Peer {
            address: ([192, 0, 2, 7], 4000).into(),
            certificate: None,
            memo: eyot_http::Memo::default(),
        });
        forwarded(request, "shop.example", DOOR).0
    }

    #[track_caller]
    fn check(parts: &Parts, expected: &[(&str, Option<&str>)]) {
        for (name, value) in expected {
            let found: Vec<_> = parts.headers.get_all(*name).iter().collect();
            assert_eq!(found, Vec::from_iter(*value), "{name}");
        }
    }

    #[test]
    fn a_backend_is_told_of_the_client_by_the_router_alone() {
        let parts = sent(&[
            ("x-forwarded-for", "10.9.9.9"),
            ("x-forwarded-proto", "gopher"),
            ("x-real-ip", "10.9.9.9"),
            ("forwarded", "for=10.9.9.9"),
            ("x-request-id", "mine"),
        ]);
        assert_eq!(parts.uri, "/a?b");
        check(
            &parts,
            &[
                ("host", Some("shop.example")),
                ("x-forwarded-for", Some("192.0.2.7")),
                ("x-original-forwarded-for", Some("10.9.9.9")),
                ("x-real-ip", Some("192.0.2.7")),
                ("x-forwarded-proto", Some("https")),
                ("x-forwarded-port", Some("443")),
                ("x-forwarded-host", Some("shop.example")),
                ("x-request-id", Some("mine")),
                ("forwarded", None),
            ],
        );
        let made = sent(&[]).headers["x-request-id"].clone();
        assert_eq!(made.len(), 32);
        assert_ne!(made, sent(&[]).headers["x-request-id"]);
    }

    #[test]
    fn what_is_about_the_clients_connection_stays_there() {
        let parts = sent(&[
            ("connection", "keep-alive, x-hop, upgrade"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("x-hop", "1"),
            ("te", "gzip, Trailers"),
            ("expect", "100-continue"),
            ("x-end", "2"),
        ]);
        check(
            &parts,
            &[
                ("connection", None),
                ("upgrade", None),
                ("x-hop", None),
                ("te", Some("trailers")),
                ("expect", None),
                ("x-end", Some("2")),
            ],
        );
    }

    #[test]
    fn over_http_2_the_host_is_in_the_address() {
        let mut parts = sent(&[]);
        for_http2(&mut parts, false, "10.0.0.1:80");
        assert_eq!(parts.uri, "http://shop.example/a?b");
        check(&parts, &[("host", None)]);
        parts.headers.insert("host", HeaderValue::from_static(""));
        for_http2(&mut parts, true, "10.0.0.1:80");
        assert_eq!(parts.uri, "https://10.0.0.1:80/a?b");
    }
}
