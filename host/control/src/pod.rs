//! What controllers ask about a pod.

use std::time::Duration;

use eyot_client::view::{Pod, PodCondition};
use jiff::Timestamp;
/// A pod that is to be made: whole, as the others are only seen.
pub(crate) use k8s_openapi::api::core::v1::Pod as NewPod;
use k8s_openapi::{api::core::v1::PodTemplateSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// It has not ended and nobody has asked it to.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when it is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|ready| ready.status == "True")
        .and_then(|ready| ready.last_transition_time.as_ref())
        .map(|time| time.0)
}

/// How much longer a pod must stay ready to count as available: nothing if it does already, `None`
/// if it is not ready. `settle` is its owner's `minReadySeconds`.
pub(crate) fn until_available(pod: &Pod, settle: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    let settle = Duration::from_secs(u64::try_from(settle).unwrap_or(0));
    let since = ready_since(pod).unwrap_or(now);
    let lasted = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(settle.saturating_sub(lasted))
}

pub(crate) fn is_available(pod: &Pod, settle: i32, now: Timestamp) -> bool {
    until_available(pod, settle, now).is_some_and(|left| left.is_zero())
}

/// The value of a label.
pub(crate) fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// A pod from an owner's template, not yet named.
pub(crate) fn from_template(template: &PodTemplateSpec, namespace: Option<&str>) -> NewPod {
    let from = template.metadata.clone().unwrap_or_default();
    let metadata = ObjectMeta {
        namespace: namespace.map(Into::into),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        ..ObjectMeta::default()
    };
    NewPod {
        metadata,
        spec: template.spec.clone(),
        status: None,
    }
}

/// A made pod as the cache will show it.
#[cfg(test)]
pub(crate) fn seen(made: &NewPod) -> Pod {
    serde_json::to_value(made)
        .and_then(serde_json::from_value)
        .unwrap()
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|node| !node.is_empty())
}
