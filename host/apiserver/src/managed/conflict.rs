//! What an applier hears whose fields are others'.

use serde_json::{Value, json};

use super::{
    entry::Entry,
    set::{self, Node},
};
use crate::failure::Failure;

/// A field that would be taken from another manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    /// `"kubectl" using apps/v1`
    manager: String,
    /// `.spec.replicas`
    path: String,
}

/// The conflicts with one manager.
pub(super) fn with(entry: &Entry, fields: &Node) -> Vec<Conflict> {
    let manager = shown(entry);
    set::paths(fields)
        .into_iter()
        .map(|path| Conflict {
            manager: manager.clone(),
            path,
        })
        .collect()
}

fn shown(entry: &Entry) -> String {
    let mut text = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if !entry.applied {
        text.push_str(&format!(" using {}", entry.api_version));
    }
    text
}

/// The answer. Conflicts of one manager stand together.
pub(super) fn failure(conflicts: &[Conflict]) -> Failure {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|conflict| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", conflict.manager),
                "field": conflict.path,
            })
        })
        .collect();
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.path
        ),
        many => {
            let mut lines: Vec<String> = Vec::new();
            let mut last = None;
            for conflict in many {
                if last != Some(&conflict.manager) {
                    lines.push(format!("conflicts with {}:", conflict.manager));
                    last = Some(&conflict.manager);
                }
                lines.push(format!("- {}", conflict.path));
            }
            format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                lines.join("\n")
            )
        }
    };
    Failure::apply_conflict(message, causes)
}
