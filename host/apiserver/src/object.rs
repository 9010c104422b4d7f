//! Reading and writing the metadata that every object has, on plain JSON.
//!
//! Objects stay `serde_json::Value` from body to store: the server treats kinds it has never heard
//! of (custom resources) exactly like built-in ones, and nothing is lost between versions.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// The string at a path of keys, or "" if it is not there.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The value at a path of keys.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

/// Levels of an object: who reads JSON in Rust gives up at 128, this server and the host's own
/// controllers among them, and lists, watches and tables put an object a few levels deeper. Managed
/// fields count, which mirror an object.
const DEPTH: usize = 120;

/// Refuse an object that nobody could read any more once it is stored.
pub(crate) fn check_depth(object: &Value) -> Result<(), Failure> {
    match is_deeper(object, DEPTH) {
        true => Err(Failure::bad_request(format!(
            "exceeded max depth: an object may be nested {DEPTH} levels deep"
        ))),
        false => Ok(()),
    }
}

fn is_deeper(value: &Value, levels: usize) -> bool {
    let below = |value: &Value| levels == 0 || is_deeper(value, levels - 1);
    match value {
        Value::Object(map) => map.values().any(below),
        Value::Array(items) => items.iter().any(below),
        _ => false,
    }
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}

pub(crate) fn resource_version(object: &Value) -> &str {
    text(object, &["metadata", "resourceVersion"])
}

/// The revision that a client's write is meant for; empty if any will do, for which `0` stands, too.
pub(crate) fn wanted_version(sent: &Value) -> &str {
    match resource_version(sent) {
        "0" => "",
        version => version,
    }
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !text(object, &["metadata", "deletionTimestamp"]).is_empty()
}

pub(crate) fn has_finalizers(object: &Value) -> bool {
    let finalizers = at(object, &["metadata", "finalizers"]).and_then(Value::as_array);
    finalizers.is_some_and(|list| !list.is_empty())
}

/// The object's `metadata`, made if it is missing or null. Anything else that is no object is
/// replaced too: callers check types before they write.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    member(object, "metadata")
}

/// The object under `key`, made if need be.
pub(crate) fn member<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let map = as_map(object);
    let member = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    as_map(member)
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Just made one.
        _ => unreachable!("an object"),
    }
}

/// Take over `key` of the metadata from `old`: what the system owns, a client cannot change.
pub(crate) fn keep_metadata(object: &mut Value, old: &Value, keys: &[&str]) {
    let metadata = metadata(object);
    for key in keys {
        match at(old, &["metadata", key]) {
            Some(value) => {
                metadata.insert((*key).to_owned(), value.clone());
            }
            None => {
                metadata.remove(*key);
            }
        }
    }
}

/// Bring metadata along that was left out.
pub(crate) fn fill_metadata(object: &mut Value, old: &Value, keys: &[&str]) {
    let metadata = metadata(object);
    for key in keys {
        let given = metadata.get(*key).is_some_and(|given| !given.is_null());
        match at(old, &["metadata", key]) {
            Some(value) if !given => {
                metadata.insert((*key).to_owned(), value.clone());
            }
            _ => {}
        }
    }
}

/// The time as metadata carries it: RFC 3339 in UTC, whole seconds.
pub(crate) fn timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Remove the field at a path such as `spec.containers[0].foo`. Keys of maps may hold dots
/// themselves, so the longest run of segments that is a key wins.
pub(crate) fn remove(object: &mut Value, path: &str) {
    match object {
        Value::Array(items) => {
            let Some((index, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) else {
                return;
            };
            let item = index
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get_mut(index));
            if let Some(item) = item {
                remove(item, rest.strip_prefix('.').unwrap_or(rest));
            }
        }
        Value::Object(map) => {
            if map.remove(path).is_some() {
                return;
            }
            let ends = path
                .char_indices()
                .filter(|(_, c)| matches!(c, '.' | '['))
                .map(|(i, _)| i);
            for end in ends.collect::<Vec<_>>().into_iter().rev() {
                if let Some(child) = map.get_mut(&path[..end]) {
                    let rest = &path[end..];
                    return remove(child, rest.strip_prefix('.').unwrap_or(rest));
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(path: &str, before: Value, after: Value) {
        let mut object = before;
        remove(&mut object, path);
        assert_eq!(object, after, "{path}");
    }

    #[test]
    fn a_field_is_removed_by_the_path_that_names_it() {
        check(
            "a.b",
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"c": 2}}),
        );
        check(
            "a[1].b",
            json!({"a": [{"b": 1}, {"b": 1}]}),
            json!({"a": [{"b": 1}, {}]}),
        );
        check(
            "m.x.y/z.k",
            json!({"m": {"x.y/z": {"k": 1}}}),
            json!({"m": {"x.y/z": {}}}),
        );
        check("m.[0].k", json!({"m": 1}), json!({"m": 1}));
        check("nope.b", json!({"a": 1}), json!({"a": 1}));
    }
}
