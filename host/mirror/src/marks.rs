//! The two annotations by which objects tell where they come from, so that nothing about it has to be
//! remembered elsewhere.

use serde_json::{Value, json};

use crate::merge::object;

/// On what was made through the API of this node, with the node's name: the cloud does not have it,
/// or has it from here.
pub const MADE: &str = "eyot.dev/made-at-the-edge";
/// On what is the cloud's and was changed here, with the generation that it had in the cloud.
pub const CHANGED: &str = "eyot.dev/changed-at-the-edge";

pub(crate) fn is_made_here(object: &Value) -> bool {
    mark(object, MADE).is_some()
}

/// The generation on which a change that was made here was based.
pub(crate) fn base(object: &Value) -> Option<i64> {
    mark(object, CHANGED)?.parse().ok()
}

pub(crate) fn set(value: &mut Value, mark: &str, text: &str) {
    let metadata = object(value, "metadata");
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    match annotations.as_object_mut() {
        Some(all) => {
            all.insert(mark.to_owned(), text.into());
        }
        None => *annotations = json!({ mark: text }),
    }
}

pub(crate) fn clear(value: &mut Value) {
    let annotations = value["metadata"]["annotations"].as_object_mut();
    if let Some(annotations) = annotations {
        annotations.remove(MADE);
        annotations.remove(CHANGED);
    }
}

pub(crate) fn mark<'a>(object: &'a Value, mark: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][mark].as_str()
}
