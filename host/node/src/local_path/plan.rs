//! What the provisioner does about a claim or a volume. Pure.

use std::path::{Path, PathBuf};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

use crate::quantity;

pub(super) const PROVISIONER: &str = "eyot.dev/local-path";
const ASKED: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Holds a deleted volume until its data is gone.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const HOSTNAME: &str = "kubernetes.io/hostname";

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The volume that the claim names.
pub(super) fn named(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

pub(super) fn class(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    let named = spec.and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, "volume.beta.kubernetes.io/storage-class")
        .or(named)
        .unwrap_or_default()
}

/// Whether the claim wants a volume of this node.
pub(super) fn is_asked(claim: &PersistentVolumeClaim, node: &str) -> bool {
    let meta = &claim.metadata;
    named(claim).is_none()
        && meta.deletion_timestamp.is_none()
        && annotation(meta, ASKED) == Some(PROVISIONER)
        && annotation(meta, SELECTED_NODE) == Some(node)
}

/// The volume for a claim and its directory, or why there is none.
pub(super) fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    root: &Path,
) -> Result<(PersistentVolume, PathBuf), String> {
    let none = Default::default();
    let spec = claim.spec.as_ref().unwrap_or(&none);
    if class.provisioner != PROVISIONER {
        return Err(format!("it is provisioned by {}", class.provisioner));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("block devices (volumeMode: Block) are not supported".to_owned());
    }
    if spec.selector.is_some() {
        return Err("claim Selector is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err("claim dataSource is not supported".to_owned());
    }
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let name = format!("pvc-{uid}");
    let path = root.join(&name);
    let size = asked(claim).unwrap_or_default();
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let value = json!({
        "metadata": {
            "name": name,
            "annotations": { PROVISIONED_BY: PROVISIONER },
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": { "storage": size },
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": self::class(claim),
            "volumeMode": "Filesystem",
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace, "name": claim.metadata.name,
                "uid": uid, "resourceVersion": claim.metadata.resource_version,
            },
            "local": { "path": path },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": HOSTNAME, "operator": "In", "values": [node] }] },
            ] } },
        },
    });
    let volume = serde_json::from_value(value).map_err(|error| error.to_string())?;
    Ok((volume, path))
}

fn asked(claim: &PersistentVolumeClaim) -> Option<&str> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    let storage = resources.requests.as_ref()?.get("storage")?;
    Some(&storage.0)
}

fn of_status(claim: &PersistentVolumeClaim) -> Option<&str> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?;
    Some(&capacity.get("storage")?.0)
}

/// How much a bound claim is to be given, if that is more than it has.
pub(super) fn growth(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    node: &str,
) -> Option<String> {
    if !is_ours(volume, node) || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let held = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let bound = claim.status.as_ref()?.phase.as_deref() == Some("Bound");
    if !bound || held.uid != claim.metadata.uid {
        return None;
    }
    let (size, has) = (asked(claim)?, of_status(claim)?);
    (quantity::millis(size)? > quantity::millis(has)?).then(|| size.to_owned())
}

/// Whether the volume was made here, by this node.
fn is_ours(volume: &PersistentVolume, node: &str) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    let terms = required.map(|required| required.node_selector_terms.as_slice());
    let mut expressions = terms
        .into_iter()
        .flatten()
        .flat_map(|term| term.match_expressions.iter().flatten());
    let here = expressions.any(|one| {
        one.key == HOSTNAME
            && one.operator == "In"
            && one.values.as_deref() == Some(&[node.to_owned()])
    });
    here && annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
}

/// What becomes of a volume that nobody claims.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It goes, and its data stays.
    LetGo,
    /// It goes with its data, which is below this path.
    Delete { path: PathBuf },
}

pub(super) fn end(volume: &PersistentVolume, node: &str, root: &Path) -> Option<End> {
    if !is_ours(volume, node) {
        return None;
    }
    let spec = volume.spec.as_ref()?;
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    let deleted = volume.metadata.deletion_timestamp.is_some();
    // Nothing is taken from a claim that has it.
    let free = matches!(phase, Some("Released" | "Available" | "Failed"));
    let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    // Only a directory that was made here, whatever else somebody wrote.
    let name = volume.metadata.name.as_deref()?;
    let path = root.join(name);
    let own = name.starts_with("pvc-")
        && !name.contains('/')
        && spec
            .local
            .as_ref()
            .is_some_and(|l| Path::new(&l.path) == path);
    match (deletes && own, phase) {
        (true, Some("Released" | "Failed")) => Some(End::Delete { path }),
        (true, _) if deleted && free => Some(End::Delete { path }),
        (false, _) if deleted && free => Some(End::LetGo),
        _ => None,
    }
}

/// A merge patch that takes the finalizer away.
pub(super) fn without_finalizer(volume: &PersistentVolume) -> Option<Value> {
    let meta = &volume.metadata;
    let held = meta.finalizers.as_ref()?;
    let left: Vec<&String> = held.iter().filter(|one| *one != FINALIZER).collect();
    (left.len() < held.len()).then(|| {
        json!({ "metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": left,
        } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut value = json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "u", "annotations": {
                ASKED: PROVISIONER, SELECTED_NODE: "here",
            } },
            "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
                      "resources": { "requests": { "storage": "1Gi" } } },
        });
        let spec = spec.as_object().unwrap().clone();
        value["spec"].as_object_mut().unwrap().extend(spec);
        serde_json::from_value(value).unwrap()
    }

    fn made(spec: Value) -> Result<PersistentVolume, String> {
        let class = json!({ "provisioner": PROVISIONER, "reclaimPolicy": "Delete" });
        let class = serde_json::from_value(class).unwrap();
        volume(&claim(spec), &class, "here", Path::new("/data")).map(|(volume, _)| volume)
    }

    fn in_phase(phase: &str, deleted: bool, change: Value) -> Option<End> {
        let mut value = serde_json::to_value(made(json!({})).unwrap()).unwrap();
        value["status"] = json!({ "phase": phase });
        if deleted {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let change = change.as_object().unwrap().clone();
        value["spec"].as_object_mut().unwrap().extend(change);
        end(
            &serde_json::from_value(value).unwrap(),
            "here",
            Path::new("/data"),
        )
    }

    #[test]
    fn a_claim_that_chose_this_node_gets_a_directory_of_it() {
        let asked = claim(json!({}));
        assert!(is_asked(&asked, "here") && !is_asked(&asked, "there"));
        assert!(!is_asked(&claim(json!({ "volumeName": "v" })), "here"));
        let volume = made(json!({})).unwrap();
        assert_eq!(volume.metadata.name.as_deref(), Some("pvc-u"));
        let spec = volume.spec.clone().unwrap();
        assert_eq!(spec.local.unwrap().path, "/data/pvc-u");
        assert_eq!(spec.capacity.unwrap()["storage"].0, "1Gi");
        assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("u"));
        assert!(is_ours(&volume, "here") && !is_ours(&volume, "there"));
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        for (wish, why) in [
            (json!({ "volumeMode": "Block" }), "Block"),
            (json!({ "selector": {} }), "Selector"),
            (
                json!({ "dataSource": { "kind": "VolumeSnapshot", "name": "s" } }),
                "dataSource",
            ),
        ] {
            assert!(made(wish).unwrap_err().contains(why));
        }
    }

    #[test]
    fn data_goes_only_with_a_volume_that_is_free_and_says_so() {
        let data = || {
            Some(End::Delete {
                path: "/data/pvc-u".into(),
            })
        };
        let retain = || json!({ "persistentVolumeReclaimPolicy": "Retain" });
        assert_eq!(in_phase("Bound", false, json!({})), None);
        assert_eq!(in_phase("Bound", true, json!({})), None);
        assert_eq!(in_phase("Released", false, json!({})), data());
        assert_eq!(in_phase("Available", false, json!({})), None);
        assert_eq!(in_phase("Available", true, json!({})), data());
        assert_eq!(in_phase("Released", false, retain()), None);
        assert_eq!(in_phase("Released", true, retain()), Some(End::LetGo));
        // A path that was not made here is nobody's to delete.
        let elsewhere = || json!({ "local": { "path": "/etc" } });
        assert_eq!(in_phase("Released", false, elsewhere()), None);
        assert_eq!(in_phase("Released", true, elsewhere()), Some(End::LetGo));
    }

    #[test]
    fn a_claim_is_given_more_only_by_its_own_volume() {
        let volume = made(json!({})).unwrap();
        let wants = |size: &str, has: &str| {
            let mut claim = claim(json!({ "resources": { "requests": { "storage": size } } }));
            claim.status =
                serde_json::from_value(json!({ "phase": "Bound", "capacity": { "storage": has } }))
                    .unwrap();
            growth(&claim, &volume, "here")
        };
        assert_eq!(wants("2Gi", "1Gi").as_deref(), Some("2Gi"));
        assert_eq!(wants("1Gi", "1Gi"), None);
        assert_eq!(wants("1Gi", "2Gi"), None);
    }

    #[test]
    fn other_finalizers_stay() {
        let mut volume = made(json!({})).unwrap();
        volume
            .metadata
            .finalizers
            .as_mut()
            .unwrap()
            .push("other".into());
        let patch = without_finalizer(&volume).unwrap();
        assert_eq!(patch["metadata"]["finalizers"], json!(["other"]));
        volume.metadata.finalizers = Some(vec!["other".into()]);
        assert_eq!(without_finalizer(&volume), None);
    }
}
