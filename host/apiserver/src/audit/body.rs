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
        watched(body, move |data| {
            let mut heard = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
            heard.add(data, limit);
        })
    }
}

/// A body that keeps something until it is sent or given up.
pub(super) fn keeping<T: Send + 'static>(body: Body, kept: T) -> Body {
    watched(body, move |_| {
        let _ = &kept;
    })
}

/// A body like this one, each piece of which is shown as it goes by.
fn watched(body: Body, show: impl FnMut(&Bytes) + Send + 'static) -> Body {
    let show = Box::new(show);
    Watched { body, show }.boxed_unsync()
}

struct Watched {
    body: Body,
    show: Box<dyn FnMut(&Bytes) + Send>,
}

impl http_body::Body for Watched {
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
            (self.show)(data);
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
