//! `NamespaceLifecycle`: objects live in namespaces that exist and are not about to go, and some
//! namespaces never go.

use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::{
    api::{Api, namespace_key},
    failure::Failure,
};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn check(api: &Api, attributes: &Attributes<'_>, object: &Value) -> Result<(), Failure> {
    let call = attributes.call;
    if call.resource.is("", "namespaces") {
        if attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
            let why = "this namespace may not be deleted";
            return Err(Failure::forbidden("", "namespaces", attributes.name, why));
        }
        return Ok(());
    }
    let namespace = call.namespace.as_str();
    // Who may be where is nobody's business to learn from this answer.
    let is_question = call.resource.group == "authorization.k8s.io";
    if namespace.is_empty() || attributes.operation != Operation::Create || is_question {
        return Ok(());
    }
    let found = api
        .store
        .get(&namespace_key(namespace))
        .ok_or_else(|| Failure::not_found("", "namespaces", namespace))?;
    if found.fields.get("status.phase") != Some("Terminating") {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let cause = json!({
        "reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {namespace} is being terminated"),
    });
    Err(attributes.forbidden(object, why).causes(vec![cause]))
}
