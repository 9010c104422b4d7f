//! RFC 6902 as Kubernetes applies it, with limits on what a small patch may blow an object up to.
//!
//! Beyond the RFC, indexes count from the end where they are negative, and a test for null passes
//! where there is nothing. A patch that is not a list of operations is malformed; whatever fails
//! afterwards, down to an operation that nobody knows, is one and the same answer.

use serde_json::{Map, Value};

use super::{PatchError, go_name};

/// As in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

/// Copies may add this much in all, the size limit of a request body: without it a handful of
/// doubling copies would fill the memory.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch.
pub fn json(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations = match patch {
        Value::Array(operations) => operations.as_slice(),
        Value::Null => &[],
        other => {
            return Err(malformed(format!(
                "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                go_name(other)
            )));
        }
    };
    for operation in operations {
        check_types(operation)?;
    }
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let (mut value, mut copied) = (current.clone(), 0);
    for operation in operations {
        let Value::Object(operation) = operation else {
            return Err(failed("an operation is null"));
        };
        apply(&mut value, operation, &mut copied)?;
    }
    Ok(value)
}

/// An operation has strings where strings belong; that is all that is asked of its form.
fn check_types(operation: &Value) -> Result<(), PatchError> {
    let fields = match operation {
        Value::Object(fields) => fields,
        Value::Null => return Ok(()),
        other => {
            return Err(malformed(format!(
                "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                go_name(other)
            )));
        }
    };
    for name in ["op", "path", "from"] {
        match fields.get(name) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => {
                return Err(malformed(format!(
                    "json: cannot unmarshal {} into Go struct field jsonPatchOp.{name} of type string",
                    go_name(other)
                )));
            }
        }
    }
    Ok(())
}

fn apply(
    root: &mut Value,
    operation: &Map<String, Value>,
    copied: &mut usize,
) -> Result<(), PatchError> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let shown = || text("path").unwrap_or_default();
    let path = || pointer(text("path").ok_or_else(|| failed("an operation has no path"))?);
    let from = || pointer(text("from").ok_or_else(|| failed("an operation has no from"))?);
    let value = || {
        let value = operation.get("value").cloned();
        value.ok_or_else(|| failed("an operation has no value"))
    };
    match text("op").unwrap_or_default() {
        "add" => {
            let path = path()?;
            if lacks_parent(root, &path) {
                return Err(missing(&format!("add{NO_PATH}: {:?}", shown())));
            }
            add(root, &path, value()?)
        }
        "remove" => {
            let path = path()?;
            if lacks_parent(root, &path) {
                return Err(missing(&format!("remove{NO_PATH}: {:?}", shown())));
            }
            remove(root, &path).map(|_| ())
        }
        "replace" => {
            let path = path()?;
            let lacks = lacks_parent(root, &path);
            let place = find_mut(root, &path).ok_or_else(|| {
                missing(&match lacks {
                    true => format!("replace{NO_PATH}: {}", shown()),
                    false => format!(
                        "replace operation does not apply: doc is missing key: {}",
                        shown()
                    ),
                })
            })?;
            *place = value()?;
            Ok(())
        }
        "move" => {
            let (from, path) = (from()?, path()?);
            if path.len() > from.len() && path.starts_with(&from) {
                return Err(failed("a value cannot move into itself"));
            }
            let moved = remove(root, &from)?;
            add(root, &path, moved)
        }
        "copy" => {
            let source = find(root, &from()?).ok_or_else(|| failed("nothing to copy"))?;
            *copied += source.to_string().len();
            if *copied > MAX_COPIED {
                return Err(failed("the copies of the patch are too large"));
            }
            let copy = source.clone();
            add(root, &path()?, copy)
        }
        "test" => {
            let wanted = operation.get("value").unwrap_or(&Value::Null);
            match find(root, &path()?) {
                Some(found) if same(found, wanted) => Ok(()),
                None if wanted.is_null() => Ok(()),
                _ => Err(PatchError::TestFailed),
            }
        }
        _ => Err(failed("unknown operation")),
    }
}

/// The segments of a JSON pointer.
fn pointer(text: &str) -> Result<Vec<String>, PatchError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text
        .strip_prefix('/')
        .ok_or_else(|| failed("a pointer begins with a slash"))?;
    Ok(rest
        .split('/')
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
        .collect())
}

/// Where a segment leads in a list of `len` elements; `len` itself is behind the last.
fn index(segment: &str, len: usize) -> Option<usize> {
    if segment == "-" {
        return Some(len);
    }
    if let Some(back) = segment.strip_prefix('-') {
        return len.checked_sub(back.parse().ok()?);
    }
    segment.parse().ok().filter(|at| *at <= len)
}

fn find<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, segment| match value {
        Value::Object(map) => map.get(segment),
        Value::Array(items) => items.get(index(segment, items.len())?),
        _ => None,
    })
}

fn find_mut<'a>(root: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(root, |value, segment| match value {
        Value::Object(map) => map.get_mut(segment),
        Value::Array(items) => {
            let at = index(segment, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    })
}

const NO_PATH: &str = " operation does not apply: doc is missing path";

/// Whether there is nothing for the last segment to be in.
fn lacks_parent(root: &Value, path: &[String]) -> bool {
    path.split_last().is_some_and(|(_, parents)| {
        !find(root, parents).is_some_and(|place| place.is_object() || place.is_array())
    })
}

/// In the words of the library that Kubernetes uses; shown to those who wrote the patch of a
/// webhook or a policy.
fn missing(why: &str) -> PatchError {
    PatchError::Unprocessable(format!("{why}: missing value"))
}

fn add(root: &mut Value, path: &[String], new: Value) -> Result<(), PatchError> {
    let Some((last, parents)) = path.split_last() else {
        *root = new;
        return Ok(());
    };
    match find_mut(root, parents) {
        Some(Value::Object(map)) => {
            map.insert(last.clone(), new);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let at = match last.as_str() {
                "-" => items.len(),
                // Counted from behind the last element, where adding may happen too.
                back if back.starts_with('-') => {
                    index(back, items.len() + 1).ok_or_else(|| failed("no such index"))?
                }
                plain => index(plain, items.len()).ok_or_else(|| failed("no such index"))?,
            };
            items.insert(at, new);
            Ok(())
        }
        _ => Err(failed("nothing to add to")),
    }
}

fn remove(root: &mut Value, path: &[String]) -> Result<Value, PatchError> {
    let missing = || failed("nothing to remove");
    let (last, parents) = path.split_last().ok_or_else(missing)?;
    match find_mut(root, parents) {
        Some(Value::Object(map)) => map.remove(last).ok_or_else(missing),
        Some(Value::Array(items)) => match index(last, items.len()) {
            Some(at) if at < items.len() => Ok(items.remove(at)),
            _ => Err(missing()),
        },
        _ => Err(missing()),
    }
}

/// Numbers are compared by what they are worth.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let entry = |(key, a): (&String, &Value)| b.get(key).is_some_and(|b| same(a, b));
            a.len() == b.len() && a.iter().all(entry)
        }
        _ => one == other,
    }
}

fn malformed(why: String) -> PatchError {
    PatchError::Malformed(format!("error decoding patch: {why}"))
}

fn failed(why: &str) -> PatchError {
    PatchError::Unprocessable(why.to_owned())
}
