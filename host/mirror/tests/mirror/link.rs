//! A link between a node and its cloud that can be cut, be deaf in one direction, be slow, and say
//! everything twice.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use eyot_apiserver::{ApiServer, User};
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use tokio::sync::watch;
use tower::{Service, ServiceExt};

/// What becomes of requests and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Whole,
    Cut,
    /// Requests arrive, answers do not.
    Deaf,
    /// Each write arrives twice, one after the other.
    Twice,
    /// Everything takes some turns of the other tasks.
    Slow(u32),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

#[derive(Clone)]
pub struct Link {
    cloud: ApiServer,
    user: User,
    mode: Arc<watch::Sender<Mode>>,
    /// Writes that arrived.
    pub writes: Arc<AtomicU64>,
}

impl Link {
    pub fn new(cloud: &ApiServer, node: &str) -> Self {
        let groups = ["system:nodes", "system:authenticated"];
        Self {
            cloud: cloud.clone(),
            user: User::new(format!("system:node:{node}"), &groups),
            mode: Arc::new(watch::Sender::new(Mode::Whole)),
            writes: Arc::default(),
        }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    async fn pass(self, request: Request<Body>) -> Result<Answer, BoxError> {
        let mode = *self.mode.borrow();
        if mode == Mode::Cut {
            return Err(words("the link is cut"));
        }
        if let Mode::Slow(turns) = mode {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(words)?.to_bytes();
        let is_write = parts.method != Method::GET;
        let times = if mode == Mode::Twice && is_write {
            2
        } else {
            1
        };
        let mut answer = None;
        for _ in 0..times {
            let mut request = Request::new(Body::from(body.to_vec()));
            *request.method_mut() = parts.method.clone();
            *request.uri_mut() = parts.uri.clone();
            *request.headers_mut() = parts.headers.clone();
            let service = self.cloud.as_user(self.user.clone());
            let answered = service.oneshot(request).await.map_err(words)?;
            if is_write {
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            answer.get_or_insert(answered);
        }
        let Some(answer) = answer else {
            return Err(words("asked no times"));
        };
        let deaf = |mode: Mode| matches!(mode, Mode::Cut | Mode::Deaf);
        if deaf(*self.mode.borrow()) {
            return Err(words("the answer was lost"));
        }
        // A stream breaks when the link does.
        let (parts, body) = answer.into_parts();
        let mode = self.mode.subscribe();
        let frames = stream::unfold(Some((body, mode)), move |state| async move {
            let (mut body, mut mode) = state?;
            let frame = tokio::select! {
                biased;
                _ = mode.wait_for(|mode| deaf(*mode)) => Some(Err(words("the link is cut"))),
                frame = body.frame() => frame.map(|frame| frame.map_err(words)),
            };
            match frame? {
                Ok(frame) => Some((Ok(frame), Some((body, mode)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        let frames = frames.map(|frame: Result<Frame<Bytes>, BoxError>| frame);
        Ok(Response::from_parts(
            parts,
            BodyExt::boxed_unsync(StreamBody::new(frames)),
        ))
    }
}

fn words(error: impl std::fmt::Display) -> BoxError {
    BoxError::from(error.to_string())
}

impl Service<Request<Body>> for Link {
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().pass(request))
    }
}
