//! Access to devices as their administrator, beside whoever uses them, is for namespaces that are
//! labelled for it.

use serde_json::Value;

use super::Attributes;
use crate::{
    api::{Api, namespace_key},
    failure::Failure,
    field_error::FieldError,
    object::at,
};

const GROUP: &str = "resource.k8s.io";
const LABEL: &str = "resource.kubernetes.io/admin-access";

pub(super) fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Failure> {
    let spec: &[&str] = if attributes.creates(GROUP, "resourceclaims") {
        &["spec", "devices", "requests"]
    } else if attributes.creates(GROUP, "resourceclaimtemplates") {
        &["spec", "spec", "devices", "requests"]
    } else {
        return Ok(());
    };
    let requests = at(object, spec).and_then(Value::as_array);
    let asked = requests
        .into_iter()
        .flatten()
        .position(|request| at(request, &["exactly", "adminAccess"]) == Some(&Value::Bool(true)));
    let Some(index) = asked else {
        return Ok(());
    };
    let namespace = api.store.get(&namespace_key(attributes.namespace()));
    if namespace.is_some_and(|namespace| namespace.labels.get(LABEL) == Some("true")) {
        return Ok(());
    }
    let error = FieldError::forbidden(
        format!("spec.devices.requests[{index}].adminAccess"),
        &format!(
            "admin access to devices requires the `{LABEL}: true` label on the containing namespace"
        ),
    );
    let resource = &attributes.call.resource;
    Err(resource.invalid(attributes.shown_name(object), &[error]))
}
