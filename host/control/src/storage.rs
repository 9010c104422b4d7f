//! Storage: which PersistentVolume a claim gets, where a pod can run because of its claims, and
//! what becomes of a volume that nobody claims any more.
//!
//! | part | reads | writes |
//! |---|---|---|
//! | [`scheduling`] | what a pod claims | the scheduler's side of binding: `claimRef`, `selected-node` |
//! | [`claims`] | claims, volumes, classes, Pods | claims, `claimRef` of volumes |
//! | [`volumes`] | volumes, claims | phases of volumes |
//! | [`ephemeral`] | Pods | the claims of their generic ephemeral volumes |
//!
//! Nothing here makes or deletes storage: that is a provisioner's, of which the node has one.

pub(crate) mod claims;
pub(crate) mod ephemeral;
mod matching;
pub(crate) mod scheduling;
pub(crate) mod volumes;

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::scheduler::milli;

/// On a claim: its binding was completed once.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On claim or volume: this side of the binding was written here and not by the user.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the node that its storage is to be made for.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to make a volume for it; the second is the name of old.
const PROVISIONERS: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const ONE_POD: &str = "ReadWriteOncePod";

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let annotations = meta.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

/// The class that a claim asks for; empty for a volume without one.
fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    let named = spec.and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, CLASS)
        .or(named)
        .unwrap_or_default()
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    let named = spec.and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, CLASS)
        .or(named)
        .unwrap_or_default()
}

/// Whether volumes of the class wait for the first pod that wants them.
fn waits(class: Option<&StorageClass>) -> bool {
    let mode = class.and_then(|class| class.volume_binding_mode.as_deref());
    mode == Some("WaitForFirstConsumer")
}

/// The volume that a claim names, whether or not it is bound to it.
fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

/// Both sides are bound.
fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_of(claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume is set aside for this claim, or bound to it.
fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|held| {
        held.name == claim.metadata.name
            && held.namespace == claim.metadata.namespace
            && (held.uid.as_deref().unwrap_or_default().is_empty()
                || held.uid == claim.metadata.uid)
    })
}

fn phase_of(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// How much a claim asks for, in thousandths of a byte.
fn wanted(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get("storage"));
    storage.and_then(|amount| milli(&amount.0)).unwrap_or(0)
}

/// How much a volume holds, in thousandths of a byte.
fn held(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    let storage = capacity.and_then(|capacity| capacity.get("storage"));
    storage.and_then(|amount| milli(&amount.0)).unwrap_or(0)
}
