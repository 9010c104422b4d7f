//! Disruption budgets as evictions use them.

use std::sync::Arc;

use eyot_store::Key;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    api::Api, failure::Failure, object, resource::Resource, selector::LabelSelector,
    verbs::managers::track_own_status,
};

/// Pods in `disruptedPods` at most: more were not confirmed by the controller.
const DISRUPTED: usize = 2000;

pub(super) struct Budget {
    pub(super) key: Key,
    pub(super) revision: u64,
    resource: Arc<Resource>,
    value: Value,
}

/// The budgets that select the pod.
pub(super) fn of_pod(api: &Api, namespace: &str, pod: &Value) -> Result<Vec<Budget>, Failure> {
    let catalog = api.catalog();
    let Some(resource) = catalog.find("policy", "v1", "poddisruptionbudgets") else {
        return Ok(Vec::new());
    };
    let labels = pod.pointer("/metadata/labels").unwrap_or(&Value::Null);
    let mut found = Vec::new();
    for stored in api
        .store
        .list(&resource.storage, Some(namespace))
        .objects
        .iter()
    {
        let value = resource.value(stored)?;
        let selector = value.pointer("/spec/selector").unwrap_or(&Value::Null);
        // One that makes no sense selects nothing.
        let selects = LabelSelector::from_json(selector);
        if selects.is_ok_and(|selector| selector.matches_json(labels)) {
            found.push(Budget {
                key: Key::new(&*resource.storage, namespace, object::name(&value)),
                revision: stored.revision,
                resource: resource.clone(),
                value,
            });
        }
    }
    Ok(found)
}

impl Budget {
    pub(super) fn name(&self) -> &str {
        object::name(&self.value)
    }

    fn number(&self, pointer: &str) -> i64 {
        self.value
            .pointer(pointer)
            .and_then(Value::as_i64)
            .unwrap_or(0)
    }

    /// Whether a pod that is not ready, and so counts for nothing, may go without a grant.
    pub(super) fn lets_unready_go(&self) -> bool {
        let policy = object::text(&self.value, &["spec", "unhealthyPodEvictionPolicy"]);
        let desired = self.number("/status/desiredHealthy");
        policy == "AlwaysAllow" || (desired > 0 && self.number("/status/currentHealthy") >= desired)
    }

    /// The budget after one more pod was let go; or why it cannot be.
    pub(super) fn grant(&self, pod: &str, now: Timestamp) -> Result<Value, Failure> {
        let name = self.name();
        let forbidden = |why: &str| Failure::forbidden("policy", "poddisruptionbudget", name, why);
        if self.number("/status/observedGeneration") < self.number("/metadata/generation") {
            let cause =
                format!("The disruption budget {name} is still being processed by the server.");
            return Err(Failure::disrupts_too_much(&cause, 10));
        }
        let allowed = self.number("/status/disruptionsAllowed");
        if allowed < 0 {
            return Err(forbidden("pdb disruptions allowed is negative"));
        }
        let disrupted = self.value.pointer("/status/disruptedPods");
        if disrupted
            .and_then(Value::as_object)
            .is_some_and(|all| all.len() > DISRUPTED)
        {
            let why =
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
            return Err(forbidden(why));
        }
        if allowed == 0 {
            let (needs, has) = (
                self.number("/status/desiredHealthy"),
                self.number("/status/currentHealthy"),
            );
            let cause = format!(
                "The disruption budget {name} needs {needs} healthy pods and has {has} currently"
            );
            return Err(Failure::disrupts_too_much(&cause, 0));
        }
        let mut next = self.value.clone();
        let now = object::timestamp(now);
        let generation = self.number("/status/observedGeneration");
        let status = object::member(&mut next, "status");
        status.insert("disruptionsAllowed".into(), json!(allowed - 1));
        let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
        if !disrupted.is_object() {
            *disrupted = json!({});
        }
        disrupted[pod] = json!(now);
        if allowed == 1 {
            let condition = json!({
                "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
                "message": "", "observedGeneration": generation, "lastTransitionTime": now,
            });
            let conditions = status.entry("conditions").or_insert_with(|| json!([]));
            if let Some(conditions) = conditions.as_array_mut() {
                conditions.retain(|found| found["type"] != "DisruptionAllowed");
                conditions.push(condition);
            }
        }
        track_own_status(&self.resource, &self.value, &mut next);
        Ok(next)
    }
}
