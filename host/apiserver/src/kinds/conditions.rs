//! `meta/v1 Condition`: what is known of an object, by type.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    findings::Findings,
    json::{at, has, text},
    names,
};

const STATES: [&str; 3] = ["False", "True", "Unknown"];
const REASON_LENGTH: usize = 1024;
const MESSAGE_LENGTH: usize = 32 * 1024;

/// The rules of a list of conditions.
pub(super) fn validate(conditions: &[Value], field: &str, errors: &mut Findings) {
    let mut seen = HashSet::new();
    for (index, one) in conditions.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let kind = text(one, "/type");
        if !seen.insert(kind) {
            errors.duplicate(format!("{field}.type"), kind);
        }
        errors.named(&format!("{field}.type"), kind, names::qualified);
        errors.one_of(format!("{field}.status"), text(one, "/status"), &STATES);
        if let Some(generation) = at(one, "/observedGeneration").as_i64()
            && generation < 0
        {
            let detail = "must be greater than or equal to zero";
            errors.invalid(format!("{field}.observedGeneration"), generation, detail);
        }
        if !has(one, "/lastTransitionTime") {
            errors.required(format!("{field}.lastTransitionTime"), "must be set");
        }
        let (reason, at_reason) = (text(one, "/reason"), format!("{field}.reason"));
        if reason.is_empty() {
            errors.required(&at_reason, "must be set");
        } else {
            errors.named(&at_reason, reason, reason_rule);
            if reason.len() > REASON_LENGTH {
                errors.too_long(at_reason, REASON_LENGTH);
            }
        }
        if text(one, "/message").len() > MESSAGE_LENGTH {
            errors.too_long(format!("{field}.message"), MESSAGE_LENGTH);
        }
    }
}

fn reason_rule(reason: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(word)
        && reason.chars().all(|c| word(c) || matches!(c, ',' | ':'));
    if good {
        return Vec::new();
    }
    vec![
        "a condition reason must start with alphabetic character, optionally followed by a string \
         of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' \
         (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or \
         'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')"
            .to_owned(),
    ]
}
