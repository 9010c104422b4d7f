//! Reading what device files contain.
//!
//! EdgeX device files and profiles quote numbers and booleans at will: `Port: "502"` beside
//! `UnitID: 1`. Name one of these functions in `#[serde(deserialize_with = "…")]` to accept both.

use std::{
    fmt::{self, Display},
    marker::PhantomData,
    str::FromStr,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// A number, quoted or not. `4.0` counts as an integer, `4.5` does not.
pub fn number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    deserializer.deserialize_any(Scalar(PhantomData))
}

/// A number, quoted or not; absent, `null` and the empty text are `None`. Combine it with
/// `#[serde(default)]`.
pub fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    let text: Option<Text> = Option::deserialize(deserializer)?;
    let filled = text.map(|text| text.0).filter(|text| !text.is_empty());
    filled
        .map(|text| parse(&text).map_err(D::Error::custom))
        .transpose()
}

/// `true` or `false`, quoted or not, in any case; `1` and `0` too.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let Text(text) = Text::deserialize(deserializer)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(D::Error::custom(format_args!(
            "{text:?} is neither true nor false"
        ))),
    }
}

/// A text, or the text of a number or boolean.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar(PhantomData)).map(Self)
    }
}

struct Scalar<T>(PhantomData<T>);

impl<T> Visitor<'_> for Scalar<T>
where
    T: FromStr,
    T::Err: Display,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text or a boolean")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        // Display writes 4.0 as 4, which an integer takes.
        self.visit_str(&value.to_string())
    }
}

fn parse<T>(text: &str) -> Result<T, String>
where
    T: FromStr,
    T::Err: Display,
{
    text.trim()
        .parse()
        .map_err(|error| format!("{text:?} does not fit: {error}"))
}

/// The path of the field that an error of serde is about, and the rest of its message.
pub(crate) fn blame(place: &str, path: &str, message: &str) -> (String, String) {
    let place = if path == "." {
        place.to_owned()
    } else {
        format!("{place}.{path}")
    };
    // serde_json adds where in the text it was; nobody sees that text.
    let message = message.split(" at line ").next().unwrap_or(message);
    match message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'))
    {
        Some(field) => (format!("{place}.{field}"), "is missing".to_owned()),
        None => (place, message.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Sample {
        #[serde(deserialize_with = "number")]
        n: i16,
        #[serde(default, deserialize_with = "boolean")]
        b: bool,
        #[serde(default, deserialize_with = "optional")]
        o: Option<u8>,
        #[serde(default, deserialize_with = "text")]
        t: String,
    }

    #[track_caller]
    fn check(json: &str, n: i16, b: bool, o: Option<u8>, t: &str) {
        let expected = Sample {
            n,
            b,
            o,
            t: t.to_owned(),
        };
        assert_eq!(
            serde_json::from_str::<Sample>(json).unwrap(),
            expected,
            "{json}"
        );
    }

    #[test]
    fn quoted_and_bare_values_are_the_same() {
        check(
            r#"{"n":-5,"b":true,"o":7,"t":4003.5}"#,
            -5,
            true,
            Some(7),
            "4003.5",
        );
        check(
            r#"{"n":"-5","b":"True","o":"7","t":"4003.5"}"#,
            -5,
            true,
            Some(7),
            "4003.5",
        );
        check(r#"{"n":4.0,"b":0,"o":null,"t":12}"#, 4, false, None, "12");
        check(r#"{"n":" 4 ","o":""}"#, 4, false, None, "");
    }

    #[test]
    fn what_does_not_fit_is_quoted_in_the_error() {
        for (json, words) in [
            (r#"{"n":4.5}"#, "4.5"),
            (r#"{"n":"four"}"#, "four"),
            (r#"{"n":40000}"#, "40000"),
            (r#"{"n":1,"b":"maybe"}"#, "maybe"),
            (r#"{"n":1,"o":256}"#, "256"),
            (r#"{"n":{}}"#, "expected a number"),
        ] {
            let error = serde_json::from_str::<Sample>(json)
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
