//! Defaults: values that the schema names and takes itself.

use serde_json::Value;

use super::{child, given, properties};
use crate::{
    field_error::FieldError,
    schema::{Node, check as values, embedded, lists, parse, rules},
};

pub(super) fn check(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    part(schema, path, &mut errors);
    errors
}

/// Defaults of maps' values are forbidden elsewhere, so those are not looked for.
fn part(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(default) = given(schema, "default") {
        let node = parse::node(schema, 0);
        errors.extend(one(&node, default, &format!("{path}.default")));
    }
    if let Some(items) = child(schema, "items") {
        part(items, &format!("{path}.items"), errors);
    }
    for (name, child) in properties(schema).into_iter().flatten() {
        part(child, &format!("{path}.properties[{name}]"), errors);
    }
}

fn one(node: &Node, default: &Value, path: &str) -> Vec<FieldError> {
    let mut pruned = default.clone();
    let mut dropped = Vec::new();
    node.prune(&mut pruned, "", &mut dropped);
    let mut errors = Vec::new();
    if pruned != *default {
        errors.push(FieldError::invalid(
            path,
            default,
            "must not have unknown fields",
        ));
    }
    let inside = embedded::at(node, default, path);
    let found = if inside.is_empty() {
        values::part(node, default, None, path)
    } else {
        inside
    };
    if found.is_empty() {
        errors.extend(lists::at(node, default, path));
        if errors.is_empty() {
            errors.extend(rules::default(node, default, path));
        }
    } else {
        errors.extend(found);
    }
    errors
}
