//! VolumeAttachment: the wish that a volume be attached to a node.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    findings::{Findings, IMMUTABLE, structure, text_or_empty},
    json::{at, child, entries, fill, has, text},
    metadata::{ANEW_THEN_CHANGES, judge},
    names,
    persistent_volume::validate_spec,
    status_only,
    volume_source::driver_name,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

/// What a driver may note about an attachment.
const METADATA_SIZE: usize = 256 * 1024;
const MESSAGE_LENGTH: usize = 1024;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "storage.k8s.io",
    kind: "VolumeAttachment",
    needs_revision: true,
    list_kind: "VolumeAttachmentList",
    plural: "volumeattachments",
    singular: "volumeattachment",
    status: true,
    decode: |value| check("storage.k8s.io/v1", "VolumeAttachment", value),
    default: |object| {
        let spec = child(object, "spec");
        child(spec, "source");
        fill(spec, "attacher", "");
        fill(spec, "nodeName", "");
        fill(child(object, "status"), "attached", false);
    },
    prepare: |object, old| {
        status_only(object, old);
        fill(child(object, "status"), "attached", false);
    },
    status_keeps_metadata: true,
    validate,
    validate_status: |object, old| validate(object, Some(old)),
    columns: &[
        Column::name(),
        Column {
            format: "name",
            ..Column::new("Attacher", "The driver that attaches.")
        },
        Column::new("PV", "The volume."),
        Column::new("Node", "The node."),
        Column {
            kind: "boolean",
            ..Column::new("Attached", "Whether it is done.")
        },
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/spec/attacher")),
            json!(text(object, "/spec/source/persistentVolumeName")),
            json!(text(object, "/spec/nodeName")),
            json!(at(object, "/status/attached") == true),
            table::age(object, now),
        ]
    },
    ..KindSpec::CLUSTER
};

fn validate(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let looks = ANEW_THEN_CHANGES;
    let judged = judge(object, old, false, names::subdomain, looks, || {
        rules(object)
    });
    errors.extend(judged);
    let spec = at(object, "/spec");
    let attacher = text(spec, "/attacher");
    match old {
        None => {
            driver_name(attacher, "spec.attacher", &mut errors);
            if let Some(volume) = at(spec, "/source/persistentVolumeName").as_str() {
                let field = "spec.source.persistentVolumeName";
                errors.named(field, volume, names::subdomain);
            }
        }
        Some(old) if at(old, "/spec") != spec => {
            let source = at(spec, "/source");
            let source = structure(&[
                ("PersistentVolumeName", at(source, "/persistentVolumeName")),
                ("InlineVolumeSpec", at(source, "/inlineVolumeSpec")),
            ]);
            let shown = format!(
                "{{\"Attacher\":{},\"Source\":{source},\"NodeName\":{}}}",
                text_or_empty(spec, "/attacher"),
                text_or_empty(spec, "/nodeName"),
            );
            errors.invalid_shown("spec", &shown, IMMUTABLE);
        }
        Some(_) => {}
    }
    errors.done()
}

fn rules(object: &Value) -> Vec<FieldError> {
    let mut errors = Findings::default();
    let spec = at(object, "/spec");
    if text(spec, "/attacher").is_empty() {
        errors.required("spec.attacher", "");
    }
    source(at(spec, "/source"), &mut errors);
    errors.named("spec.nodeName", text(spec, "/nodeName"), names::subdomain);
    status(at(object, "/status"), &mut errors);
    errors.done()
}

fn source(source: &Value, errors: &mut Findings) {
    let field = "spec.source";
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (volume, inline) = (
        at(source, "/persistentVolumeName").as_str(),
        has(source, "/inlineVolumeSpec"),
    );
    match (volume, inline) {
        (None, false) => errors.required(field, detail),
        (Some(_), true) => errors.forbidden(field, detail),
        (Some(""), false) => {
            let detail = "must specify non empty persistentVolumeName";
            errors.required(format!("{field}.persistentVolumeName"), detail);
        }
        (Some(_), false) => {}
        (None, true) => {
            let field = "spec.source.inlineVolumeSpec";
            validate_spec(at(source, "/inlineVolumeSpec"), "", true, field, errors);
        }
    }
}

fn status(status: &Value, errors: &mut Findings) {
    let size: usize = entries(status, "/attachmentMetadata")
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > METADATA_SIZE {
        errors.too_long("status.attachmentMetadata", METADATA_SIZE);
    }
    for name in ["attachError", "detachError"] {
        let error = at(status, &format!("/{name}"));
        if text(error, "/message").len() > MESSAGE_LENGTH {
            // The limit that is named is the other one; so it is in Kubernetes.
            errors.too_long(format!("status.{name}.message"), METADATA_SIZE);
        }
        if let Some(code) = at(error, "/errorCode").as_i64()
            && code < 0
        {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.invalid(format!("status.{name}.errorCode"), code, detail);
        }
    }
}
