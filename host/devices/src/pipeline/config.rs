//! What a Pipeline's spec asks for, checked and compiled. Pure.

use std::{collections::BTreeSet, sync::Arc};

use eyot_api::{PipelineSpec, Queue, Source, Stage, parse_duration};
use eyot_runtime::reading::Event;
use regex::{Regex, RegexBuilder};

use super::{
    lane::{Discard, Limits},
    listener,
    stock::SOURCE,
};
use crate::encode;

/// Memory of one compiled pattern at most.
const PATTERN: usize = 256 * 1024;
/// Components in one pipeline at most.
const STAGES: usize = 32;
/// Bytes that wait in one queue, unless the spec says otherwise.
const BYTES: u64 = 256 << 20;

/// Which events a pipeline takes.
#[derive(Debug, Default)]
pub(super) struct Selector {
    services: Patterns,
    devices: Patterns,
    profiles: Patterns,
    sources: Patterns,
    resources: Patterns,
    topics: Vec<String>,
    /// Nothing of the bus is wanted.
    none: bool,
}

#[derive(Debug, Default)]
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
            topics: topics(&source.topics)?,
            none: has_other_source(source) && !has_lists(source),
        })
    }

    /// The event as the pipeline is to see it, if at all.
    pub(super) fn select(&self, event: &Arc<Event>) -> Option<Arc<Event>> {
        let taken = !self.none
            && self.services.matches(&event.service)
            && self.devices.matches(&event.device)
            && self.profiles.matches(&event.profile)
            && self.sources.matches(&event.source)
            && self.is_on_topic(event);
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

impl Selector {
    fn is_on_topic(&self, event: &Event) -> bool {
        if self.topics.is_empty() {
            return true;
        }
        let topic = encode::topic(event);
        self.topics
            .iter()
            .any(|filter| topic_matches(filter, &topic))
    }
}

fn has_other_source(source: &Source) -> bool {
    source.mqtt.is_some() || source.push
}

fn has_lists(source: &Source) -> bool {
    let Source {
        services,
        devices,
        profiles,
        sources,
        resources,
        topics,
        ..
    } = source;
    let lists = [services, devices, profiles, sources, resources, topics];
    lists.iter().any(|list| !list.is_empty())
}

fn topics(filters: &[String]) -> Result<Vec<String>, String> {
    for (index, filter) in filters.iter().enumerate() {
        if !is_filter(filter) {
            return Err(format!(
                "spec.source.topics[{index}]: {filter:?} is no topic filter: + stands for one level, # \
                 for all further ones at the end"
            ));
        }
    }
    Ok(filters.to_vec())
}

/// Whether MQTT knows such a filter (3.1.1, section 4.7.1).
pub(super) fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    let mut fine = !filter.is_empty() && filter.len() <= usize::from(u16::MAX);
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        fine &= !level.contains(['+', '#', '\0']) || level == "+" || (level == "#" && last);
    }
    fine
}

fn topic_matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
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

/// What a spec asks for, made ready to run.
#[derive(Debug)]
pub(super) struct Plan {
    pub selector: Selector,
    pub trunk: Way,
    pub branches: Vec<Way>,
}

/// Steps, and the exporters behind them.
#[derive(Debug)]
pub(super) struct Way {
    /// Name of the queue before the first step.
    pub queue: String,
    pub limits: Limits,
    pub steps: Vec<Stage>,
    pub exits: Vec<Exit>,
}

/// An exporter with its queue.
#[derive(Debug, Clone)]
pub(super) struct Exit {
    pub stage: Stage,
    pub queue: String,
    pub limits: Limits,
    /// Items a second of those that have waited.
    pub drain: Option<u32>,
}

impl Plan {
    pub(super) fn ways(&self) -> impl Iterator<Item = &Way> {
        std::iter::once(&self.trunk).chain(&self.branches)
    }

    pub(super) fn stages(&self) -> impl Iterator<Item = &Stage> {
        self.ways().flat_map(|way| {
            let exits = way.exits.iter().map(|exit| &exit.stage);
            way.steps.iter().chain(exits)
        })
    }

    /// The queues that there are to be.
    pub(super) fn queues(&self) -> Vec<(String, Limits)> {
        let mut queues = Vec::new();
        for way in self.ways() {
            queues.push((way.queue.clone(), way.limits));
            queues.extend(
                way.exits
                    .iter()
                    .map(|exit| (exit.queue.clone(), exit.limits)),
            );
        }
        queues
    }
}

/// Check what a schema cannot.
pub(super) fn check(spec: &PipelineSpec) -> Result<Plan, String> {
    let branched = spec
        .branches
        .iter()
        .map(|b| b.steps.len() + b.exporters.len());
    let stages = spec.steps.len() + spec.exporters.len() + branched.sum::<usize>();
    if stages > STAGES {
        return Err(format!("spec: at most {STAGES} steps and exporters"));
    }
    if spec.exporters.is_empty() && spec.branches.is_empty() {
        return Err("spec.exporters: at least one is needed, here or in a branch".to_owned());
    }
    let mut names = BTreeSet::new();
    let usual = spec.queue.clone().unwrap_or_default();
    let usual = Queue {
        items: usual.items.or(spec.queue_limit),
        ..usual
    };
    let limits = limits("spec.queue", &usual)?;
    let trunk = Way {
        queue: SOURCE.to_owned(),
        limits,
        steps: checked("spec.steps", &spec.steps, &mut names)?,
        exits: exits("spec.exporters", &spec.exporters, &usual, &mut names)?,
    };
    let mut branches = Vec::with_capacity(spec.branches.len());
    for (index, branch) in spec.branches.iter().enumerate() {
        let field = format!("spec.branches[{index}]");
        if branch.name.is_empty() {
            return Err(format!("{field}.name: must not be empty"));
        }
        let queue = format!("branch/{}", branch.name);
        if branches.iter().any(|other: &Way| other.queue == queue) {
            return Err(format!("{field}.name: {} is there twice", branch.name));
        }
        if branch.exporters.is_empty() {
            return Err(format!("{field}.exporters: at least one is needed"));
        }
        branches.push(Way {
            queue,
            limits,
            steps: checked(&format!("{field}.steps"), &branch.steps, &mut names)?,
            exits: exits(
                &format!("{field}.exporters"),
                &branch.exporters,
                &usual,
                &mut names,
            )?,
        });
    }
    if let Some(mqtt) = &spec.source.mqtt {
        listener::address(&mqtt.broker)?;
        if let Some(wrong) = mqtt.topics.iter().find(|filter| !is_filter(filter)) {
            return Err(format!(
                "spec.source.mqtt.topics: {wrong:?} is no topic filter"
            ));
        }
    }
    Ok(Plan {
        selector: Selector::new(&spec.source)?,
        trunk,
        branches,
    })
}

fn checked(
    field: &str,
    stages: &[Stage],
    names: &mut BTreeSet<String>,
) -> Result<Vec<Stage>, String> {
    for (index, stage) in stages.iter().enumerate() {
        let wrong = |part: &str, why: &str| Err(format!("{field}[{index}].{part}: {why}"));
        if stage.name.is_empty() {
            return wrong("name", "must not be empty");
        }
        if stage.image.is_empty() {
            return wrong("image", "must not be empty");
        }
        for (setting, source) in &stage.config_from {
            let part = format!("configFrom[{setting}]");
            if stage.config.contains_key(setting) {
                return wrong(&part, "config has it, too");
            }
            if source.secret_key_ref.is_some() == source.config_map_key_ref.is_some() {
                return wrong(&part, "one of secretKeyRef and configMapKeyRef is needed");
            }
        }
        if !names.insert(stage.name.clone()) {
            return wrong("name", &format!("{} is there twice", stage.name));
        }
    }
    Ok(stages.to_vec())
}

fn exits(
    field: &str,
    stages: &[Stage],
    usual: &Queue,
    names: &mut BTreeSet<String>,
) -> Result<Vec<Exit>, String> {
    let stages = checked(field, stages, names)?;
    let exit = |(index, stage): (usize, Stage)| {
        let queue = stage.queue.as_ref().unwrap_or(usual);
        Ok(Exit {
            queue: format!("exporter/{}", stage.name),
            limits: limits(&format!("{field}[{index}].queue"), queue)?,
            drain: queue.drain_rate.and_then(|rate| u32::try_from(rate).ok()),
            stage,
        })
    };
    stages.into_iter().enumerate().map(exit).collect()
}

/// Those of a pipeline that says nothing.
pub(super) fn usual_limits() -> Limits {
    Limits {
        items: u64::MAX,
        bytes: BYTES,
        age: None,
        discard: Discard::Oldest,
    }
}

fn limits(field: &str, queue: &Queue) -> Result<Limits, String> {
    let usual = usual_limits();
    let number = |number: Option<i64>, usual: u64| {
        number.map_or(usual, |number| u64::try_from(number).unwrap_or(1).max(1))
    };
    let age = queue.age.as_deref().map(parse_duration).transpose();
    Ok(Limits {
        items: number(queue.items, usual.items),
        bytes: number(queue.bytes, usual.bytes),
        age: age.map_err(|error| format!("{field}.age: {error}"))?,
        discard: match queue.discard.unwrap_or_default() {
            eyot_api::Discard::DropOldest => Discard::Oldest,
            eyot_api::Discard::DropNewest => Discard::Newest,
            eyot_api::Discard::Block => Discard::Nothing,
        },
    })
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
    fn topics_select_and_other_sources_stand_alone() -> Result<(), String> {
        let check = |topic: &str, wanted: bool| {
            let selector = selector(serde_json::json!({ "topics": [topic] }))?;
            let taken = selector.select(&event("kiln", &["T"])).is_some();
            assert_eq!(taken, wanted, "{topic}");
            Ok::<_, String>(())
        };
        check("edgex/events/device/+/press/kiln/All", true)?;
        check("edgex/events/#", true)?;
        check("edgex/events/device/modbus/press/kiln", false)?;
        check("+/+", false)?;
        for wrong in ["", "a/#/b", "a+/b"] {
            let said = selector(serde_json::json!({ "topics": [wrong] }));
            assert!(
                said.is_err_and(|said| said.contains("topics[0]")),
                "{wrong}"
            );
        }
        let pushed = selector(serde_json::json!({ "push": true }))?;
        assert!(pushed.select(&event("kiln", &["T"])).is_none());
        let both = selector(serde_json::json!({ "push": true, "devices": ["kiln"] }))?;
        assert!(both.select(&event("kiln", &["T"])).is_some());
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
        check(
            serde_json::json!({"queue": {"age": "soon"}, "exporters": out}),
            "spec.queue.age",
        );
        check(
            serde_json::json!({"branches": [{"name": "b"}], "exporters": out}),
            "spec.branches[0].exporters",
        );
        let from = serde_json::json!({"password": {}});
        check(
            serde_json::json!({"exporters": [{"name": "o", "image": "x", "configFrom": from}]}),
            "spec.exporters[0].configFrom[password]: one of secretKeyRef",
        );
    }

    #[test]
    fn queues_have_the_limits_of_their_exporter_or_the_pipeline() -> Result<(), String> {
        let spec = serde_json::json!({
            "queue": { "items": 7, "age": "1h", "discard": "Block" },
            "exporters": [
                { "name": "a", "image": "x" },
                { "name": "b", "image": "x", "queue": { "bytes": 5, "drainRate": 100 } },
            ],
            "branches": [{ "name": "c", "exporters": [{ "name": "d", "image": "x" }] }],
        });
        let plan = check(&serde_json::from_value(spec).unwrap_or_default())?;
        let queues = plan.queues();
        let names: Vec<_> = queues.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "source",
                "exporter/a",
                "exporter/b",
                "branch/c",
                "exporter/d"
            ]
        );
        let all = [0, 1, 3, 4].map(|n| queues[n].1);
        assert!(all.iter().all(|limits| *limits == all[0]));
        assert_eq!((all[0].items, all[0].discard), (7, Discard::Nothing));
        assert_eq!((queues[2].1.bytes, queues[2].1.items), (5, u64::MAX));
        assert_eq!(plan.trunk.exits[1].drain, Some(100));
        Ok(())
    }
}
