//! The controllers against the real API in process, with a node that is only an object: pods
//! become ready because the test says so.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "control/autoscaling.rs"]
mod autoscaling;
#[path = "control/bad_input.rs"]
mod bad_input;
#[path = "control/disruption.rs"]
mod disruption;
#[path = "control/endpoints.rs"]
mod endpoints;
#[path = "control/fleet.rs"]
mod fleet;
#[path = "control/jobs.rs"]
mod jobs;

use std::{future::Future, sync::Arc, time::Duration};

use eyot_apiserver::{ApiServer, Options, User};
use eyot_client::Watches;
use eyot_control::Clients;
use eyot_store::Store;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet},
    certificates::v1::CertificateSigningRequest,
    core::v1::{
        ConfigMap, Event, Namespace, Node, Pod, ReplicationController, ResourceQuota, Service,
    },
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

#[path = "control/stateful_set.rs"]
mod stateful_set;
#[path = "control/storage.rs"]
mod storage;

const DEADLINE: Duration = Duration::from_secs(60);

struct World {
    client: Client,
    _stop: DropGuard,
}

/// Each controller acts in its own name: it must do with the rights of that.
fn clients(server: ApiServer) -> Clients {
    Clients::new(move |name, groups| {
        Client::new(server.as_user(User::new(name, groups)), "default")
    })
}

async fn start() -> World {
    start_with(eyot_control::Options::default()).await
}

async fn start_with(options: eyot_control::Options) -> World {
    start_on(Options::default(), options).await
}

async fn start_on(server: Options, options: eyot_control::Options) -> World {
    let store = Store::in_memory(eyot_apiserver::extract);
    let server = ApiServer::new(store, server).await.unwrap();
    let service = server.as_user(User::new("test", &["system:masters"]));
    let client = Client::new(service, "default");
    let clients = clients(server);
    let stop = CancellationToken::new();
    let watches = Watches::new(client.clone(), stop.clone());
    tokio::spawn(eyot_control::run(clients, watches, options, stop.clone()));
    World {
        client,
        _stop: stop.drop_guard(),
    }
}

/// Wait until `look` finds what it looks for.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(found) => found,
        Err(_) => panic!("never happened: {what}"),
    }
}

fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

impl World {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    async fn node(&self, cpu: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = typed(json!({ "metadata": { "name": "n" } }));
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({ "status": {
            "allocatable": { "cpu": cpu, "memory": "1Gi", "pods": "110" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        }});
        let params = PatchParams::default();
        nodes
            .patch_status("n", &params, &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// Play the node: bound pods become ready, deleted ones go.
    fn kubelet(&self, broken: &'static str) {
        let pods: Api<Pod> = self.api();
        tokio::spawn(async move {
            loop {
                for pod in pods.list(&ListParams::default()).await.unwrap() {
                    let spec = pod.spec.clone().unwrap_or_default();
                    let bound = spec.node_name.is_some();
                    let status = pod.status.clone().unwrap_or_default();
                    if bound && pod.metadata.deletion_timestamp.is_some() {
                        let now = DeleteParams::default().grace_period(0);
                        let _ = pods.delete(&pod.name_any(), &now).await;
                    } else if bound
                        && status.phase.as_deref() != Some("Running")
                        && spec.containers[0].image.as_deref() != Some(broken)
                    {
                        let ready = json!({ "status": { "phase": "Running", "conditions": [
                            { "type": "Ready", "status": "True",
                              "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
                        let params = PatchParams::default();
                        let patch = Patch::Strategic(ready);
                        let _ = pods.patch_status(&pod.name_any(), &params, &patch).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }

    async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
    }

    /// Wait until nothing that there is changes any more, whatever it is.
    async fn comes_to_rest(&self) {
        until("nobody writes anything any more", || async {
            let before = self.version().await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
            (before == self.version().await).then_some(())
        })
        .await;
    }

    /// The version of the last of all writes.
    async fn version(&self) -> Option<String> {
        let params = ListParams::default();
        let list = self.api::<ConfigMap>().list_metadata(&params).await;
        list.unwrap().metadata.resource_version
    }

    async fn apply(&self, image: &str, replicas: i32) {
        let deployments: Api<Deployment> = self.api();
        let patch = json!({ "spec": {
            "replicas": replicas,
            "template": { "spec": { "containers": [{ "name": "c", "image": image }] } },
        }});
        if deployments.get_opt("web").await.unwrap().is_some() {
            let patch = Patch::Strategic(patch);
            deployments
                .patch("web", &PatchParams::default(), &patch)
                .await
                .unwrap();
            return;
        }
        let deployment = typed(json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "c", "image": image }] },
                },
            },
        }));
        deployments
            .create(&PostParams::default(), &deployment)
            .await
            .unwrap();
    }

    /// Wait as `kubectl rollout status` does.
    async fn rolled_out(&self, image: &str, replicas: i32) {
        let deployments: Api<Deployment> = self.api();
        until(&format!("{replicas} of {image} rolled out"), || async {
            let found = deployments.get("web").await.unwrap();
            let status = found.status.unwrap_or_default();
            let done = status.observed_generation >= found.metadata.generation
                && [
                    status.replicas,
                    status.updated_replicas,
                    status.available_replicas,
                ]
                .iter()
                .all(|count| count.unwrap_or(0) == replicas);
            done.then_some(())
        })
        .await;
        let pods = self.pods().await;
        let living = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let images: Vec<_> = living
            .map(|p| {
                p.spec.as_ref().unwrap().containers[0]
                    .image
                    .clone()
                    .unwrap()
            })
            .collect();
        assert_eq!(
            images,
            vec![image.to_owned(); usize::try_from(replicas).unwrap()]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_scales_goes_back_and_leaves_nothing_behind() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    world.apply("i:1", 3).await;
    world.rolled_out("i:1", 3).await;
    world.apply("i:2", 3).await;
    world.rolled_out("i:2", 3).await;
    world.apply("i:2", 5).await;
    world.rolled_out("i:2", 5).await;
    world.apply("i:1", 2).await;
    world.rolled_out("i:1", 2).await;
    let sets: Api<ReplicaSet> = world.api();
    assert_eq!(
        sets.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
    let deployments: Api<Deployment> = world.api();
    let found = until("the revision is written", || async {
        let found = deployments.get("web").await.unwrap();
        let revision = found
            .annotations()
            .get("deployment.kubernetes.io/revision")
            .cloned();
        revision.filter(|revision| revision == "3")
    })
    .await;
    assert_eq!(found, "3");
    deployments
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    until("ReplicaSets and pods are collected", || async {
        let sets = sets.list(&ListParams::default()).await.unwrap().items.len();
        (sets + world.pods().await.len() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_whose_replica_set_is_refused_says_why_and_goes_on_when_it_may() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    let quotas: Api<ResourceQuota> = world.api();
    let quota = typed(json!({
        "metadata": { "name": "none" }, "spec": { "hard": { "count/replicasets.apps": "0" } },
    }));
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    world.apply("i:1", 1).await;
    let deployments: Api<Deployment> = world.api();
    let message = until("it says why", || async {
        let found = deployments.get("web").await.unwrap();
        let all = found.status?.conditions.unwrap_or_default().into_iter();
        let why = "ReplicaSetCreateError";
        let found = all.filter(|one| one.type_ == "Progressing" && one.status == "False");
        let mut found = found.filter(|one| one.reason.as_deref() == Some(why));
        found.next()?.message
    })
    .await;
    assert!(
        message.starts_with("Failed to create new replica set \"web-")
            && message.contains("exceeded quota: none"),
        "{message}"
    );
    quotas
        .delete("none", &DeleteParams::default())
        .await
        .unwrap();
    world.rolled_out("i:1", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_is_replaced_and_an_orphan_adopted() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    world.apply("i:1", 2).await;
    world.rolled_out("i:1", 2).await;
    let victim = world.pods().await[0].clone();
    let pods: Api<Pod> = world.api();
    pods.delete(&victim.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    until("another pod takes its place", || async {
        let pods = world.pods().await;
        let others = pods.iter().filter(|pod| pod.uid() != victim.uid());
        (pods.len() == 2 && others.count() == 2).then_some(())
    })
    .await;
    world.rolled_out("i:1", 2).await;
    // One too many of its kind is taken in, and one of the three given up.
    let mut orphan = world.pods().await[0].clone();
    let labels = orphan.metadata.labels.clone();
    orphan = typed(json!({
        "metadata": { "name": "orphan", "labels": labels },
        "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
    }));
    pods.create(&PostParams::default(), &orphan).await.unwrap();
    until("two are left, all owned", || async {
        let pods = world.pods().await;
        (pods.len() == 2 && pods.iter().all(|pod| pod.owner_references().len() == 1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_pods_and_is_then_idle() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    let controllers: Api<ReplicationController> = world.api();
    let controller = typed(json!({
        "metadata": { "name": "web" },
        "spec": { "replicas": 5, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
        } },
    }));
    let params = PostParams::default();
    controllers.create(&params, &controller).await.unwrap();
    for size in [5, 2] {
        let patch = Patch::Merge(json!({ "spec": { "replicas": size } }));
        let params = PatchParams::default();
        controllers.patch("web", &params, &patch).await.unwrap();
        until(&format!("{size} pods are available"), || async {
            let found = controllers.get("web").await.unwrap();
            let status = found.status.unwrap_or_default();
            (status.observed_generation == found.metadata.generation
                && status.replicas == size
                && status.available_replicas == Some(size))
            .then_some(())
        })
        .await;
    }
    until("the surplus is gone", || async {
        (world.pods().await.len() == 2).then_some(())
    })
    .await;
    let before = controllers.get("web").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = controllers.get("web").await.unwrap();
    assert_eq!(before.resource_version(), after.resource_version());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_runs_on_its_node_rolls_out_and_remembers_its_templates() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    let sets: Api<DaemonSet> = world.api();
    let set = typed(json!({
        "metadata": { "name": "agent" },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "revisionHistoryLimit": 1,
            "template": {
                "metadata": { "labels": { "app": "agent" } },
                "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
            },
        },
    }));
    sets.create(&PostParams::default(), &set).await.unwrap();
    for image in ["i:1", "i:2", "i:3", "i:2"] {
        let container = json!([{ "name": "c", "image": image }]);
        let patch = json!({ "spec": { "template": { "spec": { "containers": container } } } });
        let params = PatchParams::default();
        let patch = Patch::Strategic(patch);
        sets.patch("agent", &params, &patch).await.unwrap();
        until(&format!("{image} runs everywhere"), || async {
            let found = sets.get("agent").await.unwrap();
            let status = found.status.unwrap_or_default();
            (status.observed_generation == found.metadata.generation
                && status.desired_number_scheduled == 1
                && status.updated_number_scheduled == Some(1)
                && status.number_available == Some(1))
            .then_some(())
        })
        .await;
        let pods = world.pods().await;
        let spec = pods[0].spec.clone().unwrap();
        assert_eq!((pods.len(), spec.node_name.as_deref()), (1, Some("n")));
        assert_eq!(spec.containers[0].image.as_deref(), Some(image));
    }
    let revisions: Api<ControllerRevision> = world.api();
    until("one older template is kept", || async {
        let all = revisions.list(&ListParams::default()).await.unwrap().items;
        let mut numbers: Vec<_> = all.iter().map(|one| one.revision).collect();
        numbers.sort_unstable();
        (numbers == [3, 4]).then_some(())
    })
    .await;
    let before = sets.get("agent").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = sets.get("agent").await.unwrap();
    assert_eq!(before.resource_version(), after.resource_version());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_runs_once_there_is_room() {
    let world = start().await;
    let pods: Api<Pod> = world.api();
    let pod = |name: &str| -> Pod {
        let resources = json!({ "requests": { "cpu": "700m" } });
        let container = json!({ "name": "c", "image": "i", "resources": resources });
        typed(json!({ "metadata": { "name": name }, "spec": { "containers": [container] } }))
    };
    pods.create(&PostParams::default(), &pod("a"))
        .await
        .unwrap();
    let message = |name: &'static str| {
        let pods = pods.clone();
        async move {
            let status = pods.get(name).await.unwrap().status?;
            let condition = status
                .conditions?
                .into_iter()
                .find(|c| c.type_ == "PodScheduled")?;
            (condition.reason.as_deref() == Some("Unschedulable")).then_some(condition.message?)
        }
    };
    let why = until("a is refused", || message("a")).await;
    assert_eq!(why, "no nodes available to schedule pods");
    world.node("1").await;
    until("a is bound", || async {
        pods.get("a").await.unwrap().spec?.node_name
    })
    .await;
    pods.create(&PostParams::default(), &pod("b"))
        .await
        .unwrap();
    let why = until("b is refused", || message("b")).await;
    let expected = "0/1 nodes are available: 1 Insufficient cpu. preemption: \
                    0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(why, expected);
    let events: Api<Event> = world.api();
    until("the event is there", || async {
        let events = events.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().find(|event| {
            event.reason.as_deref() == Some("FailedScheduling")
                && event.involved_object.name.as_deref() == Some("b")
                && event.message.as_deref() == Some(&why)
        })
    })
    .await;
    pods.delete("a", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let node = until("b is bound", || async {
        pods.get("b").await.unwrap().spec?.node_name
    })
    .await;
    assert_eq!(node, "n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_tainted_node_when_they_bear_it_no_longer() {
    let world = start().await;
    world.node("4").await;
    let pods: Api<Pod> = world.api();
    let tolerates = |seconds: Option<i64>| {
        json!([{ "key": "k", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds }])
    };
    for (name, tolerations) in [
        ("never", json!([])),
        ("shortly", tolerates(Some(1))),
        ("long", tolerates(Some(3600))),
        ("always", tolerates(None)),
    ] {
        let pod = typed(json!({
            "metadata": { "name": name, "finalizers": ["test/held"] },
            "spec": { "containers": [{ "name": "c", "image": "demo/x:v1" }],
                      "tolerations": tolerations },
        }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
        until("it is bound", || async {
            pods.get(name).await.unwrap().spec?.node_name
        })
        .await;
    }
    let nodes: Api<Node> = Api::all(world.client.clone());
    let taint = async |taints: Value| {
        let patch = Patch::Strategic(json!({ "spec": { "taints": taints } }));
        let params = PatchParams::default();
        nodes.patch("n", &params, &patch).await.unwrap();
    };
    taint(json!([{ "key": "k", "value": "v", "effect": "NoExecute" }])).await;
    for name in ["never", "shortly"] {
        let pod = until("it is asked to go", || async {
            let pod = pods.get(name).await.unwrap();
            pod.metadata.deletion_timestamp.is_some().then_some(pod)
        })
        .await;
        let conditions = pod.status.unwrap().conditions.unwrap();
        let told = conditions.iter().find(|c| c.type_ == "DisruptionTarget");
        let reason = told.and_then(|told| told.reason.as_deref());
        assert_eq!(reason, Some("DeletionByTaintManager"), "{name}");
    }
    taint(json!([{ "$patch": "delete", "key": "k", "effect": "NoExecute" }])).await;
    let events: Api<Event> = world.api();
    until("the end of the countdown is told", || async {
        let events = events.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().find(|event| {
            event.message.as_deref() == Some("Cancelling deletion of Pod default/long")
        })
    })
    .await;
    for name in ["long", "always"] {
        let pod = pods.get(name).await.unwrap();
        assert!(pod.metadata.deletion_timestamp.is_none(), "{name} stays");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_owner_first_or_not_at_all_as_asked() {
    let world = start().await;
    let maps: Api<ConfigMap> = world.api();
    let create = async |name: &str, owner: Option<&ConfigMap>| {
        let owners = owner.map(|owner| {
            json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(),
                     "uid": owner.uid(), "blockOwnerDeletion": true }])
        });
        let map = typed(json!({ "metadata": { "name": name, "ownerReferences": owners } }));
        maps.create(&PostParams::default(), &map).await.unwrap()
    };
    let gone = |name: &'static str| {
        let maps = maps.clone();
        async move { maps.get_opt(name).await.unwrap().is_none().then_some(()) }
    };
    for (params, name, child, grandchild) in [
        (DeleteParams::background(), "b", "b-1", "b-2"),
        (DeleteParams::foreground(), "f", "f-1", "f-2"),
    ] {
        let owner = create(name, None).await;
        let dependent = create(child, Some(&owner)).await;
        create(grandchild, Some(&dependent)).await;
        maps.delete(name, &params).await.unwrap();
        for name in [name, child, grandchild] {
            until(&format!("{name} is gone"), || gone(name)).await;
        }
    }
    let owner = create("o", None).await;
    create("o-1", Some(&owner)).await;
    maps.delete("o", &DeleteParams::orphan()).await.unwrap();
    until("o is gone", || gone("o")).await;
    assert!(maps.get("o-1").await.unwrap().owner_references().is_empty());
    // An owner that never was: the dependent cannot stay.
    let mut never = owner.clone();
    never.metadata.uid = Some("0b5f7d6e-0000-4000-8000-000000000000".into());
    create("lost", Some(&never)).await;
    until("lost is gone", || gone("lost")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_own_each_other_in_a_circle_go_together() {
    let world = start().await;
    let maps: Api<ConfigMap> = world.api();
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let map = typed(json!({ "metadata": { "name": name } }));
        let made = maps.create(&PostParams::default(), &map).await.unwrap();
        uids.push((name, made.uid().unwrap()));
    }
    for (index, (name, _)) in uids.iter().enumerate() {
        let (owner, uid) = &uids[(index + 1) % uids.len()];
        let owner = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        });
        let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
        let patched = maps.patch(name, &PatchParams::default(), &patch).await;
        patched.unwrap();
    }
    maps.delete("a", &DeleteParams::foreground()).await.unwrap();
    until("the circle is gone", || async {
        let left = maps.list(&ListParams::default()).await.unwrap().items;
        let left = left.iter().filter(|map| map.name_any().len() == 1).count();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_goes_with_everything_in_it() {
    let world = start().await;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let namespace = typed(json!({ "metadata": { "name": "x" } }));
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "x");
    for name in ["a", "b"] {
        let map = typed(json!({ "metadata": { "name": name } }));
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let held = typed(json!({ "metadata": { "name": "held", "finalizers": ["test/held"] } }));
    maps.create(&PostParams::default(), &held).await.unwrap();
    namespaces
        .delete("x", &DeleteParams::default())
        .await
        .unwrap();
    until("only what is held is left", || async {
        let left = maps.list(&ListParams::default()).await.unwrap().items;
        (left.len() == 1 && left[0].name_any() == "held").then_some(())
    })
    .await;
    assert!(namespaces.get_opt("x").await.unwrap().is_some(), "it waits");
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    maps.patch("held", &PatchParams::default(), &free)
        .await
        .unwrap();
    until("the namespace is gone", || async {
        namespaces
            .get_opt("x")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pods_of_a_namespace_go_before_what_they_live_on() {
    let world = start().await;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let create = PostParams::default();
    let namespace = typed(json!({ "metadata": { "name": "y" } }));
    namespaces.create(&create, &namespace).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "y");
    let map = typed(json!({ "metadata": { "name": "settings" } }));
    maps.create(&create, &map).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "y");
    let pod = typed(json!({
        "metadata": { "name": "held", "finalizers": ["test/held"] },
        "spec": { "containers": [{ "name": "c", "image": "demo/x:v1" }] },
    }));
    until("a pod can be made", || async {
        pods.create(&create, &pod).await.ok()
    })
    .await;
    let delete = DeleteParams::default();
    namespaces.delete("y", &delete).await.unwrap();
    let told = until("the namespace tells what it waits for", || async {
        let status = namespaces.get("y").await.unwrap().status.unwrap();
        let conditions = status.conditions?;
        (status.phase.as_deref() == Some("Terminating")).then_some(conditions)
    })
    .await;
    let told = |kind: &str| {
        let found = told.iter().find(|condition| condition.type_ == kind);
        let found = found.unwrap_or_else(|| panic!("{kind} is told of"));
        (found.status.clone(), found.message.clone().unwrap())
    };
    let (status, _) = told("NamespaceDeletionContentFailure");
    assert_eq!(status, "False");
    let (status, words) = told("NamespaceContentRemaining");
    let remaining = "Some resources are remaining: pods. has 1 resource instances";
    assert_eq!((status.as_str(), words.as_str()), ("True", remaining));
    let (status, words) = told("NamespaceFinalizersRemaining");
    assert!(status == "True" && words.ends_with("test/held in 1 resource instances"));
    let pod = pods.get("held").await.unwrap();
    assert!(
        pod.metadata.deletion_timestamp.is_some(),
        "the pod is asked to go"
    );
    let map = maps.get("settings").await.unwrap();
    assert!(
        map.metadata.deletion_timestamp.is_none(),
        "its settings stay"
    );
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    pods.patch("held", &PatchParams::default(), &free)
        .await
        .unwrap();
    until("the namespace is gone", || async {
        let found = namespaces.get_opt("y").await.unwrap();
        found.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_that_are_killed_and_started_again_converge() {
    let store = Store::in_memory(eyot_apiserver::extract);
    let server = ApiServer::new(store, Options::default()).await.unwrap();
    let service = server.as_user(User::new("test", &["system:masters"]));
    let client = Client::new(service, "default");
    let stop = Arc::new(CancellationToken::new());
    let world = World {
        client: client.clone(),
        _stop: CancellationToken::new().drop_guard(),
    };
    world.node("64").await;
    world.kubelet("never");
    world.apply("i:1", 10).await;
    for round in 0..10 {
        // Aborted at whatever it does, as a kill would.
        let seen = stop.child_token();
        let task = tokio::spawn(eyot_control::run(
            clients(server.clone()),
            Watches::new(client.clone(), seen.clone()),
            eyot_control::Options::default(),
            (*stop).clone(),
        ));
        let pods: Api<Pod> = world.api();
        until("something happened", || async {
            let pods = pods.list(&ListParams::default()).await.unwrap().items;
            let bound = pods
                .iter()
                .filter(|p| p.spec.as_ref().unwrap().node_name.is_some());
            (bound.count() >= round.min(10)).then_some(())
        })
        .await;
        task.abort();
        seen.cancel();
        let _ = task.await;
        if round == 5 {
            world.apply("i:2", 10).await;
        }
    }
    tokio::spawn(eyot_control::run(
        clients(server),
        Watches::new(client, (*stop).clone()),
        eyot_control::Options::default(),
        (*stop).clone(),
    ));
    world.rolled_out("i:2", 10).await;
    let sets: Api<ReplicaSet> = world.api();
    let sets = sets.list(&ListParams::default()).await.unwrap().items;
    let total: i32 = sets
        .iter()
        .map(|set| set.spec.as_ref().unwrap().replicas.unwrap())
        .sum();
    assert_eq!((sets.len(), total), (2, 10));
    stop.cancel();
}

#[tokio::test]
async fn a_role_that_gathers_holds_what_others_offer_it() {
    use k8s_openapi::api::rbac::v1::ClusterRole;
    let world = start().await;
    let roles: Api<ClusterRole> = Api::all(world.client.clone());
    let offered = json!({
        "metadata": {
            "name": "widget-viewer",
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
        },
        "rules": [{"apiGroups": ["x.test"], "resources": ["widgets"], "verbs": ["get"]}],
    });
    let holds = |role: ClusterRole| {
        let rules = role.rules.unwrap_or_default();
        rules
            .iter()
            .any(|rule| rule.api_groups.as_deref() == Some(&["x.test".to_owned()]))
    };
    roles
        .create(&PostParams::default(), &typed(offered))
        .await
        .unwrap();
    // Through `view` it reaches those that gather `view`.
    for name in ["view", "edit", "admin"] {
        until(name, async || {
            roles
                .get(name)
                .await
                .ok()
                .filter(|role| holds(role.clone()))
        })
        .await;
    }
    roles
        .delete("widget-viewer", &DeleteParams::default())
        .await
        .unwrap();
    for name in ["view", "edit", "admin"] {
        until(name, async || {
            roles
                .get(name)
                .await
                .ok()
                .filter(|role| !holds(role.clone()))
        })
        .await;
    }
}

/// A request of a node for a certificate as a client, in PEM and that in base64.
fn node_request() -> Value {
    use base64::Engine;
    let mut params = rcgen::CertificateParams::default();
    let name = &mut params.distinguished_name;
    name.push(rcgen::DnType::CommonName, "system:node:n");
    name.push(rcgen::DnType::OrganizationName, "system:nodes");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    base64::engine::general_purpose::STANDARD.encode(pem).into()
}

#[tokio::test]
async fn a_certificate_is_approved_by_right_signed_and_refused_with_a_reason() {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let authority = eyot_control::Authority::new(&ca, &key.serialize_pem()).unwrap();
    let world = start_with(eyot_control::Options {
        authority: Some(Arc::new(authority)),
        ..eyot_control::Options::default()
    })
    .await;
    let requests: Api<CertificateSigningRequest> = Api::all(world.client.clone());
    let request = |name: &str, signer: &str, usages: Value| -> CertificateSigningRequest {
        typed(json!({"metadata": {"name": name}, "spec": {
            "request": node_request(), "signerName": signer, "usages": usages,
        }}))
    };
    let status = async |name: &str| requests.get(name).await.unwrap().status.unwrap_or_default();

    // The test is a master, and may have any.
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let asked = request("node", signer, json!(["digital signature", "client auth"]));
    let params = PostParams::default();
    requests.create(&params, &asked).await.unwrap();
    let signed = until("the certificate of a node", async || {
        let status = status("node").await;
        status.certificate.is_some().then_some(status)
    })
    .await;
    assert!(
        signed
            .certificate
            .unwrap()
            .0
            .starts_with(b"-----BEGIN CERTIFICATE-----\n")
    );
    let why = &signed.conditions.unwrap()[0];
    assert_eq!(
        (&*why.type_, why.reason.as_deref()),
        ("Approved", Some("AutoApproved"))
    );

    let signer = "kubernetes.io/kubelet-serving";
    let asked = request("door", signer, json!(["digital signature", "server auth"]));
    requests.create(&params, &asked).await.unwrap();
    let approve = Patch::Merge(json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Test"},
    ]}}));
    let plain = PatchParams::default();
    let patched = requests.patch_approval("door", &plain, &approve).await;
    patched.unwrap();
    let failed = until("the refusal", async || {
        let conditions = status("door").await.conditions.unwrap_or_default();
        conditions.into_iter().find(|one| one.type_ == "Failed")
    })
    .await;
    assert_eq!(failed.reason.as_deref(), Some("SignerValidationFailure"));
    let why = "DNS or IP subjectAltName is required";
    assert_eq!(failed.message.as_deref(), Some(why));
}

#[tokio::test]
async fn a_range_stays_while_a_service_has_an_address_of_it() {
    let world = start().await;
    let ranges: Api<ServiceCIDR> = Api::all(world.client.clone());
    let range = typed(json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.1.0.0/24"]}}));
    let params = PostParams::default();
    ranges.create(&params, &range).await.unwrap();
    let ready = async |status: &str| {
        let range = ranges.get("r").await.unwrap();
        let conditions = range.status.unwrap_or_default().conditions;
        let mut conditions = conditions.unwrap_or_default().into_iter();
        conditions.find(|one| one.type_ == "Ready" && one.status == status)
    };
    until("the range to be ready", || ready("True")).await;
    let held = ranges.get("r").await.unwrap().metadata.finalizers;
    assert_eq!(held.unwrap(), ["networking.k8s.io/service-cidr-finalizer"]);
    let services: Api<Service> = world.api();
    let service = typed(json!({"metadata": {"name": "s"}, "spec": {
        "clusterIP": "10.1.0.9", "ports": [{"port": 80}],
    }}));
    services.create(&params, &service).await.unwrap();
    ranges.delete("r", &DeleteParams::default()).await.unwrap();
    let told = until("the range to say why it stays", || ready("False")).await;
    assert_eq!(told.reason, "Terminating");
    services
        .delete("s", &DeleteParams::default())
        .await
        .unwrap();
    until("the range to go", async || {
        ranges.get_opt("r").await.unwrap().is_none().then_some(())
    })
    .await;
}
