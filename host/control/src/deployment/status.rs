//! The Deployment's status as a patch, if it is to change.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use serde_json::{Value, json};

use super::{
    conditions,
    plan::{Sets, Write, desired, replicas},
};

/// The numbers of a status, summed over the ReplicaSets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) replicas: i32,
    pub(super) updated: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    pub(super) unavailable: i32,
    pub(super) terminating: i32,
}

impl Counts {
    pub(super) fn of(sets: &Sets<'_>) -> Self {
        let sum = |field: fn(&ReplicaSetStatus) -> i32| -> i32 {
            sets.all()
                .filter_map(|set| set.status.as_ref())
                .map(field)
                .sum()
        };
        let available = sum(|status| status.available_replicas.unwrap_or(0));
        let wanted: i32 = sets.all().map(replicas).sum();
        let updated = sets.new.and_then(|set: &ReplicaSet| set.status.as_ref());
        Self {
            replicas: sum(|status| status.replicas),
            updated: updated.map_or(0, |status| status.replicas),
            ready: sum(|status| status.ready_replicas.unwrap_or(0)),
            available,
            unavailable: (wanted - available).max(0),
            terminating: sum(|status| status.terminating_replicas.unwrap_or(0)),
        }
    }

    /// What the status says now.
    pub(super) fn known(status: &DeploymentStatus) -> Self {
        Self {
            replicas: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            unavailable: status.unavailable_replicas.unwrap_or(0),
            terminating: status.terminating_replicas.unwrap_or(0),
        }
    }

    /// All pods that are wanted are there, are of the current template, and work; and no others.
    pub(super) fn complete(self, desired: i32) -> bool {
        [self.replicas, self.updated, self.available]
            .iter()
            .all(|count| *count == desired)
    }
}

pub(super) fn is_complete(deployment: &Deployment, sets: &Sets<'_>) -> bool {
    sets.new.is_some() && Counts::of(sets).complete(desired(deployment))
}

/// A merge patch of the status, unless it says so already, and when to look again.
pub(super) fn changed(
    deployment: &Deployment,
    sets: &Sets<'_>,
    collided: bool,
    writes: &[Write],
    now: Timestamp,
) -> (Option<Value>, Option<Duration>) {
    let none = DeploymentStatus::default();
    let old = deployment.status.as_ref().unwrap_or(&none);
    let (known, counts) = (Counts::known(old), Counts::of(sets));
    let (conditions, again) = conditions::conditions(deployment, sets, counts, writes, now);
    let collisions = match (collided, old.collision_count) {
        (true, count) => Some(count.unwrap_or(0).saturating_add(1)),
        (false, count) => count,
    };
    let same = known == counts
        && old.observed_generation == deployment.metadata.generation
        && old.collision_count == collisions
        && old.conditions.as_deref().unwrap_or_default() == conditions;
    if same {
        return (None, again);
    }
    let positive = |count: i32| (count > 0).then_some(count);
    let patch = json!({ "status": {
        "observedGeneration": deployment.metadata.generation,
        "replicas": positive(counts.replicas),
        "updatedReplicas": positive(counts.updated),
        "readyReplicas": positive(counts.ready),
        "availableReplicas": positive(counts.available),
        "unavailableReplicas": positive(counts.unavailable),
        "terminatingReplicas": positive(counts.terminating),
        "collisionCount": collisions,
        "conditions": conditions,
    }});
    (Some(patch), again)
}
