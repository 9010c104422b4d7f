//! What the kinds have in common: names, selectors, configurations, tolerations.

use std::sync::OnceLock;

use serde_json::Value;

use super::counts::{self, bounded};
use crate::{
    cel::{Env, Program, Type, types::QUANTITY},
    kinds::{
        findings::Findings,
        json::{at, list, text},
        names,
        volume_source::driver_name,
    },
};

const LONGEST_EXPRESSION: usize = 10 * 1024;
/// What a selector may cost at most, in CEL's units.
const DEAREST_EXPRESSION: u64 = 1_000_000;
const LONGEST_PARAMETERS: usize = 10 * 1024;
const LONGEST_POOL: usize = 253;
const LONGEST_ID: usize = 32;
/// Of a value that a selector sees, in characters.
const LONGEST_VALUE: u64 = 64;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const OPERATORS: [&str; 2] = ["Equal", "Exists"];

pub(super) fn pool_name(name: &str, field: &str, errors: &mut Findings) {
    if name.is_empty() {
        return errors.required(field, "");
    }
    if name.len() > LONGEST_POOL {
        errors.too_long(field, LONGEST_POOL);
    }
    for part in name.split('/') {
        for detail in names::subdomain(part) {
            errors.invalid(field, part, &detail);
        }
    }
}

fn c_identifier(id: &str, field: &str, errors: &mut Findings) {
    if id.len() > LONGEST_ID {
        errors.too_long(field, LONGEST_ID);
    }
    let good = !id.is_empty()
        && !id.starts_with(|c: char| c.is_ascii_digit())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !good {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by \
                      a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
                      'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.invalid(field, id, detail);
    }
}

/// The name of an attribute or capacity, with the domain of whoever defined it or without.
pub(super) fn qualified_name(name: &str, field: &str, errors: &mut Findings) {
    let Some((domain, id)) = name.split_once('/') else {
        return c_identifier(name, field, errors);
    };
    if id.contains('/') {
        return errors.invalid(field, name, "must not contain more than one slash");
    }
    match domain {
        "" => errors.invalid(field, "", "the domain must not be empty"),
        domain => driver_name(domain, field, errors),
    }
    match id {
        "" => errors.invalid(field, "", "the name must not be empty"),
        id => c_identifier(id, field, errors),
    }
}

pub(super) fn fully_qualified_name(name: &str, field: &str, errors: &mut Findings) {
    qualified_name(name, field, errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(field, name, detail);
    }
}

/// The list `selectors` below `owner`.
pub(super) fn selectors(owner: &Value, field: &str, is_stored: bool, errors: &mut Findings) {
    let field = format!("{field}.selectors");
    bounded(
        list(owner, "/selectors"),
        counts::SELECTORS,
        &field,
        errors,
        |one, field, errors| match at(one, "/cel") {
            Value::Null => errors.required(format!("{field}.cel"), ""),
            _ if is_stored => {}
            cel => expression(
                text(cel, "/expression"),
                &format!("{field}.cel.expression"),
                errors,
            ),
        },
    );
}

/// A yes or no about a device.
fn expression(expression: &str, field: &str, errors: &mut Findings) {
    if expression.len() > LONGEST_EXPRESSION {
        return errors.too_long(field, LONGEST_EXPRESSION);
    }
    match Program::compile_estimated(expression, environment(), &size) {
        Err(error) => {
            errors.invalid(field, expression, &format!("compilation failed: {error}"));
        }
        Ok((program, _)) if !matches!(program.result(), Type::Bool | Type::Dyn) => {
            let found = program.result();
            let detail = format!("must evaluate to bool or the unknown type, not {found}");
            errors.invalid(field, expression, &detail);
        }
        Ok((_, cost)) if cost > DEAREST_EXPRESSION => {
            errors.forbidden(field, "too complex, exceeds cost limit");
        }
        Ok(_) => {}
    }
}

fn environment() -> &'static Env {
    static ENVIRONMENT: OnceLock<Env> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let by_domain = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
        let device = Type::object(
            "kubernetes.DRADevice",
            vec![
                ("driver", Type::String),
                ("attributes", by_domain(Type::Dyn)),
                ("capacity", by_domain(Type::Opaque(QUANTITY))),
                ("allowMultipleAllocations", Type::Bool),
            ],
        );
        Env::new().variable("device", device)
    })
}

/// How large what a selector sees may be.
fn size(path: &[String]) -> Option<u64> {
    let counted = counts::ATTRIBUTES_AND_CAPACITIES as u64;
    match path {
        [device, kind] | [device, kind, _]
            if device == "device" && matches!(kind.as_str(), "attributes" | "capacity") =>
        {
            let is_key = path.last().is_some_and(|last| last == "@keys");
            Some(if is_key { LONGEST_VALUE } else { counted })
        }
        [device, ..] if device == "device" => Some(LONGEST_VALUE),
        _ => None,
    }
}

/// Settings that only the driver understands.
pub(super) fn configuration(one: &Value, field: &str, is_stored: bool, errors: &mut Findings) {
    let field = format!("{field}.opaque");
    let opaque = at(one, "/opaque");
    if opaque.is_null() {
        return errors.required(field, "");
    }
    driver_name(text(opaque, "/driver"), &format!("{field}.driver"), errors);
    let longest = if is_stored {
        usize::MAX
    } else {
        LONGEST_PARAMETERS
    };
    raw(
        at(opaque, "/parameters"),
        &format!("{field}.parameters"),
        longest,
        errors,
    );
}

/// An object of any content.
pub(super) fn raw(value: &Value, field: &str, longest: usize, errors: &mut Findings) {
    match value {
        Value::Null => errors.required(field, ""),
        other if other.to_string().len() > longest => errors.too_long(field, longest),
        Value::Object(_) => {}
        _ => errors.invalid(field, "<value omitted>", "must be a valid JSON object"),
    }
}

/// The list `tolerations` below `owner`.
pub(super) fn tolerations(owner: &Value, field: &str, errors: &mut Findings) {
    for (index, one) in list(owner, "/tolerations").iter().enumerate() {
        let field = format!("{field}.tolerations[{index}]");
        let (key, value) = (text(one, "/key"), text(one, "/value"));
        if !key.is_empty() {
            errors.named(&format!("{field}.key"), key, names::qualified);
        }
        let at_value = format!("{field}.value");
        match text(one, "/operator") {
            "Exists" if !value.is_empty() => {
                errors.invalid(at_value, value, "must be empty for operator `Exists`");
            }
            "Exists" => {}
            "Equal" => errors.named(&at_value, value, names::label_value),
            "" => errors.required(format!("{field}.operator"), ""),
            other => errors.unsupported(format!("{field}.operator"), other, &OPERATORS),
        }
        effect(text(one, "/effect"), &field, false, errors);
    }
}

pub(super) fn effect(effect: &str, field: &str, is_required: bool, errors: &mut Findings) {
    let field = format!("{field}.effect");
    match effect {
        "" if is_required => errors.required(field, ""),
        "" => {}
        known if EFFECTS.contains(&known) => {}
        other => errors.unsupported(field, other, &EFFECTS),
    }
}

/// What must be, and what must not be, before a device counts as bound.
pub(super) fn binding_conditions(owner: &Value, field: &str, errors: &mut Findings) {
    let good = list(owner, "/bindingConditions");
    let bad = list(owner, "/bindingFailureConditions");
    let (at_good, at_bad) = (
        format!("{field}.bindingConditions"),
        format!("{field}.bindingFailureConditions"),
    );
    for (all, field) in [(good, &at_good), (bad, &at_bad)] {
        bounded(
            all,
            counts::BINDING_CONDITIONS,
            field,
            errors,
            |one, field, errors| {
                errors.named(field, one.as_str().unwrap_or_default(), names::qualified);
            },
        );
    }
    let twice = |all: &[Value], field: &str, errors: &mut Findings| {
        for (index, one) in all.iter().enumerate() {
            if all.iter().take(index).any(|before| before == one) {
                errors.duplicate(format!("{field}[{index}]"), one.clone());
            }
        }
    };
    twice(good, &at_good, errors);
    twice(bad, &at_bad, errors);
    for (index, one) in bad.iter().enumerate() {
        if good.contains(one) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(format!("{at_bad}[{index}]"), one.clone(), detail);
        }
    }
    if good.is_empty() && !bad.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.invalid(at_good, Value::Null, detail);
    } else if bad.is_empty() && !good.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.invalid(at_bad, Value::Null, detail);
    }
}
