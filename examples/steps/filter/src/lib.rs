//! Lets through the readings that somebody wants; an event without any left is dropped.
//!
//! | setting | lets through |
//! |---|---|
//! | `devices`, `resources` | names, separated by commas |
//! | `devicePattern`, `resourcePattern` | names that the regular expression matches as a whole |
//! | `minimum`, `maximum` | numbers within these bounds; what is no number is let through |
//! | `invert` | with `true`, what the names and patterns do not match |
//!
//! Each setting is optional. Payloads pass as they are.

use eyot_sdk::{Event, Item, PipelineError, Reading, Step};
use regex_lite::Regex;
use serde::Deserialize;

pub struct Filter {
    config: Config,
    device_pattern: Option<Regex>,
    resource_pattern: Option<Regex>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    devices: Vec<String>,
    resources: Vec<String>,
    device_pattern: Option<String>,
    resource_pattern: Option<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    invert: bool,
}

impl Step for Filter {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, PipelineError> {
        if let (Some(minimum), Some(maximum)) = (config.minimum, config.maximum)
            && minimum > maximum
        {
            let message =
                format!("setting \"minimum\" ({minimum}) is above \"maximum\" ({maximum})");
            return Err(PipelineError::Config(message));
        }
        Ok(Self {
            device_pattern: compile("devicePattern", config.device_pattern.as_deref())?,
            resource_pattern: compile("resourcePattern", config.resource_pattern.as_deref())?,
            config,
        })
    }

    fn process(&mut self, batch: Vec<Item>) -> Result<Vec<Item>, PipelineError> {
        let passes = |item| match item {
            Item::Event(event) => self.event(event).map(Item::Event),
            payload => Some(payload),
        };
        Ok(batch.into_iter().filter_map(passes).collect())
    }
}

impl Filter {
    fn event(&self, mut event: Event) -> Option<Event> {
        let device = names(
            &self.config.devices,
            self.device_pattern.as_ref(),
            &event.device,
        );
        event.readings.retain(|reading| self.wants(device, reading));
        (!event.readings.is_empty()).then_some(event)
    }

    fn wants(&self, device: bool, reading: &Reading) -> bool {
        let resources = &self.config.resources;
        let resource = names(resources, self.resource_pattern.as_ref(), &reading.resource);
        let number = reading.value.as_f64();
        let outside = number.is_some_and(|number| {
            self.config.minimum.is_some_and(|minimum| number < minimum)
                || self.config.maximum.is_some_and(|maximum| number > maximum)
        });
        (device && resource) != self.config.invert && !outside
    }
}

fn names(list: &[String], pattern: Option<&Regex>, name: &str) -> bool {
    (list.is_empty() || list.iter().any(|entry| entry == name))
        && pattern.is_none_or(|pattern| pattern.is_match(name))
}

fn compile(setting: &str, pattern: Option<&str>) -> Result<Option<Regex>, PipelineError> {
    let compile = |pattern| Regex::new(&format!("^(?:{pattern})$"));
    pattern.map(compile).transpose().map_err(|error| {
        PipelineError::Config(format!(
            "setting {setting:?} is no regular expression: {error}"
        ))
    })
}

eyot_sdk::export_step!(Filter);

#[cfg(test)]
mod tests {
    use eyot_sdk::{Value, from_settings};

    use super::*;

    fn event(device: &str, readings: &[(&str, f64)]) -> Item {
        let reading = |(resource, value): &(&str, f64)| Reading {
            resource: (*resource).to_owned(),
            value: Value::Float64(*value),
            origin: 1,
            units: String::new(),
            tags: vec![],
        };
        Item::Event(Event {
            id: "1".into(),
            device: device.into(),
            profile: "p".into(),
            source: "s".into(),
            origin: 1,
            readings: readings.iter().map(reading).collect(),
            tags: vec![],
        })
    }

    fn configure(settings: &[(&str, &str)]) -> Result<Filter, PipelineError> {
        let settings: Vec<_> = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Filter::configure(from_settings(&settings)?)
    }

    /// What passes of `a` with x=1 and y=2 and `b` with x=3, as `device.resource`.
    #[track_caller]
    fn check(settings: &[(&str, &str)], expected: &[&str]) {
        let mut filter = configure(settings).unwrap_or_else(|error| panic!("{error:?}"));
        let batch = vec![
            event("a", &[("x", 1.0), ("y", 2.0)]),
            event("b", &[("x", 3.0)]),
        ];
        let mut passed = vec![];
        for item in filter.process(batch).unwrap() {
            let Item::Event(event) = item else {
                panic!("{item:?}")
            };
            passed.extend(
                event
                    .readings
                    .iter()
                    .map(|r| format!("{}.{}", event.device, r.resource)),
            );
        }
        assert_eq!(passed, expected, "{settings:?}");
    }

    #[test]
    fn readings_pass_by_name_pattern_and_range() {
        check(&[], &["a.x", "a.y", "b.x"]);
        check(&[("devices", "a, c")], &["a.x", "a.y"]);
        check(&[("resources", "x")], &["a.x", "b.x"]);
        check(&[("devices", "a"), ("resources", "x")], &["a.x"]);
        check(&[("devicePattern", "[bc]")], &["b.x"]);
        check(&[("resourcePattern", "")], &[]);
        check(&[("minimum", "2")], &["a.y", "b.x"]);
        check(&[("minimum", "1.5"), ("maximum", "2.5")], &["a.y"]);
        check(&[("resources", "x"), ("invert", "true")], &["a.y"]);
    }

    #[test]
    fn wrong_settings_are_named() {
        for (settings, word) in [
            (&[("devicePattern", "(")][..], "devicePattern"),
            (&[("minimum", "2"), ("maximum", "1")], "minimum"),
            (&[("minimum", "low")], "minimum"),
            (&[("colour", "red")], "colour"),
        ] {
            let Err(PipelineError::Config(message)) = configure(settings) else {
                panic!("{settings:?}")
            };
            assert!(message.contains(word), "{message}");
        }
    }
}
