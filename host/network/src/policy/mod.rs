//! What is asked for pods of this node: NetworkPolicies and host ports.
//!
//! NetworkPolicies say which pods of this node may be reached by whom, and whom they may reach.
//! A pod that no policy selects is open. One that is selected, in a direction, gets a chain for that
//! direction: what one of its policies allows returns, the rest is dropped. Answers to what was
//! allowed, and what the host itself sends (probes), are never looked at. See [`mod@plan`].

mod host_ports;
mod plan;

use std::{collections::HashSet, io, net::Ipv4Addr, sync::Arc, time::Duration};

use eyot_client::{EventType, Recorder};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Cidr, Cluster, PodNetwork,
    cluster::wake,
    table::{Part, Table},
};
use host_ports::host_ports;
use plan::{Complaint, plan};

/// Changes that come within this time of each other are made together.
const GATHER: Duration = Duration::from_millis(15);
/// The pause after a change that the kernel refused.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps the rules for NetworkPolicies.
pub struct Guard {
    client: Client,
    cluster: Cluster,
    changed: Arc<Notify>,
    table: Option<Arc<Table>>,
    gateway: Option<Ipv4Addr>,
    pods: Cidr,
    node: String,
}

impl Guard {
    /// `node` is the name of this machine's Node.
    pub fn new(network: &PodNetwork, cluster: &Cluster, client: Client, node: &str) -> Self {
        let changed = Arc::new(Notify::new());
        wake(&cluster.policies, &changed);
        wake(&cluster.pods, &changed);
        wake(&cluster.namespaces, &changed);
        Self {
            client,
            cluster: cluster.clone(),
            changed,
            table: network.table(),
            gateway: network.gateway(),
            pods: network.cidr(),
            node: node.to_owned(),
        }
    }

    /// Work until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // The network has said why.
        let Some(table) = self.table.clone() else {
            return;
        };
        let recorder = Recorder::new(self.client.clone(), "eyot-network");
        let working = async {
            self.cluster.synced().await;
            let mut told = HashSet::new();
            loop {
                match self.pass(&table).await {
                    Ok(complaints) => told = tell(&recorder, told, complaints).await,
                    Err(error) => {
                        tracing::warn!(%error, "the rules for NetworkPolicies and host ports could not be set; trying again");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                }
                self.changed.notified().await;
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = working => {}
        }
    }
}

impl Guard {
    /// Bring the table to what the objects say now.
    async fn pass(&self, table: &Arc<Table>) -> io::Result<Vec<Complaint>> {
        let pods = self.cluster.pods.list();
        let planned = plan(
            &self.cluster.policies.list(),
            &pods,
            &self.cluster.namespaces.list(),
            self.pods,
            self.gateway,
        );
        table.set(Part::Policies, planned.rules).await?;
        let ports = host_ports(&pods, &self.node);
        table.set(Part::HostPorts, ports).await?;
        Ok(planned.complaints)
    }
}

/// Record each complaint once, for as long as it holds.
async fn tell(
    recorder: &Recorder,
    told: HashSet<Complaint>,
    complaints: Vec<Complaint>,
) -> HashSet<Complaint> {
    let complaints: HashSet<Complaint> = complaints.into_iter().collect();
    for complaint in complaints.difference(&told) {
        let Complaint {
            namespace,
            name,
            message,
        } = complaint;
        let object = ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("NetworkPolicy".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            ..ObjectReference::default()
        };
        recorder
            .event(&object, EventType::Warning, "NotEnforced", message)
            .await;
    }
    complaints
}

#[cfg(test)]
mod tests;
