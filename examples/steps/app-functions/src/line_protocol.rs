//! InfluxDB's line protocol, a line for each item.
//!
//! EdgeX makes lines of its metrics only; those are taken as JSON. An event, too, becomes a line: its
//! profile is the measurement, `device` and `source` are tags beside its own, and each reading is a field.
//! Bytes and nulls, NaN and infinities have no form there and are left out.

use eyot_sdk::{
    Item, Payload, PipelineError,
    lines::{Line, quoted},
};
use serde_json::Value as Json;

use crate::{Function, parameters::Parameters, rejected};

struct Lines(Vec<(String, String)>);

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    Ok(Box::new(Lines(parameters.tags("Tags")?)))
}

impl Function for Lines {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let (mut line, destination, device) = match item {
            Item::Event(event) => (Line::from(&event), String::new(), event.device),
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
            data: line.to_string().into_bytes(),
            device,
        })))
    }
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
