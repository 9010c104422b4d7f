//! Numbers as Go's JSON writes them.

use serde_json::Value;

/// Beyond this not every integer is a float.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Make `42.0` the `42` that Kubernetes stores and shows.
pub(crate) fn settle(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|n| {
                n.fract() == 0.0 && n.abs() <= EXACT && (*n != 0.0 || n.is_sign_positive())
            });
            if let Some(whole) = whole {
                *number = (whole as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(map) => map.values_mut().for_each(settle),
        _ => {}
    }
}
