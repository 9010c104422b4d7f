//! Rules of a schema as their author wrote them: they compile, and they cannot cost too much.
//!
//! A cost is estimated for the worst object that the schema lets pass, times how often the rule's
//! value may be there; a rule above the limit is refused, as is a schema whose rules are together.

use serde_json::Value;

use super::{
    list,
    openapi::{Around, shown},
    text,
};
use crate::{
    field_error::FieldError,
    schema::{parse, rules::Rules},
};

/// What one rule may be estimated to cost.
const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may be estimated to cost.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// So many of the most expensive rules are named when all together cost too much.
const NAMED: usize = 4;

/// What the rules so far are estimated to cost.
#[derive(Default)]
pub(super) struct Costs {
    total: u64,
    most: Vec<(String, u64)>,
}

impl Costs {
    fn add(&mut self, path: &str, cost: u64) {
        self.total = self.total.saturating_add(cost);
        self.most.push((path.to_owned(), cost));
        self.most.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        self.most.truncate(NAMED);
    }

    pub(super) fn check(&self, path: &str) -> Vec<FieldError> {
        if self.total <= SCHEMA_LIMIT {
            return Vec::new();
        }
        let detail = "contributed to estimated rule cost total exceeding cost limit for entire \
                      OpenAPIv3 schema";
        let mut errors: Vec<FieldError> = self
            .most
            .iter()
            .map(|(path, _)| FieldError::forbidden(path, detail))
            .collect();
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(
            path,
            &exceeds(name, self.total, SCHEMA_LIMIT),
        ));
        errors
    }
}

fn exceeds(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

pub(super) fn check(
    schema: &Value,
    path: &str,
    around: &Around,
    unchanged: bool,
    costs: &mut Costs,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let node = parse::part(schema, around.is_root());
    let (Some(rules), Some(self_type)) = (Rules::parse(schema), node.declared()) else {
        return errors;
    };
    let count = around.count.unwrap_or_else(|| node.most_in_request());
    let compiled = rules.compile(self_type, &|path| node.size_at(path));
    let written = list(schema, "x-kubernetes-validations");
    for (at, (compiled, rule)) in compiled.iter().zip(written).enumerate() {
        let path = format!("{path}.x-kubernetes-validations[{at}]");
        let mut charge = |field: String, name: &str, cost: u64, errors: &mut Vec<FieldError>| {
            if cost > RULE_LIMIT && !unchanged {
                let detail = exceeds(name, cost, RULE_LIMIT);
                errors.push(FieldError::forbidden(&field, &detail));
            }
            costs.add(&field, cost);
        };
        let field = format!("{path}.rule");
        let cost = compiled.costs.0.saturating_mul(count);
        charge(field.clone(), "estimated rule cost", cost, &mut errors);
        if let Err(why) = &compiled.program {
            errors.push(FieldError::invalid_shown(field, &shown(rule), why));
        }
        let field = format!("{path}.messageExpression");
        match &compiled.message {
            Some(Err(why)) => errors.push(FieldError::invalid_shown(field, &shown(rule), why)),
            Some(Ok(_)) => {
                let name = "estimated messageExpression cost";
                charge(field, name, compiled.costs.1, &mut errors);
            }
            None => {}
        }
        let optional = rule.get("optionalOldSelf").filter(|flag| !flag.is_null());
        if compiled.uses_old_self {
            if let Some(within) = &around.uncorrelated {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within \
                     {within}"
                );
                let field = format!("{path}.rule");
                errors.push(FieldError::invalid(
                    field,
                    &text(rule, "rule").into(),
                    &detail,
                ));
            }
        } else if let Some(optional) = optional {
            let detail = "may not be set if oldSelf is not used in rule";
            let field = format!("{path}.optionalOldSelf");
            errors.push(FieldError::invalid(field, optional, detail));
        }
    }
    errors
}
