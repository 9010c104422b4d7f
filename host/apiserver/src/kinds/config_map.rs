//! ConfigMap: settings that pods read.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, entries, text},
    metadata_fields, names, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// All keys and values together: what fits one object of the store comfortably.
pub(super) const MAX_SIZE: usize = 1024 * 1024;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    list_kind: "ConfigMapList",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
    decode: |value| check("v1", "ConfigMap", value),
    default: |_| {},
    prepare: |_, _| {},
    validate,
    fields: |object| metadata_fields(object, true),
    field_names: &["metadata.name", "metadata.namespace"],
    columns: &[
        Column::name(),
        Column::new("Data", "Number of entries."),
        Column::age(),
    ],
    cells: |object, now| {
        let count = entries(object, "/data").count() + entries(object, "/binaryData").count();
        vec![
            json!(text(object, "/metadata/name")),
            json!(count),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_metadata(object, old, true, names::subdomain);
    let plain: BTreeSet<&String> = entries(object, "/data").map(|(key, _)| key).collect();
    let mut size = 0;
    for (map, pointer) in [("data", "/data"), ("binaryData", "/binaryData")] {
        for (key, value) in entries(object, pointer) {
            let field = format!("{map}[{key}]");
            for detail in names::config_key(key) {
                errors.push(FieldError::invalid(
                    &field,
                    &Value::from(key.as_str()),
                    &detail,
                ));
            }
            if map == "binaryData" && plain.contains(key) {
                let value = Value::from(key.as_str());
                errors.push(FieldError::invalid(
                    &field,
                    &value,
                    "duplicate of key present in data",
                ));
            }
            size += key.len() + value.as_str().map_or(0, str::len);
        }
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long("", MAX_SIZE));
    }
    errors.extend(immutable(object, old, &["data", "binaryData"]));
    errors
}

/// Once `immutable` is set it stays, and so do the listed fields.
pub(super) fn immutable(object: &Value, old: Option<&Value>, fields: &[&str]) -> Vec<FieldError> {
    let Some(old) = old.filter(|old| at(old, "/immutable") == &Value::Bool(true)) else {
        return Vec::new();
    };
    let detail = "field is immutable when `immutable` is set";
    let mut errors = Vec::new();
    if at(object, "/immutable") != &Value::Bool(true) {
        errors.push(FieldError::forbidden("immutable", detail));
    }
    for field in fields {
        let pointer = format!("/{field}");
        if at(object, &pointer) != at(old, &pointer) {
            errors.push(FieldError::forbidden(*field, detail));
        }
    }
    errors
}
