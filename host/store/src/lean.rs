//! Reading only those parts of an object that selectors can ask for.
//!
//! At start every stored object is parsed for its labels and fields. Most of an object is in arrays
//! (containers, conditions, managed fields), in annotations and in the data of ConfigMaps and
//! Secrets; a parser that skips those takes a quarter of the time and allocates next to nothing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, value::RawValue};

/// What is read of an object in one pass.
#[derive(Debug, PartialEq)]
pub(crate) struct Lean<'a> {
    /// The object without its arrays, annotations and data.
    pub(crate) value: Value,
    /// `metadata.resourceVersion` as it stands in the text, quotes and all; empty if there is none.
    pub(crate) version: &'a str,
}

pub(crate) fn parse(json: &str) -> serde_json::Result<Lean<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let mut version = "";
    let reading = Reading {
        place: Place::Object,
        version: &mut version,
    };
    let value = reading.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Lean { value, version })
}

/// Where in an object a value is.
#[derive(Clone, Copy)]
enum Place {
    Object,
    Metadata,
    Elsewhere,
}

impl Place {
    /// Whether a member of this name is never asked for.
    fn skips(self, name: &str) -> bool {
        match self {
            Self::Object => matches!(name, "data" | "binaryData"),
            Self::Metadata => name == "annotations",
            Self::Elsewhere => false,
        }
    }

    fn of(self, name: &str) -> Self {
        match (self, name) {
            (Self::Object, "metadata") => Self::Metadata,
            _ => Self::Elsewhere,
        }
    }
}

struct Reading<'a, 'de> {
    place: Place,
    version: &'a mut &'de str,
}

impl<'de> DeserializeSeed<'de> for Reading<'_, 'de> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_, 'de> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if self.place.skips(&name) {
                members.next_value::<IgnoredAny>()?;
            } else if matches!(self.place, Place::Metadata) && name == "resourceVersion" {
                *self.version = members.next_value::<&RawValue>()?.get();
            } else {
                let inner = Reading {
                    place: self.place.of(&name),
                    version: &mut *self.version,
                };
                map.insert(name, members.next_value_seed(inner)?);
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arrays_annotations_and_data_are_skipped_and_all_else_is_kept() {
        let text = r#"{"data":{"a":[1]},"spec":{"data":{"n":-1,"f":1.5},"list":[{"x":1}],
            "resourceVersion":"8"},"metadata":{"annotations":{"resourceVersion":"9"},
            "resourceVersion": "7","labels":{"a":"b"}},"t":"é\n"}"#;
        let expected = json!({
            "spec": {"data": {"n": -1, "f": 1.5}, "list": null, "resourceVersion": "8"},
            "metadata": {"labels": {"a": "b"}}, "t": "é\n",
        });
        let found = parse(text).unwrap();
        assert_eq!((found.value, found.version), (expected, r#""7""#));
        for broken in ["", "{", r#"{"data":{]}"#, "{} x"] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }
}
