//! Values against a schema, in the sentences of Kubernetes' OpenAPI validation.

use serde_json::Value;

use super::{
    Additional, Junctors, Limits, Node, field, format,
    stored::{StoredList, unchanged},
};
use crate::field_error::FieldError;

/// An object with more faults than this is told about these only.
const MAX_ERRORS: usize = 100;

pub(super) fn object(root: &Node, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    part(root, object, old, "")
}

/// A value and what is stored at its place, if anything is.
pub(super) fn part(node: &Node, value: &Value, old: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(node, value, old, path, &mut errors);
    errors
}

/// What is equal to what is stored keeps its faults: they are not this client's.
fn check(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let before = errors.len();
    inspect(node, value, old, path, errors);
    if errors.len() > before && old.is_some_and(|old| unchanged(node, value, old)) {
        errors.truncate(before);
    }
}

fn inspect(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if errors.len() >= MAX_ERRORS || (value.is_null() && node.nullable) {
        return;
    }
    if let Some(error) = wrong_type(node, value, path) {
        errors.push(error);
        return;
    }
    let limits = node.limits.as_deref();
    if let Some(limits) = limits {
        allowed(limits, value, path, errors);
    }
    match value {
        Value::Object(map) => {
            for name in &node.required {
                if !map.contains_key(&**name) {
                    errors.push(FieldError::required(field(path, name), ""));
                }
            }
            sizes(limits, Sized::Entries(map.len()), value, path, errors);
            for (name, value) in map {
                let of = match (node.properties.get(name), &node.additional) {
                    (Some(of), _) => of,
                    (None, Additional::Each(of)) => of,
                    _ => continue,
                };
                let old = old
                    .filter(|_| !node.atomic_map)
                    .and_then(|old| old.get(name));
                check(of, value, old, &field(path, name), errors);
            }
        }
        Value::Array(items) => {
            sizes(limits, Sized::Items(items.len()), value, path, errors);
            let stored = StoredList::of(node, old);
            if let Some(of) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    let old = stored.as_ref().and_then(|list| list.find(item));
                    check(of, item, old, &format!("{path}[{at}]"), errors);
                }
            }
        }
        Value::String(text) => {
            let length = Sized::Chars(text.chars().count());
            sizes(limits, length, value, path, errors);
            if let Some(limits) = limits {
                string(limits, text, value, path, errors);
            }
        }
        Value::Number(_) => {
            if let Some(limits) = limits {
                number(node, limits, value, path, errors);
            }
        }
        Value::Bool(_) | Value::Null => {}
    }
    if let Some(junctors) = &node.junctors {
        combined(junctors, value, path, errors);
    }
}

fn allowed(limits: &Limits, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if limits.allowed.is_empty() || limits.allowed.contains(value) {
        return;
    }
    let allowed: Vec<String> = limits
        .allowed
        .iter()
        .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
        .collect();
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    errors.push(FieldError::not_supported(path, value, &allowed));
}

fn wrong_type(node: &Node, value: &Value, path: &str) -> Option<FieldError> {
    let found = type_name(value);
    if node.int_or_string {
        return (!matches!(found, "integer" | "string"))
            .then(|| type_error(path, "integer,string", found));
    }
    let wanted = node.kind?.name();
    let fits = wanted == found || (wanted == "number" && found == "integer");
    (!fits).then(|| type_error(path, wanted, found))
}

fn type_error(path: &str, wanted: &str, found: &str) -> FieldError {
    let detail = format!("{path} in body must be of type {wanted}: {found:?}");
    FieldError::type_invalid(path, &Value::from(found), &detail)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) => {
            let whole = number.is_i64()
                || number.is_u64()
                || number.as_f64().is_some_and(|number| number.fract() == 0.0);
            if whole { "integer" } else { "number" }
        }
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// How much there is of a value, in its own measure.
enum Sized {
    Chars(usize),
    Items(usize),
    Entries(usize),
}

fn sizes(
    limits: Option<&Limits>,
    sized: Sized,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let Some(limits) = limits else { return };
    let (actual, limits) = match sized {
        Sized::Chars(count) => (count, limits.length),
        Sized::Items(count) => (count, limits.count),
        Sized::Entries(count) => (count, limits.entries),
    };
    if let Some(min) = limits.min.filter(|min| (actual as u64) < *min) {
        let (shown, detail) = match sized {
            Sized::Chars(_) => (
                value.clone(),
                format!("{path} in body should be at least {min} chars long"),
            ),
            Sized::Items(count) => (
                Value::from(count),
                format!("{path} in body should have at least {min} items"),
            ),
            Sized::Entries(count) => (
                Value::from(count),
                format!("{path} in body should have at least {min} properties"),
            ),
        };
        errors.push(FieldError::invalid(path, &shown, &detail));
    }
    if let Some(max) = limits.max.filter(|max| actual as u64 > *max) {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        errors.push(match sized {
            Sized::Chars(_) => FieldError::too_long(path, max),
            Sized::Items(count) | Sized::Entries(count) => FieldError::too_many(path, count, max),
        });
    }
}

fn string(limits: &Limits, text: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(pattern) = limits
        .pattern
        .as_ref()
        .filter(|pattern| !pattern.matches(text))
    {
        let detail = format!("{path} in body should match '{}'", pattern.text);
        errors.push(FieldError::invalid(path, value, &detail));
    }
    if let Some(name) = limits
        .format
        .as_deref()
        .filter(|name| !format::fits(name, text))
    {
        let detail = format!("{path} in body must be of type {name}: {text:?}");
        errors.push(FieldError::type_invalid(path, value, &detail));
    }
}

fn number(node: &Node, limits: &Limits, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    if let Some(format) = out_of_format(node, number) {
        let kind = node.kind_name();
        let detail = format!("Checked value must be of type {kind} with format {format} in {path}");
        errors.push(FieldError::invalid("<nil>", &Value::from(""), &detail));
    }
    let mut wrong = |detail: String| {
        let detail = format!("{path} in body should be {detail}");
        errors.push(FieldError::invalid(path, value, &detail));
    };
    if let Some(bound) = limits.minimum
        && (number < bound.value || (bound.exclusive && number == bound.value))
    {
        let or_equal = if bound.exclusive { "" } else { " or equal to" };
        wrong(if bound.exclusive {
            format!("greater than {}", bound.value)
        } else {
            format!("greater than{or_equal} {}", bound.value)
        });
    }
    if let Some(bound) = limits.maximum
        && (number > bound.value || (bound.exclusive && number == bound.value))
    {
        let or_equal = if bound.exclusive { "" } else { " or equal to" };
        wrong(format!("less than{or_equal} {}", bound.value));
    }
    if let Some(step) = limits.multiple_of {
        let times = number / step;
        if (times - times.round()).abs() > 1e-9 {
            wrong(format!("a multiple of {step}"));
        }
    }
}

/// The format of a number, if the number does not fit into it.
fn out_of_format(node: &Node, number: f64) -> Option<&str> {
    let format = node.format()?;
    let fits = match format {
        "int32" => number >= f64::from(i32::MIN) && number <= f64::from(i32::MAX),
        "int64" => number >= i64::MIN as f64 && number <= i64::MAX as f64,
        "float" => number.abs() <= f64::from(f32::MAX),
        _ => true,
    };
    (!fits).then_some(format)
}

fn combined(junctors: &Junctors, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |one: &Node| {
        let mut found = Vec::new();
        check(one, value, None, path, &mut found);
        found.is_empty()
    };
    let mut wrong = |detail: String| {
        errors.push(FieldError::invalid(path, &Value::from(""), &detail));
    };
    if !junctors.any_of.is_empty() && !junctors.any_of.iter().any(fits) {
        wrong(format!(
            "{path:?} must validate at least one schema (anyOf)"
        ));
    }
    if !junctors.one_of.is_empty() {
        match junctors.one_of.iter().filter(|one| fits(one)).count() {
            1 => {}
            0 => wrong(format!(
                "{path:?} must validate one and only one schema (oneOf). Found none valid"
            )),
            count => wrong(format!(
                "{path:?} must validate one and only one schema (oneOf). Found {count} valid \
                 alternatives"
            )),
        }
    }
    if junctors.not.as_deref().is_some_and(fits) {
        wrong(format!("{path:?} must not validate the schema (not)"));
    }
    let mut all = true;
    for one in &junctors.all_of {
        let before = errors.len();
        check(one, value, None, path, errors);
        all &= errors.len() == before;
    }
    if !all {
        let detail = format!("{path:?} must validate all the schemas (allOf)");
        errors.push(FieldError::invalid(path, &Value::from(""), &detail));
    }
}
