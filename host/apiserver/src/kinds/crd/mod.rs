//! CustomResourceDefinition: a kind that a user adds to the API.

pub(crate) mod conversion;
mod validate;
mod versions;

use serde_json::{Value, json};

use super::{
    KindSpec, check,
    json::{at, child, fill, list, text},
    metadata_fields, status_only,
};
use crate::table::Column;

pub(super) const SPEC: KindSpec = KindSpec {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    needs_revision: true,
    list_kind: "CustomResourceDefinitionList",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    status: true,
    scale: false,
    generation: true,
    decode: |value| check("apiextensions.k8s.io/v1", "CustomResourceDefinition", value),
    default,
    prepare: |object, old| {
        status_only(object, old);
        stored_versions(object);
    },
    validate: validate::definition,
    validate_status: validate::status,
    fields: |object| metadata_fields(object, false),
    field_names: &["metadata.name"],
    columns: &[
        Column::name(),
        Column {
            kind: "date",
            ..Column::new("Created At", "When the definition was made.")
        },
    ],
    cells: |object, _now| {
        vec![
            json!(text(object, "/metadata/name")),
            json!(text(object, "/metadata/creationTimestamp")),
        ]
    },
    status_keeps_metadata: true,
    ..KindSpec::PLAIN
};

fn default(object: &mut Value) {
    let spec = child(object, "spec");
    let kind = text(spec, "/names/kind").to_owned();
    let names = child(spec, "names");
    if !kind.is_empty() {
        fill(names, "singular", kind.to_lowercase());
        fill(names, "listKind", format!("{kind}List"));
    }
    let conversion = child(spec, "conversion");
    fill(conversion, "strategy", "None");
    if let Some(service) = conversion.pointer_mut("/webhook/clientConfig/service") {
        fill(service, "port", 443);
    }
    let status = child(object, "status");
    fill(status, "conditions", Value::Null);
    fill(status, "acceptedNames", json!({"plural": "", "kind": ""}));
    fill(status, "storedVersions", Value::Null);
}

/// A version that ever was the storage version is remembered.
fn stored_versions(object: &mut Value) {
    let storage: Vec<Value> = list(object, "/spec/versions")
        .iter()
        .filter(|version| at(version, "/storage") == &Value::Bool(true))
        .map(|version| at(version, "/name").clone())
        .collect();
    let status = child(object, "status");
    fill(status, "acceptedNames", json!({"plural": "", "kind": ""}));
    let Some(version) = storage.into_iter().next() else {
        return;
    };
    fill(status, "storedVersions", json!([]));
    if let Some(Value::Array(stored)) = status.get_mut("storedVersions")
        && !stored.contains(&version)
    {
        stored.push(version);
    }
}
