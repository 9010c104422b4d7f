//! The three patches a client may send: JSON patch, merge patch and strategic merge patch.
//!
//! Each takes the current object and answers the new one; checking the result against its type and
//! rules is the caller's next step, as for any other write.

mod json_patch;
mod strategic;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use self::{json_patch::json, strategic::strategic};

/// Why a patch was refused; `status` maps it to HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is not well-formed: 400 BadRequest.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object, which Kubernetes answers with one sentence whatever the
    /// cause: 422 Invalid.
    #[error("the server rejected our request due to an error in our request")]
    Unprocessable(String),
    /// The patch asks whether something is so, and it is not: answered as what does not fit.
    #[error("the server rejected our request due to an error in our request")]
    TestFailed,
    /// 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// What Kubernetes answers as an error of its own, without a reason: 500.
    #[error("{0}")]
    Unexplained(String),
}

impl PatchError {
    /// The cause, for those who wrote the patch and are not the client.
    pub fn why(&self) -> String {
        match self {
            PatchError::Unprocessable(why) => why.clone(),
            PatchError::TestFailed => "test failed".to_owned(),
            other => other.to_string(),
        }
    }

    /// HTTP code and Status reason.
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            PatchError::Malformed(_) => (400, "BadRequest"),
            PatchError::Unprocessable(_) | PatchError::TestFailed => (422, "Invalid"),
            PatchError::TooLarge(_) => (413, "RequestEntityTooLarge"),
            PatchError::Unexplained(_) => (500, ""),
        }
    }
}

/// What Go calls the type of a JSON value.
pub(crate) fn go_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// RFC 7386.
pub fn merge(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    match patch {
        Value::Object(_) => {}
        Value::Null => return Err(PatchError::Malformed("Invalid JSON Patch".to_owned())),
        other => {
            let why = not_a_map(other);
            return Err(PatchError::Malformed(format!(
                "error decoding patch: {why}"
            )));
        }
    }
    let mut merged = current.clone();
    merge_into(&mut merged, patch);
    Ok(merged)
}

fn not_a_map(found: &Value) -> String {
    let found = go_name(found);
    format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}")
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge_into(fields.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}
