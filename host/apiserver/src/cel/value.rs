//! Values of CEL expressions.
//!
//! What comes from an object stays the object's JSON, seen through the type that its schema gives
//! it: nothing is converted before an expression looks at it. Only what an expression makes itself
//! (a sum, a mapped list) is owned.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    EvalError,
    host::{Dynamic, Host},
    json::{JsonList, JsonMap},
    lib::{format::NamedFormat, ip::Cidr, semver::Semver, url::Url},
};
use crate::quantity::Quantity;

/// The value of an expression.
#[derive(Clone)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    List(List<'a>),
    Map(Map<'a>),
    /// A type, by its name.
    Type(Text<'a>),
    Optional(Option<Arc<Value<'a>>>),
    Quantity(Quantity),
    Url(Arc<Url>),
    Ip(std::net::IpAddr),
    Cidr(Cidr),
    Semver(Arc<Semver>),
    Format(&'static NamedFormat),
    /// Something of the server's: an authorizer, and what is built with it.
    Host(Arc<dyn Host>),
}

/// Text of the object, or of the expression.
#[derive(Clone)]
pub(crate) enum Text<'a> {
    Lent(&'a str),
    Own(Arc<str>),
}

#[derive(Clone)]
pub(crate) enum List<'a> {
    Json(JsonList<'a>),
    Own(Arc<Vec<Value<'a>>>),
}

#[derive(Clone)]
pub(crate) enum Map<'a> {
    Json(JsonMap<'a>),
    Own(Arc<BTreeMap<Key, Value<'a>>>),
    /// Members that are worked out when they are asked for (`variables`).
    Dynamic(&'a (dyn Dynamic + 'a)),
}

/// A key of a map that an expression made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Bool(bool),
    Int(i64),
    /// Only what does not fit into `Int`: `1u` and `1` are the same key.
    Uint(u64),
    String(Arc<str>),
}

impl<'a> Value<'a> {
    pub(crate) fn text(text: impl Into<Arc<str>>) -> Value<'a> {
        Value::String(Text::Own(text.into()))
    }

    pub(crate) fn lent(text: &'a str) -> Value<'a> {
        Value::String(Text::Lent(text))
    }

    pub(crate) fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Own(Arc::new(items)))
    }

    pub(crate) fn map(entries: BTreeMap<Key, Value<'a>>) -> Value<'a> {
        Value::Map(Map::Own(Arc::new(entries)))
    }

    pub(crate) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub(crate) const NONE: Value<'static> = Value::Optional(None);

    /// The name of the value's type, as errors and `type()` tell it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::List(_) => "list",
            Value::Map(Map::Json(map)) if map.is_object() => "object",
            Value::Map(_) => "map",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Quantity(_) => super::types::QUANTITY,
            Value::Url(_) => super::types::URL,
            Value::Ip(_) => super::types::IP,
            Value::Cidr(_) => super::types::CIDR,
            Value::Semver(_) => super::types::SEMVER,
            Value::Format(_) => super::types::FORMAT,
            Value::Host(host) => host.type_name(),
        }
    }

    /// The text of a string.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// How much there is of it, as costs count: 1 for what has no length.
    pub(super) fn size(&self) -> u64 {
        let size = match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            Value::Ip(ip) => ip_size(ip),
            Value::Cidr(cidr) => ip_size(&cidr.address),
            Value::Url(url) => url.text.len(),
            _ => 1,
        };
        size as u64
    }

    /// The value as JSON, for those who pass it on (a mutating policy's patch, a message).
    pub(crate) fn to_json(&self) -> Result<serde_json::Value, EvalError> {
        super::json::to_json(self)
    }
}

fn ip_size(ip: &std::net::IpAddr) -> usize {
    if ip.is_ipv4() { 4 } else { 16 }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Lent(text) => text,
            Text::Own(text) => text,
        }
    }
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            List::Json(list) => list.len(),
            List::Own(items) => items.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(list) => list.get(index),
            List::Own(items) => items.get(index).cloned(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> Map<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Map::Json(map) => map.len(),
            Map::Own(entries) => entries.len(),
            Map::Dynamic(_) => 0,
        }
    }

    /// The keys, as an expression sees them.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Json(map) => map.keys(),
            Map::Own(entries) => entries.keys().map(Key::value).collect(),
            Map::Dynamic(_) => Vec::new(),
        }
    }

    /// The entry under a key that is not a member to be worked out.
    pub(crate) fn find(&self, key: &Value<'_>) -> Option<Value<'a>> {
        match self {
            Map::Json(map) => key.as_str().and_then(|name| map.get(name)),
            Map::Own(entries) => Key::of(key).and_then(|key| entries.get(&key).cloned()),
            Map::Dynamic(_) => None,
        }
    }
}

impl Key {
    /// A value as a key, if it may be one.
    pub(crate) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Uint(value) => i64::try_from(*value).map_or(Key::Uint(*value), Key::Int),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Key::Int(*value as i64)
            }
            Value::String(text) => Key::String((**text).into()),
            _ => return None,
        })
    }

    pub(crate) fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(value) => Value::Bool(*value),
            Key::Int(value) => Value::Int(*value),
            Key::Uint(value) => Value::Uint(*value),
            Key::String(text) => Value::String(Text::Own(text.clone())),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::lib::strings::debug(self))
    }
}
