//! Field sets: which fields of an object are meant, in the form in which they are stored.
//!
//! A set is the JSON of `fieldsV1` itself, so that an update neither decodes what was stored nor
//! encodes what did not change. A node is a map from path elements to nodes. An element is a
//! *member* of the set if its node is empty or has the entry `"."`; else only what is below it is.
//! No node below the root is without a member, which [`read`] makes true of what clients send.

use serde_json::{Map, Value};

use super::{
    element,
    shape::{Form, Shape},
};

pub(super) type Node = Map<String, Value>;

const SELF: &str = ".";

/// Sets nest no deeper than objects do.
const MAX_DEPTH: usize = 256;

pub(super) fn leaf() -> Value {
    Value::Object(Node::new())
}

/// Whether the element of this node is itself in the set.
pub(super) fn is_member(node: &Node) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

/// Whether anything below the element is in the set.
pub(super) fn has_children(node: &Node) -> bool {
    node.keys().any(|key| key != SELF)
}

pub(super) fn children(node: &Node) -> impl Iterator<Item = (&String, &Node)> {
    node.iter()
        .filter(|(key, _)| *key != SELF)
        .filter_map(|(key, value)| value.as_object().map(|node| (key, node)))
}

/// Whether nothing is in the set.
pub(super) fn is_empty(root: &Node) -> bool {
    !has_children(root)
}

/// The node of an element that is a member or not, over these children. `None` if that is nothing.
pub(super) fn node(member: bool, mut children: Node) -> Option<Value> {
    if children.is_empty() {
        return member.then(leaf);
    }
    if member {
        children.insert(SELF.to_owned(), leaf());
    }
    Some(Value::Object(children))
}

/// Make `path` a member. (Its parents do not become members.)
pub(super) fn insert(root: &mut Node, path: &[&str]) {
    match path {
        [] => {}
        [last] => {
            mark(root.entry(*last).or_insert_with(leaf), true);
        }
        [first, rest @ ..] => {
            let was_there = root.contains_key(*first);
            if let Value::Object(child) = root.entry(*first).or_insert_with(leaf) {
                if was_there && child.is_empty() {
                    child.insert(SELF.to_owned(), leaf());
                }
                insert(child, rest);
            }
        }
    }
}

/// Whether `path` is a member.
pub(super) fn has(root: &Node, path: &[&str]) -> bool {
    match path {
        [] => false,
        [last] => child(root, last).is_some_and(is_member),
        [first, rest @ ..] => child(root, first).is_some_and(|node| has(node, rest)),
    }
}

pub(super) fn child<'a>(node: &'a Node, element: &str) -> Option<&'a Node> {
    node.get(element).and_then(Value::as_object)
}

/// Add everything that is in `other`.
pub(super) fn unite(root: &mut Node, other: Node) {
    for (key, theirs) in other {
        if key == SELF {
            continue;
        }
        match (root.get_mut(&key), theirs) {
            (Some(Value::Object(mine)), Value::Object(theirs)) => {
                let member = is_member(mine) || is_member(&theirs);
                unite(mine, theirs);
                if member && has_children(mine) {
                    mine.insert(SELF.to_owned(), leaf());
                }
            }
            (_, theirs) => {
                root.insert(key, theirs);
            }
        }
    }
}

/// Remove the members of `other`. What is below a removed member stays.
pub(super) fn subtract(root: &mut Node, other: &Node) {
    if other.is_empty() {
        return;
    }
    root.retain(|key, mine| match (mine, child(other, key)) {
        (Value::Object(mine), Some(theirs)) if key != SELF => {
            let member = is_member(mine) && !is_member(theirs);
            subtract(mine, theirs);
            settle(mine, member)
        }
        _ => true,
    });
}

/// Remove the members of `other` with all that is below them.
pub(super) fn cut(root: &mut Node, other: &Node) {
    if other.is_empty() {
        return;
    }
    root.retain(|key, mine| match (mine, child(other, key)) {
        (Value::Object(mine), Some(theirs)) if key != SELF => {
            let member = is_member(mine);
            cut(mine, theirs);
            !is_member(theirs) && settle(mine, member)
        }
        _ => true,
    });
}

/// What is in both.
pub(super) fn intersection(one: &Node, other: &Node) -> Node {
    let mut both = Node::new();
    for (key, mine) in children(one) {
        let Some(theirs) = child(other, key) else {
            continue;
        };
        let member = is_member(mine) && is_member(theirs);
        if let Some(node) = node(member, intersection(mine, theirs)) {
            both.insert(key.clone(), node);
        }
    }
    both
}

/// Make members of the fields that a type names and that have members below: whoever owns
/// `spec.replicas` has a say in `spec`, while the entries of a map are owned one by one.
pub(super) fn with_named_fields(mut root: Node, shape: Shape<'_>) -> Node {
    name_fields(&mut root, shape);
    root
}

fn name_fields(node: &mut Node, shape: Shape<'_>) {
    let empty_list = Value::Array(Vec::new());
    for (key, value) in node.iter_mut().filter(|(key, _)| *key != SELF) {
        let Value::Object(below) = value else {
            continue;
        };
        if below.is_empty() {
            continue;
        }
        let named = match key.strip_prefix("f:") {
            Some(name) => match shape.form(None) {
                Form::Map(object) => object.field(name),
                _ => None,
            },
            None => None,
        };
        let below_shape = match (named, shape.form(Some(&empty_list))) {
            (Some(named), _) => named.shape,
            (None, Form::List(list)) if !key.starts_with("f:") => list.items,
            _ => Shape::Deduced { atomic: false },
        };
        name_fields(below, below_shape);
        if named.is_some_and(|named| named.named) {
            below.insert(SELF.to_owned(), leaf());
        }
    }
}

/// The paths of all members as conflicts show them, parents first.
pub(super) fn paths(root: &Node) -> Vec<String> {
    let mut found = Vec::new();
    collect(root, "", &mut found);
    found
}

fn collect(node: &Node, prefix: &str, into: &mut Vec<String>) {
    let mut below: Vec<(&String, &Node)> = children(node).collect();
    below.sort_by(|one, other| element::order(one.0, other.0));
    let shown: Vec<(String, &Node)> = below
        .into_iter()
        .map(|(key, node)| (format!("{prefix}{}", element::shown(key)), node))
        .collect();
    for (path, node) in &shown {
        if is_member(node) {
            into.push(path.clone());
        }
    }
    for (path, node) in &shown {
        collect(node, path, into);
    }
}

/// A set as a client sent it, in our form.
pub(super) fn read(fields: &Value) -> Result<Node, String> {
    match fields {
        Value::Null => Ok(Node::new()),
        Value::Object(fields) => read_node(fields, 0).map(|(node, _)| node),
        other => Err(format!("expected an object of fields, not {other}")),
    }
}

/// The children of a node, and whether it says that it is a member itself.
fn read_node(fields: &Node, depth: usize) -> Result<(Node, bool), String> {
    if depth > MAX_DEPTH {
        return Err(format!("field sets nest at most {MAX_DEPTH} levels"));
    }
    let (mut known, mut member) = (Node::new(), false);
    for (key, value) in fields {
        if key == SELF {
            member = true;
            continue;
        }
        let Some(element) = element::canonical(key)? else {
            continue;
        };
        let (below, below_member) = match value {
            Value::Object(below) => read_node(below, depth + 1)?,
            Value::Null => (Node::new(), true),
            other => return Err(format!("expected an object under {key}, not {other}")),
        };
        let member = below_member || below.is_empty();
        let mut one = Node::new();
        if let Some(node) = node(member, below) {
            one.insert(element, node);
        }
        unite(&mut known, one);
    }
    Ok((known, member))
}

/// Set the membership of an element whose children are right. Whether anything is left.
fn settle(node: &mut Node, member: bool) -> bool {
    if has_children(node) {
        if member {
            node.insert(SELF.to_owned(), leaf());
        } else {
            node.remove(SELF);
        }
        return true;
    }
    node.clear();
    member
}

fn mark(value: &mut Value, member: bool) {
    if let Value::Object(node) = value {
        settle(node, member);
    }
}
