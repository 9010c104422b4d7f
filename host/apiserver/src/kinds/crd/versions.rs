//! Versions of a definition: schemas, subresources, columns, selectable fields.
//!
//! What all versions have in common is checked once, under the name that Kubernetes has for it:
//! `spec.validation`, `spec.subresources` and so on, fields of an older form of a definition that
//! errors still speak of.

use std::collections::HashSet;

use serde_json::Value;

use super::super::{
    json::{at, has, list, text},
    metadata::invalid,
    names,
};
use crate::{
    field_error::FieldError,
    schema::definition::{self, Context, find},
};

/// More selectable fields than these are refused.
const MAX_SELECTABLE: usize = 8;
/// A longer warning is refused.
const MAX_WARNING: usize = 256;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 9] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "name",
    "password",
];

/// A part of a version and the field of the definition that has it when all versions agree.
fn is_shared(spec: &Value, name: &str) -> bool {
    let mut values = list(spec, "/versions")
        .iter()
        .map(|version| version.get(name));
    let first = values.next().flatten();
    values.all(|value| value == first)
}

/// What each version says that others do not.
pub(super) fn check(spec: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = list(spec, "/versions");
    for (index, version) in all.iter().enumerate() {
        if !has(version, "/schema/openAPIV3Schema") {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            errors.push(FieldError::required(field, ""));
        }
    }
    let mut seen = HashSet::new();
    let mut unique = true;
    for (index, version) in all.iter().enumerate() {
        let field = format!("spec.versions[{index}]");
        let name = text(version, "/name");
        unique &= seen.insert(name);
        let wrong = names::label_1035(name);
        if !wrong.is_empty() {
            errors.push(invalid(format!("{field}.name"), name, &wrong.join(",")));
        }
        errors.extend(deprecation(version, &field));
        let own = |name: &str| !is_shared(spec, name);
        if own("schema") {
            let field = format!("{field}.schema.openAPIV3Schema");
            errors.extend(schema(spec, version, &field, old));
        }
        if own("subresources") {
            errors.extend(subresources(version, &format!("{field}.subresources")));
        }
        if own("additionalPrinterColumns") {
            let field = format!("{field}.additionalPrinterColumns");
            errors.extend(columns(version, &field));
        }
        if own("selectableFields") {
            errors.extend(selectable(version, &format!("{field}.selectableFields")));
        }
    }
    if !unique {
        let detail = "must contain unique version names";
        errors.push(super::validate::of_versions(spec, detail));
    }
    let storage = all
        .iter()
        .filter(|one| at(one, "/storage") == &Value::Bool(true))
        .count();
    if storage != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(super::validate::of_versions(spec, detail));
    }
    errors
}

/// What all versions say alike.
pub(super) fn shared(spec: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(first) = list(spec, "/versions").first() else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if is_shared(spec, "schema") {
        let field = "spec.validation.openAPIV3Schema";
        errors.extend(schema(spec, first, field, old));
    }
    if is_shared(spec, "subresources") {
        errors.extend(subresources(first, "spec.subresources"));
    }
    if is_shared(spec, "additionalPrinterColumns") {
        errors.extend(columns(first, "spec.additionalPrinterColumns"));
    }
    if is_shared(spec, "selectableFields") {
        errors.extend(selectable(first, "spec.selectableFields"));
    }
    errors
}

fn schema(spec: &Value, version: &Value, field: &str, old: Option<&Value>) -> Vec<FieldError> {
    let schema = at(version, "/schema/openAPIV3Schema");
    if schema.is_null() {
        return Vec::new();
    }
    let has_status = |version: &Value| has(version, "/subresources/status");
    let status = match is_shared(spec, "schema") {
        true => list(spec, "/versions").iter().any(has_status),
        false => has_status(version),
    };
    let before = old.into_iter().flat_map(|old| list(old, "/versions"));
    let unchanged = before
        .filter(|before| at(before, "/name") == at(version, "/name"))
        .any(|before| at(before, "/schema/openAPIV3Schema") == schema);
    definition::check(schema, field, Context { status, unchanged })
}

fn deprecation(version: &Value, field: &str) -> Vec<FieldError> {
    let field = format!("{field}.deprecationWarning");
    let warning = at(version, "/deprecationWarning");
    let Some(text) = warning.as_str() else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(&field, warning, detail));
    if at(version, "/deprecated") != &Value::Bool(true) {
        wrong("can only be set for deprecated versions");
        return errors;
    }
    if text.len() > MAX_WARNING {
        wrong(&format!("must be <= {MAX_WARNING} characters long"));
    }
    if text.is_empty() {
        wrong("must not be an empty string");
    }
    if let Some((at, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        wrong(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index \
             {at}"
        ));
    }
    errors
}

fn subresources(version: &Value, field: &str) -> Vec<FieldError> {
    let scale = at(version, "/subresources/scale");
    let mut errors = Vec::new();
    if scale.is_null() {
        return errors;
    }
    let paths = [
        ("specReplicasPath", &[".spec."][..], ".spec"),
        ("statusReplicasPath", &[".status."][..], ".status"),
        (
            "labelSelectorPath",
            &[".spec.", ".status."][..],
            "either .spec or .status",
        ),
    ];
    for (name, prefixes, under) in paths {
        let path = text(scale, &format!("/{name}"));
        let field = format!("{field}.scale.{name}");
        if path.is_empty() {
            if name != "labelSelectorPath" {
                errors.push(FieldError::required(field, ""));
            }
        } else if !path.starts_with('.') {
            let detail = "must be a simple json path starting with .";
            errors.push(invalid(field, path, detail));
        } else if !prefixes.iter().any(|prefix| path.starts_with(prefix)) {
            let detail = format!("should be a json path under {under}");
            errors.push(invalid(field, path, &detail));
        }
    }
    errors
}

fn columns(version: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, column) in list(version, "/additionalPrinterColumns")
        .iter()
        .enumerate()
    {
        let field = format!("{field}[{index}]");
        if text(column, "/name").is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        }
        let kind = text(column, "/type");
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        if kind.is_empty() {
            errors.push(FieldError::required(format!("{field}.type"), &types));
        } else if !COLUMN_TYPES.contains(&kind) {
            errors.push(invalid(format!("{field}.type"), kind, &types));
        }
        let format = text(column, "/format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.push(invalid(format!("{field}.format"), format, &detail));
        }
        let path = text(column, "/jsonPath");
        let field = format!("{field}.JSONPath");
        if path.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if !path.starts_with('.') {
            let detail = "must be a simple json path starting with .";
            errors.push(invalid(field, path, detail));
        }
    }
    errors
}

fn selectable(version: &Value, field: &str) -> Vec<FieldError> {
    let schema = at(version, "/schema/openAPIV3Schema");
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, selectable) in list(version, "/selectableFields").iter().enumerate() {
        let field = format!("{field}[{index}].jsonPath");
        let path = text(selectable, "/jsonPath");
        if path.is_empty() {
            errors.push(FieldError::required(field, ""));
            continue;
        }
        let found = match find(path, schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(invalid(field, path, &format!("is an invalid path: {why}")));
                continue;
            }
        };
        if found.root == "metadata" {
            let detail = "must not point to fields in metadata";
            errors.push(invalid(&field, path, detail));
        }
        if !matches!(
            text(found.schema, "/type"),
            "string" | "boolean" | "integer"
        ) {
            let detail = "must point to a field of type string, boolean or integer. Enum string \
                          fields and strings with formats are allowed.";
            errors.push(invalid(&field, path, detail));
        }
        if !seen.insert(found.path) {
            errors.push(FieldError::duplicate(field, &path.into()));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.push(FieldError::too_many(field, seen.len(), MAX_SELECTABLE));
    }
    errors
}
