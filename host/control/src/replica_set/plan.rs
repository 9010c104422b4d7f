//! What to do about the pods of a ReplicaSet or ReplicationController. Pure.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::ReplicaSet, apimachinery::pkg::apis::meta::v1::OwnerReference};

use super::{Pods, sooner};
use crate::{
    names,
    owner::{self, Selects},
    pod::{self, NewPod},
    pod_control::{BURST, Claim, claim},
};

/// How many pods there are, as the status tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) replicas: i32,
    pub(super) labeled: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    pub(super) terminating: i32,
}

/// At most one of `create` and `delete` asks for something.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) claim: Claim<Pod>,
    pub(super) create: Vec<NewPod>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: Counts,
    /// When a ready pod will have been ready for long enough.
    pub(super) again: Option<Duration>,
}

pub(super) fn selects(set: &ReplicaSet) -> Selects {
    Selects::of(set.spec.as_ref().map(|spec| &spec.selector))
}

/// Compare a set with the pods of its namespace. `reference` makes it their controller; `related`
/// are the uids of the sets with the same owner, itself among them.
pub(super) fn plan(
    set: &ReplicaSet,
    reference: &OwnerReference,
    related: &HashSet<String>,
    pods: &Pods,
    now: Timestamp,
) -> Plan {
    let claim = claim(&set.metadata, &selects(set), pods, pod::is_active);
    let is_active = |pod: &&Arc<Pod>| pod::is_active(pod);
    let active: Vec<_> = claim.mine.iter().filter(is_active).cloned().collect();
    let mut plan = Plan {
        claim,
        create: Vec::new(),
        delete: Vec::new(),
        status: Counts::default(),
        again: None,
    };
    plan.count(set, &active, now);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let desired = set.spec.as_ref().and_then(|spec| spec.replicas);
    let desired = usize::try_from(desired.unwrap_or(1)).unwrap_or(0);
    if active.len() < desired {
        let missing = (desired - active.len()).min(BURST);
        plan.create = new_pods(set, reference, pods, missing);
    } else {
        let surplus = (active.len() - desired).min(BURST);
        plan.delete = if surplus == active.len() {
            active
        } else {
            surrendered(active, surplus, related, pods, now)
        };
        plan.delete.truncate(surplus);
    }
    plan
}

impl Plan {
    fn count(&mut self, set: &ReplicaSet, active: &[Arc<Pod>], now: Timestamp) {
        let spec = set.spec.as_ref();
        let settle = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let template = spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref());
        let labels = template.and_then(|meta| meta.labels.as_ref());
        self.status.replicas = i32::try_from(active.len()).unwrap_or(i32::MAX);
        for pod in active {
            let carries = |(key, value): (&String, &String)| {
                pod.metadata.labels.as_ref().and_then(|all| all.get(key)) == Some(value)
            };
            if labels.is_none_or(|labels| labels.iter().all(carries)) {
                self.status.labeled += 1;
            }
            match pod::until_available(pod, settle, now) {
                None => continue,
                Some(Duration::ZERO) => self.status.available += 1,
                Some(left) => self.again = sooner(self.again, left),
            }
            self.status.ready += 1;
        }
        let mine = self.claim.mine.iter();
        let leaving =
            mine.filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pod::has_ended(pod));
        self.status.terminating = i32::try_from(leaving.count()).unwrap_or(i32::MAX);
    }
}

/// Pods for the first free places. A place is free once no pod of the namespace has its name, so a
/// second pass on an old cache asks for the same names, and the API refuses them.
fn new_pods(set: &ReplicaSet, owner: &OwnerReference, pods: &Pods, count: usize) -> Vec<NewPod> {
    let base = set.metadata.name.as_deref().unwrap_or_default();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let mut taken: HashSet<String> = pods
        .iter()
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    let places = (0u64..).map(|place| names::derived(base, &[uid, &place.to_string()]));
    let free = places.filter(|name| taken.insert(name.clone())).take(count);
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone());
    let template = template.unwrap_or_default();
    let named = |name| {
        let mut pod = pod::from_template(&template, set.metadata.namespace.as_deref());
        pod.metadata.generate_name = Some(format!("{base}-"));
        pod.metadata.name = Some(name);
        pod.metadata.owner_references = Some(vec![owner.clone()]);
        pod
    };
    free.map(named).collect()
}

/// The `surplus` pods that are given up, in Kubernetes' order: those that do the least, then those
/// whose loss costs the least, then those that share a node with the most of their kind, then the
/// youngest. Ages within a factor of two count as equal, so that it is not always the newest node
/// that loses its pods.
fn surrendered(
    mut active: Vec<Arc<Pod>>,
    surplus: usize,
    related: &HashSet<String>,
    pods: &Pods,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if surplus == 0 {
        return Vec::new();
    }
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    let kin = pods.iter().filter(|pod| {
        pod::is_active(pod)
            && owner::controller(&pod.metadata).is_some_and(|found| related.contains(&found.uid))
    });
    for node in kin.filter_map(|pod| pod::node(pod)) {
        *on_node.entry(node).or_default() += 1;
    }
    active.sort_by_cached_key(|pod| {
        let node = pod::node(pod);
        let together = node.and_then(|node| on_node.get(node)).copied();
        surrender(pod, together.unwrap_or(0), now)
    });
    active.truncate(surplus);
    active
}

/// The lower, the sooner the pod is given up.
fn surrender(pod: &Pod, together: usize, now: Timestamp) -> impl Ord + use<> {
    let phase = match pod::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = pod.metadata.annotations.as_ref();
    let cost = cost.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    let cost: i32 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let magnitude = |since: Option<Timestamp>| {
        let age = since.map(|since| now.duration_since(since).as_nanos());
        age.and_then(|age| u128::try_from(age).ok()?.checked_ilog2())
    };
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        pod::node(pod).is_some(),
        phase,
        pod::is_ready(pod),
        cost,
        Reverse(together),
        magnitude(pod::ready_since(pod)),
        Reverse(pod::restarts(pod)),
        magnitude(created),
        pod.metadata.uid.clone(),
    )
}
