//! What scheduling knows of a node.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use eyot_client::Key;
use k8s_openapi::api::core::v1::{Node, Taint};

use super::{
    demand::{Amounts, Demand, Port},
    selector::Labels,
};

/// What is taken of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Used {
    pub(super) pods: i64,
    pub(super) amounts: Amounts,
    /// With something for containers that ask for nothing.
    pub(super) assumed: Amounts,
    /// With how many pods have it.
    ports: HashMap<Port, u32>,
}

impl Used {
    pub(super) fn add(&mut self, demand: &Demand) {
        self.pods += 1;
        self.amounts.add(&demand.amounts);
        self.assumed.add(&demand.assumed);
        for port in &demand.ports {
            *self.ports.entry(port.clone()).or_default() += 1;
        }
    }

    pub(super) fn take(&mut self, demand: &Demand) {
        self.pods -= 1;
        self.amounts.take(&demand.amounts);
        self.assumed.take(&demand.assumed);
        for port in &demand.ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(port);
                }
            }
        }
    }

    pub(super) fn has_free(&self, ports: &[Port]) -> bool {
        ports.is_empty()
            || !ports
                .iter()
                .any(|port| self.ports.keys().any(|p| p.collides(port)))
    }
}

#[derive(Debug, Default)]
pub(super) struct NodeInfo {
    pub(super) name: Arc<str>,
    /// Whether there is such a node: pods may be bound to one that is gone, or not seen yet.
    pub(super) known: bool,
    pub(super) labels: Labels,
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
    pub(super) allocatable: Amounts,
    /// `None` if the node does not say.
    pub(super) pods_allowed: Option<i64>,
    /// Their sizes in bytes, by each of their names.
    pub(super) images: HashMap<String, i64>,
    pub(super) pods: HashSet<Key>,
    pub(super) used: Used,
}

impl NodeInfo {
    /// Take over what the object says.
    pub(super) fn read(&mut self, node: &Node) {
        self.known = true;
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        self.unschedulable = spec.and_then(|spec| spec.unschedulable) == Some(true);
        self.taints = taints(node);
        self.allocatable = allocatable(node);
        let status = node.status.as_ref();
        self.pods_allowed = status
            .and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()))
            .is_some_and(|amounts| amounts.contains_key("pods"))
            .then(|| self.allocatable.get("pods"));
        let images = status
            .and_then(|status| status.images.as_deref())
            .unwrap_or_default();
        let named = images.iter().flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image
                .names
                .iter()
                .flatten()
                .map(move |name| (name.clone(), size))
        });
        self.images = named.collect();
    }

    /// There is no such node (any more).
    pub(super) fn forget(&mut self) {
        *self = Self {
            name: self.name.clone(),
            pods: std::mem::take(&mut self.pods),
            used: std::mem::take(&mut self.used),
            ..Self::default()
        };
    }
}

/// The node's taints. One that is not ready counts as tainted before somebody has done so.
fn taints(node: &Node) -> Vec<Taint> {
    let mut taints = node
        .spec
        .as_ref()
        .and_then(|s| s.taints.clone())
        .unwrap_or_default();
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let told = |taint: &Taint| {
        taint.effect == "NoSchedule"
            && matches!(&*taint.key, NOT_READY | "node.kubernetes.io/unreachable")
    };
    if !is_ready(node) && !taints.iter().any(told) {
        taints.push(Taint {
            key: NOT_READY.into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        });
    }
    taints
}

fn allocatable(node: &Node) -> Amounts {
    let status = node.status.as_ref();
    Amounts::read(status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref())))
}

fn is_ready(node: &Node) -> bool {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether anything of a node that scheduling looks at is different: most changes are heartbeats.
pub(super) fn differs(before: &Node, after: &Node) -> bool {
    before.spec != after.spec
        || before.metadata.labels != after.metadata.labels
        || is_ready(before) != is_ready(after)
        || allocatable(before) != allocatable(after)
        || before.status.as_ref().map(|s| &s.images) != after.status.as_ref().map(|s| &s.images)
}
