//! Takes pods off nodes with `NoExecute` taints: at once, or when the time that a pod bears the
//! taints for is over.
//!
//! Reads Nodes and Pods; writes the condition `DisruptionTarget` of pods, and deletes them. The time
//! counts from when this controller first saw that a pod has to leave, so it begins anew when the
//! host is started again, and ends without consequence when the taint goes. It is measured by the
//! monotonic clock: a clock that is set evicts nobody early or late.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    announce::Announcer,
    clock,
    error::{Act, ControlError, is},
    pod, scheduler,
};

const REASON: &str = "TaintManagerEviction";

pub(crate) struct TaintEvictions {
    pub(crate) client: Client,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) announcer: Announcer,
    /// The pods that have to leave later, by uid, since when that is known.
    pub(crate) leaving: Mutex<HashMap<Key, (String, Instant)>>,
}

impl Reconciler for TaintEvictions {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let pod = self.pods.get(key);
        let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else {
            self.leaving().remove(key);
            return Ok(Requeue::OnChange);
        };
        let node = pod::node(&pod).and_then(|node| self.nodes.get(&Key::new("", node)));
        let Some(bears) = node.and_then(|node| bears(&pod, &node)) else {
            if self.leaving().remove(key).is_some() {
                let words = format!("Cancelling deletion of Pod {key}");
                self.announcer.normal(&*pod, REASON, words);
            }
            return Ok(Requeue::OnChange);
        };
        let passed = self.since(key, &pod).elapsed();
        if passed < bears {
            return Ok(Requeue::After(bears - passed));
        }
        let words = format!("Marking for deletion Pod {key}");
        self.announcer.normal(&*pod, REASON, words);
        self.evict(key, &pod).await?;
        self.leaving().remove(key);
        Ok(Requeue::OnChange)
    }
}

impl TaintEvictions {
    fn leaving(&self) -> MutexGuard<'_, HashMap<Key, (String, Instant)>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when it is known that the pod has to leave.
    fn since(&self, key: &Key, pod: &Pod) -> Instant {
        let uid = pod.uid().unwrap_or_default();
        let mut leaving = self.leaving();
        match leaving.get(key) {
            Some((known, since)) if *known == uid => *since,
            _ => {
                let now = Instant::now();
                leaving.insert(key.clone(), (uid, now));
                now
            }
        }
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<(), ControlError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let told = Patch::Strategic(json!({
            "metadata": { "uid": pod.uid() },
            "status": { "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            }] },
        }));
        let params = PatchParams::default();
        let told = api.patch_status(&key.name, &params, &told).await;
        if told.as_ref().is_err_and(another) {
            return Ok(());
        }
        told.act_if_there(|| format!("telling why pod {key} goes"))?;
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        });
        let deleted = api.delete(&key.name, &params).await;
        if deleted.as_ref().is_err_and(another) {
            return Ok(());
        }
        deleted.act_if_there(|| format!("evicting pod {key}"))
    }
}

/// Another pod has the name by now.
fn another(error: &kube::Error) -> bool {
    is(error, 409)
}

fn executing(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let taints = taints.into_iter().flatten();
    taints.filter(|taint| taint.effect == "NoExecute")
}

/// Whether a change of a pod is about where it is and what it bears.
pub(crate) fn of_pod(change: &Change<'_, Pod>) -> Option<Key> {
    let matters = |pod: Option<&Arc<Pod>>| {
        let spec = pod?.spec.as_ref()?;
        let leaves = pod?.metadata.deletion_timestamp.is_some();
        Some((spec.node_name.clone()?, spec.tolerations.clone(), leaves))
    };
    (matters(change.before) != matters(change.after)).then(|| change.key.clone())
}

/// The pods that a change of a node is about.
pub(crate) fn of_node(pods: &Cache<Pod>, change: &Change<'_, Node>) -> Vec<Key> {
    let taints = |node: Option<&Arc<Node>>| -> Vec<Taint> {
        let taints = node.into_iter().flat_map(|node| executing(node));
        taints.cloned().collect()
    };
    if taints(change.before) == taints(change.after) {
        return Vec::new();
    }
    let there = pods.list().into_iter();
    let there = there.filter(|pod| pod::node(pod) == Some(&*change.key.name));
    there.map(|pod| Key::of(&pod.metadata)).collect()
}

/// How long the pod bears the taints of its node; `None` is for ever.
fn bears(pod: &Pod, node: &Node) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let tolerations = tolerations.map(Vec::as_slice).unwrap_or_default();
    let bears = executing(node).filter_map(|taint| {
        let mut all = tolerations.iter();
        let bearing = all.find(|one| scheduler::tolerated(taint, std::slice::from_ref(one)));
        match bearing {
            None => Some(Duration::ZERO),
            Some(bearing) => {
                let seconds = bearing.toleration_seconds?;
                Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
            }
        }
    });
    bears.min()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kube::runtime::watcher::Event;
    use serde_json::Value;

    use super::*;
    use crate::simulation::{api::Truth, controllers::show};

    /// A pod that bears the taint of its node for a minute, and who would evict it.
    async fn leaving() -> (Truth, TaintEvictions, Key) {
        let truth = Truth::new(1);
        let evictions = TaintEvictions {
            client: truth.client(),
            pods: Cache::default(),
            nodes: Cache::default(),
            announcer: Announcer::silent(),
            leaving: Mutex::default(),
        };
        let bears = json!([{ "key": "k", "operator": "Exists", "tolerationSeconds": 60 }]);
        let pod = json!({ "metadata": { "name": "p" },
            "spec": { "nodeName": "n", "containers": [], "tolerations": bears } });
        truth.put("pods", pod);
        let pod = truth.get("pods", "p").unwrap();
        let pod = serde_json::from_value(pod).unwrap();
        show(&evictions.pods, [Event::Apply(pod)]).await;
        taint(&evictions, &["k"]).await;
        (truth, evictions, Key::new("d", "p"))
    }

    async fn taint(evictions: &TaintEvictions, keys: &[&str]) {
        let taint = |key: &&str| json!({ "key": key, "effect": "NoExecute" });
        let taints: Vec<Value> = keys.iter().map(taint).collect();
        let node = json!({ "metadata": { "name": "n", "resourceVersion": "1" },
            "spec": { "taints": taints } });
        let node = serde_json::from_value(node).unwrap();
        show(&evictions.nodes, [Event::Apply(node)]).await;
    }

    fn is_leaving(truth: &Truth) -> bool {
        let pod = truth.get("pods", "p").unwrap();
        pod["metadata"].get("deletionTimestamp").is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_leaves_when_its_time_is_over_whatever_the_clock_says() {
        let (truth, evictions, key) = leaving().await;
        let start = Timestamp::constant(1_800_000_000, 0);
        clock::simulate(Some(start));
        let again = evictions.reconcile(&key).await.unwrap();
        assert_eq!(again, Requeue::After(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(59)).await;
        clock::simulate(Some(start + jiff::SignedDuration::from_hours(5)));
        let again = evictions.reconcile(&key).await.unwrap();
        assert_eq!(again, Requeue::After(Duration::from_secs(1)));
        assert!(!is_leaving(&truth), "only the clock says that it is time");
        tokio::time::advance(Duration::from_secs(1)).await;
        clock::simulate(Some(start - jiff::SignedDuration::from_hours(5)));
        evictions.reconcile(&key).await.unwrap();
        assert!(
            is_leaving(&truth),
            "only the clock says that it is not time"
        );
        let pod = truth.get("pods", "p").unwrap();
        let told = &pod["status"]["conditions"][0];
        assert_eq!(told["type"], "DisruptionTarget");
        assert_eq!(told["reason"], "DeletionByTaintManager");
        clock::simulate(None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_taint_that_goes_or_another_that_comes_changes_what_is_counted() {
        let (truth, evictions, key) = leaving().await;
        evictions.reconcile(&key).await.unwrap();
        tokio::time::advance(Duration::from_secs(59)).await;
        taint(&evictions, &[]).await;
        evictions.reconcile(&key).await.unwrap();
        taint(&evictions, &["k"]).await;
        let again = evictions.reconcile(&key).await.unwrap();
        assert_eq!(again, Requeue::After(Duration::from_secs(60)), "anew");
        // One that it does not bear at all.
        taint(&evictions, &["k", "other"]).await;
        evictions.reconcile(&key).await.unwrap();
        assert!(is_leaving(&truth));
    }

    #[track_caller]
    fn check(taints: Value, tolerations: Value, expected: Option<u64>) {
        let node = json!({ "metadata": {}, "spec": { "taints": taints } });
        let pod = json!({
            "metadata": {}, "spec": { "containers": [], "tolerations": tolerations },
        });
        let (pod, node) = (serde_json::from_value(pod), serde_json::from_value(node));
        let found = bears(&pod.unwrap(), &node.unwrap());
        assert_eq!(found, expected.map(Duration::from_secs));
    }

    #[test]
    fn a_pod_bears_taints_as_long_as_the_least_of_its_tolerations_says() {
        let taint = |key: &str| json!({ "key": key, "effect": "NoExecute" });
        let tolerates = |key: &str, seconds: Option<i64>| json!({ "key": key, "operator": "Exists", "tolerationSeconds": seconds });
        check(json!([]), json!([]), None);
        check(
            json!([{ "key": "a", "effect": "NoSchedule" }]),
            json!([]),
            None,
        );
        check(json!([taint("a")]), json!([]), Some(0));
        check(json!([taint("a")]), json!([tolerates("b", None)]), Some(0));
        check(json!([taint("a")]), json!([tolerates("a", None)]), None);
        check(
            json!([taint("a")]),
            json!([tolerates("a", Some(5))]),
            Some(5),
        );
        check(
            json!([taint("a")]),
            json!([tolerates("a", Some(-5))]),
            Some(0),
        );
        let both = json!([
            tolerates("a", Some(9)),
            tolerates("b", Some(5)),
            tolerates("b", None)
        ]);
        check(json!([taint("a"), taint("b")]), both, Some(5));
        let one = json!([tolerates("a", Some(9))]);
        check(json!([taint("a"), taint("b")]), one, Some(0));
    }
}
