//! What is promised of a workload at every moment, and what must be so at the end.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Workload, api::Truth, rng::Rng};

/// Pods that a node has room for: so that the largest workload with all its surge just finds room on
/// the fewest nodes.
pub(super) const ROOM: usize = 8;

pub(super) struct Promises {
    workload: Workload,
    /// The most pods that may be at once beside those that are leaving.
    most: usize,
    /// The fewest that must work, once all have.
    fewest: usize,
    /// Pods of the whole workload.
    full: usize,
    settled: bool,
}

/// A random spec, and what it promises.
pub(super) fn made(rng: &mut Rng, workload: Workload, nodes: usize) -> (Value, Promises) {
    let number = |of: u64| usize::try_from(of).unwrap();
    let replicas = rng.below(6);
    let (surge, lack) = match (rng.below(3), rng.below(3)) {
        (0, 0) => (0, 1),
        bounds => bounds,
    };
    let rolling = json!({ "maxSurge": surge, "maxUnavailable": lack });
    let (spec, full, surge, lack) = match workload {
        Workload::Deployment => {
            let spec = json!({ "replicas": replicas, "strategy": {
                "type": "RollingUpdate", "rollingUpdate": rolling } });
            (spec, number(replicas), number(surge), number(lack))
        }
        Workload::DaemonSet => {
            // One of both.
            let lack = if surge > 0 { 0 } else { lack };
            let rolling = json!({ "maxSurge": surge, "maxUnavailable": lack });
            let spec = json!({ "updateStrategy": {
                "type": "RollingUpdate", "rollingUpdate": rolling } });
            (spec, nodes, number(surge), number(lack))
        }
        Workload::StatefulSet => {
            let lack = lack.max(1);
            let policy = *rng.pick(&["OrderedReady", "Parallel"]);
            let rolling = json!({ "partition": 0, "maxUnavailable": lack });
            let spec = json!({ "replicas": replicas, "serviceName": "web",
                "podManagementPolicy": policy, "updateStrategy": {
                    "type": "RollingUpdate", "rollingUpdate": rolling },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }] });
            (spec, number(replicas), 0, number(lack))
        }
    };
    let promises = Promises {
        workload,
        most: full + surge,
        fewest: full.saturating_sub(lack),
        full,
        settled: false,
    };
    (spec, promises)
}

/// Neither over nor leaving. What is over stays until it is collected.
fn living(pod: &Value) -> bool {
    let over = matches!(
        pod["status"]["phase"].as_str(),
        Some("Failed" | "Succeeded")
    );
    !over && pod["metadata"].get("deletionTimestamp").is_none()
}

fn works(pod: &Value) -> bool {
    living(pod) && pod["status"]["conditions"][0]["status"] == "True"
}

impl Promises {
    /// What must hold at every moment; `rough` if pods fail and sizes change.
    pub(super) fn hold(&mut self, truth: &Truth, rough: bool) -> Result<(), String> {
        truth.with("pods", |pods| self.hold_pods(&pods))?;
        if rough {
            return Ok(());
        }
        let there = match self.workload {
            // As in Kubernetes what counts is what the ReplicaSets are to have: pods that one of
            // them has yet to take away are as good as gone.
            Workload::Deployment => {
                let sizes = truth.list("replicasets").into_iter();
                let sizes = sizes.map(|set| set["spec"]["replicas"].as_u64().unwrap_or(0));
                usize::try_from(sizes.sum::<u64>()).unwrap()
            }
            // Where the old pod does not work, surge is free: only of each node something is said.
            Workload::DaemonSet => 0,
            Workload::StatefulSet => {
                truth.with("pods", |pods| pods.iter().filter(|pod| living(pod)).count())
            }
        };
        let work = truth.with("pods", |pods| pods.iter().filter(|pod| works(pod)).count());
        if there > self.most {
            return Err(format!("{there} pods where {} are the most", self.most));
        }
        self.settled |= self.is_settled(truth);
        if self.settled && work < self.fewest {
            return Err(format!("{work} work where {} are the fewest", self.fewest));
        }
        Ok(())
    }

    /// What must hold of pods whatever happens to them.
    fn hold_pods(&self, pods: &[&Value]) -> Result<(), String> {
        within_the_nodes(pods)?;
        match self.workload {
            Workload::DaemonSet => one_of_a_kind_on_a_node(pods),
            _ => Ok(()),
        }
    }

    /// Whether the workload's controller knows that all is as asked for. What it takes for broken
    /// it may take away at any time, so before that nothing is promised of what works.
    pub(super) fn is_settled(&self, truth: &Truth) -> bool {
        let object = truth.get(self.workload.plural(), "web").unwrap();
        let status = &object["status"];
        let [updated, available] = match self.workload {
            Workload::DaemonSet => ["updatedNumberScheduled", "numberAvailable"],
            _ => ["updatedReplicas", "availableReplicas"],
        };
        let full = |field: &str| status[field].as_u64() == u64::try_from(self.full).ok();
        status["observedGeneration"] == object["metadata"]["generation"]
            && full(updated)
            && full(available)
    }

    /// What must be so once nothing happens any more.
    pub(super) fn kept(&self, truth: &Truth, workload: Workload, nodes: usize) {
        let object = truth.get(workload.plural(), "web").unwrap();
        let status = &object["status"];
        let wanted = object["spec"]["replicas"].as_u64().unwrap_or(nodes as u64);
        let mut pods = truth.list("pods");
        pods.retain(living);
        assert_eq!(pods.len() as u64, wanted, "pods of {object:#}");
        let image = &object["spec"]["template"]["spec"]["containers"][0]["image"];
        let uids: BTreeSet<_> = KINDS_OF_OWNERS
            .iter()
            .flat_map(|plural| truth.list(plural))
            .map(|owner| owner["metadata"]["uid"].to_string())
            .collect();
        for pod in &pods {
            assert!(works(pod), "{pod:#}");
            assert_eq!(pod["spec"]["containers"][0]["image"], *image);
            let owner = &pod["metadata"]["ownerReferences"][0]["uid"];
            assert!(uids.contains(&owner.to_string()), "an orphan: {pod:#}");
        }
        assert_eq!(
            status["observedGeneration"],
            object["metadata"]["generation"]
        );
        let count = |field: &str| status.get(field).and_then(Value::as_u64).unwrap_or(0);
        let fields = match workload {
            Workload::Deployment => ["replicas", "updatedReplicas", "availableReplicas"],
            Workload::DaemonSet => [
                "desiredNumberScheduled",
                "updatedNumberScheduled",
                "numberAvailable",
            ],
            Workload::StatefulSet => ["replicas", "updatedReplicas", "availableReplicas"],
        };
        assert_eq!(fields.map(count), [wanted; 3], "{status:#}");
        if workload == Workload::StatefulSet {
            assert_eq!(status["currentRevision"], status["updateRevision"]);
        }
    }
}

const KINDS_OF_OWNERS: [&str; 3] = ["replicasets", "daemonsets", "statefulsets"];

/// No node has more pods than it has room for.
fn within_the_nodes(pods: &[&Value]) -> Result<(), String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        let phase = pod["status"]["phase"].as_str();
        let Some(node) = pod["spec"]["nodeName"].as_str() else {
            continue;
        };
        if matches!(phase, Some("Failed" | "Succeeded")) {
            continue;
        }
        let count = counts.entry(node).or_default();
        *count += 1;
        if *count > ROOM {
            return Err(format!("{count} pods on {node}, which has room for {ROOM}"));
        }
    }
    Ok(())
}

/// No node has two living pods of one template.
fn one_of_a_kind_on_a_node(pods: &[&Value]) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| living(pod)) {
        let Some(node) = pod["spec"]["nodeName"].as_str() else {
            continue;
        };
        let count = counts.entry(node).or_default();
        *count += 1;
        if *count > 2 {
            return Err(format!("{count} pods on {node}"));
        }
        let hash = pod["metadata"]["labels"]["controller-revision-hash"].as_str();
        if let Some(other) = seen.insert((node, hash), pod) {
            return Err(format!("two of a kind on {node}: {other:#} and {pod:#}"));
        }
    }
    Ok(())
}
