//! Decides on which node a pod runs, as Kubernetes' kube-scheduler does and by the names that its
//! framework has.
//!
//! Reads Pods, Nodes, Namespaces, PodDisruptionBudgets, and who selects pods together; binds
//! through the `pods/binding` subresource, takes away pods of lower priority where that makes room
//! for others, and says in the condition `PodScheduled` and an event why a pod finds no place.
//!
//! One pod is decided on at a time, in [`core`], with everything that is known in memory: which
//! pods are next ([`queue`]), what is where ([`snapshot`]), which nodes can take the pod and which is
//! the best ([`cycle`], with one file for each plugin), who could go for it ([`preemption`]). What was
//! decided counts at once, before the watch shows it, so that no two take the same place; writing
//! it down happens beside the next decisions, many at a time.

mod class;
pub(crate) mod config;
mod core;
mod cycle;
mod demand;
pub(crate) mod devices;
mod images;
mod inter_pod_affinity;
mod node;
mod node_affinity;
mod outside;
mod preemption;
pub(crate) mod quantity;
mod queue;
mod resources;
mod selector;
mod snapshot;
mod status;
mod taints;
#[cfg(test)]
mod tests;
mod topology;
mod topology_spread;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_api::Device;
use eyot_client::{Cache, Key, view::Pod};
use k8s_openapi::api::{
    core::v1::{Namespace, Node},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    config::SchedulerConfig,
    core::{Core, Decided, Promise, Work},
    preemption::Place,
};
use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, is},
    pod,
    storage::scheduling::{Promise as Volumes, StorageError},
};
pub(crate) use node_affinity::{node_matches, selected};
pub(crate) use outside::Others;
pub(crate) use quantity::milli;
pub(crate) use taints::tolerated;

/// The scheduler that a pod means unless it names another.
const NAME: &str = "default-scheduler";
/// Decisions that are being written down at once: the store takes what waits as one transaction.
const AT_ONCE: usize = 128;
/// The pause before the API is asked again that did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long writing down may take once it is time to stop.
const LAST_WORDS: Duration = Duration::from_secs(5);

pub(crate) struct Scheduler {
    client: Client,
    pods: Cache<Pod>,
    others: Others,
    announcer: Announcer,
    /// Its own name, which pods ask for it by.
    name: String,
    board: Arc<Board>,
}

/// What the listeners and the scheduler share.
struct Board {
    core: Mutex<Core>,
    /// Something has changed.
    wake: Notify,
}

impl Board {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Core)) {
        change(&mut self.core());
        self.wake.notify_one();
    }
}

/// Why a decision could not be written down.
#[derive(Debug, thiserror::Error)]
enum SchedulingError {
    #[error(transparent)]
    Api(#[from] ControlError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What the scheduler watches.
pub(crate) struct Watched<'a> {
    pub(crate) pods: &'a Cache<Pod>,
    pub(crate) nodes: &'a Cache<Node>,
    pub(crate) namespaces: &'a Cache<Namespace>,
    pub(crate) budgets: &'a Cache<PodDisruptionBudget>,
    pub(crate) devices: &'a Cache<Device>,
}

impl Scheduler {
    pub(crate) fn new(
        client: Client,
        watched: &Watched<'_>,
        others: Others,
        announcer: Announcer,
        config: SchedulerConfig,
    ) -> Self {
        let scheduler = Self {
            client,
            pods: watched.pods.clone(),
            others,
            announcer,
            name: config.name.clone(),
            board: Arc::new(Board {
                core: Mutex::new(Core::new(config)),
                wake: Notify::new(),
            }),
        };
        scheduler.listen(watched);
        scheduler
    }

    fn listen(&self, watched: &Watched<'_>) {
        let board = self.board.clone();
        watched.pods.listen(move |change| {
            let (before, after) = (change.before.map(|p| &**p), change.after.map(|p| &**p));
            board.change(|core| core.pod(change.key, before, after, Instant::now()));
        });
        let board = self.board.clone();
        watched.nodes.listen(move |change| {
            let (before, after) = (change.before.map(|n| &**n), change.after.map(|n| &**n));
            board.change(|core| core.node(&change.key.name, before, after, Instant::now()));
        });
        let board = self.board.clone();
        watched.namespaces.listen(move |change| {
            let none = Default::default();
            let labels = change
                .after
                .map(|n| n.metadata.labels.as_ref().unwrap_or(&none));
            board.change(|core| core.namespace(&change.key.name, labels, Instant::now()));
        });
        let board = self.board.clone();
        self.others
            .storage
            .listen(move || board.change(|core| core.storage(Instant::now())));
        devices::listen(self.board.clone(), watched.devices);
        let board = self.board.clone();
        watched.budgets.listen(move |change| {
            board
                .core()
                .budget(change.key, change.after.map(|budget| &**budget));
        });
    }

    /// Place pods until `stop` is cancelled, then finish what was begun. The caches that it listens
    /// to must be complete.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let mut writing = JoinSet::new();
        // Those whose volumes have to be made first may take minutes.
        let mut preparing = JoinSet::new();
        while !stop.is_cancelled() {
            while writing.try_join_next().is_some() {}
            while preparing.try_join_next().is_some() {}
            let room = writing.len() < AT_ONCE;
            if room && let Some(decided) = this.decide() {
                let is_slow = decided.volumes.as_ref().is_some_and(|v| !v.is_fulfilled());
                let this = this.clone();
                let of = if is_slow {
                    &mut preparing
                } else {
                    &mut writing
                };
                of.spawn(async move { this.perform(decided).await });
                // Decisions wait for nothing: others have to run too.
                tokio::task::yield_now().await;
                continue;
            }
            let due = this.board.core().due();
            let later = async {
                match due.filter(|_| room) {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = this.board.wake.notified() => {}
                Some(_) = writing.join_next() => {}
                () = later => {}
            }
        }
        let rest = async { while writing.join_next().await.is_some() {} };
        // What is not written then is decided anew after the next start.
        let _ = timeout(LAST_WORDS, rest).await;
    }

    /// The next decision, if there is one to be made.
    pub(crate) fn decide(&self) -> Option<Decided> {
        self.board.core().next(&self.others, Instant::now())
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.board.core().is_idle()
    }

    /// When there may be something to decide, if there is nothing now.
    #[cfg(test)]
    pub(crate) fn due(&self) -> Option<Instant> {
        self.board.core().due()
    }

    /// Write down what was decided.
    pub(crate) async fn perform(&self, Decided { work, volumes }: Decided) {
        let (key, uid) = match &work {
            Work::Bind { key, uid, .. } | Work::Refuse { key, uid, .. } => (key, uid),
        };
        let done = match &work {
            Work::Bind { node, .. } => self.bind(key, uid, node, volumes).await,
            Work::Refuse {
                message, promise, ..
            } => self.refuse(key, uid, message, promise).await,
        };
        let Err(error) = done else { return };
        tracing::debug!(%key, error = &error as &dyn std::error::Error, "scheduling failed");
        // Who does not know whether the pod was bound must not give its place to another.
        if matches!(work, Work::Bind { .. }) && self.is_bound(key, uid).await {
            return;
        }
        self.board
            .change(|core| core.unassume(key, uid, Instant::now()));
    }

    /// Whether the pod has a node after all; asked until there is an answer.
    async fn is_bound(&self, key: &Key, uid: &str) -> bool {
        loop {
            match self.api(key).get_opt(&key.name).await {
                Ok(Some(pod)) if pod.metadata.uid.as_deref().unwrap_or_default() == uid => {
                    return pod::node(&pod).is_some();
                }
                Ok(_) => return false,
                Err(_) => sleep(ASK_AGAIN).await,
            }
        }
    }
}

impl Scheduler {
    /// The pod as it is known, if it is still the one that was decided on.
    fn pod(&self, key: &Key, uid: &str) -> Option<Arc<Pod>> {
        let pod = self.pods.get(key)?;
        (pod.metadata.uid.as_deref().unwrap_or_default() == uid).then_some(pod)
    }

    fn api(&self, key: &Key) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn bind(
        &self,
        key: &Key,
        uid: &str,
        node: &str,
        volumes: Option<Volumes>,
    ) -> Result<(), SchedulingError> {
        if let Some(volumes) = &volumes
            && !volumes.is_fulfilled()
            && let Err(error) = self.others.storage.fulfil(volumes).await
        {
            if let Some(pod) = self.pod(key, uid) {
                let said = format!("running PreBind plugin \"VolumeBinding\": {error}");
                self.announcer.warning(&*pod, "FailedScheduling", said);
            }
            return Err(error.into());
        }
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": &*key.name, "namespace": &*key.namespace, "uid": uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let params = PostParams::default();
        let pods = self.api(key);
        let bound: Result<Value, _> = pods
            .create_subresource("binding", &key.name, &params, &binding)
            .await;
        bound.act(|| format!("binding pod {key} to node {node}"))?;
        if let Some(volumes) = volumes {
            volumes.keep();
        }
        if let Some(pod) = self.pod(key, uid) {
            let said = format!("Successfully assigned {key} to {node}");
            self.announcer.normal(&*pod, "Scheduled", said);
        }
        Ok(())
    }

    async fn refuse(
        &self,
        key: &Key,
        uid: &str,
        why: &str,
        promise: &Promise,
    ) -> Result<(), SchedulingError> {
        let Some(pod) = self.pod(key, uid) else {
            return Ok(());
        };
        self.tell(key, &pod, why, promise).await?;
        let Promise::Make(place) = promise else {
            return Ok(());
        };
        let outranked = self.board.core().outranked(key, &place.node);
        for lesser in outranked {
            let patch = Patch::Merge(json!({ "status": { "nominatedNodeName": null } }));
            let params = PatchParams::default();
            let cleared = self
                .api(&lesser)
                .patch_status(&lesser.name, &params, &patch)
                .await;
            cleared.act_if_there(|| format!("taking back the place promised to pod {lesser}"))?;
        }
        Ok(self.make_room(uid, place).await?)
    }

    /// Write down why the pod finds no place, and what it has been promised, if that is new.
    async fn tell(
        &self,
        key: &Key,
        pod: &Pod,
        why: &str,
        promise: &Promise,
    ) -> Result<(), ControlError> {
        let known = pod::condition(pod, "PodScheduled");
        let told = known.is_some_and(|known| known.message.as_deref() == Some(why));
        if told && *promise == Promise::Keep {
            return Ok(());
        }
        let now = clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let since = known.filter(|known| known.status == "False");
        let since = since.and_then(|known| known.last_transition_time.as_ref());
        let mut status = json!({ "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": why, "lastProbeTime": null,
            "lastTransitionTime": since.map_or(json!(now), |since| json!(since)),
        }] });
        match promise {
            Promise::Keep => {}
            Promise::Clear => status["nominatedNodeName"] = Value::Null,
            Promise::Make(place) => status["nominatedNodeName"] = json!(&*place.node),
        }
        // Strategic: conditions of other types are not this writer's.
        let patch = json!({ "metadata": { "uid": pod.uid() }, "status": status });
        let patch = Patch::Strategic(patch);
        let written = self
            .api(key)
            .patch_status(&key.name, &PatchParams::default(), &patch)
            .await;
        if written.as_ref().is_err_and(another) {
            return Ok(());
        }
        written.act_if_there(|| format!("telling pod {key} why it finds no node"))?;
        if !told {
            self.announcer
                .warning(pod, "FailedScheduling", why.to_owned());
        }
        Ok(())
    }

    /// Take away the pods that are in the way of the pod `uid`.
    async fn make_room(&self, uid: &str, place: &Place) -> Result<(), ControlError> {
        for (key, victim) in &place.victims {
            let pods = self.api(key);
            let told = Patch::Strategic(json!({
                "metadata": { "uid": victim },
                "status": { "conditions": [{
                    "type": "DisruptionTarget", "status": "True",
                    "reason": "PreemptionByScheduler",
                    "message": format!(
                        "{}: preempting to accommodate a higher priority pod", self.name
                    ),
                    "lastTransitionTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                }] },
            }));
            let told = pods
                .patch_status(&key.name, &PatchParams::default(), &told)
                .await;
            if told.as_ref().is_err_and(another) {
                continue;
            }
            told.act_if_there(|| format!("telling why pod {key} goes"))?;
            let params = DeleteParams::default().preconditions(Preconditions {
                uid: Some(victim.clone()),
                resource_version: None,
            });
            let deleted = pods.delete(&key.name, &params).await;
            if deleted.as_ref().is_err_and(another) {
                continue;
            }
            deleted.act_if_there(|| format!("preempting pod {key}"))?;
            if let Some(pod) = self.pod(key, victim) {
                let said = format!("Preempted by pod {uid} on node {}", place.node);
                self.announcer.normal(&*pod, "Preempted", said);
            }
        }
        Ok(())
    }
}

/// Another pod has the name by now.
fn another(error: &kube::Error) -> bool {
    is(error, 409)
}
