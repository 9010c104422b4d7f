//! StatefulSets from their making to their end.

use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim};

use super::*;

async fn settled(sets: &Api<StatefulSet>, replicas: i32) -> StatefulSet {
    until(&format!("{replicas} members are there"), || async {
        let found = sets.get("db").await.unwrap();
        let status = found.status.clone().unwrap_or_default();
        (status.observed_generation == found.metadata.generation
            && status.current_revision == status.update_revision
            && status.replicas == replicas
            && status.updated_replicas == Some(replicas)
            && status.available_replicas == Some(replicas))
        .then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_update_and_go_in_order_with_their_claims() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    let sets: Api<StatefulSet> = world.api();
    let claims: Api<PersistentVolumeClaim> = world.api();
    for name in ["a", "b", "c"] {
        world.volume(name, json!({})).await;
    }
    let storage = json!({ "accessModes": ["ReadWriteOnce"],
                          "resources": { "requests": { "storage": "1Mi" } } });
    let set = typed(json!({
        "metadata": { "name": "db" },
        "spec": {
            "replicas": 3, "serviceName": "peers",
            "selector": { "matchLabels": { "app": "db" } },
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain", "whenScaled": "Delete" },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": storage }],
            "template": {
                "metadata": { "labels": { "app": "db" } },
                "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
            },
        },
    }));
    sets.create(&PostParams::default(), &set).await.unwrap();
    settled(&sets, 3).await;
    let born = |pod: &Pod| pod.metadata.resource_version.clone();
    let names = |pods: &[Pod]| pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    assert_eq!(names(&world.pods().await), ["db-0", "db-1", "db-2"]);
    let labels = world.pods().await[2].labels().clone();
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "2");
    assert_eq!(
        claims
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        3
    );

    let container = json!([{ "name": "c", "image": "i:2" }]);
    let patch = json!({ "spec": { "template": { "spec": { "containers": container } } } });
    let params = PatchParams::default();
    let first = world.pods().await;
    sets.patch("db", &params, &Patch::Strategic(patch))
        .await
        .unwrap();
    settled(&sets, 3).await;
    let second = world.pods().await;
    assert_eq!(names(&second), ["db-0", "db-1", "db-2"]);
    assert!(
        first
            .iter()
            .zip(&second)
            .all(|(a, b)| a.uid() != b.uid() && born(a) != born(b))
    );

    let patch = Patch::Merge(json!({ "spec": { "replicas": 1 } }));
    sets.patch("db", &params, &patch).await.unwrap();
    let before = settled(&sets, 1).await;
    assert_eq!(names(&world.pods().await), ["db-0"]);
    until("the claims of those that went are gone", || async {
        let left = claims.list(&ListParams::default()).await.unwrap().items;
        (left.len() == 1).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = sets.get("db").await.unwrap();
    assert_eq!(
        before.resource_version(),
        after.resource_version(),
        "idle once settled"
    );
}
