//! Events and values as JSON and text.

use serde_json::{Map, Value as Json, json};

use crate::{Event, Reading, Value, ValueType};

impl Value {
    /// The value in the JSON type that fits it. 64-bit integers are numbers, too; NaN and
    /// infinities, which JSON does not have, are their names; bytes are an array.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Boolean(value) => json!(value),
            Self::Text(value) => json!(value),
            Self::Uint8(value) => json!(value),
            Self::Uint16(value) => json!(value),
            Self::Uint32(value) => json!(value),
            Self::Uint64(value) => json!(value),
            Self::Int8(value) => json!(value),
            Self::Int16(value) => json!(value),
            Self::Int32(value) => json!(value),
            Self::Int64(value) => json!(value),
            Self::Float32(value) => float32(*value),
            Self::Float64(value) => float64(*value),
            Self::Booleans(values) => json!(values),
            Self::Texts(values) => json!(values),
            Self::Uint8s(values) => json!(values),
            Self::Uint16s(values) => json!(values),
            Self::Uint32s(values) => json!(values),
            Self::Uint64s(values) => json!(values),
            Self::Int8s(values) => json!(values),
            Self::Int16s(values) => json!(values),
            Self::Int32s(values) => json!(values),
            Self::Int64s(values) => json!(values),
            Self::Float32s(values) => values.iter().copied().map(float32).collect(),
            Self::Float64s(values) => values.iter().copied().map(float64).collect(),
            Self::Binary(binary) => json!(binary.data),
            // What is no JSON after all is kept as text rather than lost.
            Self::Object(text) | Self::Objects(text) => {
                serde_json::from_str(text).unwrap_or_else(|_| json!(text))
            }
            Self::Null(_) => Json::Null,
        }
    }

    /// A value of this type from JSON: numbers and booleans quoted or not, arrays of them, objects,
    /// and `null`. Binary has no form in JSON. The error says what was expected.
    pub fn from_json(json: &Json, value_type: ValueType) -> Result<Self, String> {
        use ValueType as T;
        if json.is_null() {
            return Ok(Self::Null(value_type.name().to_owned()));
        }
        let wrong = || {
            let mut shown = json.to_string();
            if let Some((end, _)) = shown.char_indices().nth(100) {
                shown.truncate(end);
            }
            format!("{shown} is no {}", value_type.name())
        };
        fn one<T: std::str::FromStr>(json: &Json) -> Option<T> {
            match json {
                Json::String(text) => text.trim().parse().ok(),
                Json::Number(_) | Json::Bool(_) => json.to_string().parse().ok(),
                _ => None,
            }
        }
        fn many<T: std::str::FromStr>(json: &Json) -> Option<Vec<T>> {
            json.as_array()?.iter().map(one).collect()
        }
        let text = |json: &Json| match json {
            Json::String(text) => Some(text.clone()),
            Json::Number(_) | Json::Bool(_) => Some(json.to_string()),
            _ => None,
        };
        let found = match value_type {
            T::Bool => one(json).map(Self::Boolean),
            T::String => text(json).map(Self::Text),
            T::Uint8 => one(json).map(Self::Uint8),
            T::Uint16 => one(json).map(Self::Uint16),
            T::Uint32 => one(json).map(Self::Uint32),
            T::Uint64 => one(json).map(Self::Uint64),
            T::Int8 => one(json).map(Self::Int8),
            T::Int16 => one(json).map(Self::Int16),
            T::Int32 => one(json).map(Self::Int32),
            T::Int64 => one(json).map(Self::Int64),
            T::Float32 => one(json).map(Self::Float32),
            T::Float64 => one(json).map(Self::Float64),
            T::BoolArray => many(json).map(Self::Booleans),
            T::StringArray => {
                let texts = json.as_array().map(|all| all.iter().map(text).collect());
                texts.flatten().map(Self::Texts)
            }
            T::Uint8Array => many(json).map(Self::Uint8s),
            T::Uint16Array => many(json).map(Self::Uint16s),
            T::Uint32Array => many(json).map(Self::Uint32s),
            T::Uint64Array => many(json).map(Self::Uint64s),
            T::Int8Array => many(json).map(Self::Int8s),
            T::Int16Array => many(json).map(Self::Int16s),
            T::Int32Array => many(json).map(Self::Int32s),
            T::Int64Array => many(json).map(Self::Int64s),
            T::Float32Array => many(json).map(Self::Float32s),
            T::Float64Array => many(json).map(Self::Float64s),
            T::Object => json.is_object().then(|| Self::Object(json.to_string())),
            T::ObjectArray => {
                let all = json.as_array();
                let objects = all.is_some_and(|all| all.iter().all(Json::is_object));
                objects.then(|| Self::Objects(json.to_string()))
            }
            T::Binary => None,
        };
        found.ok_or_else(wrong)
    }

    /// The value as text: texts bare, everything else as its JSON.
    pub fn to_text(&self) -> String {
        match self.to_json() {
            Json::String(text) => text,
            json => json.to_string(),
        }
    }

    /// The value in another type, if it fits: integers within the range, numbers into floats,
    /// floats without a fraction into integers. Everything fits its own type.
    pub fn convert(&self, to: ValueType) -> Option<Self> {
        if self.value_type() == to.name() {
            return Some(self.clone());
        }
        let whole = || self.as_i128();
        Some(match to {
            ValueType::Uint8 => Self::Uint8(whole()?.try_into().ok()?),
            ValueType::Uint16 => Self::Uint16(whole()?.try_into().ok()?),
            ValueType::Uint32 => Self::Uint32(whole()?.try_into().ok()?),
            ValueType::Uint64 => Self::Uint64(whole()?.try_into().ok()?),
            ValueType::Int8 => Self::Int8(whole()?.try_into().ok()?),
            ValueType::Int16 => Self::Int16(whole()?.try_into().ok()?),
            ValueType::Int32 => Self::Int32(whole()?.try_into().ok()?),
            ValueType::Int64 => Self::Int64(whole()?.try_into().ok()?),
            ValueType::Float32 => Self::Float32(self.as_f64()? as f32),
            ValueType::Float64 => Self::Float64(self.as_f64()?),
            _ => return None,
        })
    }
}

impl Event {
    /// The event as EdgeX v4 has it: values are text, floats in exponential form.
    pub fn to_edgex_json(&self) -> Json {
        let reading = |reading: &Reading| {
            let mut json = json!({
                "origin": reading.origin,
                "deviceName": self.device,
                "resourceName": reading.resource,
                "profileName": self.profile,
                "valueType": reading.value.value_type(),
            });
            match &reading.value {
                Value::Binary(binary) => {
                    json["mediaType"] = json!(binary.media_type);
                    json["binaryValue"] = json!(base64(&binary.data));
                }
                Value::Object(_) | Value::Objects(_) => {
                    json["objectValue"] = reading.value.to_json();
                }
                Value::Null(_) => json["value"] = Json::Null,
                value => json["value"] = json!(edgex_text(value)),
            }
            if !reading.units.is_empty() {
                json["units"] = json!(reading.units);
            }
            with_tags(json, &reading.tags)
        };
        let json = json!({
            "apiVersion": "v3",
            "id": self.id,
            "deviceName": self.device,
            "profileName": self.profile,
            "sourceName": self.source,
            "origin": self.origin,
            "readings": self.readings.iter().map(reading).collect::<Vec<_>>(),
        });
        with_tags(json, &self.tags)
    }

    /// One flat object: `device`, `origin` (nanoseconds since 1970), and a member for each
    /// resource.
    pub fn to_flat_json(&self) -> Json {
        let mut object = Map::new();
        object.insert("device".to_owned(), json!(self.device));
        object.insert("origin".to_owned(), json!(self.origin));
        for reading in &self.readings {
            object.insert(reading.resource.clone(), reading.value.to_json());
        }
        Json::Object(object)
    }
}

fn with_tags(mut json: Json, tags: &[(String, String)]) -> Json {
    if !tags.is_empty() {
        json["tags"] = tags
            .iter()
            .map(|(name, text)| (name.clone(), json!(text)))
            .collect();
    }
    json
}

/// An `f32` with its own shortest digits: 21.1, not 21.100000381469727.
fn float32(value: f32) -> Json {
    value
        .to_string()
        .parse()
        .map_or_else(|_| json!(value.to_string()), float64)
}

fn float64(value: f64) -> Json {
    if value.is_finite() {
        json!(value)
    } else {
        json!(value.to_string())
    }
}

/// How EdgeX writes a value into a reading.
fn edgex_text(value: &Value) -> String {
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    match value {
        Value::Float32(value) => exponential(*value),
        Value::Float64(value) => exponential(*value),
        Value::Float32s(values) => list(values.iter().copied().map(exponential).collect()),
        Value::Float64s(values) => list(values.iter().copied().map(exponential).collect()),
        Value::Texts(texts) => list(texts.clone()),
        value => match value.to_json() {
            Json::Array(items) => list(items.iter().map(Json::to_string).collect()),
            Json::String(text) => text,
            json => json.to_string(),
        },
    }
}

/// `2.15e+01`: at least two digits in the exponent, with a sign.
fn exponential(value: impl std::fmt::LowerExp) -> String {
    let text = format!("{value:e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text.replace("inf", "+Inf").replace("-+", "-");
    };
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

/// RFC 4648, with padding.
fn base64(data: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let bits = chunk
            .iter()
            .enumerate()
            .fold(0, |all, (n, byte)| all | u32::from(*byte) << (16 - 8 * n));
        for n in 0..4 {
            let digit = (bits >> (18 - 6 * n)) as usize & 0x3f;
            text.push(if n <= chunk.len() {
                char::from(ALPHABET[digit])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Binary;

    #[test]
    fn values_fit_into_other_types_only_without_loss() {
        assert_eq!(
            Value::Int16(-10).convert(ValueType::Float32),
            Some(Value::Float32(-10.0))
        );
        assert_eq!(
            Value::Float64(5.0).convert(ValueType::Uint8),
            Some(Value::Uint8(5))
        );
        assert_eq!(Value::Float64(5.5).convert(ValueType::Uint8), None);
        assert_eq!(Value::Int16(-1).convert(ValueType::Uint16), None);
        assert_eq!(Value::Text("5".into()).convert(ValueType::Uint8), None);
        assert_eq!(
            Value::Boolean(true).convert(ValueType::Bool),
            Some(Value::Boolean(true))
        );
    }

    #[test]
    fn texts_are_as_edgex_writes_them() {
        for (value, expected) in [
            (Value::Float32(21.5), "2.15e+01"),
            (Value::Float64(-0.00125), "-1.25e-03"),
            (Value::Float64(0.0), "0e+00"),
            (Value::Float64(1e100), "1e+100"),
            (Value::Float32(f32::INFINITY), "+Inf"),
            (Value::Float32(f32::NEG_INFINITY), "-Inf"),
            (Value::Float32(f32::NAN), "NaN"),
            (Value::Boolean(true), "true"),
            (Value::Int64(i64::MIN), "-9223372036854775808"),
            (Value::Uint8s(vec![1, 2]), "[1, 2]"),
            (Value::Texts(vec!["a".into(), "b".into()]), "[a, b]"),
            (Value::Text("x".into()), "x"),
        ] {
            assert_eq!(edgex_text(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn base64_is_padded() {
        for (data, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(data.as_bytes()), text);
        }
    }

    #[test]
    fn an_event_is_written_for_edgex_and_flat() {
        let reading = |resource: &str, value| Reading {
            resource: resource.into(),
            value,
            origin: 5,
            units: if resource == "T" {
                "°C".into()
            } else {
                String::new()
            },
            tags: vec![],
        };
        let binary = Binary {
            data: vec![255],
            media_type: "image/jpeg".into(),
        };
        let event = Event {
            id: "i".into(),
            device: "d".into(),
            profile: "p".into(),
            source: "s".into(),
            origin: 4,
            readings: vec![
                reading("T", Value::Float32(21.1)),
                reading("O", Value::Object(r#"{"a":1}"#.into())),
                reading("B", Value::Binary(binary)),
                reading("N", Value::Null("Int8".into())),
            ],
            tags: vec![("site".into(), "north".into())],
        };
        let json = event.to_edgex_json();
        assert_eq!(json["readings"][0]["value"], "2.11e+01");
        assert_eq!(json["readings"][0]["units"], "°C");
        assert_eq!(json["readings"][1]["objectValue"], json!({ "a": 1 }));
        assert_eq!(json["readings"][2]["binaryValue"], "/w==");
        assert_eq!(json["readings"][3]["valueType"], "Int8");
        assert_eq!(json["tags"], json!({ "site": "north" }));
        assert_eq!(json["sourceName"], "s");
        let flat = event.to_flat_json();
        assert_eq!(
            (&flat["device"], &flat["T"], &flat["N"]),
            (&json!("d"), &json!(21.1), &Json::Null)
        );
    }

    #[test]
    fn json_becomes_the_type_that_is_wanted_or_an_error() {
        for (json, name, value) in [
            (json!(21.5), "Float32", Value::Float32(21.5)),
            (json!("7"), "Uint8", Value::Uint8(7)),
            (json!(u64::MAX), "Uint64", Value::Uint64(u64::MAX)),
            (json!("true"), "Bool", Value::Boolean(true)),
            (json!(5), "String", Value::Text("5".into())),
            (json!([1, "2"]), "Int16Array", Value::Int16s(vec![1, 2])),
            (
                json!(["a", 1]),
                "StringArray",
                Value::Texts(vec!["a".into(), "1".into()]),
            ),
            (
                json!({"a": 1}),
                "Object",
                Value::Object(r#"{"a":1}"#.into()),
            ),
            (json!(null), "Int8", Value::Null("Int8".into())),
        ] {
            let value_type = ValueType::parse(name).unwrap();
            assert_eq!(Value::from_json(&json, value_type), Ok(value));
        }
        for (json, name) in [
            (json!(256), "Uint8"),
            (json!(-1), "Uint16"),
            (json!(1.5), "Int32"),
            (json!("x"), "Float64"),
            (json!([1, [2]]), "Int8Array"),
            (json!([1]), "ObjectArray"),
            (json!([]), "Object"),
            (json!("x".repeat(1000)), "Binary"),
        ] {
            let value_type = ValueType::parse(name).unwrap();
            let error = Value::from_json(&json, value_type).unwrap_err();
            assert!(error.ends_with(name) && error.len() < 200, "{error}");
        }
    }
}
