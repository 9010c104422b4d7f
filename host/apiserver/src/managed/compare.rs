//! Which fields one state of an object has that another has not, or has differently.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    element,
    set::{self, Node},
    shape::{Form, List, Listing, Object, Shape},
};

/// The difference from one state to another.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Diff {
    /// Fields that came or changed.
    pub(super) written: Node,
    /// Fields that went.
    pub(super) removed: Node,
}

impl Diff {
    /// Forget these fields and all that is below them.
    pub(super) fn without(mut self, fields: &Node) -> Diff {
        set::cut(&mut self.written, fields);
        set::cut(&mut self.removed, fields);
        self
    }
}

pub(super) fn compare(shape: Shape<'_>, old: &Value, new: &Value) -> Diff {
    let found = walk(shape, Some(old), Some(new));
    Diff {
        written: found.written.children,
        removed: found.removed.children,
    }
}

/// Whether two values say the same: numbers by what they are worth.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|((name, a), (other, b))| name == other && same(a, b))
        }
        _ => one == other,
    }
}

/// What was found at one place: about the place itself and what is below.
#[derive(Default)]
struct Found {
    written: Part,
    removed: Part,
}

#[derive(Default)]
struct Part {
    member: bool,
    children: Node,
}

impl Found {
    fn take(&mut self, element: &dyn Fn() -> String, below: Found) {
        for (mine, part) in [
            (&mut self.written, below.written),
            (&mut self.removed, below.removed),
        ] {
            if let Some(node) = set::node(part.member, part.children) {
                let mut one = Node::new();
                one.insert(element(), node);
                if mine.children.is_empty() {
                    mine.children = one;
                } else {
                    set::unite(&mut mine.children, one);
                }
            }
        }
    }

    /// The place is one field, whatever is in it.
    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => self.written.member = true,
            (_, None) => self.removed.member = true,
            (Some(old), Some(new)) if !same(old, new) => self.written.member = true,
            _ => {}
        }
    }
}

/// At least one of the two is there.
fn walk(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Found {
    let mut found = Found::default();
    let is_leaf = match (old, new) {
        (Some(one), Some(other)) if !shape.agree(one, other) => {
            visit(shape.form(old), old, new, &mut found);
            visit(shape.form(new), old, new, &mut found)
        }
        // Null has the form of the other.
        (_, None | Some(Value::Null)) => visit(shape.form(old.or(new)), old, new, &mut found),
        _ => visit(shape.form(new), old, new, &mut found),
    };
    if !is_leaf {
        match (old, new) {
            (None, _) => found.written.member = true,
            (_, None) => found.removed.member = true,
            _ => {}
        }
    }
    found
}

/// Whether the place was taken as one field.
fn visit(form: Form<'_>, old: Option<&Value>, new: Option<&Value>, found: &mut Found) -> bool {
    match form {
        Form::Scalar(_) => {
            found.leaf(old, new);
            true
        }
        Form::List(list) => {
            let (a, b) = (array(old), array(new));
            let empty = a.is_none_or(<[Value]>::is_empty) && b.is_none_or(<[Value]>::is_empty);
            if matches!(list.listing, Listing::Atomic) || empty {
                found.leaf(old, new);
                return true;
            }
            if old != new {
                items(list, a.unwrap_or_default(), b.unwrap_or_default(), found);
            }
            false
        }
        Form::Map(object) => {
            let (a, b) = (map(old), map(new));
            let empty = a.is_none_or(Map::is_empty) && b.is_none_or(Map::is_empty);
            if object.atomic || empty {
                found.leaf(old, new);
                return true;
            }
            fields(object, a, b, found);
            false
        }
    }
}

fn array(value: Option<&Value>) -> Option<&[Value]> {
    value.and_then(Value::as_array).map(Vec::as_slice)
}

fn map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn fields(
    object: Object<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    found: &mut Found,
) {
    let mut one = |name: &str, a: Option<&Value>, b: Option<&Value>| {
        // Most fields are the same, and nothing need be known of them.
        if a.is_some() && a == b {
            return;
        }
        let unset = |value: Option<&Value>| value.is_none_or(Value::is_null);
        if unset(a) && unset(b) && object.null_is_unset() {
            return;
        }
        let any = Shape::Deduced { atomic: false };
        let shape = object.field(name).map_or(any, |named| named.shape);
        found.take(&|| element::field(name), walk(shape, a, b));
    };
    for (name, value) in old.into_iter().flatten() {
        one(name, Some(value), new.and_then(|new| new.get(name)));
    }
    for (name, value) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name)) {
            one(name, None, Some(value));
        }
    }
}

fn items(list: List<'_>, old: &[Value], new: &[Value], found: &mut Found) {
    // Lists that are told apart by a key may hold the same key twice all the same; then those
    // elements are one field together.
    let mut all: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for value in old {
        if let Ok(element) = element::item(list, value) {
            all.entry(element).or_default().0.push(value);
        }
    }
    for value in new {
        if let Ok(element) = element::item(list, value) {
            all.entry(element).or_default().1.push(value);
        }
    }
    for (element, (old, new)) in all {
        let (first_old, first_new) = (old.first().copied(), new.first().copied());
        let mut below = Found::default();
        match (old.len(), new.len()) {
            (0 | 1, 0 | 1) if first_old == first_new => {}
            (0 | 1, 0 | 1) => below = walk(list.items, first_old, first_new),
            (2.., 2..) => {
                let equal = old.len() == new.len() && old.iter().zip(&new).all(|(a, b)| same(a, b));
                below.written.member = !equal;
            }
            (2.., _) => {
                if first_new.is_some() {
                    below = walk(list.items, None, first_new);
                }
                below.removed.member = true;
            }
            _ => {
                if first_old.is_some() {
                    below = walk(list.items, first_old, None);
                }
                below.written.member = true;
            }
        }
        found.take(&|| element.clone(), below);
    }
}
