//! Strategic merge patch: a merge patch that knows which lists are keyed.
//!
//! `containers` join by `name`, `conditions` by `type`, finalizers as a set; directives inside the
//! patch delete, replace and order. Which list joins how is in the type table, so nothing here
//! names a field. The rules are those of Kubernetes' sig-api-machinery document
//! "strategic-merge-patch"; the order of a joined list follows them to the letter: the patch's
//! elements in the patch's order, and the others where their old neighbours allow.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{PatchError, not_a_map};
use crate::{
    managed::go_plain,
    model::{Kind, Model, Strategy, Type},
};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";
const RETAIN_FORMAT: &str = "invalid patch format of retainKeys";

/// Kubernetes' strategic merge patch for a built-in kind (custom resources have none: 415).
pub fn strategic(
    group: &str,
    kind: &str,
    current: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let version = current
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let root = Model::get().root(version, kind).ok_or_else(|| {
        PatchError::Malformed(format!(
            "unable to find api field in struct {kind} of group {group:?}: \
             use a merge patch or a JSON patch"
        ))
    })?;
    match (current, patch) {
        (Value::Object(current), Value::Object(patch)) => {
            merge_map(current.clone(), patch.clone(), Some(root)).map(Value::Object)
        }
        // Nothing is to change.
        (_, Value::Null) => Ok(current.clone()),
        (_, other) => Err(malformed(not_a_map(other))),
    }
}

fn merge_map(
    mut current: Map<String, Value>,
    mut patch: Map<String, Value>,
    of: Option<&Type>,
) -> Result<Map<String, Value>, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives(patch)),
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(directive, &Value::Object(patch.clone()))),
        };
    }
    retain(&mut current, &mut patch)?;
    order(&mut current, &mut patch, of)?;
    for (name, change) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            delete_values(&mut current, list, &change)?;
            continue;
        }
        if change.is_null() {
            current.remove(&name);
            continue;
        }
        let field = of.and_then(|of| of.field(&name));
        let kind = field.map(|field| &field.kind);
        let strategy = field.map(|field| field.strategy).unwrap_or_default();
        let merged = match (current.remove(&name), change) {
            (Some(Value::Object(old)), Value::Object(new)) if !strategy.replace => {
                Value::Object(merge_map(old, new, object_type(kind))?)
            }
            (Some(Value::Array(old)), Value::Array(new)) if strategy.merge => {
                Value::Array(merge_list(old, new, strategy, element_type(kind))?)
            }
            (_, Value::Object(new)) => Value::Object(without_directives(new)),
            (_, Value::Array(new)) => Value::Array(clean_list(new)),
            (_, new) => new,
        };
        current.insert(name, merged);
    }
    Ok(current)
}

fn object_type(kind: Option<&Kind>) -> Option<&'static Type> {
    match kind {
        Some(Kind::Object(at)) => Model::get().at(*at),
        _ => None,
    }
}

fn element_type(kind: Option<&Kind>) -> Option<&'static Type> {
    match kind {
        Some(Kind::List(of)) => object_type(Some(of)),
        _ => None,
    }
}

/// `$retainKeys`: of the current fields only the listed ones stay.
fn retain(
    current: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), PatchError> {
    let Some(listed) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(listed) = listed else {
        return Err(malformed(RETAIN_FORMAT.to_owned()));
    };
    let listed: HashSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let is_about_list = |name: &str| name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
    let is_listed = |name: &str| is_about_list(name) || listed.contains(name);
    if patch
        .iter()
        .any(|(name, value)| !value.is_null() && !is_listed(name))
    {
        return Err(malformed(RETAIN_FORMAT.to_owned()));
    }
    current.retain(|name, _| listed.contains(name.as_str()));
    Ok(())
}

/// `$setElementOrder/x`: joins the list `x` now and gives it the order asked for.
fn order(
    current: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    of: Option<&Type>,
) -> Result<(), PatchError> {
    let names: Vec<String> = patch
        .keys()
        .filter_map(|key| key.strip_prefix(SET_ORDER))
        .map(str::to_owned)
        .collect();
    for name in names {
        let wanted = match patch.remove(&format!("{SET_ORDER}{name}")) {
            Some(Value::Array(wanted)) => wanted,
            other => return Err(no_list(&other.unwrap_or_default())),
        };
        let field = of.and_then(|of| of.field(&name));
        let strategy = field.map(|field| field.strategy).unwrap_or_default();
        if !strategy.merge {
            continue;
        }
        // Values to delete from a list of plain values come first, as they are not to be ordered.
        if let Some(deleted) = patch.remove(&format!("{DELETE_FROM}{name}")) {
            delete_values(current, &name, &deleted)?;
        }
        if patch.get(&name).is_some_and(Value::is_null) {
            continue;
        }
        let old = match current.get(&name) {
            Some(Value::Array(old)) => old.clone(),
            _ => Vec::new(),
        };
        let merged = match patch.remove(&name) {
            Some(Value::Array(new)) => {
                check_order(&new, &wanted, strategy.key)?;
                let of = element_type(field.map(|field| &field.kind));
                merge_list(old.clone(), new, strategy, of)?
            }
            Some(other) => return Err(no_list(&other)),
            None => old.clone(),
        };
        if merged.is_empty() {
            current.remove(&name);
        } else {
            let sorted = arrange(merged, &wanted, &old, strategy.key);
            current.insert(name, Value::Array(sorted));
        }
    }
    Ok(())
}

fn delete_values(
    current: &mut Map<String, Value>,
    name: &str,
    deleted: &Value,
) -> Result<(), PatchError> {
    let Value::Array(deleted) = deleted else {
        return Err(malformed(
            "invalid patch format of primitive list".to_owned(),
        ));
    };
    if let Some(Value::Array(list)) = current.get_mut(name) {
        let deleted: HashSet<String> = deleted.iter().map(Value::to_string).collect();
        list.retain(|value| !deleted.contains(&value.to_string()));
        if list.is_empty() {
            current.remove(name);
        }
    }
    Ok(())
}

fn merge_list(
    old: Vec<Value>,
    new: Vec<Value>,
    strategy: Strategy,
    of: Option<&Type>,
) -> Result<Vec<Value>, PatchError> {
    let mut shapes = old.iter().chain(&new).map(go_type);
    let first = shapes.next();
    if first == Some("[]interface {}") {
        let why = "lists of lists are not supported";
        return Err(PatchError::Unprocessable(why.to_owned()));
    }
    if shapes.any(|shape| Some(shape) != first) {
        let both = go_plain(&Value::Array(vec![old.into(), new.into()]));
        let why = format!("list element types are not identical: {both}");
        return Err(PatchError::Unexplained(why));
    }
    if strategy.key.is_empty() {
        let mut seen = HashSet::new();
        let both = old
            .iter()
            .chain(&new)
            .filter(|value| seen.insert(value.to_string()));
        let merged = both.cloned().collect();
        return Ok(arrange(merged, &new, &old, ""));
    }
    let key = strategy.key;
    let (changes, removed, replaced) = directives(new, key)?;
    let mut merged: Vec<Value> = if replaced {
        Vec::new()
    } else {
        let stays = |value: &&Value| !identity(value, key).is_some_and(|id| removed.contains(&id));
        old.iter().filter(stays).cloned().collect()
    };
    if replaced {
        return Ok(clean_list(changes));
    }
    let mut place: HashMap<String, usize> = HashMap::new();
    for (at, value) in merged.iter().enumerate() {
        if let Some(id) = identity(value, key) {
            place.entry(id).or_insert(at);
        }
    }
    for change in &changes {
        let (Value::Object(fields), Some(id)) = (change, identity(change, key)) else {
            return Err(without_key(change, key));
        };
        match place.get(&id).and_then(|at| merged.get_mut(*at)) {
            Some(slot) => {
                if let Value::Object(existing) = slot.take() {
                    *slot = Value::Object(merge_map(existing, fields.clone(), of)?);
                }
            }
            None => {
                place.insert(id, merged.len());
                merged.push(Value::Object(without_directives(fields.clone())));
            }
        }
    }
    Ok(arrange(merged, &changes, &old, key))
}

/// Splits off what the patch's elements say about the list itself: which to delete, and whether
/// the rest replaces the whole list.
fn directives(
    new: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, HashSet<String>, bool), PatchError> {
    let (mut changes, mut removed, mut replaced) = (Vec::new(), HashSet::new(), false);
    for value in new {
        match value.get(DIRECTIVE).and_then(Value::as_str) {
            None => changes.push(value),
            Some("delete") => match identity(&value, key) {
                Some(id) => {
                    removed.insert(id);
                }
                None => return Err(without_key(&value, key)),
            },
            Some("replace") => replaced = true,
            Some("merge") => {
                let why = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::Unexplained(why.to_owned()));
            }
            Some(other) => return Err(unknown_directive(&other.into(), &value)),
        }
    }
    Ok((changes, removed, replaced))
}

/// What tells an element from the others: the value of its key, or a plain value itself.
fn identity(value: &Value, key: &str) -> Option<String> {
    if key.is_empty() {
        Some(value.to_string())
    } else {
        value.get(key).map(Value::to_string)
    }
}

/// Orders `merged`: elements named in `wanted` in that order, the others in the order of `old`,
/// and one of the others goes before an element of `wanted` only where `old` had both that way.
fn arrange(merged: Vec<Value>, wanted: &[Value], old: &[Value], key: &str) -> Vec<Value> {
    let places = |list: &[Value]| {
        let mut map: HashMap<String, usize> = HashMap::new();
        for (at, value) in list.iter().enumerate() {
            if let Some(id) = identity(value, key) {
                map.entry(id).or_insert(at);
            }
        }
        map
    };
    let (wanted, old) = (places(wanted), places(old));
    let place = |map: &HashMap<String, usize>, value: &Value| {
        identity(value, key).and_then(|id| map.get(&id).copied())
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|value| place(&wanted, value).is_some());
    named.sort_by_key(|value| place(&wanted, value));
    others.sort_by_key(|value| place(&old, value).unwrap_or(usize::MAX));
    let mut sorted = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(one), Some(other)) = (named.peek(), others.peek()) {
        let before = match (place(&old, other), place(&old, one)) {
            (Some(other), Some(one)) => other < one,
            _ => false,
        };
        sorted.extend(if before { others.next() } else { named.next() });
    }
    sorted.extend(named);
    sorted.extend(others);
    sorted
}

/// A value that is new as a whole keeps no instructions.
fn without_directives(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(name, value)| {
            let directive = name == DIRECTIVE
                || name == RETAIN_KEYS
                || name.starts_with(DELETE_FROM)
                || name.starts_with(SET_ORDER);
            !directive && !value.is_null()
        })
        .map(|(name, value)| {
            let value = match value {
                Value::Object(fields) => Value::Object(without_directives(fields)),
                Value::Array(items) => Value::Array(clean_list(items)),
                other => other,
            };
            (name, value)
        })
        .collect()
}

fn clean_list(items: Vec<Value>) -> Vec<Value> {
    let is_delete = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
    let is_directive = |item: &Value| {
        item.as_object()
            .is_some_and(|map| map.len() == 1 && map.contains_key(DIRECTIVE))
    };
    items
        .into_iter()
        .filter(|item| !is_delete(item) && !is_directive(item))
        .map(|item| match item {
            Value::Object(fields) => Value::Object(without_directives(fields)),
            other => other,
        })
        .collect()
}

/// The elements of a patch must stand in the order that it asks for.
fn check_order(new: &[Value], wanted: &[Value], key: &str) -> Result<(), PatchError> {
    let is_delete = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
    let mut rest = wanted.iter();
    let in_order = new
        .iter()
        .filter(|item| !is_delete(item))
        .all(|item| rest.any(|one| identity(one, key) == identity(item, key)));
    if in_order {
        return Ok(());
    }
    let plain = |list: &[Value]| go_plain(&Value::Array(list.to_vec()));
    Err(PatchError::Unexplained(format!(
        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
        plain(new),
        plain(wanted)
    )))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn no_list(found: &Value) -> PatchError {
    let found = go_type(found);
    PatchError::Unexplained(format!(
        "expected a []interface {{}}, but received a {found}"
    ))
}

fn without_key(element: &Value, key: &str) -> PatchError {
    PatchError::Unexplained(format!(
        "map: {} does not contain declared merge key: {key}",
        go_plain(element)
    ))
}

fn unknown_directive(directive: &Value, within: &Value) -> PatchError {
    let (directive, within) = (go_plain(directive), go_plain(within));
    PatchError::Unexplained(format!("unknown patch type: {directive} in map: {within}"))
}

fn malformed(message: String) -> PatchError {
    PatchError::Malformed(message)
}
