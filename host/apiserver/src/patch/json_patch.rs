//! RFC 6902, with limits on what a small patch may blow an object up to.

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::PatchError;

/// As in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

/// Copies may add this much in all, the size limit of a request body: without it a handful of
/// doubling copies would fill the memory.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch.
pub fn json(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed(
            "error decoding patch: a JSON patch must be an array of operations".to_owned(),
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let Patch(operations) = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    let mut value = current.clone();
    let mut copied = 0;
    for operation in operations {
        if let PatchOperation::Copy(copy) = &operation {
            copied += copy
                .from
                .resolve(&value)
                .map_or(0, |source| source.to_string().len());
            if copied > MAX_COPIED {
                return Err(PatchError::TooLarge(format!(
                    "the copies of the JSON patch add more than {MAX_COPIED} bytes"
                )));
            }
        }
        json_patch::patch(&mut value, &[operation])
            .map_err(|error| PatchError::Unprocessable(error.to_string()))?;
    }
    Ok(value)
}
