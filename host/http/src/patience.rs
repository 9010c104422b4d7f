//! A connection whose peer must begin in time and must go on taking what is ready for it.
//!
//! hyper has one limit for the head of a request and for the pause before it. Pauses may be long, so
//! the first head has a limit of its own here, and with it the time until the protocol is known; and
//! so has a write that stands still.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::limits::{HELLO, STALLED};

/// How an HTTP/2 connection begins; anything else is HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How far a connection has come, as its service knows it.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Flags>);

#[derive(Default)]
struct Flags {
    begun: AtomicBool,
    taken_over: AtomicBool,
}

impl Progress {
    /// The first request is there.
    pub(crate) fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
    }

    fn has_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// The connection was taken over: from now on its peer may be as slow as it likes.
    pub(crate) fn take_over(&self) {
        self.0.taken_over.store(true, Ordering::Release);
    }

    fn is_taken_over(&self) -> bool {
        self.0.taken_over.load(Ordering::Acquire)
    }
}

/// See the module.
pub(crate) struct Patient<I> {
    io: I,
    /// Runs until the protocol is known to be HTTP/2, or the first request of HTTP/1 is there.
    beginning: Option<Pin<Box<Sleep>>>,
    /// Bytes of the preface that were seen.
    seen: usize,
    /// Runs while a write stands still.
    stalled: Option<Pin<Box<Sleep>>>,
    progress: Progress,
}

impl<I> Patient<I> {
    pub(crate) fn new(io: I, progress: Progress) -> Self {
        Self {
            io,
            beginning: Some(Box::pin(tokio::time::sleep(HELLO))),
            seen: 0,
            stalled: None,
            progress,
        }
    }

    /// Look at what was read for the first time.
    fn see(&mut self, new: &[u8]) {
        let rest = PREFACE.get(self.seen..).unwrap_or_default();
        let looked_at = new.len().min(rest.len());
        self.seen += looked_at;
        if new.get(..looked_at) != rest.get(..looked_at) {
            // HTTP/1; nothing that comes later makes it a preface again.
            self.seen = PREFACE.len() + 1;
        } else if new.is_empty() || self.seen == PREFACE.len() {
            self.beginning = None;
        }
    }

    /// Pass on the outcome of a write, or that it stood still for too long.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.progress.is_taken_over() {
            self.stalled = None;
            return outcome;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(too_late("the peer takes nothing any more"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn too_late(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.io).poll_read(context, buffer);
        let Some(beginning) = &mut this.beginning else {
            return outcome;
        };
        if this.progress.has_begun() {
            this.beginning = None;
            return outcome;
        }
        if outcome.is_ready() {
            this.see(buffer.filled().get(before..).unwrap_or_default());
            return outcome;
        }
        match beginning.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(too_late("the peer did not begin"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(context, bytes);
        self.judge(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.judge(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(context);
        self.judge(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(context);
        self.judge(context, outcome)
    }
}
