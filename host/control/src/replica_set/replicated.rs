//! What makes an object a ReplicaSet to this controller.

use std::borrow::Cow;

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::ReplicationController,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde_json::Value;

use crate::pod_control::Owner;

/// Asks for a number of pods of one template.
pub(crate) trait Replicated: Owner {
    /// The controller's name in logs.
    const CONTROLLER: &'static str;

    /// The same in the words of a ReplicaSet.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;

    /// The patch of a ReplicaSet's status as one of this kind's.
    fn status_patch(status: Value) -> Value;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset";

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn status_patch(status: Value) -> Value {
        status
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replicationcontroller";

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.clone().unwrap_or_default();
        let spec = ReplicaSetSpec {
            replicas: spec.replicas,
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector {
                match_labels: spec.selector,
                match_expressions: None,
            },
            template: spec.template,
        };
        let status = self.status.as_ref().map(|status| ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            terminating_replicas: None,
            conditions: status.conditions.as_ref().map(|conditions| {
                let conditions = conditions.iter().cloned();
                let as_sets =
                    |condition: k8s_openapi::api::core::v1::ReplicationControllerCondition| {
                        ReplicaSetCondition {
                            type_: condition.type_,
                            status: condition.status,
                            reason: condition.reason,
                            message: condition.message,
                            last_transition_time: condition.last_transition_time,
                        }
                    };
                conditions.map(as_sets).collect()
            }),
        });
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: Some(spec),
            status,
        })
    }

    fn status_patch(mut status: Value) -> Value {
        if let Some(fields) = status["status"].as_object_mut() {
            fields.remove("terminatingReplicas");
        }
        status
    }
}
