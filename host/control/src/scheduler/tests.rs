//! Choices of the scheduler: pods and nodes in, a node or a reason out.

mod affinity;
mod preempting;
mod spreading;
mod waking;

use std::collections::BTreeMap;

use eyot_client::{Key, view::Pod};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    class::Class,
    config::SchedulerConfig,
    core::{Core, Outside, Taken, Work},
    demand::Demand,
    selector::Selector,
};
use crate::storage::scheduling::{Promise as Volumes, Wishes};

/// Nobody selects pods together, and there is no storage.
struct Alone;

impl Outside for Alone {
    fn family(&self, _: &Class) -> Option<Selector> {
        None
    }

    fn wishes(&self, _: &Key) -> Result<Wishes, String> {
        Ok(Wishes::default())
    }

    fn objections(&self, _: &Wishes, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn reserve(&self, _: &Wishes, _: &str) -> Result<Option<Volumes>, Taken> {
        Ok(None)
    }
}

pub(super) fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn node_of(name: &str, patch: Value) -> Node {
    let mut node = json!({
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name, "zone": name, "cores": "4" } },
        "spec": {},
        "status": {
            "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    });
    merge(&mut node, patch);
    serde_json::from_value(node).unwrap()
}

fn pod_of(name: &str, patch: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "d", "uid": format!("uid of {name}") },
        "spec": { "containers": [] },
    });
    merge(&mut pod, patch);
    serde_json::from_value(pod).unwrap()
}

/// A cluster, and pods that come to it one after the other.
struct Cluster {
    core: Core,
    pods: BTreeMap<String, Pod>,
    nodes: BTreeMap<String, Node>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::configured(SchedulerConfig::default())
    }
}

impl Cluster {
    fn configured(config: SchedulerConfig) -> Self {
        Self {
            core: Core::new(config),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    fn of(nodes: &[(&str, Value)]) -> Self {
        let mut cluster = Self::default();
        for (name, patch) in nodes {
            cluster.node(name, patch.clone());
        }
        cluster
    }

    fn node(&mut self, name: &str, patch: Value) {
        let node = node_of(name, patch);
        let before = self.nodes.insert(name.to_owned(), node.clone());
        self.core
            .node(name, before.as_ref(), Some(&node), Instant::now());
    }

    /// The pod is now like this.
    fn pod(&mut self, name: &str, patch: Value) {
        let pod = pod_of(name, patch);
        let before = self.pods.insert(name.to_owned(), pod.clone());
        let key = Key::new("d", name);
        self.core
            .pod(&key, before.as_ref(), Some(&pod), Instant::now());
    }

    /// A pod runs on a node.
    fn run(&mut self, name: &str, node: &str, mut patch: Value) {
        merge(&mut patch, json!({ "spec": { "nodeName": node } }));
        self.pod(name, patch);
    }

    fn gone(&mut self, name: &str) {
        let before = self.pods.remove(name);
        let key = Key::new("d", name);
        self.core.pod(&key, before.as_ref(), None, Instant::now());
    }

    fn next(&mut self) -> Option<Work> {
        self.core
            .next(&Alone, Instant::now())
            .map(|decided| decided.work)
    }

    /// What becomes of a new pod: the node that it gets, or what is said of it.
    fn place(&mut self, name: &str, patch: Value) -> Result<String, String> {
        self.pod(name, patch);
        self.outcome(name)
    }

    fn outcome(&mut self, name: &str) -> Result<String, String> {
        match self.next().expect("a decision") {
            Work::Bind { key, node, .. } => {
                assert_eq!(&*key.name, name);
                Ok(node)
            }
            Work::Refuse { key, message, .. } => {
                assert_eq!(&*key.name, name);
                Err(message)
            }
        }
    }
}

fn asks(cpu: &str, memory: &str) -> Value {
    let requests = json!({ "cpu": cpu, "memory": memory });
    json!({ "containers": [{ "name": "c", "resources": { "requests": requests } }] })
}

const HELPLESS: &str = "preemption: 0/1 nodes are available: \
                        1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "preemption: 0/1 nodes are available: \
                          1 No preemption victims found for incoming pod.";

#[track_caller]
fn check(spec: Value, nodes: &[(&str, Value)], expected: Result<&str, &str>) {
    let mut cluster = Cluster::of(nodes);
    let found = cluster.place("p", json!({ "spec": spec }));
    assert_eq!(
        found.as_ref().map(String::as_str).map_err(String::as_str),
        expected
    );
}

/// As [`check`], for a pod that the only node cannot take, whoever were to go.
#[track_caller]
fn check_never(spec: Value, node: Value, why: &str) {
    let expected = format!("0/1 nodes are available: 1 {why}. {HELPLESS}");
    check(spec, &[("a", node)], Err(&expected));
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_wishes_runs_anywhere_and_without_nodes_nowhere() {
    check(json!({}), &[("a", json!({}))], Ok("a"));
    check(json!({}), &[], Err("no nodes available to schedule pods"));
}

#[tokio::test(start_paused = true)]
async fn what_is_short_is_named_for_each_node() {
    let nodes = [
        ("a", json!({})),
        ("b", json!({ "spec": { "unschedulable": true } })),
        ("c", json!({ "status": { "allocatable": { "cpu": "8" } } })),
    ];
    let expected = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, \
                    2 Insufficient memory. preemption: 0/3 nodes are available: \
                    3 Preemption is not helpful for scheduling.";
    check(asks("3", "2Gi"), &nodes, Err(expected));
    check(asks("2", "1Gi"), &nodes[..2], Ok("a"));
    let device = json!({ "containers": [{ "name": "c",
        "resources": { "limits": { "x/gpu": "1" } } }] });
    check_never(device, json!({}), "Insufficient x/gpu");
}

#[tokio::test(start_paused = true)]
async fn what_others_take_is_gone_and_comes_back() {
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    let big = json!({ "spec": asks("1500m", "0") });
    cluster.run("one", "a", big.clone());
    cluster.run("one", "a", big.clone());
    let refused = cluster.place("two", big.clone()).unwrap_err();
    let why = format!("0/1 nodes are available: 1 Insufficient cpu. {NO_VICTIMS}");
    assert_eq!(refused, why);
    cluster.gone("one");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(cluster.outcome("two").unwrap(), "a");
    // What was decided counts before the watch shows it.
    assert_eq!(cluster.place("three", big).unwrap_err(), why);
    for name in ["4", "5"] {
        cluster.run(name, "a", json!({}));
    }
    let refused = cluster.place("6", json!({})).unwrap_err();
    let why = format!("0/1 nodes are available: 1 Too many pods. {NO_VICTIMS}");
    assert_eq!(refused, why);
}

#[tokio::test(start_paused = true)]
async fn pods_go_where_the_most_is_free() {
    let more = json!({ "status": { "allocatable": { "pods": "100" } } });
    let mut cluster = Cluster::of(&[("a", more.clone()), ("b", more)]);
    let mut counts = BTreeMap::<String, u32>::new();
    for n in 0..6 {
        let small = json!({ "spec": asks("100m", "10Mi") });
        let place = cluster.place(&n.to_string(), small).unwrap();
        *counts.entry(place).or_default() += 1;
    }
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [("a".into(), 3), ("b".into(), 3)]
    );
    let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({}))]);
    let idle = json!({ "spec": { "containers": [{ "name": "c" }] } });
    cluster.run("x", "a", idle.clone());
    assert_eq!(
        cluster.place("y", idle).unwrap(),
        "b",
        "who asks for nothing takes something too"
    );
}

#[tokio::test(start_paused = true)]
async fn node_selector_and_affinity_choose_by_labels_and_name() {
    let nodes = [("a", json!({})), ("b", json!({}))];
    check(json!({ "nodeSelector": { "zone": "b" } }), &nodes, Ok("b"));
    let refused = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. \
                   preemption: 0/2 nodes are available: \
                   2 Preemption is not helpful for scheduling.";
    check(
        json!({ "nodeSelector": { "zone": "c" } }),
        &nodes,
        Err(refused),
    );
    let affinity = |term: Value| {
        json!({ "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } } } })
    };
    let is = |operator: &str, key: &str, values: Value| {
        let one = json!([{ "key": key, "operator": operator, "values": values }]);
        affinity(json!({ "matchExpressions": one }))
    };
    check(is("In", "zone", json!(["b", "x"])), &nodes, Ok("b"));
    check(is("NotIn", "zone", json!(["a"])), &nodes, Ok("b"));
    check(is("Gt", "cores", json!(["3"])), &nodes[..1], Ok("a"));
    check(is("Lt", "cores", json!(["3"])), &nodes, Err(refused));
    check(is("Exists", "none", json!([])), &nodes, Err(refused));
    check(is("DoesNotExist", "none", json!([])), &nodes[..1], Ok("a"));
    check(
        affinity(json!({ "matchExpressions": [] })),
        &nodes,
        Err(refused),
    );
    let named = |name: &str| {
        let one = json!([{ "key": "metadata.name", "operator": "In", "values": [name] }]);
        affinity(json!({ "matchFields": one }))
    };
    check(named("b"), &nodes, Ok("b"));
    let refused = "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
                   preemption: 0/2 nodes are available: \
                   2 Preemption is not helpful for scheduling.";
    check(named("c"), &nodes, Err(refused));
    let likes = json!({ "affinity": { "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 1, "preference": { "matchExpressions": [
                { "key": "zone", "operator": "In", "values": ["a"] }] } },
            { "weight": 2, "preference": { "matchExpressions": [
                { "key": "zone", "operator": "In", "values": ["b"] }] } },
        ] } } });
    check(likes, &nodes, Ok("b"));
}

#[tokio::test(start_paused = true)]
async fn taints_repel_whom_does_not_tolerate_them() {
    let taint = json!({ "spec": { "taints": [
        { "key": "k", "value": "v", "effect": "NoSchedule" }] } });
    let refused =
        |spec: Value| check_never(spec, taint.clone(), "node(s) had untolerated taint(s)");
    refused(json!({}));
    let tolerates = |toleration: Value| json!({ "tolerations": [toleration] });
    let nodes = [("a", taint.clone())];
    check(
        tolerates(json!({ "key": "k", "operator": "Exists" })),
        &nodes,
        Ok("a"),
    );
    check(tolerates(json!({ "operator": "Exists" })), &nodes, Ok("a"));
    let exact = json!({ "key": "k", "value": "v", "effect": "NoSchedule" });
    check(tolerates(exact), &nodes, Ok("a"));
    refused(tolerates(json!({ "key": "k", "value": "x" })));
    refused(tolerates(
        json!({ "key": "k", "value": "v", "effect": "NoExecute" }),
    ));
    let soft = json!({ "spec": { "taints": [{ "key": "k", "effect": "PreferNoSchedule" }] } });
    check(json!({}), &[("a", soft.clone())], Ok("a"));
    check(json!({}), &[("a", soft), ("b", json!({}))], Ok("b"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ready_takes_nobody_until_it_is() {
    let down = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    check_never(json!({}), down.clone(), "node(s) had untolerated taint(s)");
    let mut cluster = Cluster::of(&[("a", down.clone())]);
    cluster.place("p", json!({})).unwrap_err();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let mut heartbeat = down;
    heartbeat["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:00:00Z");
    cluster.node("a", heartbeat);
    assert_eq!(cluster.next(), None, "a heartbeat frees nothing");
    cluster.node("a", json!({}));
    assert_eq!(cluster.outcome("p").unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_node_is_given_once() {
    let port = |number: i32, ip: &str| {
        json!({ "spec": { "containers": [{ "name": "c", "ports": [
            { "containerPort": 80, "hostPort": number, "hostIP": ip }] }] } })
    };
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("x", "a", port(8080, ""));
    let refused = format!(
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
         {NO_VICTIMS}"
    );
    assert_eq!(
        cluster.place("y", port(8080, "127.0.0.1")).unwrap_err(),
        refused
    );
    assert_eq!(cluster.place("z", port(8081, "")).unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn pods_like_nodes_that_hold_their_images() {
    let image = |size: i64| json!({ "status": { "images": [{ "names": ["big:latest"], "sizeBytes": size }] } });
    let pod = json!({ "containers": [{ "name": "c", "image": "big" }] });
    let nodes = [("a", json!({})), ("b", image(900 << 20)), ("c", json!({}))];
    check(pod.clone(), &nodes, Ok("b"));
    // A component of Wasm is small.
    check(pod, &[("a", json!({})), ("b", image(1 << 20))], Ok("b"));
}

#[tokio::test(start_paused = true)]
async fn gated_pods_and_those_of_other_schedulers_are_left_alone() {
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.pod("other", json!({ "spec": { "schedulerName": "mine" } }));
    cluster.pod(
        "gated",
        json!({ "spec": { "schedulingGates": [{ "name": "g" }] } }),
    );
    cluster.pod(
        "leaving",
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
    );
    assert_eq!(cluster.next(), None);
    assert_eq!(
        cluster
            .place("gated", json!({ "spec": { "schedulingGates": [] } }))
            .unwrap(),
        "a"
    );
}

#[test]
fn a_pod_takes_its_containers_together_or_its_start_at_its_worst() {
    let container = |cpu: &str, always: bool| {
        let mut value = json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
        if always {
            value["restartPolicy"] = json!("Always");
        }
        value
    };
    let cpu = |init: Vec<Value>, more: Value| {
        let containers = [container("1", false), container("500m", false)];
        let mut spec = json!({ "containers": containers, "initContainers": init });
        merge(&mut spec, more);
        Demand::of(&pod_of("p", json!({ "spec": spec })))
            .amounts
            .cpu
    };
    let none = || json!({});
    assert_eq!(cpu(vec![], none()), 1500);
    assert_eq!(
        cpu(vec![container("2", false), container("1", false)], none()),
        2000
    );
    assert_eq!(
        cpu(vec![container("250m", true)], none()),
        1750,
        "a sidecar stays"
    );
    assert_eq!(
        cpu(vec![container("1", true), container("2", false)], none()),
        3000
    );
    assert_eq!(cpu(vec![], json!({ "overhead": { "cpu": "250m" } })), 1750);
    let whole = json!({ "resources": { "requests": { "cpu": "4" } } });
    assert_eq!(cpu(vec![], whole), 4000, "what the pod says itself counts");
}

#[tokio::test(start_paused = true)]
async fn the_configuration_says_whose_pods_and_how_nodes_are_filled() {
    let config = |fit: &str| {
        SchedulerConfig::read(&format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
             profiles:\n- schedulerName: mine\n  pluginConfig:\n  - name: NodeResourcesFit\n    \
             args: {{ scoringStrategy: {fit} }}\n"
        ))
    };
    let ratio = "{ type: RequestedToCapacityRatio, requestedToCapacityRatio: { shape: [ \
                 { utilization: 0, score: 0 }, { utilization: 100, score: 10 }] } }";
    let cases = [
        ("{ type: LeastAllocated }", "b"),
        ("{ type: MostAllocated }", "a"),
        (ratio, "a"),
    ];
    for (fit, expected) in cases {
        let mut cluster = Cluster::configured(config(fit).unwrap());
        for name in ["a", "b"] {
            cluster.node(name, json!({}));
        }
        let mut pod = json!({ "spec": asks("500m", "256Mi") });
        cluster.run("there", "a", pod.clone());
        cluster.pod("not mine", pod.clone());
        pod["spec"]["schedulerName"] = json!("mine");
        assert_eq!(cluster.place("mine", pod).unwrap(), expected, "{fit}");
        assert_eq!(cluster.next(), None);
    }
}

/// Storage that objects to one node, or to all.
struct Objecting {
    to: &'static str,
    missing: bool,
}

impl Outside for Objecting {
    fn family(&self, _: &Class) -> Option<Selector> {
        None
    }

    fn wishes(&self, _: &Key) -> Result<Wishes, String> {
        match self.missing {
            true => Err("persistentvolumeclaim \"data\" not found".to_owned()),
            false => Ok(Wishes::lost()),
        }
    }

    fn objections(&self, _: &Wishes, node: &str) -> Vec<String> {
        let against = "node(s) didn't match PersistentVolume's node affinity";
        (node == self.to)
            .then(|| against.to_owned())
            .into_iter()
            .collect()
    }

    fn reserve(&self, _: &Wishes, _: &str) -> Result<Option<Volumes>, Taken> {
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_storage_objects_to_is_not_chosen() {
    let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({}))]);
    let mut decide = |to: &'static str, missing: bool| {
        cluster.pod("p", json!({ "spec": { "nodeSelector": { "zone": "a" } } }));
        let outside = Objecting { to, missing };
        let decided = cluster.core.next(&outside, Instant::now()).unwrap();
        cluster.gone("p");
        match decided.work {
            Work::Bind { node, .. } => node,
            Work::Refuse { message, .. } => message,
        }
    };
    assert_eq!(decide("b", false), "a");
    let refused = decide("a", false);
    let why = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, \
               1 node(s) didn't match Pod's node affinity/selector.";
    assert!(refused.starts_with(why), "{refused}");
    let expected = "0/2 nodes are available: persistentvolumeclaim \"data\" not found. \
                    preemption: 0/2 nodes are available: \
                    2 Preemption is not helpful for scheduling.";
    assert_eq!(decide("", true), expected);
}
