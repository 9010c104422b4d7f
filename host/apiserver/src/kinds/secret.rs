//! Secret: what pods need and others should not see.

use base64::Engine;
use serde_json::{Value, json};

use super::{
    KindSpec, check,
    config_map::{MAX_SIZE, decoded_size, immutable},
    findings::IMMUTABLE,
    json::{at, child, entries, fill, remove, text},
    key_pair,
    metadata::{self, invalid},
    metadata_fields, names,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

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
    warnings,
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
    let mut errors = Vec::new();
    if let Some(old) = old {
        errors.extend(metadata::validate_update(object, old));
        let kind = at(object, "/type");
        if kind != at(old, "/type") {
            errors.push(FieldError::invalid("type", kind, IMMUTABLE));
        }
        errors.extend(immutable(object, old, &["data"]));
    }
    errors.extend(metadata::whole(object, true, names::subdomain));
    let mut size = 0;
    for (key, value) in entries(object, "/data") {
        for detail in names::config_key(key) {
            errors.push(invalid(format!("data[{key}]"), key, &detail));
        }
        size += decoded_size(value);
    }
    if size > MAX_SIZE {
        errors.push(FieldError::too_long("data", MAX_SIZE));
    }
    errors.extend(needed(object));
    errors
}

/// A certificate and a key that no server could use.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    if text(object, "/type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    let data = at(object, "/data");
    let part = |key: &str| {
        let text = data.get(key).and_then(Value::as_str).unwrap_or_default();
        let engine = base64::engine::general_purpose::STANDARD;
        engine.decode(text).unwrap_or_default()
    };
    Vec::from_iter(key_pair::fault(&part("tls.crt"), &part("tls.key")))
}

/// What a secret of a known type must hold.
fn needed(object: &Value) -> Vec<FieldError> {
    let data = at(object, "/data");
    let missing = |key: &str| data.get(key).is_none();
    let required = |key: &str| FieldError::required(format!("data[{key}]"), "");
    match text(object, "/type") {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            let given = at(object, "/metadata/annotations").get(annotation);
            let empty = given.and_then(Value::as_str).is_none_or(str::is_empty);
            let field = format!("metadata.annotations[{annotation}]");
            Vec::from_iter(empty.then(|| FieldError::required(field, "")))
        }
        "kubernetes.io/dockercfg" => docker(data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            vec![required("username"), required("password")]
        }
        "kubernetes.io/ssh-auth" => {
            let key = data.get("ssh-privatekey").and_then(Value::as_str);
            let empty = key.is_none_or(str::is_empty);
            Vec::from_iter(empty.then(|| required("ssh-privatekey")))
        }
        "kubernetes.io/tls" => {
            let keys = ["tls.crt", "tls.key"].into_iter();
            keys.filter(|key| missing(key)).map(required).collect()
        }
        _ => Vec::new(),
    }
}

/// Credentials for registries are a JSON object. What is in it is not shown.
fn docker(data: &Value, key: &str) -> Vec<FieldError> {
    let field = format!("data[{key}]");
    let Some(content) = data.get(key) else {
        return vec![FieldError::required(field, "")];
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(content.as_str().unwrap_or_default())
        .unwrap_or_default();
    let detail = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return Vec::new(),
        Ok(other) => format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            }
        ),
        Err(error) => unreadable(&bytes, &error),
    };
    vec![invalid(field, "<secret contents redacted>", &detail)]
}

/// What Kubernetes says of a text that is no JSON.
fn unreadable(bytes: &[u8], error: &serde_json::Error) -> String {
    let line_start = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>();
    let at = line_start + error.column().saturating_sub(1);
    let said = error.to_string();
    let place = match () {
        () if said.starts_with("trailing characters") => "after top-level value",
        () if said.starts_with("key must be a string") => {
            "looking for beginning of object key string"
        }
        () if said.starts_with("expected `:`") => "after object key",
        () if said.starts_with("expected `,` or `}`") => "after object key:value pair",
        () if said.starts_with("expected `,` or `]`") => "after array element",
        () => "looking for beginning of value",
    };
    match bytes.get(at).filter(|_| !error.is_eof()) {
        Some(byte) => format!("invalid character '{}' {place}", byte.escape_ascii()),
        None => "unexpected end of JSON input".to_owned(),
    }
}
