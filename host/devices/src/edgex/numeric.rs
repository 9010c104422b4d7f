//! `numeric=true`: readings whose values are numbers instead of texts.

use bytes::Bytes;
use eyot_runtime::reading::Value;
use serde_json::{Value as Json, json};

use super::{reply::Failure, request::Parsed};
use crate::value;

/// Stored readings, with numbers if the request asks for them.
pub(super) fn readings(request: &Parsed, bodies: Vec<Bytes>) -> Result<Vec<Bytes>, Failure> {
    changed(request, bodies, number)
}

/// Stored events, with numbers in their readings if the request asks for them.
pub(super) fn events(request: &Parsed, bodies: Vec<Bytes>) -> Result<Vec<Bytes>, Failure> {
    changed(request, bodies, |event| {
        let readings = event.get_mut("readings").and_then(Json::as_array_mut);
        readings.into_iter().flatten().for_each(number);
    })
}

fn changed(
    request: &Parsed,
    bodies: Vec<Bytes>,
    change: impl Fn(&mut Json),
) -> Result<Vec<Bytes>, Failure> {
    if !request.flag("numeric", false)? {
        return Ok(bodies);
    }
    let changed = bodies.into_iter().map(|body| {
        let Ok(mut json) = serde_json::from_slice::<Json>(&body) else {
            return body;
        };
        change(&mut json);
        json.to_string().into()
    });
    Ok(changed.collect())
}

fn number(reading: &mut Json) {
    if let Some(value) = value_of(reading)
        && let Some(number) = as_json(&value)
    {
        reading["value"] = number;
    }
}

/// The typed value of a reading that is a text.
fn value_of(reading: &Json) -> Option<Value> {
    value::parse(reading["valueType"].as_str()?, reading["value"].as_str()?).ok()
}

/// A number, or a list of numbers; `None` for what is neither, or is not finite.
fn as_json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Uint8(v) => json!(v),
        Value::Uint16(v) => json!(v),
        Value::Uint32(v) => json!(v),
        Value::Uint64(v) => json!(v),
        Value::Int8(v) => json!(v),
        Value::Int16(v) => json!(v),
        Value::Int32(v) => json!(v),
        Value::Int64(v) => json!(v),
        Value::Float32(v) => shortest(*v)?,
        Value::Float64(v) => finite(*v)?,
        Value::Uint8Array(v) => json!(v),
        Value::Uint16Array(v) => json!(v),
        Value::Uint32Array(v) => json!(v),
        Value::Uint64Array(v) => json!(v),
        Value::Int8Array(v) => json!(v),
        Value::Int16Array(v) => json!(v),
        Value::Int32Array(v) => json!(v),
        Value::Int64Array(v) => json!(v),
        Value::Float32Array(v) => v.iter().map(|v| shortest(*v)).collect::<Option<_>>()?,
        Value::Float64Array(v) => v.iter().map(|v| finite(*v)).collect::<Option<_>>()?,
        _ => return None,
    })
}

/// With the digits that the 32-bit float has: 23.4, not 23.399999618530273.
fn shortest(value: f32) -> Option<Json> {
    finite(value.to_string().parse().ok()?)
}

fn finite(value: f64) -> Option<Json> {
    serde_json::Number::from_f64(value).map(Json::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_place_of_texts_where_they_can() {
        let check = |value_type: &str, text: &str, expected: Json| {
            let mut reading = json!({ "valueType": value_type, "value": text });
            number(&mut reading);
            assert_eq!(reading["value"], expected, "{value_type}");
        };
        check("Float32", "2.34e+01", json!(23.4));
        check("Uint64", "18446744073709551615", json!(u64::MAX));
        check("Int8Array", "[1, -2]", json!([1, -2]));
        check("String", "7", json!("7"));
        check("Bool", "true", json!("true"));
        check("Float64", "NaN", json!("NaN"));
    }
}
