//! Decides on which node a pod runs.
//!
//! Reads pods, nodes and what pods claim; binds through the `pods/binding` subresource, and says in the condition
//! `PodScheduled` and an event why a pod finds no place. One pod at a time, so that no two take the
//! same place: what was decided counts at once, before the watch shows it.

mod fit;
mod ledger;
mod quantity;
mod request;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_client::{Cache, Change, Key, Queue, Reconciler, Requeue, view::Pod};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::{ledger::Ledger, request::Demand};
use crate::{
    announce::Announcer,
    error::{Act, ControlError, is},
    pod,
    storage::scheduling::{Promise, Storage, Wishes},
};
pub(crate) use fit::{node_matches, selected, tolerated};
pub(crate) use quantity::milli;

/// Pause before a pod is looked at again whose volumes could not be bound.
const RETRY: Duration = Duration::from_secs(1);
/// The scheduler that a pod means unless it names another.
const NAME: &str = "default-scheduler";

#[derive(Clone)]
pub(crate) struct Scheduler {
    client: Client,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    storage: Storage,
    announcer: Announcer,
    board: Arc<Board>,
}

/// What the listeners and the scheduler share.
struct Board {
    ledger: Mutex<Ledger>,
    /// Pods that found no place: to be tried again when a place may have come up.
    waiting: Mutex<BTreeSet<Key>>,
    queue: Queue,
}

impl Board {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scheduler {
    pub(crate) fn new(
        client: Client,
        pods: Cache<Pod>,
        nodes: Cache<Node>,
        storage: Storage,
        announcer: Announcer,
        queue: Queue,
    ) -> Self {
        let board = Board {
            ledger: Mutex::default(),
            waiting: Mutex::default(),
            queue,
        };
        Self {
            client,
            pods,
            nodes,
            storage,
            announcer,
            board: Arc::new(board),
        }
    }

    /// Keep account of who runs where, and wake waiting pods when something may have become free.
    pub(crate) fn listen(&self) {
        let board = self.board.clone();
        self.pods.listen(move |change| {
            if board.note(&change) {
                board.wake();
            }
        });
        let board = self.board.clone();
        self.nodes.listen(move |change| {
            if fit::may_fit_more(change.before.map(|n| &**n), change.after.map(|n| &**n)) {
                board.wake();
            }
        });
        let board = self.board.clone();
        self.storage.listen(move || board.wake());
    }
}

impl Board {
    /// Enter the change into the ledger; whether a place was given up.
    fn note(&self, change: &Change<'_, Pod>) -> bool {
        let holds = |pod: &&Arc<Pod>| pod::node(pod).is_some() && !pod::has_ended(pod);
        let after = change.after.filter(holds);
        if change.after.is_none() {
            self.waiting().remove(change.key);
        }
        let Some(pod) = after else {
            // An unbound pod may have been assigned a moment ago: that stands until the watch
            // shows it bound or gone.
            let gone = change.after.is_none_or(|pod| pod::has_ended(pod));
            return gone && self.ledger().remove(change.key);
        };
        let node = pod::node(pod).unwrap_or_default();
        // Most changes of a bound pod are of its status.
        if change
            .before
            .is_none_or(|before| pod::node(before) != Some(node))
        {
            self.ledger().put(change.key, node, Demand::of(pod));
        }
        false
    }

    fn wake(&self) {
        for key in std::mem::take(&mut *self.waiting()) {
            self.queue.add(key);
        }
    }
}

/// Whether the pod is this scheduler's to place.
pub(crate) fn is_ours(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let scheduler = spec
        .and_then(|spec| spec.scheduler_name.as_deref())
        .unwrap_or(NAME);
    let gated = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    scheduler == NAME
        && gated.is_none_or(Vec::is_empty)
        && pod::node(pod).is_none()
        && pod::is_active(pod)
}

impl Reconciler for Scheduler {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "scheduler"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(pod) = self.pods.get(key).filter(|pod| is_ours(pod)) else {
            return Ok(Requeue::OnChange);
        };
        // Woken before the watch has shown what was decided: it stands.
        if self.board.ledger().holds(key) {
            return Ok(Requeue::OnChange);
        }
        let demand = Demand::of(&pod);
        // Entered before looking, so that a place that comes up meanwhile wakes it.
        self.board.waiting().insert(key.clone());
        match self.place(key, &pod, demand) {
            Ok((node, promise)) => {
                self.board.waiting().remove(key);
                if promise.is_fulfilled() {
                    self.bind(key, &pod, &node).await?;
                    promise.keep();
                } else {
                    self.bind_later(key.clone(), pod, node, promise);
                }
            }
            Err(why) => self.refuse(key, &pod, &why).await?,
        }
        Ok(Requeue::OnChange)
    }
}

impl Scheduler {
    /// Find the pod a node, and enter that into the ledger.
    fn place(&self, key: &Key, pod: &Pod, demand: Demand) -> Result<(String, Promise), String> {
        let nodes = self.nodes.list();
        let nowhere = |why: &str| format!("0/{} nodes are available: {why}.", nodes.len());
        let wishes: Wishes = self.storage.wishes(pod).map_err(|why| nowhere(&why))?;
        let mut ledger = self.board.ledger();
        let also = |node: &Node| self.storage.objections(&wishes, node);
        let name = fit::choose(pod, &demand, &nodes, &ledger, also)?;
        let mut named = nodes
            .iter()
            .filter(|node| node.metadata.name.as_ref() == Some(&name));
        let node = named.next();
        let promise = node.and_then(|node| self.storage.promise(&wishes, node));
        // Claims and volumes change while they are looked at; that change wakes the pod again.
        let promise = promise
            .ok_or_else(|| nowhere("1 node(s) didn't find available persistent volumes to bind"))?;
        ledger.put(key, &name, demand);
        Ok((name, promise))
    }

    /// Bind the pod once its volumes are there, beside the others that are looked at meanwhile.
    fn bind_later(&self, key: Key, pod: Arc<Pod>, node: String, promise: Promise) {
        let this = self.clone();
        tokio::spawn(async move {
            let failed = match this.storage.fulfil(&promise).await {
                Ok(()) => match this.bind(&key, &pod, &node).await {
                    Ok(()) => {
                        promise.keep();
                        return;
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            drop(promise);
            let said = format!("running PreBind plugin \"VolumeBinding\": {failed}");
            this.announcer.warning(&*pod, "FailedScheduling", said);
            this.board.ledger().remove(&key);
            this.board.queue.add_after(key, RETRY);
        });
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> Result<(), ControlError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": &*key.name, "namespace": &*key.namespace,
                          "uid": pod.metadata.uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let params = PostParams::default();
        match pods
            .create_subresource("binding", &key.name, &params, &binding)
            .await
        {
            Ok::<serde_json::Value, _>(_) => {
                let said = format!("Successfully assigned {key} to {node}");
                self.announcer.normal(pod, "Scheduled", said);
                Ok(())
            }
            Err(error) => {
                self.board.ledger().remove(key);
                // Gone, or somebody else was faster: the watch will tell.
                if is(&error, 404) || is(&error, 409) {
                    return Ok(());
                }
                Err(error).act(|| format!("binding pod {key} to node {node}"))
            }
        }
    }

    async fn refuse(&self, key: &Key, pod: &Pod, why: &str) -> Result<(), ControlError> {
        let known = pod::condition(pod, "PodScheduled");
        if known.is_some_and(|known| known.message.as_deref() == Some(why)) {
            return Ok(());
        }
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let since = known.filter(|known| known.status == "False");
        let since = since.and_then(|known| Some(known.last_transition_time.as_ref()?.0));
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": why, "lastProbeTime": null, "lastTransitionTime": since.unwrap_or(now),
        });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        // Strategic: conditions of other types are not this writer's.
        let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
        pods.patch_status(&key.name, &PatchParams::default(), &patch)
            .await
            .act_if_there(|| format!("telling pod {key} why it finds no node"))?;
        self.announcer
            .warning(pod, "FailedScheduling", why.to_owned());
        Ok(())
    }
}
