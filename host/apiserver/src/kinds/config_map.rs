//! ConfigMap: settings that pods read.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, entries, text},
    metadata::{self, invalid},
    metadata_fields, names,
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
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(metadata::validate_update(object, old));
        errors.extend(immutable(object, old, &["data", "binaryData"]));
    }
    errors.extend(metadata::whole(object, true, names::subdomain));
    let key_rule = |errors: &mut Vec<FieldError>, key: &str, field: &str| {
        let details = names::config_key(key).into_iter();
        errors.extend(details.map(|detail| invalid(field, key, &detail)));
    };
    let mut size = 0;
    for (key, value) in entries(object, "/data") {
        let field = format!("data[{key}]");
        key_rule(&mut errors, key, &field);
        if at(object, "/binaryData").get(key).is_some() {
            let detail = "duplicate of key present in binaryData";
            errors.push(invalid(field, key, detail));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(object, "/binaryData") {
        key_rule(&mut errors, key, &format!("binaryData[{key}]"));
        size += decoded_size(value);
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long("", MAX_SIZE));
    }
    errors
}

/// How many bytes a base64 text stands for.
pub(super) fn decoded_size(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    // Three bytes for every four letters, but for the padding.
    text.trim_end_matches('=').len() * 3 / 4
}

/// Once `immutable` is set it stays, and so do the listed fields.
pub(super) fn immutable(object: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    if at(old, "/immutable") != &Value::Bool(true) {
        return Vec::new();
    }
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
