//! What makes no sense, or can never be: it is said in Kubernetes' words, nothing else breaks, and
//! nobody runs hot over it.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, ResourceQuota},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
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

    /// Everything that the sets and their pods were when they were last written.
    async fn versions(&self) -> Vec<Option<String>> {
        let sets: Api<ReplicaSet> = self.api();
        let sets = sets.list(&Default::default()).await.unwrap();
        let pods = self.pods().await;
        let sets = sets.iter().map(ResourceExt::resource_version);
        sets.chain(pods.iter().map(ResourceExt::resource_version))
            .collect()
    }

    /// Wait until nobody writes for a while.
    async fn is_idle(&self) {
        until("nothing is written any more", || async {
            let before = self.versions().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            (before == self.versions().await).then_some(())
        })
        .await;
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
    world.is_idle().await;
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
