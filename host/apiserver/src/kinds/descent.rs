//! A way down into an object: what was found wrong so far, and where we are.
//!
//! Pod specs are deep and nearly always right. So the path is one string that grows and shrinks as
//! rules go down, and an object with nothing wrong costs no formatting of paths. Field names that
//! are empty mean the place itself.

use serde_json::Value;

use super::{
    json::{at, has, list, text},
    names,
};
use crate::field_error::FieldError;

pub(super) struct Descent {
    errors: Vec<FieldError>,
    /// `spec.containers[0]`
    path: String,
}

impl Descent {
    pub(super) fn at(path: &str) -> Descent {
        Descent {
            errors: Vec::new(),
            path: path.to_owned(),
        }
    }

    pub(super) fn into_errors(self) -> Vec<FieldError> {
        self.errors
    }

    pub(super) fn count(&self) -> usize {
        self.errors.len()
    }

    // Going down.

    /// Look at what stands under `name`.
    pub(super) fn within<R>(&mut self, name: &str, look: impl FnOnce(&mut Descent) -> R) -> R {
        let before = self.path.len();
        if !name.is_empty() {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(name);
        }
        let found = look(self);
        self.path.truncate(before);
        found
    }

    /// Look at an element of the list or map that the path is at.
    pub(super) fn item<R>(
        &mut self,
        key: impl std::fmt::Display,
        look: impl FnOnce(&mut Descent) -> R,
    ) -> R {
        use std::fmt::Write;
        let before = self.path.len();
        let _ = write!(self.path, "[{key}]");
        let found = look(self);
        self.path.truncate(before);
        found
    }

    /// Look at each element of the list under `name`.
    pub(super) fn each<'a>(
        &mut self,
        object: &'a Value,
        name: &str,
        mut look: impl FnMut(&mut Descent, usize, &'a Value),
    ) {
        let items = list(object, &format!("/{name}"));
        if items.is_empty() {
            return;
        }
        self.within(name, |f| {
            for (index, item) in items.iter().enumerate() {
                f.item(index, |f| look(f, index, item));
            }
        });
    }

    /// Look at the object under `name`, if there is one.
    pub(super) fn inside<'a>(
        &mut self,
        object: &'a Value,
        name: &str,
        look: impl FnOnce(&mut Descent, &'a Value),
    ) {
        let value = object.get(name).filter(|value| !value.is_null());
        if let Some(value) = value {
            self.within(name, |f| look(f, value));
        }
    }

    // Finding.

    /// Where `name` is.
    pub(super) fn field(&self, name: &str) -> String {
        match (self.path.is_empty(), name.is_empty()) {
            (_, true) => self.path.clone(),
            (true, false) => name.to_owned(),
            (false, false) => format!("{}.{name}", self.path),
        }
    }

    pub(super) fn push(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    pub(super) fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.errors.extend(errors);
    }

    pub(super) fn required(&mut self, name: &str, detail: &str) {
        let field = self.field(name);
        self.push(FieldError::required(field, detail));
    }

    pub(super) fn forbidden(&mut self, name: &str, detail: &str) {
        let field = self.field(name);
        self.push(FieldError::forbidden(field, detail));
    }

    pub(super) fn invalid(&mut self, name: &str, value: impl Into<Value>, detail: &str) {
        let field = self.field(name);
        self.push(FieldError::invalid(field, &value.into(), detail));
    }

    /// As [`Descent::invalid`], for what the real server prints as one of its own structures.
    pub(super) fn invalid_shown(&mut self, name: &str, shown: &str, detail: &str) {
        let field = self.field(name);
        self.push(FieldError::invalid_shown(field, shown, detail));
    }

    /// Without the value, which would say nothing.
    pub(super) fn wrong(&mut self, name: &str, detail: &str) {
        let field = self.field(name);
        self.push(FieldError::wrong(field, detail));
    }

    pub(super) fn unsupported(&mut self, name: &str, value: impl Into<Value>, known: &[&str]) {
        let field = self.field(name);
        self.push(FieldError::not_supported(field, &value.into(), known));
    }

    /// As [`Descent::unsupported`], for what the real server prints as one of its own structures.
    pub(super) fn unsupported_shown(&mut self, name: &str, shown: &str, known: &[&str]) {
        let field = self.field(name);
        self.push(FieldError::not_supported_shown(field, shown, known));
    }

    pub(super) fn duplicate(&mut self, name: &str, value: impl Into<Value>) {
        let field = self.field(name);
        self.push(FieldError::duplicate(field, &value.into()));
    }

    pub(super) fn not_found(&mut self, name: &str, value: impl Into<Value>) {
        let field = self.field(name);
        self.push(FieldError::not_found(field, &value.into()));
    }

    pub(super) fn too_long(&mut self, name: &str, max: usize) {
        let field = self.field(name);
        self.push(FieldError::too_long(field, max));
    }

    pub(super) fn too_many(&mut self, name: &str, count: usize, max: usize) {
        let field = self.field(name);
        self.push(FieldError::too_many(field, count, max));
    }

    // Rules that recur.

    /// A string by a naming rule: each sentence of the rule is one finding.
    pub(super) fn named(&mut self, name: &str, value: &str, rule: fn(&str) -> Vec<String>) {
        for detail in rule(value) {
            self.invalid(name, value, &detail);
        }
    }

    /// The same where the string must be given.
    pub(super) fn required_name(
        &mut self,
        object: &Value,
        name: &str,
        rule: fn(&str) -> Vec<String>,
    ) {
        match text(object, &format!("/{name}")) {
            "" => self.required(name, ""),
            value => self.named(name, value, rule),
        }
    }

    /// A string that must be given.
    pub(super) fn given(&mut self, object: &Value, name: &str) {
        if text(object, &format!("/{name}")).is_empty() {
            self.required(name, "");
        }
    }

    /// A count that is given and below zero.
    pub(super) fn not_negative(&mut self, object: &Value, name: &str) {
        let value = at(object, &format!("/{name}"));
        if value.as_i64().is_some_and(|count| count < 0) {
            let detail = "must be greater than or equal to 0";
            self.invalid(name, value.clone(), detail);
        }
    }

    /// A string that has to be one of these, and given.
    pub(super) fn one_of(&mut self, object: &Value, name: &str, known: &[&str]) {
        match text(object, &format!("/{name}")) {
            "" => self.required(name, ""),
            value if known.contains(&value) => {}
            value => self.unsupported(name, value, known),
        }
    }

    /// A string that has to be one of these where it is given at all.
    pub(super) fn one_of_if_given(&mut self, object: &Value, name: &str, known: &[&str]) {
        if has(object, &format!("/{name}")) {
            let value = text(object, &format!("/{name}"));
            if !known.contains(&value) {
                self.unsupported(name, value, known);
            }
        }
    }

    /// A field that stays what it was.
    pub(super) fn immutable(&mut self, new: &Value, old: &Value, name: &str) {
        let pointer = format!("/{name}");
        let (new, old) = (at(new, &pointer), at(old, &pointer));
        if new != old {
            self.invalid(name, new.clone(), "field is immutable");
        }
    }

    /// Numbers of users and groups.
    pub(super) fn identity(&mut self, name: &str, id: &Value) {
        let valid = id.is_null()
            || id
                .as_i64()
                .is_some_and(|id| (0..=i64::from(i32::MAX)).contains(&id));
        if !valid {
            let detail = "must be between 0 and 2147483647, inclusive";
            self.invalid(name, id.clone(), detail);
        }
    }

    /// A port by number or by name; null is the number 0.
    pub(super) fn port(&mut self, object: &Value, name: &str) {
        match at(object, &format!("/{name}")) {
            Value::String(port) => self.named(name, port, names::port_name),
            port => {
                let number = port.as_i64().unwrap_or_default();
                for detail in names::port_number(number) {
                    self.invalid(name, number, &detail);
                }
            }
        }
    }

    /// A path that must not lead upwards.
    pub(super) fn no_backsteps(&mut self, name: &str, path: &str) {
        if path.split('/').any(|part| part == "..") {
            self.invalid(name, path, "must not contain '..'");
        }
    }

    /// A path below some folder.
    pub(super) fn descending(&mut self, name: &str, path: &str) {
        if path.starts_with('/') {
            self.invalid(name, path, "must be a relative path");
        }
        self.no_backsteps(name, path);
    }

    /// The same, with no dots at its start.
    pub(super) fn local_path(&mut self, name: &str, path: &str) {
        self.descending(name, path);
        if path.starts_with("..") && !path.starts_with("../") {
            self.invalid(name, path, "must not start with '..'");
        }
    }

    /// An IP address of either family, as older fields take them.
    pub(super) fn address(&mut self, name: &str, text: &str) {
        let field = self.field(name);
        self.extend(super::ip::legacy(text, &field));
    }

    /// A map of labels, or anything with their rules.
    pub(super) fn labels(&mut self, object: &Value, name: &str) {
        let labels = at(object, &format!("/{name}"));
        if labels.as_object().is_some_and(|map| !map.is_empty()) {
            let field = self.field(name);
            self.extend(super::metadata::labels(labels, &field));
        }
    }

    /// A `metav1.LabelSelector`, if given.
    pub(super) fn selector(&mut self, object: &Value, name: &str) {
        let selector = at(object, &format!("/{name}"));
        if !selector.is_null() {
            let field = self.field(name);
            self.extend(super::workload::validate_selector(selector, &field));
        }
    }
}
