//! The door that machines elsewhere come to: the Kubernetes API, and beside it, on the same port, what
//! only joined nodes need, the lines of their tunnels and the images that they run.
//!
//! Both are for nodes alone, by the certificate of the connection; everybody else gets what the API
//! answers.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use eyot_apiserver::{ApiServer, Kubelet, Nodes};
use eyot_client::Watches;
use eyot_edge::tunnel::Tunnels;
use eyot_http::{Request, Response};
use eyot_registry::RegistryService;
use futures::{StreamExt, future::BoxFuture, stream};
use http::Method;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

/// Leases that are renewed at once.
const AT_ONCE: usize = 8;

/// The API, tunnels and images behind one door.
#[derive(Clone)]
pub struct Front {
    pub api: ApiServer,
    pub tunnels: Tunnels,
    pub images: RegistryService,
}

impl Front {
    async fn answer(self, mut request: Request) -> Response {
        let is_line = Tunnels::is_asked(&request);
        let path = request.uri().path();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_image = is_read && (path == "/v2" || path.starts_with("/v2/"));
        if !is_line && !is_image {
            return ask(self.api, request).await;
        }
        let node = match self.api.node(&mut request).await {
            Ok(node) => node,
            Err(refusal) => return *refusal,
        };
        if is_line {
            return self.tunnels.answer(&node, request);
        }
        ask(self.images, request).await
    }
}

async fn ask<S>(service: S, request: Request) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    // Named, because the compiler cannot prove an anonymous future over `dyn Error` to be `Send`.
    let answer: BoxFuture<'static, Result<Response, Infallible>> =
        Box::pin(service.oneshot(request));
    match answer.await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let front = self.clone();
        Box::pin(async move { Ok(front.answer(request).await) })
    }
}

/// Finds kubelets: this process's own, once it has started, and those at the other end of a tunnel.
pub struct AllNodes {
    own: OnceLock<(String, Kubelet)>,
    tunnels: Tunnels,
}

impl AllNodes {
    pub fn new(tunnels: Tunnels) -> Arc<Self> {
        Arc::new(Self {
            own: OnceLock::new(),
            tunnels,
        })
    }

    pub fn set_own(&self, name: &str, kubelet: Kubelet) {
        let _ = self.own.set((name.to_owned(), kubelet));
    }
}

impl Nodes for AllNodes {
    fn kubelet(&self, node: &str) -> Option<Kubelet> {
        match self.own.get() {
            Some((name, kubelet)) if name == node => Some(kubelet.clone()),
            _ => self.tunnels.kubelet(node),
        }
    }
}

/// Renew the Leases of nodes that beat, until `stop`.
pub async fn renew_leases(
    client: Client,
    mut beats: mpsc::Receiver<String>,
    stop: CancellationToken,
) {
    let nodes = stream::poll_fn(move |context| beats.poll_recv(context));
    let renewing = nodes.for_each_concurrent(AT_ONCE, |node| {
        let client = client.clone();
        async move {
            if let Err(error) = eyot_node::renew_lease(&client, &node).await {
                tracing::warn!(node, %error, "the Lease of a connected node was not renewed");
            }
        }
    });
    stop.run_until_cancelled(renewing).await;
}

/// End the tunnels of nodes that are deleted: their certificates are good no more.
pub fn close_with_nodes(tunnels: &Tunnels, watches: &Watches) {
    let tunnels = tunnels.clone();
    watches.of::<Node>().listen(move |change| {
        if change.after.is_none() {
            tunnels.close(&change.key.name);
        }
    });
}
