//! What the parts of the network see of the cluster: local copies that they share.

use std::sync::Arc;

use eyot_client::{Cache, Watches, view::Pod};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use tokio::sync::Notify;

/// Services, their endpoints, policies, and what these select. Cheap to clone; all clones are one.
#[derive(Clone)]
#[cfg_attr(test, derive(Default))]
pub struct Cluster {
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) policies: Cache<NetworkPolicy>,
    pub(crate) pods: Cache<Pod>,
    /// This machine's Node, and perhaps others.
    pub(crate) nodes: Cache<Node>,
}

impl Cluster {
    /// What `watches` shows.
    pub fn of(watches: &Watches) -> Self {
        Self {
            services: watches.of(),
            slices: watches.of(),
            namespaces: watches.of(),
            policies: watches.of(),
            pods: watches.of(),
            nodes: watches.of(),
        }
    }

    /// The same for a node that is not to see the pods of others. What is told of those by policies
    /// does not reach it, so a policy that lets some of them in lets in none.
    pub fn of_node(watches: &Watches, node: &str) -> Self {
        Self {
            services: watches.of(),
            slices: watches.of(),
            namespaces: watches.of(),
            policies: watches.of(),
            pods: watches.some(format!("spec.nodeName={node}")),
            nodes: watches.some(format!("metadata.name={node}")),
        }
    }

    /// Resolves once everything is known.
    pub(crate) async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
        self.policies.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
    }
}

/// Wake `whom` at every change of a copy.
pub(crate) fn wake<K: Send + Sync + 'static>(cache: &Cache<K>, whom: &Arc<Notify>) {
    let whom = Arc::clone(whom);
    cache.listen(move |_| whom.notify_one());
}
