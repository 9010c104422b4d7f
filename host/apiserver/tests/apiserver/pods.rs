//! What is special about pods, and the subresources.

use std::{convert::Infallible, sync::Arc};

use eyot_apiserver::{Kubelet, Nodes, Options};
use eyot_http::{Request, Response};
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;

use crate::{bytes, get, ok, pod, raw, send, server, server_with};

const PODS: &str = "/api/v1/namespaces/default/pods";

async fn bind(server: &eyot_apiserver::ApiServer, pod: &str, node: &str) -> (u16, Value) {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
        "target": {"kind": "Node", "name": node},
    });
    send(server, "POST", &format!("{PODS}/{pod}/binding"), binding).await
}

#[tokio::test]
async fn a_pod_is_bound_exactly_once() {
    let server = server().await;
    ok(&server, "POST", PODS, pod("a")).await;
    assert_eq!(bind(&server, "a", "n1").await.0, 201);
    let (code, status) = bind(&server, "a", "n2").await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let (_, bound) = get(&server, &format!("{PODS}/a")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c["type"] == "PodScheduled" && c["status"] == "True")
    );
    let path = format!("{PODS}?fieldSelector=spec.nodeName%3Dn1");
    assert_eq!(
        get(&server, &path).await.1["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_running_pod_gets_its_grace_period_and_the_node_ends_it() {
    let server = server().await;
    ok(&server, "POST", PODS, pod("a")).await;
    bind(&server, "a", "n1").await;
    let marked = ok(&server, "DELETE", &format!("{PODS}/a"), Value::Null).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let path = format!("{PODS}/a?gracePeriodSeconds=5");
    let shorter = ok(&server, "DELETE", &path, Value::Null).await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    ok(
        &server,
        "DELETE",
        &format!("{PODS}/a?gracePeriodSeconds=0"),
        Value::Null,
    )
    .await;
    assert_eq!(get(&server, &format!("{PODS}/a")).await.0, 404);
}

#[tokio::test]
async fn a_pod_that_no_node_runs_goes_at_once() {
    let server = server().await;
    ok(&server, "POST", PODS, pod("a")).await;
    ok(&server, "DELETE", &format!("{PODS}/a"), Value::Null).await;
    assert_eq!(get(&server, &format!("{PODS}/a")).await.0, 404);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = server().await;
    ok(&server, "POST", PODS, pod("a")).await;
    let both = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "sneaky"}});
    let pod = ok(&server, "PATCH", &format!("{PODS}/a/status"), both).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["spec"].get("nodeName"), None);
    let sneaky = json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"x": "y"}}});
    let pod = ok(&server, "PATCH", &format!("{PODS}/a"), sneaky).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["metadata"]["labels"]["x"], "y");
}

#[tokio::test]
async fn an_eviction_deletes_the_pod() {
    let server = server().await;
    ok(&server, "POST", PODS, pod("a")).await;
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "a", "namespace": "default"},
    });
    ok(&server, "POST", &format!("{PODS}/a/eviction"), eviction).await;
    assert_eq!(get(&server, &format!("{PODS}/a")).await.0, 404);
}

/// A node that tells what it was asked.
struct Echo;

impl Nodes for Echo {
    fn kubelet(&self, node: &str) -> Option<Kubelet> {
        let service = tower::service_fn(|request: Request| async move {
            Ok::<Response, Infallible>(eyot_http::text(
                http::StatusCode::OK,
                format!("asked {}", request.uri()),
            ))
        });
        (node == "n1").then(|| BoxCloneSyncService::new(service))
    }
}

#[tokio::test]
async fn logs_come_from_the_node_that_runs_the_pod() {
    let options = Options {
        nodes: Arc::new(Echo),
        ..Options::default()
    };
    let server = server_with(options).await;
    ok(&server, "POST", PODS, pod("a")).await;
    assert_eq!(
        get(&server, &format!("{PODS}/a/log")).await,
        (200, json!(""))
    );
    bind(&server, "a", "n1").await;
    let path = format!("{PODS}/a/log?container=c&follow=true&tailLines=5");
    let answer = raw(&server, "GET", &path, &[], "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        bytes(answer).await,
        "asked /containerLogs/default/a/c?follow=true&tailLines=5"
    );
    let (code, status) = get(&server, &format!("{PODS}/a/log?container=x")).await;
    assert_eq!(
        (code, &status["message"]),
        (400, &json!("container x is not valid for pod a"))
    );
    ok(&server, "POST", PODS, pod("b")).await;
    bind(&server, "b", "away").await;
    let (code, status) = get(&server, &format!("{PODS}/b/log")).await;
    assert_eq!(code, 503);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("node \"away\"")
    );
}

#[tokio::test]
async fn a_deployment_is_scaled_through_its_subresource() {
    let server = server().await;
    const PATH: &str = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "x"}]},
            },
        },
    });
    let made = ok(&server, "POST", PATH, deployment).await;
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["spec"]["replicas"], 1);
    let path = format!("{PATH}/web/scale");
    let scale = ok(&server, "PATCH", &path, json!({"spec": {"replicas": 3}})).await;
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"]),
        (&json!("Scale"), &json!(3))
    );
    assert_eq!(scale["status"]["selector"], "app=web");
    let (_, web) = get(&server, &format!("{PATH}/web")).await;
    assert_eq!(
        (&web["spec"]["replicas"], &web["metadata"]["generation"]),
        (&json!(3), &json!(2))
    );
    let (code, status) = send(&server, "PATCH", &path, json!({"spec": {"replicas": -1}})).await;
    assert_eq!(
        (code, &status["details"]["causes"][0]["field"]),
        (422, &json!("spec.replicas"))
    );
}
