//! Namespace: the scope of names, and what is deleted together.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{carry, child, fill, has, list, text},
    metadata::{self, ANEW_THEN_CHANGES, invalid, judge, standard_finalizer},
    metadata_fields, names, status_only,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

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
    validate: |object, old| {
        judge(object, old, false, names::label, ANEW_THEN_CHANGES, || {
            finalizers(object, |_| "spec.finalizers".to_owned())
        })
    },
    validate_status,
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

/// A write of the `finalize` subresource.
pub(crate) fn validate_finalize(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = metadata::validate_update(object, old);
    errors.extend(finalizers(object, |index| {
        format!("spec.finalizers[{index}]")
    }));
    errors
}

fn finalizers(object: &Value, field: impl Fn(usize) -> String) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, name) in list(object, "/spec/finalizers").iter().enumerate() {
        let (name, field) = (name.as_str().unwrap_or_default(), field(index));
        for detail in names::qualified(name) {
            errors.push(invalid(&field, name, &detail));
        }
        errors.extend(standard_finalizer(name, field));
    }
    errors
}

/// The phase says what the deletion timestamp says.
fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = metadata::validate_update(object, old);
    let phase = text(object, "/status/phase");
    let (expected, detail) = if has(object, "/metadata/deletionTimestamp") {
        let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
        ("Terminating", detail)
    } else {
        let detail = "may only be 'Active' if `deletionTimestamp` is empty";
        ("Active", detail)
    };
    if phase != expected {
        errors.push(invalid("status.Phase", phase, detail));
    }
    errors
}
