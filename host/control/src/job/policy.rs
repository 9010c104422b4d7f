//! What a pod's failure means to its Job, and when enough indexes have succeeded. Pure.

use eyot_client::view::{ContainerStatus, Pod};
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};

use super::indexes::Indexes;
use crate::pod;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the limits.
    Count,
    /// As if it had not been.
    Ignore,
    /// It counts, and its index is not tried again.
    FailIndex,
    /// It counts, and the Job fails with this message.
    FailJob(String),
}

/// The verdict of the first rule of the Job's policy that matches; without one it counts.
pub(super) fn verdict(job: &Job, pod: &Pod) -> Verdict {
    let policy = job
        .spec
        .as_ref()
        .and_then(|spec| spec.pod_failure_policy.as_ref());
    let rules = policy.map_or(&[][..], |policy| &policy.rules);
    let place = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    for (at, rule) in rules.iter().enumerate() {
        let action = &rule.action;
        let message = if let Some(codes) = &rule.on_exit_codes {
            exited(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {place} failed with exit code {code} matching \
                     {action} rule at index {at}"
                )
            })
        } else {
            let patterns = rule.on_pod_conditions.iter().flatten();
            let held = patterns
                .filter(|pattern| {
                    let wanted = pattern.status.as_deref().unwrap_or("True");
                    pod::condition(pod, &pattern.type_).is_some_and(|c| c.status == wanted)
                })
                .map(|pattern| &pattern.type_);
            held.into_iter().next().map(|condition| {
                format!(
                    "Pod {place} has condition {condition} matching {action} rule at index {at}"
                )
            })
        };
        let Some(message) = message else { continue };
        match action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "Count" => return Verdict::Count,
            "FailIndex" => return Verdict::FailIndex,
            "FailJob" => return Verdict::FailJob(message),
            // The API knows no others; a later one is passed over.
            _ => {}
        }
    }
    Verdict::Count
}

/// The container that ended with one of the codes, and the code.
fn exited<'a>(
    pod: &'a Pod,
    wanted: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let matching = |container: &'a ContainerStatus| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        let code = ended.exit_code;
        let named = wanted.container_name.as_ref();
        let listed = wanted.values.contains(&code);
        let matches = match wanted.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        (code != 0 && matches && named.is_none_or(|name| *name == container.name))
            .then_some((container.name.as_str(), code))
    };
    let main = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    main.chain(init).find_map(matching)
}

/// The message of the first rule that is met, if one is.
pub(super) fn success(
    policy: Option<&SuccessPolicy>,
    succeeded: &Indexes,
    completions: u32,
) -> Option<String> {
    let policy = policy.filter(|_| !succeeded.is_empty())?;
    let met = policy.rules.iter().position(|rule| {
        let count = rule.succeeded_count.and_then(|n| u32::try_from(n).ok());
        let Some(indexes) = &rule.succeeded_indexes else {
            return count.is_some_and(|count| succeeded.total() >= count);
        };
        let required = Indexes::parse(indexes, completions);
        let shared = required.shared(succeeded);
        !required.is_empty()
            && (shared == required.total() || count.is_some_and(|count| shared >= count))
    });
    met.map(|at| format!("Matched rules at index {at}"))
}
