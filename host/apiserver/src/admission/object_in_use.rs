//! `StorageObjectInUseProtection`: claims and volumes do not go while they are in use.
//!
//! New ones get a finalizer, which a controller takes back once nobody uses the deleted object.

use serde_json::{Value, json};

use super::{Attributes, Mutated};
use crate::object;

pub(super) fn mutate(attributes: &Attributes<'_>, object: &mut Value, mutated: &mut Mutated) {
    let finalizer = if attributes.creates("", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if attributes.creates("", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else {
        return;
    };
    let metadata = object::metadata(object);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.contains(&json!(finalizer))
    {
        finalizers.push(json!(finalizer));
        mutated.changed = true;
    }
}
