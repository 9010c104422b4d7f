//! Values as EdgeX writes them in JSON, and back.
//!
//! Simple values are texts: integers in decimal, floats in scientific notation with the fewest
//! digits that read back the same, arrays in brackets with `, ` between.

use std::fmt::Write as _;

use eyot_runtime::reading::Value;

/// The text of a simple value; `None` for binary, object and null, which are not texts.
pub(crate) fn text(value: &Value) -> Option<String> {
    Some(match value {
        Value::Bool(v) => v.to_string(),
        Value::String(v) => v.clone(),
        Value::Uint8(v) => v.to_string(),
        Value::Uint16(v) => v.to_string(),
        Value::Uint32(v) => v.to_string(),
        Value::Uint64(v) => v.to_string(),
        Value::Int8(v) => v.to_string(),
        Value::Int16(v) => v.to_string(),
        Value::Int32(v) => v.to_string(),
        Value::Int64(v) => v.to_string(),
        Value::Float32(v) => scientific(*v),
        Value::Float64(v) => scientific(*v),
        Value::BoolArray(v) => list(v, |v| v.to_string()),
        Value::StringArray(v) => list(v, Clone::clone),
        Value::Uint8Array(v) => list(v, |v| v.to_string()),
        Value::Uint16Array(v) => list(v, |v| v.to_string()),
        Value::Uint32Array(v) => list(v, |v| v.to_string()),
        Value::Uint64Array(v) => list(v, |v| v.to_string()),
        Value::Int8Array(v) => list(v, |v| v.to_string()),
        Value::Int16Array(v) => list(v, |v| v.to_string()),
        Value::Int32Array(v) => list(v, |v| v.to_string()),
        Value::Int64Array(v) => list(v, |v| v.to_string()),
        Value::Float32Array(v) => list(v, |v| scientific(*v)),
        Value::Float64Array(v) => list(v, |v| scientific(*v)),
        Value::Binary { .. } | Value::Object(_) | Value::ObjectArray(_) | Value::Null(_) => {
            return None;
        }
    })
}

/// A value for people to read: floats plain, and something for what has no text.
pub(crate) fn display(value: &Value) -> String {
    match value {
        Value::Float32(v) => v.to_string(),
        Value::Float64(v) => v.to_string(),
        Value::Float32Array(v) => list(v, |v| v.to_string()),
        Value::Float64Array(v) => list(v, |v| v.to_string()),
        Value::Binary { data, media_type } => format!("{} bytes of {media_type}", data.len()),
        Value::Object(json) | Value::ObjectArray(json) => json.clone(),
        Value::Null(_) => "null".to_owned(),
        simple => text(simple).unwrap_or_default(),
    }
}

/// `2.345e+01`, and Go's names for what is no number.
fn scientific<T: std::fmt::LowerExp + Into<f64> + Copy>(value: T) -> String {
    let wide: f64 = value.into();
    if wide.is_nan() {
        return "NaN".to_owned();
    }
    if wide.is_infinite() {
        return if wide > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let short = format!("{value:e}");
    let Some((digits, exponent)) = short.split_once('e') else {
        return short;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn list<T>(values: &[T], each: impl Fn(&T) -> String) -> String {
    let mut text = String::from("[");
    for (index, value) in values.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let _ = write!(text, "{separator}{}", each(value));
    }
    text.push(']');
    text
}

/// Why a text is no value of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a value of type {value_type}")]
pub struct ParseError {
    pub text: String,
    pub value_type: String,
}

/// Read a text as a value of an EdgeX type. Floats are taken in any notation.
pub(crate) fn parse(value_type: &str, text: &str) -> Result<Value, ParseError> {
    let error = || ParseError {
        text: text.chars().take(100).collect(),
        value_type: value_type.to_owned(),
    };
    let trimmed = text.trim();
    macro_rules! number {
        ($case:ident) => {
            trimmed.parse().map(Value::$case).map_err(|_| error())
        };
    }
    macro_rules! numbers {
        ($case:ident) => {
            items(trimmed)
                .and_then(|items| items.into_iter().map(|item| item.parse().ok()).collect())
                .map(Value::$case)
                .ok_or_else(error)
        };
    }
    match value_type {
        "Bool" => boolean(trimmed).map(Value::Bool).ok_or_else(error),
        "String" => Ok(Value::String(text.to_owned())),
        "Uint8" => number!(Uint8),
        "Uint16" => number!(Uint16),
        "Uint32" => number!(Uint32),
        "Uint64" => number!(Uint64),
        "Int8" => number!(Int8),
        "Int16" => number!(Int16),
        "Int32" => number!(Int32),
        "Int64" => number!(Int64),
        "Float32" => number!(Float32),
        "Float64" => number!(Float64),
        "BoolArray" => items(trimmed)
            .and_then(|items| items.into_iter().map(boolean).collect())
            .map(Value::BoolArray)
            .ok_or_else(error),
        "StringArray" => strings(trimmed).map(Value::StringArray).ok_or_else(error),
        "Uint8Array" => numbers!(Uint8Array),
        "Uint16Array" => numbers!(Uint16Array),
        "Uint32Array" => numbers!(Uint32Array),
        "Uint64Array" => numbers!(Uint64Array),
        "Int8Array" => numbers!(Int8Array),
        "Int16Array" => numbers!(Int16Array),
        "Int32Array" => numbers!(Int32Array),
        "Int64Array" => numbers!(Int64Array),
        "Float32Array" => numbers!(Float32Array),
        "Float64Array" => numbers!(Float64Array),
        "Object" => match serde_json::from_str::<serde_json::Value>(trimmed) {
            Ok(serde_json::Value::Object(_)) => Ok(Value::Object(trimmed.to_owned())),
            _ => Err(error()),
        },
        "ObjectArray" => match serde_json::from_str::<serde_json::Value>(trimmed) {
            Ok(serde_json::Value::Array(_)) => Ok(Value::ObjectArray(trimmed.to_owned())),
            _ => Err(error()),
        },
        _ => Err(error()),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// The items between brackets, without quotes.
fn items(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    Some(
        inner
            .split(',')
            .map(|item| item.trim().trim_matches('"'))
            .collect(),
    )
}

/// Texts may hold commas: take JSON where it is JSON.
fn strings(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text)
        .ok()
        .or_else(|| Some(items(text)?.into_iter().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_edgex_writes_them() {
        let check = |value: Value, expected: &str| {
            assert_eq!(text(&value).as_deref(), Some(expected));
        };
        check(Value::Float32(23.4), "2.34e+01");
        check(Value::Float64(-0.0001), "-1e-04");
        check(Value::Float64(0.0), "0e+00");
        check(Value::Float64(1e300), "1e+300");
        check(Value::Float64(f64::NAN), "NaN");
        check(Value::Float32(f32::NEG_INFINITY), "-Inf");
        check(Value::Int16Array(vec![1, -2]), "[1, -2]");
        check(Value::Float64Array(vec![1.5]), "[1.5e+00]");
        check(Value::BoolArray(vec![]), "[]");
        check(Value::Uint64(u64::MAX), "18446744073709551615");
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let all = [
            Value::Bool(true),
            Value::String("a b".into()),
            Value::Int8(-128),
            Value::Uint64(u64::MAX),
            Value::Float32(0.1),
            Value::Float64(1.0 / 3.0),
            Value::Uint8Array(vec![0, 255]),
            Value::Float32Array(vec![0.1, -2e-10]),
            Value::BoolArray(vec![true, false]),
            Value::StringArray(vec!["x".into(), "y".into()]),
        ];
        for value in all {
            let written = text(&value).unwrap_or_default();
            assert_eq!(parse(value.value_type(), &written), Ok(value), "{written}");
        }
    }

    #[test]
    fn what_does_not_fit_its_type_is_an_error_that_says_so() {
        for (value_type, text) in [
            ("Uint8", "256"),
            ("Int16", "1.5"),
            ("Bool", "yes"),
            ("Object", "[]"),
            ("Int8Array", "1, 2"),
            ("Int8Array", "[1, 300]"),
            ("Binary", "AA=="),
        ] {
            let error = parse(value_type, text).unwrap_err().to_string();
            assert!(
                error.contains(value_type) && error.contains(text),
                "{error}"
            );
        }
    }
}
