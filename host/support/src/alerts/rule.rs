//! What one rule says of one reading, pod or node. Pure.

use std::{collections::BTreeMap, time::Duration};

use eyot_api::{
    AlertRule, AlertRuleSpec,
    alert_rule::{
        Comparison, NodeCondition, NodeState, PodCondition, PodState, ReadingCondition, Severity,
    },
    parse_duration,
};
use eyot_client::view::{ContainerStatus, Pod};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

/// A container that has run for so long does not end again and again: then the kubelet begins anew with
/// its pauses, too.
const STEADY: SignedDuration = SignedDuration::from_mins(10);
/// Why a container waits that has no image.
const NO_IMAGE: [&str; 4] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
];

/// A reading as alerts see it.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    pub namespace: &'a str,
    /// The device's name in EdgeX.
    pub device: &'a str,
    pub profile: &'a str,
    pub resource: &'a str,
    pub value: Measured<'a>,
}

/// What a reading says, if it is something that can be compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured<'a> {
    Number(f64),
    Text(&'a str),
    Flag(bool),
}

impl Measured<'_> {
    pub(super) fn words(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.to_owned(),
            Self::Flag(flag) => flag.to_string(),
        }
    }

    fn is(self, text: &str) -> bool {
        match self {
            Self::Number(number) => text.trim().parse() == Ok(number),
            Self::Text(own) => own == text,
            Self::Flag(flag) => text.trim().parse() == Ok(flag),
        }
    }
}

/// A rule that can be followed, or why not.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rule {
    pub(super) spec: AlertRuleSpec,
    pub(super) hold: Duration,
    error: Option<String>,
}

impl Rule {
    pub(super) fn of(rule: &AlertRule) -> Self {
        let spec = rule.spec.clone();
        let mut error = None;
        let hold = spec.hold.as_deref().map(parse_duration).transpose();
        let hold = hold.unwrap_or_else(|wrong| {
            error = Some(format!("for: {wrong}"));
            None
        });
        let limit = spec
            .reading
            .as_ref()
            .filter(|reading| matches!(reading.is, Comparison::Above | Comparison::Below));
        if let Some(limit) = limit
            && number(limit).is_none()
        {
            let value = limit.value.as_deref().unwrap_or_default();
            error = Some(format!("reading.value: {value:?} is no number"));
        }
        Self {
            spec,
            hold: hold.unwrap_or_default(),
            error,
        }
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) fn is_of_readings(&self) -> bool {
        self.spec.reading.is_some() && self.error.is_none()
    }

    pub(super) fn is_of_pods(&self) -> bool {
        self.spec.pod.is_some() && self.error.is_none()
    }

    pub(super) fn is_of_nodes(&self) -> bool {
        self.spec.node.is_some() && self.error.is_none()
    }

    pub(super) fn severity(&self) -> &'static str {
        match self.spec.severity {
            Severity::Minor => "MINOR",
            Severity::Normal => "NORMAL",
            Severity::Critical => "CRITICAL",
        }
    }

    /// What is said of an object; `value` is the reading's, if there is one.
    pub(super) fn words(&self, rule: &str, object: &str, value: &str, holds: bool) -> String {
        if let Some(message) = &self.spec.message {
            let message = message
                .replace("{rule}", rule)
                .replace("{object}", object)
                .replace("{value}", value);
            return match holds {
                true => message,
                false => format!("resolved: {message}"),
            };
        }
        let what = self.condition();
        match (holds, value.is_empty()) {
            (true, true) => format!("{object} is {what}"),
            (true, false) => format!("{object} is {what}: {value}"),
            (false, _) => format!("{object} is not {what} any more"),
        }
    }

    fn condition(&self) -> String {
        let spec = &self.spec;
        if let Some(reading) = &spec.reading {
            let value = reading.value.as_deref().unwrap_or_default();
            return match reading.is {
                Comparison::Above => format!("above {value}"),
                Comparison::Below => format!("below {value}"),
                Comparison::Equal => format!("equal to {value}"),
                Comparison::NotEqual => format!("other than {value}"),
            };
        }
        if let Some(pod) = &spec.pod {
            let words = match pod.is {
                PodState::NotReady => "not ready",
                PodState::CrashLooping => "ending again and again",
                PodState::ImageMissing => "waiting for an image that does not come",
                PodState::Failed => "failed",
                PodState::Unschedulable => "without a node",
            };
            return words.to_owned();
        }
        let words = match spec.node.as_ref().map(|node| node.is) {
            None | Some(NodeState::NotReady) => "not ready",
            Some(NodeState::MemoryPressure) => "short of memory",
            Some(NodeState::DiskPressure) => "short of disk",
            Some(NodeState::PidPressure) => "short of process identifiers",
        };
        words.to_owned()
    }
}

fn number(reading: &ReadingCondition) -> Option<f64> {
    let value: f64 = reading.value.as_deref()?.trim().parse().ok()?;
    value.is_finite().then_some(value)
}

/// Whether a condition holds for a reading, if it is about it at all; `held` if it did before.
pub(super) fn reading(
    condition: &ReadingCondition,
    seen: &Observed<'_>,
    held: bool,
) -> Option<bool> {
    let among =
        |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
    if !among(&condition.devices, seen.device)
        || !among(&condition.profiles, seen.profile)
        || !among(&condition.resources, seen.resource)
    {
        return None;
    }
    let text = condition.value.as_deref().unwrap_or_default();
    let (above, value) = match condition.is {
        Comparison::Equal => return Some(seen.value.is(text)),
        Comparison::NotEqual => return Some(!seen.value.is(text)),
        Comparison::Above => (true, number(condition)?),
        Comparison::Below => (false, number(condition)?),
    };
    let Measured::Number(measured) = seen.value else {
        return None;
    };
    let limit = match held {
        true => condition.until.unwrap_or(value),
        false => value,
    };
    Some(if above {
        measured > limit
    } else {
        measured < limit
    })
}

fn has(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    let mut wanted = wanted.iter();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn pod(condition: &PodCondition, pod: &Pod, held: bool, now: Timestamp) -> bool {
    if !has(pod.labels(), &condition.match_labels) || pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(status) = &pod.status else {
        return false;
    };
    let phase = status.phase.as_deref().unwrap_or_default();
    let conditions = status.conditions.iter().flatten();
    let is = |kind: &str| {
        let mut conditions = conditions.clone();
        conditions.find(|one| one.type_ == kind)
    };
    let containers = status.container_statuses.iter().flatten();
    let mut containers = containers.chain(status.init_container_statuses.iter().flatten());
    match condition.is {
        PodState::NotReady => {
            !matches!(phase, "Succeeded" | "Failed")
                && is("Ready").is_none_or(|one| one.status != "True")
        }
        PodState::CrashLooping => containers.any(|one| is_looping(one, held, now)),
        PodState::ImageMissing => containers.any(|one| {
            let reason = waits_for(one);
            reason.is_some_and(|reason| NO_IMAGE.contains(&reason))
        }),
        PodState::Failed => phase == "Failed",
        PodState::Unschedulable => is("PodScheduled").is_some_and(|one| {
            one.status == "False" && one.reason.as_deref() == Some("Unschedulable")
        }),
    }
}

fn waits_for(container: &ContainerStatus) -> Option<&str> {
    let state = container.state.as_ref()?;
    state.waiting.as_ref()?.reason.as_deref()
}

/// It waits to be started again; or it did, and has not run for long since.
fn is_looping(container: &ContainerStatus, held: bool, now: Timestamp) -> bool {
    if waits_for(container) == Some("CrashLoopBackOff") {
        return true;
    }
    if !held || container.restart_count == 0 {
        return false;
    }
    let Some(state) = &container.state else {
        return false;
    };
    let running = state
        .running
        .as_ref()
        .and_then(|run| run.started_at.as_ref());
    match running {
        Some(since) => now.duration_since(since.0) < STEADY,
        None => state.terminated.is_some(),
    }
}

pub(super) fn node(condition: &NodeCondition, node: &Node) -> bool {
    if !has(node.labels(), &condition.match_labels) || node.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    let mut conditions = conditions.flatten();
    let mut is = |kind: &str| {
        let found = conditions.find(|one| one.type_ == kind);
        found.map(|one| one.status.clone())
    };
    match condition.is {
        NodeState::NotReady => is("Ready").is_none_or(|status| status != "True"),
        NodeState::MemoryPressure => is("MemoryPressure").is_some_and(|status| status == "True"),
        NodeState::DiskPressure => is("DiskPressure").is_some_and(|status| status == "True"),
        NodeState::PidPressure => is("PIDPressure").is_some_and(|status| status == "True"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    #[track_caller]
    fn check(condition: Value, value: Measured<'_>, held: bool, expected: Option<bool>) {
        let seen = Observed {
            namespace: "default",
            device: "press",
            profile: "hydraulic",
            resource: "Temperature",
            value,
        };
        assert_eq!(reading(&of(condition), &seen, held), expected);
    }

    #[test]
    fn readings_are_compared_as_what_they_are() {
        let hot = json!({"resources": ["Temperature"], "is": "Above", "value": 80, "until": 75.5});
        check(hot.clone(), Measured::Number(80.0), false, Some(false));
        check(hot.clone(), Measured::Number(80.5), false, Some(true));
        check(hot.clone(), Measured::Number(76.0), true, Some(true));
        check(hot.clone(), Measured::Number(75.5), true, Some(false));
        check(hot.clone(), Measured::Number(f64::NAN), false, Some(false));
        check(hot, Measured::Text("100"), false, None);
        let cold = json!({"is": "Below", "value": "-3.5"});
        check(cold.clone(), Measured::Number(-4.0), false, Some(true));
        check(cold, Measured::Number(-3.0), true, Some(false));
        let open = json!({"devices": ["press"], "is": "Equal", "value": "open"});
        check(open, Measured::Text("open"), false, Some(true));
        let off = json!({"is": "NotEqual", "value": true});
        check(off, Measured::Flag(false), false, Some(true));
        check(
            json!({"is": "Equal", "value": "7.0"}),
            Measured::Number(7.0),
            false,
            Some(true),
        );
        let other = json!({"profiles": ["another"], "is": "Above", "value": 1});
        check(other, Measured::Number(2.0), false, None);
    }

    fn running(since: &str) -> Value {
        json!({"name": "c", "ready": true, "restartCount": 3, "state": {"running": {"startedAt": since}}})
    }

    #[test]
    fn a_container_that_ends_again_and_again_does_so_until_it_has_run_for_long() {
        let condition: PodCondition = of(json!({"is": "CrashLooping"}));
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let loops = |container: Value, held: bool| {
            let status = json!({"phase": "Running", "containerStatuses": [container]});
            let one = of(json!({"metadata": {"name": "p"}, "status": status}));
            pod(&condition, &one, held, now)
        };
        let waiting = json!({"name": "c", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        assert!(loops(waiting, false));
        assert!(loops(running("2026-01-01T00:55:00Z"), true));
        assert!(
            !loops(running("2026-01-01T00:55:00Z"), false),
            "it need not end again"
        );
        assert!(!loops(running("2026-01-01T00:49:00Z"), true));
    }

    #[test]
    fn pods_and_nodes_are_what_their_conditions_say() {
        let now = Timestamp::UNIX_EPOCH;
        let is = |state: &str, status: Value| {
            let condition = of(json!({"is": state, "matchLabels": {"app": "web"}}));
            let one =
                json!({"metadata": {"name": "p", "labels": {"app": "web"}}, "status": status});
            pod(&condition, &of(one), false, now)
        };
        let ready =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        assert!(!is("NotReady", ready));
        assert!(is("NotReady", json!({"phase": "Pending"})));
        assert!(!is("NotReady", json!({"phase": "Succeeded"})));
        assert!(is("Failed", json!({"phase": "Failed"})));
        let pulling = json!({"phase": "Pending", "containerStatuses": [
            {"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]});
        assert!(is("ImageMissing", pulling));
        let nowhere = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]});
        assert!(is("Unschedulable", nowhere));
        let other = of(json!({"is": "Failed", "matchLabels": {"app": "db"}}));
        let one = of(json!({"metadata": {"name": "p"}, "status": {"phase": "Failed"}}));
        assert!(!pod(&other, &one, false, now));

        let machine = of(json!({"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "Unknown"}]}}));
        let is = |state: &str| node(&of(json!({"is": state})), &machine);
        assert!(
            is("NotReady") && is("DiskPressure") && !is("MemoryPressure") && !is("PIDPressure")
        );
    }

    #[test]
    fn a_rule_that_cannot_be_followed_says_why() {
        let rule = |spec: Value| {
            let rule: AlertRule = of(
                json!({"apiVersion": "eyot.dev/v1alpha1", "kind": "AlertRule",
                "metadata": {"name": "r"}, "spec": spec}),
            );
            Rule::of(&rule)
        };
        let wrong = rule(json!({"reading": {"is": "Above", "value": "high"}}));
        assert_eq!(wrong.error(), Some("reading.value: \"high\" is no number"));
        assert!(!wrong.is_of_readings());
        let right = rule(json!({"reading": {"is": "Above", "value": 80}, "for": "1m30s"}));
        assert_eq!((right.error(), right.hold), (None, Duration::from_secs(90)));
        assert_eq!(
            right.words("r", "press/T", "81", true),
            "press/T is above 80: 81"
        );
        assert_eq!(
            right.words("r", "press/T", "", false),
            "press/T is not above 80 any more"
        );
        let own = rule(json!({"pod": {"is": "Failed"}, "message": "{rule}: look at {object}"}));
        assert_eq!(own.words("r", "p", "", false), "resolved: r: look at p");
    }
}
