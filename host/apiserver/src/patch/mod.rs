//! The three patches a client may send: JSON patch, merge patch and strategic merge patch.

use serde_json::Value;

/// Why a patch was refused; `status` maps it to HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is not well-formed: 400 BadRequest.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422 Invalid.
    #[error("{0}")]
    Unprocessable(String),
    /// 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
}

impl PatchError {
    /// HTTP code and Status reason.
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            PatchError::Malformed(_) => (400, "BadRequest"),
            PatchError::Unprocessable(_) => (422, "Invalid"),
            PatchError::TooLarge(_) => (413, "RequestEntityTooLarge"),
        }
    }
}

/// RFC 6902.
pub fn json(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (current, patch);
    Err(PatchError::Malformed("not yet".into()))
}

/// RFC 7386.
pub fn merge(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (current, patch);
    Err(PatchError::Malformed("not yet".into()))
}

/// Kubernetes' strategic merge patch for a built-in kind (custom resources have none: 415).
pub fn strategic(
    group: &str,
    kind: &str,
    current: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let _ = (group, kind, current, patch);
    Err(PatchError::Malformed("not yet".into()))
}
