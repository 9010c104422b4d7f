//! The Kubernetes types as data: which fields each has, of which type, under which protobuf number,
//! and how strategic merge patch joins its lists.
//!
//! One table answers all questions about a built-in type: the strict check of a body, the protobuf
//! decoder and the strategic patch all walk it, so a kind needs no code for any of them. The table,
//! `types.txt`, is written by `model.py` and parsed once, on first use.

mod check;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::OnceLock};

pub use check::check;
pub(crate) use check::spelled;

/// The type of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    String,
    Bool,
    Int32,
    Int64,
    Float,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339, in whole seconds.
    Time,
    /// RFC 3339, in microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// Any JSON: raw extensions, schema defaults, field sets.
    Any(Raw),
    List(Box<Kind>),
    Map(Box<Kind>),
    /// An object of this type.
    Object(usize),
}

/// How JSON of any shape travels in protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// A message whose first field holds JSON text.
    Bytes,
    /// `JSONSchemaPropsOr{Array,Bool,StringArray}`: a choice, by name.
    SchemaOr(SchemaOr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaOr {
    Array,
    Bool,
    StringArray,
}

/// What strategic merge patch does with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strategy {
    /// Elements join; else the patch's list replaces the old one.
    pub merge: bool,
    /// Keys of the patch are the only ones that stay where `$retainKeys` says so.
    pub retain_keys: bool,
    /// The patch's object replaces the old one, rather than joining it.
    pub replace: bool,
    /// The field that tells elements apart; empty for lists of plain values.
    pub key: &'static str,
}

#[derive(Debug)]
pub struct Field {
    /// Number on the wire; 0 where JSON alone has the field here.
    pub number: u32,
    /// Name in JSON; `.` for a message whose fields JSON shows in its parent.
    pub name: &'static str,
    pub kind: Kind,
    pub strategy: Strategy,
}

#[derive(Debug)]
pub struct Type {
    /// `core.v1.PodSpec`.
    pub name: &'static str,
    pub fields: Vec<Field>,
}

impl Type {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .iter()
            .find(|field| field.name == name && field.name != ".")
    }

    pub fn number(&self, number: u32) -> Option<&Field> {
        self.fields
            .iter()
            .find(|field| field.number == number && number != 0)
    }

    /// `v1.PodSpec`: how Go prints it, which clients see in errors.
    pub fn go_name(&self) -> &'static str {
        self.name
            .split_once('.')
            .map_or(self.name, |(_, rest)| rest)
    }

    /// `PodSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// All types.
pub struct Model {
    types: Vec<Type>,
    by_name: HashMap<&'static str, usize>,
}

impl Model {
    pub fn get() -> &'static Model {
        static MODEL: OnceLock<Model> = OnceLock::new();
        MODEL.get_or_init(|| Model::parse(include_str!("types.txt")))
    }

    /// The type of a whole object.
    pub fn root(&self, api_version: &str, kind: &str) -> Option<&Type> {
        if kind == "DeleteOptions" {
            // Sent under whatever group version the client talks to.
            return self.named("meta.v1.DeleteOptions");
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
        let group = group.split('.').next().unwrap_or(group);
        self.named(&format!("{group}.{version}.{kind}"))
    }

    pub fn named(&self, name: &str) -> Option<&Type> {
        self.by_name.get(name).and_then(|at| self.types.get(*at))
    }

    #[cfg(test)]
    pub fn all(&self) -> &[Type] {
        &self.types
    }

    pub fn at(&self, index: usize) -> Option<&Type> {
        self.types.get(index)
    }

    fn parse(text: &'static str) -> Model {
        let lines = || {
            text.lines()
                .filter(|line| !line.starts_with('#') && !line.is_empty())
        };
        let by_name: HashMap<&'static str, usize> = lines()
            .filter(|line| !line.starts_with(' '))
            .zip(0..)
            .collect();
        let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
        for line in lines() {
            let Some(line) = line.strip_prefix(' ') else {
                types.push(Type {
                    name: line,
                    fields: Vec::new(),
                });
                continue;
            };
            let mut words = line.split(' ');
            let (Some(number), Some(name), Some(kind)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let Some(last) = types.last_mut() {
                last.fields.push(Field {
                    number: number.parse().unwrap_or(0),
                    name,
                    kind: kind_of(kind, &by_name),
                    strategy: strategy_of(words.next()),
                });
            }
        }
        Model { types, by_name }
    }
}

fn kind_of(text: &'static str, by_name: &HashMap<&'static str, usize>) -> Kind {
    if let Some(rest) = text.strip_prefix("[]") {
        return Kind::List(Box::new(kind_of(rest, by_name)));
    }
    if let Some(rest) = text.strip_prefix("{}") {
        return Kind::Map(Box::new(kind_of(rest, by_name)));
    }
    match text {
        "string" => Kind::String,
        "bool" => Kind::Bool,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "float64" => Kind::Float,
        "bytes" => Kind::Bytes,
        "meta.v1.Time" => Kind::Time,
        "meta.v1.MicroTime" => Kind::MicroTime,
        "resource.Quantity" => Kind::Quantity,
        "util.intstr.IntOrString" => Kind::IntOrString,
        "apiextensions.v1.JSONSchemaPropsOrArray" => Kind::Any(Raw::SchemaOr(SchemaOr::Array)),
        "apiextensions.v1.JSONSchemaPropsOrBool" => Kind::Any(Raw::SchemaOr(SchemaOr::Bool)),
        "apiextensions.v1.JSONSchemaPropsOrStringArray" => {
            Kind::Any(Raw::SchemaOr(SchemaOr::StringArray))
        }
        other => by_name
            .get(other)
            .map_or(Kind::Any(Raw::Bytes), |at| Kind::Object(*at)),
    }
}

fn strategy_of(text: Option<&'static str>) -> Strategy {
    let Some(text) = text else {
        return Strategy::default();
    };
    let (how, key) = text.split_once(':').unwrap_or((text, ""));
    Strategy {
        merge: how.split(',').any(|one| one == "merge"),
        retain_keys: how.split(',').any(|one| one == "retainKeys"),
        replace: how == "replace",
        key,
    }
}
