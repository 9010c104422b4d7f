//! Lets deleted claims and volumes go once nobody uses them: takes back the finalizers that
//! admission gave them.
//!
//! Reads PersistentVolumeClaims, PersistentVolumes and Pods; writes finalizers alone. A claim is in
//! use while a pod on a node mounts it and has not ended, a volume while it is bound.

use eyot_client::{Cache, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::error::{Act, ControlError, is};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

pub(crate) struct Claims {
    pub(crate) client: Client,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) pods: Cache<Pod>,
}

impl Reconciler for Claims {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "claim-protection"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let Some(patch) = release(&claim.metadata, CLAIM) else {
            return Ok(Requeue::OnChange);
        };
        if self.pods.list().iter().any(|pod| uses(pod, key)) {
            return Ok(Requeue::OnChange);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let patched = api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        done(patched.map(drop), key)
    }
}

pub(crate) struct Volumes {
    pub(crate) client: Client,
    pub(crate) volumes: Cache<PersistentVolume>,
}

impl Reconciler for Volumes {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "volume-protection"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(volume) = self.volumes.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        let Some(patch) = release(&volume.metadata, VOLUME).filter(|_| phase != Some("Bound"))
        else {
            return Ok(Requeue::OnChange);
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let patched = api
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        done(patched.map(drop), key)
    }
}

fn done(patched: Result<(), kube::Error>, key: &Key) -> Result<Requeue, ControlError> {
    match patched {
        // Somebody else wrote it: that is a change, which comes here too.
        Err(error) if is(&error, 409) => Ok(Requeue::OnChange),
        patched => {
            patched.act_if_there(|| format!("releasing {key}"))?;
            Ok(Requeue::OnChange)
        }
    }
}

/// The claims that a pod mounts.
pub(crate) fn of_pod(pod: &Pod) -> Vec<String> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    volumes
        .filter_map(
            |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => Some(source.claim_name.clone()),
                (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
                _ => None,
            },
        )
        .collect()
}

fn uses(pod: &Pod, claim: &Key) -> bool {
    let placed = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    placed
        && !matches!(phase, Some("Succeeded" | "Failed"))
        && pod.metadata.namespace.as_deref() == Some(&*claim.namespace)
        && of_pod(pod).iter().any(|name| **name == *claim.name)
}

/// A merge patch that takes the finalizer from a deleted object.
fn release(meta: &ObjectMeta, finalizer: &str) -> Option<Value> {
    meta.deletion_timestamp.as_ref()?;
    let held = meta.finalizers.as_ref()?;
    let left: Vec<&String> = held.iter().filter(|one| *one != finalizer).collect();
    (left.len() < held.len()).then(|| {
        json!({ "metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": left,
        }})
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value, phase: &str) -> Pod {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "n" }, "spec": spec,
            "status": { "phase": phase },
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_claim_is_in_use_while_a_pod_on_a_node_runs_with_it() {
        let spec = |node: Value| {
            json!({ "containers": [], "nodeName": node, "volumes": [
                { "name": "v", "persistentVolumeClaim": { "claimName": "c" } },
                { "name": "e", "ephemeral": {} },
            ]})
        };
        let claim = |name: &str| Key::new("n", name);
        assert!(uses(&pod(spec(json!("node")), "Running"), &claim("c")));
        assert!(uses(&pod(spec(json!("node")), "Running"), &claim("p-e")));
        assert!(!uses(&pod(spec(json!("node")), "Running"), &claim("d")));
        assert!(!uses(&pod(spec(json!("node")), "Succeeded"), &claim("c")));
        assert!(!uses(&pod(spec(Value::Null), "Pending"), &claim("c")));
    }

    #[test]
    fn only_a_deleted_object_is_released_and_other_finalizers_stay() {
        let meta = |deleted: Value| -> ObjectMeta {
            serde_json::from_value(json!({
                "deletionTimestamp": deleted, "finalizers": ["other", CLAIM],
            }))
            .unwrap()
        };
        assert!(release(&meta(Value::Null), CLAIM).is_none());
        let patch = release(&meta(json!("2026-01-01T00:00:00Z")), CLAIM).unwrap();
        assert_eq!(patch["metadata"]["finalizers"], json!(["other"]));
    }
}
