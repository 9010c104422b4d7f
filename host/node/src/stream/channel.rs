//! Several streams on one WebSocket: the first byte of each message says which one it belongs to.
//!
//! The `base64` variants carry text messages whose first character is the channel's digit. Version
//! 4 ends with a `Status` on the error channel, those before with text; version 5 also lets the
//! client say that its input has ended.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use eyot_http::websocket::{Message, WebSocket, goodbye};
use futures::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, timeout},
};
use tokio_util::sync::CancellationToken;

use super::session::{Out, QUEUE, Session, Wanted, size};

/// Best first; the empty name is a client that offers none.
pub(super) const PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

pub(super) const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the channel that follows has ended.
const CLOSE: u8 = 255;

/// How long the client may take to say goodbye as well.
const GOODBYE: Duration = Duration::from_secs(5);

/// How messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    base64: bool,
    /// The error channel carries a `Status`.
    structured: bool,
}

impl Form {
    pub(super) fn of(protocol: &str) -> Self {
        Self {
            base64: protocol.contains("base64"),
            structured: protocol.starts_with("v4") || protocol.starts_with("v5"),
        }
    }

    pub(super) fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            text.push(char::from(b'0' + channel));
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut bytes = BytesMut::with_capacity(1 + data.len());
        bytes.put_u8(channel);
        bytes.put_slice(data);
        Message::binary(bytes.freeze())
    }

    /// Channel and data of a message; `None` if it has neither.
    pub(super) fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            _ => return None,
        };
        let first = *data.first()?;
        let _ = data.split_to(1);
        if !self.base64 {
            return Some((first, data));
        }
        let decoded = STANDARD.decode(&data).ok()?;
        Some((first.checked_sub(b'0')?, decoded.into()))
    }
}

/// A session on this socket.
pub(super) async fn open(
    socket: WebSocket,
    protocol: &str,
    wanted: &Wanted,
    stop: CancellationToken,
) -> Session {
    let form = Form::of(protocol);
    let (mut to, from) = socket.split();
    // An empty message tells the client that the session is there.
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    let _ = to.send(form.encode(first, &[])).await;
    let gone = stop.child_token();
    let (stdin_to, stdin) = mpsc::channel(QUEUE);
    let (sizes_to, sizes) = mpsc::channel(QUEUE);
    let (out, pieces) = mpsc::channel(QUEUE);
    // Two tasks: a program that does not read its input must still be able to write.
    let reading = tokio::spawn(read(form, from, stdin_to, sizes_to, gone.clone()));
    tokio::spawn(write(form, to, pieces, reading));
    Session {
        stdin,
        sizes,
        out,
        gone,
    }
}

async fn read(
    form: Form,
    mut from: SplitStream<WebSocket>,
    stdin: mpsc::Sender<Bytes>,
    sizes: mpsc::Sender<eyot_runtime::TerminalSize>,
    gone: CancellationToken,
) {
    let _end = gone.drop_guard();
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = from.next().await {
        if message.is_close() {
            return;
        }
        let Some((channel, data)) = form.decode(message) else {
            continue;
        };
        match channel {
            STDIN if !data.is_empty() => {
                if let Some(to) = &stdin
                    && to.send(data).await.is_err()
                {
                    stdin = None;
                }
            }
            CLOSE if data.first() == Some(&STDIN) => stdin = None,
            RESIZE => {
                if let Some(size) = size(&data) {
                    let _ = sizes.send(size).await;
                }
            }
            _ => {}
        }
    }
}

async fn write(
    form: Form,
    mut to: SplitSink<WebSocket, Message>,
    mut pieces: mpsc::Receiver<Out>,
    reading: JoinHandle<()>,
) {
    while let Some(piece) = pieces.recv().await {
        let (message, last) = match piece {
            Out::Stdout(data) => (form.encode(STDOUT, &data), false),
            Out::Stderr(data) => (form.encode(STDERR, &data), false),
            Out::End(status) if form.structured => {
                (form.encode(ERROR, status.to_string().as_bytes()), true)
            }
            Out::End(status) if status["status"] == "Success" => break,
            Out::End(status) => {
                let text = status["message"].as_str().unwrap_or_default();
                (form.encode(ERROR, text.as_bytes()), true)
            }
        };
        if to.send(message).await.is_err() {
            reading.abort();
            return;
        }
        if last {
            break;
        }
    }
    let _ = to.send(goodbye()).await;
    let stop = reading.abort_handle();
    if timeout(GOODBYE, reading).await.is_err() {
        stop.abort();
    }
}
