//! ServiceAccount: who a pod is to the API.

use serde_json::json;

use super::{KindSpec, check, json::text, metadata, metadata_fields, names};
use crate::table::{self, Column};

pub(super) const SPEC: KindSpec = KindSpec {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    list_kind: "ServiceAccountList",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
    decode: |value| check("v1", "ServiceAccount", value),
    default: |_| {},
    prepare: |_, _| {},
    validate: |object, old| {
        let before = old.map(|old| metadata::validate_update(object, old));
        let mut errors = before.unwrap_or_default();
        errors.extend(metadata::whole(object, true, names::subdomain));
        errors
    },
    fields: |object| metadata_fields(object, true),
    field_names: &["metadata.name", "metadata.namespace"],
    columns: &[Column::name(), Column::age()],
    cells: |object, now| {
        vec![
            json!(text(object, "/metadata/name")),
            table::age(object, now),
        ]
    },
    ..KindSpec::PLAIN
};
