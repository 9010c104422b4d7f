//! What makes no sense, or can never be: it is said in Kubernetes' words, nothing else breaks, and
//! nobody runs hot over it.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    batch::v1::{CronJob, Job},
    core::v1::{ConfigMap, Event, Namespace, Node, Pod, ResourceQuota},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{World, start, typed, until};

impl World {
    async fn replica_set(&self, name: &str, replicas: i32) {
        let set: Value = json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": "shared"}},
                "template": {
                    "metadata": {"labels": {"app": "shared"}},
                    "spec": {"containers": [{"name": "c", "image": "i:1"}]},
                },
            },
        });
        let sets: Api<ReplicaSet> = self.api();
        sets.create(&PostParams::default(), &typed(set))
            .await
            .unwrap();
    }

    /// Wait until the set has so many pods that work.
    async fn has(&self, name: &str, replicas: i32) {
        let sets: Api<ReplicaSet> = self.api();
        until(&format!("{name} has {replicas} pods"), || async {
            let status = sets.get(name).await.unwrap().status.unwrap_or_default();
            let works = status.available_replicas.unwrap_or(0);
            (status.replicas == replicas && works == replicas).then_some(())
        })
        .await;
    }

    /// The message of the event with this reason about what is so named.
    async fn told(&self, name: &str, reason: &str) -> String {
        let events: Api<Event> = self.api();
        until(&format!("{name} has event {reason}"), || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            let mut all = all.items.into_iter();
            let about = |event: &Event| {
                let named = event.involved_object.name.as_deref() == Some(name);
                named && event.reason.as_deref() == Some(reason)
            };
            all.find(about).and_then(|event| event.message)
        })
        .await
    }

    async fn job(&self, name: &str, more: Value) {
        let mut job = json!({
            "metadata": {"name": name},
            "spec": {"template": {"spec": {"restartPolicy": "Never",
                "nodeSelector": {"no": "where"}, "containers": [{"name": "c", "image": "i"}]}}},
        });
        for (key, value) in more.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        let jobs: Api<Job> = self.api();
        jobs.create(&PostParams::default(), &typed(job))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_that_select_each_others_pods_keep_their_own() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    for name in ["one", "two"] {
        world.replica_set(name, 2).await;
    }
    for name in ["one", "two"] {
        world.has(name, 2).await;
    }
    world.comes_to_rest().await;
    let mut owners: Vec<String> = world
        .pods()
        .await
        .iter()
        .map(|pod| pod.owner_references()[0].name.clone())
        .collect();
    owners.sort();
    assert_eq!(owners, ["one", "one", "two", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_below_what_is_used_takes_nothing_away_and_gives_nothing() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    world.replica_set("one", 3).await;
    world.has("one", 3).await;
    let quotas: Api<ResourceQuota> = world.api();
    let quota = typed(json!({"metadata": {"name": "low"}, "spec": {"hard": {"pods": "1"}}}));
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    until("the quota knows what is used", || async {
        let status = quotas.get("low").await.unwrap().status?;
        (status.used?.get("pods")?.0 == "3").then_some(())
    })
    .await;
    let pods: Api<Pod> = world.api();
    let victim = world.pods().await[0].name_any();
    pods.delete(&victim, &DeleteParams::default())
        .await
        .unwrap();
    let sets: Api<ReplicaSet> = world.api();
    let why = until("the set says why it lacks one", || async {
        let status = sets.get("one").await.unwrap().status?;
        let failure = status.conditions?.into_iter();
        let mut failure = failure.filter(|one| one.type_ == "ReplicaFailure");
        let failure = failure.next()?;
        (failure.status == "True" && failure.reason.as_deref() == Some("FailedCreate"))
            .then_some(failure.message)?
    })
    .await;
    assert!(why.contains("exceeded quota: low"), "{why}");
    world.has("one", 2).await;
    quotas
        .delete("low", &DeleteParams::default())
        .await
        .unwrap();
    world.has("one", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_can_never_finish_end_when_they_must_or_rest() {
    let world = start().await;
    world.node("8").await;
    let jobs: Api<Job> = world.api();
    // Nobody may run, nobody is where it would fit, and nobody may be made.
    world.job("none", json!({"parallelism": 0})).await;
    world.job("nowhere", json!({})).await;
    let template = json!({"spec": {"restartPolicy": "Never", "serviceAccountName": "absent",
        "containers": [{"name": "c", "image": "i"}]}});
    world.job("refused", json!({"template": template})).await;
    world.job("late", json!({"activeDeadlineSeconds": 1})).await;
    let failed = until("the deadline is over", || async {
        let conditions = jobs.get("late").await.unwrap().status?.conditions?;
        conditions.into_iter().find(|one| one.type_ == "Failed")
    })
    .await;
    assert_eq!(failed.reason.as_deref(), Some("DeadlineExceeded"));
    let why = "Job was active longer than specified deadline";
    assert_eq!(failed.message.as_deref(), Some(why));
    let why = world.told("refused", "FailedCreate").await;
    let expected = "error looking up service account default/absent: \
                    serviceaccount \"absent\" not found";
    assert!(why.contains(expected), "{why}");
    let active = until("the job has a pod that waits", || async {
        jobs.get("nowhere").await.unwrap().status?.active
    })
    .await;
    assert_eq!(active, 1);
    let before = jobs.get("none").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = jobs.get("none").await.unwrap();
    assert_eq!(before.resource_version(), after.resource_version());
    assert_eq!(after.status.unwrap().active, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_never_comes_is_said_and_not_waited_for() {
    let world = start().await;
    let crons: Api<CronJob> = world.api();
    let cron = typed(json!({
        "metadata": {"name": "never"},
        "spec": {"schedule": "0 0 30 2 *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}},
    }));
    crons.create(&PostParams::default(), &cron).await.unwrap();
    let why = world.told("never", "InvalidSchedule").await;
    let expected = "invalid schedule: 0 0 30 2 * : \
                    time difference between two schedules is less than 1 second";
    assert_eq!(why, expected);
    world.comes_to_rest().await;
    let events: Api<Event> = world.api();
    let all = events.list(&ListParams::default()).await.unwrap().items;
    let about = all
        .iter()
        .filter(|event| event.involved_object.name.as_deref() == Some("never"));
    let times: i32 = about.map(|event| event.count.unwrap_or(1)).sum();
    assert!(times <= 2, "it is said again and again: {times}");
    // Mended, it has a next time.
    let mended = Patch::Merge(json!({"spec": {"schedule": "@every 1s"}}));
    crons
        .patch("never", &PatchParams::default(), &mended)
        .await
        .unwrap();
    until("a job", || async {
        let jobs: Api<Job> = world.api();
        jobs.list(&ListParams::default()).await.unwrap().items.pop()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finalizer_that_nobody_removes_is_named_and_waited_for_in_peace() {
    let world = start().await;
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let create = PostParams::default();
    let namespace = typed(json!({"metadata": {"name": "stuck"}}));
    namespaces.create(&create, &namespace).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "stuck");
    let held = typed(json!({"metadata": {"name": "held", "finalizers": ["test/held"]}}));
    maps.create(&create, &held).await.unwrap();
    namespaces
        .delete("stuck", &DeleteParams::default())
        .await
        .unwrap();
    let condition = async |kind: &str| {
        until(&format!("the namespace says {kind}"), || async {
            let status = namespaces.get("stuck").await.unwrap().status?;
            let mut all = status.conditions?.into_iter();
            all.find(|one| one.type_ == kind && one.status == "True")
        })
        .await
    };
    let remaining = condition("NamespaceFinalizersRemaining").await;
    assert_eq!(remaining.reason.as_deref(), Some("SomeFinalizersRemain"));
    let expected = "Some content in the namespace has finalizers remaining: \
                    test/held in 1 resource instances";
    assert_eq!(remaining.message.as_deref(), Some(expected));
    let content = condition("NamespaceContentRemaining").await;
    assert_eq!(content.reason.as_deref(), Some("SomeResourcesRemain"));
    let expected = "Some resources are remaining: configmaps. has 1 resource instances";
    assert_eq!(content.message.as_deref(), Some(expected));
    world.comes_to_rest().await;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &free)
        .await
        .unwrap();
    until("the namespace is gone", || async {
        let found = namespaces.get_opt("stuck").await.unwrap();
        found.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn affinity_that_cannot_be_met_is_named_and_the_pod_waits_in_peace() {
    let world = start().await;
    world.node("8").await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    until("the node's first taint is lifted", || async {
        let all = nodes.list(&ListParams::default()).await.unwrap().items;
        let is_free = |node: &Node| node.spec.as_ref().is_none_or(|spec| spec.taints.is_none());
        all.iter().all(is_free).then_some(())
    })
    .await;
    let near = |kind: &str| {
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "nobody"}}}]}})
    };
    let where_ = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "disk", "operator": "In", "values": ["none"]}]}]}}});
    let pods: Api<Pod> = world.api();
    for (name, affinity, why) in [
        (
            "where",
            where_,
            "node(s) didn't match Pod's node affinity/selector",
        ),
        (
            "near",
            near("podAffinity"),
            "node(s) didn't match pod affinity rules",
        ),
    ] {
        let pod = typed(json!({
            "metadata": {"name": name},
            "spec": {"affinity": affinity, "containers": [{"name": "c", "image": "i"}]},
        }));
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let expected = format!(
            "0/1 nodes are available: 1 {why}. preemption: 0/1 nodes are available: \
             1 Preemption is not helpful for scheduling."
        );
        assert_eq!(world.told(name, "FailedScheduling").await, expected);
        let waits = until("the pod says so too", || async {
            let conditions = pods.get(name).await.unwrap().status?.conditions?;
            conditions
                .into_iter()
                .find(|one| one.type_ == "PodScheduled")
        })
        .await;
        assert_eq!(waits.status, "False");
        assert_eq!(waits.reason.as_deref(), Some("Unschedulable"));
        assert_eq!(waits.message.as_deref(), Some(expected.as_str()));
    }
    world.comes_to_rest().await;
}
