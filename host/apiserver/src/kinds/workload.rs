//! What Deployment and ReplicaSet share: replicas, a selector, a pod template.

use serde_json::Value;

use super::{
    json::{at, child, entries, fill, list, text},
    metadata::{self, invalid},
    names, pod,
};
use crate::{field_error::FieldError, selector::LabelSelector};

/// Defaults of `spec`.
pub(super) fn default(spec: &mut Value) {
    fill(spec, "replicas", 1);
    pod::default_pod_spec(child(child(spec, "template"), "spec"));
}

/// Rules of `spec`.
pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = at(object, "/spec");
    let mut errors = Vec::new();
    for name in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        let value = at(spec, &format!("/{name}"));
        if value.as_i64().is_some_and(|count| count < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(format!("spec.{name}"), value, detail));
        }
    }
    let selector = at(spec, "/selector");
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    } else {
        errors.extend(validate_selector(selector, "spec.selector"));
        let empty = entries(selector, "/matchLabels").next().is_none()
            && list(selector, "/matchExpressions").is_empty();
        if empty {
            let detail = "empty selector is invalid for this kind";
            errors.push(FieldError::invalid("spec.selector", selector, detail));
        }
    }
    let labels = at(spec, "/template/metadata/labels");
    let matches = LabelSelector::from_json(selector)
        .is_ok_and(|selector| !selector.is_everything() && selector.matches_json(labels));
    if !matches {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            labels,
            detail,
        ));
    }
    errors.extend(template(at(spec, "/template"), "spec.template"));
    if let Some(old) = old
        && at(old, "/spec/selector") != selector
    {
        errors.push(FieldError::invalid(
            "spec.selector",
            selector,
            "field is immutable",
        ));
    }
    errors
}

/// A template whose pods a controller replaces: they must restart for ever.
fn template(template: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = metadata::labels(at(template, "/metadata/labels"), &format!("{field}.labels"));
    errors.extend(metadata::annotations(
        template,
        &format!("{field}.annotations"),
    ));
    errors.extend(pod::validate_pod_spec(
        at(template, "/spec"),
        &format!("{field}.spec"),
    ));
    let policy = text(template, "/spec/restartPolicy");
    if matches!(policy, "OnFailure" | "Never") {
        let value = at(template, "/spec/restartPolicy");
        let field = format!("{field}.spec.restartPolicy");
        errors.push(FieldError::not_supported(field, value, &["Always"]));
    }
    errors
}

/// A `metav1.LabelSelector`.
pub(super) fn validate_selector(selector: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = metadata::labels(
        at(selector, "/matchLabels"),
        &format!("{field}.matchLabels"),
    );
    for (index, one) in list(selector, "/matchExpressions").iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = list(one, "/values");
        match text(one, "/operator") {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                format!("{field}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(
                format!("{field}.operator"),
                at(one, "/operator"),
                "not a valid selector operator",
            )),
        }
        let key = text(one, "/key");
        let found = names::qualified(key);
        errors.extend(
            found
                .iter()
                .map(|detail| invalid(format!("{field}.key"), key, detail)),
        );
    }
    errors
}

/// `a=b,c in (d,e)`, as kubectl shows a selector; `<none>` for an empty one.
pub(super) fn selector_text(selector: &Value) -> String {
    if selector.is_null() {
        return "<none>".to_owned();
    }
    let mut parts: Vec<String> = entries(selector, "/matchLabels")
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for one in list(selector, "/matchExpressions") {
        let key = text(one, "/key");
        let values: Vec<&str> = list(one, "/values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match text(one, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    if parts.is_empty() {
        "<none>".to_owned()
    } else {
        parts.join(",")
    }
}

/// Names and images of a template's containers, each joined with commas.
pub(super) fn containers(object: &Value) -> (String, String) {
    let joined = |pointer: &str| {
        let containers = list(object, "/spec/template/spec/containers");
        containers
            .iter()
            .map(|one| text(one, pointer))
            .collect::<Vec<_>>()
            .join(",")
    };
    (joined("/name"), joined("/image"))
}
