//! `matchConditions`: expressions that narrow down which requests a webhook or a policy is about.

use serde_json::Value;

use crate::{
    cel::{self, Bindings, Budget, Env, Program},
    object::text,
};

/// What all conditions of one webhook or policy may cost together for one request.
const COST: u64 = 2_500_000;

/// The conditions of one webhook or policy.
#[derive(Default)]
pub(super) struct Conditions {
    /// What does not compile was stored by a server that knew other functions.
    list: Vec<(String, Result<Program, String>)>,
    /// What a condition that fails means: an error, or that the request is not meant.
    fail: bool,
}

impl Conditions {
    pub(super) fn parse(list: Option<&Value>, env: &Env, fail: bool) -> Conditions {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        let compiled = list.map(|condition| {
            let expression = text(condition, &["expression"]);
            let program = Program::compile(expression, env)
                .map_err(|error| format!("compilation failed: {error}"));
            (expression.to_owned(), program)
        });
        Conditions {
            list: compiled.collect(),
            fail,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the request is meant; `Err` if that cannot be told and must be an error.
    pub(super) fn hold(&self, bindings: &Bindings<'_>) -> Result<bool, String> {
        let mut budget = Budget::new(COST);
        let mut errors = Vec::new();
        for (expression, program) in &self.list {
            let answer = match program {
                Ok(program) => program
                    .eval(bindings, &mut budget)
                    .map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            match answer {
                Ok(cel::Value::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(why) => errors.push(format!(
                    "expression '{expression}' resulted in error: {why}"
                )),
            }
            if budget.is_exhausted() {
                errors.push(
                    "validation failed due to running out of cost budget, no further validation \
                     rules will be run"
                        .to_owned(),
                );
                break;
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            _ if !self.fail => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}
