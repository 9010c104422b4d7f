//! Server-side apply and `metadata.managedFields`, as clients see them.

use eyot_apiserver::{ApiServer, User};
use serde_json::{Value, json};

use crate::{bytes, config_map, get, ok, raw, send, send_as, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const APPLY: &str = "application/apply-patch+yaml";

/// Send an apply. `query` starts with the field manager.
async fn apply_text(server: &ApiServer, path: &str, query: &str, body: &str) -> (u16, Value) {
    let path = match query {
        "" => path.to_owned(),
        query => format!("{path}?fieldManager={query}"),
    };
    let headers = [("content-type", APPLY)];
    let response = raw(server, "PATCH", &path, &headers, body.to_owned()).await;
    let code = response.status().as_u16();
    (
        code,
        serde_json::from_slice(&bytes(response).await).unwrap(),
    )
}

async fn apply(server: &ApiServer, path: &str, query: &str, body: Value) -> (u16, Value) {
    apply_text(server, path, query, &body.to_string()).await
}

async fn applied(server: &ApiServer, path: &str, query: &str, body: Value) -> Value {
    let (code, answer) = apply(server, path, query, body).await;
    assert!(matches!(code, 200 | 201), "{code} {answer}");
    answer
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn deployment(replicas: Option<u32>) -> Value {
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]},
            },
        },
    });
    if let Some(replicas) = replicas {
        deployment["spec"]["replicas"] = replicas.into();
    }
    deployment
}

/// The fields of a manager's entry.
fn fields(object: &Value, manager: &str, operation: &str, subresource: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array();
    let entry = entries.into_iter().flatten().find(|entry| {
        entry["manager"] == manager
            && entry["operation"] == operation
            && entry["subresource"].as_str().unwrap_or_default() == subresource
    });
    entry.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[tokio::test]
async fn applying_creates_then_updates_then_leaves_alone() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    let (code, made) = apply(&server, &path, "one", map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(code, 201);
    let expected = json!({"f:data": {"f:a": {}, "f:b": {}}});
    assert_eq!(fields(&made, "one", "Apply", ""), expected);
    // YAML, and a field less: it goes.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  a: \"2\"\n";
    let (code, changed) = apply_text(&server, &path, "one", yaml).await;
    assert_eq!((code, &changed["data"]), (200, &json!({"a": "2"})));
    let (_, again) = apply_text(&server, &path, "one", yaml).await;
    assert_eq!(again, changed, "nothing is written, not even a time");
}

#[tokio::test]
async fn what_several_applied_stays_until_the_last_lets_go() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    applied(&server, &path, "one", map(json!({"a": "1", "b": "1"}))).await;
    applied(&server, &path, "two", map(json!({"a": "1"}))).await;
    let shared = applied(&server, &path, "one", map(json!({"b": "1"}))).await;
    assert_eq!(shared["data"], json!({"a": "1", "b": "1"}));
    let gone = applied(&server, &path, "two", map(json!({}))).await;
    assert_eq!(gone["data"], json!({"b": "1"}));
}

#[tokio::test]
async fn conflicts_name_the_managers_and_their_fields() {
    let server = server().await;
    let path = format!("{DEPLOYMENTS}/web");
    applied(&server, &path, "kubectl", deployment(Some(3))).await;
    let (code, conflict) = apply(&server, &path, "other", deployment(Some(2))).await;
    assert_eq!(code, 409);
    assert_eq!(
        conflict,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas",
            "reason": "Conflict",
            "details": {"causes": [{
                "reason": "FieldManagerConflict",
                "message": "conflict with \"kubectl\"",
                "field": ".spec.replicas",
            }]},
            "code": 409,
        })
    );
    let mut more = deployment(Some(2));
    more["spec"]["template"]["spec"]["containers"][0]["image"] = "busybox".into();
    let (_, conflict) = apply(&server, &path, "other", more.clone()).await;
    assert_eq!(
        conflict["message"],
        "Apply failed with 2 conflicts: conflicts with \"kubectl\":\n\
         - .spec.replicas\n\
         - .spec.template.spec.containers[name=\"c\"].image"
    );
    // Whoever updates is named with the version and the time of the update.
    let scaled = json!({"spec": {"replicas": 5}});
    ok(
        &server,
        "PATCH",
        &format!("{path}?fieldManager=hand"),
        scaled,
    )
    .await;
    let (_, conflict) = apply(&server, &path, "other", deployment(Some(2))).await;
    let message = conflict["message"].as_str().unwrap();
    let start = "Apply failed with 1 conflict: conflict with \"hand\" using apps/v1";
    assert!(message.starts_with(start), "{message}");
    let taken = applied(&server, &path, "other&force=true", more).await;
    assert_eq!(taken["spec"]["replicas"], 2);
    assert_eq!(fields(&taken, "hand", "Update", ""), Value::Null);
    assert_eq!(
        fields(&taken, "kubectl", "Apply", "")["f:spec"].get("f:replicas"),
        None
    );
}

#[tokio::test]
async fn an_owner_that_is_told_the_same_value_shares_it() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    ok(
        &server,
        "POST",
        &format!("{MAPS}?fieldManager=hand"),
        map(json!({"a": "1"})),
    )
    .await;
    let shared = applied(&server, &path, "one", map(json!({"a": "1"}))).await;
    for (manager, operation) in [("hand", "Update"), ("one", "Apply")] {
        assert!(
            !fields(&shared, manager, operation, "").is_null(),
            "{shared}"
        );
    }
}

#[tokio::test]
async fn status_and_scale_are_applied_on_their_own() {
    let server = server().await;
    let path = format!("{DEPLOYMENTS}/web");
    let status = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "status": {"replicas": 1}, "spec": {"replicas": 9},
    });
    let (code, _) = apply(&server, &format!("{path}/status"), "s", status.clone()).await;
    assert_eq!(code, 404, "a status creates nothing");
    applied(&server, &path, "one", deployment(Some(1))).await;
    let reported = applied(&server, &format!("{path}/status"), "s", status).await;
    assert_eq!(reported["spec"]["replicas"], 1);
    assert_eq!(
        fields(&reported, "s", "Apply", "status"),
        json!({"f:status": {"f:replicas": {}}})
    );
    let scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"},
        "spec": {"replicas": 4},
    });
    let (code, conflict) = apply(&server, &format!("{path}/scale"), "hpa", scale.clone()).await;
    assert_eq!((code, &conflict["reason"]), (409, &json!("Conflict")));
    applied(&server, &format!("{path}/scale"), "hpa&force=true", scale).await;
    let (_, scaled) = get(&server, &path).await;
    assert_eq!(scaled["spec"]["replicas"], 4);
    assert_eq!(
        fields(&scaled, "hpa", "Apply", "scale"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    assert_eq!(
        fields(&scaled, "one", "Apply", "")["f:spec"].get("f:replicas"),
        None
    );
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    let (code, _) = apply(&server, &path, "one&dryRun=All", map(json!({"a": "1"}))).await;
    assert_eq!(code, 201);
    assert_eq!(get(&server, &path).await.0, 404);
    let made = applied(&server, &path, "one", map(json!({"a": "1"}))).await;
    let (_, told) = apply(&server, &path, "one&dryRun=All", map(json!({"a": "2"}))).await;
    assert_eq!(told["data"]["a"], "2");
    assert_eq!(get(&server, &path).await.1, made);
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    let with = |key: &str, value: Value| {
        let mut config = map(json!({"a": "1"}));
        config["metadata"][key] = value;
        config
    };
    let mut unnamed = map(json!({}));
    unnamed["metadata"] = json!({});
    let mut generated = unnamed.clone();
    generated["metadata"] = json!({"generateName": "a-"});
    let mut unknown = map(json!({}));
    unknown["dota"] = json!({});
    for (query, config, code, message) in [
        (
            "",
            map(json!({})),
            422,
            "fieldManager: Required value: is required for apply patch",
        ),
        (
            "one",
            with("managedFields", json!([])),
            400,
            "metadata.managedFields must be nil",
        ),
        ("one", unnamed, 400, "name must be provided"),
        ("one", generated, 400, "name must be provided"),
        (
            "one",
            with("uid", "x".into()),
            409,
            "uid mismatch: the provided object specified uid x",
        ),
        (
            "one",
            unknown,
            500,
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .dota: field \
             not declared in schema",
        ),
        (
            "one",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}),
            400,
            "invalid object type: /v1, Kind=Secret",
        ),
    ] {
        let (got, answer) = apply(&server, &path, query, config.clone()).await;
        let text = answer["message"].as_str().unwrap_or_default();
        assert!(
            got == code && text.contains(message),
            "{query} {config}: {got} {text}"
        );
    }
    assert_eq!(get(&server, &path).await.0, 404);
    let made = applied(&server, &path, "one", map(json!({"a": "1"}))).await;
    let stale = with("resourceVersion", "1".into());
    assert_eq!(apply(&server, &path, "one", stale).await.0, 409);
    let fresh = with(
        "resourceVersion",
        made["metadata"]["resourceVersion"].clone(),
    );
    assert_eq!(apply(&server, &path, "one", fresh).await.0, 200);
    let (code, answer) = send(&server, "PATCH", &format!("{path}?force=true"), json!({})).await;
    assert_eq!(code, 422);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("force: Forbidden: may not be specified for non-apply patch"),
        "{message}"
    );
}

#[tokio::test]
async fn keys_given_twice_are_judged_as_the_client_asks() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":"1","a":"2"}}"#;
    let strict = "one&fieldValidation=Strict";
    let (code, answer) = apply_text(&server, &path, strict, twice).await;
    assert_eq!(code, 400);
    assert_eq!(
        answer["message"],
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  \
         line 1: key \"a\" already set in map"
    );
    let (code, answer) = apply_text(&server, &path, "one&fieldValidation=Warn", twice).await;
    assert_eq!((code, &answer["data"]["a"]), (201, &json!("2")));
}

#[tokio::test]
async fn other_forms_of_apply_are_refused() {
    let server = server().await;
    let path = format!("{MAPS}/a?fieldManager=one");
    let headers = [("content-type", "application/apply-patch+cbor")];
    let response = raw(&server, "PATCH", &path, &headers, vec![0xa0]).await;
    assert_eq!(response.status(), 415);
}

#[tokio::test]
async fn the_same_again_changes_no_entry_and_no_revision() {
    let server = server().await;
    let path = format!("{MAPS}/a");
    let made = ok(&server, "POST", MAPS, config_map("a")).await;
    let mut same = made.clone();
    let again = ok(
        &server,
        "PUT",
        &format!("{path}?fieldManager=two"),
        same.clone(),
    )
    .await;
    assert_eq!(again, made);
    same["data"]["more"] = "1".into();
    same["metadata"]["managedFields"] = json!([{"operation": "Nonsense"}]);
    let kept = ok(
        &server,
        "PUT",
        &format!("{path}?fieldManager=two"),
        same.clone(),
    )
    .await;
    assert_eq!(
        fields(&kept, "two", "Update", ""),
        json!({"f:data": {"f:more": {}}})
    );
    assert!(!fields(&kept, "unknown", "Update", "").is_null(), "{kept}");
    // A list that is empty forgets all managers.
    same["metadata"]["managedFields"] = json!([]);
    same["metadata"]["resourceVersion"] = Value::Null;
    let reset = ok(&server, "PUT", &format!("{path}?fieldManager=two"), same).await;
    assert_eq!(reset["metadata"].get("managedFields"), None);
}

#[tokio::test]
async fn parts_of_the_host_are_managers_by_their_user() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    for (user, manager) in [
        ("system:eyot-devices", "eyot-devices"),
        (
            "system:serviceaccount:kube-system:deployment-controller",
            "kube-controller-manager",
        ),
        ("system:kube-scheduler", "kube-scheduler"),
        ("system:node:here", "kubelet"),
        ("somebody", "unknown"),
    ] {
        let user = User::new(user, &["system:masters"]);
        let change = json!({"data": {"by": manager}});
        let (_, changed) = send_as(&server, &user, "PATCH", &format!("{MAPS}/a"), change).await;
        let own = fields(&changed, manager, "Update", "");
        assert_eq!(own["f:data"]["f:by"], json!({}), "{changed}");
    }
}

#[tokio::test]
async fn lists_of_custom_resources_merge_as_their_schema_says() {
    let server = server().await;
    let item = json!({
        "type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
    });
    let list = |kind: &str| {
        let mut list = json!({"type": "array", "items": item, "x-kubernetes-list-type": kind});
        if kind == "map" {
            list["x-kubernetes-list-map-keys"] = json!(["name"]);
        }
        list
    };
    let set = json!({
        "type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set",
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.x.test"},
        "spec": {
            "group": "x.test", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                    "type": "object",
                    "properties": {"keyed": list("map"), "whole": list("atomic"), "set": set},
                }}}},
            }],
        },
    });
    ok(&server, "POST", DEFINITIONS, definition).await;
    let path = "/apis/x.test/v1/namespaces/default/things/t";
    let thing = |spec: Value| json!({"apiVersion": "x.test/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": spec});
    let one = json!({
        "keyed": [{"name": "a", "value": "1"}], "set": ["a"], "whole": [{"name": "a"}],
    });
    applied(&server, path, "one", thing(one)).await;
    let two = json!({"keyed": [{"name": "b", "value": "1"}], "set": ["b"]});
    let both = applied(&server, path, "two", thing(two)).await;
    assert_eq!(
        both["spec"],
        json!({
            "keyed": [{"name": "a", "value": "1"}, {"name": "b", "value": "1"}],
            "set": ["a", "b"], "whole": [{"name": "a"}],
        })
    );
    assert_eq!(
        fields(&both, "two", "Apply", ""),
        json!({"f:spec": {
            "f:keyed": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}, "f:value": {}}},
            "f:set": {"v:\"b\"": {}},
        }})
    );
    let whole = thing(json!({"whole": [{"name": "b"}]}));
    let (_, conflict) = apply(&server, path, "two", whole).await;
    assert_eq!(
        conflict["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.whole"
    );
    let left = applied(&server, path, "one", thing(json!({"set": ["a"]}))).await;
    assert_eq!(
        left["spec"],
        json!({"keyed": [{"name": "b", "value": "1"}], "set": ["a", "b"]})
    );
}

#[tokio::test]
async fn a_field_that_is_written_in_another_version_is_taken_there() {
    let server = server().await;
    let path = |version: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/a")
    };
    let scaler = |version: &str, spec: Value| {
        let mut spec = spec;
        spec["scaleTargetRef"] =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
        json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler",
               "metadata": {"name": "a"}, "spec": spec})
    };
    let old = scaler(
        "v1",
        json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}),
    );
    applied(&server, &path("v1"), "old", old).await;
    let metric = |percent: u64| {
        json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}])
    };
    let new = scaler("v2", json!({"maxReplicas": 3, "metrics": metric(60)}));
    let (code, refused) = apply(&server, &path("v2"), "new", new.clone()).await;
    assert_eq!(code, 409, "{refused}");
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.targetCPUUtilizationPercentage",
                "message": "conflict with \"old\""}])
    );
    let taken = applied(&server, &path("v2"), "new&force=true", new).await;
    let fields = |manager: &str| {
        let entries = taken["metadata"]["managedFields"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["manager"] == manager);
        let entry = entry.unwrap();
        let version = entry["apiVersion"].as_str().unwrap().to_owned();
        let names: Vec<String> = entry["fieldsV1"]["f:spec"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        (version, names)
    };
    let names = |list: [&str; 2]| list.map(str::to_owned).to_vec();
    let old = names(["f:maxReplicas", "f:scaleTargetRef"]);
    assert_eq!(fields("old"), ("autoscaling/v1".to_owned(), old));
    assert_eq!(fields("new").0, "autoscaling/v2");
    // Who gives up a field in one version gives it up in the others.
    let less = scaler("v1", json!({"minReplicas": 2, "maxReplicas": 3}));
    let less = applied(&server, &path("v1"), "old", less).await;
    assert_eq!(less["spec"]["minReplicas"], 2);
    let moved = scaler("v2", json!({"maxReplicas": 3}));
    let moved = applied(&server, &path("v2"), "old", moved).await;
    assert_eq!(moved["spec"]["minReplicas"], 1, "the default again");
    assert_eq!(moved["spec"]["metrics"], metric(60));
}
