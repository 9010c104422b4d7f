//! What the API server finds behind a node: the kubelet's API, and below `pipelines/` that of the
//! pipelines that run there. So `…/api/v1/nodes/NODE/proxy/pipelines/…` has the authentication, the
//! authorisation (`nodes/proxy`) and the audit of all that is asked of a node.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use eyot_devices::{PIPELINES, PipelineDoor};
use eyot_http::{Request, Response};
use eyot_node::Kubelet;
use futures::future::BoxFuture;
use tower::Service;

/// Cheap to clone.
#[derive(Clone)]
pub struct NodeDoor {
    pub kubelet: Kubelet,
    pub pipelines: PipelineDoor,
}

impl Service<Request> for NodeDoor {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let first = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split('/')
            .next();
        match first == Some(PIPELINES) {
            true => Box::pin(self.pipelines.call(request)),
            false => Box::pin(self.kubelet.call(request)),
        }
    }
}
