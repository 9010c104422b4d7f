//! Field sets that were written under another schema of the same version.
//!
//! What has become one leaf since (`x-kubernetes-list-type: atomic` and its kin) is owned whole by
//! whoever owned part of it. The other way round nothing need be done: the leaf is an element without
//! children, and its owner loses it field by field as others write them.

use super::{
    set::{self, Node},
    shape::{Form, Listing, Shape},
};

/// Bring a set up to date.
pub(super) fn reconcile(shape: Shape<'_>, fields: &mut Node) {
    visit(shape, fields, false);
}

/// `whole`: the place is a member and nothing below it is.
fn visit(shape: Shape<'_>, node: &mut Node, whole: bool) {
    match shape.form(None) {
        Form::Scalar(_) => {}
        Form::List(list) => {
            if matches!(list.listing, Listing::Atomic) {
                if !whole {
                    node.clear();
                }
                return;
            }
            each(node, |key, below, whole| {
                if !key.starts_with("f:") {
                    visit(list.items, below, whole);
                }
            });
        }
        Form::Map(object) => {
            if object.is_open() {
                return;
            }
            if object.atomic {
                if !whole && set::has_children(node) {
                    node.clear();
                }
                return;
            }
            each(node, |key, below, whole| {
                let field = key.strip_prefix("f:").and_then(|name| object.field(name));
                if let Some(field) = field {
                    visit(field.shape, below, whole);
                }
            });
        }
    }
}

fn each(node: &mut Node, mut visit: impl FnMut(&str, &mut Node, bool)) {
    for (key, value) in node.iter_mut().filter(|(key, _)| *key != ".") {
        if let serde_json::Value::Object(below) = value {
            let whole = below.is_empty();
            visit(key, below, whole);
        }
    }
}
