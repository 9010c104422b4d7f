//! Lease: a heartbeat, and who holds a lock until when.

use serde_json::json;

use super::{
    KindSpec, check,
    json::{at, text},
    metadata_fields, names, validate_metadata,
};
use crate::{
    field_error::FieldError,
    table::{self, Column},
};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    list_kind: "LeaseList",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
    decode: |value| check("coordination.k8s.io/v1", "Lease", value),
    default: |object| {
        super::json::child(object, "spec");
    },
    prepare: |_, _| {},
    validate: |object, old| {
        let mut errors = validate_metadata(object, old, true, names::subdomain);
        let seconds = at(object, "/spec/leaseDurationSeconds");
        if seconds.as_i64().is_some_and(|seconds| seconds <= 0) {
            let detail = "must be greater than 0";
            errors.push(FieldError::invalid(
                "spec.leaseDurationSeconds",
                seconds,
                detail,
            ));
        }
        let moves = at(object, "/spec/leaseTransitions");
        if moves.as_i64().is_some_and(|moves| moves < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid("spec.leaseTransitions", moves, detail));
        }
        errors
    },
    fields: |object| metadata_fields(object, true),
    field_names: &["metadata.name", "metadata.namespace"],
    columns: &[
        Column::name(),
        Column::new("Holder", "Who holds the lease."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/spec/holderIdentity")),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};
