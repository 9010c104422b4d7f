//! Definitions in use: what they ask of objects, how they change, how they share names, how they go.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{Lines, bytes, get, ok, raw, send, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.x.test";
const THINGS: &str = "/apis/x.test/v1/things";

fn definition(plural: &str, kind: &str, versions: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.x.test")},
        "spec": {
            "group": "x.test", "scope": "Cluster", "versions": versions,
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
        },
    })
}

/// A version with these properties of its objects.
fn version(name: &str, storage: bool, properties: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
}

/// A server with a definition of things that have these properties.
async fn things(properties: Value) -> ApiServer {
    let server = server().await;
    let crd = definition("things", "Thing", json!([version("v1", true, properties)]));
    ok(&server, "POST", CRDS, crd).await;
    server
}

/// Give the things other properties.
async fn redefine(server: &ApiServer, properties: Value) {
    let versions = json!([version("v1", true, properties)]);
    ok(
        server,
        "PATCH",
        CRD,
        json!({"spec": {"versions": versions}}),
    )
    .await;
}

fn thing(name: &str, fields: Value) -> Value {
    let mut thing = json!({"apiVersion": "x.test/v1", "kind": "Thing", "metadata": {"name": name}});
    if let Value::Object(fields) = fields {
        thing.as_object_mut().unwrap().extend(fields);
    }
    thing
}

#[track_caller]
fn refused((code, status): (u16, Value), expected: u16, parts: &[&str]) {
    assert_eq!(code, expected, "{status}");
    let message = status["message"].as_str().unwrap();
    for part in parts {
        assert!(message.contains(part), "{message} lacks {part}");
    }
}

fn condition<'a>(crd: &'a Value, kind: &str) -> &'a Value {
    let conditions = crd["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|c| c["type"] == kind).unwrap()
}

#[tokio::test]
async fn definitions_list_and_go_by_their_labels() {
    let server = server().await;
    let properties = json!({});
    for plural in ["as", "bs", "cs"] {
        let versions = json!([version("v1", true, properties.clone())]);
        let mut crd = definition(plural, &plural.to_uppercase(), versions);
        if plural != "cs" {
            crd["metadata"]["labels"] = json!({"test": "yes"});
        }
        ok(&server, "POST", CRDS, crd).await;
    }
    let selected = format!("{CRDS}?labelSelector=test%3Dyes");
    let list = ok(&server, "GET", &selected, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    ok(&server, "DELETE", &selected, Value::Null).await;
    for _ in 0..200 {
        if get(&server, &format!("{CRDS}/as.x.test")).await.0 == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(get(&server, &format!("{CRDS}/as.x.test")).await.0, 404);
    assert_eq!(get(&server, &format!("{CRDS}/cs.x.test")).await.0, 200);
}

#[tokio::test]
async fn the_status_of_a_definition_can_be_read_and_written() {
    let server = things(json!({})).await;
    let status = format!("{CRD}/status");
    let mut crd = ok(&server, "GET", &status, Value::Null).await;
    let spec = crd["spec"].clone();
    let empty = json!({"type": "", "status": "", "lastTransitionTime": null, "message": "updated"});
    crd["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(empty);
    let updated = ok(&server, "PUT", &status, crd).await;
    let conditions = updated["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["message"] == "updated"));
    let patch =
        r#"[{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]"#;
    let media = [("content-type", "application/json-patch+json")];
    let answer = raw(&server, "PATCH", &status, &media, patch).await;
    assert_eq!(answer.status(), 200);
    let patched: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    let conditions = patched["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["message"] == "patched"));
    let crd = ok(&server, "GET", CRD, Value::Null).await;
    assert_eq!(crd["spec"], spec);
    assert_eq!(condition(&crd, "Established")["status"], "True");
    assert_eq!(get(&server, THINGS).await.0, 200);
}

#[tokio::test]
async fn defaults_hold_for_requests_and_for_what_is_stored() {
    let string = || json!({"type": "string"});
    let server = things(json!({"a": string(), "b": string()})).await;
    ok(&server, "POST", THINGS, thing("one", json!({}))).await;
    let with = |value: &str| json!({"type": "string", "default": value});
    redefine(&server, json!({"a": with("A"), "b": string()})).await;
    let one = format!("{THINGS}/one");
    assert_eq!(ok(&server, "GET", &one, Value::Null).await["a"], "A");
    let two = ok(&server, "POST", THINGS, thing("two", json!({}))).await;
    assert_eq!((&two["a"], two.get("b")), (&json!("A"), None));
    redefine(&server, json!({"a": string(), "b": with("B")})).await;
    let two = ok(&server, "GET", &format!("{THINGS}/two"), Value::Null).await;
    assert_eq!((&two["a"], &two["b"]), (&json!("A"), &json!("B")));
    // Nobody wrote the first since, so its first default was never stored.
    let one = ok(&server, "GET", &one, Value::Null).await;
    assert_eq!((one.get("a"), &one["b"]), (None, &json!("B")));
}

#[tokio::test]
async fn what_did_not_change_may_stay_wrong() {
    let free = json!({"type": "string"});
    let (list, map) = (
        |field: &Value| {
            json!({"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["key"], "items": {"type": "object",
                "required": ["key"], "properties": {"key": {"type": "string"}, "field": field}}})
        },
        |field: &Value| {
            json!({"type": "object", "additionalProperties": {
                "type": "object", "properties": {"field": field}}})
        },
    );
    let set =
        |item: &Value| json!({"type": "array", "x-kubernetes-list-type": "set", "items": item});
    let schema = |field: &Value, item: &Value| {
        json!({"field": field, "list": list(field), "map": map(field), "set": set(item),
            "atomic": {"type": "array", "items": item}})
    };
    let rules = json!([{"rule": "self == 'good'"}]);
    for (strict, in_map) in [
        (json!({"type": "string", "enum": ["good"]}), "map.m.field"),
        (
            json!({"type": "string", "x-kubernetes-validations": rules}),
            "map[m].field",
        ),
    ] {
        let mut schema_of_lists = strict.clone();
        schema_of_lists["maxLength"] = 10.into();
        let server = things(schema(&free, &free)).await;
        let fields = json!({"field": "bad", "list": [{"key": "k", "field": "bad"}],
            "map": {"m": {"field": "bad"}}, "set": ["bad"], "atomic": ["bad"]});
        ok(&server, "POST", THINGS, thing("a", fields)).await;
        let mut bounded = schema(&strict, &schema_of_lists);
        for name in ["list", "set", "atomic"] {
            bounded[name]["maxItems"] = 10.into();
        }
        bounded["map"]["maxProperties"] = 10.into();
        redefine(&server, bounded).await;
        let path = format!("{THINGS}/a");
        let label = json!({"metadata": {"labels": {"foo": "bar"}}});
        ok(&server, "PATCH", &path, label).await;
        let more = json!({"list": [{"key": "k", "field": "bad"}, {"key": "l", "field": "good"}]});
        ok(&server, "PATCH", &path, more).await;
        let lists = json!({"set": ["bad", "good"], "atomic": ["bad", "good"]});
        let answer = send(&server, "PATCH", &path, lists).await;
        refused(answer, 422, &["set[0]", "atomic[0]"]);
        let worse = json!({"field": "worse", "map": {"m": {"field": "worse"}}});
        let answer = send(&server, "PATCH", &path, worse).await;
        refused(answer, 422, &["field", in_map]);
    }
}

#[tokio::test]
async fn metadata_and_fields_are_told_of_together() {
    let server = things(json!({"field": {"type": "string", "enum": ["unique"]}})).await;
    let mut bad = thing("a", json!({"field": "other"}));
    bad["metadata"]["finalizers"] = json!(["unqualified"]);
    bad["metadata"]["labels"] = json!({"#inv/($%)/alid=": ">htt$://"});
    let answer = send(&server, "POST", THINGS, bad).await;
    let parts = [
        "metadata.labels",
        "Unsupported value: \"other\"",
        "\"unique\"",
    ];
    refused(answer, 422, &parts);
}

#[tokio::test]
async fn rules_hold_with_their_own_words() {
    let server = things(json!({"spec": {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
        "x-kubernetes-validations": [
            {"rule": "self.x + self.y > 0"},
            {"rule": "self.x >= oldSelf.x", "message": "x only grows", "fieldPath": ".x",
             "reason": "FieldValueForbidden"},
            {"rule": "self.y < 100", "messageExpression": "'y is ' + string(self.y)"},
        ],
    }}))
    .await;
    let spec = |x: i64, y: i64| json!({"spec": {"x": x, "y": y}});
    ok(&server, "POST", THINGS, thing("a", spec(1, 0))).await;
    let answer = send(&server, "POST", THINGS, thing("b", spec(0, 0))).await;
    refused(
        answer,
        422,
        &["spec: Invalid value: \"object\": failed rule: self.x + self.y > 0"],
    );
    let answer = send(&server, "POST", THINGS, thing("b", spec(1, 100))).await;
    refused(answer, 422, &["y is 100"]);
    let answer = send(&server, "PATCH", &format!("{THINGS}/a"), spec(0, 9)).await;
    refused(answer, 422, &["spec.x: Forbidden: x only grows"]);
    for (rule, words) in [
        ("self.z == 100", "undefined field 'z'"),
        ("self.x ==", "Syntax error"),
        ("self.x", "cel expression must evaluate to a bool"),
        ("bogus(self)", "undeclared reference to 'bogus'"),
    ] {
        let mut properties = json!({"spec": {"type": "object"}});
        properties["spec"]["properties"] = json!({"x": {"type": "integer"}});
        properties["spec"]["x-kubernetes-validations"] = json!([{"rule": rule}]);
        let versions = json!([version("v1", true, properties)]);
        let answer = send(&server, "POST", CRDS, definition("bads", "Bad", versions)).await;
        refused(answer, 422, &[words]);
    }
}

#[tokio::test]
async fn unknown_and_repeated_fields_are_told_of_where_they_are() {
    let server = things(json!({"spec": {
        "type": "object", "properties": {
            "known": {"type": "string"},
            "template": {
                "type": "object", "x-kubernetes-embedded-resource": true,
                "properties": {"metadata": {"type": "object"}, "spec": {"type": "object"}},
            },
        },
    }}))
    .await;
    let strict = format!("{THINGS}?fieldValidation=Strict");
    let body = r#"{"apiVersion": "x.test/v1", "kind": "Thing",
        "metadata": {"name": "a", "unknownMeta": 1},
        "unknown": 1, "spec": {"known": "1", "known": "2", "unknown": 1, "template": {
            "apiVersion": "foo/v1", "kind": "Sub", "metadata": {"name": "s", "unknownSub": 1}}}}"#;
    let media = [("content-type", "application/json")];
    let answer = raw(&server, "POST", &strict, &media, body).await;
    assert_eq!(answer.status(), 400);
    let status: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    refused(
        (400, status),
        400,
        &[
            "strict decoding error: ",
            "duplicate field \"spec.known\"",
            "unknown field \"metadata.unknownMeta\"",
            "unknown field \"unknown\"",
            "unknown field \"spec.unknown\"",
            "unknown field \"spec.template.metadata.unknownSub\"",
        ],
    );
    let answer = raw(&server, "POST", THINGS, &media, body).await;
    let warnings = answer.headers().get_all("warning").iter().count();
    assert_eq!((answer.status().as_u16(), warnings), (201, 5));

    // A definition that knows nothing of its objects takes everything.
    let mut open = version("v1", true, json!({}));
    open["schema"]["openAPIV3Schema"]["x-kubernetes-preserve-unknown-fields"] = true.into();
    ok(
        &server,
        "POST",
        CRDS,
        definition("opens", "Open", json!([open])),
    )
    .await;
    let mut any = thing("a", json!({"spec": {"anything": [1, {"goes": null}]}}));
    any["kind"] = "Open".into();
    let made = ok(
        &server,
        "POST",
        "/apis/x.test/v1/opens?fieldValidation=Strict",
        any,
    )
    .await;
    assert_eq!(made["spec"], json!({"anything": [1, {"goes": null}]}));
}

#[tokio::test]
async fn versions_are_served_and_stored_as_the_definition_says() {
    let server = server().await;
    let properties = || json!({"size": {"type": "integer"}});
    let mut old = version("v1", true, properties());
    old["deprecated"] = true.into();
    let mut new = version("v2", false, properties());
    let both = json!([old, new]);
    ok(&server, "POST", CRDS, definition("things", "Thing", both)).await;
    let media = [("content-type", "application/json")];
    let body = thing("a", json!({"size": 1})).to_string();
    let answer = raw(&server, "POST", THINGS, &media, body).await;
    assert_eq!(
        answer.headers()["warning"],
        "299 - \"x.test/v1 Thing is deprecated; use x.test/v2 Thing\""
    );
    let v2 = "/apis/x.test/v2/things/a";
    let shown = ok(&server, "GET", v2, Value::Null).await;
    assert_eq!(
        (&shown["apiVersion"], &shown["size"]),
        (&json!("x.test/v2"), &json!(1))
    );

    old["storage"] = false.into();
    new["storage"] = true.into();
    let change = json!({"spec": {"versions": [old.clone(), new.clone()]}});
    let crd = ok(&server, "PATCH", CRD, change).await;
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
    let without = json!({"spec": {"versions": [new.clone()]}});
    let answer = send(&server, "PATCH", CRD, without.clone()).await;
    refused(
        answer,
        422,
        &[
            "status.storedVersions[0]: Invalid value: \"v1\"",
            "missing from spec.versions",
        ],
    );
    // Written anew without a change, an object is stored in the new version: that is a migration.
    let before = ok(&server, "GET", v2, Value::Null).await;
    let after = ok(&server, "PUT", v2, before.clone()).await;
    let revision = |value: &Value| value["metadata"]["resourceVersion"].clone();
    assert_ne!(revision(&before), revision(&after));
    assert_eq!(
        before["metadata"]["generation"],
        after["metadata"]["generation"]
    );
    let again = ok(&server, "PUT", v2, after.clone()).await;
    assert_eq!(revision(&after), revision(&again));
    let status = format!("{CRD}/status");
    ok(
        &server,
        "PATCH",
        &status,
        json!({"status": {"storedVersions": ["v2"]}}),
    )
    .await;
    let mut lines = Lines::open(
        &server,
        &format!("{THINGS}?watch=true&resourceVersion=1"),
        "",
    )
    .await;
    let mut kept = Lines::open(&server, &format!("{CRDS}?watch=true"), "").await;
    assert_eq!(kept.event().await, "ADDED things.x.test");

    // A version that is not served any more is not there, and its watches end.
    old["served"] = false.into();
    ok(
        &server,
        "PATCH",
        CRD,
        json!({"spec": {"versions": [old, new]}}),
    )
    .await;
    while lines.next().await.is_some() {}
    assert_eq!(get(&server, THINGS).await.0, 404);
    assert_eq!(get(&server, v2).await.0, 200);
    ok(&server, "PATCH", CRD, without).await;
    assert_eq!(kept.event().await, "MODIFIED things.x.test");
}

#[tokio::test]
async fn names_belong_to_the_first_who_asks() {
    let server = things(json!({})).await;
    let mut second = definition("others", "Other", json!([version("v1", true, json!({}))]));
    second["spec"]["names"]["shortNames"] = json!(["thing", "o"]);
    ok(&server, "POST", CRDS, second).await;
    let path = format!("{CRDS}/others.x.test");
    let crd = ok(&server, "GET", &path, Value::Null).await;
    let names = condition(&crd, "NamesAccepted");
    assert_eq!(
        (&names["status"], &names["reason"], &names["message"]),
        (
            &json!("False"),
            &json!("ShortNamesConflict"),
            &json!("\"thing\" is already in use")
        )
    );
    assert_eq!(condition(&crd, "Established")["status"], "False");
    assert_eq!(get(&server, "/apis/x.test/v1/others").await.0, 404);
    ok(&server, "DELETE", CRD, Value::Null).await;
    for _ in 0..200 {
        if get(&server, "/apis/x.test/v1/others").await.0 == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let crd = ok(&server, "GET", &path, Value::Null).await;
    assert_eq!(condition(&crd, "Established")["status"], "True");
    assert_eq!(
        crd["status"]["acceptedNames"]["shortNames"],
        json!(["thing", "o"])
    );
}

#[tokio::test]
async fn a_definition_that_goes_takes_no_new_objects_and_ends_its_watches() {
    let server = things(json!({})).await;
    let mut held = thing("held", json!({}));
    held["metadata"]["finalizers"] = json!(["x.test/hold"]);
    ok(&server, "POST", THINGS, held).await;
    let mut lines = Lines::open(&server, &format!("{THINGS}?watch=true"), "").await;
    assert_eq!(lines.event().await, "ADDED held");
    ok(&server, "DELETE", CRD, Value::Null).await;
    let answer = send(&server, "POST", THINGS, thing("late", json!({}))).await;
    let words = "create not allowed while custom resource definition is terminating";
    refused(answer, 405, &[words]);
    assert_eq!(lines.event().await, "MODIFIED held");
    let crd = ok(&server, "GET", CRD, Value::Null).await;
    let going = condition(&crd, "Terminating");
    assert_eq!(
        (&going["status"], &going["reason"]),
        (&json!("True"), &json!("InstanceDeletionInProgress"))
    );
    let release = json!({"metadata": {"finalizers": null}});
    ok(&server, "PATCH", &format!("{THINGS}/held"), release).await;
    assert_eq!(lines.event().await, "DELETED held");
    assert_eq!(lines.next().await, None);
    assert_eq!(get(&server, CRD).await.0, 404);
    assert_eq!(get(&server, THINGS).await.0, 404);
}

#[tokio::test]
async fn fields_that_the_definition_names_select() {
    let server = server().await;
    let mut v1 = version(
        "v1",
        true,
        json!({"host": {"type": "string"}, "up": {"type": "boolean"}}),
    );
    v1["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".up"}]);
    ok(
        &server,
        "POST",
        CRDS,
        definition("things", "Thing", json!([v1])),
    )
    .await;
    let selected = format!("{THINGS}?fieldSelector=host%3Dhost1,up%3Dtrue");
    let mut lines = Lines::open(&server, &format!("{selected}&watch=true"), "").await;
    for (name, host, up) in [
        ("a", "host1", true),
        ("b", "host1", false),
        ("c", "host2", true),
    ] {
        ok(
            &server,
            "POST",
            THINGS,
            thing(name, json!({"host": host, "up": up})),
        )
        .await;
    }
    assert_eq!(lines.event().await, "ADDED a");
    let list = ok(&server, "GET", &selected, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    ok(
        &server,
        "PATCH",
        &format!("{THINGS}/b"),
        json!({"up": true}),
    )
    .await;
    assert_eq!(lines.event().await, "ADDED b");
    ok(
        &server,
        "PATCH",
        &format!("{THINGS}/b"),
        json!({"host": "host2"}),
    )
    .await;
    assert_eq!(lines.event().await, "DELETED b");
    ok(&server, "DELETE", &selected, Value::Null).await;
    assert_eq!(lines.event().await, "DELETED a");
    let answer = get(&server, &format!("{THINGS}?fieldSelector=other%3D1")).await;
    refused(answer, 400, &["field label not supported: other"]);
}

#[tokio::test]
async fn a_scale_needs_the_number_it_is_about() {
    let server = server().await;
    let numbers = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "selector": {"type": "string"}}});
    let mut v1 = version("v1", true, json!({"spec": numbers, "status": numbers}));
    v1["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    ok(
        &server,
        "POST",
        CRDS,
        definition("things", "Thing", json!([v1])),
    )
    .await;
    ok(&server, "POST", THINGS, thing("a", json!({"spec": {}}))).await;
    let scale = format!("{THINGS}/a/scale");
    refused(
        get(&server, &scale).await,
        500,
        &["the spec replicas field \".spec.replicas\" does not exist"],
    );
    let nothing = json!({"metadata": {"labels": {"a": "b"}}});
    let answer = send(&server, "PATCH", &scale, nothing).await;
    refused(
        answer,
        400,
        &["the spec replicas field \".spec.replicas\" cannot be empty"],
    );
    let scaled = ok(&server, "PATCH", &scale, json!({"spec": {"replicas": 2}})).await;
    assert_eq!(scaled["spec"]["replicas"], 2);
    let status = json!({"status": {"replicas": 1, "selector": "a=b"}});
    ok(&server, "PATCH", &format!("{THINGS}/a/status"), status).await;
    let shown = ok(&server, "GET", &scale, Value::Null).await;
    assert_eq!(shown["status"], json!({"replicas": 1, "selector": "a=b"}));
    let object = ok(&server, "GET", &format!("{THINGS}/a"), Value::Null).await;
    assert_eq!(object["metadata"]["generation"], 2);
}

/// A definition is served although its writer went before the answer came.
#[tokio::test]
async fn a_definition_whose_writer_went_away_is_served() {
    let server = server().await;
    let versions = json!([version("v1", true, json!({}))]);
    let crd = definition("things", "Thing", versions).to_string();
    // Dropped at every point where it waits.
    for polls in 1.. {
        let headers = [("content-type", "application/json")];
        let mut request = Box::pin(raw(&server, "POST", CRDS, &headers, crd.clone()));
        let mut done = false;
        for _ in 0..polls {
            if futures::poll!(&mut request).is_ready() {
                done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(request);
        if get(&server, CRD).await.0 == 404 && !done {
            continue;
        }
        let served = async {
            while get(&server, THINGS).await.0 != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let patience = std::time::Duration::from_secs(10);
        tokio::time::timeout(patience, served)
            .await
            .expect("it is served");
        if done {
            break;
        }
        ok(&server, "DELETE", CRD, Value::Null).await;
        while get(&server, CRD).await.0 != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_definition_of_which_nothing_is_served_goes_with_its_objects() {
    let server = things(json!({})).await;
    ok(&server, "POST", THINGS, thing("a", json!({}))).await;
    let mut unserved = version("v1", true, json!({}));
    unserved["served"] = false.into();
    ok(
        &server,
        "PATCH",
        CRD,
        json!({"spec": {"versions": [unserved]}}),
    )
    .await;
    assert_eq!(get(&server, THINGS).await.0, 404);
    ok(&server, "DELETE", CRD, Value::Null).await;
    let gone = async {
        while get(&server, CRD).await.0 != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let patience = std::time::Duration::from_secs(10);
    tokio::time::timeout(patience, gone).await.expect("it goes");
}
