//! Turns events into JSON payloads.
//!
//! | setting | |
//! |---|---|
//! | `format` | `edgex` (the default): the event as EdgeX v4 has it; `flat`: one object with the device's name, the time and a member for each resource |
//! | `destination` | where the payload belongs, in the words of the exporter; `{device}`, `{profile}` and `{source}` stand for the event's |
//!
//! Payloads pass as they are.

use eyot_sdk::{Event, Item, Payload, PipelineError, Step};
use serde::Deserialize;

pub struct Json {
    config: Config,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Config {
    format: Format,
    destination: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Edgex,
    Flat,
}

impl Step for Json {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, PipelineError> {
        Ok(Self { config })
    }

    fn process(&mut self, batch: Vec<Item>) -> Result<Vec<Item>, PipelineError> {
        let convert = |item| match item {
            Item::Event(event) => Item::Payload(self.payload(&event)),
            payload => payload,
        };
        Ok(batch.into_iter().map(convert).collect())
    }
}

impl Json {
    fn payload(&self, event: &Event) -> Payload {
        let json = match self.config.format {
            Format::Edgex => event.to_edgex_json(),
            Format::Flat => event.to_flat_json(),
        };
        let destination = self.config.destination.replace("{device}", &event.device);
        let destination = destination.replace("{profile}", &event.profile);
        Payload {
            media_type: "application/json".to_owned(),
            destination: destination.replace("{source}", &event.source),
            data: json.to_string().into_bytes(),
            device: event.device.clone(),
        }
    }
}

eyot_sdk::export_step!(Json);

#[cfg(test)]
mod tests {
    use eyot_sdk::{Reading, Value};

    use super::*;

    #[test]
    fn an_event_becomes_json_for_its_destination() {
        let reading = Reading {
            resource: "Temperature".into(),
            value: Value::Int16(215),
            origin: 7,
            units: String::new(),
            tags: vec![],
        };
        let event = Event {
            id: "1".into(),
            device: "d".into(),
            profile: "p".into(),
            source: "s".into(),
            origin: 7,
            readings: vec![reading],
            tags: vec![],
        };
        let config = Config {
            format: Format::Flat,
            destination: "x/{device}/{source}".into(),
        };
        let items = Json { config }.process(vec![Item::Event(event)]).unwrap();
        let [Item::Payload(payload)] = &items[..] else {
            panic!("{items:?}")
        };
        assert_eq!(
            (payload.destination.as_str(), payload.device.as_str()),
            ("x/d/s", "d")
        );
        let text = String::from_utf8(payload.data.clone()).unwrap();
        assert!(text.contains(r#""Temperature":215"#), "{text}");
    }
}
