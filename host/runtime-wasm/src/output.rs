//! A guest's standard output and error, given to the container's log line by line.
//!
//! Guests write in small pieces (Rust's `eprintln!` one piece for each part of the format), and
//! several instances of one container share a log: whole lines keep them apart.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use eyot_runtime::{LogSink, LogStream};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

/// A line longer than this goes out in pieces.
const LINE: usize = 16 << 10;
/// What a guest may write in one call: the size that WASI hosts commonly allow.
const PERMIT: usize = 64 << 10;

/// One of the two streams of one instance. What is left of a last line goes out when dropped.
#[derive(Clone)]
pub(crate) struct Output(Arc<Lines>);

struct Lines {
    sink: Arc<dyn LogSink>,
    stream: LogStream,
    pending: Mutex<Vec<u8>>,
}

impl Output {
    pub(crate) fn new(sink: Arc<dyn LogSink>, stream: LogStream) -> Self {
        Self(Arc::new(Lines {
            sink,
            stream,
            pending: Mutex::default(),
        }))
    }

    fn write(&self, data: &[u8]) {
        let lines = &self.0;
        let mut pending = lines.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = data
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let (head, tail) = data.split_at(whole);
        if !head.is_empty() {
            if pending.is_empty() {
                lines.sink.write(lines.stream, head);
            } else {
                pending.extend_from_slice(head);
                lines.sink.write(lines.stream, &pending);
                pending.clear();
            }
        }
        pending.extend_from_slice(tail);
        if pending.len() > LINE {
            lines.sink.write(lines.stream, &pending);
            pending.clear();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let pending = self
            .pending
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if !pending.is_empty() {
            self.sink.write(self.stream, pending);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        Self::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Self::write(&self, data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Chunks(Mutex<Vec<String>>);

    impl LogSink for Chunks {
        fn write(&self, _: LogStream, data: &[u8]) {
            self.0
                .lock()
                .unwrap()
                .push(String::from_utf8(data.to_vec()).unwrap());
        }
    }

    #[test]
    fn pieces_become_lines_and_the_last_one_comes_out_at_the_end() {
        let chunks = Arc::new(Chunks::default());
        let output = Output::new(chunks.clone(), LogStream::Stderr);
        for piece in ["a", "b\nc", "d", "\ne\nf"] {
            output.write(piece.as_bytes());
        }
        assert_eq!(*chunks.0.lock().unwrap(), ["ab\n", "cd\ne\n"]);
        drop(output);
        assert_eq!(chunks.0.lock().unwrap().last().unwrap(), "f");
    }
}
