//! InfluxDB's line protocol, a line for each item.
//!
//! EdgeX makes lines of its metrics only; those are taken as JSON. An event, too, becomes a line: its
//! profile is the measurement, `device` and `source` are tags beside its own, and each reading is a field.
//! Bytes and nulls, NaN and infinities have no form there and are left out.

use eyot_sdk::{Event, Item, Payload, PipelineError, Value};
use serde_json::Value as Json;

use crate::{Function, parameters::Parameters, rejected};

struct Lines(Vec<(String, String)>);

/// The parts of a line.
struct Line {
    measurement: String,
    tags: Vec<(String, String)>,
    fields: Vec<(String, String)>,
    /// Nanoseconds since 1970.
    time: u64,
}

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    Ok(Box::new(Lines(parameters.tags("Tags")?)))
}

impl Function for Lines {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let (mut line, destination, device) = match item {
            Item::Event(event) => (of_event(&event), String::new(), event.device),
            Item::Payload(payload) => {
                let line = of_metric(&payload.data).ok_or_else(|| {
                    rejected("lines are made of events and of metrics in EdgeX's JSON")
                })?;
                (line, payload.destination, payload.device)
            }
        };
        line.tags.extend(self.0.iter().cloned());
        if line.fields.is_empty() {
            return Ok(None);
        }
        Ok(Some(Item::Payload(Payload {
            media_type: "text/plain".to_owned(),
            destination,
            data: line.text().into_bytes(),
            device,
        })))
    }
}

fn of_event(event: &Event) -> Line {
    let named = [("device", &event.device), ("source", &event.source)];
    let named = named.map(|(name, value)| (name.to_owned(), value.clone()));
    let tags = named.into_iter().chain(event.tags.iter().cloned());
    let field = |reading: &eyot_sdk::Reading| {
        let value = field_value(&reading.value)?;
        Some((reading.resource.clone(), value))
    };
    Line {
        measurement: event.profile.clone(),
        tags: tags.collect(),
        fields: event.readings.iter().filter_map(field).collect(),
        time: event.origin,
    }
}

fn field_value(value: &Value) -> Option<String> {
    Some(match value {
        Value::Boolean(value) => value.to_string(),
        Value::Uint8(_) | Value::Uint16(_) | Value::Uint32(_) | Value::Uint64(_) => {
            format!("{}u", value.as_i128()?)
        }
        Value::Int8(_) | Value::Int16(_) | Value::Int32(_) | Value::Int64(_) => {
            format!("{}i", value.as_i128()?)
        }
        Value::Float32(value) => value.is_finite().then(|| value.to_string())?,
        Value::Float64(value) => value.is_finite().then(|| value.to_string())?,
        Value::Binary(_) | Value::Null(_) => return None,
        other => quoted(&other.to_text()),
    })
}

/// EdgeX's metric: a name, fields, tags and a time.
fn of_metric(data: &[u8]) -> Option<Line> {
    let json: Json = serde_json::from_slice(data).ok()?;
    let text = |json: &Json, name: &str| json[name].as_str().map(str::to_owned);
    let field = |field: &Json| {
        let value = match &field["value"] {
            Json::String(text) => quoted(text),
            Json::Bool(value) => value.to_string(),
            Json::Number(number) if number.is_f64() => number.to_string(),
            Json::Number(number) => format!("{number}i"),
            _ => return None,
        };
        Some((text(field, "name")?, value))
    };
    let tag = |tag: &Json| Some((text(tag, "name")?, text(tag, "value")?));
    let tags = json["tags"].as_array().map_or(&[][..], Vec::as_slice);
    Some(Line {
        measurement: text(&json, "name")?,
        tags: tags.iter().filter_map(tag).collect(),
        fields: json["fields"]
            .as_array()?
            .iter()
            .filter_map(field)
            .collect(),
        time: json["timestamp"].as_u64()?,
    })
}

impl Line {
    fn text(&self) -> String {
        let mut text = escaped(&self.measurement, &[',', ' ']);
        const KEY: &[char] = &[',', ' ', '='];
        // A tag without a value is no tag.
        for (name, value) in self.tags.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!(",{}={}", escaped(name, KEY), escaped(value, KEY)));
        }
        let fields = self.fields.iter();
        let fields: Vec<String> = fields
            .map(|(name, value)| format!("{}={value}", escaped(name, KEY)))
            .collect();
        format!("{text} {} {}\n", fields.join(","), self.time)
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text, &['"', '\\']))
}

/// With a backslash before each of these. A line break would end the line, so it becomes a space.
fn escaped(text: &str, special: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => {
                if special.contains(&' ') {
                    out.push('\\');
                }
                out.push(' ');
            }
            c => {
                if special.contains(&c) {
                    out.push('\\');
                }
                out.push(c);
            }
        }
    }
    out
}
