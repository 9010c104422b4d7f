//! Lists: order, sums, extremes; and what lists and texts both answer.

use std::cmp::Ordering;

use super::{
    super::{
        EvalError, List, Value,
        compare::{equal, order},
        types::Type,
    },
    Function, cost, no_overload,
    standard::overflow,
    strings::index_of,
};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "isSorted",
        ".list(int)->bool;.list(uint)->bool;.list(double)->bool;.list(bool)->bool;\
         .list(duration)->bool;.list(timestamp)->bool;.list(string)->bool;.list(bytes)->bool",
        cost::visit,
        |args| {
            let [Value::List(list)] = args else {
                return no_overload();
            };
            let items: Vec<Value<'_>> = list.iter().collect();
            let mut sorted = true;
            for pair in items.windows(2) {
                let [a, b] = pair else { continue };
                let Some(order) = order(a, b) else {
                    return no_overload();
                };
                sorted &= order != Some(Ordering::Greater);
            }
            Ok(Value::Bool(sorted))
        },
    ),
    Function::new(
        "sum",
        ".list(int)->int;.list(uint)->uint;.list(double)->double;.list(duration)->duration",
        cost::visit,
        |args| match args {
            [Value::List(list)] => sum(list),
            _ => no_overload(),
        },
    ),
    Function::new(
        "max",
        ".list(int)->int;.list(uint)->uint;.list(double)->double;.list(bool)->bool;\
         .list(duration)->duration;.list(timestamp)->timestamp;.list(string)->string;\
         .list(bytes)->bytes",
        cost::visit,
        |args| extreme(args, Ordering::Less, "max"),
    ),
    Function::new(
        "min",
        ".list(int)->int;.list(uint)->uint;.list(double)->double;.list(bool)->bool;\
         .list(duration)->duration;.list(timestamp)->timestamp;.list(string)->string;\
         .list(bytes)->bytes",
        cost::visit,
        |args| extreme(args, Ordering::Greater, "min"),
    ),
    Function::new(
        "indexOf",
        ".string,string->int;.string,string,int->int;.list(A),A->int",
        cost::visit,
        |args| match args {
            [Value::List(list), item] => place(list.iter().position(|one| equal(&one, item))),
            [Value::String(text), Value::String(part)] => index_of(text, part, Some(0), false),
            [Value::String(text), Value::String(part), Value::Int(from)] => {
                index_of(text, part, Some(*from), false)
            }
            _ => no_overload(),
        },
    ),
    Function::new(
        "lastIndexOf",
        ".string,string->int;.string,string,int->int;.list(A),A->int",
        cost::visit,
        |args| match args {
            [Value::List(list), item] => {
                let items: Vec<Value<'_>> = list.iter().collect();
                place(items.iter().rposition(|one| equal(one, item)))
            }
            [Value::String(text), Value::String(part)] => index_of(text, part, None, true),
            [Value::String(text), Value::String(part), Value::Int(from)] => {
                index_of(text, part, Some(*from), true)
            }
            _ => no_overload(),
        },
    ),
];

/// A position, or -1.
fn place<'a>(at: Option<usize>) -> Result<Value<'a>, EvalError> {
    let at = at.map_or(-1, |at| i64::try_from(at).unwrap_or(i64::MAX));
    Ok(Value::Int(at))
}

fn sum<'a>(list: &List<'a>) -> Result<Value<'a>, EvalError> {
    let mut items = list.iter();
    let Some(mut total) = items.next() else {
        return Ok(match list {
            List::Json(list) => match list.item_type() {
                Some(Type::Double) => Value::Double(0.0),
                Some(Type::Duration) => Value::Duration(jiff::SignedDuration::ZERO),
                _ => Value::Int(0),
            },
            List::Own(_) => Value::Int(0),
        });
    };
    for item in items {
        total = match (&total, &item) {
            (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int),
            (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint),
            (Value::Double(a), Value::Double(b)) => Some(Value::Double(a + b)),
            (Value::Duration(a), Value::Duration(b)) => a.checked_add(*b).map(Value::Duration),
            _ => return no_overload(),
        }
        .ok_or_else(overflow)?;
    }
    Ok(total)
}

/// The item beside which every other one is not beyond; the first of equals.
fn extreme<'a>(args: &[Value<'a>], beaten: Ordering, name: &str) -> Result<Value<'a>, EvalError> {
    let [Value::List(list)] = args else {
        return no_overload();
    };
    let mut items = list.iter();
    let Some(mut best) = items.next() else {
        return Err(EvalError::new(format!("{name} called on empty list")));
    };
    for item in items {
        match order(&best, &item) {
            None => return no_overload(),
            Some(order) if order == Some(beaten) => best = item,
            Some(_) => {}
        }
    }
    Ok(best)
}
