//! A cloud and a node, each with an API server of its own, and who acts on both sides.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use eyot_apiserver::{ApiServer, Options, User};
use eyot_mirror::{EdgeGate, Mirror, Pace, rights};
use eyot_store::{Change, ChangeKind, Place, Plain, Store, transfer};
use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::link::Link;

pub const NODE: &str = "edge-1";
const DEADLINE: Duration = Duration::from_secs(60);

/// One side's API.
#[derive(Clone)]
pub struct Side {
    pub store: Store,
    pub api: ApiServer,
}

impl Side {
    pub async fn new(store: Store, options: Options) -> Side {
        let api = ApiServer::new(store.clone(), options).await.unwrap();
        let side = Side { store, api };
        for definition in eyot_api::crds() {
            let definition = serde_json::to_value(definition).unwrap();
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let made = side.ask("POST", path, Some(&definition)).await;
            assert!(made.is_ok() || matches!(made, Err(409)), "{made:?}");
        }
        side
    }

    pub fn client(&self, user: &str) -> Client {
        Client::new(
            self.api.as_user(User::new(user, &["system:masters"])),
            "default",
        )
    }

    pub async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, u16> {
        self.ask_as("system:test", method, path, body).await
    }

    pub async fn ask_as(
        &self,
        user: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, u16> {
        let content = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(body.map(Value::to_string).unwrap_or_default().into_bytes())
            .unwrap();
        match self.client(user).request::<Value>(request).await {
            Ok(value) => Ok(value),
            Err(kube::Error::Api(status)) => Err(status.code),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    pub async fn get(&self, path: &str) -> Option<Value> {
        self.ask("GET", path, None).await.ok()
    }

    /// The objects of a collection by their names.
    pub async fn all(&self, path: &str) -> BTreeMap<String, Value> {
        let list = self.ask("GET", path, None).await.unwrap();
        let items = list["items"].as_array().unwrap().iter();
        let named = |item: &Value| {
            (
                item["metadata"]["name"].as_str().unwrap().to_owned(),
                item.clone(),
            )
        };
        items.map(named).collect()
    }
}

pub fn pods(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// The cloud, with a node that is known to it.
pub async fn cloud() -> Side {
    let side = Side::new(
        Store::in_memory(eyot_apiserver::extract),
        Options::default(),
    )
    .await;
    for (object, path) in rights().iter().zip(["clusterroles", "clusterrolebindings"]) {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/{path}");
        side.ask("POST", &path, Some(object)).await.unwrap();
    }
    let account = json!({"metadata": {"name": "default", "namespace": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    side.ask("POST", accounts, Some(&account)).await.unwrap();
    side
}

/// The machine at the edge: what runs on it, whoever looks after it.
#[derive(Clone, Default)]
pub struct Machine(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    /// How often a pod was started, by uid.
    starts: BTreeMap<String, u32>,
    /// What runs now, by uid.
    running: BTreeMap<String, String>,
}

impl Machine {
    pub fn starts(&self) -> BTreeMap<String, u32> {
        self.0.lock().unwrap().starts.clone()
    }

    pub fn running(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.lock().unwrap().running.values().cloned().collect();
        names.sort();
        names
    }
}

/// The agent: its API over its store, a node, and the mirror. Dropped, all of it is killed.
pub struct Agent {
    pub side: Side,
    pub mirror: tokio::sync::watch::Receiver<eyot_mirror::Link>,
    pub filled: tokio::sync::watch::Receiver<bool>,
    _stop: DropGuard,
}

impl Agent {
    pub async fn start(store: Store, link: &Link, machine: &Machine) -> Agent {
        let options = Options {
            gate: Some(Arc::new(EdgeGate::new(NODE, true))),
            ..Options::default()
        };
        let side = Side::new(store, options).await;
        let stop = CancellationToken::new();
        let mirror = Mirror::new(eyot_mirror::Options {
            node: NODE.to_owned(),
            cloud: link.client(),
            api: side.client("system:eyot-mirror"),
            store: side.store.clone(),
            root_ca: "the edge's authority".to_owned(),
            devices: true,
            pace: Pace {
                first: Duration::from_millis(5),
                longest: Duration::from_millis(80),
            },
        });
        let (watch, filled) = (mirror.link(), mirror.filled());
        tokio::spawn({
            let stop = stop.clone();
            async move { mirror.run(stop).await }
        });
        tokio::spawn(act_as_node(side.clone(), machine.clone(), stop.clone()));
        Agent {
            side,
            mirror: watch,
            filled,
            _stop: stop.drop_guard(),
        }
    }

    /// One on a disk, as the last one left that when it was killed.
    pub async fn on_disk(disk: &mut Disk, link: &Link, machine: &Machine) -> Agent {
        let store = Store::open(&disk.next().await, eyot_apiserver::extract).await;
        Self::start(store.unwrap(), link, machine).await
    }
}

/// The disk of a machine. What is killed in a test does not end at once, so each start is on a copy of
/// what is there at that moment: no different from a power cut.
pub struct Disk {
    dir: tempfile::TempDir,
    turn: u32,
}

impl Disk {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            turn: 0,
        }
    }

    async fn next(&mut self) -> std::path::PathBuf {
        let path = |turn: u32| self.dir.path().join(turn.to_string()).join("eyot.db");
        let (before, now) = (path(self.turn), path(self.turn + 1));
        if self.turn > 0 {
            let [from, to] = [before, now.clone()].map(Place::File);
            let side = |place| transfer::Side {
                place,
                codec: &Plain,
            };
            let copied = transfer::copy(side(&from), side(&to), transfer::Revisions::GoOn);
            copied.await.unwrap();
        }
        self.turn += 1;
        now
    }
}

/// Start what is bound to the node, end what is deleted, tell both.
async fn act_as_node(side: Side, machine: Machine, stop: CancellationToken) {
    let work = async {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE,
            "labels": {"kubernetes.io/os": "linux"}}});
        let _ = side
            .ask_as(&user(), "POST", "/api/v1/nodes", Some(&node))
            .await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let path = format!("/api/v1/nodes/{NODE}/status");
        let _ = side.ask_as(&user(), "PATCH", &path, Some(&ready)).await;
        let list = side.store.list("pods", None);
        let (after, found): (u64, Vec<_>) = (list.revision, list.objects.iter().cloned().collect());
        for pod in found {
            step(&side, &machine, &serde_json::from_slice(&pod.json).unwrap()).await;
        }
        let mut watch = side.store.watch("pods", None, after).unwrap();
        while let Ok(Change { kind, object, .. }) = watch.next().await {
            let pod: Value = serde_json::from_slice(&object.json).unwrap();
            match kind {
                ChangeKind::Deleted => end(&machine, &pod),
                _ => step(&side, &machine, &pod).await,
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

fn user() -> String {
    format!("system:node:{NODE}")
}

fn end(machine: &Machine, pod: &Value) {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    machine.0.lock().unwrap().running.remove(uid);
}

async fn step(side: &Side, machine: &Machine, pod: &Value) {
    let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
    let (name, uid) = (text("name"), text("uid"));
    let path = format!("/api/v1/namespaces/{}/pods/{name}", text("namespace"));
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        end(machine, pod);
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        let _ = side.ask_as(&user(), "DELETE", &path, Some(&options)).await;
        return;
    }
    if ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap_or_default()) {
        end(machine, pod);
        return;
    }
    let new = {
        let mut running = machine.0.lock().unwrap();
        let new = running
            .running
            .insert(uid.to_owned(), name.to_owned())
            .is_none();
        if new {
            *running.starts.entry(uid.to_owned()).or_default() += 1;
        }
        new
    };
    if new || pod["status"]["phase"] != "Running" {
        status(
            side,
            name,
            uid,
            &json!({"phase": "Running", "podIP": "10.0.0.9"}),
        )
        .await;
    }
}

/// Write a status as the node does.
pub async fn status(side: &Side, name: &str, uid: &str, status: &Value) {
    let patch = json!({"metadata": {"uid": uid}, "status": status});
    let path = format!("{}/status", pods(name));
    let _ = side.ask_as(&user(), "PATCH", &path, Some(&patch)).await;
}

/// Wait until something holds.
pub async fn until<F: Future<Output = Result<(), String>>>(what: &str, holds: impl Fn() -> F) {
    let mut last = String::new();
    let waiting = async {
        loop {
            match holds().await {
                Ok(()) => return,
                Err(why) => last = why,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(done.is_ok(), "{what}: {last}");
}

/// A pod that is bound to the node.
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i",
            "envFrom": [{"configMapRef": {"name": format!("{name}-settings"), "optional": true}}]}]},
    })
}
