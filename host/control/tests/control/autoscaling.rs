//! HorizontalPodAutoscalers against the real API: scales of all sorts, and requests per second as a
//! node's kubelet tells them.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use eyot_apiserver::{Kubelet, Nodes};
use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Event, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{
        ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    },
};
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;

use super::{World, start, start_on, typed, until};

/// A kubelet that tells how many requests per second each pod gets, by the pod's uid.
#[derive(Default)]
struct Busy(Mutex<Vec<(String, f64)>>);

impl Nodes for Busy {
    fn kubelet(&self, _node: &str) -> Option<Kubelet> {
        let pods = self.0.lock().unwrap().clone();
        let pods = pods.into_iter().map(|(uid, rate)| {
            let metric = json!({
                "name": "http_requests_per_second", "type": "gauge",
                "time": jiff::Timestamp::now().to_string(), "value": rate,
            });
            json!({"podRef": {"uid": uid}, "containers": [
                {"name": "c", "userDefinedMetrics": [metric]}]})
        });
        let summary = json!({"pods": pods.collect::<Vec<_>>()});
        let service = tower::service_fn(move |_| {
            let answer = eyot_http::json(http::StatusCode::OK, &summary);
            async move { Ok::<_, Infallible>(answer) }
        });
        Some(BoxCloneSyncService::new(service))
    }
}

impl World {
    async fn autoscale(&self, name: &str, target: Value, more: Value) {
        let mut spec = json!({"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let hpa = typed(json!({"metadata": {"name": name}, "spec": spec}));
        let hpas: Api<HorizontalPodAutoscaler> = self.api();
        hpas.create(&PostParams::default(), &hpa).await.unwrap();
    }

    /// The status of a condition of the autoscaler and its reason, once it is this.
    async fn says(&self, name: &str, kind: &str, expected: &str) -> String {
        let hpas: Api<HorizontalPodAutoscaler> = self.api();
        until(&format!("{name} says {kind}={expected}"), || async {
            let status = hpas.get_status(name).await.unwrap().status?;
            let all = status.conditions.unwrap_or_default().into_iter();
            let found = all.filter(|one| one.type_ == kind).find(|one| {
                let reason = one.reason.as_deref().unwrap_or_default();
                format!("{} {reason}", one.status) == expected
            });
            found.and_then(|one| one.message)
        })
        .await
    }

    async fn event(&self, name: &str, reason: &str) -> String {
        let events: Api<Event> = self.api();
        until(&format!("{name} has event {reason}"), || async {
            let all = events.list(&ListParams::default()).await.unwrap();
            let found = all.into_iter().find(|one| {
                one.involved_object.name.as_deref() == Some(name)
                    && one.reason.as_deref() == Some(reason)
            });
            found.and_then(|one| one.message)
        })
        .await
    }
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_follows_the_requests_that_its_pods_get() {
    let busy = Arc::new(Busy::default());
    let options = eyot_apiserver::Options {
        nodes: busy.clone(),
        serves_usage: true,
        ..eyot_apiserver::Options::default()
    };
    let world = start_on(options, eyot_control::Options::default()).await;
    world.node("8").await;
    world.kubelet("never");
    world.apply("i:1", 2).await;
    world.rolled_out("i:1", 2).await;
    let pods: Vec<Pod> = world.pods().await;
    *busy.0.lock().unwrap() = pods.iter().map(|pod| (pod.uid().unwrap(), 40.0)).collect();
    let metrics = json!([{"type": "Pods", "pods": {
        "metric": {"name": "http_requests_per_second"},
        "target": {"type": "AverageValue", "averageValue": "20"},
    }}]);
    world
        .autoscale("web", deployment("web"), json!({"metrics": metrics}))
        .await;
    world.rolled_out("i:1", 4).await;
    let why = "New size: 4; reason: pods metric http_requests_per_second above target";
    assert_eq!(world.event("web", "SuccessfulRescale").await, why);
    world
        .says("web", "ScalingActive", "True ValidMetricFound")
        .await;
    let hpas: Api<HorizontalPodAutoscaler> = world.api();
    let status = until("its status tells what was measured", || async {
        let status = hpas.get_status("web").await.unwrap().status?;
        (status.desired_replicas == 4).then_some(status)
    })
    .await;
    assert!(status.last_scale_time.is_some());
    let current = serde_json::to_value(status.current_metrics).unwrap();
    assert_eq!(current[0]["pods"]["current"]["averageValue"], "40");
    // Another one of the same pods is one too many, and both say so.
    world.autoscale("twin", deployment("web"), json!({})).await;
    let said = world
        .says("twin", "ScalingActive", "False AmbiguousSelector")
        .await;
    assert_eq!(
        said,
        "pods by selector app=web are controlled by multiple HPAs: [default/twin default/web]"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_scaled_or_measured_is_said() {
    let world = start().await;
    world.node("8").await;
    world.kubelet("never");
    world.autoscale("lost", deployment("lost"), json!({})).await;
    let said = world
        .says("lost", "AbleToScale", "False FailedGetScale")
        .await;
    assert_eq!(
        said,
        "the HPA controller was unable to get the target's current scale: deployments.apps \
         \"lost\" not found"
    );
    let odd = json!({"apiVersion": "odd.test/v1", "kind": "Odd", "name": "x"});
    world.autoscale("odd", odd, json!({})).await;
    let said = world.event("odd", "FailedGetScale").await;
    assert_eq!(said, "no matches for kind \"Odd\" in group \"odd.test\"");
    world.apply("i:1", 1).await;
    world.rolled_out("i:1", 1).await;
    world.autoscale("web", deployment("web"), json!({})).await;
    let said = world
        .says("web", "ScalingActive", "False FailedGetResourceMetric")
        .await;
    assert!(
        said.starts_with(
            "the HPA was unable to compute the replica count: failed to get cpu utilization: unable \
             to get metrics for resource cpu: unable to fetch metrics from resource metrics API: "
        ),
        "{said}"
    );
    world.event("web", "FailedComputeMetricsReplicas").await;
    // Out of its bounds it is brought in though nothing is measured.
    let hpas: Api<HorizontalPodAutoscaler> = world.api();
    let more = Patch::Merge(json!({"spec": {"minReplicas": 3}}));
    hpas.patch("web", &PatchParams::default(), &more)
        .await
        .unwrap();
    world.rolled_out("i:1", 3).await;
    let why = "New size: 3; reason: Current number of replicas below Spec.MinReplicas";
    assert_eq!(world.event("web", "SuccessfulRescale").await, why);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custom_resource_is_scaled_by_its_scale() {
    let world = start().await;
    let names = json!({"kind": "Ox", "listKind": "OxList", "plural": "oxen", "singular": "ox"});
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition: CustomResourceDefinition = typed(json!({
        "metadata": {"name": "oxen.farm.test"},
        "spec": {"group": "farm.test", "scope": "Namespaced", "names": names, "versions": [{
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
        }]},
    }));
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .unwrap();
    let kind = GroupVersionKind::gvk("farm.test", "v1", "Ox");
    let oxen = ApiResource::from_gvk_with_plural(&kind, "oxen");
    let oxen: Api<DynamicObject> = Api::default_namespaced_with(world.client.clone(), &oxen);
    let ox: DynamicObject = typed(json!({
        "apiVersion": "farm.test/v1", "kind": "Ox", "metadata": {"name": "ox"},
        "spec": {"replicas": 9},
    }));
    until("the definition is served", || async {
        oxen.create(&PostParams::default(), &ox).await.ok()
    })
    .await;
    let target = json!({"apiVersion": "farm.test/v1", "kind": "Ox", "name": "ox"});
    world.autoscale("ox", target, json!({})).await;
    let scaled = until("it has the most that it may have", || async {
        let ox = oxen.get("ox").await.unwrap();
        (ox.data["spec"]["replicas"] == 5).then_some(ox)
    })
    .await;
    assert_eq!(scaled.meta().name.as_deref(), Some("ox"));
    let more = Patch::Merge(json!({"spec": {"maxReplicas": 6}}));
    let hpas: Api<HorizontalPodAutoscaler> = world.api();
    hpas.patch("ox", &PatchParams::default(), &more)
        .await
        .unwrap();
    world
        .says("ox", "ScalingActive", "False InvalidSelector")
        .await;
    assert_eq!(
        world.event("ox", "SelectorRequired").await,
        "selector is required"
    );
}
