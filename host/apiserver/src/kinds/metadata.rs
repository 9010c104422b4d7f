//! Rules for `metadata`, the same for every object, custom resources included.

use serde_json::Value;

use super::{
    json::{at, child, entries, fill, has, list, text},
    names,
};
use crate::field_error::FieldError;

/// All annotations of an object together, as in Kubernetes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Fields of `metadata` that never change after creation.
const IMMUTABLE: [&str; 4] = ["name", "namespace", "uid", "creationTimestamp"];

/// Object metadata, as every object (custom ones too) must have it: names, labels, annotations,
/// owners, finalizers; with the stored object for an update (what may not change).
pub fn validate_metadata(
    object: &Value,
    old: Option<&Value>,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, "/metadata/name");
    let prefix = text(object, "/metadata/generateName");
    if old.is_none() && !prefix.is_empty() {
        // A generated name ends in letters and digits, so the prefix may end in a hyphen.
        for detail in name_rule(&format!("{prefix}x")) {
            errors.push(invalid("metadata.generateName", prefix, &detail));
        }
    }
    if name.is_empty() {
        if prefix.is_empty() {
            let detail = "name or generateName is required";
            errors.push(FieldError::required("metadata.name", detail));
        }
    } else {
        for detail in name_rule(name) {
            errors.push(invalid("metadata.name", name, &detail));
        }
    }
    if !namespaced
        && has(object, "/metadata/namespace")
        && !text(object, "/metadata/namespace").is_empty()
    {
        errors.push(FieldError::forbidden(
            "metadata.namespace",
            "not allowed on this type",
        ));
    }
    errors.extend(labels(at(object, "/metadata/labels"), "metadata.labels"));
    errors.extend(annotations(object, "metadata.annotations"));
    errors.extend(owners(object));
    for finalizer in list(object, "/metadata/finalizers") {
        for detail in names::qualified(finalizer.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(
                "metadata.finalizers",
                finalizer,
                &detail,
            ));
        }
    }
    if let Some(old) = old {
        errors.extend(changes(object, old));
    }
    errors
}

/// Holds an object back from deletion until a controller agrees.
pub(super) fn finalizer(object: &mut Value, name: &str) {
    let metadata = child(object, "metadata");
    fill(metadata, "finalizers", Value::Array(Vec::new()));
    if let Some(held) = metadata.get_mut("finalizers").and_then(Value::as_array_mut)
        && !held.iter().any(|one| one == name)
    {
        held.push(name.into());
    }
}

/// What holds for the metadata of a write that changes the rest of the object little or not at all,
/// to its status for one: everything but the name, which is taken from the stored object.
pub(super) fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    validate_metadata(object, Some(old), true, |_| Vec::new())
}

/// Count a change that is none of the spec.
pub(super) fn count_change(object: &mut Value, old: &Value) {
    let generation = at(old, "/metadata/generation").as_i64().unwrap_or_default();
    child(object, "metadata")["generation"] = (generation + 1).into();
}

/// A map of labels, or anything with their rules (`nodeSelector`, `matchLabels`).
pub(super) fn labels(labels: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in entries(labels, "") {
        for detail in names::qualified(key) {
            errors.push(invalid(field, key, &detail));
        }
        for detail in names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(field, value, &detail));
        }
    }
    errors
}

pub(super) fn annotations(object: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in entries(object, "/metadata/annotations") {
        size += key.len() + value.as_str().map_or(0, str::len);
        // Annotation keys may be in capitals: compared as if they were not.
        for detail in names::qualified(&key.to_lowercase()) {
            errors.push(invalid(field, key, &detail));
        }
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(field, MAX_ANNOTATIONS));
    }
    errors
}

fn owners(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controllers = 0;
    for (index, owner) in list(object, "/metadata/ownerReferences").iter().enumerate() {
        let field = format!("metadata.ownerReferences[{index}]");
        for name in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{name}")).is_empty() {
                let empty = Value::from("");
                let detail = match name {
                    "apiVersion" => "version must not be empty",
                    _ => "must not be empty",
                };
                errors.push(FieldError::invalid(
                    format!("{field}.{name}"),
                    &empty,
                    detail,
                ));
            }
        }
        if at(owner, "/controller") == &Value::Bool(true) {
            controllers += 1;
        }
    }
    if controllers > 1 {
        let all = at(object, "/metadata/ownerReferences");
        let detail = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", all, detail));
    }
    errors
}

fn changes(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in IMMUTABLE {
        let pointer = format!("/metadata/{name}");
        let (new, stored) = (at(object, &pointer), at(old, &pointer));
        if !stored.is_null() && !new.is_null() && new != stored {
            errors.push(FieldError::invalid(
                format!("metadata.{name}"),
                new,
                "field is immutable",
            ));
        }
    }
    if has(old, "/metadata/deletionTimestamp") {
        let before = list(old, "/metadata/finalizers");
        let added: Vec<String> = list(object, "/metadata/finalizers")
            .iter()
            .filter(|one| !before.contains(one))
            .map(|one| one.to_string())
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &detail));
        }
    }
    errors
}

/// A count that is given and below zero.
pub(super) fn not_negative(value: &Value, field: &str) -> Option<FieldError> {
    let detail = "must be greater than or equal to 0";
    value
        .as_i64()
        .is_some_and(|count| count < 0)
        .then(|| FieldError::invalid(field, value, detail))
}

pub(super) fn invalid(field: impl Into<String>, value: &str, detail: &str) -> FieldError {
    FieldError::invalid(field, &Value::from(value), detail)
}
