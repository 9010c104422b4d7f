//! Nobody grants what he does not hold: the check on writes of roles and bindings.
//!
//! Whoever may `escalate` a role writes any rule into it, whoever may `bind` a role gives it to
//! anybody; all others must themselves be granted every single right that the write would hand out.

use serde_json::{Value, json};

use super::{GROUP, Rule, describe, missing, quoted};
use crate::{
    admission::{Attributes as Write, Operation},
    api::Api,
    auth::Attributes,
    failure::Failure,
    object,
    user::User,
};

/// Refuse a write of a role or a binding that would widen its writer's rights.
pub(crate) fn check(api: &Api, write: &Write<'_>, next: &Value) -> Result<(), Failure> {
    let call = write.call;
    let is_write = matches!(write.operation, Operation::Create | Operation::Update);
    if call.resource.group != GROUP || !is_write || call.user.is_master() {
        return Ok(());
    }
    if write.old.is_some_and(|old| is_unchanged(old, next)) {
        return Ok(());
    }
    match call.resource.plural.as_str() {
        "roles" | "clusterroles" => role(api, write, next),
        "rolebindings" | "clusterrolebindings" => binding(api, write, next),
        _ => Ok(()),
    }
}

fn role(api: &Api, write: &Write<'_>, next: &Value) -> Result<(), Failure> {
    let call = write.call;
    let escalate = Attributes {
        verb: "escalate".into(),
        group: GROUP.into(),
        version: "*".into(),
        resource: call.resource.plural.as_str().into(),
        namespace: call.namespace.as_str().into(),
        name: call.name.as_str().into(),
        ..Attributes::default()
    };
    if api.authorizer.authorize(&call.user, &escalate).is_allowed() {
        return Ok(());
    }
    let held = api.authorizer.rules(&call.user, &call.namespace);
    let wanted = parse(next.get("rules"));
    confirm(&call.user, &held, &wanted).map_err(|why| write.forbidden(next, why))?;
    let gathers = |role: &Value| {
        let selectors = role.pointer("/aggregationRule/clusterRoleSelectors");
        selectors
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    };
    if gathers(next) || write.old.is_some_and(gathers) {
        let everything = parse(Some(&json!([
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
            {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ])));
        if !missing(&held, &everything).is_empty() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(write.forbidden(next, why));
        }
    }
    Ok(())
}

fn binding(api: &Api, write: &Write<'_>, next: &Value) -> Result<(), Failure> {
    let call = write.call;
    let text = |key| object::text(next, &["roleRef", key]);
    let (plural, namespace) = match text("kind") {
        "ClusterRole" => ("clusterroles", ""),
        "Role" => ("roles", call.namespace.as_str()),
        // Validation says what is wrong with it.
        _ => return Ok(()),
    };
    let bind = Attributes {
        verb: "bind".into(),
        group: text("apiGroup").into(),
        version: "*".into(),
        resource: plural.into(),
        namespace: call.namespace.as_str().into(),
        name: text("name").into(),
        ..Attributes::default()
    };
    if api.authorizer.authorize(&call.user, &bind).is_allowed() {
        return Ok(());
    }
    let role = api.authorizer.role(namespace, text("name"));
    let wanted = role.ok_or_else(|| Failure::not_found(GROUP, plural, text("name")))?;
    let held = api.authorizer.rules(&call.user, &call.namespace);
    confirm(&call.user, &held, &wanted).map_err(|why| write.forbidden(next, why))
}

fn confirm(user: &User, held: &[Rule], wanted: &[Rule]) -> Result<(), String> {
    let missing = missing(held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups = quoted(user.groups.iter().map(String::as_str));
    Err(format!(
        "user {:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        describe(&missing).join("\n")
    ))
}

fn parse(rules: Option<&Value>) -> Vec<Rule> {
    let rules = rules.cloned().unwrap_or_default();
    let rules: Option<Vec<Rule>> = serde_json::from_value(rules).unwrap_or_default();
    rules.unwrap_or_default()
}

/// Whether a write changes only what garbage collection needs to change.
fn is_unchanged(old: &Value, next: &Value) -> bool {
    let rest = |value: &Value| {
        let mut value = value.clone();
        let metadata = object::metadata(&mut value);
        for key in [
            "ownerReferences",
            "finalizers",
            "managedFields",
            "resourceVersion",
        ] {
            metadata.remove(key);
        }
        value
    };
    rest(old) == rest(next)
}
