//! Keeps as many pods as a ReplicaSet asks for.
//!
//! Reads the ReplicaSet and the pods of its namespace; creates, deletes, adopts and releases pods;
//! writes the ReplicaSet's status. Where a pod runs is the scheduler's business, whether it is ready
//! the node's, and removing the pods of a deleted ReplicaSet the garbage collector's.

mod plan;
mod status;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};

use self::plan::{Plan, Write};
use crate::{
    announce::Announcer,
    error::{Act, ControlError, is},
    owner,
};

/// Requests under way for one ReplicaSet: enough for the store to group their writes.
const AT_ONCE: usize = 16;

pub(crate) struct ReplicaSets {
    pub(crate) client: Client,
    pub(crate) sets: Cache<ReplicaSet>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) announcer: Announcer,
}

impl Reconciler for ReplicaSets {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "replicaset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let pods = self.pods.list_in(&key.namespace);
        let plan = plan::plan(&set, &pods, Timestamp::now());
        let failed = self.apply(key, &set, &plan).await;
        let refusal = failed.as_ref().err().map(|error| error.source.to_string());
        if let Some(status) = status::changed(&set, plan.status, refusal, Timestamp::now()) {
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = Patch::Merge(&status);
            api.patch_status(&key.name, &PatchParams::default(), &patch)
                .await
                .act_if_there(|| format!("writing the status of replicaset {key}"))?;
        }
        failed?;
        Ok(plan.again.map_or(Requeue::OnChange, Requeue::After))
    }
}

impl ReplicaSets {
    async fn apply(&self, key: &Key, set: &ReplicaSet, plan: &Plan) -> Result<(), ControlError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        // Boxed, because the compiler cannot prove the anonymous future `Send` for every lifetime.
        let writes: Vec<BoxFuture<'_, _>> = plan
            .writes
            .iter()
            .map(|write| self.write(&pods, set, write).boxed())
            .collect();
        futures::stream::iter(writes)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn write(
        &self,
        pods: &Api<Pod>,
        set: &ReplicaSet,
        w: &Write,
    ) -> Result<(), ControlError> {
        match w {
            Write::Create(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                match pods.create(&PostParams::default(), pod).await {
                    Ok(_) => {
                        let said = format!("Created pod: {name}");
                        self.announcer.normal(set, "SuccessfulCreate", said);
                        Ok(())
                    }
                    // An earlier pass did it, and the cache has not seen it yet.
                    Err(error) if is(&error, 409) => Ok(()),
                    Err(error) => {
                        let said = format!("Error creating: {error}");
                        self.announcer.warning(set, "FailedCreate", said);
                        Err(error).act(|| format!("creating pod {name}"))
                    }
                }
            }
            Write::Delete(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let uid = pod.metadata.uid.clone();
                let exactly = Preconditions {
                    uid,
                    resource_version: None,
                };
                let params = DeleteParams {
                    preconditions: Some(exactly),
                    ..DeleteParams::default()
                };
                match pods.delete(name, &params).await {
                    Ok(_) => {
                        let said = format!("Deleted pod: {name}");
                        self.announcer.normal(set, "SuccessfulDelete", said);
                        Ok(())
                    }
                    // It is gone, or gone and replaced.
                    Err(error) if is(&error, 404) || is(&error, 409) => Ok(()),
                    Err(error) => Err(error).act(|| format!("deleting pod {name}")),
                }
            }
            Write::Owners(pod, patch) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                pods.patch(name, &PatchParams::default(), &Patch::Merge(patch))
                    .await
                    .act_if_there(|| format!("changing the owner of pod {name}"))
            }
        }
    }
}

/// The ReplicaSets that a change of a pod concerns: its controller, before and after; or if it has
/// none, all of its namespace that would have it.
pub(crate) fn of_pod(sets: &Cache<ReplicaSet>, change: &Change<'_, Pod>) -> Vec<Key> {
    let mut keys = Vec::new();
    for pod in [change.before, change.after].into_iter().flatten() {
        let owner = owner::controller(&pod.metadata);
        if let Some(owner) = owner.filter(|owner| owner.kind == "ReplicaSet") {
            keys.push(Key::new(&change.key.namespace, &owner.name));
        }
    }
    if let Some(pod) = change
        .after
        .filter(|pod| owner::controller(&pod.metadata).is_none())
    {
        for set in sets.list_in(&change.key.namespace) {
            if plan::selects(&set).matches(&pod.metadata) {
                keys.push(Key::of(set.meta()));
            }
        }
    }
    keys.dedup();
    keys
}

/// At most how long until the next look, if anything waits for time to pass.
fn sooner(a: Option<Duration>, b: Duration) -> Option<Duration> {
    Some(a.map_or(b, |a| a.min(b)))
}

type Pods = [Arc<Pod>];
