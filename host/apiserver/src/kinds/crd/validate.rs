//! Checks of a definition, beside those of its versions and its conversion.

use serde_json::Value;

use super::{
    super::{
        json::{at, list, text},
        metadata::invalid,
        names, validate_metadata_of_any,
    },
    conversion, versions,
};
use crate::{
    crd::{
        self, go,
        status::{Approval, approval},
    },
    field_error::FieldError,
};

const APPROVAL: &str = "metadata.annotations[api-approved.kubernetes.io]";

pub(super) fn definition(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = at(object, "/spec");
    let mut errors = validate_metadata_of_any(object, old, false, names::subdomain);
    let name = text(object, "/metadata/name");
    let (group, plural) = (text(spec, "/group"), text(spec, "/names/plural"));
    if old.is_none() && !name.is_empty() && name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(invalid("metadata.name", name, detail));
    }
    errors.extend(group_and_scope(spec));
    errors.extend(versions::check(spec, old.map(|old| at(old, "/spec"))));
    errors.extend(names_of_spec(spec));
    errors.extend(versions::shared(spec, old.map(|old| at(old, "/spec"))));
    let was_established = old.is_some_and(crd::is_established);
    errors.extend(conversion::check(
        at(spec, "/conversion"),
        old.map(|old| at(old, "/spec/conversion")),
        was_established,
    ));
    if let Some(old) = old {
        let stored = at(old, "/spec");
        let established = ["/scope", "/names/kind"];
        let always = ["/group", "/names/plural"];
        let fixed = established.into_iter().filter(|_| was_established);
        for pointer in fixed.chain(always) {
            let value = at(spec, pointer);
            if value != at(stored, pointer) {
                let field = format!("spec{}", pointer.replace('/', "."));
                errors.push(FieldError::invalid(field, value, "field is immutable"));
            }
        }
    }
    errors.extend(check_names(
        at(object, "/status/acceptedNames"),
        "status.acceptedNames",
    ));
    errors.extend(stored_versions(object));
    errors.extend(approved(object, old));
    let preserve = "/spec/preserveUnknownFields";
    let yes = &Value::Bool(true);
    if at(object, preserve) == yes && old.is_none_or(|old| at(old, preserve) != yes) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.push(FieldError::invalid(
            "spec.preserveUnknownFields",
            yes,
            detail,
        ));
    }
    errors
}

/// A write of the status: the names must be names.
pub(super) fn status(object: &Value, _old: &Value) -> Vec<FieldError> {
    check_names(at(object, "/status/acceptedNames"), "status.acceptedNames")
}

fn group_and_scope(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let group = text(spec, "/group");
    let wrong = names::subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !wrong.is_empty() {
        errors.push(invalid("spec.group", group, &wrong.join(",")));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(invalid("spec.group", group, detail));
    }
    match text(spec, "/scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        _ => {
            let supported = ["Cluster", "Namespaced"];
            let scope = at(spec, "/scope");
            errors.push(FieldError::not_supported("spec.scope", scope, &supported));
        }
    }
    errors
}

fn names_of_spec(spec: &Value) -> Vec<FieldError> {
    let given = at(spec, "/names");
    let mut errors = Vec::new();
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(given, &format!("/{name}")).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{name}"), ""));
        }
    }
    errors.extend(check_names(given, "spec.names"));
    errors
}

fn check_names(given: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["plural", "singular", "kind", "listKind"] {
        let value = text(given, &format!("/{name}"));
        if value.is_empty() {
            continue;
        }
        let mixed = name.to_lowercase().ends_with("kind");
        let wrong = match mixed {
            true => names::label_1035(&value.to_lowercase()),
            false => names::label_1035(value),
        };
        if !wrong.is_empty() {
            let wrong = wrong.join(",");
            let detail = match mixed {
                true => format!("may have mixed case, but should otherwise match: {wrong}"),
                false => wrong,
            };
            errors.push(invalid(format!("{field}.{name}"), value, &detail));
        }
    }
    let mut list_of = |name: &str| {
        for (index, value) in list(given, &format!("/{name}")).iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let wrong = names::label_1035(value);
            if !wrong.is_empty() {
                let field = format!("{field}.{name}[{index}]");
                errors.push(invalid(field, value, &wrong.join(",")));
            }
        }
    };
    list_of("shortNames");
    list_of("categories");
    let (kind, list_kind) = (text(given, "/kind"), text(given, "/listKind"));
    if !kind.is_empty() && kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(invalid(format!("{field}.listKind"), list_kind, detail));
    }
    errors
}

fn stored_versions(object: &Value) -> Vec<FieldError> {
    let field = "status.storedVersions";
    let stored = list(object, "/status/storedVersions");
    if stored.is_empty() {
        let detail = "must have at least one stored version";
        let value = at(object, "/status/storedVersions");
        return vec![FieldError::invalid(field, value, detail)];
    }
    let versions = list(object, "/spec/versions");
    let mut errors = Vec::new();
    for version in versions {
        let name = at(version, "/name");
        if at(version, "/storage") == &Value::Bool(true) && !stored.contains(name) {
            let name = name.as_str().unwrap_or_default();
            let detail = format!("must have the storage version {name}");
            let value = Value::from(stored);
            errors.push(FieldError::invalid(field, &value, &detail));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| at(version, "/name") == name) {
            let shown = name.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {shown} was previously a storage version, and must \
                 remain in spec.versions until a storage migration ensures no data remains \
                 persisted in {shown} and removes {shown} from status.storedVersions"
            );
            errors.push(FieldError::invalid(
                format!("{field}[{index}]"),
                name,
                &detail,
            ));
        }
    }
    errors
}

/// Groups of Kubernetes' own are for those whom it let in.
fn approved(object: &Value, old: Option<&Value>) -> Option<FieldError> {
    let state = approval(object);
    let unchanged =
        |old: &Value| std::mem::discriminant(&approval(old)) == std::mem::discriminant(&state);
    if old.is_some_and(unchanged) {
        return None;
    }
    match state {
        Approval::Missing(why) => Some(FieldError::required(APPROVAL, &why)),
        Approval::Invalid(why) => {
            let given = text(object, "/metadata/annotations/api-approved.kubernetes.io");
            Some(invalid(APPROVAL, given, &why))
        }
        Approval::NotNeeded | Approval::Bypassed(_) | Approval::Approved(_) => None,
    }
}

/// What is wrong with all versions together.
pub(super) fn of_versions(spec: &Value, detail: &str) -> FieldError {
    let shown = go::versions(list(spec, "/versions"));
    FieldError::invalid_shown("spec.versions", &shown, detail)
}
