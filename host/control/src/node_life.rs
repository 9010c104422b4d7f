//! Notices nodes that fall silent: says so in their conditions, marks their pods as not ready, and
//! taints them so that their pods leave (`taint_eviction` sees to that).
//!
//! Reads Nodes, their Leases and Pods; writes the conditions of silent nodes, the `NoExecute` taints
//! `not-ready` and `unreachable`, and the condition `Ready` of pods on nodes that are lost. The taints
//! against scheduling are `node_taint`'s.
//!
//! A node lives as long as its Lease is renewed or its status is written. When that was is taken by
//! this host's own monotonic clock at the moment it is seen, so that neither a node whose clock is
//! wrong nor a clock that is set looks like a silence; and after a start every node has the whole
//! time again. Where many nodes of a zone are silent at once the fault is more likely between here
//! and there, so fewer are given up, or none ([`zones`]). Where no node at all is ready none is, and
//! once one is again, those that have not been missed yet have the whole time anew.
//!
//! **Nodes that are cut off at times.** A node with the annotation `eyot.dev/cut-off: keep-pods` is
//! expected to go on working where nobody can see it. While it is silent its conditions say so and
//! no new pod comes to it, but its pods are neither evicted, nor marked as not ready, and so not
//! replaced.

mod zones;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::zones::Zones;
use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, is},
    pod,
};

/// Where nodes keep their Leases.
pub(crate) const LEASES: &str = "kube-node-lease";
/// How long a node may be silent.
const GRACE: Duration = Duration::from_secs(50);
/// How long a node may take to say anything at all.
const START_GRACE: Duration = Duration::from_secs(60);
/// The conditions that a node says of itself.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CUT_OFF: &str = "eyot.dev/cut-off";

pub(crate) struct NodeLives {
    client: Client,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    announcer: Announcer,
    seen: Arc<Mutex<HashMap<String, Seen>>>,
    zones: Mutex<Zones>,
    /// Whether no node was ready when that was looked at last.
    all_lost: AtomicBool,
    /// Nodes that are younger are new, not just seen for the first time.
    started: Timestamp,
}

/// What was last heard of a node.
struct Seen {
    at: Instant,
    /// Whether it was ready when it was looked at last.
    ready: bool,
}

/// Note that a node was heard of.
fn heard(seen: &Mutex<HashMap<String, Seen>>, node: &str) {
    let at = Instant::now();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    // The entry is made when the node is looked at: a Lease alone is no node.
    if let Some(known) = seen.get_mut(node) {
        known.at = at;
    }
}

fn ready(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    found.map(|condition| condition.status.as_str())
}

pub(crate) fn is_ready(node: &Node) -> bool {
    ready(node) == Some("True")
}

fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    found?.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// Its pods stay while it is silent.
fn is_cut_off(node: &Node) -> bool {
    node.annotations()
        .get(CUT_OFF)
        .is_some_and(|policy| policy == "keep-pods")
}

/// The pods that are on the node.
pub(crate) fn pods_on(pods: &Cache<Pod>, node: &str) -> Vec<Arc<Pod>> {
    let mut there = pods.list();
    there.retain(|pod| pod::node(pod) == Some(node));
    there
}

impl NodeLives {
    pub(crate) fn new(
        client: Client,
        nodes: Cache<Node>,
        pods: Cache<Pod>,
        leases: &Cache<Lease>,
        announcer: Announcer,
    ) -> Self {
        let seen = Arc::<Mutex<HashMap<String, Seen>>>::default();
        let of_lease = seen.clone();
        leases.listen(move |change| {
            if change.after.is_some() {
                heard(&of_lease, &change.key.name);
            }
        });
        let (of_node, saying) = (seen.clone(), announcer.clone());
        nodes.listen(move |change: Change<'_, Node>| match change.after {
            Some(after) if heartbeat(after) != change.before.and_then(|n| heartbeat(n)) => {
                heard(&of_node, &change.key.name);
            }
            Some(_) => {}
            None => {
                let name = &*change.key.name;
                let mut seen = of_node.lock().unwrap_or_else(PoisonError::into_inner);
                seen.remove(name);
                if let Some(node) = change.before {
                    let words = format!("Node {name} event: Removing Node {name} from Controller");
                    saying.normal(&**node, "RemovingNode", words);
                }
            }
        });
        Self {
            client,
            nodes,
            pods,
            announcer,
            seen,
            zones: Mutex::default(),
            all_lost: AtomicBool::new(false),
            started: clock::now(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn zones(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Whether no node is ready; the first that is again stands for all that have not been missed.
    fn all_lost(&self, nodes: &[Arc<Node>]) -> bool {
        let mut counted = nodes.iter().filter(|node| zones::counts(node));
        let all_lost = !counted.any(|node| is_ready(node));
        if self.all_lost.swap(all_lost, Ordering::Relaxed) && !all_lost {
            let now = Instant::now();
            for known in self.seen().values_mut() {
                known.at = now;
            }
        }
        all_lost
    }

    /// How long nothing was heard of the node, and whether it was ready when it was last looked at.
    fn look(&self, node: &Node, is_ready: bool) -> (Duration, bool) {
        let now = Instant::now();
        let name = node.name_any();
        let mut seen = self.seen();
        if !seen.contains_key(&name) && node.creation_timestamp() >= Some(Time(self.started)) {
            let words = format!("Node {name} event: Registered Node {name} in Controller");
            self.announcer.normal(node, "RegisteredNode", words);
        }
        let known = seen.entry(name).or_insert(Seen {
            at: now,
            ready: is_ready,
        });
        let was_ready = std::mem::replace(&mut known.ready, is_ready);
        (now - known.at, was_ready)
    }
}

impl Reconciler for NodeLives {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let nodes = self.nodes.list();
        let all_lost = self.all_lost(&nodes);
        let is_ready = is_ready(&node);
        let (silence, was_ready) = self.look(&node, is_ready);
        let grace = if ready(&node).is_some() {
            GRACE
        } else {
            START_GRACE
        };
        if silence >= grace
            && let Some(conditions) = silent(&node, clock::now())
        {
            self.say_silent(key, &node, conditions, is_ready).await?;
            // That is a change of the node, with which it comes here again.
            return Ok(Requeue::OnChange);
        }
        let lost = ready(&node) == Some("Unknown");
        if (lost || was_ready && !is_ready) && !(is_cut_off(&node) && lost) {
            self.mark_pods(&key.name).await?;
        }
        let wanted = wanted(&node).filter(|_| !all_lost);
        let wait = self.taint(key, &node, wanted, &nodes).await?;
        let listen = (silence < grace).then(|| grace - silence);
        let next = [wait, listen].into_iter().flatten().min();
        Ok(next.map_or(Requeue::OnChange, Requeue::After))
    }
}

/// The conditions of a node that is silent, if they do not say so yet.
fn silent(node: &Node, now: Timestamp) -> Option<Vec<Value>> {
    let known = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut told = Vec::new();
    for kind in CONDITIONS {
        match known
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
        {
            None => told.push(json!({
                "type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": node.metadata.creation_timestamp,
                "lastTransitionTime": now,
            })),
            Some(condition) if condition.status != "Unknown" => told.push(json!({
                "type": kind, "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now,
            })),
            Some(_) => {}
        }
    }
    (!told.is_empty()).then_some(told)
}

impl NodeLives {
    async fn say_silent(
        &self,
        key: &Key,
        node: &Node,
        conditions: Vec<Value>,
        was_ready: bool,
    ) -> Result<(), ControlError> {
        let patch = Patch::Strategic(json!({
            // Not if the node has just spoken.
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "status": { "conditions": conditions },
        }));
        let written = self
            .api()
            .patch_status(&key.name, &PatchParams::default(), &patch)
            .await;
        if written.as_ref().is_err_and(|error| is(error, 409)) {
            return Ok(());
        }
        written.act_if_there(|| format!("saying that node {key} is silent"))?;
        if was_ready {
            let words = format!("Node {key} status is now: NodeNotReady");
            self.announcer.normal(node, "NodeNotReady", words);
        }
        Ok(())
    }

    /// Nobody is to send requests to the pods of the node.
    async fn mark_pods(&self, node: &str) -> Result<(), ControlError> {
        let there = pods_on(&self.pods, node);
        for pod in there.iter().filter(|pod| pod::is_ready(pod)) {
            let key = Key::of(&pod.metadata);
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = Patch::Strategic(json!({
                "metadata": { "uid": pod.uid() },
                "status": { "conditions": [{
                    "type": "Ready", "status": "False",
                    "lastTransitionTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                }] },
            }));
            let written = api
                .patch_status(&key.name, &PatchParams::default(), &patch)
                .await;
            // Another pod has the name by now.
            if written.as_ref().is_err_and(|error| is(error, 409)) {
                continue;
            }
            written.act_if_there(|| format!("marking pod {key} as not ready"))?;
            self.announcer
                .warning(&**pod, "NodeNotReady", "Node is not ready".to_owned());
        }
        Ok(())
    }

    /// Write the taints that have pods leave, if it is time; answers how long until then.
    async fn taint(
        &self,
        key: &Key,
        node: &Node,
        wanted: Option<&str>,
        nodes: &[Arc<Node>],
    ) -> Result<Option<Duration>, ControlError> {
        let Some(taints) = taints(node, wanted, clock::now()) else {
            return Ok(None);
        };
        // One that was given up before and is now lost in the other way is not given up again.
        if wanted.is_some()
            && !held(node).iter().any(is_ours)
            && let Err(wait) = self.zones().give_up(node, nodes, Instant::now())
        {
            return Ok(Some(wait));
        }
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        }));
        match self
            .api()
            .patch(&key.name, &PatchParams::default(), &patch)
            .await
        {
            // Somebody else wrote the node: that is a change, which comes here too.
            Err(error) if is(&error, 409) => Ok(None),
            written => {
                written.act_if_there(|| format!("writing the taints of node {key}"))?;
                Ok(None)
            }
        }
    }
}

/// The taint that has the pods of the node leave.
fn wanted(node: &Node) -> Option<&'static str> {
    match ready(node) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") if !is_cut_off(node) => Some(UNREACHABLE),
        _ => None,
    }
}

fn held(node: &Node) -> &[Taint] {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    taints.unwrap_or_default()
}

fn is_ours(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

/// The taints that the node should have, if they are not those that it has.
fn taints(node: &Node, wanted: Option<&str>, now: Timestamp) -> Option<Vec<Taint>> {
    let held = held(node);
    let keep = |taint: &&Taint| !is_ours(taint) || wanted == Some(&*taint.key);
    let mut next: Vec<Taint> = held.iter().filter(keep).cloned().collect();
    if let Some(key) = wanted
        && !held.iter().any(|taint| is_ours(taint) && taint.key == key)
    {
        next.push(Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            time_added: Some(Time(now)),
            ..Taint::default()
        });
    }
    (next != held).then_some(next)
}

/// The nodes that a change of a node is about: where one comes or goes, or is ready or not, it may
/// be that others may be given up (or not any more).
pub(crate) fn of_node(nodes: &Cache<Node>, change: &Change<'_, Node>) -> Vec<Key> {
    let state = |node: Option<&Arc<Node>>| node.map(|node| is_ready(node));
    let mut keys = vec![change.key.clone()];
    if state(change.before) != state(change.after) {
        let lost = nodes.list().into_iter().filter(|node| !is_ready(node));
        keys.extend(lost.map(|node| Key::of(&node.metadata)));
    }
    keys
}

#[cfg(test)]
mod tests;
