//! What a schema lets expressions see: the CEL type of each part.
//!
//! Parts without a type (`x-kubernetes-preserve-unknown-fields` on its own) are not seen at all, nor
//! are lists and maps of them. A resource always shows what it is and its names.

use std::sync::Arc;

use super::{Additional, Kind, ListKind, Node};
use crate::cel::{
    Type, names,
    types::{Field, Identity, ListType, ObjectType},
};

/// What every object shows, whatever its schema says.
const OWN: [&str; 2] = ["apiVersion", "kind"];
const METADATA: [&str; 2] = ["name", "generateName"];

impl Node {
    /// The type, if there is anything to see.
    pub(super) fn declared(&self) -> Option<&Type> {
        self.declared.get_or_init(|| declare(self)).as_ref()
    }
}

fn declare(node: &Node) -> Option<Type> {
    if node.int_or_string {
        return Some(Type::Dyn);
    }
    if node.is_resource() {
        return Some(object(node));
    }
    Some(match node.kind? {
        Kind::Boolean => Type::Bool,
        Kind::Integer => Type::Int,
        Kind::Number => Type::Double,
        Kind::String => match node.format() {
            Some("byte") => Type::Bytes,
            Some("duration") => Type::Duration,
            Some("date" | "date-time") => Type::Timestamp,
            _ => Type::String,
        },
        Kind::Array => {
            let item = node.items.as_ref()?.declared()?.clone();
            let identity = match &node.list {
                ListKind::Atomic => Identity::Position,
                ListKind::Set => Identity::Value,
                ListKind::Map(keys) => Identity::Keys(keys.to_vec()),
            };
            Type::List(Arc::new(ListType { item, identity }))
        }
        Kind::Object => match &node.additional {
            Additional::Each(each) => Type::map(Type::String, each.declared()?.clone()),
            _ => object(node),
        },
    })
}

fn object(node: &Node) -> Type {
    let mut object = ObjectType {
        name: "object".to_owned(),
        ..ObjectType::default()
    };
    let mut declare = |name: &str, type_: Type| {
        if let Some(escaped) = names::escape(name) {
            let json = name.to_owned();
            object.fields.insert(escaped, Field { json, type_ });
        }
    };
    for (name, child) in node.properties.iter() {
        if let Some(type_) = child.declared() {
            declare(name, type_.clone());
        }
    }
    if node.is_resource() {
        for name in OWN {
            declare(name, Type::String);
        }
        let names = METADATA.map(|name| (name, Type::String)).to_vec();
        declare("metadata", Type::object("object", names));
    }
    Type::Object(Arc::new(object))
}
