//! Disruption budgets and evictions against the real API.

use k8s_openapi::api::{
    core::v1::Pod,
    policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
};
use kube::{
    Api, ResourceExt,
    api::{EvictParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{start, typed, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_wait_until_the_pods_that_went_are_replaced() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    world.apply("i:1", 3).await;
    world.rolled_out("i:1", 3).await;
    let budgets: Api<PodDisruptionBudget> = world.api();
    let budget = typed(json!({
        "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}},
    }));
    budgets
        .create(&PostParams::default(), &budget)
        .await
        .unwrap();
    // Expected, desired, healthy, allowed.
    let counted = |expected: [i32; 4]| {
        let budgets = budgets.clone();
        async move {
            let status: PodDisruptionBudgetStatus = budgets.get("web").await.unwrap().status?;
            let counts = [
                status.expected_pods,
                status.desired_healthy,
                status.current_healthy,
                status.disruptions_allowed,
            ];
            (counts == expected.map(Some)).then_some(())
        }
    };
    until("nothing is allowed", || counted([3, 3, 3, 0])).await;
    let pods: Api<Pod> = world.api();
    let victim = world.pods().await[0].clone();
    let params = EvictParams::default();
    match pods.evict(&victim.name_any(), &params).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 429),
        other => panic!("{other:?}"),
    }
    let one = Patch::Merge(json!({"spec": {"maxUnavailable": 1}}));
    budgets
        .patch("web", &PatchParams::default(), &one)
        .await
        .unwrap();
    until("one disruption is allowed", || counted([3, 2, 3, 1])).await;
    pods.evict(&victim.name_any(), &params).await.unwrap();
    until("it is gone", || async {
        let found = pods.get_opt(&victim.name_any()).await.unwrap();
        found
            .is_none_or(|found| found.uid() != victim.uid())
            .then_some(())
    })
    .await;
    until("another has taken its place", || counted([3, 2, 3, 1])).await;
    world.rolled_out("i:1", 3).await;
}
