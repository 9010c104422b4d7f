//! What belongs to which node: the objects that its pods refer to, and what these lead to.
//!
//! Pods lead to secrets, config maps, claims and accounts; a claim leads to its volume, a volume to
//! the secrets of its driver. Only the first step is kept by node; the others are looked up when
//! they are asked for, since volumes are few.

use std::{collections::HashMap, sync::Arc};

use eyot_store::{Key, Object};
use serde_json::Value;

use super::super::follow::Index;
use crate::object::text;

const PODS: &str = "pods";
const VOLUMES: &str = "persistentvolumes";
const ATTACHMENTS: &str = "volumeattachments.storage.k8s.io";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a pod may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Account,
    ResourceClaim,
    Pod,
    Volume,
    Attachment,
}

/// An object in the namespace of the pod that refers to it.
type Ref = (Kind, Arc<str>, Box<str>);
type Name = (Arc<str>, Arc<str>);
/// Namespace and name of what stands outside of the pods.
type Far = (Box<str>, Box<str>);

#[derive(Default)]
pub(crate) struct Graph {
    pods: HashMap<Name, Placed>,
    /// How many pods of a node refer to an object.
    nodes: HashMap<Box<str>, HashMap<Ref, usize>>,
    volumes: HashMap<Arc<str>, Volume>,
    /// The volumes whose drivers need a secret.
    secrets: HashMap<Far, Vec<Arc<str>>>,
    /// To which node a volume is attached, by the attachment's name.
    attachments: HashMap<Arc<str>, Box<str>>,
}

/// A pod that has a node.
struct Placed {
    node: Box<str>,
    refs: Vec<Ref>,
}

struct Volume {
    claim: Option<Far>,
    secrets: Vec<Far>,
}

impl Index for Graph {
    const RESOURCES: &'static [&'static str] = &[PODS, VOLUMES, ATTACHMENTS];

    fn put(&mut self, resource: &str, object: &Object) {
        self.remove(resource, &object.key);
        let Ok(value) = serde_json::from_slice::<Value>(&object.json) else {
            return;
        };
        let key = &object.key;
        match resource {
            PODS => self.put_pod(key, &value),
            VOLUMES => self.put_volume(key, &value),
            _ => {
                let node = text(&value, &["spec", "nodeName"]);
                self.attachments.insert(key.name.clone(), node.into());
            }
        }
    }

    fn remove(&mut self, resource: &str, key: &Key) {
        match resource {
            PODS => self.remove_pod(key),
            VOLUMES => {
                let volume = self.volumes.remove(&key.name);
                for secret in volume.into_iter().flat_map(|volume| volume.secrets) {
                    if let Some(volumes) = self.secrets.get_mut(&secret) {
                        volumes.retain(|name| *name != key.name);
                        if volumes.is_empty() {
                            self.secrets.remove(&secret);
                        }
                    }
                }
            }
            _ => {
                self.attachments.remove(&key.name);
            }
        }
    }
}

impl Graph {
    /// Whether a pod of the node leads to the object.
    pub(crate) fn is_related(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        match kind {
            Kind::Pod => self
                .pods
                .get(&(namespace.into(), name.into()))
                .is_some_and(|pod| *pod.node == *node),
            Kind::Attachment => self.attachments.get(name).is_some_and(|on| **on == *node),
            Kind::Volume => self.has_volume(node, name),
            Kind::Secret => {
                let volumes = self.secrets.get(&(namespace.into(), name.into()));
                let volumes = volumes.into_iter().flatten();
                self.refers(node, kind, namespace, name)
                    || volumes
                        .into_iter()
                        .any(|volume| self.has_volume(node, volume))
            }
            _ => self.refers(node, kind, namespace, name),
        }
    }

    fn refers(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let refs = self.nodes.get(node);
        refs.is_some_and(|refs| refs.contains_key(&(kind, namespace.into(), name.into())))
    }

    fn has_volume(&self, node: &str, volume: &str) -> bool {
        let claim = self
            .volumes
            .get(volume)
            .and_then(|volume| volume.claim.as_ref());
        claim.is_some_and(|(namespace, name)| self.refers(node, Kind::Claim, namespace, name))
    }

    fn put_pod(&mut self, key: &Key, pod: &Value) {
        let node = text(pod, &["spec", "nodeName"]);
        if node.is_empty() {
            return;
        }
        let is_mirror = !text(pod, &["metadata", "annotations", MIRROR]).is_empty();
        // A mirror pod is what the node itself says of a pod: it grants nothing.
        let names = match is_mirror {
            true => Vec::new(),
            false => references(pod, &key.name),
        };
        let refs: Vec<Ref> = names
            .into_iter()
            .map(|(kind, name)| (kind, key.namespace.clone(), name))
            .collect();
        let counts = self.nodes.entry(node.into()).or_default();
        for reference in &refs {
            *counts.entry(reference.clone()).or_default() += 1;
        }
        let placed = Placed {
            node: node.into(),
            refs,
        };
        self.pods
            .insert((key.namespace.clone(), key.name.clone()), placed);
    }

    fn remove_pod(&mut self, key: &Key) {
        let name = (key.namespace.clone(), key.name.clone());
        let Some(placed) = self.pods.remove(&name) else {
            return;
        };
        let Some(counts) = self.nodes.get_mut(&placed.node) else {
            return;
        };
        for reference in &placed.refs {
            if let Some(count) = counts.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(reference);
                }
            }
        }
        if counts.is_empty() {
            self.nodes.remove(&placed.node);
        }
    }

    fn put_volume(&mut self, key: &Key, volume: &Value) {
        let claim = volume.pointer("/spec/claimRef");
        let claim = claim.map(|claim| (text(claim, &["namespace"]), text(claim, &["name"])));
        let claim = claim.map(|(namespace, name)| (namespace.into(), name.into()));
        let home = claim.as_ref().map(|(namespace, _): &Far| namespace.clone());
        let secrets = secrets_of(volume, &home.unwrap_or_default());
        for secret in &secrets {
            let volumes = self.secrets.entry(secret.clone()).or_default();
            volumes.push(key.name.clone());
        }
        self.volumes
            .insert(key.name.clone(), Volume { claim, secrets });
    }
}

/// What a pod of this name refers to in its own namespace, each once: what its node may read.
pub fn references(pod: &Value, name: &str) -> Vec<(Kind, Box<str>)> {
    let mut found: Vec<(Kind, Box<str>)> = Vec::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() && !found.iter().any(|(k, n)| *k == kind && **n == *name) {
            found.push((kind, name.into()));
        }
    };
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    add(Kind::Account, text(spec, &["serviceAccountName"]));
    for secret in items(spec, "imagePullSecrets") {
        add(Kind::Secret, text(secret, &["name"]));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(spec, list) {
            for variable in items(container, "env") {
                let from = variable.get("valueFrom").unwrap_or(&Value::Null);
                add(Kind::Secret, text(from, &["secretKeyRef", "name"]));
                add(Kind::ConfigMap, text(from, &["configMapKeyRef", "name"]));
            }
            for from in items(container, "envFrom") {
                add(Kind::Secret, text(from, &["secretRef", "name"]));
                add(Kind::ConfigMap, text(from, &["configMapRef", "name"]));
            }
        }
    }
    for volume in items(spec, "volumes") {
        add(Kind::Secret, text(volume, &["secret", "secretName"]));
        add(Kind::ConfigMap, text(volume, &["configMap", "name"]));
        add(
            Kind::Claim,
            text(volume, &["persistentVolumeClaim", "claimName"]),
        );
        if volume.get("ephemeral").is_some() {
            add(Kind::Claim, &format!("{name}-{}", text(volume, &["name"])));
        }
        for source in volume["projected"]["sources"]
            .as_array()
            .into_iter()
            .flatten()
        {
            add(Kind::Secret, text(source, &["secret", "name"]));
            add(Kind::ConfigMap, text(source, &["configMap", "name"]));
        }
        // Drivers of all kinds name their secrets alike.
        for source in volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, source)| source)
        {
            add(Kind::Secret, text(source, &["secretRef", "name"]));
            add(
                Kind::Secret,
                text(source, &["nodePublishSecretRef", "name"]),
            );
            add(Kind::Secret, text(source, &["secretName"]));
        }
    }
    for claim in items(spec, "resourceClaims") {
        add(Kind::ResourceClaim, text(claim, &["resourceClaimName"]));
    }
    let claims = pod.pointer("/status/resourceClaimStatuses");
    for claim in claims.and_then(Value::as_array).into_iter().flatten() {
        add(Kind::ResourceClaim, text(claim, &["resourceClaimName"]));
    }
    found
}

/// The secrets that the driver of a volume needs, with their namespaces.
fn secrets_of(volume: &Value, home: &str) -> Vec<Far> {
    const REFS: [&str; 5] = [
        "secretRef",
        "nodeStageSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
        "controllerExpandSecretRef",
    ];
    let mut found = Vec::new();
    let mut add = |namespace: &str, name: &str| {
        let namespace = if namespace.is_empty() {
            home
        } else {
            namespace
        };
        if !name.is_empty() {
            found.push((namespace.into(), name.into()));
        }
    };
    let sources = volume.get("spec").and_then(Value::as_object);
    for source in sources.into_iter().flatten().map(|(_, source)| source) {
        for key in REFS {
            add(
                text(source, &[key, "namespace"]),
                text(source, &[key, "name"]),
            );
        }
        add(
            text(source, &["secretNamespace"]),
            text(source, &["secretName"]),
        );
    }
    found
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
