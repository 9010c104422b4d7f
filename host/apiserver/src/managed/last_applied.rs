//! From `kubectl apply` of old to server-side apply, without conflicts with oneself.
//!
//! Client-side apply keeps its configuration in an annotation. When `kubectl` (by that name) applies
//! on the server for the first time, the fields that it had applied by itself are owned by another
//! entry of its own; conflicts about them are allowed as long as they still have the value it gave
//! them. Afterwards the annotation is kept up to date, so that the way back stays open.

use serde_json::Value;

use super::{
    Write, compare, fields,
    set::{self, Node},
};
use crate::object;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The fields that client-side apply owns. `None` if it never applied this object.
pub(super) fn allowed(write: &Write<'_>, live: &Value) -> Option<Node> {
    let text = object::text(live, &["metadata", "annotations", ANNOTATION]);
    let applied: Value = serde_json::from_str(text).ok()?;
    if object::text(&applied, &["apiVersion"]) != write.api_version {
        return None;
    }
    let mut owned = fields::of(write.shape, &applied);
    let diff = compare::compare(write.shape, &applied, live);
    set::subtract(&mut owned, &diff.written);
    set::subtract(&mut owned, &diff.removed);
    Some(owned)
}

/// Let the annotation say what was applied, where there is one.
pub(super) fn refresh(object: &mut Value, config: &Value) {
    if object::text(object, &["metadata", "annotations", ANNOTATION]).is_empty() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations")
        && let Some(annotations) = annotations.as_object_mut()
    {
        annotations.remove(ANNOTATION);
    }
    let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), format!("{config}\n").into());
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}
