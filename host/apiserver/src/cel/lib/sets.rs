//! Lists as sets.

use super::{
    super::{EvalError, List, Value, compare::equal},
    Function, cost, no_overload,
};

const PAIR: &str = "list(A),list(A)->bool";

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new("sets.contains", PAIR, cost::pairs, |args| {
        lists(args, |all, part| holds(all, part))
    }),
    Function::new("sets.equivalent", PAIR, cost::pairs_twice, |args| {
        lists(args, |a, b| holds(a, b) && holds(b, a))
    }),
    Function::new("sets.intersects", PAIR, cost::pairs, |args| {
        lists(args, |a, b| a.iter().any(|item| has(b, &item)))
    }),
];

fn lists<'a>(
    args: &[Value<'a>],
    with: impl Fn(&List<'a>, &List<'a>) -> bool,
) -> Result<Value<'a>, EvalError> {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(with(a, b))),
        _ => no_overload(),
    }
}

fn has(list: &List<'_>, item: &Value<'_>) -> bool {
    list.iter().any(|one| equal(&one, item))
}

/// Every item of `part` is in `all`.
fn holds(all: &List<'_>, part: &List<'_>) -> bool {
    part.iter().all(|item| has(all, &item))
}
