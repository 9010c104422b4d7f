//! How many pods of a budget may be disrupted now. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eyot_client::view::Pod;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};

use crate::{pod, rounding};

const ALLOWED: &str = "DisruptionAllowed";
/// A pod whose eviction was granted so long ago, and that is still there, was not evicted.
const EVICTION: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    /// Pods that were to go, and did not.
    pub(super) stayed: Vec<Arc<Pod>>,
    /// When the next of them will have stayed for too long.
    pub(super) again: Option<Duration>,
}

/// Whether the budget reckons by how many pods there should be, which their controllers know.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|spec| {
        spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
    })
}

/// Compare a budget with its pods. `scale` is how many there should be by their controllers, or
/// why that is not known.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: Result<i32, String>,
    now: Timestamp,
) -> Plan {
    let old = budget.status.clone().unwrap_or_default();
    let scale = match scale {
        Ok(scale) => scale,
        Err(why) => {
            // Nothing is allowed as long as nothing is known.
            let mut status = old;
            status.disruptions_allowed = Some(0);
            let generation = status.observed_generation;
            set_condition(&mut status, ("False", "SyncFailed", &why), generation, now);
            return Plan {
                status,
                stayed: Vec::new(),
                again: None,
            };
        }
    };
    let spec = budget.spec.clone().unwrap_or_default();
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (
            scale,
            scale
                .saturating_sub(rounding::resolve(most, scale, true))
                .max(0),
        ),
        (None, Some(IntOrString::Int(least))) => {
            (i32::try_from(pods.len()).unwrap_or(i32::MAX), *least)
        }
        (None, Some(least)) => (scale, rounding::resolve(least, scale, true)),
        (None, None) => (0, 0),
    };
    let mut plan = Plan {
        status: old,
        stayed: Vec::new(),
        again: None,
    };
    let waiting = plan.waiting(pods, now);
    let healthy = pods.iter().filter(|pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pod::is_ready(pod)
            && pod
                .metadata
                .name
                .as_ref()
                .is_none_or(|name| !waiting.contains_key(name))
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = match expected {
        ..=0 => 0,
        _ => healthy.saturating_sub(desired).max(0),
    };
    let status = &mut plan.status;
    status.current_healthy = Some(healthy);
    status.desired_healthy = Some(desired);
    status.expected_pods = Some(expected);
    status.disruptions_allowed = Some(allowed);
    status.disrupted_pods = Some(waiting).filter(|all| !all.is_empty());
    status.observed_generation = budget.metadata.generation;
    let said = match allowed > 0 {
        true => ("True", "SufficientPods", ""),
        false => ("False", "InsufficientPods", ""),
    };
    set_condition(status, said, budget.metadata.generation, now);
    plan
}

impl Plan {
    /// The pods whose eviction was granted and is under way.
    fn waiting(&mut self, pods: &[Arc<Pod>], now: Timestamp) -> BTreeMap<String, Time> {
        let listed = self.status.disrupted_pods.take().unwrap_or_default();
        let mut waiting = BTreeMap::new();
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let Some(since) = listed.get(&name) else {
                continue;
            };
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let left = EVICTION.saturating_sub(now.duration_since(since.0));
            match Duration::try_from(left) {
                Ok(left) if !left.is_zero() => {
                    self.again = Some(self.again.map_or(left, |again| again.min(left)));
                    waiting.insert(name, since.clone());
                }
                _ => self.stayed.push(pod.clone()),
            }
        }
        waiting
    }
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    (state, reason, message): (&str, &str, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let mut new = Condition {
        type_: ALLOWED.to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|found| found.type_ == ALLOWED) {
        Some(found) => {
            if found.status == new.status {
                new.last_transition_time = found.last_transition_time.clone();
            }
            *found = new;
        }
        None => conditions.push(new),
    }
}
