//! PodTemplate: a template by itself, for whoever makes pods of it.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, child, text},
    names, pod, validate_metadata, workload,
};
use crate::table::Column;

pub(super) const SPEC: KindSpec = KindSpec {
    kind: "PodTemplate",
    list_kind: "PodTemplateList",
    plural: "podtemplates",
    singular: "podtemplate",
    generation: true,
    decode: |value| check("v1", "PodTemplate", value),
    default: |object: &mut Value| pod::default_template(child(object, "template")),
    validate: |object, old| {
        let mut errors = validate_metadata(object, old, true, names::subdomain);
        errors.extend(pod::validate_template(at(object, "/template"), "template"));
        errors
    },
    warnings: |object, _| pod::warnings::of(at(object, "/template"), "template."),
    columns: &[
        Column::name(),
        Column::new("Containers", "Names of the template's containers."),
        Column::new("Images", "Images of the template's containers."),
        Column::new("Pod Labels", "Labels of the pods."),
    ],
    cells: |object, _| {
        let (names, images) = workload::containers(object, "/template");
        vec![
            json!(text(object, "/metadata/name")),
            json!(names),
            json!(images),
            json!(workload::labels_text(at(
                object,
                "/template/metadata/labels"
            ))),
        ]
    },
    ..KindSpec::PLAIN
};
