//! Lists whose items must differ: in all (`set`) or in their keys (`map`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Additional, ListKind, Node};
use crate::field_error::FieldError;

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
            for (name, value) in map {
                if let Some(node) = node.properties.get(name) {
                    visit(node, value, &super::field(path, name), errors);
                } else if let Additional::Each(node) = &node.additional {
                    visit(node, value, &format!("{path}[{name}]"), errors);
                }
            }
        }
        Value::Array(items) => {
            distinct(node, items, path, errors);
            if let Some(of) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    visit(of, item, &format!("{path}[{at}]"), errors);
                }
            }
        }
        _ => {}
    }
}

fn distinct(node: &Node, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let identity = |item: &Value| match &node.list {
        ListKind::Atomic => None,
        ListKind::Set => Some(item.clone()),
        ListKind::Map(keys) => {
            let item = item.as_object()?;
            let found = keys.iter().filter_map(|key| Some((key, item.get(key)?)));
            let keys: Map<String, Value> = found.map(|(k, v)| (k.clone(), v.clone())).collect();
            Some(keys.into())
        }
    };
    let mut seen = HashSet::new();
    for (at, item) in items.iter().enumerate() {
        let Some(identity) = identity(item) else {
            continue;
        };
        if !seen.insert(identity.to_string()) {
            errors.push(FieldError::duplicate(format!("{path}[{at}]"), &identity));
        }
    }
}
