//! Keeps the pods of a StatefulSet: each with a name of its own that lasts, and its own storage.
//!
//! Reads the StatefulSets, and the pods, claims and ControllerRevisions of their namespaces;
//! creates, deletes, adopts and releases pods; creates claims and says to whom they belong; writes
//! the StatefulSet's status and its [`history`]. What is behind a claim, where a pod runs and how
//! its name is resolved are others' business.

mod claims;
mod identity;
mod plan;
mod status;
#[cfg(test)]
mod tests;
mod update;

use std::{collections::HashSet, sync::Arc};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::PersistentVolumeClaim,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use self::{
    identity::Member,
    plan::{Input, Plan},
};
use crate::{
    clock,
    error::{Act, ControlError, is, is_namespace_ending, said},
    history::{self, History, Revisions},
    owner::{self, Selects},
    pod_control::{self, PodControl},
};

/// The label that tells a revision its hash; pods carry the revision's name.
const HASH: &str = "controller.kubernetes.io/hash";

pub(crate) struct StatefulSets {
    pub(crate) client: Client,
    pub(crate) sets: Cache<StatefulSet>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) revisions: Cache<ControllerRevision>,
    pub(crate) control: PodControl,
}

impl Reconciler for StatefulSets {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "statefulset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(set) = self.sets.get(key) else {
            self.control.forget(key);
            return Ok(Requeue::OnChange);
        };
        let awaits = self.control.awaits(key);
        let selects = selects(&set);
        let revisions = match self.history(&set, &selects).await? {
            History::Known(revisions) => revisions,
            History::Collided => {
                let count = collisions(&set).unwrap_or(0).saturating_add(1);
                let patch = json!({ "status": { "collisionCount": count } });
                self.write_status(key, patch).await?;
                return Ok(Requeue::OnChange);
            }
        };
        let pods = self.pods.list_in(&key.namespace);
        let is_member = |pod: &Pod| Member::of(&set, pod).is_some();
        let mut claim = pod_control::claim(&set.metadata, &selects, &pods, is_member);
        self.control.claim(&*set, &claim).await?;
        claim.mine.retain(|pod| is_member(pod));
        let update = &revisions.current;
        let input = Input {
            set: &set,
            current: current(&set, &revisions),
            update,
            pods: &claim.mine,
            claims: &|name| self.claims.get(&Key::new(&key.namespace, name)),
            now: clock::now(),
        };
        let plan = plan::plan(&input);
        let failed = match awaits {
            Some(_) => Ok(()),
            None => self.apply(key, &set, &plan).await,
        };
        if let Some(patch) = status::changed(&set, &plan.status) {
            self.write_status(key, patch).await?;
        }
        failed?;
        if awaits.is_none() && plan.is_idle() {
            self.clean_up(&set, &revisions, &claim.mine).await?;
        }
        let again = awaits.into_iter().chain(plan.again).min();
        Ok(again.map_or(Requeue::OnChange, Requeue::After))
    }
}

impl StatefulSets {
    async fn history(&self, set: &StatefulSet, selects: &Selects) -> Result<History, ControlError> {
        let none = Default::default();
        let of = history::Of {
            template: set.spec.as_ref().map_or(&none, |spec| &spec.template),
            selects,
            collisions: collisions(set),
            label: HASH,
        };
        history::settle(&self.client, &self.revisions, set, &of).await
    }

    async fn apply(&self, key: &Key, set: &StatefulSet, plan: &Plan) -> Result<(), ControlError> {
        for claim in &plan.claims {
            if !self.create_claim(key, set, claim).await? {
                return Ok(());
            }
        }
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::default();
        for (name, patch) in &plan.owners {
            let patched = claims.patch(name, &params, &Patch::Merge(patch)).await;
            patched.act_if_there(|| format!("changing the owners of claim {name}"))?;
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        for (name, patch) in &plan.labels {
            let patched = pods.patch(name, &params, &Patch::Merge(patch)).await;
            patched.act_if_there(|| format!("labelling pod {name}"))?;
        }
        self.control.create(set, &plan.create).await?;
        self.control.delete(set, &plan.delete).await
    }

    /// Whether there is any point in going on: in a namespace that is going there is none.
    async fn create_claim(
        &self,
        key: &Key,
        set: &StatefulSet,
        (pod, claim): &(String, PersistentVolumeClaim),
    ) -> Result<bool, ControlError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let announcer = self.control.announcer();
        match api.create(&PostParams::default(), claim).await {
            Ok(_) => {
                let what = format!("Claim {name} Pod {pod} in StatefulSet {}", key.name);
                announcer.normal(set, "SuccessfulCreate", format!("create {what} success"));
                Ok(true)
            }
            // Made by an earlier pass, and the cache has not seen it yet.
            Err(error) if is(&error, 409) => Ok(true),
            Err(error) if is_namespace_ending(&error) => Ok(false),
            Err(error) => {
                let what = format!("Claim {name} for Pod {pod} in StatefulSet {}", key.name);
                let said = format!("create {what} failed error: {}", said(&error));
                announcer.warning(set, "FailedCreate", said);
                Err(error).act(|| format!("creating claim {name}"))
            }
        }
    }

    async fn clean_up(
        &self,
        set: &StatefulSet,
        revisions: &Revisions,
        mine: &[Arc<Pod>],
    ) -> Result<(), ControlError> {
        let limit = set
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let mut live: HashSet<String> = history::marks(mine.iter().map(|pod| &**pod));
        let status = set.status.as_ref();
        live.extend(status.and_then(|status| status.current_revision.clone()));
        let is_live = |revision: &ControllerRevision| live.contains(name(revision));
        let gone = history::surplus(&revisions.old, limit, is_live);
        history::forget(&self.client, &gone).await
    }

    async fn write_status(&self, key: &Key, patch: Value) -> Result<(), ControlError> {
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::default();
        let patched = api
            .patch_status(&key.name, &params, &Patch::Merge(patch))
            .await;
        patched.act_if_there(|| format!("writing the status of statefulset {key}"))
    }
}

/// The revision that an update started from; where none is known, there is no update.
fn current<'a>(set: &StatefulSet, revisions: &'a Revisions) -> &'a ControllerRevision {
    let status = set.status.as_ref();
    let known = status.and_then(|status| status.current_revision.as_deref());
    let mut old = revisions.old.iter();
    old.find(|revision| known == Some(name(revision)))
        .unwrap_or(&revisions.current)
}

fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

fn collisions(set: &StatefulSet) -> Option<i32> {
    set.status
        .as_ref()
        .and_then(|status| status.collision_count)
}

fn selects(set: &StatefulSet) -> Selects {
    Selects::of(set.spec.as_ref().map(|spec| &spec.selector))
}

/// The StatefulSets that a change of a pod or a revision concerns.
pub(crate) fn of_dependent<D: Resource>(
    sets: &Cache<StatefulSet>,
    change: &Change<'_, D>,
) -> Vec<Key> {
    owner::of_dependent(sets, change, selects)
}

/// The StatefulSets whose claim came, went or is going.
pub(crate) fn of_claim(
    sets: &Cache<StatefulSet>,
    change: &Change<'_, PersistentVolumeClaim>,
) -> Vec<Key> {
    let all = sets.list_in(&change.key.namespace).into_iter();
    let has = all.filter(|set| claims::is_of(set, &change.key.name));
    has.map(|set| Key::of(&set.metadata)).collect()
}
