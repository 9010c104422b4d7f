//! What an ending namespace says of itself: five conditions, with the types, reasons and words of
//! Kubernetes (`pkg/controller/namespace/deletion/status_condition_utils.go`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::Left;

const DISCOVERY: &str = "NamespaceDeletionDiscoveryFailure";
const VERSIONS: &str = "NamespaceDeletionGroupVersionParsingFailure";
const DELETION: &str = "NamespaceDeletionContentFailure";
const CONTENT: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";

/// A condition; `True` means that there is something in the way.
#[derive(Debug, PartialEq)]
pub(super) struct Condition {
    kind: &'static str,
    met: bool,
    reason: &'static str,
    message: String,
}

/// What is served could not be found out.
pub(super) fn undiscovered(words: &str) -> Vec<Condition> {
    let mut all = of(&Left::default());
    set(&mut all, DISCOVERY, "DiscoveryFailed", words.to_owned());
    all
}

/// What keeps a namespace in which this is left.
pub(super) fn of(left: &Left) -> Vec<Condition> {
    let deleted = "All content successfully deleted, may be waiting on finalization";
    let removed = "All content successfully removed";
    let mut all: Vec<_> = [
        (
            DISCOVERY,
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            VERSIONS,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (DELETION, "ContentDeleted", deleted),
        (CONTENT, "ContentRemoved", removed),
        (
            FINALIZERS,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
    .into_iter()
    .map(|(kind, reason, message)| Condition {
        kind,
        met: false,
        reason,
        message: message.to_owned(),
    })
    .collect();
    if !left.errors.is_empty() {
        let mut words: Vec<_> = left.errors.iter().map(ToString::to_string).collect();
        words.sort();
        let message = format!(
            "Failed to delete all resource types, {} remaining: {}",
            words.len(),
            words.join(", ")
        );
        set(&mut all, DELETION, "ContentDeletionFailed", message);
    }
    if !left.objects.is_empty() {
        let listed = list(&left.objects, |name, count| {
            format!("{name} has {count} resource instances")
        });
        let message = format!("Some resources are remaining: {listed}");
        set(&mut all, CONTENT, "SomeResourcesRemain", message);
    }
    if !left.finalizers.is_empty() {
        let listed = list(&left.finalizers, |name, count| {
            format!("{name} in {count} resource instances")
        });
        let message = format!("Some content in the namespace has finalizers remaining: {listed}");
        set(&mut all, FINALIZERS, "SomeFinalizersRemain", message);
    }
    all
}

fn list(
    counts: &std::collections::BTreeMap<String, usize>,
    say: impl Fn(&str, usize) -> String,
) -> String {
    let said: Vec<_> = counts
        .iter()
        .map(|(name, count)| say(name, *count))
        .collect();
    said.join(", ")
}

fn set(all: &mut [Condition], kind: &str, reason: &'static str, message: String) {
    for condition in all.iter_mut().filter(|condition| condition.kind == kind) {
        condition.met = true;
        condition.reason = reason;
        condition.message.clone_from(&message);
    }
}

/// A strategic merge patch of the conditions that differ from those of the namespace; the time of a
/// condition is when its status changed last. `None` where all are as they should be.
pub(super) fn changed(
    namespace: &Namespace,
    wanted: Vec<Condition>,
    now: Timestamp,
) -> Option<Value> {
    let status = namespace.status.as_ref();
    let known = status.and_then(|status| status.conditions.as_deref());
    let known = known.unwrap_or_default();
    let changed: Vec<_> = wanted
        .into_iter()
        .filter_map(|wanted| {
            let status = if wanted.met { "True" } else { "False" };
            let old = known.iter().find(|known| known.type_ == wanted.kind);
            let same = old.is_some_and(|old| {
                old.status == status
                    && old.reason.as_deref() == Some(wanted.reason)
                    && old.message.as_deref() == Some(&wanted.message)
            });
            let mut condition = json!({
                "type": wanted.kind,
                "status": status,
                "reason": wanted.reason,
                "message": wanted.message,
            });
            if old.is_none_or(|old| old.status != status) {
                let second = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                condition["lastTransitionTime"] = second.into();
            }
            (!same).then_some(condition)
        })
        .collect();
    (!changed.is_empty()).then(|| json!({ "status": { "conditions": changed } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left() -> Left {
        let counts = |all: &[(&str, usize)]| {
            let owned = all.iter().map(|(name, count)| ((*name).to_owned(), *count));
            owned.collect()
        };
        Left {
            objects: counts(&[("pods.", 2), ("deployments.apps", 1)]),
            finalizers: counts(&[("example.com/keep", 1)]),
            errors: Vec::new(),
        }
    }

    #[test]
    fn what_is_left_is_told_by_kind_and_by_finalizer() {
        let all = of(&left());
        let said: Vec<_> = all
            .iter()
            .map(|condition| (condition.kind, condition.met, condition.message.as_str()))
            .collect();
        let deleted = "All content successfully deleted, may be waiting on finalization";
        let remaining = "Some resources are remaining: deployments.apps has 1 resource instances, \
            pods. has 2 resource instances";
        let kept = "Some content in the namespace has finalizers remaining: \
            example.com/keep in 1 resource instances";
        assert_eq!(
            said[2..],
            [
                (DELETION, false, deleted),
                (CONTENT, true, remaining),
                (FINALIZERS, true, kept)
            ]
        );
    }

    #[test]
    fn only_what_changed_is_written_and_only_a_new_status_has_a_new_time() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let patch = changed(&Namespace::default(), of(&left()), now).unwrap();
        assert_eq!(patch["status"]["conditions"].as_array().unwrap().len(), 5);
        let namespace: Namespace = serde_json::from_value(patch).unwrap();
        assert_eq!(changed(&namespace, of(&left()), now), None);
        let mut fewer = left();
        fewer.objects.remove("pods.");
        fewer.finalizers.clear();
        let patch = changed(&namespace, of(&fewer), now).unwrap();
        let told = patch["status"]["conditions"].as_array().unwrap();
        let timed = |index: usize| told[index].get("lastTransitionTime").is_some();
        assert_eq!((told.len(), timed(0), timed(1)), (2, false, true));
    }
}
