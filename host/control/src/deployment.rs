//! Rolls a Deployment's template out through ReplicaSets.
//!
//! Reads the Deployment, the ReplicaSets of its namespace and (for `Recreate`) their pods; creates,
//! scales, adopts and deletes ReplicaSets; writes the Deployment's status and revision. Pods
//! themselves are the ReplicaSet controller's business. Earlier ReplicaSets are kept, scaled to
//! nothing, up to `revisionHistoryLimit`: they are what a rollback goes back to.

mod conditions;
mod plan;
mod revision;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::plan::Write;
use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, is, is_namespace_ending, said},
    owner,
    pod_control::Awaited,
};

pub(crate) struct Deployments {
    pub(crate) client: Client,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) sets: Cache<ReplicaSet>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) announcer: Announcer,
    /// Without it a roll-out that follows closely on another would not count what that one made.
    pub(crate) awaited: Awaited,
}

impl Reconciler for Deployments {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "deployment"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(deployment) = self.deployments.get(key) else {
            self.awaited.forget(key);
            return Ok(Requeue::OnChange);
        };
        if let Some(again) = self.awaited.lacks(key, &self.sets) {
            return Ok(Requeue::After(again));
        }
        let sets = self.sets.list_in(&key.namespace);
        let pods = self.pods.list_in(&key.namespace);
        let plan = plan::plan(&deployment, &sets, &pods, clock::now());
        for write in &plan.writes {
            self.write(key, &deployment, write).await?;
        }
        Ok(plan.again.map_or(Requeue::OnChange, Requeue::After))
    }
}

impl Deployments {
    async fn write(&self, key: &Key, of: &Deployment, write: &Write) -> Result<(), ControlError> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::default();
        match write {
            Write::Create(set) => {
                let name = set.metadata.name.as_deref().unwrap_or_default();
                match sets.create(&PostParams::default(), set).await {
                    Ok(made) => self.wrote(key, &made),
                    // An earlier pass did it, and the cache has not seen it yet.
                    Err(error) if is(&error, 409) => {
                        let there = sets.get_opt(name).await;
                        let there = there.act(|| format!("looking for replicaset {name}"))?;
                        if let Some(there) = there {
                            self.wrote(key, &there);
                        }
                        return Ok(());
                    }
                    // Whatever else goes with the namespace, so does this.
                    Err(error) if is_namespace_ending(&error) => return Ok(()),
                    Err(error) => {
                        self.not_created(key, of, name, &error).await?;
                        return Err(error).act(|| format!("creating replicaset {name}"));
                    }
                }
                let count = set
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(0);
                self.scaled(of, name, 0, count);
            }
            Write::Scale {
                set,
                from,
                to,
                patch,
            } => {
                let patched = sets.patch(set, &params, &Patch::Merge(patch)).await;
                match patched {
                    Ok(scaled) => self.wrote(key, &scaled),
                    other => return other.act_if_there(|| format!("scaling replicaset {set}")),
                }
                self.scaled(of, set, *from, *to);
            }
            Write::Set { set, patch } => sets
                .patch(set, &params, &Patch::Merge(patch))
                .await
                .act_if_there(|| format!("annotating replicaset {set}"))?,
            Write::Delete { set } => sets
                .delete(set, &DeleteParams::default())
                .await
                .act_if_there(|| format!("deleting replicaset {set}"))?,
            Write::Annotate(patch) => deployments
                .patch(&key.name, &params, &Patch::Merge(patch))
                .await
                .act_if_there(|| format!("annotating deployment {key}"))?,
            Write::Status(patch) => deployments
                .patch_status(&key.name, &params, &Patch::Merge(patch))
                .await
                .act_if_there(|| format!("writing the status of deployment {key}"))?,
        }
        Ok(())
    }

    /// Say why the ReplicaSet of the template cannot be made.
    async fn not_created(
        &self,
        key: &Key,
        of: &Deployment,
        name: &str,
        error: &kube::Error,
    ) -> Result<(), ControlError> {
        let message = format!("Failed to create new replica set {name:?}: {}", said(error));
        let conditions = conditions::not_created(of, &message, clock::now());
        let known = of
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        if conditions.is_some() && conditions.as_ref() != known {
            let patch = json!({ "status": { "conditions": conditions } });
            let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api
                .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            written.act_if_there(|| format!("writing the status of deployment {key}"))?;
        }
        self.announcer.warning(of, "ReplicaSetCreateError", message);
        Ok(())
    }

    fn wrote(&self, key: &Key, set: &ReplicaSet) {
        let version = set.metadata.resource_version.as_deref();
        self.awaited.wrote(key, version);
    }

    fn scaled(&self, of: &Deployment, set: &str, from: i32, to: i32) {
        if from == to {
            return;
        }
        let direction = if to > from { "up" } else { "down" };
        let said = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.announcer.normal(of, "ScalingReplicaSet", said);
    }
}

/// The Deployments that a change of a ReplicaSet concerns.
pub(crate) fn of_set(all: &Cache<Deployment>, change: &Change<'_, ReplicaSet>) -> Vec<Key> {
    owner::of_dependent(all, change, plan::selects)
}

/// The Deployment that waits for this pod to be gone: only `Recreate` does.
pub(crate) fn of_ended_pod(
    all: &Cache<Deployment>,
    sets: &Cache<ReplicaSet>,
    change: &Change<'_, Pod>,
) -> Option<Key> {
    let ended = change.after.is_none_or(|pod| crate::pod::has_ended(pod));
    let pod = change.before.filter(|_| ended)?;
    let set = owner::controller(&pod.metadata)?;
    let set = sets.get(&Key::new(&change.key.namespace, &set.name))?;
    let key = Key::new(
        &change.key.namespace,
        &owner::controller(&set.metadata)?.name,
    );
    let deployment = all.get(&key)?;
    plan::recreates(&deployment).then_some(key)
}
