//! Passing a request on to another server, and its answer back.

use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::{Response, Upgrade};

/// Headers about one connection, which the next one does not inherit.
const OF_THE_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// Remove the headers that are about this connection alone.
pub fn strip(headers: &mut HeaderMap) {
    for name in &OF_THE_CONNECTION {
        headers.remove(name);
    }
}

/// The next server's answer as the client gets it. Where both agree to speak something else than
/// HTTP, what they say is carried to and fro.
pub fn relay(mut response: http::Response<Incoming>, upgrade: Option<Upgrade>) -> Response {
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
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}
