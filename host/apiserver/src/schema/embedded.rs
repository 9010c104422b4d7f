//! Objects inside of objects (`x-kubernetes-embedded-resource`): they say what they are and have
//! metadata as any object has.

use serde_json::Value;

use super::{Additional, Node, field};
use crate::{
    field_error::FieldError,
    kinds::{self, names},
    model::{self, Model},
};

pub(super) fn check(root: &Node, object: &Value) -> Vec<FieldError> {
    at(root, object, "")
}

/// What makes an object unreadable: metadata inside of it that are of other types than metadata are.
pub(super) fn unreadable(root: &Node, object: &Value) -> Option<String> {
    let of = Model::get().named("meta.v1.ObjectMeta")?;
    let mut errors = Vec::new();
    walk(root, object, "", &mut |value, path| {
        if let Some(metadata) = value.get("metadata").filter(|given| given.is_object())
            && let Err(error) = model::check(of, &mut metadata.clone())
        {
            let path = field(path, "metadata");
            errors.push(FieldError::invalid(path, metadata, &error.message));
        }
    });
    errors.first().map(ToString::to_string)
}

/// A value that stands somewhere.
pub(super) fn at(node: &Node, value: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(node, value, path, &mut |value, path| {
        resource(value, path, &mut errors);
    });
    errors
}

/// Every whole object, the outer ones first, with its place.
fn walk(node: &Node, value: &Value, path: &str, visit: &mut dyn FnMut(&Value, &str)) {
    match value {
        Value::Object(map) => {
            if node.embedded {
                visit(value, path);
            }
            for (name, value) in map {
                if let Some(node) = node.properties.get(name) {
                    walk(node, value, &field(path, name), visit);
                } else if let Additional::Each(node) = &node.additional {
                    walk(node, value, &format!("{path}[{name}]"), visit);
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    walk(of, item, &format!("{path}[{at}]"), visit);
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
