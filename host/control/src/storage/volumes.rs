//! The phases of volumes, and their end.
//!
//! `Available`, `Bound`, `Released` once the claim is gone, `Failed` if what the reclaim policy asks
//! for cannot be done. Deleting what a volume holds is its provisioner's, who waits for `Released`.

use std::sync::Arc;

use eyot_client::{Cache, Change, EventType, Key, Reconciler, Requeue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, claim_ref, matching, phase_of, volume_of,
};
use crate::{
    announce::Announcer,
    error::{Act, ControlError, is},
};

pub(crate) struct Volumes {
    pub(crate) client: Client,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) announcer: Announcer,
}

/// What to do about one volume.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// A merge patch of the volume itself.
    volume: Option<Value>,
    /// Its new phase, with why.
    phase: Option<(&'static str, String)>,
    event: Option<(EventType, &'static str, String)>,
}

impl Reconciler for Volumes {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "persistentvolume-phases"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(volume) = self.volumes.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let claim = self.claim(&volume).await?;
        let plan = plan(&volume, claim.as_deref());
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let params = PatchParams::default();
        if let Some(patch) = plan.volume {
            let patched = api.patch(&key.name, &params, &Patch::Merge(patch)).await;
            if patched.as_ref().is_err_and(|error| is(error, 409)) {
                return Ok(Requeue::OnChange);
            }
            patched.act_if_there(|| format!("releasing volume {key}"))?;
        }
        if let Some((to, why)) = plan.phase {
            let patch = Patch::Merge(phase(to, &why));
            let patched = api.patch_status(&key.name, &params, &patch).await;
            patched.act_if_there(|| format!("writing the phase of volume {key}"))?;
        }
        if let Some((kind, reason, message)) = plan.event {
            match kind {
                EventType::Normal => self.announcer.normal(&*volume, reason, message),
                EventType::Warning => self.announcer.warning(&*volume, reason, message),
            }
        }
        Ok(Requeue::OnChange)
    }
}

impl Volumes {
    /// The claim that the volume is bound to. A copy that lacks it is not believed: what follows may
    /// be that data is deleted.
    async fn claim(
        &self,
        volume: &PersistentVolume,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, ControlError> {
        let Some(held) = claim_ref(volume).filter(|held| held.uid.is_some()) else {
            return Ok(None);
        };
        let namespace = held.namespace.as_deref().unwrap_or_default();
        let name = held.name.as_deref().unwrap_or_default();
        let is_it = |claim: &PersistentVolumeClaim| claim.metadata.uid == held.uid;
        let known = self.claims.get(&Key::new(namespace, name));
        if let Some(claim) = known.filter(|claim| is_it(claim)) {
            return Ok(Some(claim));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(name).await;
        let found = found.act(|| format!("looking for claim {namespace}/{name}"))?;
        Ok(found.filter(is_it).map(Arc::new))
    }
}

/// A merge patch of a volume's phase.
pub(super) fn phase(phase: &str, message: &str) -> Value {
    let message = (!message.is_empty()).then_some(message);
    json!({ "status": { "phase": phase, "message": message } })
}

fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let held = claim_ref(volume);
    // Free, or set aside for a claim that will find it.
    let Some(held) = held.filter(|held| !held.uid.as_deref().unwrap_or_default().is_empty()) else {
        return becomes(volume, "Available");
    };
    let Some(claim) = claim else {
        return reclaim(volume);
    };
    match volume_of(claim) {
        // The claim is bound next, elsewhere.
        None if matching::mode(volume) == matching::claimed_mode(claim) => Plan::default(),
        None => {
            let said = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to \
                 incompatible volumeMode.",
                held.name.as_deref().unwrap_or_default()
            );
            Plan {
                event: Some((EventType::Warning, "VolumeMismatch", said)),
                ..Plan::default()
            }
        }
        Some(name) if volume.metadata.name.as_deref() == Some(name) => becomes(volume, "Bound"),
        // It was made for a claim that got another one meanwhile.
        Some(_) if maker(volume).is_some() && policy(volume) == "Delete" => reclaim(volume),
        Some(_) => unbind(volume),
    }
}

fn becomes(volume: &PersistentVolume, phase: &'static str) -> Plan {
    Plan {
        phase: (phase_of(volume) != phase).then(|| (phase, String::new())),
        ..Plan::default()
    }
}

fn maker(volume: &PersistentVolume) -> Option<&str> {
    annotation(&volume.metadata, PROVISIONED_BY)
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref())
        .unwrap_or("Retain")
}

/// Take back a binding that was never completed: all of it if it was made here, else only which
/// claim of that name is meant.
fn unbind(volume: &PersistentVolume) -> Plan {
    let ours = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    let mut patch = json!({ "metadata": {
        "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version,
    } });
    if ours {
        patch["metadata"]["annotations"] = json!({ BOUND_BY_CONTROLLER: null });
        patch["spec"] = json!({ "claimRef": null });
    } else {
        patch["spec"] = json!({ "claimRef": { "uid": null, "resourceVersion": null } });
    }
    Plan {
        volume: Some(patch),
        ..becomes(volume, "Available")
    }
}

/// The claim is gone.
fn reclaim(volume: &PersistentVolume) -> Plan {
    let fails = |reason, message: String| Plan {
        phase: Some(("Failed", message.clone())),
        event: Some((EventType::Warning, reason, message)),
        ..Plan::default()
    };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let known = phase_of(volume);
    match (policy(volume), maker(volume)) {
        // Said once.
        _ if known == "Failed" => Plan::default(),
        ("Recycle", _) => fails(
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!".to_owned(),
        ),
        ("Delete", Some(maker)) if !maker.starts_with("kubernetes.io/") => Plan {
            event: (known != "Released").then(|| {
                let said = format!(
                    "waiting for a volume to be deleted, either by external provisioner \"{maker}\" \
                     or manually by system administrator"
                );
                (EventType::Normal, "ExternalDeleting", said)
            }),
            ..becomes(volume, "Released")
        },
        ("Delete", _) => fails(
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume \"{name}\": no deletable volume \
                 plugin matched"
            ),
        ),
        _ => becomes(volume, "Released"),
    }
}

/// The volumes that a change of a claim concerns.
pub(crate) fn of_claim(
    volumes: &Cache<PersistentVolume>,
    change: &Change<'_, PersistentVolumeClaim>,
) -> Vec<Key> {
    let named = change.object().and_then(|claim| volume_of(claim));
    let mut keys: Vec<Key> = named.map(|name| Key::new("", name)).into_iter().collect();
    if change.after.is_none() {
        // Also one that was only set aside.
        let all = volumes.list().into_iter().filter(|volume| {
            claim_ref(volume).is_some_and(|held| {
                held.name.as_deref() == Some(&*change.key.name)
                    && held.namespace.as_deref() == Some(&*change.key.namespace)
            })
        });
        keys.extend(all.map(|volume| Key::of(&volume.metadata)));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(spec: Value, phase: &str, annotations: Value) -> PersistentVolume {
        let value = json!({
            "metadata": { "name": "v", "uid": "vu", "annotations": annotations },
            "spec": spec, "status": { "phase": phase },
        });
        serde_json::from_value(value).unwrap()
    }

    fn claim(volume: Value) -> PersistentVolumeClaim {
        let value = json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "u" },
            "spec": { "volumeName": volume },
        });
        serde_json::from_value(value).unwrap()
    }

    fn bound(policy: &str) -> Value {
        json!({ "persistentVolumeReclaimPolicy": policy,
                "claimRef": { "name": "c", "namespace": "n", "uid": "u" } })
    }

    fn phase_after(
        spec: Value,
        phase: &str,
        notes: Value,
        claim: Option<Value>,
    ) -> Option<&'static str> {
        let claim = claim.map(self::claim);
        let plan = plan(&volume(spec, phase, notes), claim.as_ref());
        plan.phase.map(|(phase, _)| phase)
    }

    #[test]
    fn a_volume_is_free_bound_or_released() {
        let none = json!({});
        assert_eq!(
            phase_after(json!({}), "Pending", none.clone(), None),
            Some("Available")
        );
        assert_eq!(
            phase_after(json!({}), "Available", none.clone(), None),
            None
        );
        let own = Some(json!("v"));
        assert_eq!(
            phase_after(bound("Retain"), "Available", none.clone(), own.clone()),
            Some("Bound")
        );
        assert_eq!(
            phase_after(bound("Retain"), "Bound", none.clone(), own),
            None
        );
        assert_eq!(
            phase_after(bound("Retain"), "Bound", none.clone(), None),
            Some("Released")
        );
        let aside = json!({ "claimRef": { "name": "c", "namespace": "n" } });
        assert_eq!(phase_after(aside, "Pending", none, None), Some("Available"));
    }

    #[test]
    fn what_nobody_can_delete_or_recycle_fails_and_says_so_once() {
        let spec = bound("Recycle");
        assert_eq!(phase_after(spec, "Bound", json!({}), None), Some("Failed"));
        let found = plan(&volume(bound("Delete"), "Bound", json!({})), None);
        let (_, reason, message) = found.event.unwrap();
        assert_eq!(reason, "VolumeFailedDelete");
        assert!(
            message.ends_with("no deletable volume plugin matched"),
            "{message}"
        );
        let again = plan(&volume(bound("Delete"), "Failed", json!({})), None);
        assert_eq!(again, Plan::default());
        let made = json!({ PROVISIONED_BY: "eyot.dev/local-path" });
        assert_eq!(
            phase_after(bound("Delete"), "Bound", made, None),
            Some("Released")
        );
    }

    #[test]
    fn a_binding_that_came_too_late_is_taken_back() {
        let other = || Some(json!("w"));
        let ours = json!({ BOUND_BY_CONTROLLER: "yes" });
        let found = plan(
            &volume(bound("Retain"), "Bound", ours),
            other().map(claim).as_ref(),
        );
        assert_eq!(found.volume.unwrap()["spec"], json!({ "claimRef": null }));
        assert_eq!(found.phase.unwrap().0, "Available");
        let theirs = plan(
            &volume(bound("Retain"), "Bound", json!({})),
            other().map(claim).as_ref(),
        );
        assert_eq!(
            theirs.volume.unwrap()["spec"]["claimRef"]["uid"],
            Value::Null
        );
        let made = json!({ PROVISIONED_BY: "x.dev/y" });
        assert_eq!(
            phase_after(bound("Delete"), "Bound", made, other()),
            Some("Released")
        );
    }
}
