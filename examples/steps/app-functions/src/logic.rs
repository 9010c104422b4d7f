//! Lets through what a rule of JSONLogic (<https://jsonlogic.com>) says `true` of.

use datalogic_rs::{Engine, Logic};
use eyot_sdk::{Item, PipelineError};
use serde_json::Value as Json;

use crate::{
    Function,
    parameters::{Parameters, wrong},
    rejected,
};

struct Rule {
    engine: Engine,
    rule: Logic,
}

pub fn make(parameters: &mut Parameters) -> Result<Box<dyn Function>, PipelineError> {
    let text = parameters.required("Rule")?;
    let engine = Engine::new();
    let rule = engine
        .compile(text.as_str())
        .map_err(|error| wrong("Rule", &format!("is no rule of JSONLogic: {error}")))?;
    Ok(Box::new(Rule { engine, rule }))
}

impl Function for Rule {
    fn apply(&mut self, item: Item) -> Result<Option<Item>, PipelineError> {
        let json: Json = match &item {
            Item::Event(event) => event.to_edgex_json(),
            Item::Payload(payload) => serde_json::from_slice(&payload.data)
                .map_err(|error| rejected(format!("rules need JSON: {error}")))?,
        };
        let said = self.engine.session().eval_into(&self.rule, &json);
        let said: Json = said.map_err(|error| rejected(format!("the rule fails: {error}")))?;
        match said {
            Json::Bool(passes) => Ok(passes.then_some(item)),
            other => {
                let message = format!("the rule says {other}, not true or false");
                Err(rejected(message))
            }
        }
    }
}
