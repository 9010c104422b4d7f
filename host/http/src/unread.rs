//! Bodies of requests that were answered without being read: who is not known, who may not, what is
//! not there.
//!
//! A client of HTTP/1 that is still sending would see its connection break instead of the answer, and
//! one that has sent everything would find it closed at its next request, without a word. So the rest
//! of such a body is read and thrown away beside the answer, within limits. HTTP/2 has a frame for it,
//! and a client that waits to be told to go on (`Expect: 100-continue`) sends nothing.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::header;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;

use crate::{body::discard, limits::DISCARD_TIME, patience::Exchange};

/// The body of a request as its service gets it.
pub(crate) struct Lent {
    body: Option<Incoming>,
    /// Set on HTTP/1, where the request lasts until its body is over.
    exchange: Option<Arc<Exchange>>,
}

impl Lent {
    pub(crate) fn of(
        request: http::Request<Incoming>,
        exchange: Option<&Arc<Exchange>>,
    ) -> http::Request<Lent> {
        let waits = request.headers().contains_key(header::EXPECT);
        let exchange = exchange.filter(|_| !waits).cloned();
        request.map(|body| Lent {
            body: Some(body),
            exchange,
        })
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(context);
        if !matches!(frame, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map(Incoming::size_hint)
            .unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(mut body), Some(exchange)) = (self.body.take(), self.exchange.take()) else {
            return;
        };
        if body.is_end_stream() {
            return;
        }
        // At the end of the program nobody waits for an answer.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let rest = discard(Pin::new(&mut body));
                let _ = tokio::time::timeout(DISCARD_TIME, rest).await;
                drop(exchange);
            });
        }
    }
}
