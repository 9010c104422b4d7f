//! An object that nobody has filled in yet.
//!
//! Kubernetes compares an object that is created with the empty value of its Go type, which has
//! fields all the same: a Deployment has a `spec.template.spec`, and a null list of containers in
//! it. Whoever creates one owns what is in them, not them.

use serde_json::{Map, Value};

use super::shape::Shape;
use crate::model::{Kind, Model, Type, Zero};

/// Types nest no deeper before they repeat.
const MAX_DEPTH: usize = 16;

/// The empty object of a shape.
pub(super) fn object(shape: Shape<'_>) -> Value {
    match shape {
        Shape::Type { of, .. } => Value::Object(fields(of, 0)),
        _ => Value::Object(Map::new()),
    }
}

/// Make null of the empty lists that an object of this shape always shows: once it is known who sent
/// them they are the same as none.
pub(super) fn settle(shape: Shape<'_>, object: &mut Value) {
    let (Shape::Type { of, .. }, Value::Object(object)) = (shape, object) else {
        return;
    };
    let shown = of.fields.iter().filter(|field| field.zero != Zero::Absent);
    for field in shown.filter(|field| matches!(field.kind, Kind::List(_))) {
        if let Some(value) = object.get_mut(field.name)
            && value.as_array().is_some_and(Vec::is_empty)
        {
            *value = Value::Null;
        }
    }
}

fn fields(of: &Type, depth: usize) -> Map<String, Value> {
    if depth > MAX_DEPTH {
        return Map::new();
    }
    of.fields
        .iter()
        .filter(|field| field.name != ".")
        .filter_map(|field| {
            let value = match field.zero {
                Zero::Absent => return None,
                Zero::Null => Value::Null,
                Zero::Empty => empty(&field.kind, depth),
            };
            Some((field.name.to_owned(), value))
        })
        .collect()
}

fn empty(kind: &Kind, depth: usize) -> Value {
    match kind {
        Kind::String => "".into(),
        Kind::Bool => false.into(),
        Kind::Int32 | Kind::Int64 | Kind::Float | Kind::IntOrString => 0.into(),
        Kind::Quantity => "0".into(),
        Kind::Object(at) => match Model::get().at(*at) {
            Some(of) => Value::Object(fields(of, depth + 1)),
            None => Value::Null,
        },
        Kind::Bytes
        | Kind::Time
        | Kind::MicroTime
        | Kind::Any(_)
        | Kind::List(_)
        | Kind::Map(_) => Value::Null,
    }
}
