//! Structural schemas: every field has its type outside of logical junctors, and these only add
//! conditions on values.

use serde_json::{Value, json};

use super::{child, flag, given, list, properties, text};
use crate::{field_error::FieldError, schema::parse::compile};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What is wrong, sorted by what is told.
pub(super) fn check(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    part(schema, Level::Root, path, &mut errors);
    complete(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn part(schema: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let items = child(schema, "items");
    if kind == "array" && items.is_none() {
        errors.push(FieldError::required(
            format!("{path}.items"),
            "must be specified",
        ));
    }
    if let Some(items) = items {
        part(items, Level::Item, &format!("{path}.items"), errors);
    }
    for (name, child) in properties(schema).into_iter().flatten() {
        part(
            child,
            Level::Field,
            &format!("{path}.properties[{name}]"),
            errors,
        );
    }
    if let Some(additional) = given(schema, "additionalProperties") {
        let field = format!("{path}.additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(
                &field,
                "must not be used at the root",
            ));
        }
        if additional.is_object() {
            part(additional, Level::Field, &field, errors);
        }
    }
    extensions(schema, path, errors);
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let is_either = |schema: &Value| schema.get("anyOf") == Some(&either);
    let skip = Skip {
        any_of: is_either(schema),
        first_all_of: list(schema, "allOf").first().is_some_and(is_either),
    };
    conditions(schema, skip, path, errors);
    types(schema, level, path, errors);
    meta(schema, level, path, errors);
}

fn extensions(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !flag(schema, "x-kubernetes-int-or-string") {
        return;
    }
    for name in [
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
    ] {
        if flag(schema, name) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            let field = format!("{path}.{name}");
            errors.push(FieldError::invalid(field, &true.into(), detail));
        }
    }
}

fn types(schema: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let field = format!("{path}.type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let free = flag(schema, "x-kubernetes-int-or-string")
        || flag(schema, "x-kubernetes-preserve-unknown-fields");
    if embedded && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match kind {
            "" => FieldError::required(&field, detail),
            kind => FieldError::invalid(&field, &kind.into(), detail),
        });
    } else if kind.is_empty() && !free {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&field, detail));
    }
    if embedded && given(schema, "additionalProperties").is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        let field = format!("{path}.additionalProperties");
        errors.push(FieldError::forbidden(field, detail));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        let detail = "must be object at the root";
        errors.push(FieldError::invalid(field, &kind.into(), detail));
    }
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields");
    if embedded && !open && properties(schema).is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), detail));
    }
}

/// What a schema may say of `apiVersion`, `kind` and `metadata`.
fn meta(schema: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let resource = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let Some(properties) = properties(schema) else {
        return;
    };
    for name in ["kind", "apiVersion"] {
        if let Some(property) = properties.get(name)
            && resource
            && text(property, "type") != "string"
        {
            let field = format!("{path}.properties[{name}].type");
            let kind = text(property, "type").into();
            errors.push(FieldError::invalid(field, &kind, "must be string"));
        }
    }
    let Some(metadata) = properties.get("metadata") else {
        return;
    };
    let field = format!("{path}.properties[metadata]");
    if resource && text(metadata, "type") != "object" {
        let kind = text(metadata, "type").into();
        errors.push(FieldError::invalid(
            format!("{field}.type"),
            &kind,
            "must be object",
        ));
    }
    if level == Level::Root && says_more_than_names(metadata) {
        let detail = "must not specify anything other than name and generateName, but metadata is \
                      implicitly specified";
        errors.push(FieldError::forbidden(field, detail));
    }
}

fn says_more_than_names(metadata: &Value) -> bool {
    let only_names = super::properties(metadata).is_none_or(|properties| {
        properties
            .keys()
            .all(|name| matches!(name.as_str(), "name" | "generateName"))
    });
    // Conditions on values are another matter than the structure.
    let structure = [
        "items",
        "additionalProperties",
        "title",
        "description",
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
        "x-kubernetes-validations",
    ];
    !only_names
        || structure.iter().any(|name| {
            metadata
                .get(name)
                .is_some_and(|value| !super::is_zero(value))
        })
}

/// The two forms in which a number or a text may be spelled with junctors.
#[derive(Clone, Copy, Default)]
struct Skip {
    any_of: bool,
    first_all_of: bool,
}

fn conditions(schema: &Value, skip: Skip, path: &str, errors: &mut Vec<FieldError>) {
    if !skip.any_of {
        for (at, one) in list(schema, "anyOf").iter().enumerate() {
            nested(one, Skip::default(), &format!("{path}.anyOf[{at}]"), errors);
        }
    }
    for (at, one) in list(schema, "allOf").iter().enumerate() {
        let skip = Skip {
            any_of: skip.first_all_of && at == 0,
            first_all_of: false,
        };
        nested(one, skip, &format!("{path}.allOf[{at}]"), errors);
    }
    for (at, one) in list(schema, "oneOf").iter().enumerate() {
        nested(one, Skip::default(), &format!("{path}.oneOf[{at}]"), errors);
    }
    if let Some(not) = child(schema, "not") {
        nested(not, Skip::default(), &format!("{path}.not"), errors);
    }
    let pattern = text(schema, "pattern");
    if let Err(error) = compile(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        let field = format!("{path}.pattern");
        errors.push(FieldError::invalid(field, &pattern.into(), &detail));
    }
}

/// What may not stand under a junctor, and how it is told.
const EMPTY: &str = "must be empty to be structural";
const UNDEFINED: &str = "must be undefined to be structural";
const FALSE: &str = "must be false to be structural";
const FORBIDDEN: [(&str, &str); 13] = [
    ("type", EMPTY),
    ("additionalProperties", UNDEFINED),
    ("default", UNDEFINED),
    ("title", EMPTY),
    ("description", EMPTY),
    ("nullable", FALSE),
    ("x-kubernetes-preserve-unknown-fields", FALSE),
    ("x-kubernetes-embedded-resource", FALSE),
    ("x-kubernetes-int-or-string", FALSE),
    ("x-kubernetes-list-map-keys", EMPTY),
    ("x-kubernetes-list-type", UNDEFINED),
    ("x-kubernetes-map-type", UNDEFINED),
    ("x-kubernetes-validations", EMPTY),
];

fn nested(schema: &Value, skip: Skip, path: &str, errors: &mut Vec<FieldError>) {
    conditions(schema, skip, path, errors);
    if let Some(items) = child(schema, "items") {
        nested(items, Skip::default(), &format!("{path}.items"), errors);
    }
    for (name, one) in properties(schema).into_iter().flatten() {
        let field = format!("{path}.properties[{name}]");
        nested(one, Skip::default(), &field, errors);
    }
    for (name, detail) in FORBIDDEN {
        let set = match detail {
            UNDEFINED => given(schema, name).is_some(),
            _ => given(schema, name).is_some_and(|value| !super::is_zero(value)),
        };
        if set {
            errors.push(FieldError::forbidden(format!("{path}.{name}"), detail));
        }
    }
    if properties(schema).is_some_and(|properties| properties.contains_key("metadata")) {
        let detail = "must not be specified in a nested context";
        let field = format!("{path}.properties[metadata]");
        errors.push(FieldError::forbidden(field, detail));
    }
}

/// Whatever has conditions is specified outside of them too.
fn complete(
    conditions: &Value,
    structure: Option<&Value>,
    at: &str,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, one) in list(conditions, name).iter().enumerate() {
            specified(
                one,
                structure,
                at,
                &format!("{path}.{name}[{index}]"),
                errors,
            );
        }
    }
    if let Some(not) = child(conditions, "not") {
        specified(not, structure, at, &format!("{path}.not"), errors);
    }
}

fn specified(
    nested: &Value,
    structure: Option<&Value>,
    at: &str,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let Some(structure) = structure else {
        let detail = format!("because it is defined in {path}");
        errors.push(FieldError::required(at, &detail));
        return;
    };
    complete(nested, Some(structure), at, path, errors);
    if let Some(items) = child(nested, "items") {
        let outside = child(structure, "items");
        let (at, path) = (format!("{at}.items"), format!("{path}.items"));
        specified(items, outside, &at, &path, errors);
    }
    for (name, property) in properties(nested).into_iter().flatten() {
        let outside = properties(structure).and_then(|properties| properties.get(name));
        let at = format!("{at}.properties[{name}]");
        let path = format!("{path}.properties[{name}]");
        specified(property, outside, &at, &path, errors);
    }
}
