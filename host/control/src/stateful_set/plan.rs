//! What to do about a StatefulSet's pods and claims. Pure.
//!
//! In order, and with `OrderedReady` no further than the first member that is not yet as it should
//! be: members that are wanted, from the lowest; members that are no longer wanted, from the
//! highest; then the update (`update`).

use std::{sync::Arc, time::Duration};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, PodTemplateSpec},
};
use serde_json::Value;

use super::{claims, identity::Member, status::Status, update};
use crate::{
    history,
    pod::{self, NewPod},
    pod_control::BURST,
};

pub(super) struct Input<'a> {
    pub(super) set: &'a StatefulSet,
    /// The revision that an update starts from, and the one of the template.
    pub(super) current: &'a ControllerRevision,
    pub(super) update: &'a ControllerRevision,
    /// The set's pods.
    pub(super) pods: &'a [Arc<Pod>],
    /// A claim of the namespace by its name.
    pub(super) claims: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Send + Sync),
    pub(super) now: Timestamp,
}

/// To be carried out in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    /// Claims to make, with the pods they are for.
    pub(super) claims: Vec<(String, PersistentVolumeClaim)>,
    /// Claims whose owners change: name and merge patch.
    pub(super) owners: Vec<(String, Value)>,
    /// Pods whose labels change: name and merge patch.
    pub(super) labels: Vec<(String, Value)>,
    pub(super) create: Vec<NewPod>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: Status,
    /// When a ready pod will have been ready for long enough.
    pub(super) again: Option<Duration>,
}

impl Plan {
    /// Whether nothing is to be done but perhaps to write the status.
    pub(super) fn is_idle(&self) -> bool {
        self.claims.is_empty()
            && self.owners.is_empty()
            && self.labels.is_empty()
            && self.create.is_empty()
            && self.delete.is_empty()
    }

    pub(super) fn delete(&mut self, pod: &Arc<Pod>) {
        let known = |other: &Arc<Pod>| other.metadata.uid == pod.metadata.uid;
        if !self.delete.iter().any(known) {
            self.delete.push(pod.clone());
        }
    }
}

/// A wanted member, with its pod if there is one.
pub(super) struct Place<'a> {
    pub(super) member: Member,
    pub(super) pod: Option<&'a Arc<Pod>>,
}

impl Input<'_> {
    pub(super) fn replicas(&self) -> i32 {
        let spec = self.set.spec.as_ref();
        spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0)
    }

    fn start(&self) -> i32 {
        let spec = self.set.spec.as_ref();
        let ordinals = spec.and_then(|spec| spec.ordinals.as_ref());
        ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0)
    }

    pub(super) fn settle(&self) -> i32 {
        let spec = self.set.spec.as_ref();
        spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn is_ordered(&self) -> bool {
        let spec = self.set.spec.as_ref();
        let policy = spec.and_then(|spec| spec.pod_management_policy.as_deref());
        policy != Some("Parallel")
    }

    /// It runs, works for long enough, and is not on its way out.
    pub(super) fn is_available(&self, of: &Pod) -> bool {
        of.metadata.deletion_timestamp.is_none()
            && pod::phase(of) == "Running"
            && pod::is_available(of, self.settle(), self.now)
    }

    pub(super) fn is_updated(&self, of: &Pod) -> bool {
        pod::label(of, history::HASH) == self.update.metadata.name.as_deref()
    }
}

/// Compare a StatefulSet with its pods.
pub(super) fn plan(input: &Input<'_>) -> Plan {
    let mut plan = Plan {
        status: Status::of(input),
        ..Plan::default()
    };
    for pod in input.pods {
        let left = pod::until_available(pod, input.settle(), input.now);
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
        }
    }
    if input.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let (places, condemned) = places(input);
    let templates = [input.current, input.update].map(history::template);
    let done = places
        .iter()
        .all(|place| keep(input, place, &templates, &mut plan) || !input.is_ordered())
        && dismiss(input, &places, &condemned, &mut plan);
    if done {
        update::step(input, &places, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// The wanted members from the lowest, and the pods of others from the highest.
fn places<'a>(input: &Input<'a>) -> (Vec<Place<'a>>, Vec<(Member, &'a Arc<Pod>)>) {
    let (start, end) = (
        input.start(),
        input.start().saturating_add(input.replicas()),
    );
    let mut pods: Vec<_> = input
        .pods
        .iter()
        .filter_map(|pod| Some((Member::of(input.set, pod)?, pod)))
        .collect();
    pods.sort_by_key(|(member, _)| *member);
    let (kept, mut condemned): (Vec<_>, Vec<_>) = pods
        .into_iter()
        .partition(|(member, _)| (start..end).contains(&member.0));
    condemned.reverse();
    let mut kept = kept.into_iter().peekable();
    // Of very many that are missing, the first ones are enough for one pass.
    let mut missing = 0;
    let mut places = Vec::new();
    for ordinal in start..end {
        let member = Member(ordinal);
        let pod = kept.next_if(|(known, _)| *known == member);
        missing += usize::from(pod.is_none());
        if missing <= BURST || pod.is_some() {
            let pod = pod.map(|(_, pod)| pod);
            places.push(Place { member, pod });
        } else if kept.peek().is_none() {
            break;
        }
    }
    (places, condemned)
}

/// See to one wanted member; whether it is as it should be.
fn keep(
    input: &Input<'_>,
    place: &Place<'_>,
    [current, update]: &[Option<PodTemplateSpec>; 2],
    plan: &mut Plan,
) -> bool {
    let (set, member) = (input.set, place.member);
    let Some(pod) = place.pod else {
        let old = update::starts_old(input, member.0 - input.start());
        let (template, revision) = match old {
            true => (current, input.current),
            false => (update, input.update),
        };
        let revision = revision.metadata.name.as_deref().unwrap_or_default();
        if let (Some(template), true) = (template, claim(input, member, plan)) {
            plan.create.push(member.pod(set, template, revision));
        }
        return false;
    };
    let leaving = pod.metadata.deletion_timestamp.is_some();
    if pod::has_ended(pod) {
        if !leaving {
            plan.delete(pod);
        }
        return false;
    }
    if pod::phase(pod) == "Pending" {
        claim(input, member, plan);
    }
    if !input.is_available(pod) && input.is_ordered() {
        return false;
    }
    if !leaving && let Some(patch) = member.relabel(set, pod) {
        plan.labels.push((member.name(set), patch));
    }
    own_claims(input, member, pod, false, plan);
    true
}

/// Make the claims of a member that are missing; whether its pod can be made.
fn claim(input: &Input<'_>, member: Member, plan: &mut Plan) -> bool {
    let pod = member.name(input.set);
    let mut possible = true;
    for claim in claims::claims(input.set, member) {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        match (input.claims)(name) {
            None => plan.claims.push((pod.clone(), claim)),
            // On its way out: its successor must wait until it is gone.
            Some(known) => {
                possible &=
                    known.metadata.deletion_timestamp.is_none() && !claims::is_stale(&known, &pod);
            }
        }
    }
    possible
}

fn own_claims(input: &Input<'_>, member: Member, pod: &Pod, condemned: bool, plan: &mut Plan) {
    for (_, name) in claims::names(input.set, member) {
        let claim = (input.claims)(&name);
        let patch = claim.and_then(|claim| claims::own(input.set, pod, condemned, &claim));
        plan.owners.extend(patch.map(|patch| (name, patch)));
    }
}

/// Let the members go that are no longer wanted; whether nothing keeps the update waiting.
fn dismiss(
    input: &Input<'_>,
    places: &[Place<'_>],
    condemned: &[(Member, &Arc<Pod>)],
    plan: &mut Plan,
) -> bool {
    for (member, pod) in condemned {
        own_claims(input, *member, pod, true, plan);
    }
    if !input.is_ordered() {
        for (_, pod) in condemned {
            if pod.metadata.deletion_timestamp.is_none() {
                plan.delete(pod);
            }
        }
        return true;
    }
    let Some((_, next)) = condemned.first() else {
        return true;
    };
    // One after the other, and only while the others work: but one that does not work must not keep
    // itself from going.
    let wanted = places.iter().filter_map(|place| place.pod);
    let others = condemned.iter().rev().map(|(_, pod)| *pod);
    let unhealthy = wanted.chain(others).find(|pod| !input.is_available(pod));
    let alone = unhealthy.is_none_or(|pod| pod.metadata.uid == next.metadata.uid);
    if next.metadata.deletion_timestamp.is_none() && (input.is_available(next) || alone) {
        plan.delete(next);
    }
    false
}
