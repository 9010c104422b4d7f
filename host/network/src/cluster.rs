//! What the parts of the network see of the cluster: local copies that they share.

use std::{fmt::Debug, sync::Arc};

use eyot_client::Cache;
use k8s_openapi::api::{
    core::v1::{Container, Namespace, Pod, PodSpec, PodStatus, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{Api, Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Services, their endpoints, policies, and what these select. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) policies: Cache<NetworkPolicy>,
    pub(crate) pods: Cache<Pod>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            services: Cache::default(),
            slices: Cache::default(),
            namespaces: Cache::default(),
            policies: Cache::default(),
            pods: Cache::trimmed(trim),
        }
    }
}

/// Of each pod what rules are made from: there may be very many.
fn trim(pod: &mut Pod) {
    let ports = |container: &Container| Container {
        name: container.name.clone(),
        ports: container.ports.clone(),
        restart_policy: container.restart_policy.clone(),
        ..Container::default()
    };
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    if let Some(spec) = &mut pod.spec {
        *spec = PodSpec {
            node_name: spec.node_name.take(),
            host_network: spec.host_network,
            containers: spec.containers.iter().map(ports).collect(),
            init_containers: (spec.init_containers.as_ref())
                .map(|all| all.iter().map(ports).collect()),
            ..PodSpec::default()
        };
    }
    if let Some(status) = &mut pod.status {
        *status = PodStatus {
            phase: status.phase.take(),
            pod_ip: status.pod_ip.take(),
            ..PodStatus::default()
        };
    }
}

impl Cluster {
    /// Keep the copies current until `stop`. Begun last: who listens must hear everything.
    pub async fn run(self, client: Client, stop: CancellationToken) {
        tokio::join!(
            follow(&client, &self.services, &stop),
            follow(&client, &self.slices, &stop),
            follow(&client, &self.namespaces, &stop),
            follow(&client, &self.policies, &stop),
            follow(&client, &self.pods, &stop),
        );
    }

    /// Resolves once everything is known.
    pub(crate) async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
        self.policies.synced().await;
        self.pods.synced().await;
    }
}

async fn follow<K>(client: &Client, cache: &Cache<K>, stop: &CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let api = Api::all(client.clone());
    cache
        .run(api, watcher::Config::default(), stop.clone())
        .await;
}

/// Wake `whom` at every change of a copy.
pub(crate) fn wake<K: Send + Sync + 'static>(cache: &Cache<K>, whom: &Arc<Notify>) {
    let whom = Arc::clone(whom);
    cache.listen(move |_| whom.notify_one());
}
