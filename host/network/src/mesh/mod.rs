//! The ways to the pods of other nodes.
//!
//! Each node has a range of addresses for its pods. Which node has which, and where it is reached,
//! stands in one ConfigMap ([`map`]): the servers write it, nodes read nothing else of each other, and
//! it changes only when a node comes, goes or moves. From it each node makes, for itself and for every
//! other one ([`mod@plan`]):
//!
//! - a plain route, at the speed of the link, if it has a link into the network of the other's address;
//! - otherwise a way through vxlan, as flannel's: in UDP from address to address.
//!
//! When the map changes, or an address of this machine, ways are chosen anew; what stays as it was is not
//! touched. A node that is not reached at its address at all (behind NAT) is reached by neither: the API's
//! requests come to it through its own connection, packets of pods do not.
//!
//! Pods keep their own addresses on the way, so NetworkPolicies see who sends.

mod kernel;
mod map;
mod plan;

use std::{io, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{Api, Client, runtime::watcher};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Cidr, NetworkError, PodNetwork,
    cluster::wake,
    keep::GATHER,
    table::{Part, Ruleset, Table},
};
use eyot_client::{Cache, Key, Watches};
use kernel::Kernel;

pub use map::{NAME as MAP, NAMESPACE};

/// How often this machine's own addresses are looked at, and how soon a change that the kernel refused
/// is tried again.
const LOOK: Duration = Duration::from_secs(10);

/// Keeps the ways.
pub struct Mesh {
    node: String,
    range: Cidr,
    bridge: Option<String>,
    table: Option<Arc<Table>>,
    map: Cache<ConfigMap>,
    client: Client,
}

impl Mesh {
    /// `node` is the name of this machine's Node; `client` may read the map.
    pub fn new(network: &PodNetwork, client: Client, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            range: network.cidr(),
            bridge: network.bridge.as_ref().map(|bridge| bridge.name.clone()),
            table: network.table(),
            map: Cache::default(),
            client,
        }
    }

    /// Work until `stop`. The ways stay: pods go on while no host runs.
    pub async fn run(self, stop: CancellationToken) {
        // The network has said why.
        let Some(bridge) = &self.bridge else { return };
        let changed = Arc::new(Notify::new());
        wake(&self.map, &changed);
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let config = watcher::Config::default().fields(&format!("metadata.name={MAP}"));
        let following = self.map.run(api, config, stop.clone());
        let keeping = async {
            let mut kernel = match Kernel::open(bridge, self.range).await {
                Ok(kernel) => kernel,
                Err(error) => {
                    tracing::error!(%error, "there are no ways to the pods of other nodes");
                    return;
                }
            };
            self.map.synced().await;
            loop {
                if let Err(error) = self.pass(&mut kernel).await {
                    tracing::warn!(%error, "ways to the pods of other nodes could not be made; trying again");
                }
                tokio::select! {
                    () = changed.notified() => tokio::time::sleep(GATHER).await,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { tokio::join!(following, keeping); } => {}
        }
    }

    async fn pass(&self, kernel: &mut Kernel) -> Result<(), NetworkError> {
        let map = self.map.get(&Key::new(NAMESPACE, MAP));
        let Some((map, vni)) = map.and_then(|map| Some((map.clone(), map::vni(&map)?))) else {
            return Ok(());
        };
        let peers = map::read(&map);
        let own = plan::Own {
            node: &self.node,
            range: self.range,
            links: kernel.links().await?,
        };
        let ways = plan::plan(&own, &peers);
        kernel.set(&ways, vni).await?;
        let Some(table) = &self.table else {
            return Ok(());
        };
        // Not masqueraded on the way there.
        let ranges = ways.keys().map(|range| (range.to_string(), String::new()));
        let rules = Ruleset {
            elements: [("node-pods", ranges.collect())].into(),
            ..Ruleset::default()
        };
        let failed = |source: io::Error| NetworkError::Io {
            act: "setting the ranges of other nodes",
            source,
        };
        table.set(Part::Mesh, rules).await.map_err(failed)
    }
}

/// Keep the map as the Nodes say, until `stop`: a server's part. Several do no harm.
pub async fn keep_map(client: Client, watches: &Watches, stop: CancellationToken) {
    let nodes: Cache<Node> = watches.of();
    stop.run_until_cancelled(map::keep(client, nodes)).await;
}

/// Take away the ways of the host with this bridge.
pub(crate) async fn remove(bridge: &str, range: Cidr) -> Result<(), NetworkError> {
    Kernel::open(bridge, range).await?.clear().await
}

#[cfg(test)]
mod tests;
