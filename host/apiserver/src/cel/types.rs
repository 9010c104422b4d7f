//! Types of CEL expressions: what the checker knows of a value before there is one.
//!
//! A type is a small tree behind shared pointers, so that a schema of any size is described once
//! and its parts are handed around for the price of a counter.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The type of an expression or of a variable.
#[derive(Clone, Debug)]
pub(crate) enum Type {
    /// Anything: checks wait until the value is there.
    Dyn,
    /// What a faulty expression has, so that one fault is told once.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<ListType>),
    Map(Arc<MapType>),
    Object(Arc<ObjectType>),
    /// The type of a type: `type(1)`.
    Of(Arc<Type>),
    Optional(Arc<Type>),
    /// A type with functions and no inside: `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A placeholder in a function's signature, or one that inference made.
    Param(Arc<str>),
}

#[derive(Debug)]
pub(crate) struct ListType {
    pub(crate) item: Type,
    pub(crate) identity: Identity,
}

/// What tells the items of a list apart, which decides when two lists are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Order and all values.
    #[default]
    Position,
    /// `x-kubernetes-list-type: set`.
    Value,
    /// `x-kubernetes-list-type: map`, with the names of the keys.
    Keys(Vec<String>),
}

#[derive(Debug)]
pub(crate) struct MapType {
    pub(crate) key: Type,
    pub(crate) value: Type,
}

/// An object whose fields are declared.
#[derive(Debug, Default)]
pub(crate) struct ObjectType {
    /// Told in errors; two objects are of the same type if their names are.
    pub(crate) name: String,
    /// By the name that expressions use, which is the JSON name escaped.
    pub(crate) fields: BTreeMap<String, Field>,
    /// It has any other field, too, of any type.
    pub(crate) open: bool,
}

#[derive(Debug)]
pub(crate) struct Field {
    /// The key in the JSON.
    pub(crate) json: String,
    pub(crate) type_: Type,
}

impl Type {
    pub(crate) fn list(item: Type) -> Type {
        let identity = Identity::Position;
        Type::List(Arc::new(ListType { item, identity }))
    }

    pub(crate) fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(MapType { key, value }))
    }

    pub(crate) fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// An object with the given fields, whose names need no escaping.
    pub(crate) fn object(name: &str, fields: Vec<(&str, Type)>) -> Type {
        let fields = fields
            .into_iter()
            .map(|(name, type_)| {
                let json = name.to_owned();
                (name.to_owned(), Field { json, type_ })
            })
            .collect();
        let name = name.to_owned();
        Type::Object(Arc::new(ObjectType {
            name,
            fields,
            open: false,
        }))
    }

    /// An object of which only the name is known.
    pub(crate) fn open(name: &str) -> Type {
        Type::Object(Arc::new(ObjectType {
            name: name.to_owned(),
            open: true,
            ..ObjectType::default()
        }))
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// The types that this one is made of.
    pub(super) fn parts(&self) -> Vec<&Type> {
        match self {
            Type::List(list) => vec![&list.item],
            Type::Map(map) => vec![&map.key, &map.value],
            Type::Optional(inner) | Type::Of(inner) => vec![inner],
            _ => Vec::new(),
        }
    }

    /// The same type with other parts, as many as [`Type::parts`] gave.
    pub(super) fn with_parts(&self, mut parts: impl FnMut(&Type) -> Type) -> Type {
        match self {
            Type::List(list) => Type::List(Arc::new(ListType {
                item: parts(&list.item),
                identity: list.identity.clone(),
            })),
            Type::Map(map) => Type::map(parts(&map.key), parts(&map.value)),
            Type::Optional(inner) => Type::optional(parts(inner)),
            Type::Of(inner) => Type::Of(Arc::new(parts(inner))),
            other => other.clone(),
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) => a.item == b.item,
            (Type::Map(a), Type::Map(b)) => a.key == b.key && a.value == b.value,
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Of(a), Type::Of(b)) | (Type::Optional(a), Type::Optional(b)) => a == b,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(list) => write!(f, "list({})", list.item),
            Type::Map(map) => write!(f, "map({}, {})", map.key, map.value),
            Type::Object(object) => f.write_str(&object.name),
            Type::Of(inner) => write!(f, "type({inner})"),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Opaque(name) => f.write_str(name),
            Type::Param(name) => f.write_str(name),
        }
    }
}

/// Reads signatures of the function tables: `list(A),string->map(string,A)`. The tables are ours,
/// so what cannot be read is `dyn` rather than an error; a test reads them all.
pub(super) fn parse(text: &str) -> Option<Type> {
    let text = text.trim();
    let inner = |prefix: &str| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(')'))
    };
    if let Some(item) = inner("list(") {
        return Some(Type::list(parse(item)?));
    }
    if let Some(pair) = inner("map(") {
        let parts = split(pair);
        let [key, value] = parts.as_slice() else {
            return None;
        };
        return Some(Type::map(parse(key)?, parse(value)?));
    }
    if let Some(of) = inner("optional(") {
        return Some(Type::optional(parse(of)?));
    }
    if let Some(of) = inner("type(") {
        return Some(Type::Of(Arc::new(parse(of)?)));
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        param if param.len() == 1 && param.starts_with(|c: char| c.is_ascii_uppercase()) => {
            Type::Param(param.into())
        }
        name => Type::Opaque(OPAQUE.iter().find(|one| **one == name)?),
    })
}

/// Splits at commas outside of parentheses.
pub(super) fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text.get(start..at).unwrap_or(""));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or(""));
    parts.retain(|part| !part.trim().is_empty());
    parts
}

pub(crate) const QUANTITY: &str = "kubernetes.Quantity";
pub(crate) const URL: &str = "kubernetes.URL";
pub(crate) const IP: &str = "net.IP";
pub(crate) const CIDR: &str = "net.CIDR";
pub(crate) const SEMVER: &str = "kubernetes.Semver";
pub(crate) const FORMAT: &str = "kubernetes.NamedFormat";
pub(crate) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(crate) const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub(crate) const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub(crate) const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub(crate) const DECISION: &str = "kubernetes.authorization.Decision";

const OPAQUE: [&str; 11] = [
    QUANTITY,
    URL,
    IP,
    CIDR,
    SEMVER,
    FORMAT,
    AUTHORIZER,
    PATH_CHECK,
    GROUP_CHECK,
    RESOURCE_CHECK,
    DECISION,
];
