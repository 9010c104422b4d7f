//! ReplicaSet: keeps a number of equal pods running.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, child, fill, int, text},
    metadata_fields, names, status_only, validate_metadata, workload,
};
use crate::table::{self, Column};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    list_kind: "ReplicaSetList",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    status: true,
    scale: true,
    generation: true,
    decode: |value| check("apps/v1", "ReplicaSet", value),
    default: |object| workload::default(child(object, "spec")),
    prepare,
    validate: |object, old| {
        let mut errors = validate_metadata(object, old, true, names::subdomain);
        errors.extend(workload::validate(object, old));
        errors
    },
    fields: |object| {
        let mut fields = metadata_fields(object, true);
        let replicas = int(object, "/status/replicas").to_string();
        fields.push(("status.replicas".into(), replicas.into()));
        fields
    },
    field_names: &["metadata.name", "metadata.namespace", "status.replicas"],
    columns: &[
        Column::name(),
        Column::integer("Desired", "Pods that are wanted."),
        Column::integer("Current", "Pods that exist."),
        Column::integer("Ready", "Pods that are ready."),
        Column::age(),
        Column::new("Containers", "Names of the template's containers.").wide(),
        Column::new("Images", "Images of the template's containers.").wide(),
        Column::new("Selector", "Which pods belong to the set.").wide(),
    ],
    cells: |object, now| {
        let (names, images) = workload::containers(object);
        vec![
            json!(text(object, "/metadata/name")),
            json!(int(object, "/spec/replicas")),
            json!(int(object, "/status/replicas")),
            json!(int(object, "/status/readyReplicas")),
            table::age(object, now),
            json!(names),
            json!(images),
            json!(workload::selector_text(at(object, "/spec/selector"))),
        ]
    },
    ..KindSpec::PLAIN
};

fn prepare(object: &mut Value, old: Option<&Value>) {
    status_only(object, old);
    fill(child(object, "status"), "replicas", 0);
}
