//! Bodies that are listened to on their way.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use eyot_http::{Body, BoxError};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::event::Captured;

/// What a body held so far. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Ear(Arc<Mutex<Captured>>);

impl Ear {
    /// What was heard; nothing is left.
    pub(super) fn take(&self) -> Captured {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A body like this one, of which up to `limit` bytes are kept.
    pub(super) fn listen(&self, body: Body, limit: usize) -> Body {
        let heard = self.clone();
        Heard { body, heard, limit }.boxed_unsync()
    }
}

struct Heard {
    body: Body,
    heard: Ear,
    limit: usize,
}

impl http_body::Body for Heard {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let mut heard = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner);
            heard.add(data, self.limit);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that keeps something until it is sent or given up.
pub(super) fn keeping<T: Send + Unpin + 'static>(body: Body, kept: T) -> Body {
    Keeping { body, _kept: kept }.boxed_unsync()
}

struct Keeping<T> {
    body: Body,
    _kept: T,
}

impl<T: Unpin> http_body::Body for Keeping<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
