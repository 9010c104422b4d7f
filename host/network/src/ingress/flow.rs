//! One exchange with a backend: what moves in it, how long it may stand still, how much may be sent.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use eyot_http::{Body, BoxError};
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, timeout_at};

use super::settings::Settings;

/// Where the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// The backend is to take the next piece.
    Sending,
    /// The client is to send the next piece.
    Waiting,
    Sent,
    TooLarge,
    BrokenOff,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::Sending,
        Self::Waiting,
        Self::Sent,
        Self::TooLarge,
        Self::BrokenOff,
    ];
}

/// What is known of an exchange, from both of its sides.
#[derive(Debug)]
pub(crate) struct Flow {
    began: Instant,
    /// When something moved last, in milliseconds since then.
    moved: AtomicU64,
    stage: AtomicU8,
    send: Duration,
    read: Duration,
}

impl Flow {
    /// `body` is the request's.
    pub(crate) fn begin(settings: &Settings, body: Body) -> (Arc<Self>, Body) {
        let is_empty = body.is_end_stream();
        let stage = if is_empty {
            Stage::Sent
        } else {
            Stage::Sending
        };
        let flow = Arc::new(Self {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            stage: AtomicU8::new(stage as u8),
            send: settings.send,
            read: settings.read,
        });
        if is_empty {
            return (flow, body);
        }
        let body = Sent {
            body,
            left: settings.body.unwrap_or(u64::MAX),
            flow: flow.clone(),
        };
        (flow, body.boxed_unsync())
    }

    /// Whether all of the request is sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.stage() == Stage::Sent
    }

    /// Wait for `future`, for as long as something moves. The error is an answer.
    pub(crate) async fn in_time<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, (StatusCode, &'static str)> {
        let mut future = std::pin::pin!(future);
        loop {
            let until = self.deadline();
            if let Ok(done) = timeout_at(until, &mut future).await {
                return Ok(done);
            }
            if self.deadline() <= Instant::now() {
                return Err(match self.stage() {
                    Stage::Waiting => (
                        StatusCode::REQUEST_TIMEOUT,
                        "the rest of the request did not come in time",
                    ),
                    _ => (
                        StatusCode::GATEWAY_TIMEOUT,
                        "the service does not answer in time",
                    ),
                });
            }
        }
    }

    /// What the client did, if it is the reason for a failure.
    pub(crate) fn fault_of_the_client(&self) -> Option<(StatusCode, &'static str)> {
        match self.stage() {
            Stage::TooLarge => Some(TOO_LARGE),
            Stage::BrokenOff => Some((StatusCode::BAD_REQUEST, "the request broke off")),
            Stage::Sending | Stage::Waiting | Stage::Sent => None,
        }
    }

    fn moves(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(since, Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        let limit = if self.is_sent() { self.read } else { self.send };
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.began + moved + limit
    }

    fn stage(&self) -> Stage {
        let stage = usize::from(self.stage.load(Ordering::Acquire));
        Stage::ALL.get(stage).copied().unwrap_or(Stage::Sent)
    }

    fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }
}

/// The answer to a request whose body is too large.
pub(crate) const TOO_LARGE: (StatusCode, &str) =
    (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");

/// The body of a request on its way to a backend.
struct Sent {
    body: Body,
    /// Bytes that may still come.
    left: u64,
    flow: Arc<Flow>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.flow.enter(Stage::Waiting);
            return Poll::Pending;
        };
        self.flow.moves();
        let stage = match &frame {
            None => Stage::Sent,
            Some(Err(_)) => Stage::BrokenOff,
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                match self.left.checked_sub(size) {
                    None => {
                        self.flow.enter(Stage::TooLarge);
                        return Poll::Ready(Some(Err(TOO_LARGE.1.into())));
                    }
                    Some(left) => self.left = left,
                }
                if self.body.is_end_stream() {
                    Stage::Sent
                } else {
                    Stage::Sending
                }
            }
        };
        self.flow.enter(stage);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer on its way to the client: ends with an error if nothing moves for too long,
/// and gives `kept` to `done` as soon as all of it is there.
pub(crate) struct Answered<B, K> {
    body: B,
    flow: Arc<Flow>,
    still: Option<Pin<Box<Sleep>>>,
    kept: Option<K>,
    done: fn(K),
}

impl<B, K> Answered<B, K>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
    K: Send + Unpin + 'static,
{
    pub(crate) fn body(body: B, flow: Arc<Flow>, kept: K, done: fn(K)) -> Body {
        flow.moves();
        let mut answered = Self {
            body,
            flow,
            still: None,
            kept: Some(kept),
            done,
        };
        if answered.body.is_end_stream() {
            answered.end();
        }
        answered.boxed_unsync()
    }

    fn end(&mut self) {
        if let Some(kept) = self.kept.take() {
            (self.done)(kept);
        }
    }
}

impl<B, K> http_body::Body for Answered<B, K>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
    K: Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.flow.moves();
            this.still = None;
            if frame.is_none() || this.body.is_end_stream() {
                this.end();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        loop {
            let until = this.flow.deadline();
            let still = this
                .still
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            if still.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if this.flow.deadline() <= Instant::now() {
                return Poll::Ready(Some(Err("the answer does not go on".into())));
            }
            // The request moved meanwhile.
            this.still = None;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
