//! JSON as CEL values, through the types that a schema declares.
//!
//! Without a schema numbers are what they look like and every object is a map. With one, a field's
//! format decides (a `date-time` is a timestamp), names are escaped, a null in an object with
//! declared fields is an absent field, and lists with keys or of distinct values are equal in any
//! order.

use std::{sync::Arc, time::Duration};

use base64::Engine;
use jiff::{SignedDuration, Timestamp, civil};
use serde_json::{Map as Members, Value as Json};

use super::{
    EvalError,
    types::{Identity, ListType, ObjectType, Type},
    value::{Key, List, Map, Text, Value},
};

/// A list of an object.
#[derive(Clone, Copy)]
pub(crate) struct JsonList<'a> {
    items: &'a [Json],
    of: Option<&'a ListType>,
}

/// An object or a map of an object.
#[derive(Clone, Copy)]
pub(crate) struct JsonMap<'a> {
    members: &'a Members<String, Json>,
    of: Seen<'a>,
}

/// How the members are seen.
#[derive(Clone, Copy)]
enum Seen<'a> {
    Free,
    Each(&'a Type),
    Fields(&'a ObjectType),
}

impl<'a> JsonList<'a> {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<Value<'a>> {
        let item = self.items.get(index)?;
        Some(match self.of {
            Some(of) => typed(item, &of.item),
            None => free(item),
        })
    }

    pub(super) fn identity(&self) -> &Identity {
        self.of.map_or(&Identity::Position, |of| &of.identity)
    }

    /// The type that a schema gives the items.
    pub(super) fn item_type(&self) -> Option<&'a Type> {
        self.of.map(|of| &of.item)
    }
}

impl<'a> JsonMap<'a> {
    pub(crate) fn len(&self) -> usize {
        match self.of {
            Seen::Fields(_) => self.keys().len(),
            _ => self.members.len(),
        }
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self.of, Seen::Fields(_))
    }

    pub(crate) fn get(&self, name: &str) -> Option<Value<'a>> {
        match self.of {
            Seen::Free => self.members.get(name).map(free),
            Seen::Each(of) => self.members.get(name).map(|value| typed(value, of)),
            Seen::Fields(object) => {
                let field = object.fields.get(name)?;
                let value = self.members.get(&field.json)?;
                (!value.is_null()).then(|| typed(value, &field.type_))
            }
        }
    }

    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self.of {
            Seen::Fields(object) => object
                .fields
                .iter()
                .filter(|(_, field)| self.members.get(&field.json).is_some_and(|v| !v.is_null()))
                .map(|(name, _)| Value::lent(name))
                .collect(),
            _ => self.members.keys().map(|key| Value::lent(key)).collect(),
        }
    }
}

/// JSON as it looks.
pub(crate) fn free(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::lent(text),
        Json::Array(items) => Value::List(List::Json(JsonList { items, of: None })),
        Json::Object(members) => {
            let of = Seen::Free;
            Value::Map(Map::Json(JsonMap { members, of }))
        }
    }
}

/// JSON as its type has it. What does not fit its type, which validation against the schema has
/// refused before any rule runs, is shown as it looks.
pub(crate) fn typed<'a>(json: &'a Json, of: &'a Type) -> Value<'a> {
    match (of, json) {
        (Type::List(of), Json::Array(items)) => {
            let of = Some(&**of);
            Value::List(List::Json(JsonList { items, of }))
        }
        (Type::Map(of), Json::Object(members)) => {
            let of = Seen::Each(&of.value);
            Value::Map(Map::Json(JsonMap { members, of }))
        }
        (Type::Object(of), Json::Object(members)) => {
            let of = Seen::Fields(of);
            Value::Map(Map::Json(JsonMap { members, of }))
        }
        (Type::Double, Json::Number(number)) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        (Type::Int, Json::Number(number)) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Int(number.as_f64().unwrap_or(0.0) as i64),
        },
        (Type::Timestamp, Json::String(text)) => {
            timestamp(text).map_or_else(|| Value::lent(text), Value::Timestamp)
        }
        (Type::Duration, Json::String(text)) => {
            duration(text).map_or_else(|| Value::lent(text), Value::Duration)
        }
        (Type::Bytes, Json::String(text)) => {
            let engine = base64::engine::general_purpose::STANDARD;
            match engine.decode(text) {
                Ok(bytes) => Value::Bytes(bytes.into()),
                Err(_) => Value::lent(text),
            }
        }
        _ => free(json),
    }
}

/// `2026-01-31T10:00:00Z`, or a date, which is its first instant in UTC.
fn timestamp(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    let date: civil::Date = text.parse().ok()?;
    let zoned = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp())
}

/// Go's durations: `1h30m`, `-1.5s`, `100ms`.
pub(crate) fn duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let unit = nanoseconds(unit)?;
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total = total.checked_add(i128::from(digit - b'0') * scale)?;
        }
        rest = next;
    }
    let total = i64::try_from(if negative { -total } else { total }).ok()?;
    Some(SignedDuration::from_nanos(total))
}

fn nanoseconds(unit: &str) -> Option<i128> {
    let nanoseconds = |duration: Duration| i128::try_from(duration.as_nanos()).ok();
    match unit {
        "ns" => Some(1),
        "us" | "µs" | "μs" => nanoseconds(Duration::from_micros(1)),
        "ms" => nanoseconds(Duration::from_millis(1)),
        "s" => nanoseconds(Duration::from_secs(1)),
        "m" => nanoseconds(Duration::from_secs(60)),
        "h" => nanoseconds(Duration::from_secs(3600)),
        _ => None,
    }
}

/// A value as JSON; what JSON has no form for is an error.
pub(super) fn to_json(value: &Value<'_>) -> Result<Json, EvalError> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Double(value) => Json::from(*value),
        Value::String(text) => Json::from(&**text),
        Value::Bytes(bytes) => Json::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Value::Timestamp(at) => Json::from(at.to_string()),
        Value::Duration(duration) => Json::from(super::lib::time::duration_text(*duration)),
        Value::Quantity(quantity) => Json::from(quantity.to_string()),
        Value::List(List::Json(list)) => Json::Array(list.items.to_vec()),
        Value::Map(Map::Json(map)) => Json::Object(map.members.clone()),
        Value::List(list) => {
            Json::Array(list.iter().map(|v| to_json(&v)).collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            let mut members = Members::new();
            for key in map.keys() {
                let Some(name) = key.as_str() else {
                    return Err(EvalError::new("a JSON object has keys of type string only"));
                };
                if let Some(value) = map.find(&key) {
                    members.insert(name.to_owned(), to_json(&value)?);
                }
            }
            Json::Object(members)
        }
        Value::Optional(Some(inner)) => to_json(inner)?,
        other => {
            return Err(EvalError::new(format!(
                "unsupported conversion from '{}' to JSON",
                other.type_name()
            )));
        }
    })
}

/// A JSON value that belongs to nobody else.
pub(crate) fn owned<'a>(json: &Json) -> Value<'a> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::text(text.as_str()),
        Json::Array(items) => Value::list(items.iter().map(owned).collect()),
        Json::Object(members) => Value::map(
            members
                .iter()
                .map(|(key, value)| (Key::String(Arc::from(key.as_str())), owned(value)))
                .collect(),
        ),
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Text<'a> {
        Text::Lent(text)
    }
}
