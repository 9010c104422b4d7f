//! ReplicationController: the ReplicaSet of old, with a plain map for a selector.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    descent::Descent,
    json::{at, child, entries, fill, has, int, text},
    metadata::{TWICE, judge},
    metadata_fields, names, pod, replica_set, status_only, workload,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "ReplicationController",
    list_kind: "ReplicationControllerList",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    status: true,
    scale: true,
    generation: true,
    decode: |value| check("v1", "ReplicationController", value),
    default,
    prepare: |object, old| {
        status_only(object, old);
        fill(child(object, "status"), "replicas", 0);
    },
    validate,
    validate_status: replica_set::validate_status,
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
        Column::new("Selector", "Which pods belong to the controller.").wide(),
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
            json!(workload::labels_text(at(object, "/spec/selector"))),
        ]
    },
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    fill(spec, "replicas", 1);
    if !has(spec, "/template") {
        return;
    }
    pod::default_template(child(spec, "template"));
    let labels = at(spec, "/template/metadata/labels").clone();
    if labels.is_null() {
        return;
    }
    if entries(spec, "/selector").next().is_none() {
        spec["selector"] = labels.clone();
    }
    if entries(object, "/metadata/labels").next().is_none() {
        child(object, "metadata")["labels"] = labels;
    }
}

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    judge(object, old, true, names::subdomain, TWICE, || rules(object))
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut f = Descent::at("");
    let spec = at(object, "/spec");
    f.within("spec", |f| {
        f.not_negative(spec, "minReadySeconds");
        let selector = at(spec, "/selector");
        let empty = entries(selector, "").next().is_none();
        if empty {
            f.required("selector", "");
        }
        f.not_negative(spec, "replicas");
        if !has(spec, "/template") {
            return f.required("template", "");
        }
        let labels = at(spec, "/template/metadata/labels");
        let matches = entries(selector, "").all(|(key, value)| labels.get(key) == Some(value));
        if !empty && !matches {
            let detail = "`selector` does not match template `labels`";
            f.invalid("template.metadata.labels", labels.clone(), detail);
        }
        workload::lasting_template(f, spec, "ReplicationController");
    });
    f.into_errors()
}
