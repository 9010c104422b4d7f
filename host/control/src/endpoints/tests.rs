use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let mut service = json!({
        "metadata": {"name": "web", "namespace": "d", "labels": {"team": "a"}},
        "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "targetPort": "www"},
                           {"name": "dns", "port": 53, "protocol": "UDP"}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    serde_json::from_value(service).unwrap()
}

fn pod(number: usize, ready: bool, leaving: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    let leaving = leaving.then_some("2026-01-01T00:00:00Z");
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("p{number}"), "namespace": "d", "uid": format!("u{number}"),
                         "labels": {"app": "web"}, "deletionTimestamp": leaving},
            "spec": {"nodeName": "n", "containers": [
                {"name": "c", "ports": [{"name": "www", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", number / 256, number % 256),
                       "conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap(),
    )
}

#[test]
fn endpoints_name_ready_and_unready_pods_and_are_written_once() {
    let pods = [
        pod(2, false, false),
        pod(1, true, false),
        pod(3, true, true),
    ];
    let written = plan(&service(json!({})), &pods, None).unwrap();
    let expected = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "d", "labels": {
            "team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}},
        "subsets": [{
            "addresses": [{"ip": "10.1.0.1", "nodeName": "n", "targetRef": {
                "kind": "Pod", "namespace": "d", "name": "p1", "uid": "u1"}}],
            "notReadyAddresses": [{"ip": "10.1.0.2", "nodeName": "n", "targetRef": {
                "kind": "Pod", "namespace": "d", "name": "p2", "uid": "u2"}}],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"},
                      {"name": "http", "port": 8080, "protocol": "TCP"}],
        }],
    });
    assert_eq!(serde_json::to_value(&written).unwrap(), expected);
    assert_eq!(plan(&service(json!({})), &pods, Some(&written)), None);
    // Nobody left: the object stays, without subsets.
    let empty = plan(&service(json!({})), &[], Some(&written)).unwrap();
    assert_eq!(empty.subsets, None);
}

#[test]
fn who_publishes_addresses_that_are_not_ready_has_all_of_them_ready() {
    let pods = [pod(1, false, false), pod(2, true, true)];
    let everyone = service(json!({"publishNotReadyAddresses": true}));
    let subsets = plan(&everyone, &pods, None).unwrap().subsets.unwrap();
    assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 2);
    assert_eq!(subsets[0].not_ready_addresses, None);
}

#[test]
fn a_headless_service_without_ports_has_addresses_without_ports() {
    let bare = service(json!({"clusterIP": "None", "ports": null}));
    let written = plan(&bare, &[pod(1, true, false)], None).unwrap();
    let subset = &written.subsets.unwrap()[0];
    assert_eq!(subset.ports, None);
    assert_eq!(subset.addresses.as_ref().unwrap().len(), 1);
    assert_eq!(written.metadata.labels.unwrap()[service::HEADLESS], "");
}

#[test]
fn too_many_addresses_are_cut_unready_ones_first_and_that_is_said() {
    let mut pods: Vec<_> = (0..1010).map(|n| pod(n, n % 2 == 0, false)).collect();
    let written = plan(&service(json!({})), &pods, None).unwrap();
    let subset = &written.subsets.as_ref().unwrap()[0];
    let count = |list: &Option<Vec<_>>| list.as_ref().unwrap().len();
    assert_eq!(
        (count(&subset.addresses), count(&subset.not_ready_addresses)),
        (505, 495)
    );
    assert_eq!(
        written.metadata.annotations.as_ref().unwrap()[OVER_CAPACITY],
        "truncated"
    );
    pods.truncate(10);
    let later = plan(&service(json!({})), &pods, Some(&written)).unwrap();
    assert_eq!(later.metadata.annotations, None);
}
