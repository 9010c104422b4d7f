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

/// The largest request, which bounds what no schema does.
const REQUEST: u64 = 3 * 1024 * 1024;
/// Texts of JSON with their quotes: the longest duration, date and time, and the shortest ones.
const DURATION: (u64, u64) = (3, 32);
const DATE: (u64, u64) = (12, 12);
const DATE_TIME: (u64, u64) = (21, 32);
const STRING: u64 = 2;
const BOOL: u64 = 4;
const NUMBER: u64 = 1;
const BRACKETS: u64 = 2;
/// Bytes of one character at most.
const UTF8: u64 = 4;

impl Node {
    /// How many such values fit into a request.
    pub(super) fn most_in_request(&self) -> u64 {
        REQUEST / (self.least_bytes() + 1)
    }

    /// How large the value at a path may be; the first step is the variable.
    pub(super) fn size_at(&self, path: &[String]) -> Option<u64> {
        let (_, steps) = path.split_first()?;
        let mut node = self;
        for (at, step) in steps.iter().enumerate() {
            node = match (step.as_str(), &node.additional) {
                ("@items", _) => node.items.as_deref()?,
                ("@values", Additional::Each(each)) => each,
                ("@keys", Additional::Each(_)) => return Some(REQUEST - BRACKETS),
                (name, _) => {
                    let mut properties = node.properties.iter();
                    let found =
                        properties.find(|(known, _)| names::escape(known).as_deref() == Some(name));
                    match found {
                        Some((_, child)) => child,
                        // What every resource shows is text, or an object of texts.
                        None if node.is_resource()
                            && (OWN.contains(&name) || name == "metadata") =>
                        {
                            let text = name != "metadata" || at + 1 < steps.len();
                            return Some(if text { REQUEST - STRING } else { 0 });
                        }
                        None => return None,
                    }
                }
            };
        }
        Some(node.most_elements())
    }

    /// The most characters, items or entries that the value may have.
    fn most_elements(&self) -> u64 {
        let limits = self.limits.as_deref();
        let of = |sizes: Option<super::Sizes>| sizes.and_then(|sizes| sizes.max);
        let length = of(limits.map(|limits| limits.length));
        if self.int_or_string {
            return length.map_or(REQUEST - STRING, |most| most * UTF8);
        }
        match self.kind {
            Some(Kind::Array) => of(limits.map(|limits| limits.count)).unwrap_or_else(|| {
                let item = self.items.as_ref().map_or(0, |item| item.least_bytes());
                (REQUEST - BRACKETS) / (item + 1)
            }),
            Some(Kind::Object) => match &self.additional {
                Additional::Each(each) => of(limits.map(|limits| limits.entries))
                    .unwrap_or_else(|| (REQUEST - BRACKETS) / (each.least_bytes() + 6)),
                _ => 0,
            },
            Some(Kind::String) => match self.format() {
                Some("byte") => length.unwrap_or(REQUEST - STRING),
                Some("duration") => DURATION.1,
                Some("date") => DATE.1,
                Some("date-time") => DATE_TIME.1,
                _ => length
                    .map(|most| most.saturating_mul(UTF8))
                    .unwrap_or_else(|| {
                        let allowed = limits.map_or(&[][..], |limits| &limits.allowed);
                        let longest = allowed
                            .iter()
                            .filter_map(|one| one.as_str().map(str::len))
                            .max();
                        longest.map_or(REQUEST - STRING, |longest| longest as u64)
                    }),
            },
            _ => 0,
        }
    }

    /// The fewest bytes that the value takes in a request.
    fn least_bytes(&self) -> u64 {
        if self.int_or_string {
            return NUMBER;
        }
        match self.kind {
            Some(Kind::Boolean) => BOOL,
            Some(Kind::Integer | Kind::Number) => NUMBER,
            Some(Kind::Array) => BRACKETS,
            Some(Kind::String) => match self.format() {
                Some("duration") => DURATION.0,
                Some("date") => DATE.0,
                Some("date-time") => DATE_TIME.0,
                _ => STRING,
            },
            Some(Kind::Object) if !matches!(self.additional, Additional::Each(_)) => {
                let required = self.required.iter().filter_map(|name| {
                    let child = self.properties.get(name)?;
                    let sent = child.default.is_none() && child.declared().is_some();
                    sent.then(|| name.len() as u64 + child.least_bytes() + 4)
                });
                BRACKETS + required.sum::<u64>()
            }
            _ => BRACKETS,
        }
    }
}
