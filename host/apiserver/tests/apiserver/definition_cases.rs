//! What Kubernetes' own tests of custom resources ask of their subresources, metadata and lists.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{get, ok, send, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOO: &str = "/apis/mygroup.example.com/v1beta1/namespaces/default/noxus/foo";

fn noxus(version: &str) -> String {
    format!("/apis/mygroup.example.com/{version}/namespaces/default/noxus")
}

/// Two versions with all subresources, whose scales find their selectors in different places.
fn definition(schema: &Value) -> Value {
    let version = |name: &str, storage: bool, selector: &str| {
        json!({
            "name": name, "served": true, "storage": storage,
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": selector}},
            "schema": {"openAPIV3Schema": schema},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "noxus.mygroup.example.com"},
        "spec": {
            "group": "mygroup.example.com", "scope": "Namespaced",
            "names": {"plural": "noxus", "singular": "nonenglishnoxu",
                      "kind": "WishIHadChosenNoxu", "listKind": "NoxuItemList",
                      "shortNames": ["foo", "bar", "abc", "def"]},
            "versions": [version("v1beta1", true, ".status.labelSelector"),
                         version("v1", false, ".status.anotherLabelSelector")],
        },
    })
}

fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn noxu(version: &str) -> Value {
    json!({
        "apiVersion": format!("mygroup.example.com/{version}"), "kind": "WishIHadChosenNoxu",
        "metadata": {"name": "foo", "namespace": "default"},
        "spec": {"num": 10, "replicas": 3}, "status": {"replicas": 7},
    })
}

async fn defined(schema: &Value) -> ApiServer {
    let server = server().await;
    ok(&server, "POST", CRDS, definition(schema)).await;
    server
}

#[tokio::test]
async fn spec_and_status_are_written_each_through_its_own_door() {
    let server = defined(&anything()).await;
    for version in ["v1beta1", "v1"] {
        let (all, one) = (noxus(version), format!("{}/foo", noxus(version)));
        let made = ok(&server, "POST", &all, noxu(version)).await;
        assert_eq!(made.get("status"), None);
        assert_eq!(made["metadata"]["generation"], 1);
        let mut next = made.clone();
        next["spec"]["num"] = 20.into();
        next["status"] = json!({"num": 20});
        let told = ok(&server, "PUT", &format!("{one}/status"), next).await;
        assert_eq!(
            (&told["spec"]["num"], &told["status"]["num"]),
            (&json!(10), &json!(20))
        );
        assert_eq!(told["metadata"]["generation"], 1);
        let mut next = told.clone();
        next["spec"]["num"] = 40.into();
        next["status"]["num"] = 40.into();
        let told = ok(&server, "PUT", &one, next).await;
        assert_eq!(
            (&told["spec"]["num"], &told["status"]["num"]),
            (&json!(40), &json!(20))
        );
        assert_eq!(told["metadata"]["generation"], 2);
        ok(&server, "DELETE", &one, Value::Null).await;
    }
}

#[tokio::test]
async fn a_patch_that_changes_nothing_writes_nothing() {
    let server = defined(&anything()).await;
    ok(&server, "POST", &noxus("v1beta1"), noxu("v1beta1")).await;
    let revision = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let status = format!("{FOO}/status");
    let patch = json!({"spec": {"num": 999}, "status": {"num": 999}});
    let first = ok(&server, "PATCH", &status, patch.clone()).await;
    assert_eq!(
        (&first["spec"]["num"], &first["status"]["num"]),
        (&json!(10), &json!(999))
    );
    for again in [patch, json!({})] {
        let told = ok(&server, "PATCH", &status, again).await;
        assert_eq!(revision(&told), revision(&first));
    }
    let scale = format!("{FOO}/scale");
    let patch = json!({"spec": {"replicas": 7}, "status": {"replicas": 7}});
    let first = ok(&server, "PATCH", &scale, patch.clone()).await;
    assert_eq!(
        (&first["spec"]["replicas"], &first["status"]["replicas"]),
        (&json!(7), &json!(0))
    );
    for again in [patch, json!({})] {
        let told = ok(&server, "PATCH", &scale, again).await;
        assert_eq!(revision(&told), revision(&first));
    }
    // Neither is one that other kinds of patches lead to.
    let (code, _) = send(&server, "PATCH", &scale, json!({"spec": {"replicas": -1}})).await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn a_scale_is_read_and_written_in_every_version() {
    let server = defined(&anything()).await;
    for (version, selector) in [("v1beta1", "labelSelector"), ("v1", "anotherLabelSelector")] {
        let (all, one) = (noxus(version), format!("{}/foo", noxus(version)));
        let mut made = ok(&server, "POST", &all, noxu(version)).await;
        made["status"] = json!({selector: "bar"});
        ok(&server, "PUT", &format!("{one}/status"), made).await;
        let mut scale = ok(&server, "GET", &format!("{one}/scale"), Value::Null).await;
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"]["selector"], "bar");
        scale["spec"]["replicas"] = 5.into();
        scale["status"]["selector"] = "baz".into();
        let scale = ok(&server, "PUT", &format!("{one}/scale"), scale).await;
        assert_eq!(scale["spec"]["replicas"], 5);
        assert_eq!(scale["status"]["selector"], "bar");
        let mut object = ok(&server, "GET", &one, Value::Null).await;
        assert_eq!(object["spec"]["replicas"], 5);
        assert_eq!(object["status"][selector], "bar");
        object["spec"]["replicas"] = i64::MAX.into();
        let (code, status) = send(&server, "PUT", &one, object).await;
        assert_eq!(code, 422, "{status}");
        let message = status["message"].as_str().unwrap();
        assert!(
            message.contains("should be less than or equal to 2147483647"),
            "{message}"
        );
        ok(&server, "DELETE", &one, Value::Null).await;
    }
    let mut wrong = definition(&anything());
    wrong["metadata"]["name"] = "others.mygroup.example.com".into();
    wrong["spec"]["names"] = json!({"plural": "others", "kind": "Other"});
    let path = "/spec/versions/0/subresources/scale/specReplicasPath";
    *wrong.pointer_mut(path).unwrap() = "foo,bar".into();
    assert_eq!(send(&server, "POST", CRDS, wrong).await.0, 422);
}

#[tokio::test]
async fn a_status_is_judged_alone() {
    let number = json!({"type": "object", "properties": {"num": {"type": "integer", "maximum": 10}},
                        "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": number, "status": number}});
    let server = defined(&schema).await;
    let made = ok(&server, "POST", &noxus("v1beta1"), noxu("v1beta1")).await;
    let mut odd = made.clone();
    odd["spec"]["num"] = 15.into();
    odd["status"] = json!({"num": 10});
    let told = ok(&server, "PUT", &format!("{FOO}/status"), odd.clone()).await;
    assert_eq!(told["spec"]["num"], 10);
    odd["metadata"] = told["metadata"].clone();
    odd["status"]["num"] = 15.into();
    let (code, status) = send(&server, "PUT", &format!("{FOO}/status"), odd).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(status["details"]["causes"][0]["field"], "status.num");
}

#[tokio::test]
async fn subresources_are_discovered_behind_their_resource() {
    let server = defined(&anything()).await;
    for version in ["v1beta1", "v1"] {
        let path = format!("/apis/mygroup.example.com/{version}");
        let list = ok(&server, "GET", &path, Value::Null).await;
        let found: Vec<String> = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                format!(
                    "{} {} {} {}",
                    one["name"].as_str().unwrap(),
                    one["kind"].as_str().unwrap(),
                    one["group"].as_str().unwrap_or("-"),
                    one["verbs"].as_array().unwrap().len()
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                "noxus WishIHadChosenNoxu - 8",
                "noxus/status WishIHadChosenNoxu - 3",
                "noxus/scale Scale autoscaling 3",
            ]
        );
    }
}

#[tokio::test]
async fn metadata_are_metadata_of_their_type() {
    let server = defined(&anything()).await;
    let mut odd = noxu("v1beta1");
    odd["metadata"]["labels"] = json!({"foo": 42, "bar": "abc"});
    let (code, status) = send(&server, "POST", &noxus("v1beta1"), odd.clone()).await;
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")));
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("cannot be handled"), "{message}");
    odd["metadata"]["labels"] = json!({"bar": "abc"});
    odd["metadata"]["unknown"] = 42.into();
    odd["metadata"]["generation"] = Value::Null;
    let made = ok(&server, "POST", &noxus("v1beta1"), odd).await;
    assert_eq!(made["metadata"].get("unknown"), None);
    assert_eq!(made["metadata"]["generation"], 1);
}

#[tokio::test]
async fn keys_of_lists_are_held_against_objects_that_kept_them() {
    let list = |keys: &[&str]| {
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
            "items": {"type": "object", "required": keys, "properties": {
                "a": {"type": "integer"}, "b": {"type": "integer"}}}})
    };
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {
        "type": "object", "x-kubernetes-map-type": "atomic",
        "additionalProperties": {"type": "integer"}}});
    let schema =
        |keys: &[&str]| json!({"type": "object", "properties": {"map": list(keys), "set": set}});
    let server = defined(&schema(&["a", "b"])).await;
    let mut object = noxu("v1beta1");
    object["map"] = json!([{"a": 1, "b": 1}, {"a": 1, "b": 2}]);
    object["set"] = json!([{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1}]);
    let made = ok(&server, "POST", &noxus("v1beta1"), object).await;
    let mut doubled = made.clone();
    for list in ["map", "set"] {
        let first = doubled[list][0].clone();
        doubled[list].as_array_mut().unwrap().push(first);
    }
    let (code, status) = send(&server, "PUT", FOO, doubled.clone()).await;
    let message = status["message"].as_str().unwrap();
    assert!(
        code == 422 && message.contains("map[2]") && message.contains("set[3]"),
        "{message}"
    );
    // Under fewer keys what is stored is wrong itself: then nothing is held against anybody.
    let mut crd = get(&server, &format!("{CRDS}/noxus.mygroup.example.com"))
        .await
        .1;
    for version in crd["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"]["openAPIV3Schema"] = schema(&["a"]);
    }
    ok(
        &server,
        "PUT",
        &format!("{CRDS}/noxus.mygroup.example.com"),
        crd,
    )
    .await;
    ok(&server, "PUT", FOO, doubled).await;
}
