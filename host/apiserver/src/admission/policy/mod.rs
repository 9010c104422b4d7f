//! Admission policies: rules about writes that are stored as CEL, and asked without leaving the
//! server.
//!
//! A policy says what is right (or what is to be changed); a binding says where it applies and with
//! which parameters. Both are compiled when they change. What a policy cannot evaluate is refused or
//! let through as its failure policy says.

mod compile;
mod keep;
mod mutating;
mod params;
mod typing;
mod validating;

pub(crate) use self::keep::keep;
pub(super) use self::{
    compile::{MUTATING, Policy, VALIDATING, compile},
    mutating::mutate,
    validating::validate,
};

use serde_json::Value;

use self::compile::Binding;
use super::{Attributes, scene::Scene};
use crate::{
    cel::{self, Bindings, Budget, PER_OBJECT, Program, Variables},
    failure::Failure,
};

const OUT_OF_BUDGET: &str = "validation failed due to running out of cost budget, no further \
                             validation rules will be run";

/// Evaluates the expressions of one policy about one request, with one set of parameters.
struct Evaluation<'a> {
    variables: Variables<'a>,
    base: Bindings<'a>,
    budget: Budget,
}

impl<'a> Evaluation<'a> {
    fn new(
        policy: &'a Policy,
        scene: &'a Scene,
        (object, old): (&'a Value, &'a Value),
        params: &'a Value,
    ) -> Evaluation<'a> {
        let base = scene.bindings(object, old).set("params", cel::free(params));
        let programs = policy
            .variables
            .iter()
            .filter_map(|(name, program)| Some((name.as_str(), program.as_ref().ok()?)));
        Evaluation {
            variables: Variables::new(programs.collect(), base.clone()),
            base,
            budget: Budget::new(PER_OBJECT),
        }
    }

    /// What an expression answers, on its own.
    fn answer(
        &mut self,
        expression: &str,
        program: &Result<Program, String>,
    ) -> Result<cel::Value<'static>, String> {
        let program = program.as_ref().map_err(Clone::clone)?;
        let bindings = self.base.clone().set("variables", self.variables.value());
        let answer = program.eval(&bindings, &mut self.budget);
        if self.budget.is_exhausted() {
            return Err(OUT_OF_BUDGET.to_owned());
        }
        answer.map(cel::Value::into_owned).map_err(|error| {
            format!(
                "expression '{}' resulted in error: {error}",
                expression.trim()
            )
        })
    }
}

/// The refusal by a policy: forbidden, in the policy's own words, with the code of its reason.
fn refusal(
    attributes: &Attributes<'_>,
    object: &Value,
    kind: &str,
    policy: &Policy,
    binding: Option<&Binding>,
    (reason, message): (&str, &str),
) -> Failure {
    let with = match binding {
        Some(binding) => format!(" with binding '{}'", binding.name),
        None => String::new(),
    };
    let message = format!("{kind} '{}'{with} denied request: {message}", policy.name);
    let code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    let cause = serde_json::json!({ "message": message });
    let mut status = attributes
        .forbidden(object, &message)
        .causes(vec![cause])
        .status();
    status["reason"] = reason.into();
    status["code"] = code.into();
    Failure::from_status(&status)
}
