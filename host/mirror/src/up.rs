//! From here to the cloud: what this node observes, in the order in which it happened.
//!
//! Level-triggered like everything else: a change here only says which object to look at, and what is
//! sent is what is there then, unless the cloud shows just that. So a hundred changes of a pod while
//! cut off are one write, whatever is sent twice because an answer was lost changes nothing, and a
//! start looks at everything once. What must be told one by one are events; each has its name, so the
//! cloud has it once, and how far they were told is kept in the store.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Release},
    },
    time::Duration,
};

use eyot_store::{Change, ChangeKind, Key, WriteError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    conflict,
    context::{Context, Shown},
    kind::{collection, kind},
    local::parsed,
    marks,
    merge::{fingerprint, object, status_patch},
    queue::{Gone, Queue},
    remote::RemoteError,
};

const EVENTS: &str = "events";
const LEASES: &str = "leases.coordination.k8s.io";
const NODE_LEASES: &str = "kube-node-lease";
/// What is looked at here.
const OBSERVED: [&str; 8] = [
    "nodes",
    LEASES,
    "pods",
    EVENTS,
    "devices.eyot.dev",
    "deviceservices.eyot.dev",
    "provisionwatchers.eyot.dev",
    "pipelines.eyot.dev",
];
/// Where it stands up to which revision events were told; no API serves it.
const TOLD: &str = "told.mirror.eyot.internal";
/// After a failure of this node's own store.
const AGAIN: Duration = Duration::from_secs(1);

impl Context {
    /// Have the queues filled with what changes here.
    pub(crate) async fn observe(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = tokio::task::JoinSet::new();
        let here = |resource: &&str| self.devices || !resource.ends_with(".eyot.dev");
        for resource in OBSERVED.into_iter().filter(here) {
            let (context, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                stop.run_until_cancelled(context.observe_one(resource))
                    .await
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn observe_one(&self, resource: &'static str) {
        let store = &self.local.store;
        let mut told = self.told();
        loop {
            let list = store.list(resource, None);
            for object in &list.objects {
                if resource != EVENTS || object.revision > told {
                    self.touch(object.key.clone());
                }
            }
            self.has_seen(resource, list.revision);
            if let Ok(mut watch) = store.watch(resource, None, list.revision) {
                while let Ok(change) = watch.next().await {
                    self.seen(&change);
                }
            }
            // It fell behind what the store remembers.
            told = self.told();
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn seen(&self, change: &Change) {
        let key = &change.object.key;
        let gone = (change.kind == ChangeKind::Deleted).then(|| {
            let last = parsed(&change.object);
            Gone {
                uid: last["metadata"]["uid"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                made: marks::is_made_here(&last),
            }
        });
        self.queue_of(key).add(key.clone(), gone);
        self.has_seen(&key.resource, change.object.revision);
    }

    /// Every change up to a revision is in the queue, or was told.
    fn has_seen(&self, resource: &str, revision: u64) {
        if resource == EVENTS {
            self.events_seen.store(revision, Release);
        }
    }

    fn told(&self) -> u64 {
        let found = self.local.get(&told_key());
        found
            .and_then(|(_, value)| value["sent"].as_u64())
            .unwrap_or(0)
    }

    /// Send what is in a queue, one after the other.
    pub(crate) async fn send(self: Arc<Self>, queue: usize, stop: CancellationToken) {
        let queue = &self.queues[queue];
        let work = async {
            let mut failures = 0;
            loop {
                let (key, gone) = queue.take().await;
                let sent = self.tell(&key, gone.as_ref()).await;
                self.judge(queue, key, gone, sent, &mut failures).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn judge(
        &self,
        queue: &Queue,
        key: Key,
        gone: Option<Gone>,
        sent: Result<bool, RemoteError>,
        failures: &mut u32,
    ) {
        match sent {
            Ok(true) => {
                self.link.found();
                *failures = 0;
            }
            // Nothing was to be sent.
            Ok(false) => {}
            Err(RemoteError::Unreachable(why)) => {
                self.link.lost(&why);
                queue.put_back(key, gone);
                self.pause(*failures, "send").await;
                *failures += 1;
            }
            Err(error) => {
                tracing::warn!(%key, %error, "not told to the cloud");
            }
        }
    }

    /// Tell the cloud how an object is now; whether anything was sent.
    async fn tell(&self, key: &Key, gone: Option<&Gone>) -> Result<bool, RemoteError> {
        match &*key.resource {
            "nodes" => self.tell_node(key).await,
            LEASES => self.tell_lease(key).await,
            EVENTS => self.tell_event(key).await,
            "pods" => self.tell_pod(key, gone).await,
            _ => self.tell_custom(key).await,
        }
    }

    async fn tell_node(&self, key: &Key) -> Result<bool, RemoteError> {
        let (Some(nodes), Some((_, node))) = (kind("nodes"), self.local.get(key)) else {
            return Ok(false);
        };
        if *key.name != *self.node {
            return Ok(false);
        }
        let path = format!("{}/{}", nodes.path(""), key.name);
        let shown = self.shown.get(key);
        let labels = &node["metadata"]["labels"];
        let lacks = |shown: &Value| {
            let mut own = labels.as_object().into_iter().flatten();
            own.any(|(name, value)| shown.get(name) != Some(value))
        };
        let known = match &shown {
            None => false,
            Some(shown) => {
                if shown.labels.as_ref().is_some_and(lacks) {
                    let patch = json!({ "metadata": { "labels": labels } });
                    self.remote.patch(&path, &patch).await?;
                }
                true
            }
        };
        if !known {
            let made = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": key.name, "labels": labels,
                    "annotations": node["metadata"]["annotations"] },
            });
            match self.remote.create(nodes.path("").as_str(), &made).await {
                Ok(_) | Err(RemoteError::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        let status = &node["status"];
        if status.is_null() || shown.is_some_and(|shown| shown.status == fingerprint(status)) {
            return Ok(!known);
        }
        let patch = json!({ "status": strategic(status.clone()) });
        let answer = self
            .remote
            .strategic(&format!("{path}/status"), &patch)
            .await;
        self.acknowledge(key, nodes, answer, status)
    }

    async fn tell_lease(&self, key: &Key) -> Result<bool, RemoteError> {
        let is_own = &*key.namespace == NODE_LEASES && *key.name == *self.node;
        let Some((_, lease)) = self.local.get(key).filter(|_| is_own) else {
            return Ok(false);
        };
        let all = collection("coordination.k8s.io", "v1", "leases", NODE_LEASES);
        let patch = json!({ "spec": lease["spec"] });
        match self
            .remote
            .patch(&format!("{all}/{}", key.name), &patch)
            .await
        {
            Err(RemoteError::Missing) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
        let made = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": key.name, "namespace": NODE_LEASES }, "spec": lease["spec"],
        });
        match self.remote.create(&all, &made).await {
            Ok(_) | Err(RemoteError::Exists) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn tell_event(&self, key: &Key) -> Result<bool, RemoteError> {
        // An event that was deleted here is told no more.
        let Some((_, mut event)) = self.local.get(key) else {
            return Ok(false);
        };
        let all = collection("", "v1", "events", &key.namespace);
        strip(&mut event);
        let sent = match self.remote.create(&all, &event).await {
            Err(RemoteError::Exists) => {
                let patch = without(
                    &event,
                    &["metadata", "apiVersion", "kind", "involvedObject"],
                );
                self.remote
                    .patch(&format!("{all}/{}", key.name), &patch)
                    .await
            }
            other => other,
        };
        match sent {
            Err(error @ RemoteError::Unreachable(_)) => return Err(error),
            // Its namespace is gone there, say; the next one must not wait for that.
            Err(error) => tracing::debug!(%key, %error, "an event was not taken"),
            Ok(_) => {}
        }
        // Read before it is looked whether anything is left: what comes in between is later.
        let seen = self.events_seen.load(Acquire);
        if self.queue_of(key).is_empty() {
            self.told_up_to(seen).await;
        }
        Ok(true)
    }

    async fn told_up_to(&self, revision: u64) {
        let value = json!({ "metadata": {}, "sent": revision });
        let store = &self.local.store;
        // Lazily: an event that is told again after a crash is the same one.
        let written = match store.get(&told_key()) {
            None => store.create(told_key(), value).await,
            Some(before) => store.renew(&told_key(), before.revision, value).await,
        };
        if let Err(error @ (WriteError::Full(_) | WriteError::Storage(_))) = written {
            tracing::warn!(%error, "how far events were told was not kept");
        }
    }

    async fn tell_pod(&self, key: &Key, gone: Option<&Gone>) -> Result<bool, RemoteError> {
        let Some(pods) = kind("pods") else {
            return Ok(false);
        };
        // First of all: it needs no cloud.
        if self.local.get(key).is_none()
            && let Some(successor) = self.local.successor(key)
            && let Err(error) = self.local.put(pods, &successor).await
        {
            tracing::warn!(%key, %error, "the pod that waited for this name is not here yet");
        }
        let sent = match gone {
            Some(gone) => self.tell_end(key, gone).await?,
            None => false,
        };
        let Some((_, pod)) = self.local.get(key) else {
            return Ok(sent);
        };
        if marks::is_made_here(&pod) {
            return crate::own_pod::tell(&self.remote, &self.node, &pod).await;
        }
        // What the cloud does not show it has not, or will show in a moment.
        let Some(shown) = self.shown.get(key) else {
            return Ok(sent);
        };
        let status = &pod["status"];
        let same = shown.status == fingerprint(status);
        if same || Some(&*shown.uid) != pod["metadata"]["uid"].as_str() {
            return Ok(sent);
        }
        let path = format!("{}/{}/status", pods.path(&key.namespace), key.name);
        let patch = json!({
            "metadata": { "uid": shown.uid }, "status": strategic(status.clone()),
        });
        let answer = self.remote.strategic(&path, &patch).await;
        self.acknowledge(key, pods, answer, status)
    }

    /// A pod has ended here: its object may go there.
    async fn tell_end(&self, key: &Key, gone: &Gone) -> Result<bool, RemoteError> {
        let Some(pods) = kind("pods") else {
            return Ok(false);
        };
        if gone.made {
            return crate::own_pod::tell_end(&self.remote, &self.node, key).await;
        }
        let path = format!("{}/{}", pods.path(&key.namespace), key.name);
        let options = json!({
            "gracePeriodSeconds": 0, "preconditions": { "uid": gone.uid },
        });
        match self.remote.delete(&path, &options).await {
            // It is gone there already, or a successor has its name.
            Ok(_) | Err(RemoteError::Missing | RemoteError::Conflict(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    async fn tell_custom(&self, key: &Key) -> Result<bool, RemoteError> {
        let plural = key.resource.split('.').next().unwrap_or_default();
        let (Some(kind), Some((_, mut local))) = (kind(plural), self.local.get(key)) else {
            return Ok(false);
        };
        if marks::is_made_here(&local) {
            let mut made = local.clone();
            strip(&mut made);
            marks::clear(&mut made);
            return match self.remote.create(&kind.path(&key.namespace), &made).await {
                // What comes back from there takes its place here.
                Ok(_) | Err(RemoteError::Exists) => Ok(true),
                Err(error) => Err(error),
            };
        }
        if marks::base(&local).is_some() {
            conflict::weigh(self, kind, key).await?;
            match self.local.get(key) {
                Some((_, now)) => local = now,
                None => return Ok(true),
            }
        }
        let status = &local["status"];
        let Some(shown) = self.shown.get(key) else {
            return Ok(false);
        };
        if status.is_null() || shown.status == fingerprint(status) {
            return Ok(false);
        }
        let path = format!("{}/{}/status", kind.path(&key.namespace), key.name);
        let answer = self
            .remote
            .patch(&path, &status_patch(&local, &shown.names))
            .await;
        self.acknowledge(key, kind, answer, status)
    }

    /// The cloud has answered a status.
    fn acknowledge(
        &self,
        key: &Key,
        kind: &crate::kind::Kind,
        answer: Result<Value, RemoteError>,
        sent: &Value,
    ) -> Result<bool, RemoteError> {
        match answer {
            Ok(cloud) => {
                // What it makes of it may differ in a detail, which is not to be sent for ever.
                let shown = Shown {
                    status: fingerprint(sent),
                    ..Shown::of(kind, &cloud)
                };
                self.shown.put(key, shown);
                Ok(true)
            }
            Err(RemoteError::Missing | RemoteError::Conflict(_)) => {
                self.shown.remove(key);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

fn told_key() -> Key {
    Key::new(TOLD, "", EVENTS)
}

/// Without what belongs to this node's store.
pub(crate) fn strip(value: &mut Value) {
    let metadata = object(value, "metadata");
    for field in [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
    ] {
        metadata.remove(field);
    }
}

pub(crate) fn without(value: &Value, fields: &[&str]) -> Value {
    let all = value.as_object().into_iter().flatten();
    let left = all.filter(|(name, _)| !fields.contains(&name.as_str()));
    left.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A status as a strategic merge patch: what may go away again is taken away by name, and addresses
/// are all there are.
pub(crate) fn strategic(mut status: Value) -> Value {
    for field in ["reason", "message"] {
        if status.get(field).is_none() {
            status[field] = Value::Null;
        }
    }
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    for list in ["podIPs", "addresses"] {
        if let Some(all) = status.get_mut(list).and_then(Value::as_array_mut) {
            all.push(json!({ "$patch": "replace" }));
        }
    }
    if let Some(status) = status.as_object_mut() {
        status.remove("qosClass");
    }
    status
}
