//! Endpoints and EndpointSlices against the real API.

use k8s_openapi::api::{
    core::v1::{Endpoints, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{World, start, typed, until};

async fn slices(world: &World, of: &str) -> Vec<EndpointSlice> {
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={of}"));
    world.api().list(&params).await.unwrap().items
}

async fn ready_pod(world: &World, name: &str, ip: &str) {
    let pods: Api<Pod> = world.api();
    let pod = typed(json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [
            {"name": "c", "image": "i", "ports": [{"name": "www", "containerPort": 8080}]}]},
    }));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let status = json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }});
    let patch = Patch::Strategic(status);
    pods.patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_finds_its_pods_and_nothing_is_written_once_it_does() {
    let world = start().await;
    world.node("8").await;
    let services: Api<Service> = world.api();
    let service = typed(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "www"}]},
    }));
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    until("an empty slice", || async {
        let found = slices(&world, "web").await;
        (found.len() == 1).then_some(())
    })
    .await;
    ready_pod(&world, "a", "10.1.0.1").await;
    ready_pod(&world, "b", "10.1.0.2").await;
    let endpoints: Api<Endpoints> = world.api();
    let versions = until("both pods in slice and endpoints", || async {
        let found = slices(&world, "web").await;
        let old = endpoints.get("web").await.unwrap();
        let in_slice = found[0].endpoints.iter().flatten();
        let ready = in_slice.filter(|e| e.conditions.as_ref().unwrap().ready == Some(true));
        let subset = old.subsets.as_ref()?.first()?;
        let both = ready.count() == 2 && subset.addresses.as_ref()?.len() == 2;
        let port = found[0].ports.as_ref()?.first()?.port;
        (both && port == Some(8080) && subset.ports.as_ref()?[0].port == 8080)
            .then(|| (found[0].resource_version(), old.resource_version()))
    })
    .await;
    // Something else of the Service changes: nothing has to be written.
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    services
        .patch("web", &PatchParams::default(), &patch)
        .await
        .unwrap();
    // What is written after that change has been seen comes after it.
    let pods: Api<Pod> = world.api();
    let second = typed(json!({
        "metadata": {"name": "other"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }));
    services
        .create(&PostParams::default(), &second)
        .await
        .unwrap();
    until("the later Service has its slice", || async {
        (slices(&world, "other").await.len() == 1).then_some(())
    })
    .await;
    let now = (
        slices(&world, "web").await[0].resource_version(),
        endpoints.get("web").await.unwrap().resource_version(),
    );
    assert_eq!(now, versions);
    pods.delete("a", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    until("one pod is left", || async {
        let found = slices(&world, "web").await;
        (found[0].endpoints.as_ref()?.len() == 1).then_some(())
    })
    .await;
    services
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    until("slices and endpoints go with the Service", || async {
        let left = slices(&world, "web").await.len();
        let old = endpoints.get_opt("web").await.unwrap();
        (left == 0 && old.is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_written_by_hand_are_mirrored_and_stay_as_they_are() {
    let world = start().await;
    let services: Api<Service> = world.api();
    let endpoints: Api<Endpoints> = world.api();
    let by_hand = typed(json!({
        "metadata": {"name": "db", "labels": {"a": "b"}},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}],
    }));
    let written = endpoints
        .create(&PostParams::default(), &by_hand)
        .await
        .unwrap();
    let service = typed(json!({
        "metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]},
    }));
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    let slice = until("the mirror", || async { slices(&world, "db").await.pop() }).await;
    assert_eq!(slice.labels()["a"], "b");
    assert_eq!(
        slice.labels()["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
    assert_eq!(slice.owner_references()[0].kind, "Endpoints");
    let found = endpoints.get("db").await.unwrap();
    assert_eq!(found.resource_version(), written.resource_version());
    let skip = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}});
    endpoints
        .patch("db", &PatchParams::default(), &Patch::Merge(skip))
        .await
        .unwrap();
    until("no mirror", || async {
        slices(&world, "db").await.is_empty().then_some(())
    })
    .await;
}
