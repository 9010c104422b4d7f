//! The rules of a HorizontalPodAutoscaler, in Kubernetes' words.

use serde_json::Value;

use crate::{
    field_error::FieldError,
    kinds::{
        findings::Findings,
        json::{at, has, int, list, text},
        metadata::{self, invalid},
        names, resource_name,
    },
    quantity::Quantity,
};

/// Longest period of a policy, in seconds.
const PERIOD: i64 = 1800;
/// Longest stabilisation, in seconds.
const WINDOW: i64 = 3600;
const TYPES: [&str; 5] = [
    "ContainerResource",
    "External",
    "Object",
    "Pods",
    "Resource",
];
/// In the order in which sources are looked at; the first that is given is checked.
const SOURCES: [&str; 5] = [
    "object",
    "external",
    "pods",
    "resource",
    "containerResource",
];

pub(super) fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata::validate_metadata(object, old, true, names::subdomain);
    let spec = at(object, "/spec");
    let least = at(spec, "/minReplicas").as_i64();
    let zero_before = old.is_some_and(|old| at(old, "/spec/minReplicas").as_i64() == Some(0));
    let lowest = if zero_before { 0 } else { 1 };
    if least.is_some_and(|least| least < lowest) {
        errors.push(FieldError::invalid(
            "spec.minReplicas",
            at(spec, "/minReplicas"),
            &format!("must be greater than or equal to {lowest}"),
        ));
    }
    let most = int(spec, "/maxReplicas");
    let shown = Value::from(most);
    if most == 0 {
        let detail = "must be set and greater than 0";
        errors.push(FieldError::required("spec.maxReplicas", detail));
    } else if most < 0 {
        let detail = "must be greater than 0";
        errors.push(FieldError::invalid("spec.maxReplicas", &shown, detail));
    }
    if least.is_some_and(|least| most < least) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", &shown, detail));
    }
    errors.extend(target_reference(spec, old));
    let any_version = old.is_some_and(described_wrongly);
    for (index, metric) in list(spec, "/metrics").iter().enumerate() {
        let field = format!("spec.metrics[{index}]");
        errors.extend(one_metric(metric, &field, any_version));
    }
    let from_outside = |one: &Value| matches!(text(one, "/type"), "Object" | "External");
    if least == Some(0) && !list(spec, "/metrics").iter().any(from_outside) {
        let detail = "must specify at least one Object or External metric to support scaling to \
                      zero replicas";
        errors.push(FieldError::forbidden("spec.metrics", detail));
    }
    for way in ["scaleUp", "scaleDown"] {
        let rules = at(spec, &format!("/behavior/{way}"));
        if !rules.is_null() {
            errors.extend(scaling(rules, &format!("spec.behavior.{way}")));
        }
    }
    errors
}

pub(super) fn status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = metadata::validate_metadata(object, Some(old), true, names::subdomain);
    for name in ["currentReplicas", "desiredReplicas"] {
        let value = at(object, &format!("/status/{name}"));
        errors.extend(metadata::not_negative(value, &format!("status.{name}")));
    }
    errors
}

fn target_reference(spec: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let target = at(spec, "/scaleTargetRef");
    // The one kind of the core group that can be scaled.
    let core = text(target, "/kind") == "ReplicationController";
    // What was accepted once stays accepted as long as it stays as it is.
    let kept = old.is_some_and(|old| {
        let before = at(old, "/spec/scaleTargetRef");
        ["/apiVersion", "/kind"]
            .into_iter()
            .all(|part| text(before, part) == text(target, part))
    });
    reference(target, "spec.scaleTargetRef", core, kept)
}

/// Whether a metric's object has a version that would be refused today: then no such version of
/// the autoscaler is, or nothing else of it could be changed.
fn described_wrongly(object: &Value) -> bool {
    list(object, "/spec/metrics")
        .iter()
        .filter(|metric| text(metric, "/type") == "Object" && has(metric, "/object"))
        .any(|metric| {
            let version = text(metric, "/object/describedObject/apiVersion");
            api_version(version, true).is_some()
        })
}

fn reference(target: &Value, field: &str, core: bool, any_version: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["kind", "name"] {
        let field = format!("{field}.{name}");
        match text(target, &format!("/{name}")) {
            "" => errors.push(FieldError::required(field, "")),
            given => {
                let found = names::path_segment(given);
                errors.extend(found.iter().map(|one| invalid(&field, given, one)));
            }
        }
    }
    let version = text(target, "/apiVersion");
    if !any_version && let Some(detail) = api_version(version, core) {
        errors.push(invalid(format!("{field}.apiVersion"), version, &detail));
    }
    errors
}

fn api_version(version: &str, core: bool) -> Option<String> {
    match version.matches('/').count() {
        0 | 1 if version == "/" && !core => Some("apiVersion must specify API group".to_owned()),
        0 if !core => Some("apiVersion must specify API group".to_owned()),
        1 if version.starts_with('/') && !core => {
            Some("apiVersion must specify API group".to_owned())
        }
        0 | 1 => None,
        _ => Some(format!("unexpected GroupVersion string: {version}")),
    }
}

fn one_metric(metric: &Value, field: &str, any_version: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(metric, "/type");
    let shown = Value::from(kind);
    let unsupported = || FieldError::not_supported(format!("{field}.type"), &shown, &TYPES);
    if kind.is_empty() {
        let detail = "must specify a metric source type";
        errors.push(FieldError::required(format!("{field}.type"), detail));
    }
    if !TYPES.contains(&kind) {
        errors.push(unsupported());
    }
    let given: Vec<&str> = SOURCES
        .into_iter()
        .filter(|one| has(metric, &format!("/{one}")))
        .collect();
    if let Some(first) = given.first() {
        let value = at(metric, &format!("/{first}"));
        if *first == "object" {
            let described = at(value, "/describedObject");
            let field = format!("{field}.object.describedObject");
            errors.extend(reference(described, &field, true, any_version));
        }
        source(first, value, &format!("{field}.{first}"), &mut errors);
    }
    let expected = match kind {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        _ => "",
    };
    if expected.is_empty() {
        errors.push(unsupported());
    } else if !given.contains(&expected) {
        let detail = "must populate information for the given metric source";
        errors.push(FieldError::required(format!("{field}.{expected}"), detail));
    }
    if given.len() > 1 {
        for extra in given.iter().filter(|one| **one != expected) {
            let detail = "must populate the given metric source only";
            errors.push(FieldError::forbidden(format!("{field}.{extra}"), detail));
        }
    }
    errors
}

fn source(kind: &str, source: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let target = format!("{field}.target");
    let given = |name: &str| has(source, &format!("/target/{name}"));
    match kind {
        "object" => {
            identifier(source, field, errors);
            metric_target(source, &target, errors);
            if !given("value") && !given("averageValue") {
                let detail = "must set either a target value or averageValue";
                errors.push(FieldError::required(
                    format!("{target}.averageValue"),
                    detail,
                ));
            }
        }
        "external" => {
            identifier(source, field, errors);
            metric_target(source, &target, errors);
            if !given("value") && !given("averageValue") {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.push(FieldError::required(
                    format!("{target}.averageValue"),
                    detail,
                ));
            }
            if given("value") && given("averageValue") {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.push(FieldError::forbidden(format!("{target}.value"), detail));
            }
        }
        "pods" => {
            identifier(source, field, errors);
            metric_target(source, &target, errors);
            if !given("averageValue") {
                let detail = "must specify a positive target averageValue";
                errors.push(FieldError::required(
                    format!("{target}.averageValue"),
                    detail,
                ));
            }
        }
        _ => {
            let at = format!("{field}.name");
            match text(source, "/name") {
                "" => errors.push(FieldError::required(at, "must specify a resource name")),
                name if kind == "containerResource" => {
                    let mut found = Findings::default();
                    resource_name::container(name, &at, &mut found);
                    errors.extend(found.done());
                }
                _ => {}
            }
            if kind == "containerResource" {
                let at = format!("{field}.container");
                match text(source, "/container") {
                    "" => errors.push(FieldError::required(at, "must specify a container")),
                    name => {
                        let found = names::label(name);
                        errors.extend(found.iter().map(|one| invalid(&at, name, one)));
                    }
                }
            }
            metric_target(source, &target, errors);
            if !given("averageUtilization") && !given("averageValue") {
                let at = format!("{target}.averageUtilization");
                let detail = "must set either a target raw value or a target utilization";
                errors.push(FieldError::required(at, detail));
            }
            if given("averageUtilization") && given("averageValue") {
                let detail = "may not set both a target raw value and a target utilization";
                errors.push(FieldError::forbidden(
                    format!("{target}.averageValue"),
                    detail,
                ));
            }
        }
    }
}

fn identifier(source: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let field = format!("{field}.metric.name");
    match text(source, "/metric/name") {
        "" => errors.push(FieldError::required(field, "must specify a metric name")),
        name => {
            let found = names::path_segment(name);
            errors.extend(found.iter().map(|one| invalid(&field, name, one)));
        }
    }
}

fn metric_target(source: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let target = at(source, "/target");
    let kind = text(target, "/type");
    if kind.is_empty() {
        let detail = "must specify a metric target type";
        errors.push(FieldError::required(format!("{field}.type"), detail));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(invalid(format!("{field}.type"), kind, detail));
    }
    for name in ["value", "averageValue"] {
        let value = at(target, &format!("/{name}"));
        let amount = value
            .as_str()
            .and_then(|text| text.parse::<Quantity>().ok());
        if amount.is_some_and(|amount| amount.is_negative() || amount.is_zero()) {
            let detail = "must be positive";
            errors.push(FieldError::invalid(
                format!("{field}.{name}"),
                value,
                detail,
            ));
        }
    }
    let percent = at(target, "/averageUtilization");
    if percent.as_i64().is_some_and(|percent| percent < 1) {
        let field = format!("{field}.averageUtilization");
        errors.push(FieldError::invalid(
            field,
            percent,
            "must be greater than 0",
        ));
    }
}

fn scaling(rules: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let window = at(rules, "/stabilizationWindowSeconds");
    let at_window = format!("{field}.stabilizationWindowSeconds");
    match window.as_i64() {
        Some(seconds) if seconds < 0 => {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(at_window, window, detail));
        }
        Some(seconds) if seconds > WINDOW => {
            let detail = format!("must be less than or equal to {WINDOW}");
            errors.push(FieldError::invalid(at_window, window, &detail));
        }
        _ => {}
    }
    let select = at(rules, "/selectPolicy");
    let supported = ["Disabled", "Max", "Min"];
    if select.as_str().is_some_and(|one| !supported.contains(&one)) {
        let field = format!("{field}.selectPolicy");
        errors.push(FieldError::not_supported(field, select, &supported));
    }
    let policies = list(rules, "/policies");
    let field_of_policies = format!("{field}.policies");
    if policies.is_empty() {
        let detail = "must specify at least one Policy";
        errors.push(FieldError::required(&field_of_policies, detail));
    }
    for (index, policy) in policies.iter().enumerate() {
        errors.extend(one_policy(policy, &format!("{field_of_policies}[{index}]")));
    }
    let tolerance = at(rules, "/tolerance");
    let amount = tolerance
        .as_str()
        .and_then(|text| text.parse::<Quantity>().ok());
    if amount.is_some_and(|amount| amount.is_negative()) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(
            format!("{field}.tolerance"),
            tolerance,
            detail,
        ));
    }
    errors
}

fn one_policy(policy: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let supported = ["Percent", "Pods"];
    if !supported.contains(&text(policy, "/type")) {
        let value = Value::from(text(policy, "/type"));
        errors.push(FieldError::not_supported(
            format!("{field}.type"),
            &value,
            &supported,
        ));
    }
    for name in ["value", "periodSeconds"] {
        let count = int(policy, &format!("/{name}"));
        if count <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(
                format!("{field}.{name}"),
                &count.into(),
                detail,
            ));
        }
    }
    let period = int(policy, "/periodSeconds");
    if period > PERIOD {
        let detail = format!("must be less than or equal to {PERIOD}");
        errors.push(FieldError::invalid(
            format!("{field}.periodSeconds"),
            &period.into(),
            &detail,
        ));
    }
    errors
}
