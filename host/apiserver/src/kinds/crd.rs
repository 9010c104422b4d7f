//! CustomResourceDefinition: a kind that a user adds to the API.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, child, fill, has, list, text},
    metadata::invalid,
    metadata_fields, names, status_only, validate_metadata,
};
use crate::{field_error::FieldError, jsonpath::JsonPath, schema::Schema, table::Column};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    list_kind: "CustomResourceDefinitionList",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    status: true,
    scale: false,
    generation: true,
    decode: |value| check("apiextensions.k8s.io/v1", "CustomResourceDefinition", value),
    default,
    prepare: |object, old| {
        status_only(object, old);
        stored_versions(object);
    },
    validate,
    fields: |object| metadata_fields(object, false),
    field_names: &["metadata.name"],
    columns: &[
        Column::name(),
        Column {
            kind: "date",
            ..Column::new("Created At", "When the definition was made.")
        },
    ],
    cells: |object, _now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/metadata/creationTimestamp")),
        ]
    },
    status_keeps_metadata: true,
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    let kind = text(spec, "/names/kind").to_owned();
    let names = child(spec, "names");
    if !kind.is_empty() {
        fill(names, "singular", kind.to_lowercase());
        fill(names, "listKind", format!("{kind}List"));
    }
    let conversion = child(spec, "conversion");
    fill(conversion, "strategy", "None");
    let status = child(object, "status");
    fill(status, "conditions", Value::Null);
    fill(status, "acceptedNames", json!({"plural": "", "kind": ""}));
    stored_versions(object);
}

/// A version that ever was the storage version is remembered.
fn stored_versions(object: &mut Value) {
    let storage: Vec<Value> = list(object, "/spec/versions")
        .iter()
        .filter(|version| at(version, "/storage") == &Value::Bool(true))
        .map(|version| at(version, "/name").clone())
        .collect();
    let status = child(object, "status");
    fill(status, "storedVersions", json!([]));
    fill(status, "acceptedNames", json!({"plural": "", "kind": ""}));
    if let Some(stored) = status
        .get_mut("storedVersions")
        .and_then(Value::as_array_mut)
    {
        for version in storage {
            if !stored.contains(&version) {
                stored.push(version);
            }
        }
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_metadata(object, old, false, names::subdomain);
    let spec = at(object, "/spec");
    let (group, plural) = (text(spec, "/group"), text(spec, "/names/plural"));
    let name = text(object, "/metadata/name");
    if !name.is_empty() && name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.push(invalid("metadata.name", name, detail));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else {
        errors.extend(
            names::subdomain(group)
                .iter()
                .map(|one| invalid("spec.group", group, one)),
        );
        if !group.contains('.') {
            let detail = "should be a domain with at least one dot";
            errors.push(invalid("spec.group", group, detail));
        }
    }
    match text(spec, "/scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        _ => {
            let supported = ["Cluster", "Namespaced"];
            errors.push(FieldError::not_supported(
                "spec.scope",
                at(spec, "/scope"),
                &supported,
            ));
        }
    }
    errors.extend(versions(spec));
    errors.extend(check_names(at(spec, "/names"), "spec.names"));
    let strategy = text(spec, "/conversion/strategy");
    if strategy == "Webhook" {
        let detail = "conversion by webhook is not offered here: use strategy None";
        errors.push(FieldError::forbidden("spec.conversion.strategy", detail));
    } else if strategy != "None" {
        let value = at(spec, "/conversion/strategy");
        let supported = ["None", "Webhook"];
        errors.push(FieldError::not_supported(
            "spec.conversion.strategy",
            value,
            &supported,
        ));
    }
    if list(object, "/status/storedVersions").is_empty() {
        let value = Value::Null;
        let detail = "must have at least one stored version";
        errors.push(FieldError::invalid("status.storedVersions", &value, detail));
    }
    if let Some(old) = old {
        for field in ["group", "scope"] {
            let pointer = format!("/spec/{field}");
            if at(object, &pointer) != at(old, &pointer) {
                let value = at(object, &pointer);
                let field = format!("spec.{field}");
                errors.push(FieldError::invalid(field, value, "field is immutable"));
            }
        }
    }
    errors
}

fn check_names(given: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["plural", "singular", "kind", "listKind"] {
        let value = text(given, &format!("/{name}"));
        let field = format!("{field}.{name}");
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else {
            let found = names::label_1035(&value.to_lowercase());
            errors.extend(found.iter().map(|one| invalid(&field, value, one)));
        }
    }
    for name in ["shortNames", "categories"] {
        for (index, value) in list(given, &format!("/{name}")).iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            let found = names::label_1035(value);
            let field = format!("{field}.{name}[{index}]");
            errors.extend(found.iter().map(|one| invalid(&field, value, one)));
        }
    }
    let (kind, list_kind) = (text(given, "/kind"), text(given, "/listKind"));
    if !kind.is_empty() && kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(invalid(format!("{field}.listKind"), list_kind, detail));
    }
    errors
}

fn versions(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = list(spec, "/versions");
    let mut seen = HashSet::new();
    for (index, version) in all.iter().enumerate() {
        let field = format!("spec.versions[{index}]");
        let name = text(version, "/name");
        let found = names::label_1035(name);
        errors.extend(
            found
                .iter()
                .map(|one| invalid(format!("{field}.name"), name, one)),
        );
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(
                format!("{field}.name"),
                at(version, "/name"),
            ));
        }
        let schema = at(version, "/schema/openAPIV3Schema");
        let path = format!("{field}.schema.openAPIV3Schema");
        if schema.is_null() {
            errors.push(FieldError::required(path, ""));
        } else if let Err(found) = Schema::parse(schema, &path) {
            errors.extend(found);
        }
        errors.extend(subresources(
            at(version, "/subresources"),
            &format!("{field}.subresources"),
        ));
        errors.extend(printer_columns(version, &field));
    }
    let storage = all
        .iter()
        .filter(|one| at(one, "/storage") == &Value::Bool(true))
        .count();
    if storage != 1 {
        let value = at(spec, "/versions");
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", value, detail));
    }
    errors
}

fn subresources(given: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !has(given, "/scale") {
        return errors;
    }
    let required = [
        ("specReplicasPath", ".spec."),
        ("statusReplicasPath", ".status."),
    ];
    for (name, prefix) in required {
        let path = text(given, &format!("/scale/{name}"));
        let field = format!("{field}.scale.{name}");
        if path.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if !path.starts_with(prefix) {
            let detail = format!(
                "should be a json path under {}",
                prefix.trim_end_matches('.')
            );
            errors.push(invalid(field, path, &detail));
        }
    }
    errors
}

const COLUMN_TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];

fn printer_columns(version: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, column) in list(version, "/additionalPrinterColumns")
        .iter()
        .enumerate()
    {
        let field = format!("{field}.additionalPrinterColumns[{index}]");
        if text(column, "/name").is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        }
        match text(column, "/type") {
            "" => {
                let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
                errors.push(FieldError::required(format!("{field}.type"), &detail));
            }
            kind if !COLUMN_TYPES.contains(&kind) => {
                let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
                errors.push(invalid(format!("{field}.type"), kind, &detail));
            }
            _ => {}
        }
        let path = text(column, "/jsonPath");
        let field = format!("{field}.jsonPath");
        if path.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if let Err(error) = JsonPath::parse(path) {
            errors.push(invalid(field, path, &error.0));
        }
    }
    errors
}
