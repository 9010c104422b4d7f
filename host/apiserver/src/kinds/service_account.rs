//! ServiceAccount: who a pod is to the API.

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, items, text},
    metadata, metadata_fields, names,
};
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
    prepare: |object, _| {
        // Secrets are those of the same namespace, by name.
        for secret in items(object, "secrets") {
            let name = text(secret, "/name").to_owned();
            *secret = match name.as_str() {
                "" => json!({}),
                name => json!({"name": name}),
            };
        }
    },
    validate: |object, old| {
        let before = old.map(|old| metadata::validate_update(object, old));
        let mut errors = before.unwrap_or_default();
        errors.extend(metadata::whole(object, true, names::subdomain));
        errors
    },
    warnings,
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

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// A restriction that is going, where it is newly asked for.
fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let asks = |object: &Value| at(object, "/metadata/annotations").get(MOUNTABLE).is_some();
    let newly = asks(object) && !old.is_some_and(asks);
    Vec::from_iter(newly.then(|| {
        format!(
            "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to \
             isolate access to mounted secrets"
        )
    }))
}
