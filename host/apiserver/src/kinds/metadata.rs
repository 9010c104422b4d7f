//! Rules for `metadata`, the same for every object, custom resources included.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    findings::{IMMUTABLE as IMMUTABLE_FIELD, structure, text_or_empty},
    json::{at, child, entries, fill, has, list, text},
    names,
};
use crate::field_error::FieldError;

/// All annotations of an object together, as in Kubernetes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Fields of `metadata` that never change after creation.
const IMMUTABLE: [&str; 6] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// Finalizers that have no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Object metadata of a built-in kind: names, labels, annotations, owners, finalizers; with the
/// stored object for an update (what may not change).
///
/// Kinds that look at more than the changes in an update use [`judge`].
pub(super) fn validate_metadata(
    object: &Value,
    old: Option<&Value>,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    match old {
        None => whole(object, namespaced, name_rule),
        Some(old) => {
            let mut errors = common_update(object, old, namespaced);
            errors.extend(of_kind_update(object, old));
            errors
        }
    }
}

/// What a kind looks at when an object changes, in its order, beside what Kubernetes looks at in every
/// update. Many kinds look at the new object as if it were being made, and then once more as a
/// change: a fault is a cause each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// All metadata.
    Whole,
    /// What of the metadata may not change.
    Changes,
    /// All the rest.
    Rules,
}

/// As for a new object.
pub(super) const ANEW: &[Look] = &[Look::Whole, Look::Rules];
/// As for a new object, and then what may not change.
pub(super) const ANEW_THEN_CHANGES: &[Look] = &[Look::Whole, Look::Rules, Look::Changes];
/// As for a new object, and then all of it as a change.
pub(super) const TWICE: &[Look] = &[Look::Whole, Look::Rules, Look::Changes, Look::Rules];

/// A whole object of a built-in kind, new or changed.
pub(super) fn judge(
    object: &Value,
    old: Option<&Value>,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
    update: &[Look],
    rules: impl FnOnce() -> Vec<FieldError>,
) -> Vec<FieldError> {
    let ruled = rules();
    let (mut errors, looks) = match old {
        None => (Vec::new(), ANEW),
        Some(old) => (common_update(object, old, namespaced), update),
    };
    for look in looks {
        match (look, old) {
            (Look::Whole, _) => errors.extend(whole(object, namespaced, name_rule)),
            (Look::Changes, Some(old)) => errors.extend(of_kind_update(object, old)),
            (Look::Changes, None) => {}
            (Look::Rules, _) => errors.extend(ruled.iter().cloned()),
        }
    }
    errors
}

/// The same for custom resources and the few built-in kinds that let anybody's finalizer go without
/// a domain.
pub(crate) fn validate_generic(
    object: &Value,
    old: Option<&Value>,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    match old {
        None => generic(object, namespaced, name_rule),
        Some(old) => {
            let mut errors = common_update(object, old, namespaced);
            errors.extend(changes(object, old));
            errors
        }
    }
}

/// All metadata of a built-in kind, whatever was stored before.
pub(super) fn whole(
    object: &Value,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let mut errors = generic(object, namespaced, name_rule);
    errors.extend(named_finalizers(object));
    errors
}

/// What Kubernetes looks at in every update. Most kinds look at it once more themselves, so that one
/// fault is more than one cause.
pub(super) fn common_update(object: &Value, old: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = generic(object, namespaced, names::path_segment);
    errors.extend(changes(object, old));
    errors
}

/// All metadata of any object, whatever was stored before.
pub(super) fn generic(
    object: &Value,
    namespaced: bool,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(object, "/metadata/name");
    let prefix = text(object, "/metadata/generateName");
    if !prefix.is_empty() {
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
    errors.extend(marks(object));
    errors.extend(finalizers(object));
    errors
}

/// Labels, annotations and owners.
fn marks(object: &Value) -> Vec<FieldError> {
    let mut errors = labels(at(object, "/metadata/labels"), "metadata.labels");
    errors.extend(annotations(object, "metadata.annotations"));
    errors.extend(owners(object));
    errors
}

fn finalizers(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (all, field) = (list(object, "/metadata/finalizers"), "metadata.finalizers");
    for finalizer in all {
        for detail in names::qualified(finalizer.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(field, finalizer, &detail));
        }
    }
    if all.iter().any(|one| one == ORPHAN) && all.iter().any(|one| one == FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        let all = at(object, "/metadata/finalizers");
        errors.push(FieldError::invalid(field, all, &detail));
    }
    errors
}

/// What a built-in kind looks at in an update, after [`common_update`].
pub(super) fn of_kind_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = changes(object, old);
    errors.extend(named_finalizers(object));
    errors
}

/// Finalizers of built-in kinds have a domain, or a name that Kubernetes gave them.
fn named_finalizers(object: &Value) -> Vec<FieldError> {
    let all = list(object, "/metadata/finalizers").iter().enumerate();
    all.filter_map(|(index, one)| {
        standard_finalizer(
            one.as_str().unwrap_or_default(),
            format!("metadata.finalizers[{index}]"),
        )
    })
    .collect()
}

/// What is wrong with a finalizer without domain that is none of the known ones.
pub(super) fn standard_finalizer(name: &str, field: impl Into<String>) -> Option<FieldError> {
    let detail = "name is neither a standard finalizer name nor is it fully qualified";
    let known = name.contains('/') || STANDARD_FINALIZERS.contains(&name);
    (!known).then(|| invalid(field, name, detail))
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
    let field = "metadata.ownerReferences";
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in list(object, "/metadata/ownerReferences") {
        let part = |name: &str| text(owner, &format!("/{name}"));
        let (group, version) = match part("apiVersion").split_once('/') {
            None => ("", part("apiVersion")),
            Some((_, rest)) if rest.contains('/') => ("", ""),
            Some(both) => both,
        };
        if version.is_empty() {
            let detail = "version must not be empty";
            errors.push(invalid(
                format!("{field}.apiVersion"),
                part("apiVersion"),
                detail,
            ));
        }
        for name in ["kind", "name", "uid"] {
            if part(name).is_empty() {
                errors.push(invalid(format!("{field}.{name}"), "", "must not be empty"));
            }
        }
        if (group, version, part("kind")) == ("", "v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid_shown(field, &owner_text(owner), detail));
        }
        if at(owner, "/controller") == &Value::Bool(true) {
            let this = format!("{}/{}", part("kind"), part("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {this}"
                    );
                    let all = list(object, "/metadata/ownerReferences").iter();
                    let shown: Vec<String> = all.map(owner_text).collect();
                    let shown = format!("[{}]", shown.join(","));
                    errors.push(FieldError::invalid_shown(field, &shown, &detail));
                }
            }
        }
    }
    errors
}

/// A reference in the order of Kubernetes' own fields.
fn owner_text(owner: &Value) -> String {
    let names = ["apiVersion", "kind", "name", "uid"];
    let mut fields: Vec<(&str, Value)> = names
        .iter()
        .map(|name| (*name, text_or_empty(owner, &format!("/{name}"))))
        .collect();
    for name in ["controller", "blockOwnerDeletion"] {
        let given = at(owner, &format!("/{name}"));
        if !given.is_null() {
            fields.push((name, given.clone()));
        }
    }
    let fields: Vec<(&str, &Value)> = fields.iter().map(|(name, value)| (*name, value)).collect();
    structure(&fields)
}

fn changes(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if has(old, "/metadata/deletionTimestamp") {
        let before = list(old, "/metadata/finalizers");
        let added: BTreeSet<String> = list(object, "/metadata/finalizers")
            .iter()
            .filter(|one| !before.contains(one))
            .map(|one| one.to_string())
            .collect();
        if !added.is_empty() {
            let added: Vec<String> = added.into_iter().collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &detail));
        }
    }
    for name in IMMUTABLE {
        let pointer = format!("/metadata/{name}");
        let (new, stored) = (at(object, &pointer), at(old, &pointer));
        // What was never stored may only be left out, but for identities that are given later.
        let given = name.starts_with("deletion") || !stored.is_null();
        if given && !new.is_null() && new != stored {
            errors.push(FieldError::invalid(
                format!("metadata.{name}"),
                new,
                IMMUTABLE_FIELD,
            ));
        }
    }
    errors.extend(marks(object));
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
