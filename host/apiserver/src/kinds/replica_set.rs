//! ReplicaSet: keeps a number of equal pods running.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, child, fill, int, text},
    metadata::{self, TWICE, judge},
    metadata_fields, names, status_only, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

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
    validate,
    validate_status,
    warnings: |object, old| workload::warnings(object, old, "/spec/template"),
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
        let (names, images) = workload::containers(object, "/spec/template");
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

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = judge(object, old, true, names::subdomain, TWICE, || rules(object));
    let mut f = Descent::at("spec");
    if let Some(old) = old {
        f.immutable(at(object, "/spec"), at(old, "/spec"), "selector");
    }
    errors.extend(f.into_errors());
    errors
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    let spec = at(object, "/spec");
    f.within("spec", |f| {
        f.not_negative(spec, "replicas");
        f.not_negative(spec, "minReadySeconds");
        // Kubernetes says "deployment" here, too.
        if workload::selector(f, spec, "deployment", true) {
            let selector = at(spec, "/selector");
            if selector.is_null() || !workload::is_everything(selector) {
                workload::selects_template(f, spec);
            }
            workload::lasting_template(f, spec, "ReplicaSet");
        } else {
            let detail = "invalid label selector";
            f.invalid("selector", at(spec, "/selector").clone(), detail);
        }
    });
    f.into_errors()
}

/// Also that of a replication controller.
pub(super) fn validate_status(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    f.extend(metadata::validate_update(object, old));
    f.within("status", |f| {
        let counts = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "terminatingReplicas",
            "observedGeneration",
        ];
        let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::status_counts(f, at(object, "/status"), &counts, &parts);
    });
    f.into_errors()
}
