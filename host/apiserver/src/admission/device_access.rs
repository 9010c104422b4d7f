//! Who may have devices, and who may say which they got.
//!
//! Access to devices as their administrator, beside whoever uses them, is for namespaces that are
//! labelled for it. The status of a claim is written by two parties that should not stand in for each
//! other: whoever allocates devices and reserves the claim needs the right to
//! `resourceclaims/binding`, a driver that reports on its devices that to `resourceclaims/driver`, by
//! its own name, under verbs which say whether it may do so for every node or for its own.
//! Neither subresource has a door; they are names for rights alone.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    api::{Api, namespace_key},
    auth::{self, node_of, service_account},
    failure::Failure,
    field_error::FieldError,
    object::{at, text},
    user::User,
};

const GROUP: &str = "resource.k8s.io";
const LABEL: &str = "resource.kubernetes.io/admin-access";

pub(super) fn validate(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Failure> {
    let errors = if attributes.creates(GROUP, "resourceclaims") {
        asks_as_administrator(api, attributes, object, &["spec", "devices", "requests"])
    } else if attributes.creates(GROUP, "resourceclaimtemplates") {
        let requests = ["spec", "spec", "devices", "requests"];
        asks_as_administrator(api, attributes, object, &requests)
    } else if let (Operation::Update, "status", Some(old)) =
        (attributes.operation, attributes.subresource, attributes.old)
        && attributes.call.resource.is(GROUP, "resourceclaims")
    {
        status(api, attributes, object, old)
    } else {
        return Ok(());
    };
    match errors.as_slice() {
        [] => Ok(()),
        errors => {
            let resource = &attributes.call.resource;
            Err(resource.invalid(attributes.shown_name(object), errors))
        }
    }
}

fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    let list = at(object, path).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

fn asks_as_administrator(
    api: &Api,
    attributes: &Attributes<'_>,
    object: &Value,
    requests: &[&str],
) -> Vec<FieldError> {
    let asks = |request: &Value| at(request, &["exactly", "adminAccess"]) == Some(&true.into());
    let asked = list(object, requests).iter().position(asks);
    let field = |index| format!("spec.devices.requests[{index}].adminAccess");
    administrator(api, attributes, asked.map(field))
}

/// The label of the namespace is needed for what this field says.
fn administrator(api: &Api, attributes: &Attributes<'_>, field: Option<String>) -> Vec<FieldError> {
    let Some(field) = field else {
        return Vec::new();
    };
    let namespace = api.store.get(&namespace_key(attributes.namespace()));
    if namespace.is_some_and(|namespace| namespace.labels.get(LABEL) == Some("true")) {
        return Vec::new();
    }
    let detail = format!(
        "admin access to devices requires the `{LABEL}: true` label on the containing namespace"
    );
    vec![FieldError::forbidden(field, &detail)]
}

/// Whether the user may write this into the status of a claim.
fn status(api: &Api, attributes: &Attributes<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
    let results = ["status", "allocation", "devices", "results"];
    let has = |one: &Value| at(one, &["adminAccess"]) == Some(&true.into());
    let granted = list(old, &results).iter().any(has);
    let asked = list(object, &results).iter().position(has);
    let field = |index| format!("status.allocation.devices.results[{index}].adminAccess");
    let mut errors = administrator(api, attributes, asked.filter(|_| !granted).map(field));
    let user = &attributes.call.user;
    let verb = match attributes.call.method {
        http::Method::PATCH => "patch",
        _ => "update",
    };
    let claims = |verb: String, subresource: &'static str| auth::Attributes {
        verb: verb.into(),
        group: GROUP.into(),
        version: attributes.call.resource.version.as_str().into(),
        resource: "resourceclaims".into(),
        subresource: subresource.into(),
        ..auth::Attributes::default()
    };
    let changes = |part: &str| at(object, &["status", part]) != at(old, &["status", part]);
    if changes("allocation") || changes("reservedFor") {
        // For claims of all names in all namespaces.
        let asked = claims(verb.to_owned(), "binding");
        if let Err((_, refusal)) = api.authorizer.require(user, &asked) {
            let detail = format!(
                "changing status.allocation or status.reservedFor requires \
                 resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {}",
                refusal.message()
            );
            errors.push(FieldError::forbidden("status", &detail));
        }
    }
    let mut verbs = vec![format!("arbitrary-node:{verb}")];
    if is_of_node(user, object) {
        verbs.insert(0, format!("associated-node:{verb}"));
    }
    for driver in changed_drivers(object, old) {
        let asked = |verb: &String| auth::Attributes {
            namespace: attributes.namespace().into(),
            name: driver.into(),
            ..claims(verb.clone(), "driver")
        };
        let mut refusals = Vec::new();
        for verb in &verbs {
            match api.authorizer.require(user, &asked(verb)) {
                Ok(_) => {
                    refusals.clear();
                    break;
                }
                Err((_, refusal)) => refusals.push(refusal),
            }
        }
        if let Some(first) = refusals.first() {
            let detail = format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", \
                 verb=\"[{}]\" permission: {}",
                verbs.join(" "),
                first.message()
            );
            errors.push(FieldError::forbidden("status.devices", &detail));
        }
    }
    errors
}

/// The drivers that report something else on their devices than before, or no longer.
fn changed_drivers<'a>(object: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    let devices = ["status", "devices"];
    let key =
        |one: &'a Value| ["driver", "pool", "device", "shareID"].map(|part| text(one, &[part]));
    let mut before: HashMap<_, _> = list(old, &devices)
        .iter()
        .map(|one| (key(one), one))
        .collect();
    let mut drivers: BTreeSet<&str> = list(object, &devices)
        .iter()
        .filter(|one| before.remove(&key(one)) != Some(*one))
        .map(|one| text(one, &["driver"]))
        .collect();
    drivers.extend(before.keys().map(|[driver, ..]| *driver));
    drivers
}

/// Whether the user is a pod of the one node for which the claim is allocated.
fn is_of_node(user: &User, claim: &Value) -> bool {
    let selector = ["status", "allocation", "nodeSelector", "nodeSelectorTerms"];
    let [term] = list(claim, &selector) else {
        return false;
    };
    let ([], [field]) = (
        list(term, &["matchExpressions"]),
        list(term, &["matchFields"]),
    ) else {
        return false;
    };
    let (key, operator) = (text(field, &["key"]), text(field, &["operator"]));
    let [node] = list(field, &["values"]) else {
        return false;
    };
    key == "metadata.name"
        && operator == "In"
        && service_account(&user.name).is_some()
        && node_of(user).is_some_and(|own| *node == own)
}
