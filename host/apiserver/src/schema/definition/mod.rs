//! What the author of a definition may write as a schema, and what is told where it is wrong.
//!
//! Three things in this order, as in Kubernetes: the schema is structural ([`structural`]), its
//! defaults are values that it takes itself ([`defaults`]), and every part says only what OpenAPI in
//! Kubernetes may say ([`openapi`]), rules in CEL included ([`expressions`]). Rules are compiled
//! only where nothing else is wrong: their types come from the schema.

mod defaults;
mod expressions;
mod openapi;
mod path;
mod structural;

use serde_json::{Map, Value};

pub(crate) use self::path::{find, normal_path};
use super::parse::MAX_DEPTH;
use crate::field_error::FieldError;

/// What surrounds a schema.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Context {
    /// The version has a status of its own, which restricts what the root may say.
    pub(crate) status: bool,
    /// The schema is the stored one: what it costs was accepted before.
    pub(crate) unchanged: bool,
}

/// Fields of a schema that its root may have beside a status of its own.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    (
        "XPreserveUnknownFields",
        "x-kubernetes-preserve-unknown-fields",
    ),
    ("XValidations", "x-kubernetes-validations"),
];

/// What is wrong with an `openAPIV3Schema`, whose field in its definition is `path`.
pub(crate) fn check(schema: &Value, path: &str, context: Context) -> Vec<FieldError> {
    if is_deeper(schema, MAX_DEPTH) {
        let detail = format!("schemas nest at most {MAX_DEPTH} levels");
        return vec![FieldError::forbidden(path, &detail)];
    }
    let mut errors = Vec::new();
    if context.status {
        errors.extend(root_beside_status(schema, path));
    }
    if flag(schema, "nullable") {
        let field = format!("{path}.nullable");
        let detail = "nullable cannot be true at the root";
        errors.push(FieldError::forbidden(field, detail));
    }
    let mut unsound = structural::check(schema, path);
    if unsound.is_empty() {
        unsound = defaults::check(schema, path);
    }
    let sound = unsound.is_empty();
    errors.extend(unsound);
    errors.extend(openapi::check(schema, path, context, sound));
    errors
}

fn root_beside_status(schema: &Value, path: &str) -> Option<FieldError> {
    let kind = text(schema, "type");
    if !kind.is_empty() && kind != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status \
                      subresource is enabled";
        let field = format!("{path}.type");
        return Some(FieldError::invalid(field, &kind.into(), detail));
    }
    let foreign = members(schema).find(|(name, value)| {
        let known = AT_ROOT.iter().any(|(_, known)| known == name);
        !known && !is_zero(value)
    });
    foreign.map(|_| {
        let names: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
        let detail = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is \
             enabled",
            names.join(" ")
        );
        FieldError::invalid_shown(path, &crate::crd::go::schema(schema), &detail)
    })
}

/// Absent, as a Go struct has it.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn is_deeper(schema: &Value, levels: usize) -> bool {
    // Measured without recursion, as nobody has looked at it before.
    let mut open = vec![(schema, 0)];
    while let Some((schema, depth)) = open.pop() {
        if depth > levels {
            return true;
        }
        for name in [
            "properties",
            "patternProperties",
            "definitions",
            "dependencies",
        ] {
            if let Some(Value::Object(map)) = schema.get(name) {
                open.extend(map.values().map(|child| (child, depth + 1)));
            }
        }
        for name in ["allOf", "anyOf", "oneOf", "items"] {
            if let Some(Value::Array(list)) = schema.get(name) {
                open.extend(list.iter().map(|child| (child, depth + 1)));
            }
        }
        for name in ["items", "not", "additionalProperties", "additionalItems"] {
            if let Some(child @ Value::Object(_)) = schema.get(name) {
                open.push((child, depth + 1));
            }
        }
    }
    false
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

/// A member that is there and not null.
fn given<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get(name).filter(|value| !value.is_null())
}

fn members(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.as_object().into_iter().flatten()
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    let map = schema.get("properties").and_then(Value::as_object)?;
    (!map.is_empty()).then_some(map)
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    let list = schema.get(name).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

fn strings<'a>(schema: &'a Value, name: &str) -> Vec<&'a str> {
    list(schema, name)
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// A schema under `name`, not a flag or a list.
fn child<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get(name).filter(|child| child.is_object())
}
