//! RuntimeClass: a name for a way to run containers.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, has, text},
    metadata::{ANEW_THEN_CHANGES, judge},
    metadata_fields, names, pod,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "node.k8s.io",
    kind: "RuntimeClass",
    needs_revision: true,
    put_creates: true,
    list_kind: "RuntimeClassList",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    decode: |value| check("node.k8s.io/v1", "RuntimeClass", value),
    default: |object| super::json::fill(object, "handler", ""),
    validate,
    warnings,
    fields: |object| metadata_fields(object, false),
    field_names: &["metadata.name"],
    columns: &[
        Column::name(),
        Column::new("Handler", "What the node calls this way of running."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/handler")),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut f = Descent::at("");
    let looks = ANEW_THEN_CHANGES;
    let judged = judge(object, old, false, names::subdomain, looks, || {
        rules(object)
    });
    f.extend(judged);
    if let Some(old) = old {
        f.immutable(object, old, "handler");
    }
    f.into_errors()
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.named("handler", text(object, "/handler"), names::label);
    if has(object, "/overhead") {
        let overhead = json!({"overhead": at(object, "/overhead/podFixed")});
        pod::overhead(&mut f, &overhead);
    }
    f.inside(object, "scheduling", |f, scheduling| {
        f.labels(scheduling, "nodeSelector");
        pod::tolerations(f, scheduling);
        let mut seen = HashSet::new();
        f.each(scheduling, "tolerations", |f, _, one| {
            if !seen.insert(one.to_string()) {
                f.duplicate("", one.clone());
            }
        });
    });
    f.into_errors()
}

/// Old labels of nodes.
fn warnings(object: &Value, _: Option<&Value>) -> Vec<String> {
    let spec = json!({"spec": {"nodeSelector": at(object, "/scheduling/nodeSelector")}});
    pod::warnings::of(&spec, "")
        .into_iter()
        .filter_map(|one| {
            // The warning of a pod names the label that is old; this one does not.
            let (_, why) = one.split_once("]: ")?;
            Some(format!("scheduling.nodeSelector: {why}"))
        })
        .collect()
}
