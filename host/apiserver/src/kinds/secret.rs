//! Secret: what pods need and others should not see.

use base64::Engine;
use serde_json::{Value, json};

use super::{
    KindSpec, check,
    config_map::{MAX_SIZE, immutable},
    json::{at, child, entries, fill, has, remove, text},
    metadata_fields, names, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// What a secret of each type must hold.
const NEEDED: [(&str, &[&str]); 4] = [
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "Secret",
    list_kind: "SecretList",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
    decode: |value| check("v1", "Secret", value),
    default: |object| {
        plain_text(object);
        fill(object, "type", "Opaque");
    },
    prepare: |object, old| {
        // A replace may leave the type out.
        if let Some(old) = old {
            fill(object, "type", text(old, "/type"));
        }
    },
    validate,
    fields: |object| {
        let mut fields = metadata_fields(object, true);
        fields.push(("type".into(), text(object, "/type").into()));
        fields
    },
    field_names: &["metadata.name", "metadata.namespace", "type"],
    columns: &[
        Column::name(),
        Column::new("Type", "What the secret is for."),
        Column::new("Data", "Number of entries."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/type")),
            json!(entries(object, "/data").count()),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};

/// `stringData` is write-only: it moves into `data`.
fn plain_text(object: &mut Value) {
    let plain: Vec<(String, String)> = entries(object, "/stringData")
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    remove(object, "stringData");
    if plain.is_empty() {
        return;
    }
    if let Value::Object(data) = child(object, "data") {
        for (key, value) in plain {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value);
            data.insert(key, Value::from(encoded));
        }
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_metadata(object, old, true, names::subdomain);
    let mut size = 0;
    for (key, value) in entries(object, "/data") {
        for detail in names::config_key(key) {
            let value = Value::from(key.as_str());
            errors.push(FieldError::invalid(format!("data[{key}]"), &value, &detail));
        }
        // Three bytes for every four letters.
        size += value.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long("data", MAX_SIZE));
    }
    let kind = text(object, "/type");
    if kind == "kubernetes.io/service-account-token" {
        let annotation = "kubernetes.io/service-account.name";
        let annotations = at(object, "/metadata/annotations");
        let given = annotations.get(annotation).and_then(Value::as_str);
        if given.is_none_or(str::is_empty) {
            let field = format!("metadata.annotations[{annotation}]");
            errors.push(FieldError::required(field, ""));
        }
    }
    for (_, keys) in NEEDED.iter().filter(|(one, _)| *one == kind) {
        for key in *keys {
            if !has(at(object, "/data"), &format!("/{key}")) {
                errors.push(FieldError::required(format!("data[{key}]"), ""));
            }
        }
    }
    if kind == "kubernetes.io/basic-auth" {
        let data = at(object, "/data");
        if !has(data, "/username") && !has(data, "/password") {
            errors.push(FieldError::required("data[username]", ""));
            errors.push(FieldError::required("data[password]", ""));
        }
    }
    if old.is_some_and(|old| text(old, "/type") != kind) {
        errors.push(FieldError::invalid(
            "type",
            at(object, "/type"),
            "field is immutable",
        ));
    }
    errors.extend(immutable(object, old, &["data"]));
    errors
}
