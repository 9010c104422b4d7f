//! The CEL types of what is published: what expressions may be checked against before there is an
//! object.
//!
//! As with rules of custom resources, parts without a type are not seen at all, nor are lists and
//! maps of them; in built-in kinds those are amounts (`Quantity`), which are published as text or
//! number.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};

use super::{
    Form, definition_of, published,
    schemas::{self, COMPONENTS, Wanted},
};
use crate::{
    api::Api,
    cel::{
        Type, names,
        types::{Field, ObjectType},
    },
    object::text,
    resource::Resource,
};

/// Schemas are no deeper when they are stored; references that lead to themselves end before.
const MAX_DEPTH: usize = 128;

/// The type of a resource's objects; `None` if its schema tells none. `name` stands in messages.
pub(crate) fn type_of(api: &Api, resource: &Resource, name: &str) -> Option<Type> {
    let (group, version) = (resource.group.as_str(), resource.version.as_str());
    let wanted = [Wanted {
        group,
        version,
        kind: &resource.kind,
        list_kind: None,
    }];
    let (root, schemas) = if resource.is_custom() {
        let definition = definition_of(api, resource);
        let mut schemas = schemas::builtin(&[], (group, version));
        let of = published(resource, definition.as_ref());
        let [(root, schema), _] = super::custom::schemas(&of, Form::V3);
        schemas.insert(root.clone(), schema);
        (root, schemas)
    } else {
        let root = schemas::name(group, version, &resource.kind);
        (root, schemas::builtin(&wanted, (group, version)))
    };
    let mut walk = Walk {
        schemas: &schemas,
        open: Vec::new(),
    };
    walk.open.push(&root);
    walk.declare(schemas.get(&root)?, name, true, 0)
}

struct Walk<'s> {
    schemas: &'s Map<String, Value>,
    /// The references that are being followed.
    open: Vec<&'s str>,
}

impl<'s> Walk<'s> {
    fn declare(&mut self, schema: &'s Value, name: &str, root: bool, depth: usize) -> Option<Type> {
        if depth > MAX_DEPTH {
            return None;
        }
        if let Some(reference) = reference(schema) {
            if self.open.contains(&reference) {
                let name = name.to_owned();
                return Some(Type::Object(Arc::new(ObjectType {
                    name,
                    ..ObjectType::default()
                })));
            }
            let schema = self.schemas.get(reference)?;
            self.open.push(reference);
            let found = self.declare(schema, name, root, depth + 1);
            self.open.pop();
            return found;
        }
        let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        let format = text(schema, &["format"]);
        if format == "int-or-string" || flag("x-kubernetes-int-or-string") {
            return Some(Type::Dyn);
        }
        let is_object = root || flag("x-kubernetes-embedded-resource");
        Some(match text(schema, &["type"]) {
            "array" => {
                let items = schema.get("items")?;
                Type::list(self.declare(items, &format!("{name}.@idx"), false, depth + 1)?)
            }
            "object" => match schema.get("additionalProperties") {
                Some(each) if each.is_object() => {
                    let each = self.declare(each, &format!("{name}.@elem"), false, depth + 1)?;
                    Type::map(Type::String, each)
                }
                _ => self.object(schema, name, is_object, depth),
            },
            "string" => match format {
                "byte" => Type::Bytes,
                "duration" => Type::Duration,
                "date" | "date-time" => Type::Timestamp,
                _ => Type::String,
            },
            "boolean" => Type::Bool,
            "number" => Type::Double,
            "integer" => Type::Int,
            _ => return None,
        })
    }

    fn object(&mut self, schema: &'s Value, name: &str, is_object: bool, depth: usize) -> Type {
        let mut fields = BTreeMap::new();
        let mut add = |json: &str, type_: Type| {
            if let Some(escaped) = names::escape(json) {
                let json = json.to_owned();
                fields.insert(escaped, Field { json, type_ });
            }
        };
        if is_object {
            add("apiVersion", Type::String);
            add("kind", Type::String);
            let own = vec![("name", Type::String), ("generateName", Type::String)];
            add("metadata", Type::object(&format!("{name}.metadata"), own));
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (json, property) in properties.into_iter().flatten() {
            let inner = format!("{name}.{json}");
            if let Some(type_) = self.declare(property, &inner, false, depth + 1) {
                add(json, type_);
            }
        }
        Type::Object(Arc::new(ObjectType {
            name: name.to_owned(),
            fields,
            open: false,
        }))
    }
}

/// The name of the schema that stands in this one's place; it may be wrapped, as a reference allows
/// nothing beside it.
fn reference(schema: &Value) -> Option<&str> {
    let own = schema.get("$ref").and_then(Value::as_str);
    let found = own.or_else(|| {
        let all = schema.get("allOf").and_then(Value::as_array)?;
        all.iter().find_map(|one| one.get("$ref")?.as_str())
    });
    found?.strip_prefix(COMPONENTS)
}
