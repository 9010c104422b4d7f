//! What to do about one claim. Pure.

use std::sync::Arc;

use eyot_client::EventType;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};

use crate::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLASS, PROVISIONERS, SELECTED_NODE, annotation, claim_ref,
    class_of, is_bound, is_for,
    matching::{self, For},
    phase_of, volume_of, waits,
};

/// Makes directories of a node, and so must know which.
const LOCAL_PATH: &str = "eyot.dev/local-path";

pub(super) struct Input<'a> {
    pub(super) claim: &'a PersistentVolumeClaim,
    pub(super) volumes: &'a [Arc<PersistentVolume>],
    /// The class that the claim asks for, if there is one.
    pub(super) class: Option<Arc<StorageClass>>,
    pub(super) default_class: Option<String>,
    /// A pod that waits for the claim.
    pub(super) pod: Option<String>,
    /// A node that would do.
    pub(super) node: Option<String>,
}

/// To be carried out in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The volume to bind: name and merge patch.
    pub(super) volume: Option<(String, Value)>,
    /// The volume whose phase is to become `Bound`.
    pub(super) bound: Option<String>,
    pub(super) claim: Option<Value>,
    pub(super) status: Option<Value>,
    pub(super) event: Option<(EventType, &'static str, String)>,
}

impl Plan {
    fn says(self, kind: EventType, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            event: Some((kind, reason, message.into())),
            ..self
        }
    }
}

pub(super) fn plan(input: &Input<'_>) -> Plan {
    let named = volume_of(input.claim);
    let volume = named.map(|name| {
        let mut all = input.volumes.iter();
        (
            name,
            all.find(|volume| volume.metadata.name.as_deref() == Some(name)),
        )
    });
    match (is_bound_once(input.claim), volume) {
        (true, None) => lost(
            input.claim,
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (true, Some((_, None))) => lost(
            input.claim,
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        (true, Some((_, Some(volume)))) => {
            let free = claim_ref(volume).is_none();
            if free || claim_ref(volume).is_some_and(|held| held.uid == input.claim.metadata.uid) {
                return bind(input.claim, volume);
            }
            let said = "Two claims are bound to the same volume, this one is bound incorrectly";
            lost(input.claim, "ClaimMisbound", said)
        }
        (false, Some((name, volume))) => wants(input.claim, name, volume.map(|v| &**v)),
        (false, None) => find(input),
    }
}

fn is_bound_once(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The claim names its volume and is not bound to it yet.
fn wants(claim: &PersistentVolumeClaim, name: &str, volume: Option<&PersistentVolume>) -> Plan {
    let Some(volume) = volume else {
        return pending(claim);
    };
    if claim_ref(volume).is_none() {
        return match matching::mismatch(volume, claim) {
            None => bind(claim, volume),
            Some(why) => {
                let said = format!("Cannot bind to requested volume \"{name}\": {why}");
                pending(claim).says(EventType::Warning, "VolumeMismatch", said)
            }
        };
    }
    if is_for(volume, claim) {
        return bind(claim, volume);
    }
    let said = format!("volume \"{name}\" already bound to a different claim.");
    pending(claim).says(EventType::Warning, "FailedBinding", said)
}

/// The claim leaves open which volume it gets.
fn find(input: &Input<'_>) -> Plan {
    let claim = input.claim;
    let spec = claim.spec.as_ref();
    let unnamed = spec.is_some_and(|spec| spec.storage_class_name.is_none())
        && annotation(&claim.metadata, CLASS).is_none();
    // A default class that came after the claim is its class all the same.
    if let Some(default) = input.default_class.as_ref().filter(|_| unnamed) {
        return Plan {
            claim: Some(json!({
                "metadata": { "uid": claim.metadata.uid },
                "spec": { "storageClassName": default },
            })),
            ..Plan::default()
        };
    }
    let class = input.class.as_deref();
    let selected = annotation(&claim.metadata, SELECTED_NODE);
    let is_left = waits(class) && selected.is_none();
    let whose = if is_left { For::Waiting } else { For::Anyone };
    if let Some(volume) = matching::best(claim, input.volumes, whose, |_| false) {
        return bind(claim, volume);
    }
    if is_left {
        return match &input.pod {
            None => pending(claim).says(
                EventType::Normal,
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
            ),
            Some(pod) => pending(claim).says(
                EventType::Normal,
                "WaitForPodScheduled",
                format!("waiting for pod {pod} to be scheduled"),
            ),
        };
    }
    match (class_of(claim), class) {
        ("", _) => pending(claim).says(
            EventType::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
        (name, None) => {
            let said = format!("storageclass.storage.k8s.io \"{name}\" not found");
            pending(claim).says(EventType::Warning, "ProvisioningFailed", said)
        }
        (_, Some(class)) => order(input, class),
    }
}

/// Ask whoever the class names to make a volume.
fn order(input: &Input<'_>, class: &StorageClass) -> Plan {
    let (claim, provisioner) = (input.claim, &*class.provisioner);
    // These were part of Kubernetes itself once, and nobody serves them here.
    if provisioner.starts_with("kubernetes.io/") {
        let said = format!("no volume plugin matched name: {provisioner}");
        return pending(claim).says(EventType::Warning, "ProvisioningFailed", said);
    }
    let mut annotations = serde_json::Map::new();
    for name in PROVISIONERS {
        if annotation(&claim.metadata, name) != Some(provisioner) {
            annotations.insert(name.to_owned(), provisioner.into());
        }
    }
    let needs_node = provisioner == LOCAL_PATH
        && !waits(Some(class))
        && annotation(&claim.metadata, SELECTED_NODE).is_none();
    if let Some(node) = input.node.as_ref().filter(|_| needs_node) {
        annotations.insert(SELECTED_NODE.to_owned(), node.as_str().into());
    }
    let said = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or \
         manually by the system administrator. If volume creation is delayed, please verify that \
         the provisioner is running and correctly registered."
    );
    let changed = (!annotations.is_empty())
        .then(|| json!({ "metadata": { "uid": claim.metadata.uid, "annotations": annotations } }));
    Plan {
        claim: changed,
        ..pending(claim)
    }
    .says(EventType::Normal, "ExternalProvisioning", said)
}

/// Write what is missing of a binding.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let held = claim_ref(volume);
    let is_aside = held.is_some_and(|held| held.uid == claim.metadata.uid);
    let is_named = volume_of(claim) == Some(&*name);
    let claim_patch = (!is_named || !is_bound(claim)).then(|| {
        let mut annotations = json!({ BIND_COMPLETED: "yes" });
        if !is_named {
            annotations[BOUND_BY_CONTROLLER] = "yes".into();
        }
        json!({
            "metadata": {
                "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                "annotations": annotations,
            },
            "spec": { "volumeName": name },
        })
    });
    Plan {
        volume: (!is_aside).then(|| (name.clone(), aside(volume, claim))),
        bound: (phase_of(volume) != "Bound").then(|| name.clone()),
        claim: claim_patch,
        status: bound_status(claim, volume),
        event: None,
    }
}

/// A merge patch that sets a volume aside for a claim, if nobody wrote the volume since.
pub(in crate::storage) fn aside(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Value {
    let mut meta = json!({
        "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version,
    });
    if !is_for(volume, claim) {
        meta["annotations"] = json!({ BOUND_BY_CONTROLLER: "yes" });
    }
    json!({ "metadata": meta, "spec": { "claimRef": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.metadata.namespace, "name": claim.metadata.name,
        "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
    } } })
}

/// The status of a bound claim, if it is not written yet. The capacity is what it was when it was
/// bound: growing it is a resizer's.
fn bound_status(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Value> {
    let spec = volume.spec.as_ref();
    let status = claim.status.as_ref();
    let was_bound = status.and_then(|s| s.phase.as_deref()) == Some("Bound");
    let modes = spec.and_then(|spec| spec.access_modes.as_ref());
    if was_bound && status.and_then(|status| status.access_modes.as_ref()) == modes {
        return None;
    }
    let mut patch = json!({ "phase": "Bound", "accessModes": modes });
    if !was_bound {
        patch["capacity"] = json!(spec.and_then(|spec| spec.capacity.as_ref()));
        let class = spec.and_then(|spec| spec.volume_attributes_class_name.as_ref());
        if let Some(class) = class {
            patch["currentVolumeAttributesClassName"] = json!(class);
        }
    }
    Some(json!({ "status": patch }))
}

fn pending(claim: &PersistentVolumeClaim) -> Plan {
    Plan {
        status: phase(claim, "Pending"),
        ..Plan::default()
    }
}

/// The claim will never again have its volume; that is said once.
fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Plan {
    match phase(claim, "Lost") {
        None => Plan::default(),
        status => Plan {
            status,
            ..Plan::default()
        }
        .says(EventType::Warning, reason, message),
    }
}

/// A patch of the phase, if it is another one. A claim without a volume has no capacity.
fn phase(claim: &PersistentVolumeClaim, phase: &str) -> Option<Value> {
    let known = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    (known != Some(phase))
        .then(|| json!({ "status": { "phase": phase, "accessModes": null, "capacity": null } }))
}
