//! The DaemonSet's status as a patch, if it is to change.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use serde_json::{Value, json};

use super::{
    placement::Wanted,
    plan::{Input, Place},
};
use crate::pod;

/// Numbers of nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// That should run a pod.
    pub(super) desired: i32,
    /// That should and do.
    pub(super) current: i32,
    /// That should not and do.
    pub(super) wrong: i32,
    pub(super) updated: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
}

impl Counts {
    /// The bound and oldest pod of a node stands for it.
    pub(super) fn of(input: &Input<'_>, places: &[Place<'_>]) -> Self {
        let mut counts = Self::default();
        for place in places {
            let first = place.pods.first();
            if place.wanted != Wanted::Run {
                counts.wrong += i32::from(first.is_some());
                continue;
            }
            counts.desired += 1;
            let Some(pod) = first else { continue };
            counts.current += 1;
            counts.updated += i32::from(input.is_updated(pod));
            counts.ready += i32::from(pod::is_ready(pod));
            counts.available += i32::from(input.is_available(pod));
        }
        counts
    }

    fn unavailable(self) -> i32 {
        self.desired - self.available
    }
}

/// A merge patch of the status, or nothing if it says so already.
pub(super) fn changed(set: &DaemonSet, counts: Counts) -> Option<Value> {
    let none = DaemonSetStatus::default();
    let old = set.status.as_ref().unwrap_or(&none);
    let known = Counts {
        desired: old.desired_number_scheduled,
        current: old.current_number_scheduled,
        wrong: old.number_misscheduled,
        updated: old.updated_number_scheduled.unwrap_or(0),
        ready: old.number_ready,
        available: old.number_available.unwrap_or(0),
    };
    let same = known == counts
        && old.number_unavailable.unwrap_or(0) == counts.unavailable()
        && old.observed_generation == set.metadata.generation;
    if same {
        return None;
    }
    let positive = |count: i32| (count > 0).then_some(count);
    Some(json!({ "status": {
        "observedGeneration": set.metadata.generation,
        "desiredNumberScheduled": counts.desired,
        "currentNumberScheduled": counts.current,
        "numberMisscheduled": counts.wrong,
        "updatedNumberScheduled": positive(counts.updated),
        "numberReady": counts.ready,
        "numberAvailable": positive(counts.available),
        "numberUnavailable": positive(counts.unavailable()),
    }}))
}
