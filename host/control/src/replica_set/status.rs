//! The ReplicaSet's status as a patch, if it is to change.

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::plan::Counts;

/// A merge patch of the status, or nothing if it says so already. `refusal` is why pods could not
/// be created or deleted.
pub(super) fn changed(
    set: &ReplicaSet,
    counts: Counts,
    refusal: Option<String>,
    now: Timestamp,
) -> Option<Value> {
    let none = ReplicaSetStatus::default();
    let old = set.status.as_ref().unwrap_or(&none);
    let conditions = conditions(old, refusal, now);
    let positive = |count: i32| (count > 0).then_some(count);
    let same = old.replicas == counts.replicas
        && old.fully_labeled_replicas.unwrap_or(0) == counts.labeled
        && old.ready_replicas.unwrap_or(0) == counts.ready
        && old.available_replicas.unwrap_or(0) == counts.available
        && old.terminating_replicas.unwrap_or(0) == counts.terminating
        && old.observed_generation == set.metadata.generation
        && old.conditions.as_deref().unwrap_or_default() == conditions;
    if same {
        return None;
    }
    Some(json!({ "status": {
        "replicas": counts.replicas,
        "fullyLabeledReplicas": positive(counts.labeled),
        "readyReplicas": positive(counts.ready),
        "availableReplicas": positive(counts.available),
        "terminatingReplicas": positive(counts.terminating),
        "observedGeneration": set.metadata.generation,
        "conditions": if conditions.is_empty() { Value::Null } else { json!(conditions) },
    }}))
}

/// The conditions with `ReplicaFailure` present exactly while pods are refused.
fn conditions(
    old: &ReplicaSetStatus,
    refusal: Option<String>,
    now: Timestamp,
) -> Vec<ReplicaSetCondition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known = conditions
        .iter()
        .position(|condition| condition.type_ == "ReplicaFailure");
    match (known, refusal) {
        (None, None) => {}
        (Some(at), None) => {
            conditions.remove(at);
        }
        (Some(at), Some(message)) => conditions[at].message = Some(message),
        (None, Some(message)) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }),
    }
    conditions
}
