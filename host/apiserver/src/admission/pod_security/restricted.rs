//! The checks of the level `restricted`: what hardening asks for.

use serde_json::Value;

use super::{
    baseline::{self, container_profile, pod_profile},
    pod::{Pod, Violation, containers, context, plural, quoted, setters, sorted, texts},
};
use crate::object::text;

/// Volumes that hold only what the API or the pod itself puts there.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// The others.
const RESTRICTED_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub(super) fn privilege_escalation(pod: Pod<'_>) -> Option<Violation> {
    let no = Some(&Value::Bool(false));
    let bad = pod.those(|container| context(container, &["allowPrivilegeEscalation"]) != no);
    if bad.is_empty() {
        return None;
    }
    let who = containers(&bad);
    Violation::new(
        "allowPrivilegeEscalation != false",
        format!("{who} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

pub(super) fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let drops =
        |container| texts(context(container, &["capabilities", "drop"])).any(|name| name == "ALL");
    let added = |container| {
        texts(context(container, &["capabilities", "add"]))
            .filter(|name| *name != "NET_BIND_SERVICE")
    };
    let keeping = pod.those(|container| !drops(container));
    let adding = pod.those(|container| added(container).next().is_some());
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = containers(&keeping);
        details.push(format!(
            "{who} must set securityContext.capabilities.drop=[\"ALL\"]"
        ));
    }
    if !adding.is_empty() {
        let names = quoted(sorted(pod.containers().flat_map(added)));
        let who = containers(&adding);
        details.push(format!(
            "{who} must not include {names} in securityContext.capabilities.add"
        ));
    }
    if details.is_empty() {
        return None;
    }
    Violation::new("unrestricted capabilities", details.join("; "))
}

pub(super) fn volumes(pod: Pod<'_>) -> Option<Violation> {
    let has = |volume: &Value, kind: &str| volume.get(kind).is_some_and(|v| !v.is_null());
    let bad: Vec<&Value> = pod
        .volumes()
        .filter(|volume| !VOLUMES.iter().any(|kind| has(volume, kind)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let kind = |volume: &&Value| {
        let mut kinds = RESTRICTED_VOLUMES.into_iter();
        kinds.find(|kind| has(volume, kind)).unwrap_or("unknown")
    };
    let kinds = sorted(bad.iter().map(kind));
    let noun = plural(bad.len(), "volume", "volumes");
    let uses = plural(bad.len(), "uses", "use");
    let types = plural(
        kinds.len(),
        "restricted volume type",
        "restricted volume types",
    );
    let names = quoted(bad.iter().map(|volume| text(volume, &["name"])));
    Violation::new(
        "restricted volume types",
        format!("{noun} {names} {uses} {types} {}", quoted(kinds)),
    )
}

pub(super) fn non_root(pod: Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = pod
        .spec(&["securityContext", "runAsNonRoot"])
        .and_then(Value::as_bool);
    let of = |container| context(container, &["runAsNonRoot"]).and_then(Value::as_bool);
    let bad = pod.those(|container| of(container) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &bad) {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return Violation::new(REASON, detail);
    }
    if of_pod == Some(true) {
        return None;
    }
    let silent = pod.those(|container| of(container).is_none());
    if silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    Violation::new(
        REASON,
        format!("pod or {who} must set securityContext.runAsNonRoot=true"),
    )
}

/// Root of a user namespace is not the node's root.
pub(super) fn non_root_35(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    non_root(pod)
}

pub(super) fn user(pod: Pod<'_>) -> Option<Violation> {
    let is_root = |user: Option<&Value>| user.and_then(Value::as_i64) == Some(0);
    let bad = pod.those(|container| is_root(context(container, &["runAsUser"])));
    let who = setters(is_root(pod.spec(&["securityContext", "runAsUser"])), &bad)?;
    Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

pub(super) fn user_35(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    user(pod)
}

pub(super) fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    if let Some(violation) = baseline::seccomp(pod) {
        return Some(violation);
    }
    if pod_profile(pod, "seccompProfile").is_some() {
        return None;
    }
    let silent = pod.those(|container| container_profile(container, "seccompProfile").is_none());
    if silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    Violation::new(
        "seccompProfile",
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\""
        ),
    )
}
