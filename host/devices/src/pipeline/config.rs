//! What a Pipeline's spec asks for, checked and compiled. Pure.

use std::{collections::BTreeSet, sync::Arc};

use eyot_api::{PipelineSpec, Source, Stage};
use eyot_runtime::{guest::Grants, reading::Event};
use regex::{Regex, RegexBuilder};

/// Memory of one compiled pattern at most.
const PATTERN: usize = 256 * 1024;
/// Components in one pipeline at most.
const STAGES: usize = 32;
/// The host's own broker.
pub(crate) const LOCAL_BROKER: &str = "mqtt://local";

/// Which events a pipeline takes.
#[derive(Debug)]
pub(super) struct Selector {
    services: Patterns,
    devices: Patterns,
    profiles: Patterns,
    sources: Patterns,
    resources: Patterns,
}

#[derive(Debug)]
struct Patterns(Vec<Pattern>);

#[derive(Debug)]
enum Pattern {
    Name(String),
    Regex(Regex),
}

impl Selector {
    pub(super) fn new(source: &Source) -> Result<Self, String> {
        Ok(Self {
            services: Patterns::new("services", &source.services)?,
            devices: Patterns::new("devices", &source.devices)?,
            profiles: Patterns::new("profiles", &source.profiles)?,
            sources: Patterns::new("sources", &source.sources)?,
            resources: Patterns::new("resources", &source.resources)?,
        })
    }

    /// The event as the pipeline is to see it, if at all.
    pub(super) fn select(&self, event: &Arc<Event>) -> Option<Arc<Event>> {
        let taken = self.services.matches(&event.service)
            && self.devices.matches(&event.device)
            && self.profiles.matches(&event.profile)
            && self.sources.matches(&event.source);
        if !taken {
            return None;
        }
        let wanted = |reading: &&_| self.resources.matches(resource(reading));
        let count = event.readings.iter().filter(wanted).count();
        if count == event.readings.len() {
            return Some(event.clone());
        }
        if count == 0 {
            return None;
        }
        let readings = event.readings.iter().filter(wanted).cloned().collect();
        Some(Arc::new(Event {
            readings,
            ..Event::clone(event)
        }))
    }
}

fn resource(reading: &eyot_runtime::reading::Reading) -> &str {
    &reading.resource
}

impl Patterns {
    fn new(field: &str, patterns: &[String]) -> Result<Self, String> {
        let compile = |(index, pattern): (usize, &String)| {
            let plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
            if pattern.chars().all(plain) {
                return Ok(Pattern::Name(pattern.clone()));
            }
            RegexBuilder::new(&format!("^(?:{pattern})$"))
                .size_limit(PATTERN)
                .build()
                .map(Pattern::Regex)
                .map_err(|error| format!("spec.source.{field}[{index}]: {error}"))
        };
        patterns
            .iter()
            .enumerate()
            .map(compile)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn matches(&self, name: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|pattern| match pattern {
                Pattern::Name(wanted) => wanted == name,
                Pattern::Regex(regex) => regex.is_match(name),
            })
    }
}

/// Check what a schema cannot.
pub(super) fn check(spec: &PipelineSpec) -> Result<Selector, String> {
    if spec.exporters.is_empty() {
        return Err("spec.exporters: at least one is needed".to_owned());
    }
    if spec.steps.len() + spec.exporters.len() > STAGES {
        return Err(format!("spec: at most {STAGES} steps and exporters"));
    }
    let mut names = BTreeSet::new();
    for (list, stages) in [("steps", &spec.steps), ("exporters", &spec.exporters)] {
        for (index, stage) in stages.iter().enumerate() {
            if stage.name.is_empty() {
                return Err(format!("spec.{list}[{index}].name: must not be empty"));
            }
            if stage.image.is_empty() {
                return Err(format!("spec.{list}[{index}].image: must not be empty"));
            }
            if !names.insert(&stage.name) {
                return Err(format!(
                    "spec.{list}[{index}].name: {} is there twice",
                    stage.name
                ));
            }
        }
    }
    Selector::new(&spec.source)
}

pub(super) fn settings(stage: &Stage) -> Vec<(String, String)> {
    stage
        .config
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What an exporter may reach: the broker that its own configuration names, else the host's.
pub(super) fn grants(stage: &Stage) -> Grants {
    let broker = stage
        .config
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("broker"));
    let broker = broker.map_or(LOCAL_BROKER, |(_, value)| value.as_str());
    Grants {
        mqtt: vec![broker.to_owned()],
        ..Grants::default()
    }
}

#[cfg(test)]
mod tests {
    use eyot_runtime::reading::{Reading, Value};

    use super::*;

    fn event(device: &str, resources: &[&str]) -> Arc<Event> {
        let reading = |name: &&str| Reading {
            resource: (*name).into(),
            value: Value::Bool(true),
            origin: 1,
            units: String::new(),
            tags: vec![],
        };
        Arc::new(Event {
            id: "id".into(),
            service: "modbus".into(),
            device: device.into(),
            profile: "press".into(),
            source: "All".into(),
            origin: 1,
            readings: resources.iter().map(reading).collect(),
            tags: vec![],
        })
    }

    fn selector(json: serde_json::Value) -> Result<Selector, String> {
        Selector::new(&serde_json::from_value(json).unwrap_or_default())
    }

    #[test]
    fn names_and_patterns_match_whole_names() -> Result<(), String> {
        let selector = selector(serde_json::json!({"devices": ["press-[0-9]+", "kiln"]}))?;
        assert!(selector.select(&event("press-12", &["T"])).is_some());
        assert!(selector.select(&event("kiln", &["T"])).is_some());
        assert!(selector.select(&event("kiln-2", &["T"])).is_none());
        assert!(selector.select(&event("my-press-12", &["T"])).is_none());
        Ok(())
    }

    #[test]
    fn readings_of_other_resources_are_taken_out() -> Result<(), String> {
        let selector = selector(serde_json::json!({"resources": ["Temp.*"]}))?;
        let whole = event("d", &["TempA"]);
        assert!(
            selector
                .select(&whole)
                .is_some_and(|selected| Arc::ptr_eq(&selected, &whole))
        );
        let some = selector.select(&event("d", &["TempA", "Mode", "TempB"]));
        let names: Vec<_> = some
            .iter()
            .flat_map(|e| &e.readings)
            .map(|r| r.resource.as_str())
            .collect();
        assert_eq!(names, ["TempA", "TempB"]);
        assert!(selector.select(&event("d", &["Mode"])).is_none());
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let check = |json: serde_json::Value, said: &str| {
            let spec: PipelineSpec = serde_json::from_value(json).unwrap_or_default();
            let error = check(&spec).err().unwrap_or_default();
            assert!(error.contains(said), "{error}");
        };
        check(serde_json::json!({}), "spec.exporters: at least one");
        let out = serde_json::json!([{"name": "out", "image": "x"}]);
        check(
            serde_json::json!({"source": {"devices": ["a", "("]}, "exporters": out}),
            "spec.source.devices[1]",
        );
        check(
            serde_json::json!({"steps": [{"name": "out", "image": "y"}], "exporters": out}),
            "spec.exporters[0].name: out is there twice",
        );
    }

    #[test]
    fn an_exporter_reaches_the_broker_that_it_is_configured_with() {
        let mut stage = Stage::default();
        assert_eq!(grants(&stage).mqtt, ["mqtt://local"]);
        stage
            .config
            .insert("broker".into(), "mqtt://10.0.0.1:1883".into());
        assert_eq!(grants(&stage).mqtt, ["mqtt://10.0.0.1:1883"]);
    }
}
