//! The rules of annotations that have a meaning for pods.

use serde_json::{Value, json};

use super::{GROUPS, security::PROFILE_PATH, visit};
use crate::kinds::{
    descent::Descent,
    json::{at, entries, list, text},
};

pub(in crate::kinds::pod) const MIRROR: &str = "kubernetes.io/config.mirror";
pub(in crate::kinds::pod) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
pub(in crate::kinds::pod) const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(in crate::kinds::pod) const SECCOMP_OF: &str =
    "container.seccomp.security.alpha.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn value<'a>(annotations: &'a Value, key: &str) -> Option<&'a str> {
    annotations.get(key).and_then(Value::as_str)
}

/// At `metadata.annotations` of a pod or a template.
pub(in crate::kinds::pod) fn of_pod(f: &mut Descent, annotations: &Value, spec: &Value) {
    if annotations.is_null() {
        return;
    }
    if let Some(mirror) = value(annotations, MIRROR)
        && text(spec, "/nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        f.item(MIRROR, |f| f.invalid("", mirror, detail));
    }
    if let Some(cost) = value(annotations, DELETION_COST)
        && !is_cost(cost)
    {
        f.item(DELETION_COST, |f| {
            f.invalid("", cost, "must be a 32bit integer")
        });
    }
    if let Some(profile) = value(annotations, SECCOMP) {
        seccomp(f, SECCOMP, profile);
    }
    for (key, profile) in entries(annotations, "") {
        let profile = profile.as_str().unwrap_or_default();
        if key.starts_with(SECCOMP_OF) {
            seccomp(f, key, profile);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            f.item(key, |f| {
                if !has_container(spec, container) {
                    f.invalid("", container, "container not found");
                }
                let known = matches!(profile, "" | "runtime/default" | "unconfined")
                    || profile.starts_with("localhost/");
                if !known {
                    let detail = format!("invalid AppArmor profile name: {profile:?}");
                    f.invalid("", profile, &detail);
                }
            });
        }
    }
}

/// A whole number of 32 bits, spelled in one way only.
fn is_cost(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = text == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    plain && text.parse::<i32>().is_ok()
}

fn has_container(spec: &Value, name: &str) -> bool {
    GROUPS.iter().any(|group| {
        let all = list(spec, &format!("/{group}"));
        all.iter().any(|one| text(one, "/name") == name)
    })
}

fn seccomp(f: &mut Descent, key: &str, profile: &str) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix("localhost/") {
            Some(path) => f.descending(key, path),
            None => f.invalid(key, profile, "must be a valid seccomp profile"),
        },
    }
}

/// The profile that an AppArmor annotation means, as the field has it; `None` if it means none.
pub(in crate::kinds::pod) fn armour(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let path = other.strip_prefix("localhost/")?;
            let is_path = !path.is_empty() && path.trim() == path && path.len() <= PROFILE_PATH;
            is_path.then(|| json!({"type": "Localhost", "localhostProfile": path}))
        }
    }
}

/// Containers of a pod whose AppArmor annotation says what no field does: the key of the annotation
/// and what it means.
pub(in crate::kinds::pod) fn unarmed(
    pod: &Value,
    container: &Value,
) -> Option<(String, Option<Value>)> {
    let key = format!("{APP_ARMOR}{}", text(container, "/name"));
    let said = value(at(pod, "/metadata/annotations"), &key)?;
    if !at(container, "/securityContext/appArmorProfile").is_null() {
        return None;
    }
    let profile = armour(said);
    let of_pod = at(pod, "/spec/securityContext/appArmorProfile");
    (profile.as_ref() != Some(of_pod)).then_some((key, profile))
}

/// Annotations and the fields that took their place must say the same; at the spec.
pub(in crate::kinds::pod) fn agree(f: &mut Descent, annotations: &Value, spec: &Value) {
    if annotations.is_null() {
        return;
    }
    let profile = at(spec, "/securityContext/seccompProfile");
    if let Some(said) = value(annotations, SECCOMP) {
        same(f, "seccomp", profile, said, "seccompProfile");
    }
    visit(f, spec, |f, container| {
        let key = format!("{SECCOMP_OF}{}", text(container, "/name"));
        let profile = at(container, "/securityContext/seccompProfile");
        if let Some(said) = value(annotations, &key) {
            same(f, "seccomp", profile, said, "seccompProfile");
        }
    });
    if text(spec, "/os/name") == "windows" {
        return;
    }
    let of_pod = at(spec, "/securityContext/appArmorProfile");
    visit(f, spec, |f, container| {
        let key = format!("{APP_ARMOR}{}", text(container, "/name"));
        let own = at(container, "/securityContext/appArmorProfile");
        let profile = if own.is_null() { of_pod } else { own };
        if let Some(said) = value(annotations, &key) {
            same(f, "apparmor", profile, said, "appArmorProfile");
        }
    });
}

fn same(f: &mut Descent, what: &str, profile: &Value, said: &str, field: &str) {
    let default = match what {
        "seccomp" => ["runtime/default", "docker/default"].as_slice(),
        _ => ["runtime/default"].as_slice(),
    };
    let path = text(profile, "/localhostProfile");
    let wrong = match text(profile, "/type") {
        "Unconfined" if said != "unconfined" => "type",
        "RuntimeDefault" if !default.contains(&said) => "type",
        "Localhost" => match said.strip_prefix("localhost/") {
            None => "type",
            Some(said) if said != path => "localhostProfile",
            Some(_) => return,
        },
        _ => return,
    };
    let part = if wrong == "type" { "type" } else { "profile" };
    let detail = format!("{what} {part} in annotation and field must match");
    f.forbidden(&format!("securityContext.{field}.{wrong}"), &detail);
}
