//! Admission policies: rules and changes in CEL, asked within the server.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{config_map, get, ok, raw, send, server};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn policy(server: &ApiServer, kind: &str, name: &str, rule: (&str, &str), more: Value) {
    let (group, resource) = rule;
    let mut spec = json!({"matchConstraints": {"resourceRules": [{
        "operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["*"],
        "resources": [resource],
    }]}});
    if let Value::Object(more) = more {
        spec.as_object_mut().unwrap().extend(more);
    }
    let body = json!({"metadata": {"name": name}, "spec": spec});
    let path = format!("{GROUP}/{}admissionpolicies", kind.to_lowercase());
    ok(server, "POST", &path, body).await;
}

async fn bind(server: &ApiServer, kind: &str, name: &str, more: Value) {
    let mut spec = json!({ "policyName": name });
    if kind == "Validating" {
        spec["validationActions"] = json!(["Deny"]);
    }
    if let Value::Object(more) = more {
        spec.as_object_mut().unwrap().extend(more);
    }
    let body = json!({"metadata": {"name": format!("{name}-binding")}, "spec": spec});
    let path = format!("{GROUP}/{}admissionpolicybindings", kind.to_lowercase());
    ok(server, "POST", &path, body).await;
}

fn deployment(name: &str, replicas: u64) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[track_caller]
fn refused(answer: (u16, Value), code: u16, reason: &str, message: &str) {
    let (found, status) = answer;
    assert_eq!(
        (found, status["reason"].as_str(), status["message"].as_str()),
        (code, Some(reason), Some(message))
    );
    assert_eq!(status["details"]["causes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_policy_refuses_what_its_expressions_say() {
    let server = server().await;
    let rules = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "odd", "expression": "variables.replicas % 2 == 1"},
        ],
        "validations": [
            {"expression": "variables.replicas > 1",
             "messageExpression": "'wants more than one, not ' + string(variables.replicas)"},
            {"expression": "variables.odd", "message": "must be odd", "reason": "Forbidden"},
            {"expression": "object.spec.replicas < 100"},
        ],
    });
    policy(&server, "Validating", "p", ("apps", "deployments"), rules).await;
    // A policy that is bound to nothing says nothing.
    ok(&server, "POST", DEPLOYMENTS, deployment("free", 1)).await;
    bind(&server, "Validating", "p", json!({})).await;
    let denied = |name: &str, why: &str| {
        format!(
            "deployments.apps \"{name}\" is forbidden: ValidatingAdmissionPolicy 'p' with binding \
             'p-binding' denied request: {why}"
        )
    };
    ok(&server, "POST", DEPLOYMENTS, deployment("good", 3)).await;
    refused(
        send(&server, "POST", DEPLOYMENTS, deployment("a", 1)).await,
        422,
        "Invalid",
        &denied("a", "wants more than one, not 1"),
    );
    refused(
        send(&server, "POST", DEPLOYMENTS, deployment("a", 2)).await,
        403,
        "Forbidden",
        &denied("a", "must be odd"),
    );
    refused(
        send(&server, "POST", DEPLOYMENTS, deployment("a", 101)).await,
        422,
        "Invalid",
        &denied("a", "failed expression: object.spec.replicas < 100"),
    );
}

#[tokio::test]
async fn parameters_come_from_stored_objects() {
    let server = server().await;
    let rules = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.most)"}],
    });
    policy(&server, "Validating", "p", ("apps", "deployments"), rules).await;
    let params = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    bind(&server, "Validating", "p", params).await;
    let answer = send(&server, "POST", DEPLOYMENTS, deployment("a", 2)).await;
    let message = answer.1["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("no params found for policy binding"),
        "{message}"
    );
    let mut limits = config_map("limits");
    limits["data"] = json!({"most": "3"});
    ok(&server, "POST", MAPS, limits).await;
    ok(&server, "POST", DEPLOYMENTS, deployment("a", 2)).await;
    assert_eq!(
        send(&server, "POST", DEPLOYMENTS, deployment("b", 4))
            .await
            .0,
        422
    );
}

#[tokio::test]
async fn a_binding_may_warn_and_a_policy_may_fail() {
    let server = server().await;
    let rules = json!({"validations": [{"expression": "object.data.k != 'v'", "message": "no v"}]});
    policy(&server, "Validating", "p", ("", "configmaps"), rules).await;
    bind(
        &server,
        "Validating",
        "p",
        json!({"validationActions": ["Warn", "Audit"]}),
    )
    .await;
    let headers = [("content-type", "application/json")];
    let answer = raw(&server, "POST", MAPS, &headers, config_map("a").to_string()).await;
    assert_eq!(answer.status(), 201);
    assert_eq!(
        answer.headers().get("warning").unwrap(),
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p-binding': no \
         v\""
    );
    let broken = json!({
        "failurePolicy": "Ignore", "validations": [{"expression": "object.data.absent == 'x'"}],
    });
    policy(
        &server,
        "Validating",
        "may",
        ("", "configmaps"),
        broken.clone(),
    )
    .await;
    bind(&server, "Validating", "may", json!({})).await;
    ok(&server, "POST", MAPS, config_map("b")).await;
    let mut must = broken;
    must["failurePolicy"] = json!("Fail");
    policy(&server, "Validating", "must", ("", "configmaps"), must).await;
    bind(&server, "Validating", "must", json!({})).await;
    refused(
        send(&server, "POST", MAPS, config_map("c")).await,
        422,
        "Invalid",
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'must' with binding \
         'must-binding' denied request: expression 'object.data.absent == 'x'' resulted in error: \
         no such key: absent",
    );
}

#[tokio::test]
async fn a_mutating_policy_changes_what_is_written() {
    let server = server().await;
    let apply = json!({"reinvocationPolicy": "Never", "mutations": [{
        "patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{annotations: {\"my-annotation\": \"my-value\"}}, \
             spec: Object.spec{replicas: object.spec.replicas + 1}}"}}]});
    policy(&server, "Mutating", "apply", ("apps", "deployments"), apply).await;
    bind(&server, "Mutating", "apply", json!({})).await;
    let made = ok(&server, "POST", DEPLOYMENTS, deployment("a", 1)).await;
    assert_eq!(made["spec"]["replicas"], 2);
    assert_eq!(made["metadata"]["annotations"]["my-annotation"], "my-value");
    assert_eq!(
        made["spec"]["template"]["spec"]["containers"][0]["image"],
        "i"
    );
    let patch = json!({
        "reinvocationPolicy": "Never",
        "matchConditions": [{"name": "c", "expression": "object.metadata.name != 'skip-me'"}],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/data/' + 'added', value: 'x'}]"}}],
    });
    policy(&server, "Mutating", "patch", ("", "configmaps"), patch).await;
    bind(&server, "Mutating", "patch", json!({})).await;
    let made = ok(&server, "POST", MAPS, config_map("a")).await;
    assert_eq!(made["data"], json!({"k": "v", "added": "x"}));
    ok(&server, "POST", MAPS, config_map("skip-me")).await;
    let skipped = get(&server, &format!("{MAPS}/skip-me")).await.1;
    assert_eq!(skipped["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn policies_are_beyond_the_reach_of_policies() {
    let server = server().await;
    let rules = json!({"validations": [{"expression": "false"}]});
    policy(&server, "Validating", "p", ("*", "*"), rules).await;
    bind(&server, "Validating", "p", json!({})).await;
    assert_eq!(send(&server, "POST", MAPS, config_map("a")).await.0, 422);
    for kind in ["policies", "policybindings"] {
        let name = if kind == "policies" { "p" } else { "p-binding" };
        let path = format!("{GROUP}/validatingadmission{kind}/{name}");
        ok(
            &server,
            "PATCH",
            &path,
            json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
    }
    let path = format!("{GROUP}/validatingadmissionpolicybindings/p-binding");
    ok(&server, "DELETE", &path, Value::Null).await;
    ok(&server, "POST", MAPS, config_map("a")).await;
}
