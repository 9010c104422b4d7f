//! What is special about pods, and the subresources.

use std::{convert::Infallible, sync::Arc};

use eyot_apiserver::{Kubelet, Nodes, Options};
use eyot_http::{Request, Response};
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;

use crate::{PATIENCE, admin, bytes, get, ok, pod, raw, send, server, server_with};

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

/// A pod that runs, ready or not.
async fn running(server: &eyot_apiserver::ApiServer, name: &str, ready: bool) {
    let mut pod = pod(name);
    pod["metadata"]["labels"] = json!({"app": "web"});
    ok(server, "POST", PODS, pod).await;
    bind(server, name, "n1").await;
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {
        "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    ok(server, "PATCH", &format!("{PODS}/{name}/status"), status).await;
}

async fn evict(server: &eyot_apiserver::ApiServer, pod: &str) -> (u16, Value) {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": "default"},
    });
    send(server, "POST", &format!("{PODS}/{pod}/eviction"), eviction).await
}

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn budget(server: &eyot_apiserver::ApiServer, name: &str, spec: Value, status: Value) {
    let mut budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        budget["spec"][key] = value.clone();
    }
    ok(server, "POST", BUDGETS, budget).await;
    let path = format!("{BUDGETS}/{name}/status");
    ok(server, "PATCH", &path, json!({"status": status})).await;
}

#[tokio::test]
async fn a_budget_grants_evictions_as_long_as_it_has_some() {
    let server = server().await;
    for name in ["a", "b"] {
        running(&server, name, true).await;
    }
    budget(&server, "web", json!({}), json!({})).await;
    let (code, status) = evict(&server, "a").await;
    assert_eq!(
        (code, status["reason"].as_str()),
        (429, Some("TooManyRequests"))
    );
    assert_eq!(status["details"]["retryAfterSeconds"], 10);
    let message = "The disruption budget web is still being processed by the server.";
    let causes = json!([{"reason": "DisruptionBudget", "message": message}]);
    assert_eq!(status["details"]["causes"], causes);
    let counted = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
        "expectedPods": 2}});
    let path = format!("{BUDGETS}/web/status");
    ok(&server, "PATCH", &path, counted).await;
    assert_eq!(evict(&server, "a").await.0, 201);
    let (_, gone) = get(&server, &format!("{PODS}/a")).await;
    assert!(gone["metadata"]["deletionTimestamp"].is_string());
    let conditions = gone["status"]["conditions"].as_array().unwrap();
    let why = conditions.iter().find(|c| c["type"] == "DisruptionTarget");
    assert_eq!(why.unwrap()["reason"], "EvictionByEvictionAPI");
    let (_, budget) = get(&server, &format!("{BUDGETS}/web")).await;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["a"].is_string());
    assert_eq!(
        budget["status"]["conditions"][0]["reason"],
        "InsufficientPods"
    );
    let (code, status) = evict(&server, "b").await;
    assert_eq!(code, 429);
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert_eq!(status["message"], refused);
    let cause = "The disruption budget web needs 1 healthy pods and has 2 currently";
    assert_eq!(status["details"]["causes"][0]["message"], cause);
    // What is on its way out already may be evicted again.
    assert_eq!(evict(&server, "a").await.0, 201);
}

/// What kube-rs makes of a refusal. Its default client tries again fifteen times, for minutes, before
/// it tells: programs that want to know turn `Config::default_retry` off.
#[tokio::test]
async fn a_refused_eviction_is_an_error_with_its_cause_to_kube_rs() {
    use kube::api::{EvictParams, ObjectMeta};
    let server = server().await;
    running(&server, "a", true).await;
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1,
                        "desiredHealthy": 1, "expectedPods": 1});
    budget(&server, "web", json!({}), status).await;
    let client = kube::Client::new(server.as_user(admin()), "default");
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(client);
    let params = EvictParams::default();
    let refused = tokio::time::timeout(PATIENCE, pods.evict("a", &params));
    let refused = refused.await.unwrap();
    let Err(kube::Error::Api(refused)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((refused.code, &*refused.reason), (429, "TooManyRequests"));
    let cause = &refused.details.as_ref().unwrap().causes[0];
    assert_eq!(cause.reason, "DisruptionBudget");
    assert_eq!(
        cause.message,
        "The disruption budget web needs 1 healthy pods and has 1 currently"
    );
    // While the budget was not looked at yet, it is said when to come again.
    let new = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": ObjectMeta { name: Some("web".into()), ..ObjectMeta::default() },
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    ok(&server, "PATCH", &format!("{BUDGETS}/web"), new).await;
    let eviction = json!({"metadata": {"name": "a"}}).to_string();
    let headers = [("content-type", "application/json")];
    let path = format!("{PODS}/a/eviction");
    let answer = raw(&server, "POST", &path, &headers, eviction).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "10");
}

#[tokio::test]
async fn pods_that_are_not_ready_go_as_the_budget_says() {
    for (policy, healthy, expected) in [
        (Value::Null, 1, 201),
        (Value::Null, 0, 429),
        (json!("AlwaysAllow"), 0, 201),
    ] {
        let server = server().await;
        running(&server, "a", false).await;
        let spec = json!({"unhealthyPodEvictionPolicy": policy});
        let status = json!({"observedGeneration": 1, "currentHealthy": healthy,
                            "desiredHealthy": 1, "expectedPods": 2});
        budget(&server, "web", spec, status).await;
        assert_eq!(evict(&server, "a").await.0, expected, "{policy} {healthy}");
    }
}

#[tokio::test]
async fn two_budgets_for_one_pod_are_an_error_unless_it_does_not_run() {
    let server = server().await;
    running(&server, "a", true).await;
    for name in ["one", "two"] {
        budget(&server, name, json!({}), json!({})).await;
    }
    let (code, status) = evict(&server, "a").await;
    let message = "This pod has more than one PodDisruptionBudget, which the eviction \
                   subresource does not support.";
    assert_eq!((code, status["message"].as_str()), (500, Some(message)));
    let mut waiting = pod("b");
    waiting["metadata"]["labels"] = json!({"app": "web"});
    ok(&server, "POST", PODS, waiting).await;
    assert_eq!(evict(&server, "b").await.0, 201);
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
