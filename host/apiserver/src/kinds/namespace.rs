//! Namespace: the scope of names, and what is deleted together.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{carry, child, fill, list, text},
    metadata_fields, names, status_only, validate_metadata,
};
use crate::table::{self, Column};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "Namespace",
    list_kind: "NamespaceList",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    status: true,
    scale: false,
    generation: false,
    decode: |value| check("v1", "Namespace", value),
    default: |object| {
        let name = text(object, "/metadata/name").to_owned();
        if !name.is_empty() {
            let labels = child(child(object, "metadata"), "labels");
            fill(labels, "kubernetes.io/metadata.name", name);
        }
        let status = child(object, "status");
        fill(status, "phase", "Active");
    },
    prepare,
    validate: |object, old| validate_metadata(object, old, false, names::label),
    fields: |object| {
        let mut fields = metadata_fields(object, false);
        fields.push(("name".into(), text(object, "/metadata/name").into()));
        fields.push(("status.phase".into(), text(object, "/status/phase").into()));
        fields
    },
    field_names: &["metadata.name", "name", "status.phase"],
    columns: &[
        Column::name(),
        Column::new("Status", "Active, or Terminating while its objects go."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/status/phase")),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};

/// The finalizer `kubernetes` in `spec` is what holds a namespace until it is empty; only the
/// `finalize` subresource takes it away.
fn prepare(object: &mut Value, old: Option<&Value>) {
    status_only(object, old);
    match old {
        Some(old) => carry(object, old, "spec"),
        None => {
            *child(object, "status") = json!({"phase": "Active"});
            let held = list(object, "/spec/finalizers")
                .iter()
                .any(|one| one == "kubernetes");
            if !held {
                let spec = child(object, "spec");
                fill(spec, "finalizers", json!([]));
                if let Some(list) = spec.get_mut("finalizers").and_then(Value::as_array_mut) {
                    list.push(json!("kubernetes"));
                }
            }
        }
    }
}
