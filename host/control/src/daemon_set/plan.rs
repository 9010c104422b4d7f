//! What to do about a DaemonSet's pods. Pure: first each node gets the pods that it must have and
//! loses those that it must not; where that leaves nothing to do, the update goes on by a step.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node};

use super::{
    placement::{self, Wanted},
    pods::Maker,
    rolling::{self, Bounds},
    status::Counts,
};
use crate::{
    history,
    pod::{self, NewPod},
};

/// Pods created and deleted in one pass, each.
const BURST: usize = 250;

pub(super) struct Input<'a> {
    pub(super) set: &'a DaemonSet,
    /// Of the current template.
    pub(super) hash: &'a str,
    pub(super) nodes: &'a [Arc<Node>],
    /// The DaemonSet's pods.
    pub(super) mine: &'a [Arc<Pod>],
    /// All pods of its namespace, whose names are taken.
    pub(super) in_namespace: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// A pod that is over and is taken away so that another may follow.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) pod: Arc<Pod>,
    pub(super) node: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) ended: Vec<Ended>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) create: Vec<NewPod>,
    pub(super) status: Counts,
    /// When a pod will count as available, or a node's back-off is over.
    pub(super) again: Option<Duration>,
}

impl Plan {
    /// Whether nothing is to be done about pods.
    pub(super) fn is_idle(&self) -> bool {
        self.ended.is_empty() && self.delete.is_empty() && self.create.is_empty()
    }

    fn wait(&mut self, time: Duration) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
    }
}

/// One node with the DaemonSet's pods on it or meant for it, the bound and oldest first.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) wanted: Wanted,
    pub(super) pods: Vec<&'a Arc<Pod>>,
}

impl Input<'_> {
    pub(super) fn settle(&self) -> i32 {
        let spec = self.set.spec.as_ref();
        spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        pod::is_available(pod, self.settle(), self.now)
    }

    pub(super) fn is_updated(&self, pod: &Pod) -> bool {
        pod::label(pod, history::HASH) == Some(self.hash)
    }
}

/// Compare a DaemonSet with the nodes and its pods. `backoff` says how much longer the failed pod
/// of a node stays.
pub(super) fn plan(input: &Input<'_>, backoff: impl Fn(&str) -> Option<Duration>) -> Plan {
    let (places, stray) = places(input);
    let mut plan = Plan {
        status: Counts::of(input, &places),
        ..Plan::default()
    };
    for pod in input.mine {
        let left = pod::until_available(pod, input.settle(), input.now);
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            plan.wait(left);
        }
    }
    // Meant for nodes that are gone, and never bound: nobody else would take them away.
    let unbound = stray.into_iter().filter(|pod| pod::node(pod).is_none());
    plan.delete = unbound.filter(|pod| living(pod)).cloned().collect();
    let mut maker = Maker::new(input);
    let bounds = rolling::bounds(input.set, plan.status.desired);
    for place in &places {
        manage(input, place, bounds, &backoff, &mut maker, &mut plan);
    }
    if plan.is_idle() {
        rolling::step(input, &places, bounds, &mut maker, &mut plan);
    }
    plan.delete.truncate(BURST);
    plan.create.truncate(BURST);
    plan
}

fn living(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
}

/// The nodes with their pods, and the pods of no node.
fn places<'a>(input: &Input<'a>) -> (Vec<Place<'a>>, Vec<&'a Arc<Pod>>) {
    let spec = placement::spec(input.set).into();
    let place = |node: &'a Arc<Node>| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let wanted = placement::wanted(&spec, node);
        let pods = Vec::new();
        (name, Place { name, wanted, pods })
    };
    let mut places: BTreeMap<&str, Place<'_>> = input.nodes.iter().map(place).collect();
    let mut stray = Vec::new();
    for pod in input.mine {
        let place = placement::target(pod).and_then(|node| places.get_mut(node));
        match place {
            Some(place) => place.pods.push(pod),
            None => stray.push(pod),
        }
    }
    let mut places: Vec<_> = places.into_values().collect();
    for place in &mut places {
        place.pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (pod::node(pod).is_none(), created, &pod.metadata.name)
        });
    }
    (places, stray)
}

/// What one node must have and must not.
fn manage(
    input: &Input<'_>,
    place: &Place<'_>,
    bounds: Bounds,
    backoff: &impl Fn(&str) -> Option<Duration>,
    maker: &mut Maker<'_>,
    plan: &mut Plan,
) {
    if place.wanted == Wanted::Leave {
        let here = place.pods.iter().filter(|pod| living(pod));
        plan.delete.extend(here.map(|pod| (*pod).clone()));
        return;
    }
    if place.pods.is_empty() {
        if place.wanted == Wanted::Run {
            plan.create.push(maker.pod_for(place.name));
        }
        return;
    }
    let mut running = Vec::new();
    for pod in place.pods.iter().filter(|pod| living(pod)) {
        match pod::phase(pod) {
            "Failed" => match backoff(place.name) {
                Some(left) => plan.wait(left),
                None => plan.ended.push(ended(pod, place)),
            },
            "Succeeded" => plan.ended.push(ended(pod, place)),
            _ => running.push(*pod),
        }
    }
    let surplus = if bounds.surge == 0 {
        running.split_off(running.len().min(1))
    } else {
        beyond_surge(input, &running)
    };
    plan.delete.extend(surplus.into_iter().cloned());
}

fn ended(pod: &Arc<Pod>, place: &Place<'_>) -> Ended {
    Ended {
        pod: pod.clone(),
        node: place.name.to_owned(),
    }
}

/// With surge a node may have two pods: an old one that works, until the new one does too.
fn beyond_surge<'a>(input: &Input<'_>, running: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    if running.len() <= 1 {
        return Vec::new();
    }
    let (new, old): (Vec<_>, Vec<_>) = running
        .iter()
        .copied()
        .partition(|pod| input.is_updated(pod));
    let (mut new, mut old) = (new.into_iter(), old.into_iter());
    let (first_new, first_old) = (new.next(), old.next());
    let mut surplus: Vec<_> = new.chain(old).collect();
    if let (Some(new), Some(old)) = (first_new, first_old)
        && (!pod::is_ready(old) || input.is_available(new))
    {
        surplus.push(old);
    }
    surplus
}
