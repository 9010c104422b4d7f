//! Resource quantities; and the comparisons that quantities and versions both have.

use std::cmp::Ordering;

use super::{
    super::{EvalError, Value},
    Function, cost, no_overload,
};
use crate::quantity::Quantity;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "quantity",
        "string->kubernetes.Quantity",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => text
                .parse()
                .map(Value::Quantity)
                .map_err(|error: crate::quantity::QuantityError| EvalError::new(error.to_string())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "isQuantity",
        "string->bool",
        cost::traverse,
        |args| match args {
            [Value::String(text)] => Ok(Value::Bool(text.parse::<Quantity>().is_ok())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "sign",
        ".kubernetes.Quantity->int",
        cost::one,
        |args| match args {
            [Value::Quantity(value)] => Ok(Value::Int(value.nano().signum() as i64)),
            _ => no_overload(),
        },
    ),
    Function::new(
        "isInteger",
        ".kubernetes.Quantity->bool",
        cost::one,
        |args| match args {
            [Value::Quantity(value)] => Ok(Value::Bool(value.is_integer())),
            _ => no_overload(),
        },
    ),
    Function::new(
        "asInteger",
        ".kubernetes.Quantity->int",
        cost::one,
        |args| match args {
            [Value::Quantity(value)] if value.is_integer() => {
                i64::try_from(value.nano() / 1_000_000_000)
                    .map(Value::Int)
                    .map_err(|_error| EvalError::new("cannot convert value to integer"))
            }
            [Value::Quantity(_)] => Err(EvalError::new("cannot convert value to integer")),
            _ => no_overload(),
        },
    ),
    Function::new(
        "asApproximateFloat",
        ".kubernetes.Quantity->double",
        cost::one,
        |args| match args {
            [Value::Quantity(value)] => Ok(Value::Double(value.nano() as f64 / 1e9)),
            _ => no_overload(),
        },
    ),
    Function::new(
        "add",
        ".kubernetes.Quantity,kubernetes.Quantity->kubernetes.Quantity;\
         .kubernetes.Quantity,int->kubernetes.Quantity",
        cost::one,
        |args| sum(args, 1),
    ),
    Function::new(
        "sub",
        ".kubernetes.Quantity,kubernetes.Quantity->kubernetes.Quantity;\
         .kubernetes.Quantity,int->kubernetes.Quantity",
        cost::one,
        |args| sum(args, -1),
    ),
    Function::new(
        "isGreaterThan",
        ".kubernetes.Quantity,kubernetes.Quantity->bool;.kubernetes.Semver,kubernetes.Semver->bool",
        cost::one,
        |args| compare(args, |order| Value::Bool(order.is_gt())),
    ),
    Function::new(
        "isLessThan",
        ".kubernetes.Quantity,kubernetes.Quantity->bool;.kubernetes.Semver,kubernetes.Semver->bool",
        cost::one,
        |args| compare(args, |order| Value::Bool(order.is_lt())),
    ),
    Function::new(
        "compareTo",
        ".kubernetes.Quantity,kubernetes.Quantity->int;.kubernetes.Semver,kubernetes.Semver->int",
        cost::one,
        |args| compare(args, |order| Value::Int(order as i64)),
    ),
];

fn sum<'a>(args: &[Value<'a>], sign: i128) -> Result<Value<'a>, EvalError> {
    let (quantity, nano) = match args {
        [Value::Quantity(quantity), Value::Quantity(other)] => (quantity, other.nano()),
        [Value::Quantity(quantity), Value::Int(other)] => {
            (quantity, i128::from(*other) * 1_000_000_000)
        }
        _ => return no_overload(),
    };
    Ok(Value::Quantity(quantity.plus(sign * nano)))
}

fn compare<'a>(
    args: &[Value<'a>],
    answer: fn(Ordering) -> Value<'static>,
) -> Result<Value<'a>, EvalError> {
    let order = match args {
        [Value::Quantity(a), Value::Quantity(b)] => a.cmp(b),
        [Value::Semver(a), Value::Semver(b)] => a.precedence(b),
        _ => return no_overload(),
    };
    Ok(answer(order))
}
