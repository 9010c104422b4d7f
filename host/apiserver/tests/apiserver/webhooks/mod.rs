//! Admission webhooks: a real HTTPS server that changes and refuses what clients write.

mod connections;
pub mod server;

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};

use self::server::{Webhook, allow, counting, deny, hook, mutate, patch, rule, validate};
use crate::{config_map, get, ok, pod, raw, send, server as plain};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

#[track_caller]
fn refused(answer: (u16, Value), code: u16, reason: &str, message: &str) {
    let (found, status) = answer;
    assert_eq!(
        (
            found,
            status["reason"].as_str().unwrap_or_default(),
            status["message"].as_str()
        ),
        (code, reason, Some(message)),
        "{status}"
    );
}

#[tokio::test]
async fn a_validating_webhook_refuses_in_its_own_words() {
    let server = plain().await;
    let webhook = Webhook::start(|request| {
        match request["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
        {
            "bad" => deny("the configmap contains unwanted key and value"),
            "worse" => json!({"allowed": false, "status": {
                "reason": "Invalid", "code": 422, "message": "no",
                "details": {"causes": [{"field": "data", "message": "no"}]},
            }}),
            "silent" => json!({"allowed": false}),
            _ => allow(),
        }
    })
    .await;
    let rules = json!([rule(&["CREATE", "UPDATE"], &["configmaps"])]);
    validate(
        &server,
        "w",
        json!([hook("deny", &webhook, rules, json!({}))]),
    )
    .await;
    ok(&server, "POST", MAPS, config_map("good")).await;
    let denied = "admission webhook \"deny.test.eyot.dev\" denied the request";
    refused(
        send(&server, "POST", MAPS, config_map("bad")).await,
        403,
        "",
        &format!("{denied}: the configmap contains unwanted key and value"),
    );
    let answer = send(&server, "POST", MAPS, config_map("worse")).await;
    assert_eq!(answer.1["details"]["causes"][0]["field"], "data");
    refused(answer, 422, "Invalid", &format!("{denied}: no"));
    refused(
        send(&server, "POST", MAPS, config_map("silent")).await,
        400,
        "",
        &format!("{denied} without explanation"),
    );
    for name in ["bad", "worse", "silent"] {
        assert_eq!(
            get(&server, &format!("{MAPS}/{name}")).await.0,
            404,
            "{name}"
        );
    }
    // Its configuration is gone with the very request that deletes it.
    ok(&server, "DELETE", &format!("{VALIDATING}/w"), Value::Null).await;
    ok(&server, "POST", MAPS, config_map("bad")).await;
}

#[tokio::test]
async fn a_review_tells_all_about_the_request() {
    let server = plain().await;
    let webhook = Webhook::start(|_| allow()).await;
    let rules = json!([rule(&["*"], &["configmaps"])]);
    validate(
        &server,
        "w",
        json!([hook("all", &webhook, rules, json!({}))]),
    )
    .await;
    ok(
        &server,
        "POST",
        &format!("{MAPS}?fieldManager=me&dryRun=All"),
        config_map("a"),
    )
    .await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    ok(
        &server,
        "PATCH",
        &format!("{MAPS}/a"),
        json!({"data": {"k": "w"}}),
    )
    .await;
    ok(
        &server,
        "DELETE",
        &format!("{MAPS}/a"),
        json!({"gracePeriodSeconds": 0}),
    )
    .await;
    ok(&server, "POST", MAPS, config_map("b")).await;
    ok(&server, "DELETE", MAPS, Value::Null).await;
    assert_eq!(
        webhook.calls(),
        [
            "CREATE configmaps a",
            "CREATE configmaps a",
            "UPDATE configmaps a",
            "DELETE configmaps a",
            "CREATE configmaps b",
            "DELETE configmaps -",
        ]
    );
    let seen = webhook.seen.lock().unwrap().clone();
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    let create = &seen[0];
    assert_eq!((&create["kind"], &create["requestKind"]), (&kind, &kind));
    assert_eq!(
        (&create["resource"], &create["requestResource"]),
        (&resource, &resource)
    );
    assert_eq!(create["namespace"], "default");
    assert_eq!(create["userInfo"]["username"], "admin");
    assert_eq!(create["dryRun"], true);
    assert_eq!(
        create["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me",
               "dryRun": ["All"]})
    );
    assert_eq!(create["oldObject"], Value::Null);
    assert!(create["object"]["metadata"]["uid"].is_string());
    let update = &seen[2];
    assert_eq!(update["dryRun"], false);
    assert_eq!(
        (
            &update["oldObject"]["data"]["k"],
            &update["object"]["data"]["k"]
        ),
        (&json!("v"), &json!("w"))
    );
    assert_eq!(update["options"]["kind"], "UpdateOptions");
    let delete = &seen[3];
    assert_eq!(
        (&delete["object"], &delete["oldObject"]["data"]["k"]),
        (&Value::Null, &json!("w"))
    );
    assert_eq!(delete["options"]["gracePeriodSeconds"], 0);
    assert_eq!(delete["options"]["kind"], "DeleteOptions");
}

#[tokio::test]
async fn mutating_webhooks_see_what_those_before_them_did() {
    let server = plain().await;
    let webhook = Webhook::start(|request| {
        let data = &request["object"]["data"];
        assert!(request["object"]["metadata"].get("uid").is_none());
        let add = |key: &str| {
            patch(json!([{"op": "add", "path": format!("/data/{key}"), "value": "yes"}]))
        };
        match (data.get("stage-1"), data.get("stage-2")) {
            (None, _) => add("stage-1"),
            (Some(_), None) => add("stage-2"),
            _ => allow(),
        }
    })
    .await;
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    // Configurations run in the order of their names, whenever they were made.
    mutate(
        &server,
        "b",
        json!([hook("second", &webhook, rules.clone(), json!({}))]),
    )
    .await;
    mutate(
        &server,
        "a",
        json!([hook("first", &webhook, rules, json!({}))]),
    )
    .await;
    let made = ok(&server, "POST", MAPS, config_map("a")).await;
    assert_eq!(
        made["data"],
        json!({"k": "v", "stage-1": "yes", "stage-2": "yes"})
    );
}

#[tokio::test]
async fn defaults_are_applied_after_a_mutation() {
    let server = plain().await;
    let webhook = Webhook::start(|_| {
        patch(json!([
            {"op": "add", "path": "/spec/initContainers", "value": [
                {"image": "webhook/added", "name": "init", "resources": {}, "unknown": 1}]},
        ]))
    })
    .await;
    let rules = json!([rule(&["CREATE"], &["pods"])]);
    mutate(
        &server,
        "w",
        json!([hook("pods", &webhook, rules, json!({}))]),
    )
    .await;
    let made = ok(&server, "POST", PODS, pod("a")).await;
    let init = &made["spec"]["initContainers"][0];
    assert_eq!(init["terminationMessagePolicy"], "File");
    assert!(init.get("unknown").is_none());
    let generated = json!({
        "metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    ok(&server, "POST", PODS, generated).await;
    let seen = webhook.seen.lock().unwrap().clone();
    assert!(seen[1].get("name").is_none(), "no name was made yet");
}

#[tokio::test]
async fn what_cannot_be_asked_refuses_unless_it_may_fail() {
    let server = plain().await;
    let webhook = Webhook::start(|_| json!({"httpStatus": 500})).await;
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let strange = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, other.cert.pem());
    let url = format!("https://{}/review", webhook.address);
    for (name, config, why) in [
        ("broken", json!({}), "an error on the server (\"broken\") has prevented the request from succeeding".to_owned()),
        (
            "strange",
            json!({"clientConfig": {"url": url, "caBundle": strange}}),
            format!("Post \"{url}?timeout=10s\": tls: failed to verify certificate: x509: \
                     certificate signed by unknown authority"),
        ),
        (
            "closed",
            json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}}),
            "Post \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1: connect: connection refused".to_owned(),
        ),
        (
            "absent",
            json!({"clientConfig": {"service": {"namespace": "default", "name": "gone"}}}),
            "Post \"https://gone.default.svc:443/?timeout=10s\": service \"gone\" not found".to_owned(),
        ),
    ] {
        let hooks = json!([hook(name, &webhook, rules.clone(), config.clone())]);
        validate(&server, "w", hooks).await;
        let answer = send(&server, "POST", MAPS, config_map("a")).await;
        let message = format!(
            "Internal error occurred: failed calling webhook \"{name}.test.eyot.dev\": failed to \
             call webhook: {why}"
        );
        refused(answer, 500, "InternalError", &message);
        ok(&server, "DELETE", &format!("{VALIDATING}/w"), Value::Null).await;
        for configure in ["Validating", "Mutating"] {
            let mut more = config.clone();
            more["failurePolicy"] = json!("Ignore");
            let hooks = json!([hook(name, &webhook, rules.clone(), more)]);
            match configure {
                "Validating" => validate(&server, "w", hooks).await,
                _ => mutate(&server, "w", hooks).await,
            }
            ok(&server, "POST", MAPS, config_map("a")).await;
            ok(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
            let path = if configure == "Validating" { VALIDATING } else { MUTATING };
            ok(&server, "DELETE", &format!("{path}/w"), Value::Null).await;
        }
    }
}

#[tokio::test]
async fn a_slow_webhook_is_not_waited_for_longer_than_it_says() {
    let server = plain().await;
    let webhook = Webhook::start_async(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            allow()
        })
    })
    .await;
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    let hooks = json!([hook("slow", &webhook, rules, json!({"timeoutSeconds": 1}))]);
    validate(&server, "w", hooks).await;
    let start = std::time::Instant::now();
    let answer = send(&server, "POST", MAPS, config_map("a")).await;
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    refused(
        answer,
        500,
        "InternalError",
        &format!(
            "Internal error occurred: failed calling webhook \"slow.test.eyot.dev\": failed to \
             call webhook: Post \"https://{}/review?timeout=1s\": context deadline exceeded",
            webhook.address
        ),
    );
}

#[tokio::test]
async fn selectors_and_conditions_narrow_down_who_is_asked_about() {
    let server = plain().await;
    let webhook = Webhook::start(|_| deny("no")).await;
    for (name, labels) in [("marked", json!({"hook": "on"})), ("free", json!({}))] {
        let body = json!({"metadata": {"name": name, "labels": labels}});
        ok(&server, "POST", "/api/v1/namespaces", body).await;
    }
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    let more = json!({
        "namespaceSelector": {"matchLabels": {"hook": "on"}},
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
        "matchConditions": [
            {"name": "not-me", "expression": "object.metadata.name != 'skip-me'"},
            {"name": "me", "expression": "request.userInfo.username == 'admin'"},
            {"name": "can", "expression": "authorizer.group('').resource('secrets').check('create').allowed()"},
        ],
    });
    validate(&server, "w", json!([hook("some", &webhook, rules, more)])).await;
    let path = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut labelled = config_map("labelled");
    labelled["metadata"]["labels"] = json!({"skip": "x"});
    ok(&server, "POST", &path("free"), config_map("a")).await;
    ok(&server, "POST", &path("marked"), labelled).await;
    ok(&server, "POST", &path("marked"), config_map("skip-me")).await;
    assert_eq!(
        send(&server, "POST", &path("marked"), config_map("a"))
            .await
            .0,
        403
    );
    assert_eq!(webhook.calls(), ["CREATE configmaps a"]);
}

#[tokio::test]
async fn a_condition_that_fails_refuses_unless_it_may() {
    let server = plain().await;
    let webhook = Webhook::start(|_| allow()).await;
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    let conditions = json!([{"name": "c", "expression": "object.data.absent == 'x'"}]);
    let more = json!({"matchConditions": conditions, "failurePolicy": "Ignore"});
    validate(
        &server,
        "i",
        json!([hook("may", &webhook, rules.clone(), more)]),
    )
    .await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let more = json!({ "matchConditions": conditions });
    validate(&server, "w", json!([hook("must", &webhook, rules, more)])).await;
    refused(
        send(&server, "POST", MAPS, config_map("b")).await,
        403,
        "Forbidden",
        "configmaps \"b\" is forbidden: expression 'object.data.absent == 'x'' resulted in error: \
         no such key: absent",
    );
    assert!(webhook.calls().is_empty());
}

#[tokio::test]
async fn configurations_are_beyond_the_reach_of_webhooks() {
    let server = plain().await;
    let webhook = Webhook::start(|_| deny("no")).await;
    let rules = json!([rule(&["*"], &["*/*"])]);
    validate(
        &server,
        "v",
        json!([hook("all", &webhook, rules.clone(), json!({}))]),
    )
    .await;
    mutate(
        &server,
        "m",
        json!([hook("all", &webhook, rules, json!({}))]),
    )
    .await;
    for path in [VALIDATING, MUTATING] {
        let name = if path == VALIDATING { "v" } else { "m" };
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        ok(&server, "PATCH", &format!("{path}/{name}"), label).await;
        ok(&server, "DELETE", &format!("{path}/{name}"), Value::Null).await;
    }
    assert!(webhook.calls().is_empty());
}

#[tokio::test]
async fn subresources_pass_webhooks_in_their_own_shape() {
    let server = plain().await;
    let webhook = Webhook::start(|request| {
        let scaled = &request["object"]["spec"]["replicas"];
        match request["subResource"].as_str() {
            Some("scale") if scaled == 9 => deny("too many"),
            Some("scale") if scaled == 7 => {
                patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]))
            }
            Some("eviction") => deny("stay"),
            _ => allow(),
        }
    })
    .await;
    let rules = json!([rule(
        &["*"],
        &["pods/*", "replicasets/scale", "nodes/status"]
    )]);
    mutate(
        &server,
        "w",
        json!([hook("below", &webhook, rules, json!({}))]),
    )
    .await;
    let set = json!({"metadata": {"name": "s"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    ok(&server, "POST", sets, set).await;
    let scale = |count: u64| json!({"spec": {"replicas": count}});
    let path = format!("{sets}/s/scale");
    assert_eq!(send(&server, "PATCH", &path, scale(9)).await.0, 403);
    assert_eq!(
        ok(&server, "PATCH", &path, scale(7)).await["spec"]["replicas"],
        5
    );
    ok(&server, "POST", PODS, pod("p")).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
    ok(&server, "POST", &format!("{PODS}/p/binding"), binding).await;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(
        send(&server, "POST", &format!("{PODS}/p/eviction"), eviction)
            .await
            .0,
        403
    );
    ok(
        &server,
        "PATCH",
        &format!("{PODS}/p/status"),
        json!({"status": {"message": "m"}}),
    )
    .await;
    assert_eq!(
        webhook.calls(),
        [
            "UPDATE replicasets/scale s",
            "UPDATE replicasets/scale s",
            "CREATE pods p",
            "CREATE pods/binding p",
            "CREATE pods/eviction p",
            "UPDATE pods/status p",
        ]
    );
    let seen = webhook.seen.lock().unwrap().clone();
    let kinds: Vec<&str> = seen
        .iter()
        .filter_map(|r| r["kind"]["kind"].as_str())
        .collect();
    assert_eq!(
        kinds,
        ["Scale", "Scale", "Pod", "Binding", "Eviction", "Pod"]
    );
    assert_eq!(seen[0]["oldObject"]["spec"]["replicas"], 1);
}

#[tokio::test]
async fn willing_webhooks_are_asked_again_when_a_later_one_changed_the_object() {
    let server = plain().await;
    let webhook = Webhook::start(|request| {
        let labels = &request["object"]["metadata"]["labels"];
        let add = |key: &str| {
            patch(json!([{"op": "add", "path": format!("/metadata/labels/{key}"), "value": "x"}]))
        };
        match (labels.get("early"), labels.get("late"), labels.get("again")) {
            (None, _, _) => add("early"),
            (_, None, _) => add("late"),
            (_, _, None) => add("again"),
            _ => allow(),
        }
    })
    .await;
    let rules = json!([rule(&["CREATE"], &["pods"])]);
    let willing = json!({"reinvocationPolicy": "IfNeeded"});
    mutate(
        &server,
        "w",
        json!([
            hook("early", &webhook, rules.clone(), willing),
            hook("late", &webhook, rules, json!({})),
        ]),
    )
    .await;
    let made = ok(&server, "POST", PODS, pod("a")).await;
    assert_eq!(
        made["metadata"]["labels"],
        json!({"app": "web", "early": "x", "late": "x", "again": "x"})
    );
    assert_eq!(webhook.calls().len(), 3);
}

#[tokio::test]
async fn a_rule_about_one_version_catches_the_others_in_that_version() {
    let server = plain().await;
    let webhook = Webhook::start(|request| {
        assert_eq!(request["kind"]["version"], "v1");
        assert_eq!(request["requestKind"]["version"], "v2");
        assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
        patch(json!([{"op": "add", "path": "/spec/targetCPUUtilizationPercentage", "value": 33}]))
    })
    .await;
    let only_v1 = json!([{
        "operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"],
    }]);
    mutate(
        &server,
        "w",
        json!([hook("old", &webhook, only_v1.clone(), json!({}))]),
    )
    .await;
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
        "maxReplicas": 3,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    let made = ok(&server, "POST", path, scaler("a")).await;
    assert_eq!(made["apiVersion"], "autoscaling/v2");
    assert_eq!(
        made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        33
    );
    ok(&server, "DELETE", &format!("{MUTATING}/w"), Value::Null).await;
    let exact = json!({"matchPolicy": "Exact"});
    mutate(&server, "w", json!([hook("old", &webhook, only_v1, exact)])).await;
    ok(&server, "POST", path, scaler("b")).await;
    assert_eq!(webhook.calls().len(), 1);
}

#[tokio::test]
async fn custom_resources_are_mutated_and_pruned() {
    let server = plain().await;
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.x.test"}, "spec": {
            "group": "x.test", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "properties": {"data": {
                    "type": "object", "properties": {
                        "start": {"type": "string"}, "stage-1": {"type": "string"}}}}}}}]}});
    let webhook = Webhook::start(|request| {
        if request["resource"]["resource"] == "customresourcedefinitions" {
            return deny("no more kinds");
        }
        if request["operation"] == "DELETE" {
            return deny("it stays");
        }
        patch(json!([
            {"op": "add", "path": "/data/stage-1", "value": "yes"},
            {"op": "add", "path": "/data/stage-2", "value": "yes"},
        ]))
    })
    .await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    ok(&server, "POST", crds, crd.clone()).await;
    let rules = json!([
        rule(&["CREATE", "DELETE"], &["things"]),
        rule(&["CREATE"], &["customresourcedefinitions"]),
    ]);
    mutate(
        &server,
        "w",
        json!([hook("things", &webhook, rules, json!({}))]),
    )
    .await;
    let things = "/apis/x.test/v1/namespaces/default/things";
    let thing = json!({"apiVersion": "x.test/v1", "kind": "Thing", "metadata": {"name": "t"},
                       "data": {"start": "yes"}});
    let made = ok(&server, "POST", things, thing).await;
    assert_eq!(made["data"], json!({"start": "yes", "stage-1": "yes"}));
    refused(
        send(&server, "DELETE", &format!("{things}/t"), Value::Null).await,
        403,
        "",
        "admission webhook \"things.test.eyot.dev\" denied the request: it stays",
    );
    let mut other = crd;
    other["metadata"]["name"] = json!("others.x.test");
    other["spec"]["names"] = json!({"plural": "others", "kind": "Other"});
    assert_eq!(send(&server, "POST", crds, other).await.0, 403);
}

#[tokio::test]
async fn a_webhook_behind_a_service_is_found_by_its_endpoints() {
    let (server, dials) = counting().await;
    let webhook = Webhook::start(|_| deny("found")).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {
        "clusterIP": "None", "ports": [{"name": "https", "port": 8443}]}});
    ok(
        &server,
        "POST",
        "/api/v1/namespaces/default/services",
        service,
    )
    .await;
    let config = json!({"clientConfig": {
        "service": {"namespace": "default", "name": "hook", "port": 8443, "path": "/deny"},
        "caBundle": webhook.target()["caBundle"],
    }});
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    validate(&server, "w", json!([hook("svc", &webhook, rules, config)])).await;
    let answer = send(&server, "POST", MAPS, config_map("a")).await;
    let message = answer.1["message"].as_str().unwrap_or_default();
    assert!(
        message.ends_with("no endpoints available for service \"hook\""),
        "{message}"
    );
    let slice = json!({
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": webhook.address.port()}],
        "endpoints": [{"addresses": ["10.9.8.7"], "conditions": {"ready": true}}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    ok(&server, "POST", slices, slice).await;
    refused(
        send(&server, "POST", MAPS, config_map("a")).await,
        403,
        "",
        "admission webhook \"svc.test.eyot.dev\" denied the request: found",
    );
    let port = webhook.address.port();
    let expected = format!("default/hook 10.9.8.7:{port}");
    assert_eq!(*dials.services.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn a_webhook_may_write_through_the_server_that_asks_it() {
    let server = plain().await;
    let inner = server.clone();
    let webhook = Webhook::start_async(move |request| {
        let server = inner.clone();
        Box::pin(async move {
            // Its own write is not about what it is asked about.
            let name = format!(
                "seen-{}",
                request["object"]["metadata"]["name"].as_str().unwrap()
            );
            let body = json!({"metadata": {"name": name}, "stringData": {"a": "b"}});
            ok(&server, "POST", "/api/v1/namespaces/default/secrets", body).await;
            allow()
        })
    })
    .await;
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    validate(
        &server,
        "w",
        json!([hook("writer", &webhook, rules, json!({}))]),
    )
    .await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    assert_eq!(
        get(&server, "/api/v1/namespaces/default/secrets/seen-a")
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn connections_are_used_again() {
    let (server, dials) = counting().await;
    let webhook = Webhook::start(|_| allow()).await;
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    validate(&server, "w", json!([hook("w", &webhook, rules, json!({}))])).await;
    for count in 0..20 {
        ok(&server, "POST", MAPS, config_map(&format!("m{count}"))).await;
    }
    assert_eq!(webhook.calls().len(), 20);
    assert_eq!(dials.dials.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn warnings_reach_the_client_and_wrong_answers_are_told() {
    let server = plain().await;
    let webhook = Webhook::start(|request| {
        match request["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
        {
            "warn" => json!({"allowed": true, "warnings": ["mind the gap"]}),
            "other" => json!({"allowed": true, "uid": "x"}),
            _ => patch(json!([])),
        }
    })
    .await;
    let rules = json!([rule(&["CREATE"], &["configmaps"])]);
    validate(&server, "w", json!([hook("w", &webhook, rules, json!({}))])).await;
    let headers = [("content-type", "application/json")];
    let answer = raw(
        &server,
        "POST",
        MAPS,
        &headers,
        config_map("warn").to_string(),
    )
    .await;
    assert_eq!(answer.status(), 201);
    let warning = answer.headers().get("warning").unwrap();
    assert_eq!(warning, "299 - \"mind the gap\"");
    let start = "Internal error occurred: failed calling webhook \"w.test.eyot.dev\": received \
                 invalid webhook response: ";
    let answer = send(&server, "POST", MAPS, config_map("other")).await;
    let message = answer.1["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with(&format!("{start}expected response.uid=")),
        "{message}"
    );
    refused(
        send(&server, "POST", MAPS, config_map("patch")).await,
        500,
        "InternalError",
        &format!("{start}validating webhook may not return response.patch"),
    );
}

#[tokio::test]
async fn managed_fields_that_a_webhook_breaks_are_those_from_before() {
    let server = plain().await;
    let webhook = Webhook::start(|_| {
        patch(json!([
            {"op": "add", "path": "/data/added", "value": "x"},
            {"op": "replace", "path": "/metadata/managedFields/0/operation", "value": "Guess"},
        ]))
    })
    .await;
    let rules = json!([rule(&["CREATE", "UPDATE"], &["configmaps"])]);
    mutate(&server, "w", json!([hook("w", &webhook, rules, json!({}))])).await;
    let headers = [("content-type", "application/json")];
    let path = format!("{MAPS}?fieldManager=me");
    let answer = raw(
        &server,
        "POST",
        &path,
        &headers,
        config_map("a").to_string(),
    )
    .await;
    assert_eq!(answer.status(), 201);
    let warning = answer.headers()["warning"].to_str().unwrap();
    assert!(
        warning.starts_with(
            "299 - \".metadata.managedFields was in an invalid state after admission;"
        ),
        "{warning}"
    );
    let made = get(&server, &format!("{MAPS}/a")).await.1;
    assert_eq!(made["data"]["added"], "x");
    // What was changed on the client's behalf is not told to be its own.
    let entries = &made["metadata"]["managedFields"];
    assert_eq!(entries.as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&entries[0]["operation"], &entries[0]["manager"]),
        (&json!("Update"), &json!("me"))
    );
    assert_eq!(entries[0]["fieldsV1"]["f:data"].get("f:added"), None);
}
