//! The field set of a value: every leaf of it, every element of a keyed list, every entry of a map.
//!
//! Fields that a type names are not members on account of what is in them: who applies
//! `spec.replicas` does not thereby own `spec`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    element,
    set::{self, Node},
    shape::{Form, Listing, Shape},
};

pub(super) fn of(shape: Shape<'_>, value: &Value) -> Node {
    collect(shape, value).1
}

/// Whether the place itself is a field, and the fields below it.
fn collect(shape: Shape<'_>, value: &Value) -> (bool, Node) {
    let mut below = Node::new();
    match shape.form(Some(value)) {
        Form::Scalar(_) => return (true, below),
        Form::List(list) if matches!(list.listing, Listing::Atomic) => return (true, below),
        Form::Map(object) if object.atomic => return (true, below),
        Form::List(list) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let mut times: HashMap<String, usize> = HashMap::new();
            let elements: Vec<Option<String>> = items
                .iter()
                .map(|item| element::item(list, item).ok())
                .collect();
            for element in elements.iter().flatten() {
                *times.entry(element.clone()).or_default() += 1;
            }
            for (item, element) in items.iter().zip(elements) {
                let Some(element) = element else { continue };
                let node = if times.get(&element).is_some_and(|times| *times > 1) {
                    Some(set::leaf())
                } else {
                    set::node(true, collect(list.items, item).1)
                };
                if let Some(node) = node {
                    below.insert(element, node);
                }
            }
        }
        Form::Map(object) => {
            for (name, child) in value.as_object().into_iter().flatten() {
                let found = object.field(name);
                let any = Shape::Deduced { atomic: false };
                let shape = found.map_or(any, |found| found.shape);
                let named = found.is_some_and(|found| found.named);
                let (mut member, children) = collect(shape, child);
                let empty = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                member |= empty || !named;
                if let Some(node) = set::node(member, children) {
                    below.insert(element::field(name), node);
                }
            }
        }
    }
    (false, below)
}
