//! Binds claims to volumes.
//!
//! Both sides of a binding are written one after the other, the volume first: a host that ends
//! between the two finds the volume set aside for the claim, and goes on. A claim gets a volume that
//! is there; failing that, whoever its class names is asked to make one (annotation
//! `volume.kubernetes.io/storage-provisioner`). A claim whose class waits for the first consumer is
//! left to the scheduler until that has written its choice ([`super::scheduling`]).

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use eyot_client::{Cache, Change, EventType, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::Value;

pub(super) use self::plan::aside;
use self::plan::{Input, Plan};
use super::{DEFAULT_CLASS, annotation, claim_ref, class_of, is_bound, phase_of, volume_of};
use crate::{
    announce::Announcer,
    error::{Act, ControlError, is},
    pod,
};

pub(crate) struct Claims {
    pub(crate) client: Client,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) classes: Cache<StorageClass>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) announcer: Announcer,
}

impl Reconciler for Claims {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "persistentvolume-binder"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(claim) = self.claims.get(key) else {
            return Ok(Requeue::OnChange);
        };
        if claim.metadata.deletion_timestamp.is_some() && !is_bound(&claim) {
            return Ok(Requeue::OnChange);
        }
        let class = class_of(&claim);
        let input = Input {
            claim: &claim,
            volumes: &self.volumes.list(),
            class: self.classes.get(&Key::new("", class)),
            default_class: default_class(&self.classes.list()),
            pod: self.waiting_pod(key),
            node: self.any_node(),
        };
        let plan = plan::plan(&input);
        self.apply(key, &claim, plan).await?;
        Ok(Requeue::OnChange)
    }
}

impl Claims {
    async fn apply(
        &self,
        key: &Key,
        claim: &PersistentVolumeClaim,
        plan: Plan,
    ) -> Result<(), ControlError> {
        if let Some((name, patch)) = plan.volume {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let params = PatchParams::default();
            let patched = api.patch(&name, &params, &Patch::Merge(patch)).await;
            // The copy of the volume was out of date: the newer one leads here again.
            if patched.as_ref().is_err_and(|error| is(error, 409)) {
                return Ok(());
            }
            patched.act(|| format!("binding volume {name} to claim {key}"))?;
        }
        if let Some(name) = plan.bound {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let patch = Patch::Merge(super::volumes::phase("Bound", ""));
            let params = PatchParams::default();
            let patched = api.patch_status(&name, &params, &patch).await;
            patched.act_if_there(|| format!("writing the phase of volume {name}"))?;
        }
        if let Some(patch) = plan.claim
            && !self.write(key, patch, false).await?
        {
            return Ok(());
        }
        if let Some(patch) = plan.status {
            self.write(key, patch, true).await?;
        }
        if let Some((kind, reason, message)) = plan.event {
            match kind {
                EventType::Normal => self.announcer.normal(claim, reason, message),
                EventType::Warning => self.announcer.warning(claim, reason, message),
            }
        }
        Ok(())
    }

    /// Patch the claim or its status; false if somebody else wrote it meanwhile.
    async fn write(&self, key: &Key, patch: Value, status: bool) -> Result<bool, ControlError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = match status {
            true => api.patch_status(&key.name, &params, &patch).await,
            false => api.patch(&key.name, &params, &patch).await,
        };
        match patched {
            Err(error) if is(&error, 409) || is(&error, 404) => Ok(false),
            patched => patched.act(|| format!("writing claim {key}")).map(|_| true),
        }
    }

    /// A pod that wants the claim and has no node yet.
    fn waiting_pod(&self, key: &Key) -> Option<String> {
        let pods = self.pods.list_in(&key.namespace).into_iter();
        let mut waiting = pods.filter(|pod| {
            pod::node(pod).is_none()
                && pod::is_active(pod)
                && crate::claim_protection::of_pod(pod)
                    .iter()
                    .any(|name| **name == *key.name)
        });
        waiting.next()?.metadata.name.clone()
    }

    /// A node for storage that nobody waits for.
    fn any_node(&self) -> Option<String> {
        let nodes = self.nodes.list().into_iter();
        let mut fit = nodes.filter(|node| {
            node.spec
                .as_ref()
                .is_none_or(|spec| spec.unschedulable != Some(true))
        });
        fit.next()?.metadata.name.clone()
    }
}

/// The class of claims that name none: of several the youngest.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<String> {
    let marked = classes.iter().filter(|class| {
        DEFAULT_CLASS
            .iter()
            .any(|name| annotation(&class.metadata, name) == Some("true"))
    });
    let age = |class: &&Arc<StorageClass>| {
        let made = class.metadata.creation_timestamp.as_ref();
        made.map(|time| time.0)
    };
    let newest = marked.max_by_key(age)?;
    newest.metadata.name.clone()
}

/// The claims that a change of a volume concerns.
pub(crate) fn of_volume(
    claims: &Cache<PersistentVolumeClaim>,
    change: &Change<'_, PersistentVolume>,
) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut add = |volume: &PersistentVolume| {
        if let Some(held) = claim_ref(volume) {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            keys.push(Key::new(&text(&held.namespace), &text(&held.name)));
        }
    };
    change.before.into_iter().for_each(|volume| add(volume));
    change.after.into_iter().for_each(|volume| add(volume));
    let name = &*change.key.name;
    let is_free = change
        .after
        .is_some_and(|volume| phase_of(volume) == "Available");
    let concerned = claims.list().into_iter().filter(|claim| {
        let named = volume_of(claim) == Some(name);
        match change.after {
            None => named,
            Some(_) => !is_bound(claim) && (named || is_free),
        }
    });
    keys.extend(concerned.map(|claim| Key::of(&claim.metadata)));
    keys
}

/// The claims that wait for a class.
pub(crate) fn of_class(claims: &Cache<PersistentVolumeClaim>) -> Vec<Key> {
    let open = claims.list().into_iter().filter(|claim| !is_bound(claim));
    open.map(|claim| Key::of(&claim.metadata)).collect()
}
