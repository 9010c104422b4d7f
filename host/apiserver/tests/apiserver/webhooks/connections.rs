//! Webhooks about connections to pods, and to services and nodes by proxy.

use serde_json::{Value, json};

use super::{
    PODS, plain,
    server::{Webhook, allow, deny, hook, rule, validate},
};
use crate::{ok, pod, raw, send};

#[tokio::test]
async fn a_connection_can_be_refused() {
    let server = plain().await;
    let webhook = Webhook::start(|request| match request["subResource"].as_str() {
        Some("attach" | "proxy") => deny("attaching to it is not allowed"),
        _ => allow(),
    })
    .await;
    let rules = json!([rule(&["CONNECT"], &["pods/*", "services/proxy"])]);
    validate(
        &server,
        "w",
        json!([hook("doors", &webhook, rules, json!({}))]),
    )
    .await;
    ok(&server, "POST", PODS, pod("p")).await;
    let path = format!("{PODS}/p/attach?container=c&stdin=true&stdout=true");
    let (code, status) = send(&server, "POST", &path, Value::Null).await;
    assert_eq!(code, 403, "{status}");
    let said = status["message"].as_str().unwrap();
    assert!(said.contains("attaching to it is not allowed"), "{said}");
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    ok(&server, "POST", services, service).await;
    let path = format!("{services}/http:s:80/proxy/a/b/?q=1");
    let response = raw(&server, "GET", &path, &[], "").await;
    assert_eq!(response.status(), 403);
    let path = format!("{PODS}/p/portforward?ports=80");
    let (code, status) = send(&server, "POST", &path, Value::Null).await;
    assert_eq!(
        code, 400,
        "let through, to a pod that runs nowhere: {status}"
    );
    assert_eq!(
        webhook.calls(),
        [
            "CONNECT pods/attach p",
            "CONNECT services/proxy http:s:80",
            "CONNECT pods/portforward p",
        ]
    );
    let seen = webhook.seen.lock().unwrap().clone();
    let attach = json!({"kind": "PodAttachOptions", "apiVersion": "v1",
                        "container": "c", "stdin": true, "stdout": true});
    let proxy = json!({"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/a/b/"});
    assert_eq!((&seen[0]["object"], &seen[1]["object"]), (&attach, &proxy));
    assert_eq!(seen[1]["kind"]["kind"], "ServiceProxyOptions");
    assert_eq!(
        (&seen[0]["oldObject"], &seen[0]["options"]),
        (&Value::Null, &Value::Null)
    );
}
