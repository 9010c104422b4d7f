//! A connection whose peer must begin in time and must go on taking what is ready for it.
//!
//! hyper has one limit for the head of a request and for the pause before it. Pauses may be long, so
//! a head has a limit of its own here: the first one from when the connection is there, and with it
//! the time until the protocol is known, a later one from when its first bytes are there. So has a
//! write that stands still.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::{
    Body,
    limits::{HELLO, STALLED},
};

/// How an HTTP/2 connection begins; anything else is HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How far a connection has come, as its service knows it.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Flags>);

#[derive(Default)]
struct Flags {
    /// Requests of HTTP/1 that have begun.
    begun: AtomicUsize,
    /// Those of them whose answers have ended.
    ended: AtomicUsize,
    is_http2: AtomicBool,
    taken_over: AtomicBool,
}

impl Progress {
    /// The head of a request is there. On HTTP/2, which has many at once, there is nothing to keep.
    pub(crate) fn begin(&self) -> Option<Arc<Exchange>> {
        if self.is_http2() {
            return None;
        }
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        Some(Arc::new(Exchange(self.clone())))
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Whether the next thing to come is the head of a request.
    fn is_between_requests(&self) -> bool {
        self.0.ended.load(Ordering::Acquire) == self.begun()
    }

    fn is_http2(&self) -> bool {
        self.0.is_http2.load(Ordering::Acquire)
    }

    /// The connection was taken over: from now on its peer may be as slow as it likes.
    pub(crate) fn take_over(&self) {
        self.0.taken_over.store(true, Ordering::Release);
    }

    fn is_taken_over(&self) -> bool {
        self.0.taken_over.load(Ordering::Acquire)
    }
}

/// A request and its answer, which end when nobody holds this any more.
pub(crate) struct Exchange(Progress);

impl Exchange {
    pub(crate) fn until_the_end_of(self: Arc<Self>, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        // Keeps the size of the body, which a stream would lose.
        let keep = move |error| {
            let _ = &self;
            error
        };
        body.map_err(keep).boxed_unsync()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// See the module.
pub(crate) struct Patient<I> {
    io: I,
    /// Runs until the protocol is known to be HTTP/2, or the request of HTTP/1 with this number is
    /// there.
    beginning: Option<(usize, Pin<Box<Sleep>>)>,
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
            beginning: Some((0, Box::pin(tokio::time::sleep(HELLO)))),
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
            let is_http2 = self.seen == PREFACE.len();
            self.progress.0.is_http2.store(is_http2, Ordering::Release);
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
        if this.progress.is_http2() || this.progress.is_taken_over() {
            return outcome;
        }
        let begun = this.progress.begun();
        // A head that was waited for is there.
        this.beginning.take_if(|(number, _)| *number < begun);
        if outcome.is_ready() {
            let new = buffer.filled().get(before..).unwrap_or_default();
            if begun == 0 {
                this.see(new);
            } else if this.beginning.is_none()
                && !new.is_empty()
                && this.progress.is_between_requests()
            {
                this.beginning = Some((begun, Box::pin(tokio::time::sleep(HELLO))));
            }
            return outcome;
        }
        let late = this.beginning.as_mut();
        if late.is_some_and(|(_, late)| late.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Err(too_late("the peer did not begin")));
        }
        Poll::Pending
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
