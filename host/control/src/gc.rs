//! Deletes what nobody owns any more.
//!
//! Watches the metadata of all objects of all kinds. An object whose owners are all gone is
//! deleted; owners that are gone while others are not are taken off the list. It also carries out
//! the two slow ways to delete an owner: `foregroundDeletion` (dependents first) and `orphan`
//! (dependents are let go), for which the API leaves finalizers. That an owner is gone is never
//! believed of the local picture alone: before anything is deleted the API is asked.

mod decide;
mod graph;
#[cfg(test)]
mod tests;
mod watching;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use eyot_client::{Controller, Key, Queue, Reconciler, Requeue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::{
    decide::{Act as Decided, OwnerState},
    graph::{Graph, Item},
};
use crate::{
    error::{Act, ControlError},
    owner,
    resources::Served,
};

/// Checks at once: most are answered from the picture, without a request.
const AT_ONCE: usize = 8;

pub(crate) struct Collector {
    client: Client,
    world: Arc<World>,
}

/// What the watches know, for the collector.
#[derive(Default)]
struct World {
    graph: Mutex<Graph>,
    served: RwLock<Vec<Arc<Served>>>,
}

impl World {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self, owner: &OwnerReference) -> Option<Arc<Served>> {
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        served
            .iter()
            .find(|served| served.is(group, &owner.kind))
            .cloned()
    }
}

/// Collect until `stop` is cancelled.
pub(crate) async fn run(client: Client, stop: CancellationToken) {
    let world = Arc::new(World::default());
    let collector = Collector {
        client: client.clone(),
        world: world.clone(),
    };
    let controller = Controller::new(collector).concurrency(AT_ONCE);
    let queue: Queue = controller.queue();
    tokio::join!(
        controller.run(stop.clone()),
        watching::watch_everything(client, world, queue, stop)
    );
}

/// The queue's keys are uids: two objects may follow each other under one name.
fn key_of(uid: &str) -> Key {
    Key::new("", uid)
}

impl Reconciler for Collector {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(item) = self.world.graph().get(&key.name) else {
            return Ok(Requeue::OnChange);
        };
        if item.is_deleting() {
            self.release_dependents(&item).await?;
            return Ok(Requeue::OnChange);
        }
        if item.owners().is_empty() {
            return Ok(Requeue::OnChange);
        }
        let mut states = HashMap::new();
        for owner in item.owners() {
            states.insert(owner.uid.as_str(), self.state(&item, owner).await?);
        }
        let has_dependents = !self.world.graph().dependents(&key.name).is_empty();
        match decide::decide(item.owners(), &states, has_dependents) {
            Decided::Keep => {}
            Decided::Release(uids) => {
                let patch = owner::release(&item.meta(), &uids);
                self.patch(&item, patch).await?;
            }
            Decided::Delete(policy) => self.delete(&item, policy).await?,
        }
        Ok(Requeue::OnChange)
    }
}

impl Collector {
    /// What has become of an owner.
    async fn state(&self, of: &Item, owner: &OwnerReference) -> Result<OwnerState, ControlError> {
        if let Some(known) = self.world.graph().get(&owner.uid) {
            return Ok(known.state());
        }
        let Some(served) = self.world.served(owner) else {
            // A kind that nobody serves (yet): whether such an object exists cannot be known.
            return Ok(OwnerState::There);
        };
        let api = served.within(&self.client, of.namespace());
        let found = api.get_metadata_opt(&owner.name).await;
        let found = found.act(|| format!("looking for {} {}", owner.kind, owner.name))?;
        let found = found.filter(|found| found.metadata.uid.as_ref() == Some(&owner.uid));
        Ok(found.map_or(OwnerState::Gone, |found| {
            Item::new(served, found.metadata).state()
        }))
    }

    /// Carry out the finalizers of an owner that is being deleted.
    async fn release_dependents(&self, item: &Item) -> Result<(), ControlError> {
        let dependents = self.world.graph().dependents(item.uid());
        if item.has_finalizer(decide::ORPHAN) {
            for dependent in &dependents {
                self.patch(dependent, owner::release(&dependent.meta(), &[item.uid()]))
                    .await?;
            }
            return self.remove_finalizer(item, decide::ORPHAN).await;
        }
        if !item.has_finalizer(decide::FOREGROUND) {
            return Ok(());
        }
        let mut blocked = false;
        for dependent in &dependents {
            // Of those who wait for each other in a circle, somebody has to go first.
            blocked |= dependent.blocks(item.uid())
                && !self.world.graph().waits_for(dependent, item.uid());
            if !dependent.is_deleting() {
                // As an object of its own: it may have other owners, which then keep it.
                let states = self.states_without(dependent, item.uid()).await?;
                let waits = !self.world.graph().dependents(dependent.uid()).is_empty();
                match decide::decide(dependent.owners(), &states, waits) {
                    Decided::Keep => {}
                    Decided::Release(uids) => {
                        self.patch(dependent, owner::release(&dependent.meta(), &uids))
                            .await?;
                    }
                    Decided::Delete(policy) => self.delete(dependent, policy).await?,
                }
            }
        }
        if blocked {
            // The last of them to go brings this owner back into the queue.
            return Ok(());
        }
        self.remove_finalizer(item, decide::FOREGROUND).await
    }

    /// The states of the owners of a dependent, one of which is waiting for it.
    async fn states_without<'a>(
        &self,
        dependent: &'a Item,
        waiting: &str,
    ) -> Result<HashMap<&'a str, OwnerState>, ControlError> {
        let mut states = HashMap::new();
        for owner in dependent.owners() {
            let state = match owner.uid == waiting {
                true => OwnerState::WaitsForDependents,
                false => self.state(dependent, owner).await?,
            };
            states.insert(owner.uid.as_str(), state);
        }
        Ok(states)
    }

    async fn remove_finalizer(&self, item: &Item, finalizer: &str) -> Result<(), ControlError> {
        let all = item.finalizers().iter();
        let left: Vec<_> = all.filter(|found| *found != finalizer).collect();
        let patch = json!({ "metadata": {
            "resourceVersion": item.version(), "finalizers": left,
        }});
        self.patch(item, patch).await
    }

    async fn patch(&self, item: &Item, patch: serde_json::Value) -> Result<(), ControlError> {
        let api = item.served.within(&self.client, item.namespace());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = api.patch_metadata(item.name(), &params, &patch).await;
        patched.act_if_there(|| format!("changing the owners of {item}"))
    }

    async fn delete(&self, item: &Item, how: PropagationPolicy) -> Result<(), ControlError> {
        // Only as it was judged: somebody may just have given it another owner.
        let params = DeleteParams {
            propagation_policy: Some(how),
            preconditions: Some(Preconditions {
                uid: Some(item.uid().to_owned()),
                resource_version: Some(item.version().to_owned()),
            }),
            ..DeleteParams::default()
        };
        let api = item.served.within(&self.client, item.namespace());
        // If it has changed, that is a failure like any other: it is judged again.
        let deleted = api.delete(item.name(), &params).await;
        deleted.act_if_there(|| format!("deleting {item}"))
    }
}
