//! Admission policies: rules and changes in CEL, asked within the server.

use std::time::Duration;

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

/// The policy once its types are checked.
async fn checked(server: &ApiServer, name: &str) -> Value {
    let path = format!("{GROUP}/validatingadmissionpolicies/{name}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let policy = get(server, &path).await.1;
        if policy["status"]["observedGeneration"] == policy["metadata"]["generation"] {
            return policy;
        }
        assert!(tokio::time::Instant::now() < deadline, "{policy}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn about(rules: Value, more: Value) -> Value {
    let mut spec = json!({"matchConstraints": {"resourceRules": rules}});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    spec
}

fn rule(group: &str, version: &str, resources: &[&str]) -> Value {
    json!({"operations": ["*"], "apiGroups": [group], "apiVersions": [version],
           "resources": resources})
}

#[tokio::test]
async fn a_policy_is_checked_against_the_kinds_that_it_is_about() {
    let server = server().await;
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let kinds = json!([rule(
        "apps",
        "v1",
        &["replicasets", "deployments", "deployments/scale"]
    )]);
    let spec = about(
        kinds.clone(),
        json!({
            "variables": [{"name": "wanted", "expression": "object.spec.replicas"}],
            "validations": [
                {"expression": "object.replicas > 1"},
                {"expression": "variables.wanted > 1 && object.metadata.labels.a == 'b'",
                 "messageExpression": "string(object.spec.paused)"},
                {"expression": "variables.wanted == 'many'"},
            ],
        }),
    );
    let body = json!({"metadata": {"name": "p"}, "spec": spec});
    ok(&server, "POST", &path, body).await;
    let policy = checked(&server, "p").await;
    let fault = |kind: &str, text: &str| format!("apps/v1, Kind={kind}: ERROR: <input>:{text}\n");
    let field = "1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^";
    let paused = "1:19: undefined field 'paused'\n | string(object.spec.paused)\n \
                  | ..................^";
    let text = "1:18: found no matching overload for '_==_' applied to '(int, string)'\n \
                | variables.wanted == 'many'\n | .................^";
    let both = |text: &str| {
        let (one, other) = (fault("Deployment", text), fault("ReplicaSet", text));
        format!("{one}\n{other}")
    };
    assert_eq!(
        policy["status"]["typeChecking"]["expressionWarnings"],
        json!([
            {"fieldRef": "spec.validations[0].expression", "warning": both(field)},
            {"fieldRef": "spec.validations[1].messageExpression",
             "warning": fault("ReplicaSet", paused)},
            {"fieldRef": "spec.validations[2].expression", "warning": both(text)},
        ])
    );
    let entry = policy["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["manager"] == "validatingadmissionpolicy-status-controller");
    let entry = entry.unwrap();
    assert_eq!(
        (&entry["operation"], &entry["subresource"]),
        (&json!("Apply"), &json!("status"))
    );
    // Mended, and looked at anew.
    let spec = about(
        kinds,
        json!({"validations": [{"expression": "object.spec.replicas > 1"}]}),
    );
    let patch = json!({"spec": spec});
    ok(&server, "PATCH", &format!("{path}/p"), patch).await;
    let policy = checked(&server, "p").await;
    assert_eq!(policy["status"]["observedGeneration"], 2);
    assert_eq!(
        policy["status"]["typeChecking"]["expressionWarnings"],
        Value::Null
    );
    // One that nothing is wrong with says so.
    let spec = about(
        json!([rule("", "v1", &["pods"])]),
        json!({"validations": [{"expression": "has(object.spec.nodeName)"}]}),
    );
    ok(
        &server,
        "POST",
        &path,
        json!({"metadata": {"name": "q"}, "spec": spec}),
    )
    .await;
    let policy = checked(&server, "q").await;
    assert_eq!(policy["status"]["typeChecking"], json!({}));
}

#[tokio::test]
async fn types_come_from_definitions_and_parameters_too() {
    let server = server().await;
    let definition = json!({"metadata": {"name": "widgets.x.test"}, "spec": {
        "group": "x.test", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
            "openAPIV3Schema": {"type": "object", "properties": {"spec": {
                "type": "object", "properties": {
                    "size": {"type": "integer"}, "port": {"x-kubernetes-int-or-string": true},
                    "any": {"x-kubernetes-preserve-unknown-fields": true}}}}}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    ok(&server, "POST", definitions, definition).await;
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let spec = about(
        json!([
            rule("x.test", "v1", &["widgets"]),
            rule("*", "v1", &["pods"])
        ]),
        json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [
                {"expression": "object.spec.port == 1 && object.metadata.name == params.data.a"},
                {"expression": "object.spec.any == 1"},
                {"expression": "params.nope == request.nothing.deeper"},
            ],
        }),
    );
    let body = json!({"metadata": {"name": "p"}, "spec": spec});
    let (code, refused) = send(&server, "POST", &path, body.clone()).await;
    // What the request has is known before.
    let message = refused["message"].as_str().unwrap();
    assert!(
        code == 422 && message.contains("undefined field 'nothing'"),
        "{message}"
    );
    let mut body = body;
    body["spec"]["validations"][2]["expression"] = json!("params.nope == request.name");
    ok(&server, "POST", &path, body).await;
    let policy = checked(&server, "p").await;
    let warnings = policy["status"]["typeChecking"]["expressionWarnings"].clone();
    let told = |at: usize| {
        warnings[at]["warning"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(warnings.as_array().map(Vec::len), Some(2), "{warnings}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[1].expression");
    assert!(
        told(0).starts_with("x.test/v1, Kind=Widget: ERROR: <input>:1:12: undefined field 'any'")
    );
    assert!(told(1).contains("undefined field 'nope'"), "{}", told(1));
}

/// What a mutation of deployments makes of one, or why it is refused.
async fn mutated(mutation: Value) -> Result<Value, String> {
    let server = server().await;
    let spec = json!({"reinvocationPolicy": "Never", "failurePolicy": "Fail",
                      "mutations": [mutation]});
    policy(&server, "Mutating", "m", ("apps", "deployments"), spec).await;
    bind(&server, "Mutating", "m", json!({})).await;
    let (code, answer) = send(&server, "POST", DEPLOYMENTS, deployment("a", 1)).await;
    match code {
        201 => Ok(answer),
        _ => Err(answer["message"].as_str().unwrap_or_default().to_owned()),
    }
}

async fn applied(expression: &str) -> Result<Value, String> {
    let apply = json!({"patchType": "ApplyConfiguration",
                       "applyConfiguration": {"expression": expression}});
    mutated(apply).await
}

async fn patched(expression: &str) -> Result<Value, String> {
    mutated(json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})).await
}

#[tokio::test]
async fn a_configuration_is_merged_by_the_types_of_its_fields() {
    let made = applied(
        "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
            containers: [Object.spec.template.spec.containers{name: 'c', tty: true},
                         Object.spec.template.spec.containers{name: 'd', image: 'j'}]}}}}",
    )
    .await
    .unwrap();
    let containers = &made["spec"]["template"]["spec"]["containers"];
    assert_eq!(
        (&containers[0]["image"], &containers[0]["tty"]),
        (&json!("i"), &json!(true))
    );
    assert_eq!(containers[1]["name"], "d");
    let refused = applied(
        "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'c'}}}}",
    )
    .await
    .unwrap_err();
    assert!(
        refused.ends_with(
            "denied request: error applying patch: invalid ApplyConfiguration: may not mutate \
             atomic arrays, maps or structs: .spec.selector"
        ),
        "{refused}"
    );
    let refused = applied("Object{spec: Object.spec{nope: 1}}")
        .await
        .unwrap_err();
    assert!(
        refused.ends_with(
            "error applying patch: failed to convert patch object to typed object: .spec.nope: \
             field not declared in schema"
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn a_patch_is_made_of_operations() {
    let made = patched(
        "[JSONPatch{op: 'add', path: '/metadata/labels', value: {}},
          JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('k8s.io/x'),
                    value: 'true'},
          JSONPatch{op: 'add', path: '/metadata/annotations',
                    value: {'escaped': jsonpatch.escapeKey('k8s.io/x~y')}}]",
    );
    let made = made.await.unwrap();
    assert_eq!(made["metadata"]["labels"], json!({"k8s.io/x": "true"}));
    assert_eq!(made["metadata"]["annotations"]["escaped"], "k8s.io~1x~0y");
    // A test that fails leaves the object alone.
    let made = patched(
        "[JSONPatch{op: 'test', path: '/spec/replicas', value: 7},
          JSONPatch{op: 'replace', path: '/spec/replicas', value: 8}]",
    );
    assert_eq!(made.await.unwrap()["spec"]["replicas"], 1);
    for (patch, why) in [
        (
            "op: 'replace', path: '/spec/template/spec/containers/-', value: 1",
            "replace operation does not apply: doc is missing key: \
             /spec/template/spec/containers/-: missing value",
        ),
        (
            "op: 'add', path: '/metadata/labels/a', value: 'b'",
            "add operation does not apply: doc is missing path: \"/metadata/labels/a\": missing \
             value",
        ),
    ] {
        let refused = patched(&format!("[JSONPatch{{{patch}}}]"))
            .await
            .unwrap_err();
        let end = format!("denied request: JSON Patch: {why}");
        assert!(refused.ends_with(&end), "{refused}");
    }
    let refused = patched("[JSONPatch{op: 'add', path: '/spec/nope', value: 1}]").await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("unknown field \"spec.nope\""), "{refused}");
}

#[tokio::test]
async fn what_a_mutation_answers_is_known_when_it_is_stored() {
    let server = server().await;
    let path = format!("{GROUP}/mutatingadmissionpolicies");
    for (kind, field, expression, why) in [
        (
            "JSONPatch",
            "jsonPatch",
            "'x'",
            "must evaluate to list(JSONPatch) but got string",
        ),
        (
            "JSONPatch",
            "jsonPatch",
            "[JSONPatch{nope: 1}]",
            "undefined field 'nope'",
        ),
        (
            "ApplyConfiguration",
            "applyConfiguration",
            "Object.spec{}",
            "must evaluate to Object but got Object.spec",
        ),
        (
            "ApplyConfiguration",
            "applyConfiguration",
            "object",
            "must evaluate to Object but got dyn",
        ),
    ] {
        let spec = about(
            json!([rule("", "v1", &["configmaps"])]),
            json!({"reinvocationPolicy": "Never",
                   "mutations": [{"patchType": kind, field: {"expression": expression}}]}),
        );
        let body = json!({"metadata": {"name": "m"}, "spec": spec});
        let (code, answer) = send(&server, "POST", &path, body).await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(code == 422 && message.contains(why), "{message}");
    }
}
