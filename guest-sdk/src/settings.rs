//! From a stage's `config`, which is names and texts, to a typed struct.

use std::fmt::Display;

use serde::{
    de::{
        self, DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, Visitor,
        value::{SeqDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::PipelineError;

/// Parse settings into a struct. A name that the struct does not have is an error, also without
/// `deny_unknown_fields`.
pub fn from_settings<T: DeserializeOwned>(
    settings: &[(String, String)],
) -> Result<T, PipelineError> {
    T::deserialize(Settings {
        rest: settings.iter(),
        value: None,
    })
    .map_err(|Wrong(message)| PipelineError::Config(message))
}

/// What is wrong with the settings.
#[derive(Debug)]
struct Wrong(String);

impl Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<M: Display>(message: M) -> Self {
        let text = message.to_string();
        // serde's word for it is field; the user wrote settings.
        Self(
            match text
                .strip_prefix("missing field `")
                .and_then(|t| t.strip_suffix('`'))
            {
                Some(name) => format!("setting {name:?} is missing"),
                None => text,
            },
        )
    }
}

struct Settings<'a> {
    rest: std::slice::Iter<'a, (String, String)>,
    value: Option<&'a (String, String)>,
}

impl<'de> Deserializer<'de> for Settings<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Wrong> {
        match self.rest.next() {
            None => visitor.visit_unit(),
            Some((name, _)) => Err(Wrong(format!(
                "setting {name:?} is unknown: there are none"
            ))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for Settings<'_> {
    type Error = Wrong;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        self.value = self.rest.next();
        let Some((name, _)) = self.value else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Wrong> = name.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let Some((name, text)) = self.value else {
            return Err(Wrong(String::new()));
        };
        seed.deserialize(Setting(text))
            .map_err(|Wrong(message)| match message.as_str() {
                UNKNOWN => Wrong(format!("setting {name:?} is unknown")),
                message => Wrong(format!("setting {name:?}: {message}")),
            })
    }
}

/// The error of a value that no field wants.
const UNKNOWN: &str = "unknown";

/// One value: a text that is parsed as whatever the field is.
struct Setting<'a>(&'a str);

macro_rules! parsed {
    ($($method:ident $visit:ident $what:literal,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let value = self.0.trim().parse();
            visitor.$visit(value.map_err(|_| Wrong(format!("{:?} is not {}", self.0, $what)))?)
        })*
    };
}

impl<'de> Deserializer<'de> for Setting<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_str(self.0)
    }

    parsed! {
        deserialize_bool visit_bool "true or false",
        deserialize_i8 visit_i8 "an integer from -128 to 127",
        deserialize_i16 visit_i16 "an integer from -32768 to 32767",
        deserialize_i32 visit_i32 "an integer of 32 bits",
        deserialize_i64 visit_i64 "an integer of 64 bits",
        deserialize_u8 visit_u8 "an integer from 0 to 255",
        deserialize_u16 visit_u16 "an integer from 0 to 65535",
        deserialize_u32 visit_u32 "a non-negative integer of 32 bits",
        deserialize_u64 visit_u64 "a non-negative integer of 64 bits",
        deserialize_f32 visit_f32 "a number",
        deserialize_f64 visit_f64 "a number",
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let parts = self
            .0
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        visitor.visit_seq(SeqDeserializer::new(parts.map(Setting)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let text: StrDeserializer<'_, Wrong> = self.0.trim().into_deserializer();
        visitor.visit_enum(text)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Wrong> {
        Err(Wrong(UNKNOWN.to_owned()))
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct
        identifier
    }
}

impl<'de> IntoDeserializer<'de, Wrong> for Setting<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        broker: String,
        #[serde(default)]
        qos: u8,
        #[serde(default)]
        retain: bool,
        #[serde(default)]
        minimum_value: Option<f64>,
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        format: Format,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Format {
        #[default]
        Event,
        Flat,
    }

    fn parse(settings: &[(&str, &str)]) -> Result<Config, String> {
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let settings: Vec<_> = settings.iter().map(pair).collect();
        from_settings(&settings).map_err(|error| match error {
            PipelineError::Config(message) => message,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn texts_become_what_the_fields_are() {
        let settings = [
            ("broker", "mqtt://local"),
            ("qos", "1"),
            ("retain", "true"),
            ("minimumValue", "-1.5"),
            ("names", "a, b,,c"),
            ("format", "flat"),
        ];
        let expected = Config {
            broker: "mqtt://local".into(),
            qos: 1,
            retain: true,
            minimum_value: Some(-1.5),
            names: vec!["a".into(), "b".into(), "c".into()],
            format: Format::Flat,
        };
        assert_eq!(parse(&settings), Ok(expected));
    }

    #[track_caller]
    fn refused(settings: &[(&str, &str)], words: &[&str]) {
        let message = parse(settings).unwrap_err();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused(&[], &["\"broker\"", "missing"]);
        refused(
            &[("broker", "x"), ("color", "red")],
            &["\"color\"", "unknown"],
        );
        refused(
            &[("broker", "x"), ("qos", "300")],
            &["\"qos\"", "300", "0 to 255"],
        );
        refused(
            &[("broker", "x"), ("retain", "maybe")],
            &["\"retain\"", "true or false"],
        );
        refused(
            &[("broker", "x"), ("format", "xml")],
            &["\"format\"", "xml", "flat"],
        );
        refused(&[("broker", "x"), ("broker", "y")], &["broker"]);
    }
}
