//! ResourceQuota: how much a namespace may use in all.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, child, entries, has, list, text},
    names,
    persistent_volume::amount,
    resource_name, status_only, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
/// Scopes that no object is in at once.
const OPPOSITES: [(&str, &str); 2] = [
    ("BestEffort", "NotBestEffort"),
    ("Terminating", "NotTerminating"),
];
const COMPUTE: [&str; 6] = [
    "cpu",
    "memory",
    "limits.cpu",
    "limits.memory",
    "requests.cpu",
    "requests.memory",
];

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "ResourceQuota",
    list_kind: "ResourceQuotaList",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    status: true,
    decode: |value| check("v1", "ResourceQuota", value),
    default: |object| {
        child(object, "spec");
        child(object, "status");
    },
    prepare: status_only,
    validate,
    validate_status: |object, old| {
        let mut errors = Findings::default();
        errors.extend(super::metadata::validate_update(object, old));
        status(object, &mut errors);
        errors.done()
    },
    columns: &[
        Column::name(),
        Column::new("Request", "Used and allowed, of what may be requested."),
        Column::new("Limit", "Used and allowed, of what may be the limit."),
        Column::age(),
    ],
    cells: |object, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in entries(object, "/status/hard") {
            let used = at(object, "/status/used").get(name).unwrap_or(&Value::Null);
            let shown = format!("{name}: {}/{}", amount(used), amount(hard));
            if name.starts_with("limits.") {
                limits.push(shown);
            } else {
                requests.push(shown);
            }
        }
        vec![
            json!(text(object, "/metadata/name")),
            json!(requests.join(", ")),
            json!(limits.join(", ")),
            table::age(object, now),
        ]
    },
    ..KindSpec::NAMESPACED
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    errors.extend(validate_metadata(object, old, true, names::subdomain));
    let spec = at(object, "/spec");
    amounts(at(spec, "/hard"), "spec.hard", &mut errors);
    scopes(spec, &mut errors);
    selector(spec, &mut errors);
    if old.is_none() {
        status(object, &mut errors);
    }
    let sorted = |object: &Value| {
        let mut scopes: Vec<String> = list(object, "/spec/scopes")
            .iter()
            .map(Value::to_string)
            .collect();
        scopes.sort();
        scopes.dedup();
        scopes
    };
    if old.is_some_and(|old| sorted(old) != sorted(object)) {
        let scopes = at(spec, "/scopes").clone();
        errors.invalid("spec.scopes", scopes, super::findings::IMMUTABLE);
    }
    errors.done()
}

fn status(object: &Value, errors: &mut Findings) {
    for name in ["hard", "used"] {
        let all = at(object, &format!("/status/{name}"));
        amounts(all, &format!("status.{name}"), errors);
    }
}

fn amounts(all: &Value, field: &str, errors: &mut Findings) {
    for (name, value) in entries(all, "") {
        let field = format!("{field}[{name}]");
        resource_name::quota(name, &field, errors);
        resource_name::amount(name, value, &field, errors);
    }
}

/// Whether what is counted can be in a scope at all.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        scope if SCOPES.contains(&scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

/// Whether some standard resource of the quota cannot be in the scope, once for each.
fn misfits(spec: &Value, scope: &str) -> usize {
    entries(spec, "/hard")
        .filter(|(name, _)| resource_name::is_standard_quota(name) && !fits(scope, name))
        .count()
}

fn conflicts(given: &[&str]) -> usize {
    OPPOSITES
        .iter()
        .filter(|(one, other)| given.contains(one) && given.contains(other))
        .count()
}

fn scopes(spec: &Value, errors: &mut Findings) {
    let all = at(spec, "/scopes");
    let given: Vec<&str> = list(all, "").iter().filter_map(Value::as_str).collect();
    let field = "spec.scopes";
    for scope in &given {
        if !SCOPES.contains(scope) {
            errors.invalid(field, all.clone(), "unsupported scope");
        }
        for _ in 0..misfits(spec, scope) {
            let detail = "unsupported scope applied to resource";
            errors.invalid(field, all.clone(), detail);
        }
    }
    for _ in 0..conflicts(&given) {
        errors.invalid(field, all.clone(), "conflicting scopes");
    }
}

fn selector(spec: &Value, errors: &mut Findings) {
    if !has(spec, "/scopeSelector") {
        return;
    }
    let field = "spec.scopeSelector.matchExpressions";
    let all = list(spec, "/scopeSelector/matchExpressions");
    for one in all {
        let (scope, operator) = (text(one, "/scopeName"), text(one, "/operator"));
        if !SCOPES.contains(&scope) {
            errors.invalid(format!("{field}.scopeName"), scope, "unsupported scope");
        }
        for _ in 0..misfits(spec, scope) {
            let detail = "unsupported scope applied to resource";
            errors.invalid(field, at(spec, "/scopeSelector").clone(), detail);
        }
        let exists_only =
            !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope);
        if exists_only && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                          ResourceQuotaScopeNotBestEffort or \
                          ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(format!("{field}.operator"), operator, detail);
        }
        let values = at(one, "/values");
        match operator {
            "In" | "NotIn" if list(values, "").is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for \
                              scope selector";
                errors.required(format!("{field}.values"), detail);
            }
            "Exists" | "DoesNotExist" if !list(values, "").is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for \
                              scope selector";
                errors.invalid(format!("{field}.values"), values.clone(), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                errors.invalid(format!("{field}.operator"), other, detail);
            }
        }
    }
    let given: Vec<&str> = all.iter().map(|one| text(one, "/scopeName")).collect();
    for _ in 0..conflicts(&given) {
        errors.invalid(field, at(spec, "/scopes").clone(), "conflicting scopes");
    }
}
