//! `NodeRestriction`: what a node may write, beyond what its role says.
//!
//! Its own Node object (but not the labels and taints by which others are steered to it), its own
//! lease, the status of its own pods, mirrors of pods that it was given by other means, and tokens
//! for accounts of its pods, bound to these pods.

use eyot_store::Key;
use serde_json::{Map, Value};

use super::{LEASES, graph, name_of};
use crate::{
    admission::{Attributes, Operation},
    api::Api,
    failure::Failure,
    object,
};

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels under Kubernetes' own names that a node may set on itself.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "feature.node.kubernetes.io",
];
const OWN_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Refuse what a node may not write. `next` is null for a deletion.
pub(crate) fn check(api: &Api, write: &Attributes<'_>, next: &Value) -> Result<(), Failure> {
    let Some(node) = name_of(&write.call.user) else {
        return Ok(());
    };
    let refused = match (
        write.call.resource.group.as_str(),
        write.call.resource.plural.as_str(),
    ) {
        ("", "pods") => pod(api, write, node, next),
        ("", "nodes") => own_node(write, node, next),
        ("", "serviceaccounts") if write.subresource == "token" => token(api, write, node, next),
        ("", "persistentvolumeclaims") => claim(write, node, next),
        ("coordination.k8s.io", "leases") => lease(write, node, next),
        ("storage.k8s.io", "csinodes") => csi_node(write, node, next),
        ("resource.k8s.io", "resourceslices") => slice(write, node, next),
        _ => Ok(()),
    };
    refused.map_err(|why| write.forbidden(next, why))
}

type Refused = Result<(), String>;

/// The name that the request gives, or the object.
fn name<'a>(write: &'a Attributes<'_>, next: &'a Value) -> &'a str {
    match write.name {
        "" => object::name(next),
        name => name,
    }
}

fn pod(api: &Api, write: &Attributes<'_>, node: &str, next: &Value) -> Refused {
    let on = |pod: &Value| object::text(pod, &["spec", "nodeName"]).to_owned();
    let own = |pod: Option<&Value>, what: &str| match pod {
        Some(pod) if on(pod) != node => Err(format!("node {node:?} can only {what} itself")),
        _ => Ok(()),
    };
    match (write.subresource, write.operation) {
        ("", Operation::Create) => mirror(node, next),
        ("", Operation::Delete) => own(write.old, "delete pods with spec.nodeName set to"),
        ("", _) => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            write.operation.name()
        )),
        ("status", _) => {
            own(
                write.old,
                "update pod status for pods with spec.nodeName set to",
            )?;
            let labels = |pod: Option<&Value>| {
                pod.and_then(|pod| object::at(pod, &["metadata", "labels"]))
                    .cloned()
            };
            match labels(write.old) == labels(Some(next)) {
                true => Ok(()),
                false => Err(format!(
                    "node {node:?} cannot update labels through pod status"
                )),
            }
        }
        ("eviction", _) => {
            let key = Key::new(
                "pods",
                write.call.namespace.as_str(),
                write.call.name.as_str(),
            );
            let stored = api.store.get(&key);
            let stored = stored.and_then(|pod| serde_json::from_slice::<Value>(&pod.json).ok());
            own(stored.as_ref(), "evict pods with spec.nodeName set to")
        }
        (other, _) => Err(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
    }
}

/// A new pod of a node is a mirror of one that it runs already.
fn mirror(node: &str, pod: &Value) -> Refused {
    if object::at(pod, &["metadata", "annotations", MIRROR]).is_none() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if object::text(pod, &["spec", "nodeName"]) != node {
        return Err(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = object::at(pod, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    for owner in owners.into_iter().flatten() {
        let text = |key| object::text(owner, &[key]);
        if text("apiVersion") != "v1" || text("kind") != "Node" || text("name") != node {
            return Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
    }
    let refers = |kind: graph::Kind| {
        let references = graph::references(pod, object::name(pod));
        references.iter().any(|(found, _)| *found == kind)
    };
    for (kind, what) in [
        (graph::Kind::Account, "a service account"),
        (graph::Kind::Secret, "secrets"),
        (graph::Kind::ConfigMap, "configmaps"),
        (graph::Kind::Claim, "persistentvolumeclaims"),
        (graph::Kind::ResourceClaim, "resourceclaims"),
    ] {
        if refers(kind) {
            return Err(format!(
                "node {node:?} can not create pods that reference {what}"
            ));
        }
    }
    Ok(())
}

fn own_node(write: &Attributes<'_>, node: &str, next: &Value) -> Refused {
    let about = name(write, next);
    if about != node && !about.is_empty() {
        return Err(format!(
            "node {node:?} is not allowed to modify node {about:?}"
        ));
    }
    let old = match (write.operation, write.old) {
        (Operation::Create, _) => &Value::Null,
        (Operation::Update, Some(old)) => old,
        _ => return Ok(()),
    };
    let changed = changed_labels(old, next);
    let mut forbidden: Vec<&str> = changed.into_iter().filter(|label| !is_own(label)).collect();
    if !forbidden.is_empty() {
        forbidden.sort_unstable();
        let verb = if old.is_null() { "set" } else { "modify" };
        return Err(format!(
            "is not allowed to {verb} labels: {}",
            forbidden.join(", ")
        ));
    }
    if old.is_null() {
        return Ok(());
    }
    let differs = |path: &[&str]| object::at(old, path) != object::at(next, path);
    if differs(&["spec", "taints"]) {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    if differs(&["metadata", "ownerReferences"]) {
        return Err(format!(
            "node {node:?} is not allowed to modify ownerReferences"
        ));
    }
    Ok(())
}

/// The labels that differ.
fn changed_labels<'a>(old: &'a Value, next: &'a Value) -> Vec<&'a str> {
    let labels = |value: &'a Value| {
        let labels = object::at(value, &["metadata", "labels"]);
        labels.and_then(Value::as_object)
    };
    let (old, next) = (labels(old), labels(next));
    let get = |labels: Option<&'a Map<String, Value>>, key: &str| labels?.get(key);
    let keys = old.into_iter().chain(next).flat_map(|labels| labels.keys());
    let mut changed: Vec<&str> = keys
        .filter(|key| get(old, key) != get(next, key))
        .map(String::as_str)
        .collect();
    changed.sort_unstable();
    changed.dedup();
    changed
}

/// Whether a node may set the label on itself: all but those of Kubernetes that others rely on.
fn is_own(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |parent: &str| {
        namespace == parent
            || namespace
                .strip_suffix(parent)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let is_kubernetes = within("kubernetes.io") || within("k8s.io");
    !is_kubernetes || OWN_LABELS.contains(&label) || OWN_NAMESPACES.iter().any(|ns| within(ns))
}

fn token(api: &Api, write: &Attributes<'_>, node: &str, next: &Value) -> Refused {
    let reference = &next["spec"]["boundObjectRef"];
    let text = |key| object::text(reference, &[key]);
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return Err("node requested token not bound to a pod".to_owned());
    }
    if text("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    let key = Key::new("pods", write.call.namespace.as_str(), text("name"));
    let stored = api.store.get(&key);
    let pod = stored.and_then(|pod| serde_json::from_slice::<Value>(&pod.json).ok());
    let Some(pod) = pod else {
        return Err(format!("pod {:?} not found", text("name")));
    };
    if text("uid") != object::uid(&pod) {
        return Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The \
             object might have been deleted and then recreated",
            text("uid")
        ));
    }
    match object::text(&pod, &["spec", "nodeName"]) == node {
        true => Ok(()),
        false => {
            Err("node requested token bound to a pod scheduled on a different node".to_owned())
        }
    }
}

fn claim(write: &Attributes<'_>, node: &str, next: &Value) -> Refused {
    if write.operation != Operation::Update || write.subresource != "status" {
        return Err(format!(
            "node {node:?} can only update the status of persistentvolumeclaims"
        ));
    }
    let rest = |value: &Value| {
        let mut value = value.clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("status");
        }
        let metadata = object::metadata(&mut value);
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
        value
    };
    match write.old.is_none_or(|old| rest(old) == rest(next)) {
        true => Ok(()),
        false => Err(format!(
            "node {node:?} is not allowed to update fields other than status"
        )),
    }
}

fn lease(write: &Attributes<'_>, node: &str, next: &Value) -> Refused {
    if write.call.namespace != LEASES {
        return Err(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    match name(write, next) == node {
        true => Ok(()),
        false => {
            Err("can only access node lease with the same name as the requesting node".to_owned())
        }
    }
}

fn csi_node(write: &Attributes<'_>, node: &str, next: &Value) -> Refused {
    match name(write, next) == node {
        true => Ok(()),
        false => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
    }
}

fn slice(write: &Attributes<'_>, node: &str, next: &Value) -> Refused {
    let object = write.old.unwrap_or(next);
    match object::text(object, &["spec", "nodeName"]) == node {
        true => Ok(()),
        false if write.operation == Operation::Create => Err(
            "can only create ResourceSlice with the same NodeName as the requesting node"
                .to_owned(),
        ),
        false => Err(
            "can only access ResourceSlice with the same NodeName as the requesting node"
                .to_owned(),
        ),
    }
}
