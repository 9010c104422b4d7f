//! `TaintNodesByCondition`: a new node is closed to pods until it has shown that it is ready.

use serde_json::{Value, json};

use super::{Attributes, Mutated};
use crate::object::{self, at, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub(super) fn mutate(attributes: &Attributes<'_>, node: &mut Value, mutated: &mut Mutated) {
    if !attributes.creates("", "nodes") {
        return;
    }
    let taints = at(node, &["spec", "taints"]).and_then(Value::as_array);
    let tainted = taints
        .into_iter()
        .flatten()
        .any(|taint| text(taint, &["key"]) == NOT_READY && text(taint, &["effect"]) == EFFECT);
    if tainted {
        return;
    }
    let spec = object::member(node, "spec");
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    if let Some(taints) = taints.as_array_mut() {
        taints.push(json!({"key": NOT_READY, "effect": EFFECT}));
        mutated.changed = true;
    }
}
