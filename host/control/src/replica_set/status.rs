//! The status of a ReplicaSet or ReplicationController as a patch, if it is to change.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::plan::Counts;

/// What became of creating and deleting pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was not time for it: nothing is known.
    Untried,
    Done,
    /// The API refused, in these words.
    CreateRefused(String),
    DeleteRefused(String),
}

/// A merge patch of the status, or nothing if it says so already.
pub(super) fn changed(
    set: &ReplicaSet,
    counts: Counts,
    outcome: &Outcome,
    now: Timestamp,
) -> Option<Value> {
    let none = ReplicaSetStatus::default();
    let old = set.status.as_ref().unwrap_or(&none);
    let conditions = conditions(old, outcome, now);
    let positive = |count: i32| (count > 0).then_some(count);
    let same = old.replicas == counts.replicas
        && old.fully_labeled_replicas.unwrap_or(0) == counts.labeled
        && old.ready_replicas.unwrap_or(0) == counts.ready
        && old.available_replicas.unwrap_or(0) == counts.available
        && old.terminating_replicas.unwrap_or(0) == counts.terminating
        && old.observed_generation == set.metadata.generation;
    let same_conditions = old.conditions.as_deref().unwrap_or_default() == conditions;
    if same && same_conditions {
        return None;
    }
    let mut patch = json!({ "status": {
        "replicas": counts.replicas,
        "fullyLabeledReplicas": positive(counts.labeled),
        "readyReplicas": positive(counts.ready),
        "availableReplicas": positive(counts.available),
        "terminatingReplicas": positive(counts.terminating),
        "observedGeneration": set.metadata.generation,
    }});
    // A list is replaced as a whole: what somebody else added to it meanwhile must not be lost.
    if !same_conditions {
        patch["status"]["conditions"] = match conditions.is_empty() {
            true => Value::Null,
            false => json!(conditions),
        };
        patch["metadata"] = json!({"resourceVersion": set.metadata.resource_version});
    }
    Some(patch)
}

/// The conditions with `ReplicaFailure` present exactly while pods are refused. What it says is what
/// was said first: the words of a refusal by quota differ each time.
fn conditions(
    old: &ReplicaSetStatus,
    outcome: &Outcome,
    now: Timestamp,
) -> Vec<ReplicaSetCondition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let is_failure = |condition: &ReplicaSetCondition| condition.type_ == "ReplicaFailure";
    let (reason, message) = match outcome {
        Outcome::Untried => return conditions,
        Outcome::Done => {
            conditions.retain(|condition| !is_failure(condition));
            return conditions;
        }
        Outcome::CreateRefused(message) => ("FailedCreate", message),
        Outcome::DeleteRefused(message) => ("FailedDelete", message),
    };
    if !conditions.iter().any(is_failure) {
        conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.clone()),
            last_transition_time: Some(Time(now)),
        });
    }
    conditions
}
