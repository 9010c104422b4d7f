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

impl FieldError {
    /// The field must be given.
    pub fn required(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(Fault::Required, field, None, detail)
    }

    /// The field has a value that it may not have.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> FieldError {
        FieldError::build(Fault::Invalid, field, Some(value), detail)
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
        let quoted: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        FieldError::build(Fault::NotSupported, field, Some(value), &detail)
    }

    /// The value stands twice where it may stand once.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> FieldError {
        FieldError::build(Fault::Duplicate, field, Some(value), "")
    }

    /// The field may not be set here, or may not change.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(Fault::Forbidden, field, None, detail)
    }

    /// The value refers to something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> FieldError {
        FieldError::build(Fault::NotFound, field, Some(value), "")
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

/// Strings quoted, the rest as JSON: what Kubernetes prints for a bad value.
fn shown(value: &Value) -> String {
    value.to_string()
}
