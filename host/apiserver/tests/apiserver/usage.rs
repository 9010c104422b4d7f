//! `metrics.k8s.io`: what kubelets measure, as clients ask for it.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use eyot_apiserver::{ApiServer, Kubelet, Nodes, Options};
use eyot_http::{Request, Response};
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;

use crate::{get, ok, pod, send, server, server_with};

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2";

/// The kubelet of node `n1`, which has measured itself and these pods: the name and uid of each, and the
/// billionths of a processor that its one container uses.
#[derive(Default)]
struct Measured(Mutex<Vec<(String, String, Option<u64>)>>, AtomicUsize);

impl Nodes for Measured {
    fn kubelet(&self, node: &str) -> Option<Kubelet> {
        let amounts = |nanocores: Option<u64>, bytes: u64| {
            let mut amounts = json!({
                "cpu": {"time": "2026-01-01T00:00:15Z", "usageCoreNanoSeconds": 1},
                "memory": {"time": "2026-01-01T00:00:15Z", "workingSetBytes": bytes},
            });
            if let Some(nanocores) = nanocores {
                amounts["cpu"]["usageNanoCores"] = json!(nanocores);
                amounts["cpu"]["windowNanoSeconds"] = json!(15_200_000_000_u64);
            }
            amounts
        };
        self.1.fetch_add(usize::from(node == "n1"), Relaxed);
        let pods = self.0.lock().unwrap().clone();
        let pods = pods.into_iter().map(|(name, uid, rate)| {
            let mut container = amounts(rate, 4096);
            container["name"] = json!("c");
            if rate == Some(7) {
                let of = |name| json!({"name": name, "type": "cumulative", "value": 41});
                container["userDefinedMetrics"] = json!([of("other"), of("http_requests_total")]);
            }
            if rate == Some(1_500_000) {
                container["userDefinedMetrics"] = json!([{
                    "name": "http_requests_per_second", "type": "gauge",
                    "time": "2026-01-01T00:00:15Z", "windowNanoSeconds": 15_200_000_000_u64,
                    "value": 12.5,
                }]);
            }
            let reference = json!({"uid": uid, "namespace": "default", "name": name});
            json!({"podRef": reference, "containers": [container]})
        });
        let summary = json!({
            "node": amounts(Some(250_000_000), 1 << 30), "pods": pods.collect::<Vec<_>>(),
        });
        let service = tower::service_fn(move |request: Request| {
            let summary = summary.clone();
            async move {
                let code = match request.uri().path() {
                    "/stats/summary" => http::StatusCode::OK,
                    _ => http::StatusCode::NOT_FOUND,
                };
                Ok::<Response, Infallible>(eyot_http::json(code, &summary))
            }
        });
        (node == "n1").then(|| BoxCloneSyncService::new(service))
    }
}

/// A server with nodes `n1`, which answers, and `n2`, which does not, and pods on `n1`: `a` and `b`
/// that were measured, `young` that was measured once, `unknown` that was not.
async fn measured() -> ApiServer {
    measured_by().await.0
}

async fn measured_by() -> (ApiServer, Arc<Measured>) {
    let nodes = Arc::new(Measured::default());
    let options = Options {
        nodes: nodes.clone(),
        serves_usage: true,
        ..Options::default()
    };
    let server = server_with(options).await;
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        ok(&server, "POST", "/api/v1/nodes", node).await;
    }
    for (name, rate) in [
        ("a", Some(Some(1_500_000))),
        ("b", Some(Some(7))),
        ("young", Some(None)),
        ("unknown", None),
    ] {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"is": name});
        pod["spec"]["nodeName"] = json!("n1");
        let made = ok(&server, "POST", "/api/v1/namespaces/default/pods", pod).await;
        let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
        let measured = rate.map(|rate| (name.to_owned(), uid, rate));
        nodes.0.lock().unwrap().extend(measured);
    }
    (server, nodes)
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn the_requests_that_pods_answered_are_among_the_metrics() {
    let server = measured().await;
    let (code, page) = get(&server, "/metrics").await;
    assert_eq!(code, 200);
    let lines: Vec<_> = page
        .as_str()
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("http_requests_total"))
        .collect();
    let b = "http_requests_total{namespace=\"default\",pod=\"b\"} 41";
    assert_eq!(lines, [b]);
}

#[tokio::test]
async fn nodes_that_answer_say_what_they_use() {
    let server = measured().await;
    let (code, list) = get(&server, &format!("{GROUP}/nodes")).await;
    assert_eq!((code, &list["kind"]), (200, &json!("NodeMetricsList")));
    assert_eq!(names(&list), ["n1"]);
    let (_, node) = get(&server, &format!("{GROUP}/nodes/n1")).await;
    assert_eq!(node["kind"], "NodeMetrics");
    assert_eq!(
        node["usage"],
        json!({"cpu": "250000000n", "memory": "1048576Ki"})
    );
    assert_eq!(
        (&node["timestamp"], &node["window"]),
        (&json!("2026-01-01T00:00:15Z"), &json!("15.200s"))
    );
    let (code, status) = get(&server, &format!("{GROUP}/nodes/n2")).await;
    assert_eq!(
        (code, &status["message"]),
        (404, &json!("nodes.metrics.k8s.io \"n2\" not found"))
    );
}

#[tokio::test]
async fn pods_are_listed_once_all_their_containers_have_a_rate() {
    let server = measured().await;
    let path = format!("{GROUP}/namespaces/default/pods");
    let (_, list) = get(&server, &path).await;
    assert_eq!(
        (&list["kind"], names(&list)),
        (&json!("PodMetricsList"), vec!["a", "b"])
    );
    assert_eq!(
        get(&server, &format!("{GROUP}/pods")).await.1["items"][1]["metadata"]["namespace"],
        "default"
    );
    let (_, list) = get(&server, &format!("{path}?labelSelector=is%3Db")).await;
    assert_eq!(names(&list), ["b"]);
    let (_, one) = get(&server, &format!("{path}/a")).await;
    let containers = json!([{"name": "c", "usage": {"cpu": "1500000n", "memory": "4Ki"}}]);
    assert_eq!(
        (&one["containers"], &one["metadata"]["labels"]["is"]),
        (&containers, &json!("a"))
    );
    assert_eq!(get(&server, &format!("{path}/young")).await.0, 404);
    assert_eq!(
        get(&server, &format!("{GROUP}/namespaces/other/pods"))
            .await
            .1["items"],
        json!([])
    );
}

#[tokio::test]
async fn a_kubelet_is_asked_once_for_all_who_ask_at_the_time() {
    let (server, nodes) = measured_by().await;
    for path in ["nodes", "pods", "namespaces/default/pods", "nodes/n1"] {
        let (code, _) = get(&server, &format!("{GROUP}/{path}")).await;
        assert_eq!((code, nodes.1.load(Relaxed)), (200, 1), "{path}");
    }
    let again = async {
        while nodes.1.load(Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            get(&server, &format!("{GROUP}/pods")).await;
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(60), again);
    again.await.expect("asked again when it is no longer fresh");
}

#[tokio::test]
async fn usage_is_only_read() {
    let server = measured().await;
    let path = format!("{GROUP}/namespaces/default/pods");
    for (method, path) in [
        ("POST", path.clone()),
        ("DELETE", path.clone()),
        ("GET", format!("{path}?watch=true")),
        ("PUT", format!("{path}/a")),
    ] {
        let object = json!({
            "apiVersion": "metrics.k8s.io/v1beta1", "kind": "PodMetrics", "metadata": {"name": "a"},
        });
        let (code, status) = send(&server, method, &path, object).await;
        assert_eq!(code, 405, "{method} {path}: {status}");
    }
}

#[tokio::test]
async fn clients_find_usage_where_it_is_served() {
    let server = measured().await;
    let (_, list) = get(&server, GROUP).await;
    let resources = list["resources"].as_array().unwrap();
    let found: Vec<_> = resources
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), &one["verbs"]))
        .collect();
    let verbs = json!(["get", "list"]);
    assert_eq!(found, [("nodes", &verbs), ("pods", &verbs)]);
    let service = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
    let (code, service) = get(&server, service).await;
    assert_eq!((code, &service["spec"]["service"]), (200, &Value::Null));
    let (_, document) = get(&server, "/openapi/v3/apis/metrics.k8s.io/v1beta1").await;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key(&format!("{GROUP}/nodes")), "{document}");
}

#[tokio::test]
async fn requests_per_second_are_a_custom_metric_of_pods() {
    let server = measured().await;
    let pods = format!("{CUSTOM}/namespaces/default/pods");
    let (code, list) = get(&server, &format!("{pods}/*/http_requests_per_second")).await;
    assert_eq!((code, &list["kind"]), (200, &json!("MetricValueList")));
    let item = json!({
        "describedObject": {"kind": "Pod", "namespace": "default", "name": "a", "apiVersion": "v1"},
        "metric": {"name": "http_requests_per_second", "selector": null},
        "timestamp": "2026-01-01T00:00:15Z", "windowSeconds": 15, "value": "12500m",
    });
    assert_eq!(list["items"], json!([item]));
    let (_, one) = get(&server, &format!("{pods}/a/http_requests_per_second")).await;
    assert_eq!(one["items"], json!([item]));
    for (query, count) in [
        ("labelSelector=is%3Da", 1),
        ("labelSelector=is%3Db", 0),
        ("metricLabelSelector=verb%3DGET", 0),
        ("metricLabelSelector=", 1),
    ] {
        let (_, list) = get(
            &server,
            &format!("{pods}/*/http_requests_per_second?{query}"),
        )
        .await;
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{query}");
    }
    for (path, message) in [
        (
            "b/http_requests_per_second",
            "the server could not find the metric http_requests_per_second for pods b",
        ),
        (
            "*/other",
            "the server could not find the metric other for pods",
        ),
    ] {
        let (code, status) = get(&server, &format!("{pods}/{path}")).await;
        assert_eq!((code, &status["message"]), (404, &json!(message)));
    }
    let (code, _) = get(&server, &pods).await;
    assert_eq!(code, 404, "pods themselves are not served there");
    let (_, list) = get(&server, CUSTOM).await;
    let metric = json!([{
        "name": "pods/http_requests_per_second", "singularName": "", "namespaced": true,
        "kind": "MetricValueList", "verbs": ["get"],
    }]);
    assert_eq!(list["resources"], metric);
    let service = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta2.custom.metrics.k8s.io";
    assert_eq!(get(&server, service).await.0, 200);
    let (code, _) = send(
        &server,
        "DELETE",
        &format!("{pods}/*/http_requests_per_second"),
        json!({}),
    )
    .await;
    assert_eq!(code, 405);
}

#[tokio::test]
async fn usage_is_served_where_it_is_wanted() {
    assert_eq!(get(&server().await, GROUP).await.0, 404);
    assert_eq!(get(&server().await, CUSTOM).await.0, 404);
}
