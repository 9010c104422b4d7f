//! PersistentVolumeClaims of a pod: which directory of this machine is behind each.
//!
//! The binding is the API's; here it is only followed, and checked once more: a volume that is not
//! bound to the very claim is never shown. Served are volumes of `local` and `hostPath`.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client};

use super::{VolumeError, payload::volumes};

/// What is behind a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backing {
    /// The PersistentVolume's name, by which messages call it.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The type of a `hostPath`; `None` for a `local` volume, which must be there.
    pub(super) host_path: Option<String>,
    pub(super) read_only: bool,
    /// How a `local` volume is to be mounted.
    pub(super) options: Vec<String>,
}

/// What is behind the pod's claims, by the names of its volumes.
pub(crate) type Backings = BTreeMap<String, Backing>;

/// Follow all claims of the pod.
pub(crate) async fn follow(client: &Client, pod: &Pod) -> Result<Backings, VolumeError> {
    let mut backings = Backings::new();
    for volume in volumes(pod) {
        if let Some((claim, is_ephemeral, read_only)) = claimed(pod, volume) {
            let backing = one(client, pod, volume, &claim, is_ephemeral, read_only).await?;
            backings.insert(volume.name.clone(), backing);
        }
    }
    Ok(backings)
}

/// The claim's name, whether it was made for this pod, and whether the pod may only read.
fn claimed(pod: &Pod, volume: &Volume) -> Option<(String, bool, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        let read_only = source.read_only == Some(true);
        return Some((source.claim_name.clone(), false, read_only));
    }
    volume.ephemeral.as_ref()?;
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    Some((format!("{pod}-{}", volume.name), true, false))
}

async fn one(
    client: &Client,
    pod: &Pod,
    volume: &Volume,
    claim: &str,
    is_ephemeral: bool,
    read_only: bool,
) -> Result<Backing, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let fails = |reason: String| VolumeError::Claim {
        volume: volume.name.clone(),
        claim: format!("{namespace}/{claim}"),
        reason,
    };
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let found = claims.get(claim).await;
    let found =
        found.map_err(|error| fails(format!("failed to fetch PVC from API server: {error}")))?;
    let name = bound(&found, pod, is_ephemeral).map_err(fails)?;
    let all: Api<PersistentVolume> = Api::all(client.clone());
    let behind = all.get(name).await;
    let behind = behind.map_err(|error| fails(format!("failed to fetch PV {name}: {error}")))?;
    backing(&behind, &found, read_only).map_err(|reason| match reason {
        Refusal::Binding(reason) => fails(reason),
        Refusal::Source(reason) => VolumeError::SetUp {
            volume: name.to_owned(),
            reason,
        },
    })
}

/// The volume that the claim is bound to.
fn bound<'a>(
    claim: &'a PersistentVolumeClaim,
    pod: &Pod,
    is_ephemeral: bool,
) -> Result<&'a str, String> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if is_ephemeral && !owners.any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref()) {
        return Err("PVC was not created for the pod (pod is not owner)".to_owned());
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
    match volume.filter(|name| !name.is_empty() && phase == Some("Bound")) {
        Some(name) => Ok(name),
        None => Err("PVC is not bound".to_owned()),
    }
}

enum Refusal {
    Binding(String),
    Source(String),
}

fn backing(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    read_only: bool,
) -> Result<Backing, Refusal> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let none = Default::default();
    let spec = volume.spec.as_ref().unwrap_or(&none);
    let held = spec.claim_ref.as_ref().and_then(|held| held.uid.as_ref());
    if held.is_none() || held != claim.metadata.uid.as_ref() {
        let why = format!("PV {name} is not bound to this PVC (claimRef.UID does not match)");
        return Err(Refusal::Binding(why));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        let why = "block devices (volumeMode: Block) are not served by this node";
        return Err(Refusal::Source(why.to_owned()));
    }
    if let Some(local) = &spec.local {
        return Ok(Backing {
            name,
            path: PathBuf::from(&local.path),
            host_path: None,
            read_only,
            options: spec.mount_options.clone().unwrap_or_default(),
        });
    }
    if let Some(source) = &spec.host_path {
        if spec
            .mount_options
            .as_ref()
            .is_some_and(|all| !all.is_empty())
        {
            let why = "Mount options are not supported for this volume type";
            return Err(Refusal::Source(why.to_owned()));
        }
        return Ok(Backing {
            name,
            path: PathBuf::from(&source.path),
            host_path: Some(source.type_.clone().unwrap_or_default()),
            read_only,
            options: Vec::new(),
        });
    }
    Err(Refusal::Source(match &spec.csi {
        Some(csi) => format!(
            "kubernetes.io/csi: driver name {} not found in the list of registered CSI drivers: \
             this node serves PersistentVolumes of local and hostPath",
            csi.driver
        ),
        None => {
            "no volume plugin matched: this node serves PersistentVolumes of local and hostPath"
                .to_owned()
        }
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(phase: &str, volume: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "c", "uid": "u" }, "spec": { "volumeName": volume },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn served(uid: &str, source: Value) -> Result<PathBuf, String> {
        let mut spec = json!({ "claimRef": { "name": "c", "uid": uid } });
        let source = source.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(source);
        let volume = json!({ "metadata": { "name": "v" }, "spec": spec });
        let volume = serde_json::from_value(volume).unwrap();
        match backing(&volume, &claim("Bound", "v"), false) {
            Ok(backing) => Ok(backing.path),
            Err(Refusal::Binding(why) | Refusal::Source(why)) => Err(why),
        }
    }

    #[test]
    fn only_a_volume_that_is_bound_to_the_claim_is_followed() {
        let pod = Pod::default();
        assert_eq!(bound(&claim("Bound", "v"), &pod, false), Ok("v"));
        assert!(bound(&claim("Pending", "v"), &pod, false).is_err());
        assert!(bound(&claim("Bound", ""), &pod, false).is_err());
        assert!(bound(&claim("Bound", "v"), &pod, true).is_err(), "nobody's");
        let local = json!({ "local": { "path": "/x" } });
        assert_eq!(served("u", local.clone()), Ok("/x".into()));
        assert!(served("other", local).unwrap_err().contains("claimRef.UID"));
    }

    #[test]
    fn what_this_node_does_not_serve_is_said() {
        assert_eq!(
            served("u", json!({ "hostPath": { "path": "/h" } })),
            Ok("/h".into())
        );
        let csi = served(
            "u",
            json!({ "csi": { "driver": "d.x", "volumeHandle": "h" } }),
        );
        assert!(csi.unwrap_err().contains("driver name d.x not found"));
        let nfs = served("u", json!({ "nfs": { "server": "s", "path": "/" } }));
        assert!(nfs.unwrap_err().contains("no volume plugin matched"));
        let block = served(
            "u",
            json!({ "local": { "path": "/x" }, "volumeMode": "Block" }),
        );
        assert!(block.unwrap_err().contains("volumeMode: Block"));
    }
}
