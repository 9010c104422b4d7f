//! The Kubernetes types as data: which fields each has, of which type, under which protobuf number,
//! and how strategic merge patch joins its lists.
//!
//! One table answers all questions about a built-in type: the strict check of a body, the protobuf
//! decoder, the strategic patch and server-side apply all walk it, so a kind needs no code for any of
//! them. The table, `types.txt`, is written by `model.py` beside this crate's manifest and parsed
//! once, on first use.

mod check;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::OnceLock};

pub use check::check;
pub(crate) use check::{is_zero, spelled};

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

/// What structured merge must know of a field where its strategy does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Structure {
    #[default]
    Unsaid,
    /// One leaf: a list that is replaced, an object with one owner.
    Atomic,
    /// Each field of the object for itself, although its type is atomic.
    Granular,
    /// A list of different plain values.
    Set,
    /// A list whose elements differ in these fields, joined by commas.
    Map(&'static str),
}

/// Whether Go writes a field that nobody set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Zero {
    #[default]
    Absent,
    /// The empty value of its type.
    Empty,
    Null,
}

/// What it says to send an empty text, zero or false in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Empty {
    /// The field must be given, or it is not known how Go holds it: the value stays.
    #[default]
    Kept,
    /// Nothing: Go holds a plain value and writes it only where it is something else.
    Nothing,
    /// Just that: Go holds a pointer.
    Itself,
}

#[derive(Debug)]
pub struct Field {
    /// Number on the wire; 0 where JSON alone has the field here.
    pub number: u32,
    /// Name in JSON; `.` for a message whose fields JSON shows in its parent.
    pub name: &'static str,
    pub kind: Kind,
    pub strategy: Strategy,
    pub structure: Structure,
    pub zero: Zero,
    pub empty: Empty,
    /// JSON, for fields that are keys of a list.
    pub default: Option<&'static str>,
}

impl Field {
    /// How the elements of this list are told apart; `Unsaid` never.
    pub fn listing(&self) -> Structure {
        match self.structure {
            Structure::Unsaid if !self.strategy.merge => Structure::Atomic,
            Structure::Unsaid if self.strategy.key.is_empty() => Structure::Set,
            Structure::Unsaid => Structure::Map(self.strategy.key),
            said => said,
        }
    }
}

#[derive(Debug)]
pub struct Type {
    /// `core.v1.PodSpec`.
    pub name: &'static str,
    /// Structured merge takes all objects of this type as one leaf.
    pub atomic: bool,
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
            .map(|line| line.split(' ').next().unwrap_or(line))
            .zip(0..)
            .collect();
        let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
        for line in lines() {
            let Some(line) = line.strip_prefix(' ') else {
                let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
                types.push(Type {
                    name,
                    atomic: rest == "atomic",
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
                let mut field = Field {
                    number: number.parse().unwrap_or(0),
                    name,
                    kind: kind_of(kind, &by_name),
                    strategy: Strategy::default(),
                    structure: Structure::Unsaid,
                    zero: Zero::Absent,
                    empty: Empty::Kept,
                    default: None,
                };
                words.for_each(|word| say(&mut field, word));
                last.fields.push(field);
            }
        }
        number_as_before(&mut types, &by_name);
        Model { types, by_name }
    }
}

/// Types that became stable after the messages were written down have the numbers of their beta:
/// Kubernetes never changes them.
fn number_as_before(types: &mut [Type], by_name: &HashMap<&'static str, usize>) {
    for at in 0..types.len() {
        let Some(of) = types.get(at) else {
            continue;
        };
        if of.fields.iter().any(|field| field.number > 0) {
            continue;
        }
        let beta = by_name.get(of.name.replace(".v1.", ".v1beta1.").as_str());
        let Some(before) = beta
            .filter(|beta| **beta != at)
            .and_then(|beta| types.get(*beta))
        else {
            continue;
        };
        let numbers: Vec<(&'static str, u32)> = before
            .fields
            .iter()
            .map(|field| (field.name, field.number))
            .collect();
        if let Some(of) = types.get_mut(at) {
            for field in &mut of.fields {
                let found = numbers.iter().find(|(name, _)| *name == field.name);
                field.number = found.map_or(0, |(_, number)| *number);
            }
        }
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

/// Takes in one of the words behind a field's type; `model.py` explains them.
fn say(field: &mut Field, word: &'static str) {
    match word {
        "atomic" => field.structure = Structure::Atomic,
        "granular" => field.structure = Structure::Granular,
        "set" => field.structure = Structure::Set,
        "!" => field.zero = Zero::Empty,
        "!null" => field.zero = Zero::Null,
        "~" => field.empty = Empty::Nothing,
        "*" => field.empty = Empty::Itself,
        _ => match (word.strip_prefix("map:"), word.strip_prefix('=')) {
            (Some(keys), _) => field.structure = Structure::Map(keys),
            (_, Some(default)) => field.default = Some(default),
            _ => field.strategy = strategy_of(word),
        },
    }
}

fn strategy_of(text: &'static str) -> Strategy {
    let (how, key) = text.split_once(':').unwrap_or((text, ""));
    Strategy {
        merge: how.split(',').any(|one| one == "merge"),
        retain_keys: how.split(',').any(|one| one == "retainKeys"),
        replace: how == "replace",
        key,
    }
}
