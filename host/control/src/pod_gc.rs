//! Clears away pods that nobody else ends: of nodes that are gone or declared out of service, those
//! that were deleted before they had a node, and the oldest of very many that have ended.
//!
//! Reads Pods and Nodes; writes the phase `Failed` and the condition `DisruptionTarget` of pods, and
//! deletes them at once, without a grace period: there is nobody to wait for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    clock,
    error::{Act, ControlError, is},
    node_life, pod,
};

/// How long a node must be missing before its pods are taken for lost.
const QUARANTINE: Duration = Duration::from_secs(40);
/// So many pods that have ended are kept.
const ENDED: usize = 12_500;
/// The time between two looks at how many have ended.
const PERIOD: Duration = Duration::from_secs(20);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub(crate) struct PodGc {
    pub(crate) client: Client,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    /// Nodes that pods are bound to and that are not there, since when that is known.
    pub(crate) missing: Mutex<HashMap<String, Instant>>,
    /// When it was last counted how many pods have ended.
    pub(crate) counted: Mutex<Option<Instant>>,
}

/// Stands for all pods that have ended.
fn ended() -> Key {
    Key::new("", "")
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tainted = taints
        .into_iter()
        .flatten()
        .any(|taint| taint.key == OUT_OF_SERVICE);
    tainted && !node_life::is_ready(node)
}

/// What a change of a pod is about.
pub(crate) fn of_pod(nodes: &Cache<Node>, change: &Change<'_, Pod>) -> Option<Key> {
    let pod = change.after?;
    match pod::node(pod) {
        None => is_leaving(pod).then(|| change.key.clone()),
        Some(name) => {
            let node = nodes.get(&Key::new("", name));
            let lost = node.is_none_or(|node| is_leaving(pod) && is_out_of_service(&node));
            let ends = || {
                let before = change.before.is_some_and(|before| pod::has_ended(before));
                (pod::has_ended(pod) && !before).then(ended)
            };
            if lost {
                Some(change.key.clone())
            } else {
                ends()
            }
        }
    }
}

/// The pods that a change of a node is about.
pub(crate) fn of_node(pods: &Cache<Pod>, change: &Change<'_, Node>) -> Vec<Key> {
    let out = |node: Option<&Arc<Node>>| node.is_none_or(|node| is_out_of_service(node));
    if !out(change.after) || change.before.is_some() && change.after.is_some() && out(change.before)
    {
        return Vec::new();
    }
    let there = node_life::pods_on(pods, &change.key.name);
    there.iter().map(|pod| Key::of(&pod.metadata)).collect()
}

impl Reconciler for PodGc {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "pod-gc"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        if *key == ended() {
            return self.clear_ended().await;
        }
        let Some(pod) = self.pods.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let Some(name) = pod::node(&pod) else {
            if is_leaving(&pod) {
                self.remove(key, &pod, None).await?;
            }
            return Ok(Requeue::OnChange);
        };
        match self.nodes.get(&Key::new("", name)) {
            Some(node) => {
                self.missing().remove(name);
                if is_leaving(&pod) && is_out_of_service(&node) {
                    self.remove(key, &pod, None).await?;
                }
                Ok(Requeue::OnChange)
            }
            None => self.orphan(key, &pod, name).await,
        }
    }
}

impl PodGc {
    fn missing(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod whose node is not there: perhaps only not seen yet.
    async fn orphan(&self, key: &Key, pod: &Pod, node: &str) -> Result<Requeue, ControlError> {
        let now = Instant::now();
        let since = *self.missing().entry(node.to_owned()).or_insert(now);
        let passed = now - since;
        if passed < QUARANTINE {
            return Ok(Requeue::After(QUARANTINE - passed));
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let found = api
            .get_opt(node)
            .await
            .act(|| format!("looking for node {node}"))?;
        self.missing().remove(node);
        if found.is_some() {
            return Ok(Requeue::OnChange);
        }
        self.remove(key, pod, Some("PodGC: node no longer exists"))
            .await?;
        Ok(Requeue::OnChange)
    }

    async fn clear_ended(&self) -> Result<Requeue, ControlError> {
        let now = Instant::now();
        {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(last) = *counted
                && now - last < PERIOD
            {
                return Ok(Requeue::After(PERIOD - (now - last)));
            }
            *counted = Some(now);
        }
        let mut all = self.pods.list();
        all.retain(|pod| pod::has_ended(pod));
        for pod in surplus(all, ENDED) {
            self.remove(&Key::of(&pod.metadata), &pod, None).await?;
        }
        Ok(Requeue::OnChange)
    }

    async fn remove(&self, key: &Key, pod: &Pod, why: Option<&str>) -> Result<(), ControlError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        if !pod::has_ended(pod) {
            let mut status = json!({ "phase": "Failed" });
            if let Some(why) = why {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": why,
                    "lastTransitionTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                }]);
            }
            let patch = Patch::Strategic(json!({
                "metadata": { "uid": pod.uid() }, "status": status,
            }));
            let written = api
                .patch_status(&key.name, &PatchParams::default(), &patch)
                .await;
            // Another pod has the name by now.
            if written.as_ref().is_err_and(|error| is(error, 409)) {
                return Ok(());
            }
            written.act_if_there(|| format!("writing that pod {key} is lost"))?;
        }
        let params = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            });
        let deleted = api.delete(&key.name, &params).await;
        if deleted.as_ref().is_err_and(|error| is(error, 409)) {
            return Ok(());
        }
        deleted.act_if_there(|| format!("clearing away pod {key}"))
    }
}

/// Of more pods than are to be kept, those that go: the evicted first, then the oldest.
fn surplus(mut ended: Vec<Arc<Pod>>, keep: usize) -> Vec<Arc<Pod>> {
    let more = ended.len().saturating_sub(keep);
    if more == 0 {
        return Vec::new();
    }
    ended.sort_by_key(|pod| {
        let reason = pod
            .status
            .as_ref()
            .and_then(|status| status.reason.as_deref());
        let evicted = pod::phase(pod) == "Failed" && reason == Some("Evicted");
        let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!evicted, made, pod.metadata.name.clone())
    });
    ended.truncate(more);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_evicted_and_the_oldest_go_first() {
        let pod = |name: &str, minute: u32, reason: Option<&str>| -> Arc<Pod> {
            let made = format!("2026-01-01T00:{minute:02}:00Z");
            let pod = json!({
                "metadata": { "name": name, "creationTimestamp": made },
                "status": { "phase": "Failed", "reason": reason },
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let all = vec![
            pod("a", 3, None),
            pod("b", 1, None),
            pod("c", 9, Some("Evicted")),
        ];
        let names = |keep: usize| {
            let gone = surplus(all.clone(), keep);
            gone.iter()
                .map(|pod| pod.metadata.name.clone().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["c", "b"]);
        assert!(names(3).is_empty());
    }
}
