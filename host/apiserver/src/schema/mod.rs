//! Structural schemas of custom resources: OpenAPI v3 as CustomResourceDefinitions carry it.
//!
//! What a definition's author may write is checked in [`definition`]; a schema that passed is parsed
//! once and then does four things to every object: drop what it does not name, fill defaults, check
//! values ([`check`], [`lists`], [`embedded`]), and run rules in CEL ([`rules`]). The root's
//! `apiVersion`, `kind` and `metadata` belong to every object and are never pruned or defaulted.
//!
//! On an update, what did not change is not held against the client ("ratcheting"): a value that is
//! equal to the stored one at the same place ([`stored`]) has no errors, so a definition may be tightened without
//! making old objects unwritable.

mod check;
mod declare;
pub(crate) mod definition;
mod embedded;
pub(crate) mod format;
mod lists;
pub(crate) mod numbers;
mod parse;
mod rules;
mod stored;
mod structure;
#[cfg(test)]
mod tests;

pub(crate) use structure::{Member, Place, Sort};

use std::sync::OnceLock;

use regex::Regex;
use serde_json::{Map, Value};

use self::rules::Rules;
use crate::{
    cel,
    field_error::{Fault, FieldError},
    model::{self, Model},
};

/// A parsed `openAPIV3Schema`.
#[derive(Debug)]
pub struct Schema {
    root: Node,
}

/// What is said of an object.
#[derive(Debug, Default)]
pub struct Judgement {
    pub errors: Vec<FieldError>,
    /// What would be errors had it been changed.
    pub warnings: Vec<String>,
}

/// One level of a schema. A definition may have thousands, so what most of them lack is kept apart.
#[derive(Debug, Default)]
struct Node {
    kind: Option<Kind>,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown: bool,
    embedded: bool,
    /// `x-kubernetes-map-type: atomic`.
    atomic_map: bool,
    /// This node or one below has rules.
    ruled: bool,
    /// This node or one below has a default.
    defaulted: bool,
    /// The root of the schema.
    root: bool,
    properties: Properties,
    additional: Additional,
    items: Option<Box<Node>>,
    required: Box<[Box<str>]>,
    default: Option<Box<Value>>,
    limits: Option<Box<Limits>>,
    junctors: Option<Box<Junctors>>,
    list: ListKind,
    rules: Option<Box<Rules>>,
    /// What expressions see; worked out when the first one is compiled.
    declared: OnceLock<Option<cel::Type>>,
}

/// Fields by name, sorted.
#[derive(Debug, Default)]
struct Properties(Box<[(Box<str>, Node)]>);

/// What a value must be beside its type.
#[derive(Debug, Default)]
struct Limits {
    allowed: Vec<Value>,
    format: Option<Box<str>>,
    pattern: Option<Pattern>,
    minimum: Option<Bound>,
    maximum: Option<Bound>,
    multiple_of: Option<f64>,
    length: Sizes,
    count: Sizes,
    entries: Sizes,
}

/// A regular expression, compiled when the first text is held against it.
#[derive(Debug)]
struct Pattern {
    text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

#[derive(Debug, Default)]
struct Junctors {
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
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

#[derive(Debug, Default)]
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
    Map(Box<[String]>),
}

impl Default for Schema {
    /// Lets everything pass.
    fn default() -> Schema {
        Schema {
            root: Node {
                preserve_unknown: true,
                root: true,
                ..Node::default()
            },
        }
    }
}

impl Schema {
    /// Of a schema that [`definition::check`] has nothing against. What it would refuse is left out.
    pub fn parse(schema: &Value) -> Schema {
        parse::schema(schema)
    }

    /// A whole object, with the stored one for an update.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Judgement {
        let mut errors = check::object(&self.root, object, old);
        errors.extend(embedded::check(&self.root, object));
        self.beyond(object, old, errors)
    }

    /// The status of an object, when nothing else was written.
    pub fn validate_status(&self, object: &Value, old: Option<&Value>) -> Judgement {
        let status = object.get("status");
        let node = self.root.properties.get("status");
        let mut errors = Vec::new();
        if let (Some(status), Some(node)) = (status, node) {
            let old = old.and_then(|old| old.get("status"));
            errors = check::part(node, status, old, "status");
        }
        self.beyond(object, old, errors)
    }

    /// What is checked beside the values themselves: keys of lists, then rules.
    fn beyond(
        &self,
        object: &Value,
        old: Option<&Value>,
        mut errors: Vec<FieldError>,
    ) -> Judgement {
        let doubles = lists::check(&self.root, object);
        if !doubles.is_empty() && old.is_none_or(|old| lists::check(&self.root, old).is_empty()) {
            errors.extend(doubles);
        }
        let mut warnings = Vec::new();
        if self.root.ruled {
            if errors.iter().any(blocks_rules) {
                errors.push(FieldError::invalid(
                    "<nil>",
                    &Value::Null,
                    "some validation rules were not checked because the object was invalid; \
                     correct the existing errors to complete validation",
                ));
            } else {
                let found = rules::check(&self.root, object, old);
                errors.extend(found.errors);
                warnings = found.warnings;
            }
        }
        Judgement { errors, warnings }
    }

    /// Why an object cannot be read at all, if so: a whole object inside of it has metadata that
    /// are none.
    pub(crate) fn unreadable(&self, object: &Value) -> Option<String> {
        embedded::unreadable(&self.root, object)
    }

    /// Drops fields that the schema does not name and answers their paths (for field validation).
    /// Nulls where null is no value are dropped too, unless a default takes their place.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        if let Value::Object(map) = object {
            let own = set_aside(map);
            self.root.prune_map(map, "", &mut dropped);
            self.root.drop_nulls(map);
            map.extend(own);
            prune_metadata(map, "metadata", &mut dropped);
        }
        dropped
    }

    /// Fills defaults.
    pub fn default(&self, object: &mut Value) {
        if !self.root.defaulted {
            return;
        }
        if let Value::Object(map) = object {
            let own = set_aside(map);
            self.root.default_map(map);
            map.extend(own);
        }
    }
}

/// Faults after which rules cannot be trusted to find what they are written for.
fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.fault,
        Fault::NotSupported
            | Fault::Required
            | Fault::TooLong
            | Fault::TooMany
            | Fault::TypeInvalid
    )
}

/// Takes out what belongs to no schema.
fn set_aside(map: &mut Map<String, Value>) -> Vec<(String, Value)> {
    ["apiVersion", "kind", "metadata"]
        .into_iter()
        .filter_map(|name| map.remove_entry(name))
        .collect()
}

fn prune_metadata(map: &mut Map<String, Value>, path: &str, dropped: &mut Vec<String>) {
    let metadata = map
        .get_mut("metadata")
        .filter(|metadata| metadata.is_object());
    if let (Some(metadata), Some(of)) = (metadata, Model::get().named("meta.v1.ObjectMeta")) {
        // A field of the wrong type is another check's find; what comes before it counts.
        let unknown = model::check(of, metadata).unwrap_or_default();
        for field in &unknown {
            crate::object::remove(metadata, &field.path);
        }
        dropped.extend(
            unknown
                .into_iter()
                .map(|field| format!("{path}.{}", field.path)),
        );
    }
}

impl Properties {
    fn get(&self, name: &str) -> Option<&Node> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(name));
        found
            .ok()
            .and_then(|at| self.0.get(at))
            .map(|(_, node)| node)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (&**name, node))
    }
}

impl Pattern {
    /// A pattern that cannot be compiled, which no definition has, lets everything pass.
    fn matches(&self, text: &str) -> bool {
        let compiled = self
            .compiled
            .get_or_init(|| parse::compile(&self.text).ok());
        compiled.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
        }
    }
}

impl Node {
    /// The `type` as it is written; empty where none is.
    fn kind_name(&self) -> &'static str {
        self.kind.map_or("", Kind::name)
    }

    fn format(&self) -> Option<&str> {
        self.limits.as_ref()?.format.as_deref()
    }

    fn prune(&self, value: &mut Value, path: &str, dropped: &mut Vec<String>) {
        match value {
            Value::Object(map) if self.embedded => {
                let own = set_aside(map);
                self.prune_map(map, path, dropped);
                map.extend(own);
                prune_metadata(map, &field(path, "metadata"), dropped);
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

    /// Nulls of fields and entries that may not be null are as good as absent.
    fn drop_nulls(&self, map: &mut Map<String, Value>) {
        map.retain(|name, value| {
            let Some(node) = self.member(name) else {
                return true;
            };
            if value.is_null() {
                return node.nullable || node.default.is_some();
            }
            node.drop_nulls_in(value);
            true
        });
    }

    fn drop_nulls_in(&self, value: &mut Value) {
        match value {
            Value::Object(map) => self.drop_nulls(map),
            Value::Array(items) => {
                if let Some(of) = &self.items {
                    items.iter_mut().for_each(|item| of.drop_nulls_in(item));
                }
            }
            _ => {}
        }
    }

    /// The schema of a field or an entry.
    fn member(&self, name: &str) -> Option<&Node> {
        match (self.properties.get(name), &self.additional) {
            (Some(node), _) => Some(node),
            (None, Additional::Each(node)) => Some(node),
            _ => None,
        }
    }

    fn default_value(&self, value: &mut Value) {
        if !self.defaulted {
            return;
        }
        match value {
            Value::Object(map) => self.default_map(map),
            Value::Array(items) => {
                if let Some(of) = &self.items {
                    for item in items {
                        if item.is_null()
                            && !of.nullable
                            && let Some(default) = &of.default
                        {
                            *item = (**default).clone();
                        }
                        of.default_value(item);
                    }
                }
            }
            _ => {}
        }
    }

    fn default_map(&self, map: &mut Map<String, Value>) {
        for (name, node) in self.properties.iter() {
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
                map.insert(name.to_owned(), (**default).clone());
            }
        }
        for (name, value) in map.iter_mut() {
            if let Some(node) = self.member(name) {
                if value.is_null()
                    && !node.nullable
                    && let Some(default) = &node.default
                {
                    *value = (**default).clone();
                }
                node.default_value(value);
            }
        }
    }

    /// Whether the node is an object with the metadata of one.
    fn is_resource(&self) -> bool {
        self.root || self.embedded
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
