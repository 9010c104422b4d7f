//! The server's side of SPDY/3.1, as far as remote commands and port forwarding need it: streams
//! that the client opens, with headers and data in both directions.
//!
//! Nobody who speaks SPDY to a kubelet uses its flow control, so there is none here either: a
//! stream whose data nobody takes holds up its connection. Source: the SPDY protocol, draft 3.1.

mod frame;
mod headers;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
};

use self::{
    frame::{Frame, Header, Malformed},
    headers::{Deflater, Headers, Inflater},
};

/// Pieces that wait in one direction of a stream.
const QUEUE: usize = 16;
/// Streams that are open at once in one connection.
const STREAMS: usize = 4096;

/// A stream that the client opened.
pub(crate) struct Stream {
    headers: Headers,
    /// What the client sends, to its end.
    pub data: mpsc::Receiver<Bytes>,
    pub writer: Writer,
}

impl Stream {
    /// A header by its name in lower case; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    }
}

/// The way back on a stream. Errors are not told: who is gone takes nothing more.
#[derive(Clone)]
pub(crate) struct Writer {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl Writer {
    pub(crate) async fn data(&self, data: Bytes) {
        self.send(Frame::Data {
            stream: self.id,
            data,
            last: false,
        })
        .await;
    }

    /// Nothing more comes from this side.
    pub(crate) async fn end(&self) {
        self.send(Frame::Data {
            stream: self.id,
            data: Bytes::new(),
            last: true,
        })
        .await;
    }

    /// The stream is of no use.
    pub(crate) async fn reset(&self) {
        self.send(Frame::Reset {
            stream: self.id,
            status: frame::CANCEL,
        })
        .await;
    }

    async fn send(&self, frame: Frame) {
        let _ = self.frames.send(frame).await;
    }
}

/// Serve a connection: the streams that the client opens, until it is gone.
pub(crate) fn serve<C>(connection: C) -> mpsc::Receiver<Stream>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(connection);
    let (opened, streams) = mpsc::channel(QUEUE);
    let (frames, outgoing) = mpsc::channel(QUEUE);
    tokio::spawn(write_all(write, outgoing));
    tokio::spawn(async move {
        let mut reader = Reader {
            read,
            inflater: Inflater::default(),
            open: HashMap::new(),
            opened,
            frames,
        };
        if let Err(error) = reader.run().await {
            tracing::debug!(%error, "a SPDY connection ended");
        }
    });
    streams
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

struct Reader<C> {
    read: ReadHalf<C>,
    inflater: Inflater,
    open: HashMap<u32, mpsc::Sender<Bytes>>,
    opened: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Frame>,
}

impl<C: AsyncRead> Reader<C> {
    async fn run(&mut self) -> Result<(), Broken> {
        let mut payload = BytesMut::new();
        loop {
            let mut header = [0; frame::HEADER];
            match self.read.read_exact(&mut header).await {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                result => result?,
            };
            let header = Header::parse(header)?;
            payload.resize(header.length, 0);
            self.read.read_exact(&mut payload).await?;
            let frame = header.frame(payload.split().freeze(), &mut self.inflater)?;
            if !self.take(frame).await {
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    async fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Open {
                stream,
                headers,
                last,
            } => self.opened(stream, headers, last).await,
            Frame::Data { stream, data, last } => {
                if let Some(to) = self.open.get(&stream) {
                    let closed = !data.is_empty() && to.send(data).await.is_err();
                    if last || closed {
                        self.open.remove(&stream);
                    }
                }
                true
            }
            Frame::Reset { stream, .. } => {
                self.open.remove(&stream);
                true
            }
            Frame::Ping { id } => self.frames.send(Frame::Ping { id }).await.is_ok(),
            Frame::GoAway => true,
            Frame::Reply { .. } | Frame::Ignored => true,
        }
    }

    async fn opened(&mut self, id: u32, headers: Headers, last: bool) -> bool {
        let writer = Writer {
            id,
            frames: self.frames.clone(),
        };
        if self.open.len() >= STREAMS || self.open.contains_key(&id) {
            writer.reset().await;
            return true;
        }
        let (to, data) = mpsc::channel(QUEUE);
        if !last {
            self.open.insert(id, to);
        }
        if self.frames.send(Frame::Reply { stream: id }).await.is_err() {
            return false;
        }
        let stream = Stream {
            headers,
            data,
            writer,
        };
        self.opened.send(stream).await.is_ok()
    }
}

async fn write_all<C: AsyncWrite>(mut to: WriteHalf<C>, mut frames: mpsc::Receiver<Frame>) {
    let mut deflater = Deflater::default();
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        frame.write(&mut buffer, &mut deflater);
        if to.write_all(&buffer).await.is_err() || to.flush().await.is_err() {
            return;
        }
        buffer.clear();
    }
    let _ = to.shutdown().await;
}
