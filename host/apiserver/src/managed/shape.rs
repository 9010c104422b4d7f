//! What a value at some place of an object is to structured merge.
//!
//! Built-in kinds are described by the table of types, custom resources by their schema, and parts
//! that nobody describes by themselves: an object there is its fields, a list is one leaf. The
//! three look the same from here on.

use std::sync::OnceLock;

use serde_json::Value;

use crate::{
    model::{Field, Kind, Model, Structure, Type},
    resource::{Definition, Resource},
    schema::{Member, Place, Sort},
};

/// A place in the description of an object.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'a> {
    /// An object of a built-in type; a whole one has `apiVersion` and `kind` too.
    Type {
        of: &'a Type,
        whole: bool,
    },
    Field(&'a Field),
    /// The element of a built-in list or map.
    Kind(&'a Kind),
    Schema(Place<'a>),
    Scalar(Scalar),
    /// Whatever is found; `atomic` where an atomic list encloses it.
    Deduced {
        atomic: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Text,
    Number,
    Bool,
    /// Any of them.
    Any,
}

/// What a value is made of.
#[derive(Clone, Copy)]
pub(crate) enum Form<'a> {
    Scalar(Scalar),
    List(List<'a>),
    Map(Object<'a>),
}

#[derive(Clone, Copy)]
pub(crate) struct List<'a> {
    pub(crate) listing: Listing<'a>,
    pub(crate) items: Shape<'a>,
}

/// How the elements of a list are told apart.
#[derive(Clone, Copy)]
pub(crate) enum Listing<'a> {
    /// Not at all: the list is one leaf.
    Atomic,
    /// They are different plain values.
    Set,
    Keys(Keys<'a>),
}

/// The fields whose values tell the elements of a list apart.
#[derive(Clone, Copy)]
pub(crate) enum Keys<'a> {
    /// Joined by commas, sorted.
    Text(&'a str),
    Names(&'a [String]),
}

#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    /// One leaf.
    pub(crate) atomic: bool,
    fields: Fields<'a>,
}

#[derive(Clone, Copy)]
enum Fields<'a> {
    Type { of: &'a Type, whole: bool },
    Each(Shape<'a>),
    Schema(Place<'a>),
}

impl<'a> Shape<'a> {
    /// The root of a resource's objects. `None` where the table lacks a built-in type.
    pub(crate) fn of(resource: &'a Resource) -> Option<Shape<'a>> {
        match &resource.definition {
            Definition::Builtin(_) => Shape::builtin(&resource.api_version(), &resource.kind),
            Definition::Custom(custom) => Some(Shape::Schema(custom.schema().place())),
        }
    }

    pub(crate) fn builtin(api_version: &str, kind: &str) -> Option<Shape<'static>> {
        let of = Model::get().root(api_version, kind)?;
        Some(Shape::Type { of, whole: true })
    }

    /// What `value` is here. Where a place allows several forms, the value decides; where it does not
    /// help (it is missing, null, or of a wrong type), objects come before scalars before lists.
    pub(crate) fn form(self, value: Option<&Value>) -> Form<'a> {
        match self {
            Shape::Type { of, whole } => Form::Map(Object {
                atomic: of.atomic,
                fields: Fields::Type { of, whole },
            }),
            Shape::Field(field) => of_kind(&field.kind, Some(field), value),
            Shape::Kind(kind) => of_kind(kind, None, value),
            Shape::Schema(place) => of_schema(place, value),
            Shape::Scalar(scalar) => Form::Scalar(scalar),
            Shape::Deduced { atomic } => deduced(atomic, value),
        }
    }

    /// Whether two values at this place have the same form. Null has every form.
    pub(crate) fn agree(self, one: &Value, other: &Value) -> bool {
        if one.is_null() || other.is_null() {
            return true;
        }
        matches!(
            (self.form(Some(one)), self.form(Some(other))),
            (Form::Scalar(_), Form::Scalar(_))
                | (Form::List(_), Form::List(_))
                | (Form::Map(_), Form::Map(_))
        )
    }

    /// The default of a field of the objects here.
    pub(crate) fn default_of(self, name: &str) -> Option<Value> {
        match self {
            Shape::Type { of, .. } => {
                let default = of.field(name)?.default?;
                serde_json::from_str(default).ok()
            }
            Shape::Kind(Kind::Object(at)) => {
                let of = Model::get().at(*at)?;
                Shape::Type { of, whole: false }.default_of(name)
            }
            Shape::Schema(place) => place.default_of(name).cloned(),
            _ => None,
        }
    }
}

impl<'a> Keys<'a> {
    /// In alphabetical order.
    pub(crate) fn names(self) -> Vec<&'a str> {
        match self {
            Keys::Text(text) => text.split(',').collect(),
            Keys::Names(names) => {
                let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
                names.sort_unstable();
                names
            }
        }
    }
}

/// What a field is, and whether the description names it (rather than allowing any name).
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) shape: Shape<'a>,
    pub(crate) named: bool,
}

impl<'a> Object<'a> {
    /// `None` for a field that may not be here.
    pub(crate) fn field(self, name: &str) -> Option<Named<'a>> {
        let (shape, named) = match self.fields {
            Fields::Type { of, whole } => match of.field(name) {
                Some(field) => (Shape::Field(field), true),
                None if is_type_meta(of, whole, name) => (Shape::Scalar(Scalar::Text), true),
                None => return None,
            },
            Fields::Each(shape) => (shape, false),
            Fields::Schema(place) => match place.member(name) {
                Member::Named(place) => (Shape::Schema(place), true),
                Member::Each(place) => (Shape::Schema(place), false),
                Member::Any => (Shape::Deduced { atomic: false }, false),
                Member::TypeMeta => (Shape::Scalar(Scalar::Text), true),
                Member::ObjectMeta => (object_meta(), true),
                Member::Unknown => return None,
            },
        };
        Some(Named { shape, named })
    }

    /// Whether null here is what Go writes for a field that nobody set.
    pub(crate) fn null_is_unset(self) -> bool {
        matches!(self.fields, Fields::Type { .. })
    }

    /// Whether nothing is said of the fields, so that no change of a schema can matter.
    pub(crate) fn is_open(self) -> bool {
        match self.fields {
            Fields::Each(Shape::Deduced { .. }) => true,
            Fields::Schema(place) => place.is_open(),
            _ => false,
        }
    }
}

/// Whole objects have `apiVersion` and `kind`; so has the one whole object that others embed.
fn is_type_meta(of: &Type, whole: bool, name: &str) -> bool {
    (whole || of.name == "core.v1.PersistentVolumeClaim") && matches!(name, "apiVersion" | "kind")
}

fn object_meta<'a>() -> Shape<'a> {
    static META: OnceLock<Option<&'static Type>> = OnceLock::new();
    match META.get_or_init(|| Model::get().named("meta.v1.ObjectMeta")) {
        Some(of) => Shape::Type { of, whole: false },
        None => Shape::Deduced { atomic: false },
    }
}

fn of_kind<'a>(kind: &'a Kind, field: Option<&'a Field>, value: Option<&Value>) -> Form<'a> {
    let structure = field.map(|field| field.structure).unwrap_or_default();
    let map = |fields, atomic| {
        let atomic = match structure {
            Structure::Atomic => true,
            Structure::Granular => false,
            _ => atomic,
        };
        Form::Map(Object { atomic, fields })
    };
    match kind {
        Kind::String | Kind::Bytes => Form::Scalar(Scalar::Text),
        Kind::Bool => Form::Scalar(Scalar::Bool),
        Kind::Int32 | Kind::Int64 | Kind::Float => Form::Scalar(Scalar::Number),
        Kind::Time | Kind::MicroTime | Kind::Quantity | Kind::IntOrString => {
            Form::Scalar(Scalar::Any)
        }
        Kind::Any(_) => deduced(false, value),
        Kind::List(of) => Form::List(List {
            listing: match field.map(Field::listing) {
                Some(Structure::Set) => Listing::Set,
                Some(Structure::Map(keys)) => Listing::Keys(Keys::Text(keys)),
                _ => Listing::Atomic,
            },
            items: Shape::Kind(of),
        }),
        Kind::Map(of) => map(Fields::Each(Shape::Kind(of)), false),
        Kind::Object(at) => match Model::get().at(*at) {
            Some(of) => map(Fields::Type { of, whole: false }, of.atomic),
            None => deduced(false, value),
        },
    }
}

fn of_schema<'a>(place: Place<'a>, value: Option<&Value>) -> Form<'a> {
    let list = |listing| {
        let any = Shape::Deduced { atomic: false };
        let items = place.items().map_or(any, Shape::Schema);
        Form::List(List { listing, items })
    };
    let map = |atomic| {
        Form::Map(Object {
            atomic,
            fields: Fields::Schema(place),
        })
    };
    match place.sort() {
        Sort::Anything => deduced(false, value),
        Sort::Text => Form::Scalar(Scalar::Text),
        Sort::Number => Form::Scalar(Scalar::Number),
        Sort::Bool => Form::Scalar(Scalar::Bool),
        Sort::Scalar => Form::Scalar(Scalar::Any),
        Sort::AtomicList => list(Listing::Atomic),
        Sort::SetList => list(Listing::Set),
        Sort::MapList(keys) => list(Listing::Keys(Keys::Names(keys))),
        Sort::AtomicMap => map(true),
        Sort::Map => map(false),
    }
}

fn deduced<'a>(atomic: bool, value: Option<&Value>) -> Form<'a> {
    match value {
        Some(Value::Array(_)) => Form::List(List {
            listing: Listing::Atomic,
            items: Shape::Deduced { atomic: true },
        }),
        None | Some(Value::Null | Value::Object(_)) => Form::Map(Object {
            atomic,
            fields: Fields::Each(Shape::Deduced { atomic }),
        }),
        Some(_) => Form::Scalar(Scalar::Any),
    }
}
