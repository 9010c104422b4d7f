//! The StatefulSet's status as a patch, if it is to change.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use serde_json::{Value, json};

use super::{plan::Input, update};
use crate::{history, pod};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) replicas: i32,
    pub(super) ready: i32,
    pub(super) available: i32,
    /// Pods of the revision that an update started from, and of the one of the template.
    pub(super) current: i32,
    pub(super) updated: i32,
    pub(super) current_revision: String,
    pub(super) update_revision: String,
}

impl Status {
    pub(super) fn of(input: &Input<'_>) -> Self {
        let name = |revision: &k8s_openapi::api::apps::v1::ControllerRevision| {
            revision.metadata.name.clone().unwrap_or_default()
        };
        let mut status = Self {
            current_revision: name(input.current),
            update_revision: name(input.update),
            ..Self::default()
        };
        for pod in input.pods {
            status.replicas += 1;
            if pod::phase(pod) == "Running" && pod::is_ready(pod) {
                status.ready += 1;
                let available = pod::is_available(pod, input.settle(), input.now);
                status.available += i32::from(available);
            }
            if pod.metadata.deletion_timestamp.is_none() {
                let revision = pod::label(pod, history::HASH);
                status.current += i32::from(revision == Some(&*status.current_revision));
                status.updated += i32::from(revision == Some(&*status.update_revision));
            }
        }
        let all = [status.replicas, status.ready, status.updated];
        if update::is_rolling(input) && all == [input.replicas(); 3] {
            status.current_revision = status.update_revision.clone();
            status.current = status.updated;
        }
        status
    }
}

/// A merge patch of the status, or nothing if it says so already.
pub(super) fn changed(set: &StatefulSet, status: &Status) -> Option<Value> {
    let none = StatefulSetStatus::default();
    let old = set.status.as_ref().unwrap_or(&none);
    let known = Status {
        replicas: old.replicas,
        ready: old.ready_replicas.unwrap_or(0),
        available: old.available_replicas.unwrap_or(0),
        current: old.current_replicas.unwrap_or(0),
        updated: old.updated_replicas.unwrap_or(0),
        current_revision: old.current_revision.clone().unwrap_or_default(),
        update_revision: old.update_revision.clone().unwrap_or_default(),
    };
    let same = known == *status
        && old.observed_generation == set.metadata.generation
        && old.collision_count.is_some();
    if same {
        return None;
    }
    let positive = |count: i32| (count > 0).then_some(count);
    Some(json!({ "status": {
        "observedGeneration": set.metadata.generation,
        "replicas": status.replicas,
        "readyReplicas": positive(status.ready),
        "availableReplicas": status.available,
        "currentReplicas": positive(status.current),
        "updatedReplicas": positive(status.updated),
        "currentRevision": status.current_revision,
        "updateRevision": status.update_revision,
        "collisionCount": old.collision_count.unwrap_or(0),
    } }))
}
