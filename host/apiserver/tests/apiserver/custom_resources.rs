//! CustomResourceDefinitions and their objects.

use eyot_apiserver::{ApiServer, Options};
use eyot_store::Store;
use serde_json::{Value, json};

use crate::{PATIENCE, bytes, get, ok, raw, send, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/x.test/v1/namespaces/default/widgets";

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.x.test"},
        "spec": {
            "group": "x.test", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "size": {"type": "integer", "minimum": 1, "default": 3},
                    }},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size",
                }},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                ],
            }],
        },
    })
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "x.test/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {}})
}

#[tokio::test]
async fn a_definition_is_served_as_soon_as_it_is_created() {
    let server = server().await;
    assert_eq!(get(&server, WIDGETS).await.0, 404);
    ok(&server, "POST", CRDS, definition()).await;
    let path = format!("{CRDS}/widgets.x.test");
    let crd = ok(&server, "GET", &path, Value::Null).await;
    let conditions = crd["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    );
    let made = ok(&server, "POST", WIDGETS, widget("a")).await;
    assert_eq!(made["spec"]["size"], 3);
    assert_eq!(made["metadata"]["generation"], 1);
    let list = ok(&server, "GET", WIDGETS, Value::Null).await;
    assert_eq!(list["kind"], "WidgetList");
    let groups = ok(&server, "GET", "/apis/x.test/v1", Value::Null).await;
    assert_eq!(groups["resources"][0]["shortNames"], json!(["wd"]));
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let answer = raw(&server, "GET", WIDGETS, &[("accept", accept)], "").await;
    let table: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    assert_eq!(table["rows"][0]["cells"], json!(["a", 3]));
}

#[tokio::test]
async fn objects_are_checked_against_their_schema() {
    let server = server().await;
    ok(&server, "POST", CRDS, definition()).await;
    let mut bad = widget("a");
    bad["spec"] = json!({"size": 0});
    let (code, status) = send(&server, "POST", WIDGETS, bad).await;
    assert_eq!(
        (code, &status["details"]["causes"][0]["field"]),
        (422, &json!("spec.size"))
    );
    let mut odd = widget("a");
    odd["spec"] = json!({"size": 2, "bogus": 1});
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let (code, status) = send(&server, "POST", &strict, odd.clone()).await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("unknown field \"spec.bogus\"")
    );
    let made = ok(&server, "POST", WIDGETS, odd).await;
    assert_eq!(made["spec"], json!({"size": 2}));
    let (code, _) = send(
        &server,
        "PATCH",
        &format!("{WIDGETS}/a"),
        json!({"spec": {"size": "x"}}),
    )
    .await;
    assert_eq!(code, 422);
    let patch = [("content-type", "application/strategic-merge-patch+json")];
    let answer = raw(&server, "PATCH", &format!("{WIDGETS}/a"), &patch, "{}").await;
    assert_eq!(answer.status(), 415);
}

#[tokio::test]
async fn status_and_scale_are_subresources_where_the_definition_says_so() {
    let server = server().await;
    ok(&server, "POST", CRDS, definition()).await;
    let mut with_status = widget("a");
    with_status["status"] = json!({"size": 9});
    assert_eq!(
        ok(&server, "POST", WIDGETS, with_status)
            .await
            .get("status"),
        None
    );
    let status = json!({"status": {"size": 7}, "spec": {"size": 100}});
    let after = ok(&server, "PATCH", &format!("{WIDGETS}/a/status"), status).await;
    assert_eq!(
        (&after["status"]["size"], &after["spec"]["size"]),
        (&json!(7), &json!(3))
    );
    let scaled = ok(
        &server,
        "PATCH",
        &format!("{WIDGETS}/a/scale"),
        json!({"spec": {"replicas": 5}}),
    )
    .await;
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["status"]["replicas"]),
        (&json!(5), &json!(7))
    );
}

#[tokio::test]
async fn definitions_and_their_objects_outlive_a_restart() {
    let store = Store::in_memory(eyot_apiserver::extract);
    let before = ApiServer::new(store.clone(), Options::default())
        .await
        .unwrap();
    ok(&before, "POST", CRDS, definition()).await;
    ok(&before, "POST", WIDGETS, widget("a")).await;
    drop(before);
    let after = ApiServer::new(store, Options::default()).await.unwrap();
    assert_eq!(get(&after, &format!("{WIDGETS}/a")).await.0, 200);
}

#[tokio::test]
async fn deleting_a_definition_deletes_its_objects() {
    let server = server().await;
    ok(&server, "POST", CRDS, definition()).await;
    ok(&server, "POST", WIDGETS, widget("a")).await;
    ok(
        &server,
        "DELETE",
        &format!("{CRDS}/widgets.x.test"),
        Value::Null,
    )
    .await;
    let gone = async {
        while get(&server, &format!("{CRDS}/widgets.x.test")).await.0 != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the definition goes");
    assert_eq!(get(&server, WIDGETS).await.0, 404);
    ok(&server, "POST", CRDS, definition()).await;
    let list = ok(&server, "GET", WIDGETS, Value::Null).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn an_object_reads_in_every_served_version() {
    let server = server().await;
    let mut crd = definition();
    let mut second = crd["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    ok(&server, "POST", CRDS, crd).await;
    ok(&server, "POST", WIDGETS, widget("a")).await;
    let path = "/apis/x.test/v2/namespaces/default/widgets";
    assert_eq!(
        get(&server, &format!("{path}/a")).await.1["apiVersion"],
        "x.test/v2"
    );
    let list = ok(&server, "GET", path, Value::Null).await;
    assert_eq!(list["items"][0]["apiVersion"], "x.test/v2");
}
