//! What Kubernetes sets while it reads an object, before it notes who sent what, and the kinds here
//! set later: it is lent for the comparison, so that it has the manager that it has there.

use serde_json::{Value, json};

use crate::{object, resource::Resource};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Add to a new state what it has by the time of the comparison. Answers what to take out again.
pub(crate) fn lend(resource: &Resource, is_new: bool, new: &mut Value) -> Option<&'static str> {
    if resource.is_custom() {
        return None;
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        // What was a field once is shown as an annotation, zero if it was not sent.
        ("apps", "daemonsets") => {
            let metadata = object::metadata(new);
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Value::Object(annotations) = annotations
                && !annotations.contains_key(TEMPLATE_GENERATION)
            {
                annotations.insert(TEMPLATE_GENERATION.into(), "0".into());
            }
            None
        }
        // A job without labels has those of its pods.
        ("batch", "jobs") if is_new && object::at(new, &["metadata", "labels"]).is_none() => {
            let labels = new.pointer("/spec/template/metadata/labels").cloned()?;
            object::metadata(new).insert("labels".into(), labels);
            Some("labels")
        }
        _ => None,
    }
}
