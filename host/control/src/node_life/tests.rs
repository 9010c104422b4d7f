//! What is written of a node, and when, in a world whose time stands still but where it is moved.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::coordination::v1::Lease;

use super::*;
use crate::simulation::{api::Truth, controllers::show};
use kube::runtime::watcher::Event;

/// The controller with its caches, in a world of nodes, pods and Leases.
struct Scene {
    truth: Truth,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    leases: Cache<Lease>,
    lives: NodeLives,
    /// How many writes the caches know of.
    told: usize,
    dirty: Arc<Mutex<BTreeSet<Key>>>,
    due: BTreeMap<Key, Instant>,
    start: Instant,
}

impl Scene {
    fn new() -> Self {
        let start = Instant::now();
        set_clock(start);
        let truth = Truth::new(1);
        let (nodes, pods, leases) = (Cache::default(), Cache::default(), Cache::default());
        let lives = NodeLives::new(
            truth.client(),
            Cache::clone(&nodes),
            Cache::clone(&pods),
            &leases,
            Announcer::silent(),
        );
        let dirty = Arc::<Mutex<BTreeSet<Key>>>::default();
        let (of_nodes, all) = (dirty.clone(), nodes.clone());
        nodes.listen(move |change| {
            of_nodes.lock().unwrap().extend(of_node(&all, &change));
        });
        Self {
            truth,
            nodes,
            pods,
            leases,
            lives,
            told: 0,
            dirty,
            due: BTreeMap::new(),
            start,
        }
    }

    /// A node that has just said that it is ready, or never said anything.
    fn node(&self, name: &str, ready: Option<&str>, metadata: Value) {
        let mut node = json!({ "metadata": metadata, "spec": {} });
        node["metadata"]["name"] = json!(name);
        self.truth.put("nodes", node);
        if let Some(ready) = ready {
            self.says(name, ready);
        }
    }

    /// The node says of itself whether it is ready.
    fn says(&self, name: &str, ready: &str) {
        let now = clock::now();
        let conditions = CONDITIONS.map(|kind| {
            let status = if kind == "Ready" { ready } else { "False" };
            json!({ "type": kind, "status": status, "lastHeartbeatTime": now })
        });
        let patch = json!({ "status": { "conditions": conditions } });
        self.truth.patch("nodes", name, &patch);
    }

    fn renews(&self, name: &str) {
        let renewed = json!({ "spec": { "renewTime": clock::now() } });
        if self.truth.get("leases", name).is_none() {
            let lease = json!({ "metadata": { "name": name } });
            self.truth.put("leases", lease);
        }
        self.truth.patch("leases", name, &renewed);
    }

    fn pod(&self, name: &str, node: &str) {
        let pod = json!({ "metadata": { "name": name }, "spec": { "nodeName": node } });
        self.truth.put("pods", pod);
        let status = json!({ "status": { "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }] } });
        self.truth.patch("pods", name, &status);
    }

    /// Let the controller learn of what was written, and act, until it has nothing more to do now.
    async fn settle(&mut self) {
        loop {
            for kind in ["nodes", "pods", "leases"] {
                let mut seen = self.told;
                while let Some((at, written)) = self.truth.next(kind, seen) {
                    seen = at + 1;
                    match kind {
                        "nodes" => tell(&self.nodes, written.object, written.gone).await,
                        "pods" => tell(&self.pods, written.object, written.gone).await,
                        _ => tell(&self.leases, written.object, written.gone).await,
                    }
                }
            }
            self.told = self.truth.version();
            let now = Instant::now();
            let due = self.due.extract_if(.., |_, at| *at <= now);
            let mut dirty = std::mem::take(&mut *self.dirty.lock().unwrap());
            dirty.extend(due.map(|(key, _)| key));
            if dirty.is_empty() {
                return;
            }
            for key in dirty {
                if let Requeue::After(delay) = self.lives.reconcile(&key).await.unwrap() {
                    self.due.insert(key, Instant::now() + delay);
                }
            }
        }
    }

    /// Time passes, in which these nodes renew their Leases.
    async fn pass(&mut self, seconds: u64, living: &[&str]) {
        for _ in 0..seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            set_clock(self.start);
            for name in living {
                self.renews(name);
            }
            self.settle().await;
        }
    }

    fn conditions(&self, name: &str) -> Value {
        self.truth.get("nodes", name).unwrap()["status"]["conditions"].clone()
    }

    fn taints(&self, name: &str) -> Vec<String> {
        let node = self.truth.get("nodes", name).unwrap();
        let taints = node["spec"]["taints"].as_array().cloned();
        let taints = taints.unwrap_or_default().into_iter();
        taints
            .map(|t| {
                format!(
                    "{}:{}",
                    t["key"].as_str().unwrap(),
                    t["effect"].as_str().unwrap()
                )
            })
            .collect()
    }

    fn is_ready(&self, pod: &str) -> bool {
        self.truth.get("pods", pod).unwrap()["status"]["conditions"][0]["status"] == "True"
    }

    /// How many of these nodes are given up.
    fn given_up(&self, names: &[String]) -> usize {
        names
            .iter()
            .filter(|name| !self.taints(name).is_empty())
            .count()
    }
}

fn set_clock(start: Instant) {
    let elapsed = jiff::SignedDuration::try_from(start.elapsed()).unwrap();
    clock::simulate(Some(Timestamp::constant(1_800_000_000, 0) + elapsed));
}

async fn tell<K>(cache: &Cache<K>, object: Value, gone: bool)
where
    K: kube::Resource
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let object = serde_json::from_value(object).unwrap();
    let event = if gone {
        Event::Delete(object)
    } else {
        Event::Apply(object)
    };
    show(cache, [event]).await;
}

const LOST: &str = "node.kubernetes.io/unreachable:NoExecute";
const ILL: &str = "node.kubernetes.io/not-ready:NoExecute";

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_said_to_be_so_and_given_up_until_it_speaks() {
    let mut scene = Scene::new();
    for name in ["a", "b"] {
        scene.node(name, Some("True"), json!({}));
        scene.pod(name, name);
    }
    scene.pass(49, &["b"]).await;
    assert_eq!(scene.conditions("a")[0]["status"], "True");
    let before = scene.conditions("a")[0]["lastHeartbeatTime"].clone();
    scene.pass(2, &["b"]).await;
    for condition in scene.conditions("a").as_array().unwrap() {
        assert_eq!(condition["status"], "Unknown", "{condition}");
        assert_eq!(condition["reason"], "NodeStatusUnknown");
        assert_eq!(condition["message"], "Kubelet stopped posting node status.");
    }
    assert!(before.is_string());
    assert_eq!(scene.taints("a"), [LOST]);
    assert!(!scene.is_ready("a"), "nobody is to send it requests");
    assert!(scene.is_ready("b") && scene.taints("b").is_empty());
    let written = scene.truth.version();
    scene.pass(300, &[]).await;
    let of_b = scene.taints("b");
    assert!(of_b.is_empty(), "all are lost: {of_b:?}");
    assert!(scene.truth.version() > written);
    scene.says("a", "True");
    scene.settle().await;
    assert!(scene.taints("a").is_empty());
    assert_eq!(scene.taints("b"), [LOST]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_never_said_anything_has_longer() {
    let mut scene = Scene::new();
    scene.node("a", None, json!({}));
    scene.node("b", Some("True"), json!({}));
    let made = scene.truth.get("nodes", "a").unwrap()["metadata"]["creationTimestamp"].clone();
    scene.pass(59, &["b"]).await;
    assert!(scene.conditions("a").is_null());
    scene.pass(2, &["b"]).await;
    let conditions = scene.conditions("a");
    let kinds: Vec<_> = conditions
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["type"])
        .collect();
    assert_eq!(kinds, CONDITIONS);
    for condition in conditions.as_array().unwrap() {
        assert_eq!(condition["status"], "Unknown");
        assert_eq!(condition["reason"], "NodeStatusNeverUpdated");
        assert_eq!(condition["message"], "Kubelet never posted node status.");
        let of = |time: &Value| time.as_str().unwrap().parse::<Timestamp>().unwrap();
        assert_eq!(of(&condition["lastHeartbeatTime"]), of(&made));
    }
    assert_eq!(scene.taints("a"), [LOST]);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_is_renewed_or_whose_status_is_written_lives() {
    let mut scene = Scene::new();
    for name in ["a", "b"] {
        scene.node(name, Some("True"), json!({}));
    }
    for _ in 0..6 {
        scene.pass(40, &[]).await;
        scene.renews("a");
        scene.says("b", "True");
        scene.settle().await;
    }
    assert_eq!(scene.conditions("a")[0]["status"], "True");
    assert_eq!(scene.conditions("b")[0]["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn a_node_lost_in_one_way_and_then_in_the_other_is_not_waited_for_again() {
    let mut scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.node(name, Some("True"), json!({}));
    }
    scene.settle().await;
    scene.says("a", "False");
    scene.settle().await;
    assert_eq!(scene.taints("a"), [ILL]);
    // The zone has just given up one.
    scene.says("b", "False");
    scene.says("a", "Unknown");
    scene.settle().await;
    assert_eq!(scene.taints("a"), [LOST]);
    assert!(scene.taints("b").is_empty());
    scene.says("a", "False");
    scene.settle().await;
    assert_eq!(scene.taints("a"), [ILL]);
    scene.pass(11, &["a", "b", "c"]).await;
    assert_eq!(scene.taints("b"), [ILL]);
}

#[tokio::test(start_paused = true)]
async fn nodes_are_given_up_one_by_one_and_none_where_most_of_a_zone_is_lost() {
    let mut scene = Scene::new();
    let zone = |zone: &str| json!({ "labels": { "topology.kubernetes.io/zone": zone } });
    let names = |of: &str, n: usize| (0..n).map(|n| format!("{of}{n}")).collect::<Vec<_>>();
    let (few, most, whole) = (names("few", 10), names("most", 10), names("whole", 3));
    for (of, all) in [("few", &few), ("most", &most), ("whole", &whole)] {
        for name in all {
            scene.node(name, Some("True"), zone(of));
        }
    }
    scene.settle().await;
    let lost = [&few[..3], &most[..6], &whole[..]].concat();
    for name in &lost {
        scene.says(name, "False");
    }
    let all = [&few[..], &most, &whole].concat();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    scene.settle().await;
    for given_up in 1..=3 {
        assert_eq!(scene.given_up(&few), given_up);
        // Lost as a whole: taken for down, as others are not.
        assert_eq!(scene.given_up(&whole), given_up);
        assert_eq!(scene.given_up(&most), 0);
        scene.pass(10, &all).await;
    }
    // One that comes back makes the zone a zone again.
    scene.says(&most[0], "True");
    scene.pass(50, &all).await;
    assert_eq!(scene.given_up(&most), 5);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_come_and_go_say_nothing_about_their_zone() {
    let mut scene = Scene::new();
    let excluded = json!({ "labels": { "node.kubernetes.io/exclude-disruption": "" } });
    let names: Vec<String> = (0..6).map(|n| format!("n{n}")).collect();
    for name in &names {
        scene.node(name, Some("True"), excluded.clone());
    }
    scene.node("stays", Some("True"), json!({}));
    scene.settle().await;
    for name in &names[..5] {
        scene.says(name, "False");
    }
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["stays"]).collect();
    scene.pass(60, &all).await;
    assert_eq!(scene.given_up(&names), 5);
    // The one that counts is lost, and with it all that counts.
    scene.says("stays", "False");
    scene.settle().await;
    assert_eq!(scene.given_up(&names), 0);
}

#[tokio::test(start_paused = true)]
async fn where_all_were_lost_the_first_to_return_gives_the_others_time() {
    let mut scene = Scene::new();
    for name in ["a", "b"] {
        scene.node(name, Some("False"), json!({}));
    }
    scene.pass(45, &[]).await;
    assert!(scene.taints("a").is_empty() && scene.taints("b").is_empty());
    scene.says("a", "True");
    scene.settle().await;
    scene.pass(40, &["a"]).await;
    assert_eq!(scene.conditions("b")[0]["status"], "False");
    scene.pass(11, &["a"]).await;
    assert_eq!(scene.conditions("b")[0]["status"], "Unknown");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_by_policy_keeps_its_pods_while_it_is_silent() {
    let mut scene = Scene::new();
    let policy = json!({ "annotations": { CUT_OFF: "keep-pods" } });
    scene.node("a", Some("True"), policy);
    scene.node("b", Some("True"), json!({}));
    scene.pod("p", "a");
    scene.pass(300, &["b"]).await;
    assert_eq!(scene.conditions("a")[0]["status"], "Unknown");
    assert!(scene.is_ready("p"));
    assert!(scene.taints("a").is_empty());
    // What it says of itself is another matter.
    scene.says("a", "False");
    scene.settle().await;
    assert_eq!(scene.taints("a"), [ILL]);
}

fn node(spec: Value, status: &str, annotations: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": "n", "annotations": annotations }, "spec": spec,
        "status": { "conditions": [{ "type": "Ready", "status": status }] },
    }))
    .unwrap()
}

#[track_caller]
fn check(node: &Node, expected: Option<&[&str]>) {
    let found = taints(node, wanted(node), Timestamp::UNIX_EPOCH);
    let found = found.map(|all| all.into_iter().map(|t| t.key).collect::<Vec<_>>());
    assert_eq!(
        found,
        expected.map(|keys| keys.iter().map(|k| (*k).to_owned()).collect())
    );
}

#[test]
fn taints_follow_what_is_known_of_the_node() {
    let none = || json!({});
    check(&node(none(), "True", none()), None);
    check(&node(none(), "False", none()), Some(&[NOT_READY]));
    check(&node(none(), "Unknown", none()), Some(&[UNREACHABLE]));
    let tainted = json!({ "taints": [
        { "key": "mine", "effect": "NoExecute" },
        { "key": UNREACHABLE, "effect": "NoSchedule" },
        { "key": UNREACHABLE, "effect": "NoExecute" },
    ] });
    check(&node(tainted.clone(), "Unknown", none()), None);
    check(
        &node(tainted.clone(), "False", none()),
        Some(&["mine", UNREACHABLE, NOT_READY]),
    );
    check(
        &node(tainted.clone(), "True", none()),
        Some(&["mine", UNREACHABLE]),
    );
    let cut_off = json!({ CUT_OFF: "keep-pods" });
    check(&node(none(), "Unknown", cut_off.clone()), None);
    check(
        &node(tainted, "Unknown", cut_off.clone()),
        Some(&["mine", UNREACHABLE]),
    );
    check(&node(none(), "False", cut_off), Some(&[NOT_READY]));
}

#[test]
fn a_silent_node_is_said_to_be_so_once() {
    let told = silent(&node(json!({}), "True", json!({})), Timestamp::UNIX_EPOCH).unwrap();
    let of = |at: usize, field: &str| told[at][field].as_str().unwrap().to_owned();
    assert_eq!(of(0, "message"), "Kubelet stopped posting node status.");
    assert_eq!(of(0, "reason"), "NodeStatusUnknown");
    assert_eq!(of(1, "message"), "Kubelet never posted node status.");
    let mut node = node(json!({}), "Unknown", json!({}));
    let all = CONDITIONS.map(|kind| json!({ "type": kind, "status": "Unknown" }));
    let conditions = serde_json::from_value(json!(all)).unwrap();
    node.status.as_mut().unwrap().conditions = conditions;
    assert_eq!(silent(&node, Timestamp::UNIX_EPOCH), None);
}
