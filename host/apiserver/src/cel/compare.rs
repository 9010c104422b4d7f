//! When values are equal, and which comes first.
//!
//! Numbers compare across types. Lists whose items a schema tells apart by keys or by value are
//! equal in any order, as in Kubernetes.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use serde_json::Value as Json;

use super::{
    types::Identity,
    value::{List, Map, Value},
};

pub(super) fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) | (Value::Type(a), Value::Type(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::List(a), Value::List(b)) => lists(a, b),
        (Value::Map(a), Value::Map(b)) => maps(a, b),
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::Quantity(a), Value::Quantity(b)) => a == b,
        (Value::Url(a), Value::Url(b)) => a.text == b.text,
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Cidr(a), Value::Cidr(b)) => a == b,
        (Value::Semver(a), Value::Semver(b)) => a == b,
        (Value::Format(a), Value::Format(b)) => std::ptr::eq(*a, *b),
        (a, b) => matches!(numbers(a, b), Some(Some(Ordering::Equal))),
    }
}

/// The order of two values; the inner `None` is a comparison with NaN, the outer one values that
/// have no order.
pub(super) fn order(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(Some(a.cmp(b))),
        (Value::String(a), Value::String(b)) => Some(Some((**a).cmp(&**b))),
        (Value::Bytes(a), Value::Bytes(b)) => Some(Some(a.cmp(b))),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(Some(a.cmp(b))),
        (Value::Duration(a), Value::Duration(b)) => Some(Some(a.cmp(b))),
        (a, b) => numbers(a, b),
    }
}

fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => whole(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => whole(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => whole(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => whole(i128::from(*b), *a).map(Ordering::reverse),
        _ => return None,
    })
}

/// A whole number beside one that may have a fraction, without losing digits.
fn whole(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    if b.abs() > 1e30 {
        return 0.0.partial_cmp(&b);
    }
    Some(a.cmp(&(b.trunc() as i128)).then_with(|| {
        // The whole parts are equal: the fraction decides.
        0.0.partial_cmp(&b.fract()).unwrap_or(Ordering::Equal)
    }))
}

fn lists(a: &List<'_>, b: &List<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (identity(a), identity(b)) {
        (Identity::Value, _) | (_, Identity::Value) => unordered(a, b, &|item| text(item)),
        (Identity::Keys(keys), _) | (_, Identity::Keys(keys)) => {
            unordered(a, b, &|item| by_keys(item, keys))
        }
        _ => a.iter().zip(b.iter()).all(|(a, b)| equal(&a, &b)),
    }
}

fn identity<'x>(list: &'x List<'_>) -> &'x Identity {
    match list {
        List::Json(list) => list.identity(),
        List::Own(_) => &Identity::Position,
    }
}

/// Every item has its equal in the other list, found by what identifies it.
fn unordered(a: &List<'_>, b: &List<'_>, identify: &dyn Fn(&Value<'_>) -> String) -> bool {
    let mut others: HashMap<String, Value<'_>> =
        b.iter().map(|item| (identify(&item), item)).collect();
    a.iter().all(|item| {
        others
            .remove(&identify(&item))
            .is_some_and(|other| equal(&item, &other))
    })
}

fn text(value: &Value<'_>) -> String {
    super::json::to_json(value).map_or_else(|_| String::new(), |json| json.to_string())
}

fn by_keys(item: &Value<'_>, keys: &[String]) -> String {
    let Value::Map(map) = item else {
        return text(item);
    };
    let part = |key: &String| {
        let key = super::names::escape(key).unwrap_or_else(|| key.clone());
        map.find(&Value::text(key))
            .map_or_else(String::new, |value| text(&value))
    };
    keys.iter().map(part).collect::<Vec<_>>().join("\u{0}")
}

fn maps(a: &Map<'_>, b: &Map<'_>) -> bool {
    a.len() == b.len()
        && a.keys().iter().all(|key| match (a.find(key), b.find(key)) {
            (Some(a), Some(b)) => equal(&a, &b),
            _ => false,
        })
}

/// `a + b` of lists: keys and values that both have are taken once where a schema says so, with
/// what the second list has to say.
pub(super) fn concat<'a>(a: &List<'a>, b: &List<'a>) -> Value<'a> {
    let mut items: Vec<Value<'a>> = a.iter().collect();
    let identity = identity(a);
    if *identity == Identity::Position {
        items.extend(b.iter());
        return Value::List(List::Own(Arc::new(items)));
    }
    let identify = |item: &Value<'_>| match identity {
        Identity::Keys(keys) => by_keys(item, keys),
        _ => text(item),
    };
    let mut places: HashMap<String, usize> = HashMap::new();
    for (at, item) in items.iter().enumerate() {
        places.insert(identify(item), at);
    }
    for item in b.iter() {
        let key = identify(&item);
        match places.get(&key).and_then(|at| items.get_mut(*at)) {
            Some(slot) => *slot = item,
            None => {
                places.insert(key, items.len());
                items.push(item);
            }
        }
    }
    Value::List(List::Own(Arc::new(items)))
}

/// Equal JSON, with numbers by value: `1` is `1.0`.
pub(crate) fn json_equal(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| json_equal(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| json_equal(a, b)))
        }
        (a, b) => a == b,
    }
}
