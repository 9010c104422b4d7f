//! Taking fields out of a value.

use serde_json::Value;

use super::{
    element,
    set::{self, Node},
    shape::{Form, Listing, Shape},
};

/// Remove the members of a set with all that is in them. What is empty afterwards is gone too.
pub(super) fn remove(shape: Shape<'_>, value: &mut Value, fields: &Node) {
    if set::is_empty(fields) {
        return;
    }
    match shape.form(Some(value)) {
        Form::Scalar(_) => {}
        Form::List(list) => {
            if matches!(list.listing, Listing::Atomic) {
                return;
            }
            if let Value::Array(items) = value {
                items.retain_mut(|item| {
                    let Ok(element) = element::item(list, item) else {
                        return true;
                    };
                    let Some(node) = set::child(fields, &element) else {
                        return true;
                    };
                    if set::is_member(node) {
                        return false;
                    }
                    remove(list.items, item, node);
                    true
                });
            }
        }
        Form::Map(object) => {
            if object.atomic {
                return;
            }
            if let Value::Object(map) = value {
                map.retain(|name, child| {
                    let Some(node) = set::child(fields, &element::field(name)) else {
                        return true;
                    };
                    if set::is_member(node) {
                        return false;
                    }
                    let any = Shape::Deduced { atomic: false };
                    let shape = object.field(name).map_or(any, |named| named.shape);
                    let had = !is_empty(child);
                    remove(shape, child, node);
                    !(had && is_empty(child))
                });
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
