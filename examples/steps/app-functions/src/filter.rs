//! The four filters. As in EdgeX a name matches if a regular expression matches any part of it, and no
//! expressions at all let everything through.

use eyot_sdk::{Event, Item, PipelineError};
use regex_lite::Regex;

use crate::{
    Function,
    parameters::{Parameters, wrong},
    rejected,
};

/// Which name of an event is looked at.
type Name = fn(&Event) -> &str;

struct Names {
    patterns: Vec<Regex>,
    out: bool,
}

struct Events {
    names: Names,
    name: Name,
}

struct Readings(Names);

pub fn by_profile(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    events(parameters, "ProfileNames", |event| &event.profile)
}

pub fn by_device(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    events(parameters, "DeviceNames", |event| &event.device)
}

pub fn by_source(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    events(parameters, "SourceNames", |event| &event.source)
}

pub fn by_resource(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    Ok(Box::new(Readings(names(parameters, "ResourceNames")?)))
}

fn events(
    parameters: &mut Parameters,
    setting: &str,
    name: Name,
) -> Result<Box<dyn Function>, PipelineError> {
    let names = names(parameters, setting)?;
    Ok(Box::new(Events { names, name }))
}

fn names(parameters: &mut Parameters, setting: &str) -> Result<Names, PipelineError> {
    let compile = |pattern: String| {
        Regex::new(&pattern).map_err(|error| {
            wrong(
                setting,
                &format!("{pattern:?} is no regular expression: {error}"),
            )
        })
    };
    let patterns = parameters.list(setting)?.into_iter().map(compile);
    Ok(Names {
        patterns: patterns.collect::<Result<_, _>>()?,
        out: parameters.flag("FilterOut")?,
    })
}

impl Names {
    fn passes(&self, name: &str) -> bool {
        let any = self.patterns.iter().any(|pattern| pattern.is_match(name));
        self.patterns.is_empty() || any != self.out
    }
}

impl Function for Events {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let event = event(item)?;
        let passes = self.names.passes((self.name)(&event));
        Ok(passes.then_some(Item::Event(event)))
    }
}

impl Function for Readings {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let mut event = event(item)?;
        event
            .readings
            .retain(|reading| self.0.passes(&reading.resource));
        Ok((!event.readings.is_empty()).then_some(Item::Event(event)))
    }
}

/// What only events can be asked for.
pub fn event(item: Item) -> Result<Event, PipelineError> {
    match item {
        Item::Event(event) => Ok(event),
        Item::Payload(payload) => Err(rejected(format!(
            "this function takes events, not bytes ({}): put it before the step that made them",
            payload.media_type
        ))),
    }
}
