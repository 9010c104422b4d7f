//! Makes the claims of generic ephemeral volumes, each owned by its pod and gone with it.

use eyot_client::{
    Cache, Key, Reconciler, Requeue,
    view::{Pod, Volume},
};
use k8s_openapi::{
    api::core::v1::PersistentVolumeClaim, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use crate::{
    announce::Announcer,
    error::{Act, ControlError, is, is_namespace_ending, said},
    owner, pod,
};

pub(crate) struct Ephemeral {
    pub(crate) client: Client,
    pub(crate) pods: Cache<Pod>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) announcer: Announcer,
}

impl Reconciler for Ephemeral {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "ephemeral-volume"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(pod) = self.pods.get(key).filter(|pod| pod::is_active(pod)) else {
            return Ok(Requeue::OnChange);
        };
        for volume in volumes(&pod) {
            let Some(claim) = claim(&pod, volume) else {
                continue;
            };
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            if let Some(known) = self.claims.get(&Key::new(&key.namespace, name)) {
                // A claim of that name is somebody else's; the scheduler says so, too.
                if !owner::is_controlled_by(&known.metadata, &pod.metadata) {
                    let why = format!(
                        "PVC {}/{name} was not created for pod {key} (pod is not owner)",
                        key.namespace
                    );
                    self.announcer
                        .warning(&*pod, "EphemeralVolumeCreationFailed", why);
                }
                continue;
            }
            let api: Api<PersistentVolumeClaim> =
                Api::namespaced(self.client.clone(), &key.namespace);
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {}
                Err(error) if is(&error, 409) || is_namespace_ending(&error) => {}
                Err(error) => {
                    let why = format!("ephemeral volume controller: {}", said(&error));
                    self.announcer
                        .warning(&*pod, "EphemeralVolumeCreationFailed", why);
                    return Err(error).act(|| format!("creating claim {name} of pod {key}"));
                }
            }
        }
        Ok(Requeue::OnChange)
    }
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    volumes.filter(|volume| volume.ephemeral.is_some())
}

/// Whether the pod has volumes that claims are to be made for.
pub(crate) fn concerns(pod: &Pod) -> bool {
    pod::node(pod).is_none() && volumes(pod).next().is_some()
}

fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let given = template.metadata.clone().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![owner::reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_named_after_pod_and_volume_and_owned_by_the_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "n", "uid": "u" },
            "spec": { "containers": [], "volumes": [
                { "name": "plain", "emptyDir": {} },
                { "name": "scratch", "ephemeral": { "volumeClaimTemplate": {
                    "metadata": { "labels": { "a": "b" } },
                    "spec": { "accessModes": ["ReadWriteOnce"] },
                } } },
            ] },
        }))
        .unwrap();
        assert!(concerns(&pod));
        let made: Vec<_> = volumes(&pod)
            .filter_map(|volume| claim(&pod, volume))
            .collect();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].metadata.name.as_deref(), Some("web-scratch"));
        assert!(owner::is_controlled_by(&made[0].metadata, &pod.metadata));
    }
}
