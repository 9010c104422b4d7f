//! Watches and logs over a WebSocket, for browsers: one message for each event, or for each piece of a
//! log. What the client sends is read and ignored.
//!
//! Beyond Kubernetes, a watch asks for no `Origin` header.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use eyot_http::{
    Body, Response, Upgrade,
    websocket::{self, Accepted, Message, WebSocket, goodbye},
};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use http::{HeaderMap, header};
use http_body_util::BodyExt;

/// `base64.binary.k8s.io` has text of base64 in its messages, the others bytes.
const BASE64: &str = "base64.binary.k8s.io";
const PROTOCOLS: [&str; 3] = ["", "binary.k8s.io", BASE64];
/// A client that does not take a message within this time is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the client may take to say goodbye as well.
const FAREWELL: Duration = Duration::from_secs(5);
/// The longest event that is put together: an object, some parts of it twice, and then some.
const LONGEST: usize = 64 << 20;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Events. A message holds one, whatever the pieces of the body are: in text if they are JSON.
    Events,
    /// Bytes of a log, which begin with an empty message.
    Log,
}

/// The WebSocket that a client asks for. `Ok(None)` if it asks for none; the error is the answer
/// that refuses.
#[expect(
    clippy::result_large_err,
    reason = "the error is an answer, and as large as the other one"
)]
pub(crate) fn asked(
    headers: &HeaderMap,
    upgrade: Option<Upgrade>,
) -> Result<Option<Accepted>, Response> {
    if !websocket::is_wanted(headers) {
        return Ok(None);
    }
    websocket::accept(headers, upgrade, &PROTOCOLS).map(Some)
}

/// Send an answer's body over the socket instead, and answer how.
pub(crate) fn carry(accepted: Option<Accepted>, answer: Response, content: Content) -> Response {
    let Some(accepted) = accepted.filter(|_| answer.status().is_success()) else {
        return answer;
    };
    let (response, protocol, upgrade) = accepted.split();
    let media = answer.headers().get(header::CONTENT_TYPE);
    let is_json = media.is_some_and(|media| media == "application/json");
    let form = match content {
        Content::Events if is_json => Form::Lines,
        Content::Events => Form::Frames,
        Content::Log if protocol == BASE64 => Form::Base64,
        Content::Log => Form::Bytes,
    };
    tokio::spawn(async move {
        if let Some(socket) = Accepted::connect(upgrade).await {
            converse(socket, answer.into_body(), form).await;
        }
    });
    response
}

/// How the bytes of a body become messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Each line is one, its end included, as in Kubernetes.
    Lines,
    /// Each begins with its length in four bytes, which a message does not need.
    Frames,
    Bytes,
    Base64,
}

async fn converse(socket: WebSocket, mut body: Body, form: Form) {
    let (mut to, mut from) = socket.split();
    let mut rest = BytesMut::new();
    if matches!(form, Form::Bytes | Form::Base64)
        && !send(&mut to, message(Bytes::new(), form)).await
    {
        return;
    }
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // Read for what the protocol itself needs: answers to pings, and the end.
            heard = from.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => continue,
            },
        };
        let Some(Ok(frame)) = frame else {
            break;
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        while let Some(piece) = take(&mut rest, form) {
            if !send(&mut to, message(piece, form)).await {
                return;
            }
        }
        if rest.len() > LONGEST {
            break;
        }
    }
    let _ = send(&mut to, goodbye()).await;
    let end = async { while let Some(Ok(_)) = from.next().await {} };
    let _ = tokio::time::timeout(FAREWELL, end).await;
}

/// Whether the client took it.
async fn send(to: &mut SplitSink<WebSocket, Message>, message: Message) -> bool {
    matches!(
        tokio::time::timeout(PATIENCE, to.send(message)).await,
        Ok(Ok(()))
    )
}

/// The next message of what was read; `None` if more must be read first.
fn take(rest: &mut BytesMut, form: Form) -> Option<Bytes> {
    match form {
        Form::Lines => {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            Some(rest.split_to(end + 1).freeze())
        }
        Form::Frames => {
            let (length, event) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            event.get(..length)?;
            rest.advance(4);
            Some(rest.split_to(length).freeze())
        }
        Form::Bytes | Form::Base64 => (!rest.is_empty()).then(|| rest.split().freeze()),
    }
}

fn message(piece: Bytes, form: Form) -> Message {
    match form {
        Form::Lines => Message::Text(String::from_utf8_lossy(&piece).into_owned().into()),
        Form::Base64 => Message::Text(STANDARD.encode(&piece).into()),
        Form::Frames | Form::Bytes => Message::Binary(piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(form: Form, chunks: &[&[u8]]) -> Vec<Bytes> {
        let mut rest = BytesMut::new();
        let mut found = Vec::new();
        for chunk in chunks {
            rest.extend_from_slice(chunk);
            found.extend(std::iter::from_fn(|| take(&mut rest, form)));
        }
        found
    }

    #[test]
    fn a_message_is_one_event_however_the_body_is_cut() {
        let lines = pieces(Form::Lines, &[b"{\"a\"", b":1}\n{}\n{", b"}\n{"]);
        assert_eq!(lines, [&b"{\"a\":1}\n"[..], b"{}\n", b"{}\n"]);
        let frames = pieces(
            Form::Frames,
            &[b"\0\0", b"\0\x02a", b"b\0\0\0\0\0\0\0\x01c\0\0\0\x09d"],
        );
        assert_eq!(frames, [&b"ab"[..], b"", b"c"]);
        // A length that nothing will ever fill only waits.
        assert!(pieces(Form::Frames, &[b"\xff\xff\xff\xffxyz"]).is_empty());
    }
}
