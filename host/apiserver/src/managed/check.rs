//! Whether a value is of the type that structured merge takes it for, in the words of Kubernetes.
//!
//! Objects that are stored have been checked by stricter rules; this is for what is applied, which
//! must be right before it is merged: a field that the type does not have cannot be owned.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    element,
    shape::{Form, List, Listing, Scalar, Shape},
};

/// More errors than this say nothing new.
const ENOUGH: usize = 64;

/// Every fault of a value, as one text. `None` for a valid one.
pub(super) fn faults(shape: Shape<'_>, value: &Value) -> Option<String> {
    let mut faults = Vec::new();
    check(shape, value, "", &mut faults);
    match faults.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => {
            let lines: Vec<String> = many.iter().map(|fault| format!("  {fault}")).collect();
            Some(format!("errors:\n{}", lines.join("\n")))
        }
    }
}

fn check(shape: Shape<'_>, value: &Value, path: &str, faults: &mut Vec<String>) {
    if value.is_null() || faults.len() >= ENOUGH {
        return;
    }
    match (shape.form(Some(value)), value) {
        (Form::Scalar(scalar), _) => {
            if let Some(wrong) = wrong_scalar(scalar, value) {
                faults.push(at(path, &wrong));
            }
        }
        (Form::List(list), Value::Array(items)) => check_items(list, items, path, faults),
        (Form::Map(object), Value::Object(map)) => {
            for (name, child) in map {
                let path = format!("{path}.{name}");
                let Some(field) = object.field(name) else {
                    faults.push(at(&path, "field not declared in schema"));
                    return;
                };
                check(field.shape, child, &path, faults);
            }
        }
        (Form::List(_), found) => {
            faults.push(at(
                path,
                &format!("expected list, got &{{{}}}", go_plain(found)),
            ));
        }
        (Form::Map(_), found) => {
            faults.push(at(
                path,
                &format!("expected map, got &{{{}}}", go_plain(found)),
            ));
        }
    }
}

fn check_items(list: List<'_>, items: &[Value], path: &str, faults: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let shown = if matches!(list.listing, Listing::Atomic) {
            format!("[{index}]")
        } else {
            match element::item(list, item) {
                Ok(element) => {
                    let shown = element::shown(&element);
                    if !seen.insert(element) {
                        faults.push(at(path, &format!("duplicate entries for key {shown}")));
                    }
                    shown
                }
                Err(why) => {
                    faults.push(at(path, &format!("element {index}: {why}")));
                    return;
                }
            }
        };
        check(list.items, item, &format!("{path}{shown}"), faults);
    }
}

fn at(path: &str, fault: &str) -> String {
    if path.is_empty() {
        fault.to_owned()
    } else {
        format!("{path}: {fault}")
    }
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (Scalar::Text, Value::String(_))
        | (Scalar::Number, Value::Number(_))
        | (Scalar::Bool, Value::Bool(_))
        | (Scalar::Any, Value::String(_) | Value::Number(_) | Value::Bool(_)) => None,
        (Scalar::Text, found) => Some(format!(
            "expected string, got &value.valueUnstructured{{Value:{}}}",
            go_syntax(found)
        )),
        (Scalar::Number, found) => {
            let found = go_type(found);
            Some(format!("expected numeric (int or float), got {found}"))
        }
        (Scalar::Bool, found) => Some(format!("expected boolean, got &{{{}}}", go_plain(found))),
        (Scalar::Any, found) => Some(format!("expected any scalar, got &{{{}}}", go_plain(found))),
    }
}

/// `%T` of Go for a value that was read from JSON.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `%v` of Go.
pub(crate) fn go_plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_plain).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let fields: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{name}:{}", go_plain(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// `%#v` of Go.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let fields: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{name:?}:{}", go_syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}
