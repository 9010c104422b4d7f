//! Bodies that subresources take and nothing stores: Scale, Binding, Eviction, DeleteOptions.

use serde_json::Value;

use super::{
    RequestSpec, check,
    json::{at, text},
};
use crate::field_error::FieldError;

pub(super) static ALL: &[RequestSpec] = &[
    RequestSpec {
        api_version: "autoscaling/v1",
        kind: "Scale",
        decode: |value| check("autoscaling/v1", "Scale", value),
        validate: |value| {
            let replicas = at(value, "/spec/replicas");
            let detail = "must be greater than or equal to 0";
            let negative = replicas.as_i64().is_some_and(|count| count < 0);
            negative
                .then(|| FieldError::invalid("spec.replicas", replicas, detail))
                .into_iter()
                .collect()
        },
    },
    RequestSpec {
        api_version: "v1",
        kind: "Binding",
        decode: |value| check("v1", "Binding", value),
        validate: |value| {
            let mut errors = Vec::new();
            let kind = text(value, "/target/kind");
            if !matches!(kind, "" | "Node") {
                let supported = ["Node", "<empty>"];
                let value = at(value, "/target/kind");
                errors.push(FieldError::not_supported("target.kind", value, &supported));
            }
            if text(value, "/target/name").is_empty() {
                errors.push(FieldError::required("target.name", ""));
            }
            errors
        },
    },
    RequestSpec {
        api_version: "policy/v1",
        kind: "Eviction",
        decode: |value| check("policy/v1", "Eviction", value),
        validate: |_| Vec::new(),
    },
    RequestSpec {
        api_version: "v1",
        kind: "DeleteOptions",
        decode: |value| check("v1", "DeleteOptions", value),
        validate: delete_options,
    },
];

fn delete_options(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let policy = text(value, "/propagationPolicy");
    if !matches!(policy, "" | "Foreground" | "Background" | "Orphan") {
        let given = at(value, "/propagationPolicy");
        let supported = ["Foreground", "Background", "Orphan", "nil"];
        errors.push(FieldError::not_supported(
            "propagationPolicy",
            given,
            &supported,
        ));
    }
    if !policy.is_empty() && !at(value, "/orphanDependents").is_null() {
        let detail = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid(
            "propagationPolicy",
            &Value::from(policy),
            detail,
        ));
    }
    if at(value, "/gracePeriodSeconds")
        .as_i64()
        .is_some_and(|seconds| seconds < 0)
    {
        let detail = "must be greater than or equal to 0";
        let given = at(value, "/gracePeriodSeconds");
        errors.push(FieldError::invalid("gracePeriodSeconds", given, detail));
    }
    errors
}
