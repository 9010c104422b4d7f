//! Service balancing: what Services and EndpointSlices say becomes rules of the host's table.
//!
//! [`Balancer`] reads both through the API, computes the whole of what is wanted ([`mod@plan`]), and gives
//! it to the [`Table`], which changes what differs. Nothing is kept that could not be found again: a
//! host that was killed begins with an empty table and the same objects.

mod balancer;
mod conntrack;
mod plan;

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use eyot_client::{Controller, EventType, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Cluster, PodNetwork,
    cluster::wake,
    table::{Part, Table},
};
use balancer::Balancers;
use plan::{Complaint, Datagrams, Facts, plan};
pub(crate) use plan::{network, ready_backends};

/// Changes that come within this time of each other are made together: a rollout is many.
const GATHER: Duration = Duration::from_millis(15);
/// The pause after a change that the kernel refused.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps the rules for Services.
pub struct Balancer {
    client: Client,
    facts: Facts,
    table: Option<Arc<Table>>,
    cluster: Cluster,
    changed: Arc<Notify>,
    balancers: Controller<Balancers>,
}

impl Balancer {
    /// `node` is the name of this machine's Node, `host` its address.
    pub fn new(
        network: &PodNetwork,
        cluster: &Cluster,
        client: Client,
        node: &str,
        host: IpAddr,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        wake(&cluster.services, &changed);
        wake(&cluster.slices, &changed);
        Self {
            balancers: balancer::controller(&client, &cluster.services, host),
            cluster: cluster.clone(),
            changed,
            client,
            facts: Facts {
                node: node.to_owned(),
                pods: network.cidr(),
            },
            table: network.table(),
        }
    }

    /// Work until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // The network has said why.
        let Some(table) = self.table.clone() else {
            return;
        };
        let working = async {
            self.cluster.synced().await;
            let mut work = Work {
                recorder: Recorder::new(self.client.clone(), "eyot-network"),
                facts: self.facts,
                table,
                datagrams: Datagrams::default(),
                told: HashSet::new(),
            };
            loop {
                if !work.pass(&self.cluster).await {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                self.changed.notified().await;
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = working => {}
            () = self.balancers.run(stop.clone()) => {}
        }
    }
}

struct Work {
    recorder: Recorder,
    facts: Facts,
    table: Arc<Table>,
    /// As the table has it.
    datagrams: Datagrams,
    told: HashSet<Complaint>,
}

impl Work {
    /// Bring the table to what the objects say now. Answers whether that worked.
    async fn pass(&mut self, cluster: &Cluster) -> bool {
        let planned = plan(
            &cluster.services.list(),
            &cluster.slices.list(),
            &self.facts,
        );
        if let Err(error) = self.table.set(Part::Services, planned.rules).await {
            tracing::warn!(%error, "the rules for Services could not be set; trying again");
            return false;
        }
        if planned.udp != self.datagrams {
            // What was led somewhere before and has no backends now is refused: its entries go too.
            let mut fronts = planned.udp.clone();
            for front in self.datagrams.addresses.keys() {
                fronts.addresses.entry(*front).or_default();
            }
            for port in self.datagrams.node_ports.keys() {
                fronts.node_ports.entry(*port).or_default();
            }
            let forgotten = tokio::task::spawn_blocking(move || conntrack::forget(&fronts)).await;
            match forgotten.map_err(std::io::Error::other).flatten() {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "stale UDP flows were forgotten"),
                Err(error) => {
                    tracing::warn!(%error, "UDP flows to backends that are gone may remain for a while");
                }
            }
            self.datagrams = planned.udp;
        }
        self.tell(planned.complaints).await;
        true
    }

    /// Each complaint once, for as long as it holds.
    async fn tell(&mut self, complaints: Vec<Complaint>) {
        let complaints: HashSet<Complaint> = complaints.into_iter().collect();
        for complaint in complaints.difference(&self.told) {
            let Complaint {
                namespace,
                name,
                message,
            } = complaint;
            tracing::warn!(service = %format_args!("{namespace}/{name}"), message, "service");
            let object = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(namespace.clone()),
                name: Some(name.clone()),
                ..ObjectReference::default()
            };
            self.recorder
                .event(&object, EventType::Warning, "NotBalanced", message)
                .await;
        }
        self.told = complaints;
    }
}

impl PodNetwork {
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        self.bridge.as_ref()?.table()
    }
}

#[cfg(test)]
mod tests;
