//! Reading scalars as existing EdgeX files write them: numbers with or without quotes, texts that
//! YAML takes for numbers, nothing where a list is meant. Written back, each has its proper type.
//!
//! Use with `#[serde(deserialize_with = "…")]`; [`any_scalar`] is the schema that lets a strict API
//! server accept the same forms.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// Any JSON scalar: the field decides what it accepts.
enum Scalar {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }
            fn visit_none<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Unsigned(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Signed(value))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// A float, quoted or not; an empty text is none.
pub fn float<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = match Scalar::deserialize(deserializer)? {
        Scalar::Null => return Ok(None),
        Scalar::Unsigned(value) => value as f64,
        Scalar::Signed(value) => value as f64,
        Scalar::Float(value) => value,
        Scalar::Text(text) if text.trim().is_empty() => return Ok(None),
        Scalar::Text(text) => text
            .trim()
            .parse()
            .map_err(|_| de::Error::custom(format_args!("{text:?} is not a number")))?,
        Scalar::Bool(_) => return Err(de::Error::custom("a number is needed, not a boolean")),
    };
    if value.is_finite() {
        Ok(Some(value))
    } else {
        Err(de::Error::custom("number out of range"))
    }
}

/// An unsigned integer, quoted or not, decimal or `0x…`; an empty text is none.
pub fn unsigned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    integer(deserializer, |value| u64::try_from(value).ok())
}

/// A signed integer, quoted or not, decimal or `0x…`; an empty text is none.
pub fn signed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    integer(deserializer, |value| i64::try_from(value).ok())
}

fn integer<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    narrow: fn(i128) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    let wide = match Scalar::deserialize(deserializer)? {
        Scalar::Null => return Ok(None),
        Scalar::Unsigned(value) => i128::from(value),
        Scalar::Signed(value) => i128::from(value),
        // Some serialisers write whole numbers as floats.
        Scalar::Float(value) if value.fract() == 0.0 && value.abs() < 1e18 => value as i128,
        Scalar::Float(value) => {
            return Err(de::Error::custom(format_args!(
                "{value} is not a whole number"
            )));
        }
        Scalar::Text(text) if text.trim().is_empty() => return Ok(None),
        Scalar::Text(text) => {
            let trimmed = text.trim();
            let parsed = match trimmed
                .strip_prefix("0x")
                .or_else(|| trimmed.strip_prefix("0X"))
            {
                Some(digits) => i128::from_str_radix(digits, 16),
                None => trimmed.parse(),
            };
            parsed.map_err(|_| de::Error::custom(format_args!("{text:?} is not a whole number")))?
        }
        Scalar::Bool(_) => return Err(de::Error::custom("a number is needed, not a boolean")),
    };
    narrow(wide)
        .map(Some)
        .ok_or_else(|| de::Error::custom(format_args!("{wide} does not fit the field")))
}

/// A text; numbers and booleans are taken as they would be written.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Scalar::deserialize(deserializer)? {
        Scalar::Null => None,
        Scalar::Bool(value) => Some(value.to_string()),
        Scalar::Unsigned(value) => Some(value.to_string()),
        Scalar::Signed(value) => Some(value.to_string()),
        Scalar::Float(value) => Some(value.to_string()),
        Scalar::Text(value) => Some(value),
    })
}

/// A boolean, quoted or not.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Scalar::deserialize(deserializer)? {
        Scalar::Null => Ok(false),
        Scalar::Bool(value) => Ok(value),
        Scalar::Text(text) if text.is_empty() => Ok(false),
        Scalar::Text(text) => text
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| de::Error::custom(format_args!("{text:?} is neither true nor false"))),
        _ => Err(de::Error::custom("true or false is needed, not a number")),
    }
}

/// Anything with a default, where `null` stands for that default.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Schema of a field that the functions above read.
pub fn any_scalar(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// Schema of a map of anything.
pub fn any_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Schema of a map of maps of anything.
pub fn any_maps(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true
        }
    })
}
