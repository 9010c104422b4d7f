//! Lease: a heartbeat, and who holds a lock until when.

use serde_json::json;

use super::{
    KindSpec, check,
    findings::Findings,
    json::{at, child, has, remove, text},
    metadata_fields, names, validate_metadata_of_any,
};
use crate::table::{self, Column};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    needs_revision: true,
    list_kind: "LeaseList",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
    put_creates: true,
    decode: |value| check("coordination.k8s.io/v1", "Lease", value),
    default: |object| {
        child(object, "spec");
    },
    prepare: |object, old| {
        // Elections by the server itself are not offered, so nothing of them is kept.
        for name in ["strategy", "preferredHolder"] {
            let pointer = format!("/spec/{name}");
            if !old.is_some_and(|old| has(old, &pointer)) {
                remove(child(object, "spec"), name);
            }
        }
    },
    validate: |object, old| {
        let mut errors = Findings::default();
        errors.extend(validate_metadata_of_any(
            object,
            old,
            true,
            names::subdomain,
        ));
        if let Some(seconds) = at(object, "/spec/leaseDurationSeconds").as_i64()
            && seconds <= 0
        {
            let detail = "must be greater than 0";
            errors.invalid("spec.leaseDurationSeconds", seconds, detail);
        }
        let moves = at(object, "/spec/leaseTransitions");
        errors.not_negative("spec.leaseTransitions", moves);
        errors.done()
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
    ..KindSpec::NAMESPACED
};
