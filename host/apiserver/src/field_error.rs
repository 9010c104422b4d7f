//! One thing wrong with one field, in the words that Kubernetes clients know.
//!
//! Validation collects these; the API server turns the list into the `causes` of a `Status` with
//! reason `Invalid`. Tools match on the reason and show `field: message`, so both follow
//! `k8s.io/apimachinery/pkg/util/validation/field`.

use std::fmt;

use serde_json::Value;

/// What is wrong, by the names Kubernetes gives causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    NotFound,
    TooLong,
    TooMany,
    TypeInvalid,
}

/// One invalid field: where, what, and the sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub fault: Fault,
    /// As `spec.containers[0].image`.
    pub field: String,
    message: String,
}

fn choices(supported: &[&str]) -> String {
    let quoted: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
    if quoted.is_empty() {
        String::new()
    } else {
        format!("supported values: {}", quoted.join(", "))
    }
}

impl FieldError {
    /// The field must be given.
    pub fn required(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(Fault::Required, field, None, detail)
    }

    /// The field has a value that it may not have.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> FieldError {
        FieldError::build(Fault::Invalid, field, Some(value), detail)
    }

    /// As [`FieldError::invalid`], for a value that is shown otherwise than as JSON.
    pub fn invalid_shown(field: impl Into<String>, shown: &str, detail: &str) -> FieldError {
        FieldError {
            fault: Fault::Invalid,
            field: field.into(),
            message: format!("Invalid value: {shown}: {detail}"),
        }
    }

    /// The field has a value that it may not have, and which it does not help to show.
    pub fn wrong(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(Fault::Invalid, field, None, detail)
    }

    /// The value has the wrong JSON type.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> FieldError {
        FieldError::build(Fault::TypeInvalid, field, Some(value), detail)
    }

    /// The value is none of the supported ones, which are listed in the given order.
    pub fn not_supported(
        field: impl Into<String>,
        value: &Value,
        supported: &[&str],
    ) -> FieldError {
        FieldError::build(Fault::NotSupported, field, Some(value), &choices(supported))
    }

    /// As [`FieldError::not_supported`], for a value that is shown otherwise than as JSON.
    pub fn not_supported_shown(
        field: impl Into<String>,
        shown: &str,
        supported: &[&str],
    ) -> FieldError {
        FieldError {
            fault: Fault::NotSupported,
            field: field.into(),
            message: format!("Unsupported value: {shown}: {}", choices(supported)),
        }
    }

    /// The value stands twice where it may stand once.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> FieldError {
        FieldError::build(Fault::Duplicate, field, Some(value), "")
    }

    /// As [`FieldError::duplicate`], for a value that is shown otherwise than as JSON.
    pub fn duplicate_shown(field: impl Into<String>, shown: &str) -> FieldError {
        FieldError {
            fault: Fault::Duplicate,
            field: field.into(),
            message: format!("Duplicate value: {shown}"),
        }
    }

    /// The field may not be set here, or may not change.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(Fault::Forbidden, field, None, detail)
    }

    /// The value refers to something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> FieldError {
        FieldError::build(Fault::NotFound, field, Some(value), "")
    }

    /// The same with a sentence for the user.
    pub fn detailed(mut self, detail: &str) -> FieldError {
        self.message.push_str(": ");
        self.message.push_str(detail);
        self
    }

    /// Longer than allowed, in bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        let detail = format!("may not be more than {max} bytes");
        FieldError::build(Fault::TooLong, field, None, &detail)
    }

    /// More elements than allowed.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> FieldError {
        let detail = format!("must have at most {max} items");
        FieldError::build(Fault::TooMany, field, Some(&Value::from(actual)), &detail)
    }

    /// The `reason` of the cause in a Status.
    pub fn reason(&self) -> &'static str {
        match self.fault {
            Fault::Required => "FieldValueRequired",
            Fault::Invalid => "FieldValueInvalid",
            Fault::NotSupported => "FieldValueNotSupported",
            Fault::Duplicate => "FieldValueDuplicate",
            Fault::Forbidden => "FieldValueForbidden",
            Fault::NotFound => "FieldValueNotFound",
            Fault::TooLong => "FieldValueTooLong",
            Fault::TooMany => "FieldValueTooMany",
            Fault::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The `message` of the cause: without the field.
    pub fn message(&self) -> &str {
        &self.message
    }

    fn build(
        fault: Fault,
        field: impl Into<String>,
        value: Option<&Value>,
        detail: &str,
    ) -> FieldError {
        let what = match fault {
            Fault::Required => "Required value",
            Fault::Invalid | Fault::TypeInvalid => "Invalid value",
            Fault::NotSupported => "Unsupported value",
            Fault::Duplicate => "Duplicate value",
            Fault::Forbidden => "Forbidden",
            Fault::NotFound => "Not found",
            Fault::TooLong => "Too long",
            Fault::TooMany => "Too many",
        };
        let mut message = what.to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            message.push_str(&shown(value));
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        FieldError {
            fault,
            field: field.into(),
            message,
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// What Kubernetes prints for a bad value: strings in quotes of Go, the rest as JSON that is safe in
/// HTML.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => other
            .to_string()
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026"),
    }
}

fn quoted(text: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: Value, expected: &str) {
        let error = FieldError::invalid("f", &value, "d");
        assert_eq!(
            error.message(),
            format!("Invalid value: {expected}: d"),
            "{value}"
        );
    }

    #[test]
    fn bad_values_are_shown_as_go_shows_them() {
        check(json!("a\"b\\c\n\u{1}é<"), "\"a\\\"b\\\\c\\n\\x01é<\"");
        check(json!({"a": "<&>"}), "{\"a\":\"\\u003c\\u0026\\u003e\"}");
        check(json!(null), "null");
        check(json!(7), "7");
    }
}
