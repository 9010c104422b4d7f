//! What is asked for pods of this node: NetworkPolicies and host ports.
//!
//! NetworkPolicies say which pods of this node may be reached by whom, and whom they may reach.
//! A pod that no policy selects is open. One that is selected, in a direction, gets a chain for that
//! direction: what one of its policies allows returns, the rest is dropped. Answers to what was
//! allowed, and what the host itself sends (probes), are never looked at. See [`mod@plan`].

mod host_ports;
mod plan;

use std::{io, net::Ipv4Addr, sync::Arc};

use kube::Client;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Cidr, Cluster, PodNetwork,
    cluster::wake,
    keep::{About, Complaint, Keeper, keep},
    table::{Part, Table},
};
use host_ports::host_ports;
use plan::plan;

/// Keeps the rules for NetworkPolicies.
pub struct Guard {
    client: Client,
    cluster: Cluster,
    changed: Arc<Notify>,
    table: Option<Arc<Table>>,
    work: Work,
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
            work: Work {
                gateway: network.gateway(),
                pods: network.cidr(),
                node: node.to_owned(),
            },
        }
    }

    /// Work until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // The network has said why.
        let Some(table) = self.table.clone() else {
            return;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep(self.work, &self.cluster, &table, &self.changed, self.client) => {}
        }
    }
}

struct Work {
    gateway: Option<Ipv4Addr>,
    pods: Cidr,
    node: String,
}

impl Keeper for Work {
    const RULES: &'static str = "NetworkPolicies and host ports";
    const ABOUT: About = About {
        api_version: "networking.k8s.io/v1",
        kind: "NetworkPolicy",
        reason: "NotEnforced",
    };

    async fn pass(&mut self, cluster: &Cluster, table: &Arc<Table>) -> io::Result<Vec<Complaint>> {
        let pods = cluster.pods.list();
        let planned = plan(
            &cluster.policies.list(),
            &pods,
            &cluster.namespaces.list(),
            self.pods,
            self.gateway,
        );
        table.set(Part::Policies, planned.rules).await?;
        let ports = host_ports(&pods, &self.node);
        table.set(Part::HostPorts, ports).await?;
        Ok(planned.complaints)
    }
}

#[cfg(test)]
mod tests;
