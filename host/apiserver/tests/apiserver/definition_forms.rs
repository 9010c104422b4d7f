//! Objects of definitions in the forms in which clients ask for them: tables, YAML, other scopes,
//! other versions; and definitions that are not served at once, or change all the time.

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use crate::{Lines, bytes, get, ok, raw, send, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/noxus.x.test";
const NOXUS: &str = "/apis/x.test/v1/namespaces/default/noxus";

fn version(name: &str, storage: bool, more: Value) -> Value {
    let mut version = json!({
        "name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let fields = version.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    version
}

fn definition(scope: &str, versions: Value) -> Value {
    json!({
        "metadata": {"name": "noxus.x.test"},
        "spec": {"group": "x.test", "scope": scope, "versions": versions,
                 "names": {"plural": "noxus", "singular": "noxu", "kind": "Noxu",
                           "listKind": "NoxuItemList"}},
    })
}

fn noxu(name: &str, fields: Value) -> Value {
    let mut noxu = json!({"apiVersion": "x.test/v1", "kind": "Noxu", "metadata": {"name": name}});
    let members = noxu.as_object_mut().unwrap();
    members.extend(fields.as_object().unwrap().clone());
    noxu
}

async fn defined(scope: &str, versions: Value) -> ApiServer {
    let server = server().await;
    ok(&server, "POST", CRDS, definition(scope, versions)).await;
    server
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = crd["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|c| c["type"] == kind)
}

#[tokio::test]
async fn a_table_has_the_columns_of_its_version() {
    let column = |name: &str, kind: &str, path: &str, more: Value| {
        let mut column = json!({"name": name, "type": kind, "jsonPath": path});
        let fields = column.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        column
    };
    let int = json!({"description": "the beta field", "format": "int64", "priority": 42});
    let mut columns = vec![
        column("Age", "date", ".metadata.creationTimestamp", json!({})),
        column("Alpha", "string", ".spec.alpha", json!({})),
        column("Beta", "integer", ".spec.beta", int),
        column(
            "Gamma",
            "integer",
            ".spec.gamma",
            json!({"description": "wrong values"}),
        ),
        column(
            "Epsilon",
            "string",
            ".spec.epsilon",
            json!({"description": "a list"}),
        ),
        column("Eta", "string", ".spec.eta", json!({})),
        column("Theta", "string", ".spec.theta", json!({})),
        column("Iota", "number", ".spec.iota", json!({})),
        column("Kappa", "string", ".spec.nothing", json!({})),
    ];
    let old = version("v1", false, json!({"additionalPrinterColumns": columns}));
    columns.push(column("Zeta", "integer", ".spec.zeta", json!({})));
    let new = version("v2", true, json!({"additionalPrinterColumns": columns}));
    let server = defined("Namespaced", json!([old, new])).await;
    let spec = json!({"alpha": "foo_123", "beta": 10, "gamma": "bar", "epsilon": [1, 2, 3],
                      "zeta": 5, "eta": {"a": 1}, "theta": 1.5, "iota": 2.5});
    ok(&server, "POST", NOXUS, noxu("foo", json!({"spec": spec}))).await;
    for (version, cells) in [("v1", 10), ("v2", 11)] {
        let path = NOXUS.replace("v1", version);
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let answer = raw(&server, "GET", &path, &[("accept", accept)], "").await;
        let table: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
        let headers = table["columnDefinitions"].as_array().unwrap();
        assert_eq!(headers.len(), cells, "{table}");
        assert_eq!(
            headers[2],
            json!({"name": "Alpha", "type": "string", "format": "", "priority": 0, "description":
                   "Custom resource definition column (in JSONPath format): .spec.alpha"})
        );
        assert_eq!(
            headers[3],
            json!({"name": "Beta", "type": "integer", "format": "int64", "priority": 42,
                   "description": "the beta field"})
        );
        let row = table["rows"][0]["cells"].as_array().unwrap();
        assert_eq!(row[0], "foo");
        assert!(
            row[1].as_str().unwrap().ends_with('s'),
            "an age: {}",
            row[1]
        );
        assert_eq!(
            row[2..10],
            [
                json!("foo_123"),
                json!(10),
                Value::Null,
                json!("[1,2,3]"),
                json!("{\"a\":1}"),
                json!("1.5"),
                json!(2.5),
                Value::Null,
            ]
        );
        assert!(cells == 10 || row[10] == 5);
    }
}

/// Send and read YAML.
async fn yaml(server: &ApiServer, method: &str, path: &str, body: &str) -> (u16, Value) {
    let headers = [
        ("accept", "application/yaml"),
        ("content-type", "application/yaml"),
    ];
    let answer = raw(server, method, path, &headers, body.to_owned()).await;
    let code = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/yaml");
    let text = String::from_utf8(bytes(answer).await.to_vec()).unwrap();
    (code, serde_saphyr::from_str(&text).unwrap())
}

#[tokio::test]
async fn yaml_goes_in_and_comes_out() {
    let parts = json!({"subresources": {"status": {}, "scale": {
        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}});
    let server = defined("Cluster", json!([version("v1", true, parts)])).await;
    let noxus = "/apis/x.test/v1/noxus";
    let (code, list) = yaml(&server, "GET", "/apis/x.test/v1", "").await;
    assert_eq!((code, &list["kind"]), (200, &json!("APIResourceList")));
    let (code, status) = yaml(&server, "GET", &format!("{noxus}/missing"), "").await;
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));

    let body = "apiVersion: x.test/v1\nkind: Noxu\nmetadata: {name: mytest}\nspec: {replicas: 3}\n\
                values:\n  numVal: 1\n  boolVal: true\n  stringVal: \"1\"\n";
    let (code, made) = yaml(&server, "POST", noxus, body).await;
    assert_eq!(code, 201, "{made}");
    let values = json!({"numVal": 1, "boolVal": true, "stringVal": "1"});
    assert_eq!(made["values"], values);
    let one = format!("{noxus}/mytest");
    assert_eq!(yaml(&server, "GET", &one, "").await.1["values"], values);
    let (_, list) = yaml(&server, "GET", noxus, "").await;
    assert_eq!(
        (&list["kind"], &list["items"][0]["values"]),
        (&json!("NoxuItemList"), &values)
    );
    let (code, status) = yaml(&server, "GET", &format!("{noxus}?watch=true"), "").await;
    assert_eq!((code, &status["reason"]), (406, &json!("NotAcceptable")));
    let (code, status) = yaml(&server, "PATCH", &one, "values: {numVal: 3}").await;
    assert_eq!(
        (code, &status["reason"]),
        (415, &json!("UnsupportedMediaType"))
    );

    let (code, status) = yaml(&server, "GET", &format!("{one}/status"), "").await;
    assert_eq!((code, &status["spec"]["replicas"]), (200, &json!(3)));
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let body = format!(
        "apiVersion: x.test/v1\nkind: Noxu\nmetadata: {{name: mytest, resourceVersion: \
         \"{revision}\"}}\nspec: {{replicas: 5}}\nstatus: {{replicas: 3}}\n"
    );
    let (code, after) = yaml(&server, "PUT", &format!("{one}/status"), &body).await;
    assert_eq!(code, 200, "{after}");
    assert_eq!(
        (&after["spec"]["replicas"], &after["status"]["replicas"]),
        (&json!(3), &json!(3))
    );
    let (_, mut scale) = yaml(&server, "GET", &format!("{one}/scale"), "").await;
    assert_eq!(
        (&scale["kind"], &scale["apiVersion"]),
        (&json!("Scale"), &json!("autoscaling/v1"))
    );
    scale["spec"]["replicas"] = 7.into();
    let body = scale.to_string();
    let (code, scale) = yaml(&server, "PUT", &format!("{one}/scale"), &body).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(7)));
    let (code, gone) = yaml(&server, "DELETE", &one, "").await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
}

#[tokio::test]
async fn objects_are_not_found_in_the_other_scope() {
    let parts = json!({"subresources": {"status": {}, "scale": {
        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}});
    for scope in ["Cluster", "Namespaced"] {
        let server = defined(scope, json!([version("v1", true, parts.clone())])).await;
        let (here, there) = match scope {
            "Cluster" => ("/apis/x.test/v1/noxus", NOXUS),
            _ => (NOXUS, "/apis/x.test/v1/noxus"),
        };
        let bar = noxu("bar", json!({"spec": {"replicas": 1}}));
        ok(&server, "POST", here, bar.clone()).await;
        for (method, path, body) in [
            ("POST", "", bar.clone()),
            ("GET", "/bar", Value::Null),
            ("GET", "/bar/status", Value::Null),
            ("GET", "/bar/scale", Value::Null),
            ("PUT", "/bar", bar.clone()),
            ("PUT", "/bar/status", bar.clone()),
            ("PUT", "/bar/scale", bar.clone()),
            (
                "PATCH",
                "/bar",
                json!({"metadata": {"annotations": {"test": "1"}}}),
            ),
            (
                "PATCH",
                "/bar/status",
                json!({"metadata": {"annotations": {"test": "1"}}}),
            ),
            (
                "PATCH",
                "/bar/scale",
                json!({"metadata": {"annotations": {"test": "1"}}}),
            ),
            ("DELETE", "/bar", Value::Null),
            ("DELETE", "/bar/status", Value::Null),
            ("DELETE", "/bar/scale", Value::Null),
            ("DELETE", "", Value::Null),
        ] {
            let (code, answer) = send(&server, method, &format!("{there}{path}"), body).await;
            assert_eq!(code, 404, "{scope}: {method} {path}: {answer}");
        }
        let lists = u16::from(scope == "Cluster") * 204 + 200;
        assert_eq!(get(&server, there).await.0, lists, "{scope}");
        let watch = format!("{there}?watch=true&timeoutSeconds=1");
        let answer = raw(&server, "GET", &watch, &[], "").await;
        assert_eq!(answer.status().as_u16(), lists, "{scope}");
    }
}

#[tokio::test]
async fn objects_are_judged_in_the_version_of_the_request() {
    let schema = json!({"schema": {"openAPIV3Schema": {
        "type": "object", "required": ["apiVersion"], "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"apiVersion": {"type": "string", "pattern": "^x.test/v1$"}}}}});
    let versions = json!([
        version("v1", false, schema.clone()),
        version("v2", true, schema)
    ]);
    let server = defined("Namespaced", versions).await;
    let foo = noxu("foo", json!({}));
    ok(&server, "POST", NOXUS, foo).await;
    let mut bar = noxu("bar", json!({}));
    bar["apiVersion"] = "x.test/v2".into();
    let (code, answer) = send(&server, "POST", &NOXUS.replace("v1", "v2"), bar).await;
    assert_eq!(code, 422, "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains("apiVersion"),
        "{answer}"
    );
}

#[tokio::test]
async fn metadata_are_read_as_metadata() {
    let server = defined("Namespaced", json!([version("v1", true, json!({}))])).await;
    let mut foo = noxu("foo", json!({}));
    foo["metadata"]["unknown"] = 42.into();
    foo["metadata"]["generation"] = Value::Null;
    foo["metadata"]["labels"] = json!({"foo": 42, "bar": "abc"});
    let (code, answer) = send(&server, "POST", NOXUS, foo.clone()).await;
    assert_eq!(
        (code, &answer["reason"]),
        (400, &json!("BadRequest")),
        "{answer}"
    );
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("cannot be handled"),
        "{answer}"
    );
    foo["metadata"]["labels"] = json!({"bar": "abc"});
    let made = ok(&server, "POST", NOXUS, foo).await;
    assert_eq!(made["metadata"].get("unknown"), None);
    assert_eq!(made["metadata"]["generation"], 1);
}

#[tokio::test]
async fn numbers_come_back_as_go_writes_them() {
    let server = defined("Namespaced", json!([version("v1", true, json!({}))])).await;
    let body = r#"{"apiVersion": "x.test/v1", "kind": "Noxu", "metadata": {"name": "foo"},
                   "whole": 42.0, "half": 1.50, "tiny": 1e-7, "list": [{"big": 1e15}]}"#;
    let media = [("content-type", "application/json")];
    let answer = raw(&server, "POST", NOXUS, &media, body).await;
    assert_eq!(answer.status(), 201);
    let text = String::from_utf8(bytes(answer).await.to_vec()).unwrap();
    for part in [
        "\"whole\":42}",
        "\"half\":1.5,",
        "\"big\":1000000000000000}",
        "\"tiny\":1e-7",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn groups_of_kubernetes_need_approval() {
    let server = defined("Namespaced", json!([version("v1", true, json!({}))])).await;
    let policy = "KubernetesAPIApprovalPolicyConformant";
    let crd = ok(&server, "GET", CRD, Value::Null).await;
    assert_eq!(condition(&crd, policy), None);
    let mut own = definition("Namespaced", json!([version("v1", true, json!({}))]));
    own["metadata"] = json!({"name": "noxus.sigs.k8s.io", "annotations": {
        "api-approved.kubernetes.io": "https://github.com/kubernetes/kubernetes/pull/79724"}});
    own["spec"]["group"] = "sigs.k8s.io".into();
    ok(&server, "POST", CRDS, own).await;
    let crd = ok(
        &server,
        "GET",
        &format!("{CRDS}/noxus.sigs.k8s.io"),
        Value::Null,
    )
    .await;
    assert_eq!(condition(&crd, policy).unwrap()["status"], "True", "{crd}");
}

#[tokio::test]
async fn a_bad_authority_of_its_webhook_keeps_a_definition_from_being_served() {
    let server = server().await;
    let mut crd = definition("Namespaced", json!([version("v1", true, json!({}))]));
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"], "clientConfig": {
            "caBundle": "Cg==", "service": {"namespace": "default", "name": "example"}}}});
    ok(&server, "POST", CRDS, crd).await;
    let crd = ok(&server, "GET", CRD, Value::Null).await;
    let established = condition(&crd, "Established").unwrap();
    assert_eq!(
        (
            &established["status"],
            &established["reason"],
            &established["message"]
        ),
        (
            &json!("False"),
            &json!("InvalidCABundle"),
            &json!("The conversion webhook CABundle is invalid")
        ),
        "{crd}"
    );
    assert_eq!(condition(&crd, "NamesAccepted").unwrap()["status"], "True");
    assert_eq!(get(&server, NOXUS).await.0, 404);
    let change = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": null}}}}});
    ok(&server, "PATCH", CRD, change).await;
    let crd = ok(&server, "GET", CRD, Value::Null).await;
    assert_eq!(
        condition(&crd, "Established").unwrap()["status"],
        "True",
        "{crd}"
    );
    assert_eq!(get(&server, NOXUS).await.0, 200);
}

#[tokio::test]
async fn objects_are_there_while_their_definition_changes() {
    let one = json!([version("v1", true, json!({}))]);
    let two = json!([
        version("v1", true, json!({})),
        version("v2", false, json!({}))
    ]);
    let server = defined("Namespaced", one.clone()).await;
    ok(&server, "POST", NOXUS, noxu("foo", json!({}))).await;
    let foo = format!("{NOXUS}/foo");
    let change = async {
        for turn in 0..20 {
            let versions = if turn % 2 == 0 { &two } else { &one };
            ok(
                &server,
                "PATCH",
                CRD,
                json!({"spec": {"versions": versions}}),
            )
            .await;
        }
    };
    let read = async {
        for _ in 0..100 {
            ok(&server, "GET", &foo, Value::Null).await;
            tokio::task::yield_now().await;
        }
    };
    let watch = async {
        for _ in 0..10 {
            let path = format!("{NOXUS}?watch=true&timeoutSeconds=1");
            let mut lines = Lines::open(&server, &path, "").await;
            assert_eq!(lines.event().await, "ADDED foo");
        }
    };
    tokio::join!(change, read, watch);
}
