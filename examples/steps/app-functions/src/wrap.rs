//! Bytes as the one reading of an event.

use std::time::{SystemTime, UNIX_EPOCH};

use eyot_sdk::{Binary, Event, Item, PipelineError, Reading, Value, ValueType};
use serde_json::Value as Json;

use crate::{
    Function,
    parameters::{Parameters, wrong},
    payload_of, rejected,
};

struct Wrap {
    profile: String,
    device: String,
    resource: String,
    value_type: ValueType,
    media_type: String,
}

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    let [profile, device, resource] = ["ProfileName", "DeviceName", "ResourceName"];
    let name = parameters.required("ValueType")?;
    let Some(value_type) = ValueType::parse(&name) else {
        return Err(wrong("ValueType", &format!("{name:?} is no type of EdgeX")));
    };
    let media_type = parameters.text("MediaType");
    if value_type == ValueType::Binary && media_type.is_none() {
        return Err(wrong("MediaType", "is missing: Binary needs it"));
    }
    let mut named = |name| match parameters.text(name) {
        Some(text) => Ok(text),
        None => Err(wrong(name, "is missing")),
    };
    Ok(Box::new(Wrap {
        profile: named(profile)?,
        device: named(device)?,
        resource: named(resource)?,
        value_type,
        media_type: media_type.unwrap_or_default(),
    }))
}

impl Function for Wrap {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let payload = payload_of(item);
        let value = self.value(payload.data)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let origin = now.map_or(0, |since| since.as_nanos() as u64);
        Ok(Some(Item::Event(Event {
            id: identifier()?,
            device: self.device.clone(),
            profile: self.profile.clone(),
            source: self.resource.clone(),
            origin,
            readings: vec![Reading {
                resource: self.resource.clone(),
                value,
                origin,
                units: String::new(),
                tags: vec![],
            }],
            tags: vec![],
        })))
    }
}

impl Wrap {
    fn value(&self, data: Vec<u8>) -> Result<Value, PipelineError> {
        if self.value_type == ValueType::Binary {
            let media_type = self.media_type.clone();
            return Ok(Value::Binary(Binary { data, media_type }));
        }
        let text = String::from_utf8(data)
            .map_err(|_| rejected(format!("{} must be UTF-8", self.value_type.name())))?;
        if self.value_type == ValueType::String {
            return Ok(Value::Text(text));
        }
        let json: Json = serde_json::from_str(&text).unwrap_or(Json::String(text));
        Value::from_json(&json, self.value_type).map_err(rejected)
    }
}

/// A random UUID (RFC 9562, version 4).
fn identifier() -> Result<String, PipelineError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| PipelineError::Retry(error.to_string()))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    Ok(format!("{a}-{b}-{c}-{d}-{e}"))
}
