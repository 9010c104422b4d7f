//! `DefaultTolerationSeconds`: a pod outlives five minutes without its node, unless it says otherwise.

use serde_json::{Value, json};

use super::{Attributes, Mutated, Operation};
use crate::object::{self, at, text};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

pub(super) fn mutate(attributes: &Attributes<'_>, pod: &mut Value, mutated: &mut Mutated) {
    let handled = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !handled || !attributes.is("", "pods") {
        return;
    }
    for taint in TAINTS {
        let tolerations = at(pod, &["spec", "tolerations"]).and_then(Value::as_array);
        let tolerated = tolerations.into_iter().flatten().any(|one| {
            matches!(text(one, &["key"]), key if key == taint || key.is_empty())
                && matches!(text(one, &["effect"]), "NoExecute" | "")
        });
        if tolerated {
            continue;
        }
        let toleration = json!({
            "key": taint, "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": SECONDS,
        });
        let spec = object::member(pod, "spec");
        let list = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(toleration);
            mutated.changed = true;
        }
    }
}
