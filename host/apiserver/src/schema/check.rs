//! Values against a schema, in the sentences of Kubernetes' OpenAPI validation.

use std::collections::HashSet;

use serde_json::Value;

use super::{Additional, Kind, ListKind, Node, field, format};
use crate::field_error::{Fault, FieldError};

/// An object with more faults than this is told about these only.
const MAX_ERRORS: usize = 100;

pub(super) fn object(root: &Node, object: &Value, has_rules: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(root, object, "", &mut errors, true);
    let blocks = |error: &FieldError| {
        matches!(
            error.fault,
            Fault::Required | Fault::TypeInvalid | Fault::TooLong | Fault::TooMany
        )
    };
    if has_rules && errors.iter().any(blocks) {
        errors.push(FieldError::invalid(
            "<nil>",
            &Value::Null,
            "some validation rules were not checked because the object was invalid; correct the \
             existing errors to complete validation",
        ));
    }
    errors
}

/// A default must be a value that the schema takes.
pub(super) fn default(node: &Node, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(node, value, "default", &mut errors, false);
    errors
}

fn check(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>, root: bool) {
    if errors.len() >= MAX_ERRORS {
        return;
    }
    if value.is_null() && (node.nullable || root) {
        return;
    }
    if let Some(error) = wrong_type(node, value, path) {
        errors.push(error);
        return;
    }
    if !node.allowed.is_empty() && !node.allowed.contains(value) {
        let allowed: Vec<String> = node
            .allowed
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect();
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, value, &allowed));
    }
    match value {
        Value::Object(map) => {
            if node.embedded {
                for name in ["apiVersion", "kind"] {
                    if map
                        .get(name)
                        .and_then(Value::as_str)
                        .is_none_or(str::is_empty)
                    {
                        let field = field(path, name);
                        errors.push(FieldError::required(field, "must not be empty"));
                    }
                }
            }
            for name in &node.required {
                if !map.contains_key(name) {
                    errors.push(FieldError::required(field(path, name), ""));
                }
            }
            sizes(node, Sized::Entries(map.len()), value, path, errors);
            for (name, value) in map {
                let own = matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                if (root || node.embedded) && own {
                    continue;
                }
                match (node.properties.get(name), &node.additional) {
                    (Some(node), _) => check(node, value, &field(path, name), errors, false),
                    (None, Additional::Each(node)) => {
                        check(node, value, &field(path, name), errors, false);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            sizes(node, Sized::Items(items.len()), value, path, errors);
            if let Some(of) = &node.items {
                for (at, item) in items.iter().enumerate() {
                    check(of, item, &format!("{path}[{at}]"), errors, false);
                }
            }
            distinct(node, items, path, errors);
        }
        Value::String(text) => {
            sizes(
                node,
                Sized::Chars(text.chars().count()),
                value,
                path,
                errors,
            );
            string(node, text, value, path, errors);
        }
        Value::Number(_) => number(node, value, path, errors),
        Value::Bool(_) | Value::Null => {}
    }
    combined(node, value, path, errors);
}

fn wrong_type(node: &Node, value: &Value, path: &str) -> Option<FieldError> {
    let found = type_name(value);
    if node.int_or_string {
        return (!matches!(found, "integer" | "string"))
            .then(|| type_error(path, "integer,string", found));
    }
    let wanted = match node.kind? {
        Kind::Object => "object",
        Kind::Array => "array",
        Kind::String => "string",
        Kind::Integer => "integer",
        Kind::Number => "number",
        Kind::Boolean => "boolean",
    };
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

fn sizes(node: &Node, sized: Sized, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (actual, limits) = match sized {
        Sized::Chars(count) => (count, node.length),
        Sized::Items(count) => (count, node.count),
        Sized::Entries(count) => (count, node.entries),
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

fn string(node: &Node, text: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(pattern) = node
        .pattern
        .as_ref()
        .filter(|pattern| !pattern.is_match(text))
    {
        let detail = format!("{path} in body should match '{pattern}'");
        errors.push(FieldError::invalid(path, value, &detail));
    }
    if let Some(name) = node
        .format
        .as_deref()
        .filter(|name| !format::fits(name, text))
    {
        let detail = format!("{path} in body must be of type {name}: {text:?}");
        errors.push(FieldError::invalid(path, value, &detail));
    }
}

fn number(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    let mut wrong = |detail: String| {
        let detail = format!("{path} in body should be {detail}");
        errors.push(FieldError::invalid(path, value, &detail));
    };
    if let Some(bound) = node.minimum
        && (number < bound.value || (bound.exclusive && number == bound.value))
    {
        let or_equal = if bound.exclusive { "" } else { " or equal to" };
        wrong(if bound.exclusive {
            format!("greater than {}", bound.value)
        } else {
            format!("greater than{or_equal} {}", bound.value)
        });
    }
    if let Some(bound) = node.maximum
        && (number > bound.value || (bound.exclusive && number == bound.value))
    {
        let or_equal = if bound.exclusive { "" } else { " or equal to" };
        wrong(format!("less than{or_equal} {}", bound.value));
    }
    if let Some(step) = node.multiple_of {
        let times = number / step;
        if (times - times.round()).abs() > 1e-9 {
            wrong(format!("a multiple of {step}"));
        }
    }
}

fn distinct(node: &Node, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let identity = |item: &Value| match &node.list {
        ListKind::Atomic => None,
        ListKind::Set => Some(item.to_string()),
        ListKind::Map(keys) => {
            let parts: Vec<String> = keys
                .iter()
                .map(|key| item.get(key).map_or_else(String::new, Value::to_string))
                .collect();
            Some(parts.join(","))
        }
    };
    let mut seen = HashSet::new();
    for (at, item) in items.iter().enumerate() {
        if identity(item).is_some_and(|one| !seen.insert(one)) {
            let shown = match &node.list {
                ListKind::Map(keys) => keys
                    .iter()
                    .filter_map(|key| Some((key.clone(), item.get(key)?.clone())))
                    .collect::<serde_json::Map<String, Value>>()
                    .into(),
                _ => item.clone(),
            };
            errors.push(FieldError::duplicate(format!("{path}[{at}]"), &shown));
        }
    }
}

fn combined(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let fits = |one: &Node| {
        let mut found = Vec::new();
        check(one, value, path, &mut found, false);
        found.is_empty()
    };
    let mut wrong = |detail: String| {
        errors.push(FieldError::invalid(path, &Value::from(""), &detail));
    };
    if !node.any_of.is_empty() && !node.any_of.iter().any(fits) {
        wrong(format!(
            "{path:?} must validate at least one schema (anyOf)"
        ));
    }
    if !node.one_of.is_empty() {
        match node.one_of.iter().filter(|one| fits(one)).count() {
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
    if node.not.as_deref().is_some_and(fits) {
        wrong(format!("{path:?} must not validate the schema (not)"));
    }
    let mut all = true;
    for one in &node.all_of {
        let before = errors.len();
        check(one, value, path, errors, false);
        all &= errors.len() == before;
    }
    if !all {
        let detail = format!("{path:?} must validate all the schemas (allOf)");
        errors.push(FieldError::invalid(path, &Value::from(""), &detail));
    }
}
