//! Taking over a connection: what exec, attach, port-forward and WebSocket clients ask for.
//!
//! A service that is asked to upgrade answers `101 Switching Protocols` and gets the raw connection
//! once that answer is on the wire. The right to do so travels with the request as an [`Upgrade`],
//! so a service that only passes a request on (the API server to a node) hands it over with it.

use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use crate::Response;

/// A connection that was taken over.
pub type Connection = TokioIo<Upgraded>;

/// The right to take over the connection that a request came on.
#[derive(Clone)]
pub struct Upgrade(OnUpgrade);

/// The connection could not be taken over: the client was gone before the answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was not handed over: {0}")]
pub struct NotUpgraded(#[from] hyper::Error);

impl Upgrade {
    /// Take it out of a request's extensions. `None` if the connection cannot be upgraded.
    pub fn take(extensions: &mut Extensions) -> Option<Upgrade> {
        extensions.remove::<OnUpgrade>().map(Upgrade)
    }

    /// Put it into the extensions of the request that is passed on.
    pub fn put(self, extensions: &mut Extensions) {
        extensions.insert(self.0);
    }

    /// The connection, once the `101` answer was sent.
    pub async fn connection(self) -> Result<Connection, NotUpgraded> {
        Ok(TokioIo::new(self.0.await?))
    }
}

/// Whether the client asks to speak this protocol instead of HTTP: `websocket`, `spdy/3.1`.
pub fn wants(headers: &HeaderMap, protocol: &str) -> bool {
    let names = |name: header::HeaderName, wanted: &str| {
        headers.get_all(name).iter().any(|value| {
            let value = value.to_str().unwrap_or_default();
            let mut words = value.split(',');
            words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
        })
    };
    names(header::CONNECTION, "upgrade") && names(header::UPGRADE, protocol)
}

/// `101 Switching Protocols`, to this one.
pub fn switching(protocol: &'static str) -> Response {
    let mut response = http::Response::new(crate::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}
