//! Service balancing: what Services and EndpointSlices say becomes rules of the host's table.
//!
//! [`Balancer`] reads both through the API, computes the whole of what is wanted ([`mod@plan`]), and gives
//! it to the [`Table`], which changes what differs. Nothing is kept that could not be found again: a
//! host that was killed begins with an empty table and the same objects.

mod balancer;
mod conntrack;
mod health;
mod plan;

use std::{io, net::IpAddr, sync::Arc};

use eyot_client::{Controller, Key};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, ResourceExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    Cluster, PodNetwork,
    cluster::wake,
    keep::{About, Complaint, Keeper, keep},
    table::{Part, Table},
};
use balancer::Balancers;
use health::{Checks, checks};
use plan::{Datagrams, Facts, plan};
pub(crate) use plan::{OF_SERVICE, network, ready_backends};

const ZONE: &str = "topology.kubernetes.io/zone";

/// Keeps the rules for Services.
pub struct Balancer {
    client: Client,
    facts: Facts,
    table: Option<Arc<Table>>,
    cluster: Cluster,
    changed: Arc<Notify>,
    balancers: Option<Controller<Balancers>>,
}

impl Balancer {
    /// `node` is the name of this machine's Node. Services of type LoadBalancer are given the address
    /// `host`, if this is who gives them any.
    pub fn new(
        network: &PodNetwork,
        cluster: &Cluster,
        client: Client,
        node: &str,
        host: Option<IpAddr>,
    ) -> Self {
        let changed = Arc::new(Notify::new());
        wake(&cluster.services, &changed);
        wake(&cluster.slices, &changed);
        let (moved, here) = (Arc::clone(&changed), node.to_owned());
        cluster.nodes.listen(move |change| {
            let [before, after] = [change.before, change.after];
            if *change.key.name == *here && before.and_then(zone) != after.and_then(zone) {
                moved.notify_one();
            }
        });
        Self {
            balancers: host.map(|host| balancer::controller(&client, &cluster.services, host)),
            cluster: cluster.clone(),
            changed,
            client,
            facts: Facts {
                node: node.to_owned(),
                zone: None,
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
        let work = Work {
            facts: self.facts,
            datagrams: Datagrams::default(),
            checks: Checks::default(),
        };
        let giving = async {
            match self.balancers {
                Some(balancers) => balancers.run(stop.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep(work, &self.cluster, &table, &self.changed, self.client) => {}
            () = giving => {}
        }
    }
}

struct Work {
    facts: Facts,
    /// As the table has it.
    datagrams: Datagrams,
    checks: Checks,
}

impl Keeper for Work {
    const RULES: &'static str = "Services";
    const ABOUT: About = About {
        api_version: "v1",
        kind: "Service",
        reason: "NotBalanced",
    };

    async fn pass(&mut self, cluster: &Cluster, table: &Arc<Table>) -> io::Result<Vec<Complaint>> {
        let (services, slices) = (cluster.services.list(), cluster.slices.list());
        let node = cluster.nodes.get(&Key::new("", &self.facts.node));
        self.facts.zone = node.as_ref().and_then(zone);
        let planned = plan(&services, &slices, &self.facts);
        let set = table.set(Part::Services, planned.rules).await;
        self.checks.set_sound(set.is_ok());
        set?;
        self.forget(planned.udp).await;
        let mut complaints = planned.complaints;
        let checks = checks(&services, &slices, &self.facts.node);
        complaints.extend(self.checks.serve(checks).await);
        Ok(complaints)
    }
}

/// Where a machine is, as whoever runs it says.
fn zone(node: &Arc<Node>) -> Option<String> {
    node.labels().get(ZONE).cloned()
}

impl Work {
    /// Let flows to backends that are gone be led elsewhere.
    async fn forget(&mut self, now: Datagrams) {
        if now == self.datagrams {
            return;
        }
        // What was led somewhere before and has no backends now is refused: its entries go too.
        let mut fronts = now.clone();
        for front in self.datagrams.addresses.keys() {
            fronts.addresses.entry(*front).or_default();
        }
        for port in self.datagrams.node_ports.keys() {
            fronts.node_ports.entry(*port).or_default();
        }
        let forgotten = tokio::task::spawn_blocking(move || conntrack::forget(&fronts)).await;
        match forgotten.map_err(io::Error::other).flatten() {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "stale UDP flows were forgotten"),
            Err(error) => {
                tracing::warn!(%error, "UDP flows to backends that are gone may remain for a while");
            }
        }
        self.datagrams = now;
    }
}

impl PodNetwork {
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        self.bridge.as_ref()?.table()
    }
}

#[cfg(test)]
mod tests;
