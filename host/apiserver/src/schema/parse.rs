//! From the JSON of a schema to its nodes, with every structural rule checked on the way.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{Additional, Bound, Kind, ListKind, Node, Schema, Sizes, check};
use crate::field_error::FieldError;

/// Schemas nest no deeper, which bounds all recursion over them.
const MAX_DEPTH: usize = 64;

/// A compiled pattern takes at most this much memory.
const MAX_PATTERN: usize = 1024 * 1024;

/// What structural schemas may not use, and why.
const FORBIDDEN: [(&str, &str); 7] = [
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("deprecated", "deprecated is not supported"),
    ("discriminator", "discriminator is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("additionalItems", "additionalItems is not supported"),
];

pub(super) fn schema(schema: &Value, path: &str) -> Result<Schema, Vec<FieldError>> {
    let mut parser = Parser {
        errors: Vec::new(),
        has_rules: false,
    };
    let root = parser.node(schema, path, true, 0);
    match root.kind {
        Some(Kind::Object) => {}
        None if !parser
            .errors
            .iter()
            .any(|one| one.field == format!("{path}.type")) =>
        {
            let detail = "must not be empty at the root";
            parser
                .errors
                .push(FieldError::required(format!("{path}.type"), detail));
        }
        None => {}
        Some(_) => {
            let value = schema.get("type").cloned().unwrap_or_default();
            let detail = "must be object at the root";
            parser
                .errors
                .push(FieldError::invalid(format!("{path}.type"), &value, detail));
        }
    }
    if parser.errors.is_empty() {
        Ok(Schema {
            root,
            has_rules: parser.has_rules,
        })
    } else {
        Err(parser.errors)
    }
}

struct Parser {
    errors: Vec<FieldError>,
    has_rules: bool,
}

impl Parser {
    /// `structural` is false inside `allOf` and its kin, which only check values.
    fn node(&mut self, schema: &Value, path: &str, structural: bool, depth: usize) -> Node {
        let mut node = Node::default();
        if depth > MAX_DEPTH {
            let detail = format!("schemas nest at most {MAX_DEPTH} levels");
            self.errors.push(FieldError::forbidden(path, &detail));
            return node;
        }
        if !schema.is_object() {
            self.errors
                .push(FieldError::type_invalid(path, schema, "must be an object"));
            return node;
        }
        for (name, detail) in FORBIDDEN {
            if schema.get(name).is_some_and(|value| !value.is_null()) {
                self.errors
                    .push(FieldError::forbidden(format!("{path}.{name}"), detail));
            }
        }
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes \
                          quadratic";
            self.errors
                .push(FieldError::forbidden(format!("{path}.uniqueItems"), detail));
        }
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        node.nullable = flag("nullable");
        node.int_or_string = flag("x-kubernetes-int-or-string");
        node.preserve_unknown = flag("x-kubernetes-preserve-unknown-fields");
        node.embedded = flag("x-kubernetes-embedded-resource");
        self.has_rules |= schema
            .get("x-kubernetes-validations")
            .and_then(Value::as_array)
            .is_some_and(|rules| !rules.is_empty());
        self.kind(schema, path, &mut node);
        self.values(schema, path, &mut node);
        self.children(schema, path, structural, depth, &mut node);
        self.lists(schema, path, &mut node);
        if let Some(default) = schema.get("default").filter(|_| structural) {
            let field = format!("{path}.default");
            if let Some(first) = check::default(&node, default).first() {
                let detail = first.message().to_owned();
                self.errors
                    .push(FieldError::invalid(field, default, &detail));
            }
            node.default = Some(default.clone());
        }
        node
    }

    fn kind(&mut self, schema: &Value, path: &str, node: &mut Node) {
        let Some(name) = schema.get("type").and_then(Value::as_str) else {
            return;
        };
        node.kind = match name {
            "object" => Some(Kind::Object),
            "array" => Some(Kind::Array),
            "string" => Some(Kind::String),
            "integer" => Some(Kind::Integer),
            "number" => Some(Kind::Number),
            "boolean" => Some(Kind::Boolean),
            "" => None,
            _ => {
                self.errors.push(FieldError::not_supported(
                    format!("{path}.type"),
                    &Value::from(name),
                    &["array", "boolean", "integer", "number", "object", "string"],
                ));
                None
            }
        };
    }

    fn values(&mut self, schema: &Value, path: &str, node: &mut Node) {
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let bound = |name: &str, exclusive: &str| {
            number(name).map(|value| Bound {
                value,
                exclusive: flag(exclusive),
            })
        };
        node.minimum = bound("minimum", "exclusiveMinimum");
        node.maximum = bound("maximum", "exclusiveMaximum");
        node.multiple_of = number("multipleOf").filter(|step| *step > 0.0);
        let size = |name: &str| schema.get(name).and_then(Value::as_u64);
        node.length = Sizes {
            min: size("minLength"),
            max: size("maxLength"),
        };
        node.count = Sizes {
            min: size("minItems"),
            max: size("maxItems"),
        };
        node.entries = Sizes {
            min: size("minProperties"),
            max: size("maxProperties"),
        };
        node.allowed = schema
            .get("enum")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        node.format = schema
            .get("format")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let required = schema.get("required").and_then(Value::as_array);
        node.required = required
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            match compile(pattern) {
                Ok(regex) => node.pattern = Some(regex),
                Err(error) => {
                    let field = format!("{path}.pattern");
                    let detail = format!("must be a valid regular expression, but isn't: {error}");
                    self.errors
                        .push(FieldError::invalid(field, &Value::from(pattern), &detail));
                }
            }
        }
    }

    fn children(
        &mut self,
        schema: &Value,
        path: &str,
        structural: bool,
        depth: usize,
        node: &mut Node,
    ) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, child) in properties.into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            let parsed = self.node(child, &path, structural, depth + 1);
            let detail = "must not be empty for specified object fields";
            // The root's own fields need no type, nor do value checks.
            let exempt = depth == 0 && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
            self.typed(&parsed, structural && !exempt, &path, detail);
            node.properties.insert(name.clone(), parsed);
        }
        let additional = format!("{path}.additionalProperties");
        match schema.get("additionalProperties") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(true)) => node.additional = Additional::Any,
            Some(Value::Bool(false)) => {
                let detail = "additionalProperties cannot be set to false";
                self.errors.push(FieldError::forbidden(&additional, detail));
            }
            Some(child) => {
                let parsed = self.node(child, &additional, structural, depth + 1);
                let detail = "must not be empty for specified object fields";
                self.typed(&parsed, structural, &additional, detail);
                node.additional = Additional::Each(Box::new(parsed));
            }
        }
        if structural && !node.properties.is_empty() && !matches!(node.additional, Additional::None)
        {
            let detail = "additionalProperties and properties are mutual exclusive";
            self.errors.push(FieldError::forbidden(&additional, detail));
        }
        match schema.get("items") {
            None | Some(Value::Null) => {
                if structural && node.kind == Some(Kind::Array) {
                    self.errors.push(FieldError::required(
                        format!("{path}.items"),
                        "must be specified",
                    ));
                }
            }
            Some(Value::Array(_)) => {
                let detail = "items must be a schema object and not an array";
                self.errors
                    .push(FieldError::forbidden(format!("{path}.items"), detail));
            }
            Some(child) => {
                let path = format!("{path}.items");
                let parsed = self.node(child, &path, structural, depth + 1);
                let detail = "must not be empty for specified array items";
                self.typed(&parsed, structural, &path, detail);
                node.items = Some(Box::new(parsed));
            }
        }
        let mut choices = |name: &str| -> Vec<Node> {
            let given = schema.get(name).and_then(Value::as_array);
            given
                .into_iter()
                .flatten()
                .enumerate()
                .map(|(at, one)| self.node(one, &format!("{path}.{name}[{at}]"), false, depth + 1))
                .collect()
        };
        node.all_of = choices("allOf");
        node.any_of = choices("anyOf");
        node.one_of = choices("oneOf");
        if let Some(not) = schema.get("not").filter(|not| not.is_object()) {
            node.not = Some(Box::new(self.node(
                not,
                &format!("{path}.not"),
                false,
                depth + 1,
            )));
        }
    }

    fn typed(&mut self, node: &Node, structural: bool, path: &str, detail: &str) {
        let free = node.int_or_string || node.preserve_unknown;
        if structural && node.kind.is_none() && !free {
            let field = format!("{path}.type");
            if !self.errors.iter().any(|one| one.field == field) {
                self.errors.push(FieldError::required(field, detail));
            }
        }
    }

    fn lists(&mut self, schema: &Value, path: &str, node: &mut Node) {
        let keys: Vec<String> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let list = schema.get("x-kubernetes-list-type");
        node.list = match list.and_then(Value::as_str) {
            None | Some("atomic") => ListKind::Atomic,
            Some("set") => ListKind::Set,
            Some("map") if keys.is_empty() => {
                let field = format!("{path}.x-kubernetes-list-map-keys");
                let detail = "must not be empty if x-kubernetes-list-type is map";
                self.errors.push(FieldError::required(field, detail));
                ListKind::Atomic
            }
            Some("map") => ListKind::Map(keys),
            Some(_) => {
                self.errors.push(FieldError::not_supported(
                    format!("{path}.x-kubernetes-list-type"),
                    list.unwrap_or(&Value::Null),
                    &["atomic", "map", "set"],
                ));
                ListKind::Atomic
            }
        };
    }
}

/// Patterns are Go's, which are nearly Rust's: classes of Unicode are tried first, then plain ones.
fn compile(pattern: &str) -> Result<Regex, String> {
    let build = |unicode| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(MAX_PATTERN)
            .build()
    };
    build(true).or_else(|error| build(false).map_err(|_plain| error.to_string()))
}
