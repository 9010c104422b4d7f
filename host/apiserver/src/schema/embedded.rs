//! Objects inside of objects (`x-kubernetes-embedded-resource`): they say what they are and have
//! metadata as any object has.

use serde_json::Value;

use super::{Additional, Node, field};
use crate::{
    field_error::FieldError,
    kinds::{self, names},
};

pub(super) fn check(root: &Node, object: &Value) -> Vec<FieldError> {
    at(root, object, "")
}

/// A value that stands somewhere.
pub(super) fn at(node: &Node, value: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    visit(node, value, path, &mut errors);
    errors
}

fn visit(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            if node.embedded {
                resource(value, path, errors);
            }
            for (name, value) in map {
                if let Some(node) = node.properties.get(name) {
                    visit(node, value, &field(path, name), errors);
                } else if let Additional::Each(node) = &node.additional {
                    visit(node, value, &format!("{path}[{name}]"), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    visit(of, item, &format!("{path}[{at}]"), errors);
                }
            }
        }
        _ => {}
    }
}

fn resource(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        let field = field(path, name);
        match value.get(name) {
            None => errors.push(FieldError::required(field, "must not be empty")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(field, &"".into(), "must not be empty"));
            }
            Some(given @ Value::String(text)) => {
                if let Some(detail) = wrong(name, text) {
                    errors.push(FieldError::invalid(field, given, &detail));
                }
            }
            Some(other) => errors.push(FieldError::invalid(field, other, "must be a string")),
        }
    }
    let Some(metadata) = value.get("metadata") else {
        return;
    };
    let path = field(path, "metadata");
    if !metadata.is_object() {
        errors.push(FieldError::invalid(path, metadata, "must be an object"));
        return;
    }
    let mut named = serde_json::json!({"metadata": metadata});
    let empty = crate::object::name(&named).is_empty();
    if empty {
        // An object inside of another needs no name.
        named["metadata"]["name"] = "fakename".into();
    }
    let namespaced = !crate::object::namespace(&named).is_empty();
    for mut error in kinds::validate_metadata_of_any(&named, None, namespaced, names::path_segment)
    {
        let within = error.field.strip_prefix("metadata").unwrap_or(&error.field);
        error.field = format!("{path}{within}");
        errors.push(error);
    }
}

fn wrong(name: &str, text: &str) -> Option<String> {
    if name == "kind" {
        let found = names::label_1035(&text.to_lowercase());
        return (!found.is_empty()).then(|| {
            let found = found.join(",");
            format!("may have mixed case, but should otherwise match: {found}")
        });
    }
    (text.matches('/').count() > 1).then(|| format!("unexpected GroupVersion string: {text}"))
}
