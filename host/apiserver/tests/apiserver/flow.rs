//! Priority and fairness through the API: how a request was sorted, and what becomes of too many.

use std::collections::BTreeMap;

use eyot_apiserver::{ApiServer, User};
use eyot_http::Response;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{admin, bytes, ok, server};

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

async fn get_as(server: &ApiServer, user: &User, path: &str) -> Response {
    let mut request = http::Request::get(path).body(eyot_http::empty()).unwrap();
    request.extensions_mut().insert(user.clone());
    server.clone().oneshot(request).await.unwrap()
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap()).to_owned()
}

async fn uid(server: &ApiServer, path: &str) -> String {
    let object = ok(server, "GET", &format!("{FLOW}/{path}"), Value::Null).await;
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// A level for one user, with a schema that leads there.
async fn level(server: &ApiServer, name: &str, user: &str, limited: Value) {
    let body = json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}});
    ok(
        server,
        "POST",
        &format!("{FLOW}/prioritylevelconfigurations"),
        body,
    )
    .await;
    let body = json!({
        "metadata": {"name": name},
        "spec": {
            "priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 100,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": user}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        },
    });
    ok(server, "POST", &format!("{FLOW}/flowschemas"), body).await;
}

#[tokio::test]
async fn a_request_is_told_by_what_it_was_sorted() {
    let server = server().await;
    let user = User::new("noxu", &["system:authenticated"]);
    let names = [
        "x-kubernetes-pf-flowschema-uid",
        "x-kubernetes-pf-prioritylevel-uid",
    ];
    for (path, code) in [("/api", 200), ("/api/v1/nodes", 403), ("/nowhere", 403)] {
        let response = get_as(&server, &user, path).await;
        assert_eq!(response.status(), code, "{path}");
        let expected = [
            uid(&server, "flowschemas/global-default").await,
            uid(&server, "prioritylevelconfigurations/global-default").await,
        ];
        assert_eq!(
            names.map(|name| header(&response, name)),
            expected,
            "{path}"
        );
    }
    let limited = json!({"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}});
    level(&server, "testing", "noxu", limited).await;
    let response = get_as(&server, &user, "/api").await;
    assert_eq!(
        header(&response, names[0]),
        uid(&server, "flowschemas/testing").await
    );
    let other = User::new("other", &["system:authenticated"]);
    let response = get_as(&server, &other, "/api").await;
    assert_ne!(
        header(&response, names[0]),
        uid(&server, "flowschemas/testing").await
    );
    ok(
        &server,
        "DELETE",
        &format!("{FLOW}/prioritylevelconfigurations/testing"),
        Value::Null,
    )
    .await;
    let response = get_as(&server, &user, "/api").await;
    let standing = uid(&server, "flowschemas/global-default").await;
    assert_eq!(
        header(&response, names[0]),
        standing,
        "a schema without its level sorts nothing"
    );
    let response = get_as(&server, &admin(), "/api").await;
    assert_eq!(
        header(&response, names[0]),
        "",
        "the host's own parts are not sorted"
    );
}

#[tokio::test]
async fn the_standing_objects_are_those_of_kubernetes() {
    let server = server().await;
    let list = ok(&server, "GET", &format!("{FLOW}/flowschemas"), Value::Null).await;
    let found: BTreeMap<String, (String, i64)> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let spec = &item["spec"];
            let level = spec["priorityLevelConfiguration"]["name"].as_str().unwrap();
            let precedence = spec["matchingPrecedence"].as_i64().unwrap();
            (
                item["metadata"]["name"].as_str().unwrap().to_owned(),
                (level.to_owned(), precedence),
            )
        })
        .collect();
    let text: Vec<String> = found
        .iter()
        .map(|(name, (level, at))| format!("{name} {level} {at}"))
        .collect();
    assert_eq!(
        text,
        [
            "catch-all catch-all 10000",
            "endpoint-controller workload-high 150",
            "exempt exempt 1",
            "global-default global-default 9900",
            "kube-controller-manager workload-high 800",
            "kube-scheduler workload-high 800",
            "kube-system-service-accounts workload-high 900",
            "probes exempt 2",
            "service-accounts workload-low 9000",
            "system-leader-election leader-election 100",
            "system-node-high node-high 400",
            "system-nodes system 500",
            "workload-leader-election leader-election 200",
        ]
    );
}

#[tokio::test]
async fn what_finds_no_seat_is_told_when_to_come_back() {
    let server = server().await;
    let limited = json!({
        "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
    });
    level(&server, "closed", "flood", limited).await;
    let user = User::new("flood", &["system:authenticated"]);
    let response = get_as(&server, &user, "/api").await;
    assert_eq!(
        (
            response.status().as_u16(),
            header(&response, "retry-after").as_str()
        ),
        (429, "1")
    );
    let status: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    assert_eq!(
        status,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Too many requests, please try again later.", "reason": "TooManyRequests",
            "details": {"retryAfterSeconds": 1}, "code": 429,
        })
    );
    let other = User::new("other", &["system:authenticated"]);
    assert_eq!(get_as(&server, &other, "/api").await.status(), 200);
}
