//! What is wrong with an object, collected in the order in which it is found.
//!
//! Kubernetes reports every fault of an object at once, in a fixed order, so validation is a list
//! of checks that each may add to one collection. The names here are those of the faults.

use serde_json::Value;

use super::json::at;
use crate::field_error::FieldError;

pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<FieldError>);

impl Findings {
    pub(super) fn done(self) -> Vec<FieldError> {
        self.0
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.0.extend(errors);
    }

    pub(super) fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.0.push(FieldError::required(field, detail));
    }

    pub(super) fn invalid(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: &str,
    ) {
        self.0
            .push(FieldError::invalid(field, &value.into(), detail));
    }

    /// A bad value that the real server shows as one of its own structures; see [`structure`].
    pub(super) fn invalid_shown(&mut self, field: impl Into<String>, shown: &str, detail: &str) {
        self.0.push(FieldError::invalid_shown(field, shown, detail));
    }

    pub(super) fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.0.push(FieldError::forbidden(field, detail));
    }

    pub(super) fn unsupported(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) {
        self.0
            .push(FieldError::not_supported(field, &value.into(), supported));
    }

    pub(super) fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        self.0.push(FieldError::duplicate(field, &value.into()));
    }

    /// A repeated value that the real server shows as one of its own structures.
    pub(super) fn duplicate_shown(&mut self, field: impl Into<String>, shown: &str) {
        self.0.push(FieldError::duplicate_shown(field, shown));
    }

    pub(super) fn too_long(&mut self, field: impl Into<String>, max: usize) {
        self.0.push(FieldError::too_long(field, max));
    }

    pub(super) fn too_many(&mut self, field: impl Into<String>, actual: usize, max: usize) {
        self.0.push(FieldError::too_many(field, actual, max));
    }

    /// A finding for each sentence that a naming rule has about the value.
    pub(super) fn named(&mut self, field: &str, value: &str, rule: fn(&str) -> Vec<String>) {
        for detail in rule(value) {
            self.invalid(field, value, &detail);
        }
    }

    /// A name that must be given and follow a rule.
    pub(super) fn required_name(
        &mut self,
        field: &str,
        value: &str,
        rule: fn(&str) -> Vec<String>,
    ) {
        if value.is_empty() {
            self.required(field, "");
        } else {
            self.named(field, value, rule);
        }
    }

    /// The text must be one of a few words.
    pub(super) fn one_of(&mut self, field: impl Into<String>, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.unsupported(field, value, supported);
        }
    }

    /// As [`Findings::one_of`], where the word must be given at all.
    pub(super) fn required_one_of(
        &mut self,
        field: impl Into<String>,
        value: &str,
        supported: &[&str],
    ) {
        if value.is_empty() {
            self.required(field, "");
        } else {
            self.one_of(field, value, supported);
        }
    }

    /// A number that may not be below zero.
    pub(super) fn not_negative(&mut self, field: impl Into<String>, value: &Value) {
        if value.as_i64().is_some_and(|number| number < 0) {
            self.invalid(field, value.clone(), NOT_NEGATIVE);
        }
    }

    /// The value at a pointer must be that of the stored object.
    pub(super) fn immutable(&mut self, object: &Value, old: &Value, pointer: &str, field: &str) {
        let value = at(object, pointer);
        if value != at(old, pointer) {
            self.invalid(field, value.clone(), IMMUTABLE);
        }
    }
}

/// A structure as the real server prints it: JSON with the names and the order of its own source.
pub(super) fn structure(fields: &[(&str, &Value)]) -> String {
    let shown: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name:?}:{value}"))
        .collect();
    format!("{{{}}}", shown.join(","))
}

/// How the real server holds a value, for those that it prints.
pub(super) enum Shape {
    /// As it stands, or this where it is left out.
    Plain(&'static str),
    Fields(&'static [(&'static str, Shape)]),
    Each(&'static Shape),
}

impl Shape {
    /// As [`structure`], from the value itself.
    pub(super) fn show(&self, value: &Value) -> String {
        match self {
            Shape::Plain(zero) if value.is_null() => (*zero).to_owned(),
            Shape::Plain(_) => value.to_string(),
            _ if value.is_null() => "null".to_owned(),
            Shape::Fields(fields) => {
                let shown = fields.iter().map(|(name, shape)| {
                    let inner = shape.show(value.get(name).unwrap_or(&Value::Null));
                    let (first, rest) = name.split_at(1);
                    format!("\"{}{rest}\":{inner}", first.to_uppercase())
                });
                format!("{{{}}}", shown.collect::<Vec<_>>().join(","))
            }
            Shape::Each(shape) => {
                let all = value.as_array().into_iter().flatten();
                let shown: Vec<String> = all.map(|one| shape.show(one)).collect();
                format!("[{}]", shown.join(","))
            }
        }
    }
}

/// The value under a pointer, or the empty text that such a structure has instead.
pub(super) fn text_or_empty(value: &Value, pointer: &str) -> Value {
    match at(value, pointer) {
        Value::Null => Value::from(""),
        given => given.clone(),
    }
}
