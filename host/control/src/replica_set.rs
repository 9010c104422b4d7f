//! Keeps as many pods as a ReplicaSet or a ReplicationController asks for.
//!
//! Reads the sets and the pods of their namespaces; creates, deletes, adopts and releases pods;
//! writes the sets' status. Where a pod runs is the scheduler's business, whether it is ready the
//! node's, and removing the pods of a deleted set the garbage collector's.
//!
//! A ReplicationController is a ReplicaSet in older words: [`Replicated`] says the one in terms of
//! the other, and everything else is the same code.

mod plan;
mod replicated;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, sync::Arc, time::Duration};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};

pub(crate) use self::replicated::Replicated;
use self::{plan::Plan, status::Outcome};
use crate::{
    clock,
    error::{Act, ControlError, said},
    owner,
    pod_control::PodControl,
};

pub(crate) struct Replicas<K> {
    pub(crate) client: Client,
    pub(crate) sets: Cache<K>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) control: PodControl,
}

impl<K: Replicated> Reconciler for Replicas<K> {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(object) = self.sets.get(key) else {
            self.control.forget(key);
            return Ok(Requeue::OnChange);
        };
        let set = object.as_set();
        let awaits = self.control.awaits(key);
        let pods = self.pods.list_in(&key.namespace);
        let related = self.related(&object, key);
        let reference = owner::reference(&*object);
        let now = clock::now();
        let plan = plan::plan(&set, &reference, &related, &pods, now);
        self.control.claim(&*object, &plan.claim).await?;
        let (outcome, failed) = match awaits {
            Some(_) => (Outcome::Untried, Ok(())),
            None => self.apply(&object, &plan).await,
        };
        if let Some(status) = status::changed(&set, plan.status, &outcome, now) {
            let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = Patch::Merge(K::status_patch(status));
            api.patch_status(&key.name, &PatchParams::default(), &patch)
                .await
                .act_if_there(|| format!("writing the status of {} {key}", K::CONTROLLER))?;
        }
        failed?;
        let again = awaits.into_iter().fold(plan.again, sooner);
        Ok(again.map_or(Requeue::OnChange, Requeue::After))
    }
}

impl<K: Replicated> Replicas<K> {
    async fn apply(&self, set: &K, plan: &Plan) -> (Outcome, Result<(), ControlError>) {
        if let Err(error) = self.control.create(set, &plan.create).await {
            return (Outcome::CreateRefused(said(&error.source)), Err(error));
        }
        if let Err(error) = self.control.delete(set, &plan.delete).await {
            return (Outcome::DeleteRefused(said(&error.source)), Err(error));
        }
        (Outcome::Done, Ok(()))
    }

    /// The uids of the sets that have the same owner as this one, itself among them.
    fn related(&self, set: &K, key: &Key) -> HashSet<String> {
        let own = set.meta().uid.clone();
        let Some(owner) = owner::controller(set.meta()) else {
            return own.into_iter().collect();
        };
        let all = self.sets.list_in(&key.namespace).into_iter();
        let related = all.filter(|other| {
            owner::controller(other.meta()).is_some_and(|found| found.uid == owner.uid)
        });
        let uids = related.filter_map(|set| set.meta().uid.clone());
        uids.chain(own).collect()
    }
}

/// The sets that a change of a pod concerns: its controller, before and after; or if it has none,
/// all of its namespace that would have it.
pub(crate) fn of_pod<K: Replicated>(sets: &Cache<K>, change: &Change<'_, Pod>) -> Vec<Key> {
    owner::of_dependent(sets, change, |set| plan::selects(&set.as_set()))
}

/// At most how long until the next look, if anything waits for time to pass.
fn sooner(a: Option<Duration>, b: Duration) -> Option<Duration> {
    Some(a.map_or(b, |a| a.min(b)))
}

type Pods = [Arc<Pod>];
