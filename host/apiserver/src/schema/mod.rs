//! Structural schemas of custom resources: OpenAPI v3 as CustomResourceDefinitions carry it.
//!
//! A schema is parsed once per definition, with errors for the definition's author, and then does
//! three things to every object: drop what it does not name, fill defaults, check values. The
//! root's `apiVersion`, `kind` and `metadata` are every object's own business and never touched by
//! a schema; `metadata` is held to its own type.
//!
//! Rules in CEL (`x-kubernetes-validations`) are accepted and not evaluated; an object with other
//! faults is told that rules were left out, as in Kubernetes.

mod check;
mod format;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use crate::{
    field_error::FieldError,
    model::{self, Model},
};

/// A parsed `openAPIV3Schema`.
#[derive(Debug, Clone)]
pub struct Schema {
    root: Node,
    /// Some part has rules that are not evaluated.
    has_rules: bool,
}

/// One level of a schema. All parts are optional in OpenAPI, so all are here.
#[derive(Debug, Clone, Default)]
struct Node {
    kind: Option<Kind>,
    nullable: bool,
    properties: BTreeMap<String, Node>,
    additional: Additional,
    items: Option<Box<Node>>,
    required: Vec<String>,
    allowed: Vec<Value>,
    default: Option<Value>,
    format: Option<String>,
    pattern: Option<Regex>,
    minimum: Option<Bound>,
    maximum: Option<Bound>,
    multiple_of: Option<f64>,
    length: Sizes,
    count: Sizes,
    entries: Sizes,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
    int_or_string: bool,
    preserve_unknown: bool,
    embedded: bool,
    list: ListKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

#[derive(Debug, Clone, Default)]
enum Additional {
    /// Not said: unknown fields are dropped.
    #[default]
    None,
    Any,
    Each(Box<Node>),
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    value: f64,
    exclusive: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    min: Option<u64>,
    max: Option<u64>,
}

/// What tells the elements of a list apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum ListKind {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Default for Schema {
    /// Lets everything pass.
    fn default() -> Schema {
        Schema {
            root: Node {
                preserve_unknown: true,
                ..Node::default()
            },
            has_rules: false,
        }
    }
}

impl Schema {
    /// `path` is the field of the schema in its CRD, for the errors.
    pub fn parse(schema: &Value, path: &str) -> Result<Schema, Vec<FieldError>> {
        parse::schema(schema, path)
    }

    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        check::object(&self.root, object, self.has_rules)
    }

    /// Drops fields that the schema does not name and answers their paths (for field validation).
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        if let Value::Object(map) = object {
            let own = set_aside(map);
            self.root.prune_map(map, "", &mut dropped);
            map.extend(own);
            prune_metadata(map, &mut dropped);
        }
        dropped
    }

    /// Fills defaults.
    pub fn default(&self, object: &mut Value) {
        if let Value::Object(map) = object {
            let own = set_aside(map);
            self.root.default_map(map);
            map.extend(own);
        }
    }
}

/// Takes out what belongs to no schema.
fn set_aside(map: &mut Map<String, Value>) -> Vec<(String, Value)> {
    ["apiVersion", "kind", "metadata"]
        .into_iter()
        .filter_map(|name| map.remove_entry(name))
        .collect()
}

fn prune_metadata(map: &mut Map<String, Value>, dropped: &mut Vec<String>) {
    let metadata = map
        .get_mut("metadata")
        .filter(|metadata| metadata.is_object());
    if let (Some(metadata), Some(of)) = (metadata, Model::get().named("meta.v1.ObjectMeta")) {
        // A field of the wrong type is another check's find; what comes before it counts.
        let unknown = model::check(of, metadata).unwrap_or_default();
        dropped.extend(
            unknown
                .into_iter()
                .map(|field| format!("metadata.{}", field.path)),
        );
    }
}

impl Node {
    fn prune(&self, value: &mut Value, path: &str, dropped: &mut Vec<String>) {
        match value {
            Value::Object(map) if self.embedded => {
                let own = set_aside(map);
                self.prune_map(map, path, dropped);
                map.extend(own);
            }
            Value::Object(map) => self.prune_map(map, path, dropped),
            Value::Array(items) => {
                if let Some(of) = &self.items {
                    for (at, item) in items.iter_mut().enumerate() {
                        of.prune(item, &format!("{path}[{at}]"), dropped);
                    }
                }
            }
            _ => {}
        }
    }

    fn prune_map(&self, map: &mut Map<String, Value>, path: &str, dropped: &mut Vec<String>) {
        let names: Vec<String> = map.keys().cloned().collect();
        for name in names {
            let at = field(path, &name);
            let of = match (self.properties.get(&name), &self.additional) {
                (Some(node), _) => Some(node),
                (None, Additional::Each(node)) => Some(node.as_ref()),
                (None, Additional::Any) => None,
                (None, Additional::None) if self.preserve_unknown => None,
                (None, Additional::None) => {
                    map.remove(&name);
                    dropped.push(at);
                    continue;
                }
            };
            if let (Some(node), Some(value)) = (of, map.get_mut(&name)) {
                node.prune(value, &at, dropped);
            }
        }
    }

    fn default_value(&self, value: &mut Value) {
        match value {
            Value::Object(map) => self.default_map(map),
            Value::Array(items) => {
                if let Some(of) = &self.items {
                    items.iter_mut().for_each(|item| of.default_value(item));
                }
            }
            _ => {}
        }
    }

    fn default_map(&self, map: &mut Map<String, Value>) {
        for (name, node) in &self.properties {
            let Some(default) = &node.default else {
                continue;
            };
            let absent = match map.get(name) {
                None => true,
                // Where null is no value, it stands for the default.
                Some(Value::Null) => !node.nullable,
                Some(_) => false,
            };
            if absent {
                map.insert(name.clone(), default.clone());
            }
        }
        for (name, value) in map.iter_mut() {
            match (self.properties.get(name), &self.additional) {
                (Some(node), _) => node.default_value(value),
                (None, Additional::Each(node)) => node.default_value(value),
                _ => {}
            }
        }
    }
}

/// `spec.size`
fn field(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
