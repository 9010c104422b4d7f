//! From the JSON of a schema to its nodes. A schema is checked before it is stored, so what cannot
//! be read here is left out rather than told.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{
    Additional, Bound, Junctors, Kind, Limits, ListKind, Node, Pattern, Properties, Schema, Sizes,
    rules::Rules,
};

/// Schemas nest no deeper, which bounds all recursion over them.
pub(super) const MAX_DEPTH: usize = 64;

/// A compiled pattern takes at most this much memory.
const MAX_PATTERN: usize = 1024 * 1024;

pub(super) fn schema(schema: &Value) -> Schema {
    let mut root = node(schema, 0);
    root.root = true;
    Schema { root }
}

/// A part of a schema on its own, which may be the root.
pub(super) fn part(schema: &Value, root: bool) -> Node {
    let mut node = node(schema, 0);
    node.root = root;
    node
}

/// A part of a schema at some depth.
pub(super) fn node(schema: &Value, depth: usize) -> Node {
    let mut node = Node::default();
    if depth > MAX_DEPTH {
        return node;
    }
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    node.nullable = flag("nullable");
    node.int_or_string = flag("x-kubernetes-int-or-string");
    node.preserve_unknown = flag("x-kubernetes-preserve-unknown-fields");
    node.embedded = flag("x-kubernetes-embedded-resource");
    node.atomic_map = text(schema, "x-kubernetes-map-type") == "atomic";
    node.kind = match text(schema, "type") {
        "object" => Some(Kind::Object),
        "array" => Some(Kind::Array),
        "string" => Some(Kind::String),
        "integer" => Some(Kind::Integer),
        "number" => Some(Kind::Number),
        "boolean" => Some(Kind::Boolean),
        _ => None,
    };
    let default = schema.get("default").filter(|default| !default.is_null());
    node.default = default.cloned().map(Box::new);
    node.list = match text(schema, "x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => ListKind::Map(strings(schema, "x-kubernetes-list-map-keys").into()),
        _ => ListKind::Atomic,
    };
    node.rules = Rules::parse(schema).map(Box::new);
    node.required = strings(schema, "required")
        .into_iter()
        .map(Into::into)
        .collect();
    node.limits = limits(schema);
    node.junctors = junctors(schema, depth);
    children(schema, depth, &mut node);
    node.ruled = node.rules.is_some() || below(&node).any(|child| child.ruled);
    node.defaulted = node.default.is_some() || below(&node).any(|child| child.defaulted);
    node
}

/// The nodes of the values inside.
fn below(node: &Node) -> impl Iterator<Item = &Node> {
    let each = match &node.additional {
        Additional::Each(each) => Some(&**each),
        _ => None,
    };
    node.properties
        .iter()
        .map(|(_, child)| child)
        .chain(node.items.as_deref())
        .chain(each)
}

fn text<'a>(schema: &'a Value, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn strings(schema: &Value, name: &str) -> Vec<String> {
    let list = schema.get(name).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn limits(schema: &Value) -> Option<Box<Limits>> {
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let bound = |name: &str, exclusive: &str| {
        number(name).map(|value| Bound {
            value,
            exclusive: flag(exclusive),
        })
    };
    let size = |name: &str| schema.get(name).and_then(Value::as_u64);
    let sizes = |min: &str, max: &str| Sizes {
        min: size(min),
        max: size(max),
    };
    let word = |name: &str| Some(text(schema, name)).filter(|text| !text.is_empty());
    let allowed = schema.get("enum").and_then(Value::as_array);
    let limits = Limits {
        allowed: allowed.cloned().unwrap_or_default(),
        format: word("format").map(Into::into),
        pattern: word("pattern").map(|text| Pattern {
            text: text.into(),
            compiled: Default::default(),
        }),
        minimum: bound("minimum", "exclusiveMinimum"),
        maximum: bound("maximum", "exclusiveMaximum"),
        multiple_of: number("multipleOf").filter(|step| *step > 0.0),
        length: sizes("minLength", "maxLength"),
        count: sizes("minItems", "maxItems"),
        entries: sizes("minProperties", "maxProperties"),
    };
    let none = [
        "enum",
        "format",
        "pattern",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    ]
    .iter()
    .all(|name| schema.get(*name).is_none());
    (!none).then(|| Box::new(limits))
}

fn junctors(schema: &Value, depth: usize) -> Option<Box<Junctors>> {
    let choices = |name: &str| {
        let given = schema.get(name).and_then(Value::as_array);
        let given = given.into_iter().flatten();
        given.map(|one| node(one, depth + 1)).collect()
    };
    let not = schema.get("not").filter(|not| not.is_object());
    let none = not.is_none()
        && ["allOf", "anyOf", "oneOf"]
            .iter()
            .all(|name| schema.get(*name).is_none());
    (!none).then(|| {
        Box::new(Junctors {
            all_of: choices("allOf"),
            any_of: choices("anyOf"),
            one_of: choices("oneOf"),
            not: not.map(|not| Box::new(node(not, depth + 1))),
        })
    })
}

fn children(schema: &Value, depth: usize, into: &mut Node) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let properties = properties.into_iter().flatten();
    let mut properties: Vec<(Box<str>, Node)> = properties
        .map(|(name, child)| (name.as_str().into(), node(child, depth + 1)))
        .collect();
    properties.sort_by(|(a, _), (b, _)| a.cmp(b));
    into.properties = Properties(properties.into());
    into.additional = match schema.get("additionalProperties") {
        Some(Value::Bool(true)) => Additional::Any,
        Some(child @ Value::Object(_)) => Additional::Each(Box::new(node(child, depth + 1))),
        _ => Additional::None,
    };
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        into.items = Some(Box::new(node(items, depth + 1)));
    }
}

/// Patterns are Go's, which are nearly Rust's: classes of Unicode are tried first, then plain ones.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let build = |unicode| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(MAX_PATTERN)
            .build()
    };
    build(true).or_else(|error| build(false).map_err(|_plain| error.to_string()))
}
