//! Short hands for reading and filling JSON objects: every kind is made of these.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// The value at a JSON pointer, null if there is none.
pub(super) fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&NULL)
}

/// The string at a JSON pointer, empty if there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_default()
}

/// The number at a JSON pointer, zero if there is none.
pub(super) fn int(value: &Value, pointer: &str) -> i64 {
    at(value, pointer).as_i64().unwrap_or_default()
}

/// The elements at a JSON pointer, none if there are none.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).as_array().map_or(&[], Vec::as_slice)
}

/// The entries of the map at a JSON pointer.
pub(super) fn entries<'a>(
    value: &'a Value,
    pointer: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    at(value, pointer).as_object().into_iter().flatten()
}

pub(super) fn has(value: &Value, pointer: &str) -> bool {
    !at(value, pointer).is_null()
}

/// Sets a field that is absent; as in Go, an empty string counts as absent where the default is one.
pub(super) fn fill(object: &mut Value, name: &str, default: impl Into<Value>) {
    let default = default.into();
    if let Value::Object(map) = object {
        let absent = match map.get(name) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty() && default.is_string(),
            Some(_) => false,
        };
        if absent {
            map.insert(name.to_owned(), default);
        }
    }
}

/// The object under `name`, made if absent.
pub(super) fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    match object {
        Value::Object(map) => {
            let child = map
                .entry(name.to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            if child.is_null() {
                *child = Value::Object(Map::new());
            }
            child
        }
        other => other,
    }
}

/// The elements under `name`, for change.
pub(super) fn items<'a>(object: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

pub(super) fn remove(object: &mut Value, name: &str) {
    if let Value::Object(map) = object {
        map.remove(name);
    }
}

/// Copies a field of the stored object, or drops it where the stored one has none.
pub(super) fn carry(object: &mut Value, old: &Value, name: &str) {
    if let Value::Object(map) = object {
        match old.get(name) {
            Some(value) => map.insert(name.to_owned(), value.clone()),
            None => map.remove(name),
        };
    }
}
