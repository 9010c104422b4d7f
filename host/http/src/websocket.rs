//! The server's side of a WebSocket (RFC 6455): the handshake, and the connection after it.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    Connection, Response, Upgrade,
    limits::{MESSAGE, UNSENT_MESSAGES},
    text, upgrade,
};

pub use tokio_tungstenite::tungstenite::Message;

/// A WebSocket on a connection of ours.
pub type WebSocket = WebSocketStream<Connection>;

/// The last message of a conversation that went well.
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}

/// A handshake that was agreed on.
pub struct Accepted {
    /// To be sent to the client.
    pub response: Response,
    /// The subprotocol that both speak; empty if the client offered none.
    pub protocol: &'static str,
    upgrade: Upgrade,
}

impl Accepted {
    /// The connection, once the response was sent. `None` if the client went away before.
    pub async fn connect(upgrade: Upgrade) -> Option<WebSocket> {
        let connection = upgrade.connection().await.ok()?;
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(MESSAGE);
        config.max_frame_size = Some(MESSAGE);
        config.max_write_buffer_size = UNSENT_MESSAGES;
        Some(WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await)
    }

    /// The answer, and what becomes the connection.
    pub fn split(self) -> (Response, &'static str, Upgrade) {
        (self.response, self.protocol, self.upgrade)
    }
}

/// Agree to a WebSocket that speaks the first of `protocols` which the client offers. Without an
/// offer the name is empty, which must be among `protocols` to be accepted.
///
/// The error is the answer that refuses.
#[expect(
    clippy::result_large_err,
    reason = "the error is an answer, and as large as the other one"
)]
pub fn accept(
    headers: &HeaderMap,
    upgrade: Option<Upgrade>,
    protocols: &[&'static str],
) -> Result<Accepted, Response> {
    let refuse = |why: String| text(StatusCode::BAD_REQUEST, why);
    let value = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    if value(header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(refuse(
            "only version 13 of WebSocket is spoken here\n".into(),
        ));
    }
    let Some(key) = value(header::SEC_WEBSOCKET_KEY) else {
        return Err(refuse("the header Sec-WebSocket-Key is missing\n".into()));
    };
    let Some(upgrade) = upgrade else {
        return Err(refuse("WebSocket needs HTTP/1.1\n".into()));
    };
    let offered: Vec<&str> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // A browser cannot set headers and hides its token here; that is for who authenticates.
        .filter(|word| !word.is_empty() && !word.starts_with("base64url.bearer.authorization."))
        .collect();
    let chosen = match offered.as_slice() {
        [] => protocols.iter().find(|one| one.is_empty()),
        offered => protocols.iter().find(|one| offered.contains(one)),
    };
    let Some(protocol) = chosen.copied() else {
        return Err(refuse(format!(
            "unable to upgrade: none of the offered protocols {offered:?} is spoken here, which are \
             {protocols:?}\n"
        )));
    };
    let mut response = upgrade::switching("websocket");
    let answer = derive_accept_key(key.as_bytes());
    if let Ok(answer) = HeaderValue::from_str(&answer) {
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, answer);
        if !protocol.is_empty() {
            let protocol = HeaderValue::from_static(protocol);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
    }
    Ok(Accepted {
        response,
        protocol,
        upgrade,
    })
}

/// Whether the client asks for a WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    upgrade::wants(headers, "websocket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_without_a_connection_to_take_over_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        assert!(is_wanted(&headers));
        headers.insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"));
        let refused = accept(&headers, None, &[""]).err();
        assert_eq!(
            refused.map(|answer| answer.status()),
            Some(StatusCode::BAD_REQUEST)
        );
    }
}
