//! Keeps one pod of a DaemonSet on each node that it is for.
//!
//! Reads the DaemonSets, nodes, and the pods and ControllerRevisions of their namespaces; creates,
//! deletes, adopts and releases pods, each meant for its node by affinity; writes the DaemonSet's
//! status and its [`history`]. Binding the pods is the scheduler's business.

mod backoff;
mod placement;
mod plan;
mod pods;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::Node,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use self::{
    backoff::Backoff,
    plan::{Input, Plan},
};
use crate::{
    clock,
    error::{Act, ControlError},
    history::{self, History, Revisions},
    owner::{self, Selects},
    pod,
    pod_control::{self, PodControl},
};

pub(crate) struct DaemonSets {
    pub(crate) client: Client,
    pub(crate) sets: Cache<DaemonSet>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) revisions: Cache<ControllerRevision>,
    pub(crate) control: PodControl,
    backoff: Backoff,
}

impl DaemonSets {
    pub(crate) fn new(
        client: Client,
        sets: Cache<DaemonSet>,
        pods: Cache<Pod>,
        nodes: Cache<Node>,
        revisions: Cache<ControllerRevision>,
        control: PodControl,
    ) -> Self {
        Self {
            client,
            sets,
            pods,
            nodes,
            revisions,
            control,
            backoff: Backoff::default(),
        }
    }
}

impl Reconciler for DaemonSets {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "daemonset"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(set) = self.sets.get(key) else {
            self.control.forget(key);
            self.backoff.forget(key);
            return Ok(Requeue::OnChange);
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::OnChange);
        }
        let awaits = self.control.awaits(key);
        let selects = selects(&set);
        let revisions = match self.history(&set, &selects).await? {
            History::Known(revisions) => revisions,
            History::Collided => {
                let known = set
                    .status
                    .as_ref()
                    .and_then(|status| status.collision_count);
                let count = known.unwrap_or(0).saturating_add(1);
                let patch = json!({ "status": { "collisionCount": count } });
                self.write_status(key, patch).await?;
                return Ok(Requeue::OnChange);
            }
        };
        let pods = self.pods.list_in(&key.namespace);
        let claim = pod_control::claim(&set.metadata, &selects, &pods, pod::is_active);
        self.control.claim(&*set, &claim).await?;
        let input = Input {
            set: &set,
            hash: hash(&revisions.current),
            nodes: &self.nodes.list(),
            mine: &claim.mine,
            in_namespace: &pods,
            now: clock::now(),
        };
        let plan = plan::plan(&input, |node| self.backoff.left(key, node));
        let failed = match awaits {
            Some(_) => Ok(()),
            None => self.apply(key, &set, &plan).await,
        };
        if let Some(patch) = status::changed(&set, plan.status) {
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

impl DaemonSets {
    async fn history(&self, set: &DaemonSet, selects: &Selects) -> Result<History, ControlError> {
        let none = Default::default();
        let of = history::Of {
            template: set.spec.as_ref().map_or(&none, |spec| &spec.template),
            selects,
            collisions: set
                .status
                .as_ref()
                .and_then(|status| status.collision_count),
            label: history::HASH,
        };
        history::settle(&self.client, &self.revisions, set, &of).await
    }

    async fn apply(&self, key: &Key, set: &DaemonSet, plan: &Plan) -> Result<(), ControlError> {
        for ended in &plan.ended {
            let name = Key::of(&ended.pod.metadata);
            let (reason, words) = match pod::phase(&ended.pod) {
                "Failed" => ("FailedDaemonPod", "failed daemon pod"),
                _ => ("SucceededDaemonPod", "succeeded daemon pod"),
            };
            let act = if reason == "FailedDaemonPod" {
                "kill"
            } else {
                "delete"
            };
            let said = format!(
                "Found {words} {name} on node {}, will try to {act} it",
                ended.node
            );
            if reason == "FailedDaemonPod" {
                self.backoff.failed(key, &ended.node);
                self.control.announcer().warning(set, reason, said);
            } else {
                self.control.announcer().normal(set, reason, said);
            }
        }
        let ended = plan.ended.iter().map(|ended| ended.pod.clone());
        let gone: Vec<_> = ended.chain(plan.delete.iter().cloned()).collect();
        self.control.delete(set, &gone).await?;
        self.control.create(set, &plan.create).await
    }

    async fn clean_up(
        &self,
        set: &DaemonSet,
        revisions: &Revisions,
        mine: &[Arc<Pod>],
    ) -> Result<(), ControlError> {
        let limit = set
            .spec
            .as_ref()
            .and_then(|spec| spec.revision_history_limit);
        let marks = history::marks(mine.iter().map(|pod| &**pod));
        let live = |revision: &ControllerRevision| marks.contains(hash(revision));
        let gone = history::surplus(&revisions.old, limit, live);
        history::forget(&self.client, &gone).await
    }

    async fn write_status(&self, key: &Key, patch: Value) -> Result<(), ControlError> {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::default();
        let patched = api
            .patch_status(&key.name, &params, &Patch::Merge(patch))
            .await;
        patched.act_if_there(|| format!("writing the status of daemonset {key}"))
    }
}

/// The hash that the pods of a revision carry: one that lost its label goes by its name.
fn hash(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    let hash = labels.and_then(|labels| labels.get(history::HASH));
    hash.or(revision.metadata.name.as_ref())
        .map_or("", String::as_str)
}

fn selects(set: &DaemonSet) -> Selects {
    Selects::of(set.spec.as_ref().map(|spec| &spec.selector))
}

/// The DaemonSets that a change of a pod or a revision concerns.
pub(crate) fn of_dependent<D: Resource>(
    sets: &Cache<DaemonSet>,
    change: &Change<'_, D>,
) -> Vec<Key> {
    owner::of_dependent(sets, change, selects)
}

/// All DaemonSets if the change of a node may concern any: most changes are heartbeats.
pub(crate) fn of_node(sets: &Cache<DaemonSet>, change: &Change<'_, Node>) -> Vec<Key> {
    let looks = |node: Option<&Arc<Node>>| {
        let node = node?;
        let spec = node.spec.clone().unwrap_or_default();
        let labels: BTreeMap<_, _> = node.metadata.labels.clone().unwrap_or_default();
        Some((
            labels,
            spec.taints.unwrap_or_default(),
            spec.unschedulable.unwrap_or(false),
        ))
    };
    if looks(change.before) == looks(change.after) {
        return Vec::new();
    }
    let all = sets.list();
    all.iter().map(|set| Key::of(&set.metadata)).collect()
}
