//! Reading only those parts of an object that selectors can ask for.
//!
//! At start every stored object is parsed for its labels and fields. Most of an object is in arrays
//! (containers, conditions, managed fields) and in the data of ConfigMaps and Secrets; a parser
//! that skips both takes a quarter of the time and allocates next to nothing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Members of the object itself that are never asked for.
const SKIPPED: [&str; 2] = ["data", "binaryData"];

/// The value without its arrays and its data.
pub(crate) fn parse(json: &[u8]) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = Lean { top: true }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Lean {
    top: bool,
}

impl<'de> DeserializeSeed<'de> for Lean {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lean {
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
            if self.top && SKIPPED.contains(&name.as_str()) {
                members.next_value::<IgnoredAny>()?;
            } else {
                map.insert(name, members.next_value_seed(Lean { top: false })?);
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
    fn arrays_and_data_are_skipped_and_all_else_is_kept() {
        let text =
            r#"{"data":{"a":[1]},"spec":{"data":{"n":-1,"f":1.5},"list":[{"x":1}]},"t":"é\n"}"#;
        let expected = json!({"spec": {"data": {"n": -1, "f": 1.5}, "list": null}, "t": "é\n"});
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        for broken in ["", "{", r#"{"data":{]}"#, "{} x"] {
            assert!(parse(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
