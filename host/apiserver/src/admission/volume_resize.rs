//! `PersistentVolumeClaimResize`: a claim grows only where its storage class says that it can.

use eyot_store::Key;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    api::Api,
    failure::Failure,
    object::{at, text},
    quantity::Quantity,
};

pub(super) fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    claim: &Value,
) -> Result<(), Failure> {
    let update = attributes.operation == Operation::Update;
    let Some(old) = attributes.old.filter(|_| update) else {
        return Ok(());
    };
    if !attributes.is("", "persistentvolumeclaims") || size(claim) <= size(old) {
        return Ok(());
    }
    if text(old, &["status", "phase"]) != "Bound" {
        let why = "Only bound persistent volume claims can be expanded";
        return Err(attributes.forbidden(claim, why));
    }
    if !may_grow(api, claim, old) {
        let why = "only dynamically provisioned pvc can be resized and the storageclass that \
                   provisions the pvc must support resize";
        return Err(attributes.forbidden(claim, why));
    }
    Ok(())
}

fn size(claim: &Value) -> Option<Quantity> {
    let size = text(claim, &["spec", "resources", "requests", "storage"]);
    size.parse().ok()
}

fn may_grow(api: &Api, claim: &Value, old: &Value) -> bool {
    let name = class(claim);
    if name.is_empty() || name != class(old) {
        return false;
    }
    let stored = api
        .store
        .get(&Key::new("storageclasses.storage.k8s.io", "", name));
    let stored = stored.and_then(|stored| serde_json::from_slice::<Value>(&stored.json).ok());
    stored.is_some_and(|class| class.get("allowVolumeExpansion") == Some(&Value::Bool(true)))
}

/// The storage class of a claim, empty if it has none.
pub(super) fn class(claim: &Value) -> &str {
    let beta = [
        "metadata",
        "annotations",
        "volume.beta.kubernetes.io/storage-class",
    ];
    match at(claim, &beta).and_then(Value::as_str) {
        Some(name) => name,
        None => text(claim, &["spec", "storageClassName"]),
    }
}
