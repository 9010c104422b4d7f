//! Pod Security Standards as those who make pods, workloads and namespaces meet them.

use eyot_apiserver::{
    AdmissionConfig, ApiServer, Options,
    audit::{Audit, AuditLog, LogOptions, Policy},
};
use http::header;
use serde_json::{Value, json};

use crate::{account, bytes, ok, pod, raw, send, server, server_with};

/// Send, and answer the code, the body and the warnings.
async fn warned(
    server: &ApiServer,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value, Vec<String>) {
    let media = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let headers = [("content-type", media)];
    let response = raw(server, method, path, &headers, body.to_string()).await;
    let code = response.status().as_u16();
    let warnings = response.headers().get_all(header::WARNING).iter();
    let warnings = warnings
        .map(|value| {
            let text = value.to_str().unwrap().replace("\\\"", "\"");
            let inner = text.strip_prefix("299 - \"").unwrap();
            inner.strip_suffix('"').unwrap().to_owned()
        })
        .collect();
    let value = serde_json::from_slice(&bytes(response).await).unwrap();
    (code, value, warnings)
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
    })
}

fn on_host(name: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["hostNetwork"] = json!(true);
    pod
}

const NETWORK: &str = "host namespaces (hostNetwork=true)";

#[tokio::test]
async fn a_namespace_refuses_pods_and_warns_about_workloads() {
    let server = server().await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    ok(
        &server,
        "POST",
        "/api/v1/namespaces",
        namespace("safe", labels),
    )
    .await;
    account(&server, "safe").await;
    let pods = "/api/v1/namespaces/safe/pods";
    let (code, refusal) = send(&server, "POST", pods, on_host("a")).await;
    assert_eq!(
        (
            code,
            refusal["message"].as_str().unwrap(),
            &refusal["reason"]
        ),
        (
            403,
            "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
             (hostNetwork=true)",
            &json!("Forbidden"),
        )
    );
    assert_eq!(refusal["details"], json!({"name": "a", "kind": "pods"}));
    ok(&server, "POST", pods, pod("b")).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": on_host("x")["spec"]},
        },
    });
    let path = "/apis/apps/v1/namespaces/safe/deployments";
    let (code, _, warnings) = warned(&server, "POST", path, deployment).await;
    let would = format!("would violate PodSecurity \"baseline:latest\": {NETWORK}");
    assert_eq!((code, warnings), (201, vec![would]));
}

#[tokio::test]
async fn what_runs_already_stays_and_may_be_labelled_but_is_told_of() {
    let server = server().await;
    let created = namespace("old", json!({}));
    ok(&server, "POST", "/api/v1/namespaces", created).await;
    account(&server, "old").await;
    let pods = "/api/v1/namespaces/old/pods";
    for name in ["b", "a", "c"] {
        ok(&server, "POST", pods, on_host(name)).await;
    }
    ok(&server, "POST", pods, pod("good")).await;
    let strict =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let path = "/api/v1/namespaces/old";
    let (code, _, warnings) = warned(&server, "PATCH", path, strict).await;
    assert_eq!(code, 200);
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"old\" violate the new PodSecurity enforce level \
             \"baseline:latest\"",
            "a (and 2 other pods): host namespaces",
        ]
    );
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    ok(&server, "PATCH", &format!("{pods}/a"), label).await;
    let image = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "other"}]);
    let headers = [("content-type", "application/json-patch+json")];
    let changed = raw(
        &server,
        "PATCH",
        &format!("{pods}/a"),
        &headers,
        image.to_string(),
    )
    .await;
    assert_eq!(changed.status(), 403);
    let relaxed =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    let (code, _, warnings) = warned(&server, "PATCH", path, relaxed).await;
    assert_eq!((code, warnings.len()), (200, 0));
}

#[tokio::test]
async fn labels_that_make_no_sense_are_refused() {
    let server = server().await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "strict"});
    let wrong = namespace("n", labels);
    let (code, refusal) = send(&server, "POST", "/api/v1/namespaces", wrong).await;
    assert_eq!(code, 422);
    assert_eq!(
        refusal["message"],
        "Namespace \"n\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid \
         value: \"strict\": must be one of privileged, baseline, restricted"
    );
}

#[tokio::test]
async fn a_file_gives_defaults_and_exempts_and_the_audit_log_is_told() {
    let text = "apiVersion: apiserver.config.k8s.io/v1\n\
                kind: AdmissionConfiguration\n\
                plugins:\n\
                - name: PodSecurity\n\
                \x20 configuration:\n\
                \x20   apiVersion: pod-security.admission.config.k8s.io/v1\n\
                \x20   kind: PodSecurityConfiguration\n\
                \x20   defaults: {audit: restricted, warn: baseline}\n\
                \x20   exemptions: {namespaces: [free]}\n";
    let config = AdmissionConfig::parse(text, |_| unreachable!()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(LogOptions {
        path: dir.path().join("audit.log"),
        max_size: 0,
        max_age: None,
        max_backups: None,
    });
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n  \
                  resources: [{group: '', resources: [pods]}]\n  omitStages: [RequestReceived]";
    let audit = Audit::new(Policy::parse(policy).unwrap(), log.unwrap());
    let server = server_with(Options {
        pod_security: config.pod_security,
        audit: Some(audit.clone()),
        ..Options::default()
    })
    .await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let path = "/api/v1/namespaces";
    let (_, _, warnings) = warned(&server, "POST", path, namespace("free", labels)).await;
    let ignored = "namespace \"free\" is exempt from Pod Security, and the policy \
                   (enforce=baseline:latest) will be ignored";
    assert_eq!(warnings, [ignored]);
    account(&server, "free").await;
    ok(
        &server,
        "POST",
        "/api/v1/namespaces/free/pods",
        on_host("a"),
    )
    .await;
    let path = "/api/v1/namespaces/default/pods";
    let (code, _, warnings) = warned(&server, "POST", path, on_host("a")).await;
    let would = format!("would violate PodSecurity \"baseline:latest\": {NETWORK}");
    assert_eq!((code, warnings), (201, vec![would]));
    audit.close();
    let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    let notes: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["annotations"].take())
        .collect();
    let note = |index: usize, key: &str| &notes[index][format!("pod-security.kubernetes.io/{key}")];
    assert_eq!(note(0, "exempt"), "namespace");
    assert_eq!(note(1, "enforce-policy"), "privileged:latest");
    let violations = note(1, "audit-violations").as_str().unwrap();
    let start = format!("would violate PodSecurity \"restricted:latest\": {NETWORK}, allow");
    assert!(violations.starts_with(&start), "{violations}");
}
