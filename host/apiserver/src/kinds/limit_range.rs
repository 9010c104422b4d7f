//! LimitRange: bounds and defaults for what one pod, container or claim asks for.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, child, entries, fill, items, list, text},
    metadata::{ANEW, judge},
    names,
    resource_name::{self, quantity},
};
use crate::{field_error::FieldError, quantity::Quantity, table::Column};

const TYPES: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "LimitRange",
    put_creates: true,
    list_kind: "LimitRangeList",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    decode: |value| check("v1", "LimitRange", value),
    default: |object| {
        let spec = child(object, "spec");
        fill(spec, "limits", Value::Null);
        for limit in items(spec, "limits") {
            if text(limit, "/type") == "Container" {
                defaults(limit);
            }
        }
    },
    prepare: |object, old| {
        // Nobody needs the name, so one is made up.
        if old.is_none() && text(object, "/metadata/name").is_empty() {
            child(object, "metadata")["name"] = uuid::Uuid::new_v4().to_string().into();
        }
    },
    validate,
    columns: &[Column::name(), Column::created()],
    cells: |object, _| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/metadata/creationTimestamp")),
        ]
    },
    ..KindSpec::NAMESPACED
};

/// The maximum is the default, the default is the default request, and failing that the minimum.
fn defaults(limit: &mut Value) {
    for (from, to) in [
        ("max", "default"),
        ("default", "defaultRequest"),
        ("min", "defaultRequest"),
    ] {
        let Some(given) = limit.get(from).and_then(Value::as_object).cloned() else {
            continue;
        };
        let mut merged: Map<String, Value> = given;
        for (name, value) in entries(limit, &format!("/{to}")) {
            merged.insert(name.clone(), value.clone());
        }
        if !merged.is_empty() {
            *child(limit, to) = merged.into();
        }
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    judge(object, old, true, names::subdomain, ANEW, || rules(object))
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let mut seen = HashSet::new();
    for (index, limit) in list(object, "/spec/limits").iter().enumerate() {
        let field = format!("spec.limits[{index}]");
        let kind = text(limit, "/type");
        let at_kind = format!("{field}.type");
        let sentences = names::qualified(kind);
        for detail in &sentences {
            errors.invalid(&at_kind, kind, detail);
        }
        if sentences.is_empty() && !kind.contains('/') && !TYPES.contains(&kind) {
            let detail = "must be a standard limit type or fully qualified";
            errors.invalid(&at_kind, kind, detail);
        }
        if !seen.insert(kind) {
            errors.duplicate(&at_kind, kind);
        }
        validate_limit(limit, kind, &field, &mut errors);
    }
    errors.done()
}

fn validate_limit(limit: &Value, kind: &str, field: &str, errors: &mut Findings) {
    let mut resources = BTreeSet::new();
    let mut named = |group: &str, errors: &mut Findings| {
        for (name, _) in entries(limit, &format!("/{group}")) {
            let field = format!("{field}.{group}[{name}]");
            if matches!(kind, "Pod" | "Container") {
                resource_name::container(name, &field, errors);
            } else {
                resource_name::any(name, &field, errors);
            }
            resources.insert(name.clone());
        }
    };
    named("max", errors);
    named("min", errors);
    for group in ["default", "defaultRequest"] {
        if kind != "Pod" {
            named(group, errors);
        } else if entries(limit, &format!("/{group}")).next().is_some() {
            let detail = "may not be specified when `type` is 'Pod'";
            errors.forbidden(format!("{field}.{group}"), detail);
        }
    }
    let bounded = at(limit, "/min/storage").is_string() || at(limit, "/max/storage").is_string();
    if kind == "PersistentVolumeClaim" && !bounded {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.required(format!("{field}.limits"), detail);
    }
    named("maxLimitRequestRatio", errors);
    for name in resources {
        bounds(limit, kind, &name, field, errors);
    }
}

/// One resource's five numbers, against each other.
fn bounds(limit: &Value, kind: &str, name: &str, field: &str, errors: &mut Findings) {
    let get = |group: &str| limit.get(group)?.get(name).and_then(quantity);
    let (min, max) = (get("min"), get("max"));
    let unless_pod = |group: &str| (kind != "Pod").then(|| get(group)).flatten();
    let (default, request) = (unless_pod("default"), unless_pod("defaultRequest"));
    let ratio = get("maxLimitRequestRatio");
    let mut wrong = |group: &str, value: Quantity, detail: String| {
        errors.invalid(
            format!("{field}.{group}[{name}]"),
            value.to_string(),
            &detail,
        );
    };
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let detail = format!("min value {min} is greater than max value {max}");
        wrong("min", min, detail);
    }
    if let Some(request) = request {
        if let Some(min) = min.filter(|min| *min > request) {
            let detail = format!("min value {min} is greater than default request value {request}");
            wrong("defaultRequest", request, detail);
        }
        if let Some(max) = max.filter(|max| request > *max) {
            let detail = format!("default request value {request} is greater than max value {max}");
            wrong("defaultRequest", request, detail);
        }
        if let Some(default) = default.filter(|default| request > *default) {
            let detail = format!(
                "default request value {request} is greater than default limit value {default}"
            );
            wrong("defaultRequest", request, detail);
        }
    }
    if let Some(default) = default {
        if let Some(min) = min.filter(|min| *min > default) {
            let detail = format!("min value {min} is greater than default value {default}");
            wrong("default", min, detail);
        }
        if let Some(max) = max.filter(|max| default > *max) {
            let detail = format!("default value {default} is greater than max value {max}");
            wrong("default", max, detail);
        }
    }
    if let Some(ratio) = ratio {
        if ratio.milli() < 1000 {
            wrong(
                "maxLimitRequestRatio",
                ratio,
                format!("ratio {ratio} is less than 1"),
            );
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = max.milli() as f64 / min.milli() as f64;
            if ratio.milli() as f64 / 1000.0 > most {
                let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
                wrong("maxLimitRequestRatio", ratio, detail);
            }
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && default != request
        && !resource_name::may_overcommit(name)
    {
        let detail = format!(
            "default value {default} must equal to defaultRequest value {request} in {name}"
        );
        wrong("defaultRequest", request, detail);
    }
}
