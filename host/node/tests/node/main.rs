//! The node agent against the API server of this repository, in process, with a runtime that runs
//! nothing: what a user sees of a pod from its creation to its end.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod fakes;
mod volumes;

use std::{path::Path, sync::Arc, time::Duration};

use eyot_apiserver::{ApiServer, User};
use eyot_node::{Kind, Kubelet, Node, Options, Policy};
use eyot_runtime::{Left, PodRef, Runtime};
use eyot_store::Store;
use fakes::{FakeNetwork, FakeRuntime, Images};
use http::StatusCode;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Node as NodeObject, Pod, PodStatus, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Longest wait for anything; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// An API with one node.
struct World {
    client: Client,
    runtime: Arc<FakeRuntime>,
    network: Arc<FakeNetwork>,
    kubelet: Kubelet,
    stop: CancellationToken,
    running: JoinHandle<()>,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let store = Store::in_memory(eyot_apiserver::extract);
        let api = ApiServer::new(store, eyot_apiserver::Options::default())
            .await
            .unwrap();
        let user = User::new("node", &["system:masters"]);
        let client = Client::new(api.as_user(user), "default");
        // Otherwise a controller makes it, and another publishes what its tokens are mounted with.
        let account = json!({
            "metadata": { "name": "default" }, "automountServiceAccountToken": false,
        });
        let account: ServiceAccount = serde_json::from_value(account).unwrap();
        Api::default_namespaced(client.clone())
            .create(&PostParams::default(), &account)
            .await
            .unwrap();
        Self::on(client, tempfile::tempdir().unwrap())
    }

    /// A host on an API and a directory that are there already.
    fn on(client: Client, directory: tempfile::TempDir) -> Self {
        Self::heir(client, directory, Vec::new())
    }

    /// One to which an earlier host left containers.
    fn heir(client: Client, directory: tempfile::TempDir, left: Vec<(Left, &'static str)>) -> Self {
        let images = Arc::new(Images::default());
        images.add("demo/app:v1");
        let runtime = Arc::new(FakeRuntime {
            left: left.into(),
            ..FakeRuntime::default()
        });
        let network = Arc::new(FakeNetwork::default());
        let node = Node::new(Options {
            name: "n1".into(),
            version: eyot_apiserver::KUBERNETES_VERSION,
            client: client.clone(),
            images,
            runtimes: vec![(Kind::Wasm, runtime.clone() as Arc<dyn Runtime>)],
            network: network.clone(),
            dns: None,
            data_dir: directory.path().to_owned(),
            secrets_dir: None,
            policy: Policy::default(),
            heartbeat: eyot_node::Heartbeat::Lease,
            cut_off: None,
            provisions: true,
            stop_pods: false,
        });
        let (kubelet, stop) = (node.kubelet(), CancellationToken::new());
        let running = tokio::spawn(node.run(stop.clone()));
        Self {
            client,
            runtime,
            network,
            kubelet,
            stop,
            running,
            directory,
        }
    }

    /// End the host in order and start another one.
    async fn restart(self) -> Self {
        self.restart_with(Vec::new()).await
    }

    async fn restart_with(self, left: Vec<(Left, &'static str)>) -> Self {
        self.stop.cancel();
        timeout(PATIENCE, self.running)
            .await
            .expect("the node stops")
            .unwrap();
        Self::heir(self.client, self.directory, left)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let pod = json!({ "metadata": { "name": name }, "spec": spec });
        let pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap()
    }

    /// Wait until the pod's status is as wished.
    async fn until(&self, name: &str, wished: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let condition =
            |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()).is_some_and(&wished);
        match timeout(PATIENCE, await_condition(self.pods(), name, condition)).await {
            Ok(pod) => pod.unwrap().unwrap().status.unwrap(),
            Err(_) => {
                let pod = self.pods().get_opt(name).await;
                panic!(
                    "not in time: {}",
                    serde_json::to_string_pretty(&pod.unwrap()).unwrap()
                )
            }
        }
    }

    async fn until_gone(&self, name: &str) {
        let gone = |pod: Option<&Pod>| pod.is_none();
        timeout(PATIENCE, await_condition(self.pods(), name, gone))
            .await
            .unwrap()
            .unwrap();
    }

    async fn logs(&self, path_and_query: &str) -> (StatusCode, String) {
        let uri = format!("/containerLogs/default/{path_and_query}");
        let request = http::Request::get(uri).body(eyot_http::empty()).unwrap();
        let answer = self.kubelet.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = timeout(PATIENCE, eyot_http::collect(answer.into_body(), 1 << 20));
        let body = body.await.expect("the log ends").unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Wait for an event about the pod.
    async fn until_event(&self, name: &str, reason: &str, message: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let told = async {
            loop {
                let all = events.list(&ListParams::default()).await.unwrap();
                let found = all.items.iter().any(|event| {
                    event.involved_object.name.as_deref() == Some(name)
                        && event.reason.as_deref() == Some(reason)
                        && event.message.as_deref() == Some(message)
                });
                if found {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, told)
            .await
            .unwrap_or_else(|_| panic!("no event {reason}: {message}"));
    }
}

fn one(args: &[&str]) -> Value {
    json!({ "containers": [{ "name": "app", "image": "demo/app:v1", "args": args }] })
}

fn is_ready(status: &PodStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn waits_for(status: &PodStatus, reason: &str) -> bool {
    status.container_statuses.iter().flatten().any(|container| {
        let waiting = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(reason))
    })
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_becomes_ready_is_told_about_and_leaves_nothing_behind() {
    let world = World::new().await;
    world.create("web", one(&["serve"])).await;
    let status = world.until("web", is_ready).await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("127.0.0.9"));
    let container = &status.container_statuses.unwrap()[0];
    assert!(
        container
            .container_id
            .as_deref()
            .unwrap()
            .starts_with("wasm://")
    );
    assert_eq!(container.image_id, "sha256:feed");
    for (reason, message) in [
        (
            "Pulled",
            "Container image \"demo/app:v1\" already present on machine and can be accessed by the pod",
        ),
        ("Created", "Container created"),
        ("Started", "Container started"),
    ] {
        world.until_event("web", reason, message).await;
    }
    assert_eq!(
        world.logs("web/app").await,
        (StatusCode::OK, "attempt 0\n".into())
    );

    world
        .pods()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    world.until_gone("web").await;
    world
        .until_event("web", "Killing", "Stopping container app")
        .await;
    assert!(world.network.attached.lock().unwrap().is_empty());
    assert_eq!(world.runtime.removed.lock().unwrap().len(), 1);
    let cleared = async {
        while !is_empty(&world.directory.path().join("logs")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, cleared)
        .await
        .expect("the logs are removed");
    let (status, message) = world.logs("web/app").await;
    assert_eq!(
        (status, message.as_str()),
        (StatusCode::NOT_FOUND, "pod \"web\" not found\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_waits_for_its_config_map_starts_when_that_comes() {
    let world = World::new().await;
    let mut spec = one(&["serve"]);
    spec["containers"][0]["env"] = json!([
        { "name": "COLOR", "valueFrom": { "configMapKeyRef": { "name": "cfg", "key": "color" } } },
        { "name": "WHO", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
        { "name": "BOTH", "value": "$(WHO) is $(COLOR)" },
    ]);
    world.create("web", spec).await;
    let status = world
        .until("web", |s| waits_for(s, "CreateContainerConfigError"))
        .await;
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    let message = state.waiting.unwrap().message;
    assert_eq!(message.as_deref(), Some("configmap \"cfg\" not found"));
    world
        .until_event("web", "Failed", "Error: configmap \"cfg\" not found")
        .await;
    let (code, text) = world.logs("web/app").await;
    let said = "container \"app\" in pod \"web\" is waiting to start: CreateContainerConfigError\n";
    assert_eq!((code, text.as_str()), (StatusCode::BAD_REQUEST, said));

    let map = json!({ "metadata": { "name": "cfg" }, "data": { "color": "red" } });
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    maps.create(
        &PostParams::default(),
        &serde_json::from_value(map).unwrap(),
    )
    .await
    .unwrap();
    world.until("web", is_ready).await;
    let expected = "attempt 0\nCOLOR=red\nWHO=web\nIP=127.0.0.9\nBOTH=web is red\n";
    assert_eq!(world.logs("web/app").await.1, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_show_config_maps_as_files() {
    let world = World::new().await;
    let map = json!({ "metadata": { "name": "cfg" }, "data": { "a.conf": "alpha" } });
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    maps.create(
        &PostParams::default(),
        &serde_json::from_value(map).unwrap(),
    )
    .await
    .unwrap();
    let mut spec = one(&["serve"]);
    spec["volumes"] = json!([{ "name": "v", "configMap": { "name": "cfg" } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/etc/app" }]);
    world.create("web", spec).await;
    world.until("web", is_ready).await;
    assert_eq!(
        world.logs("web/app").await.1,
        "attempt 0\n/etc/app/a.conf: alpha\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_image_is_named_and_logs_say_why_there_are_none() {
    let world = World::new().await;
    let spec = json!({ "containers": [{ "name": "app", "image": "demo/none:v1" }] });
    world.create("web", spec).await;
    let status = world.until("web", |s| waits_for(s, "ErrImagePull")).await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    world
        .until("web", |s| waits_for(s, "ImagePullBackOff"))
        .await;
    world
        .until_event("web", "BackOff", "Back-off pulling image \"demo/none:v1\"")
        .await;
    let (code, text) = world.logs("web/app").await;
    let said =
        "container \"app\" in pod \"web\" is waiting to start: trying and failing to pull image\n";
    assert_eq!((code, text.as_str()), (StatusCode::BAD_REQUEST, said));
    let (code, text) = world.logs("web/other").await;
    let said = "container \"other\" not found in pod \"web\"\n";
    assert_eq!((code, text.as_str()), (StatusCode::NOT_FOUND, said));
    world
        .pods()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    world.until_gone("web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_fails_is_restarted_and_its_previous_log_is_kept() {
    let world = World::new().await;
    world.create("web", one(&["exit", "3"])).await;
    let status = world
        .until("web", |s| waits_for(s, "CrashLoopBackOff"))
        .await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.restart_count, 1);
    let last = container.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(world.logs("web/app?previous=true").await.1, "attempt 1\n");
    assert_eq!(world.logs("web/app?follow=true").await.1, "attempt 1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_its_init_container_first_and_succeeds() {
    let world = World::new().await;
    let mut spec = one(&["exit", "0"]);
    spec["restartPolicy"] = json!("Never");
    spec["initContainers"] =
        json!([{ "name": "init", "image": "demo/app:v1", "args": ["exit", "0"] }]);
    let uid = world.create("job", spec).await.metadata.uid.unwrap();
    let status = world
        .until("job", |s| s.phase.as_deref() == Some("Succeeded"))
        .await;
    let ready = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(ready.reason.as_deref(), Some("PodCompleted"));
    let started = world.runtime.started.lock().unwrap().clone();
    assert_eq!(started, [format!("{uid}-init-0"), format!("{uid}-app-0")]);
    assert_eq!(
        world.logs("job/app").await.1,
        "attempt 0\n",
        "logs outlive the container"
    );
    world
        .pods()
        .delete("job", &DeleteParams::default())
        .await
        .unwrap();
    world.until_gone("job").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_does_not_end_is_killed_after_the_grace_period() {
    let world = World::new().await;
    let mut spec = one(&["stubborn"]);
    spec["terminationGracePeriodSeconds"] = json!(1);
    world.create("web", spec).await;
    world.until("web", is_ready).await;
    world
        .pods()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    world.until_gone("web").await;
    assert_eq!(world.runtime.removed.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_was_deleted_by_force_is_still_ended_here() {
    let world = World::new().await;
    world.create("web", one(&["stubborn"])).await;
    world.until("web", is_ready).await;
    world
        .pods()
        .delete("web", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let ended = async {
        while world.runtime.removed.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended)
        .await
        .expect("the container is killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_starts_again_carries_on_with_its_pods() {
    let world = World::new().await;
    world.create("web", one(&["serve"])).await;
    let mut spec = one(&["serve"]);
    spec["restartPolicy"] = json!("Never");
    world.create("once", spec).await;
    world.until("web", is_ready).await;
    world.until("once", is_ready).await;
    let world = world.restart().await;
    let again = |s: &PodStatus| {
        is_ready(s)
            && s.container_statuses
                .iter()
                .flatten()
                .all(|c| c.restart_count == 1)
    };
    world.until("web", again).await;
    let status = world
        .until("once", |s| s.phase.as_deref() == Some("Failed"))
        .await;
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 137);
    assert_eq!(world.logs("web/app").await.1, "attempt 1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_that_an_earlier_host_left_go_on() {
    let world = World::new().await;
    let kept = world.create("kept", one(&["serve"])).await;
    world.until("kept", is_ready).await;
    let uid = kept.metadata.uid.unwrap();
    let left = |id: &str, uid: &str, attempt| Left {
        id: id.into(),
        pod: PodRef {
            namespace: "default".into(),
            name: "kept".into(),
            uid: uid.into(),
        },
        name: "app".into(),
        attempt,
        digest: "sha256:cafe".into(),
        started: std::time::SystemTime::now() - Duration::from_secs(60),
    };
    let (second, stranger) = (left("left-1", &uid, 1), left("left-x", "no-such-pod", 0));
    let world = world
        .restart_with(vec![
            // The host was killed between the start of the second attempt and saying so.
            (left("left-0", &uid, 0), "old"),
            (second, "meanwhile\n"),
            (stranger, ""),
        ])
        .await;
    let goes_on = |s: &PodStatus| {
        let status = s.container_statuses.iter().flatten().next();
        is_ready(s)
            && status.is_some_and(|status| {
                status.container_id.as_deref() == Some("wasm://left-1")
                    && status.restart_count == 1
                    && status.image_id == "sha256:cafe"
            })
    };
    world.until("kept", goes_on).await;
    assert_eq!(*world.runtime.started.lock().unwrap(), Vec::<String>::new());
    assert_eq!(world.logs("kept/app").await.1, "meanwhile\n");
    let removed = async {
        while world.runtime.removed.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, removed).await.expect("others are ended");
    let mut removed = world.runtime.removed.lock().unwrap().clone();
    removed.sort();
    assert_eq!(removed, ["left-0", "left-x"]);

    // It is a container like any other: the host can stop once more, and end it.
    let running = world.until("kept", goes_on).await;
    let world = world
        .restart_with(vec![(left("left-1", &uid, 1), "more\n")])
        .await;
    assert_eq!(
        world.until("kept", goes_on).await.start_time,
        running.start_time
    );
    let delete = DeleteParams::default();
    world.pods().delete("kept", &delete).await.unwrap();
    world.until_gone("kept").await;
    assert_eq!(*world.runtime.removed.lock().unwrap(), ["left-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_registers_itself_and_holds_a_lease() {
    let world = World::new().await;
    let nodes: Api<NodeObject> = Api::all(world.client.clone());
    let ready = |node: Option<&NodeObject>| {
        let status = node.and_then(|node| node.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    let node = timeout(PATIENCE, await_condition(nodes, "n1", ready))
        .await
        .unwrap();
    let node = node.unwrap().unwrap();
    assert_eq!(
        node.metadata.labels.unwrap()["kubernetes.io/hostname"],
        "n1"
    );
    let status = node.status.unwrap();
    assert!(status.allocatable.unwrap().contains_key("memory"));
    assert_eq!(status.node_info.unwrap().operating_system, "linux");
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "kube-node-lease");
    let held = |lease: Option<&Lease>| lease.is_some();
    let lease = timeout(PATIENCE, await_condition(leases, "n1", held))
        .await
        .unwrap();
    let spec = lease.unwrap().unwrap().spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("n1"));
    assert_eq!(spec.lease_duration_seconds, Some(40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_become_ready_fast() {
    let world = World::new().await;
    let mut took = Vec::new();
    for number in 0..20 {
        let name = format!("web-{number}");
        let begin = std::time::Instant::now();
        world.create(&name, one(&["serve"])).await;
        world.until(&name, is_ready).await;
        took.push(begin.elapsed());
    }
    took.sort();
    eprintln!("POST to Ready: p50 {:?}, slowest {:?}", took[10], took[19]);
    // The aim is 20 ms in a release build on a quiet machine; this only finds a polling loop.
    assert!(took[10] < Duration::from_secs(1), "{took:?}");
}
