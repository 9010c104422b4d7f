//! Strategic merge patch: a merge patch that knows which lists are keyed.
//!
//! `containers` join by `name`, `conditions` by `type`, finalizers as a set; directives inside the
//! patch delete, replace and order. Which list joins how is in the type table, so nothing here
//! names a field. The rules are those of Kubernetes' sig-api-machinery document
//! "strategic-merge-patch"; the order of a joined list follows them to the letter: the patch's
//! elements in the patch's order, and the others where their old neighbours allow.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::model::{Kind, Model, Strategy, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

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
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(PatchError::Malformed(
            "error decoding patch: a strategic merge patch must be a JSON object".to_owned(),
        ));
    };
    let merged = merge_map(current.clone(), patch.clone(), Some(root))?;
    Ok(Value::Object(merged))
}

fn merge_map(
    mut current: Map<String, Value>,
    mut patch: Map<String, Value>,
    of: Option<&Type>,
) -> Result<Map<String, Value>, PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => return Ok(without_directives(patch)),
            Some("delete") => return Ok(Map::new()),
            Some("merge") => {}
            _ => return Err(malformed(format!("Unknown patch type found: {directive}"))),
        }
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
                Value::Array(merge_list(old, new, strategy, element_type(kind), &name)?)
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
        return Err(malformed(
            "invalid patch format of retainKeys: expected a list".to_owned(),
        ));
    };
    let listed: HashSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    for name in patch.keys().filter(|name| !name.starts_with('$')) {
        if !listed.contains(name.as_str()) && patch.get(name).is_some_and(|value| !value.is_null())
        {
            return Err(malformed(format!(
                "invalid patch format of retainKeys: {name:?} is set but not listed"
            )));
        }
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
        let Some(Value::Array(wanted)) = patch.remove(&format!("{SET_ORDER}{name}")) else {
            return Err(malformed(format!(
                "invalid {SET_ORDER}{name}: expected a list"
            )));
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
                let of = element_type(field.map(|field| &field.kind));
                merge_list(old.clone(), new, strategy, of, &name)?
            }
            Some(other) => {
                return Err(malformed(format!("{name} must be a list, not {other}")));
            }
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
        return Err(malformed(format!(
            "invalid {DELETE_FROM}{name}: expected a list"
        )));
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
    name: &str,
) -> Result<Vec<Value>, PatchError> {
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
        let Value::Object(fields) = change else {
            return Err(malformed(format!(
                "elements of {name} must be objects, not {change}"
            )));
        };
        let Some(id) = identity(change, key) else {
            return Err(malformed(format!(
                "map: {change} does not contain declared merge key: {key}"
            )));
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
                None => {
                    return Err(malformed(
                        "delete patch type with no merge key defined".to_owned(),
                    ));
                }
            },
            Some("replace") => {
                replaced = true;
                let only_directive = value.as_object().is_some_and(|fields| fields.len() == 1);
                if !only_directive {
                    changes.push(value);
                }
            }
            Some("merge") => {
                return Err(malformed(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            Some(other) => return Err(malformed(format!("Unknown patch type found: {other}"))),
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

fn malformed(message: String) -> PatchError {
    PatchError::Malformed(message)
}
