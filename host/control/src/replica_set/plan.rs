//! What to do about a ReplicaSet's pods. Pure.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::{Pods, sooner};
use crate::{
    names,
    owner::{self, Selects},
    pod,
};

/// Pods created or deleted in one pass: a typo of replicas must be correctable while it is being
/// carried out.
const BURST: usize = 500;

/// One request to the API.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create(Box<Pod>),
    Delete(Arc<Pod>),
    /// Adopt or release: a merge patch of the pod's owners.
    Owners(Arc<Pod>, Value),
}

/// How many pods there are, as the status tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) replicas: i32,
    pub(super) labeled: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    pub(super) terminating: i32,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) status: Counts,
    /// When a ready pod will have been ready for long enough.
    pub(super) again: Option<Duration>,
}

pub(super) fn selects(set: &ReplicaSet) -> Selects {
    set.spec.as_ref().map_or_else(
        || Selects::new(&Default::default()),
        |spec| Selects::new(&spec.selector),
    )
}

/// Compare a ReplicaSet with the pods of its namespace.
pub(super) fn plan(set: &ReplicaSet, pods: &Pods, now: Timestamp) -> Plan {
    let selector = selects(set);
    let living = set.metadata.deletion_timestamp.is_none();
    let mut plan = Plan::default();
    let mut mine = Vec::new();
    for pod in pods {
        let matches = selector.matches(&pod.metadata);
        match owner::controller(&pod.metadata) {
            Some(found) if Some(&found.uid) == set.metadata.uid.as_ref() => {
                if matches {
                    mine.push(pod);
                } else if living {
                    let patch = owner::release(&pod.metadata, &[&found.uid]);
                    plan.writes.push(Write::Owners(pod.clone(), patch));
                }
            }
            None if matches && living && pod::is_active(pod) => {
                let patch = owner::adopt(&pod.metadata, owner::reference(set));
                plan.writes.push(Write::Owners(pod.clone(), patch));
                mine.push(pod);
            }
            _ => {}
        }
    }
    let mut active: Vec<_> = mine
        .iter()
        .copied()
        .filter(|pod| pod::is_active(pod))
        .collect();
    plan.count(set, &mine, &active, now);
    if living {
        let desired = set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1)
            .max(0);
        let desired = usize::try_from(desired).unwrap_or_default();
        if active.len() < desired {
            let missing = (desired - active.len()).min(BURST);
            plan.writes.extend(new_pods(set, pods, missing));
        } else {
            let surplus = (active.len() - desired).min(BURST);
            active.sort_by_cached_key(|pod| surrender(pod));
            let gone = active.into_iter().take(surplus);
            plan.writes
                .extend(gone.map(|pod| Write::Delete(pod.clone())));
        }
    }
    plan
}

impl Plan {
    fn count(
        &mut self,
        set: &ReplicaSet,
        mine: &[&Arc<Pod>],
        active: &[&Arc<Pod>],
        now: Timestamp,
    ) {
        let spec = set.spec.as_ref();
        let settle = spec
            .and_then(|spec| spec.min_ready_seconds)
            .unwrap_or(0)
            .max(0);
        let settle = Duration::from_secs(settle.unsigned_abs().into());
        let template = spec.and_then(|spec| spec.template.as_ref());
        let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
        for pod in active {
            self.status.replicas += 1;
            let have = pod.metadata.labels.as_ref();
            let carries = |(k, v)| have.is_some_and(|have| have.get(k) == Some(v));
            if labels.is_none_or(|labels| labels.iter().all(carries)) {
                self.status.labeled += 1;
            }
            if !pod::is_ready(pod) {
                continue;
            }
            self.status.ready += 1;
            let since = pod::ready_since(pod).unwrap_or(now);
            let lasted = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            if lasted >= settle {
                self.status.available += 1;
            } else {
                self.again = sooner(self.again, settle - lasted);
            }
        }
        let leaving = mine
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pod::has_ended(pod));
        self.status.terminating = i32::try_from(leaving.count()).unwrap_or(i32::MAX);
    }
}

/// Pods for the first free places. A place is free once no pod of the namespace has its name, so a
/// second pass on an old cache asks for the same names, and the API refuses them.
fn new_pods(set: &ReplicaSet, pods: &Pods, count: usize) -> Vec<Write> {
    let base = set.metadata.name.as_deref().unwrap_or_default();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let mut taken: HashSet<String> = pods
        .iter()
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    let places = (0u64..).map(|place| names::derived(base, &[uid, &place.to_string()]));
    let free = places.filter(|name| taken.insert(name.clone())).take(count);
    free.map(|name| Write::Create(Box::new(new_pod(set, name))))
        .collect()
}

fn new_pod(set: &ReplicaSet, name: String) -> Pod {
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.clone())
        .unwrap_or_default();
    let from = template.metadata.unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: set.metadata.name.as_ref().map(|name| format!("{name}-")),
        name: Some(name),
        namespace: set.metadata.namespace.clone(),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![owner::reference(set)]),
        ..ObjectMeta::default()
    };
    Pod {
        metadata,
        spec: template.spec,
        status: None,
    }
}

/// The order in which pods are given up, lowest first: those that do the least, then those whose
/// loss costs the least, then the youngest.
fn surrender(pod: &Pod) -> impl Ord + use<> {
    let phase = match pod::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = pod.metadata.annotations.as_ref();
    let cost = cost.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    let cost: i32 = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let youth = |time: Option<Timestamp>| std::cmp::Reverse(time);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        pod::node(pod).is_some(),
        phase,
        pod::is_ready(pod),
        cost,
        youth(pod::ready_since(pod)),
        std::cmp::Reverse(pod::restarts(pod)),
        youth(created),
        pod.metadata.name.clone(),
    )
}
