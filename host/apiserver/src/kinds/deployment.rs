//! Deployment: keeps pods of the newest template running and rolls changes out.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, child, fill, has, int, text},
    metadata_fields, names, status_only, validate_metadata, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    list_kind: "DeploymentList",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    namespaced: true,
    status: true,
    scale: true,
    generation: true,
    decode: |value| check("apps/v1", "Deployment", value),
    default,
    prepare: status_only,
    validate,
    fields: |object| metadata_fields(object, true),
    field_names: &["metadata.name", "metadata.namespace"],
    columns: &[
        Column::name(),
        Column::new("Ready", "Pods that are ready, of those wanted."),
        Column::new("Up-to-date", "Pods of the newest template."),
        Column::new(
            "Available",
            "Pods that have been ready long enough to count.",
        ),
        Column::age(),
        Column::new("Containers", "Names of the template's containers.").wide(),
        Column::new("Images", "Images of the template's containers.").wide(),
        Column::new("Selector", "Which pods belong to the deployment.").wide(),
    ],
    cells: |object, now| {
        let (names, images) = workload::containers(object);
        let count = |pointer: &str| int(object, pointer);
        vec![
            json!(text(object, "/metadata/name")),
            json!(format!(
                "{}/{}",
                count("/status/readyReplicas"),
                count("/spec/replicas")
            )),
            json!(count("/status/updatedReplicas").to_string()),
            json!(count("/status/availableReplicas").to_string()),
            table::age(object, now),
            json!(names),
            json!(images),
            json!(workload::selector_text(at(object, "/spec/selector"))),
        ]
    },
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    workload::default(spec);
    let strategy = child(spec, "strategy");
    fill(strategy, "type", "RollingUpdate");
    if text(strategy, "/type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", "25%");
        fill(rolling, "maxSurge", "25%");
    }
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_metadata(object, old, true, names::subdomain);
    errors.extend(workload::validate(object, old));
    errors.extend(strategy(at(object, "/spec/strategy")));
    let deadline = at(object, "/spec/progressDeadlineSeconds");
    if deadline.as_i64().is_some_and(|seconds| seconds < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            detail,
        ));
    } else if deadline
        .as_i64()
        .is_some_and(|s| s <= int(object, "/spec/minReadySeconds"))
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            detail,
        ));
    }
    errors
}

fn strategy(strategy: &Value) -> Vec<FieldError> {
    let field = "spec.strategy.rollingUpdate";
    match text(strategy, "/type") {
        "Recreate" if has(strategy, "/rollingUpdate") => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            vec![FieldError::forbidden(field, detail)]
        }
        "Recreate" => Vec::new(),
        "RollingUpdate" => {
            let mut errors = Vec::new();
            let unavailable = at(strategy, "/rollingUpdate/maxUnavailable");
            let surge = at(strategy, "/rollingUpdate/maxSurge");
            errors.extend(share(unavailable, &format!("{field}.maxUnavailable")));
            errors.extend(share(surge, &format!("{field}.maxSurge")));
            let zero = |value: &Value| value.as_i64() == Some(0) || value.as_str() == Some("0%");
            if zero(unavailable) && zero(surge) {
                let detail = "may not be 0 when `maxSurge` is 0";
                // Go compares and prints the number, whichever way it was written.
                let value = json!(0);
                errors.push(FieldError::invalid(
                    format!("{field}.maxUnavailable"),
                    &value,
                    detail,
                ));
            }
            if unavailable
                .as_str()
                .and_then(percent)
                .is_some_and(|percent| percent > 100)
            {
                let detail = "must not be greater than 100%";
                let field = format!("{field}.maxUnavailable");
                errors.push(FieldError::invalid(field, unavailable, detail));
            }
            errors
        }
        _ => {
            let value = at(strategy, "/type");
            let supported = ["Recreate", "RollingUpdate"];
            vec![FieldError::not_supported(
                "spec.strategy.type",
                value,
                &supported,
            )]
        }
    }
}

fn percent(text: &str) -> Option<u32> {
    text.strip_suffix('%')
        .filter(|digits| digits.chars().all(|c| c.is_ascii_digit()))?
        .parse()
        .ok()
}

/// A count, or a percentage of the replicas.
fn share(value: &Value, field: &str) -> Option<FieldError> {
    match value {
        Value::String(text) if percent(text).is_none() => Some(FieldError::invalid(
            field,
            value,
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', \
             \u{20}or '93%', regex used for validation is '[0-9]+%')",
        )),
        Value::Number(number) if number.as_i64().is_some_and(|count| count < 0) => Some(
            FieldError::invalid(field, value, "must be greater than or equal to 0"),
        ),
        _ => None,
    }
}
