//! Laying an applied configuration over an object.
//!
//! Nothing is ever removed here: fields of the configuration win, elements of keyed lists and sets
//! join. A joined list keeps the order of the configuration for what is in it, and of the object for
//! the rest, as far as both can be had.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    element,
    shape::{Form, List, Listing, Object, Shape},
};

/// `config` is valid at this place: see [`super::check`].
pub(super) fn merge(shape: Shape<'_>, live: &mut Value, config: &Value) {
    if !shape.agree(live, config) {
        *live = config.clone();
        return;
    }
    let known = if config.is_null() { &*live } else { config };
    match shape.form(Some(known)) {
        Form::Scalar(_) => *live = config.clone(),
        Form::List(list) => {
            let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
            if matches!(list.listing, Listing::Atomic) || (empty(live) && empty(config)) {
                *live = config.clone();
            } else if let Value::Array(new) = config {
                let old = match live.take() {
                    Value::Array(old) => old,
                    _ => Vec::new(),
                };
                *live = Value::Array(merge_items(list, old, new));
            }
        }
        Form::Map(object) => {
            let empty = |value: &Value| value.as_object().is_none_or(Map::is_empty);
            if object.atomic || (empty(live) && empty(config)) {
                *live = config.clone();
            } else if let Value::Object(new) = config {
                if !live.is_object() {
                    *live = Value::Object(Map::new());
                }
                if let Value::Object(fields) = live {
                    merge_fields(object, fields, new);
                }
            }
        }
    }
}

fn merge_fields(object: Object<'_>, live: &mut Map<String, Value>, config: &Map<String, Value>) {
    for (name, new) in config {
        match live.get_mut(name) {
            Some(old) if old == new => {}
            Some(old) => {
                let any = Shape::Deduced { atomic: false };
                let shape = object.field(name).map_or(any, |named| named.shape);
                merge(shape, old, new);
            }
            None => {
                live.insert(name.clone(), new.clone());
            }
        }
    }
}

/// One element on its way into the joined list.
enum Slot {
    /// From the object, untouched.
    Old(usize),
    /// From the configuration, over the object's element of the same name if there is just one.
    New(usize),
}

fn merge_items(list: List<'_>, mut old: Vec<Value>, new: &[Value]) -> Vec<Value> {
    let names = |items: &[Value]| -> Vec<String> {
        items
            .iter()
            .map(|item| element::item(list, item).unwrap_or_default())
            .collect()
    };
    let (old_names, new_names) = (names(&old), names(new));
    let order = order(&old_names, &new_names);
    // Which old element a new one is laid over: none if the object has it more than once.
    let mut place: HashMap<&str, Option<usize>> = HashMap::new();
    for (at, name) in old_names.iter().enumerate() {
        place
            .entry(name)
            .and_modify(|place| *place = None)
            .or_insert(Some(at));
    }
    order
        .into_iter()
        .filter_map(|slot| match slot {
            Slot::Old(at) => old.get_mut(at).map(Value::take),
            Slot::New(at) => {
                let (name, config) = (new_names.get(at)?, new.get(at)?);
                let below = place.get(name.as_str()).copied().flatten();
                match below.and_then(|at| old.get_mut(at)) {
                    Some(slot) => {
                        let mut item = slot.take();
                        merge(list.items, &mut item, config);
                        Some(item)
                    }
                    None => Some(config.clone()),
                }
            }
        })
        .collect()
}

/// In which order the elements of both lists come out.
fn order(old: &[String], new: &[String]) -> Vec<Slot> {
    let in_old: HashSet<&str> = old.iter().map(String::as_str).collect();
    let in_new: HashSet<&str> = new.iter().map(String::as_str).collect();
    // Elements of both, in the new order: the next one is waited for.
    let mut shared = new
        .iter()
        .map(String::as_str)
        .filter(|name| in_old.contains(name));
    let mut next = shared.next();
    let mut taken: HashSet<&str> = HashSet::new();
    let mut slots = Vec::with_capacity(old.len().max(new.len()));
    let (mut o, mut n) = (0, 0);
    while o < old.len() || n < new.len() {
        if let (Some(mine), Some(theirs)) = (old.get(o), new.get(n)) {
            if mine == theirs {
                taken.insert(theirs);
                slots.push(Slot::New(n));
                (o, n) = (o + 1, n + 1);
                next = shared.next();
                continue;
            }
            if in_new.contains(mine.as_str()) && next.is_some_and(|next| next != mine) {
                // Its turn comes later.
                o += 1;
                continue;
            }
        }
        if let Some(mine) = old.get(o) {
            if !in_new.contains(mine.as_str()) {
                slots.push(Slot::Old(o));
                o += 1;
                continue;
            }
            if taken.contains(mine.as_str()) {
                o += 1;
            }
        }
        if let Some(theirs) = new.get(n) {
            taken.insert(theirs);
            slots.push(Slot::New(n));
            n += 1;
            if next == Some(theirs.as_str()) {
                next = shared.next();
            }
        }
    }
    slots
}
