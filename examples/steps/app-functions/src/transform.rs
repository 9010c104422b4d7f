//! Events as JSON or XML.
//!
//! The XML is what Go's encoder makes of EdgeX's event: an element for each field under the field's Go
//! name, in its order. Where Go's encoder fails or writes what is no XML, this differs: objects are
//! their JSON, and bytes are base64.

use eyot_sdk::{Event, Item, Payload, PipelineError};
use serde_json::{Map, Value as Json};

use crate::{Function, filter::event, parameters::Parameters};

#[derive(Clone, Copy)]
enum Transform {
    Json,
    Xml,
}

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    let known = [("json", Transform::Json), ("xml", Transform::Xml)];
    Ok(Box::new(parameters.choice("Type", &known)?))
}

impl Function for Transform {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let event = event(item)?;
        let (media_type, text) = match self {
            Self::Json => ("application/json", event.to_edgex_json().to_string()),
            Self::Xml => ("application/xml", xml(&event)),
        };
        Ok(Some(Item::Payload(Payload {
            media_type: media_type.to_owned(),
            destination: String::new(),
            data: text.into_bytes(),
            device: event.device,
        })))
    }
}

const EVENT: [(&str, &str); 6] = [
    ("ApiVersion", "apiVersion"),
    ("Id", "id"),
    ("DeviceName", "deviceName"),
    ("ProfileName", "profileName"),
    ("SourceName", "sourceName"),
    ("Origin", "origin"),
];
const READING: [(&str, &str); 7] = [
    ("Id", "id"),
    ("Origin", "origin"),
    ("DeviceName", "deviceName"),
    ("ResourceName", "resourceName"),
    ("ProfileName", "profileName"),
    ("ValueType", "valueType"),
    ("Units", "units"),
];

/// An event in XML.
fn xml(event: &Event) -> String {
    let json = event.to_edgex_json();
    let mut out = String::from("<Event>");
    let Some(fields) = json.as_object() else {
        return out;
    };
    for (element, field) in EVENT {
        write(&mut out, element, fields.get(field));
    }
    let readings = fields.get("readings").and_then(Json::as_array);
    for reading in readings.into_iter().flatten().filter_map(Json::as_object) {
        out.push_str("<Readings>");
        for (element, field) in READING {
            write(&mut out, element, reading.get(field));
        }
        tags(&mut out, reading);
        for (element, field) in [("BinaryValue", "binaryValue"), ("MediaType", "mediaType")] {
            write(&mut out, element, reading.get(field));
        }
        write(&mut out, "Value", reading.get("value"));
        if let Some(object) = reading.get("objectValue") {
            write(&mut out, "ObjectValue", Some(object));
        }
        out.push_str("</Readings>");
    }
    tags(&mut out, fields);
    out.push_str("</Event>");
    out
}

fn tags(out: &mut String, fields: &Map<String, Json>) {
    let Some(tags) = fields.get("tags").and_then(Json::as_object) else {
        return;
    };
    out.push_str("<Tags>");
    for (name, value) in tags {
        write(out, &element(name), Some(value));
    }
    out.push_str("</Tags>");
}

/// A tag's name as the name of an element: what may not stand there becomes `_`.
fn element(name: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    match name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        true => name,
        false => format!("_{name}"),
    }
}

fn write(out: &mut String, element: &str, value: Option<&Json>) {
    let text = match value {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    out.push_str(&format!("<{element}>"));
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\t' => out.push_str("&#x9;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            // XML 1.0 has no other control characters.
            c if c.is_control() && c < ' ' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out.push_str(&format!("</{element}>"));
}
