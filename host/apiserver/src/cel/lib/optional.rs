//! Values that may be absent.

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "optional.of",
        "A->optional(A)",
        cost::one,
        |args| match args {
            [value] => Ok(Value::some(value.clone())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "optional.ofNonZeroValue",
        "A->optional(A)",
        cost::one,
        |args| match args {
            [value] if is_zero(value) => Ok(Value::NONE),
            [value] => Ok(Value::some(value.clone())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "optional.none",
        "->optional(A)",
        cost::one,
        |args| match args {
            [] => Ok(Value::NONE),
            _ => no_overload(),
        },
    ),
    Function::new(
        "hasValue",
        ".optional(A)->bool",
        cost::one,
        |args| match args {
            [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
            _ => no_overload(),
        },
    ),
    Function::new("value", ".optional(A)->A", cost::one, |args| match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => no_overload(),
    }),
    Function::new(
        "or",
        ".optional(A),optional(A)->optional(A)",
        cost::one,
        |args| match args {
            [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
            [one @ Value::Optional(Some(_)), Value::Optional(_)] => Ok(one.clone()),
            _ => no_overload(),
        },
    ),
    Function::new(
        "orValue",
        ".optional(A),A->A",
        cost::one,
        |args| match args {
            [Value::Optional(None), other] => Ok(other.clone()),
            [Value::Optional(Some(value)), _] => Ok((**value).clone()),
            _ => no_overload(),
        },
    ),
];

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.len() == 0,
        Value::Map(map) => map.len() == 0,
        Value::Duration(value) => value.is_zero(),
        _ => false,
    }
}
