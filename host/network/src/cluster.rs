//! What the parts of the network see of the cluster: local copies that they share.

use std::{fmt::Debug, sync::Arc};

use eyot_client::Cache;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Services, their endpoints, and namespaces. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Cluster {
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) namespaces: Cache<Namespace>,
}

impl Cluster {
    /// Keep the copies current until `stop`. Begun last: who listens must hear everything.
    pub async fn run(self, client: Client, stop: CancellationToken) {
        tokio::join!(
            follow(&client, &self.services, &stop),
            follow(&client, &self.slices, &stop),
            follow(&client, &self.namespaces, &stop),
        );
    }

    /// Resolves once everything is known.
    pub(crate) async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
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
