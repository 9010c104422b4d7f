//! Definitions whose versions differ, converted by a real HTTPS webhook.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_apiserver::ApiServer;
use eyot_http::Request;
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Lines, get, ok, raw, send, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/x.test/v1/namespaces/default/services";
const V2: &str = "/apis/x.test/v2/namespaces/default/services";

/// A webhook, and the definition that names it.
struct Setting {
    server: ApiServer,
    address: SocketAddr,
    authority: String,
    _stop: DropGuard,
}

/// A server with a definition that is stored as `v1`, and the webhook that gives these answers.
async fn setting(answer: fn(Value) -> Value) -> Setting {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(leaf.pem().as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(leaf_key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let service = tower::service_fn(move |request: Request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let review: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(review["kind"], "ConversionReview");
        let mut response = answer(review["request"].clone());
        if response.get("uid").is_none() {
            response["uid"] = review["request"]["uid"].clone();
        }
        let answer = json!({
            "kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": response,
        });
        Ok::<_, Infallible>(eyot_http::json(http::StatusCode::OK, &answer))
    });
    let tls = Some(Arc::new(config).into());
    tokio::spawn(eyot_http::serve(listener, tls, service, stop.clone()));
    let setting = Setting {
        server: server().await,
        address,
        authority: authority.pem(),
        _stop: stop.drop_guard(),
    };
    ok(&setting.server, "POST", CRDS, setting.definition("v1")).await;
    setting
}

impl Setting {
    fn definition(&self, storage: &str) -> Value {
        let version = |name: &str, properties: Value| {
            json!({
                "name": name, "served": true, "storage": name == storage,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": if name == "v1" { ".hostPort" } else { ".port" }}],
            })
        };
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "services.x.test"},
            "spec": {
                "group": "x.test", "scope": "Namespaced",
                "names": {"plural": "services", "singular": "service", "kind": "Service"},
                "versions": [
                    version("v1", json!({"hostPort": {"type": "string"}})),
                    version("v2", json!({
                        "host": {"type": "string"}, "port": {"type": "string"},
                        "extra": {"type": "string", "default": "by default"},
                    })),
                ],
                "conversion": {"strategy": "Webhook", "webhook": {
                    "conversionReviewVersions": ["v2", "v1"],
                    "clientConfig": {
                        "url": format!("https://{}/convert", self.address),
                        "caBundle": BASE64_STANDARD.encode(&self.authority),
                    },
                }},
            },
        })
    }
}

fn v1(name: &str, host_port: &str) -> Value {
    json!({"apiVersion": "x.test/v1", "kind": "Service", "metadata": {"name": name},
        "hostPort": host_port})
}

fn v2(name: &str, host: &str, port: &str) -> Value {
    json!({"apiVersion": "x.test/v2", "kind": "Service", "metadata": {"name": name},
        "host": host, "port": port})
}

/// Convert as the author of the definition means it.
fn convert(request: Value) -> Value {
    let desired = request["desiredAPIVersion"].as_str().unwrap();
    let convert = |object: &Value| {
        let mut object = object.clone();
        assert_ne!(object["apiVersion"], desired, "asked for nothing");
        object["apiVersion"] = desired.into();
        let fields = object.as_object_mut().unwrap();
        if desired == "x.test/v2" {
            let joint = fields.remove("hostPort").unwrap();
            let (host, port) = joint.as_str().unwrap().split_once(':').unwrap();
            fields.insert("host".into(), host.into());
            fields.insert("port".into(), port.into());
            fields.insert("unknown".into(), "is pruned".into());
        } else {
            let (host, port) = (fields.remove("host"), fields.remove("port"));
            let text = |value: Option<Value>| value.unwrap().as_str().unwrap().to_owned();
            let joint = format!("{}:{}", text(host), text(port));
            fields.insert("hostPort".into(), joint.into());
            fields.remove("extra");
        }
        object
    };
    let objects = request["objects"].as_array().unwrap();
    json!({"result": {"status": "Success"},
        "convertedObjects": objects.iter().map(convert).collect::<Vec<_>>()})
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn objects_read_in_every_version_whatever_they_were_written_in() {
    let setting = setting(convert).await;
    let server = &setting.server;
    let made = ok(server, "POST", V1, v1("a", "host:80")).await;
    let read = ok(server, "GET", &format!("{V2}/a"), Value::Null).await;
    assert_eq!(
        (&read["host"], &read["port"]),
        (&json!("host"), &json!("80"))
    );
    assert_eq!((read.get("hostPort"), read.get("unknown")), (None, None));
    assert_eq!(read["extra"], "by default");
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
    let made = ok(server, "POST", V2, v2("b", "other", "90")).await;
    assert_eq!(
        (&made["apiVersion"], &made["host"]),
        (&json!("x.test/v2"), &json!("other"))
    );
    let read = ok(server, "GET", &format!("{V1}/b"), Value::Null).await;
    assert_eq!(read["hostPort"], "other:90");
    let list = ok(server, "GET", V2, Value::Null).await;
    let ports: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["port"])
        .collect();
    assert_eq!(ports, ["80", "90"]);
    let change = json!({"port": "81"});
    let changed = ok(server, "PATCH", &format!("{V2}/a"), change.clone()).await;
    assert_eq!(
        (&changed["port"], &changed["metadata"]["generation"]),
        (&json!("81"), &json!(2))
    );
    let same = ok(server, "PATCH", &format!("{V2}/a"), change).await;
    assert_eq!(
        same["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"]
    );
    let read = ok(server, "GET", &format!("{V1}/a"), Value::Null).await;
    assert_eq!(read["hostPort"], "host:81");
    let found = ok(
        server,
        "GET",
        &format!("{V2}?fieldSelector=port%3D90"),
        Value::Null,
    )
    .await;
    assert_eq!(names(&found), ["b"]);
    ok(server, "DELETE", &format!("{V2}/b"), Value::Null).await;
    assert_eq!(names(&ok(server, "GET", V1, Value::Null).await), ["a"]);
}

#[tokio::test]
async fn what_is_applied_in_a_version_is_stored_in_another() {
    let setting = setting(convert).await;
    let server = &setting.server;
    let path = format!("{V2}/a?fieldManager=me");
    let media = [("content-type", "application/apply-patch+yaml")];
    for port in ["80", "81"] {
        let body = v2("a", "host", port).to_string();
        let answer = raw(server, "PATCH", &path, &media, body).await;
        assert!(answer.status().is_success());
        let read = ok(server, "GET", &format!("{V1}/a"), Value::Null).await;
        assert_eq!(read["hostPort"], format!("host:{port}"));
        let read = ok(server, "GET", &format!("{V2}/a"), Value::Null).await;
        assert_eq!(read["port"], port);
        assert_eq!(read["metadata"]["managedFields"][0]["manager"], "me");
    }
}

#[tokio::test]
async fn objects_stored_in_different_versions_list_together() {
    let setting = setting(convert).await;
    let server = &setting.server;
    ok(server, "POST", V1, v1("a", "host:80")).await;
    let path = format!("{CRDS}/services.x.test");
    let versions = setting.definition("v2")["spec"]["versions"].clone();
    let changed = ok(
        server,
        "PATCH",
        &path,
        json!({"spec": {"versions": versions}}),
    )
    .await;
    assert_eq!(changed["status"]["storedVersions"], json!(["v1", "v2"]));
    ok(server, "POST", V1, v1("b", "host:90")).await;
    let list = ok(server, "GET", V1, Value::Null).await;
    let items = list["items"].as_array().unwrap().iter();
    assert_eq!(
        items.map(|i| &i["hostPort"]).collect::<Vec<_>>(),
        ["host:80", "host:90"]
    );
    let list = ok(server, "GET", V2, Value::Null).await;
    let items = list["items"].as_array().unwrap().iter();
    assert_eq!(items.map(|i| &i["port"]).collect::<Vec<_>>(), ["80", "90"]);
}

#[tokio::test]
async fn a_watch_tells_of_objects_in_its_own_version() {
    let setting = setting(convert).await;
    let server = &setting.server;
    ok(server, "POST", V1, v1("a", "host:80")).await;
    let mut lines = Lines::open(server, &format!("{V2}?watch=true"), "").await;
    let event = lines.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["port"]),
        (&json!("ADDED"), &json!("80"))
    );
    ok(
        server,
        "PATCH",
        &format!("{V1}/a"),
        json!({"hostPort": "host:81"}),
    )
    .await;
    let event = lines.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["port"]),
        (&json!("MODIFIED"), &json!("81"))
    );
    ok(server, "DELETE", &format!("{V1}/a"), Value::Null).await;
    let event = lines.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["port"]),
        (&json!("DELETED"), &json!("81"))
    );
}

#[tokio::test]
async fn fields_select_in_the_version_of_the_request() {
    let setting = setting(convert).await;
    let server = &setting.server;
    let (by_port, by_both) = ("fieldSelector=port%3D80", "fieldSelector=hostPort%3Done:80");
    let open = async |path: &str, query: &str| {
        let path = format!("{path}?watch=true&resourceVersion=0&{query}");
        Lines::open(server, &path, "application/json").await
    };
    let mut watches = [open(V2, by_port).await, open(V1, by_both).await];
    for (name, port) in [("a", "80"), ("b", "8080")] {
        ok(server, "POST", V2, v2(name, "one", port)).await;
    }
    let (by_port, by_both) = (format!("{V2}?{by_port}"), format!("{V1}?{by_both}"));
    for path in [
        &by_port,
        &by_both,
        &format!("{V1}?fieldSelector=hostPort!%3Done:8080"),
    ] {
        let list = ok(server, "GET", path, Value::Null).await;
        assert_eq!(names(&list), ["a"], "{path}");
    }
    let change = json!({"port": "80"});
    ok(server, "PATCH", &format!("{V2}/b"), change).await;
    let change = json!({"hostPort": "two:81"});
    ok(server, "PATCH", &format!("{V1}/b"), change).await;
    ok(server, "DELETE", &by_port, Value::Null).await;
    for watch in &mut watches {
        for event in ["ADDED a", "ADDED b", "DELETED b", "DELETED a"] {
            assert_eq!(watch.event().await, event);
        }
    }
    assert_eq!(names(&ok(server, "GET", V2, Value::Null).await), ["b"]);
}

#[tokio::test]
async fn a_webhook_that_fails_fails_the_request_with_its_words() {
    #[track_caller]
    fn check((code, status): (u16, Value), message: &str) {
        assert_eq!((code, status.get("reason")), (500, None), "{status}");
        assert_eq!(status["message"], message);
    }
    let about = "conversion webhook for x.test/v1, Kind=Service";
    let path = format!("{V2}/a");

    let refusing = setting(
        |_| json!({"result": {"status": "Failure", "message": "no way"}, "convertedObjects": []}),
    )
    .await;
    ok(&refusing.server, "POST", V1, v1("a", "host:80")).await;
    check(
        get(&refusing.server, &path).await,
        &format!("{about} failed: no way"),
    );
    check(
        get(&refusing.server, V2).await,
        &format!("{about} failed: no way"),
    );
    let (code, _) = send(&refusing.server, "POST", V2, v2("b", "host", "80")).await;
    assert_eq!(code, 500);
    assert_eq!(get(&refusing.server, &format!("{V1}/b")).await.0, 404);
    let mut lines = Lines::open(&refusing.server, &format!("{V2}?watch=true"), "").await;
    let event = lines.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(lines.next().await, None);

    let empty = setting(|_| json!({"result": {"status": "Success"}})).await;
    ok(&empty.server, "POST", V1, v1("a", "host:80")).await;
    let message = format!("{about} returned 0 objects, expected 1");
    check(get(&empty.server, &path).await, &message);

    let renaming = setting(|request| {
        let mut answer = convert(request);
        answer["convertedObjects"][0]["metadata"]["name"] = "other".into();
        answer
    })
    .await;
    ok(&renaming.server, "POST", V1, v1("a", "host:80")).await;
    let message = format!(
        "{about} returned invalid converted object at index 0: must have the same name: a != other"
    );
    check(get(&renaming.server, &path).await, &message);
}

/// What a manager owns, by its version.
fn owned(object: &Value, manager: &str) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries
        .iter()
        .filter(|entry| entry["manager"] == manager)
        .map(|entry| {
            let version = entry["apiVersion"].as_str().unwrap().to_owned();
            (version, entry["fieldsV1"].clone())
        })
        .collect()
}

async fn apply(server: &ApiServer, path: &str, query: &str, body: Value) -> (u16, Value) {
    let headers = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{path}?{query}");
    let response = raw(server, "PATCH", &path, &headers, body.to_string()).await;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn fields_are_managed_in_the_version_in_which_they_were_written() {
    let setting = setting(convert).await;
    let server = &setting.server;
    let (path1, path2) = (format!("{V1}/a"), format!("{V2}/a"));
    let manager = "fieldManager=first";
    let (code, made) = apply(server, &path1, manager, v1("a", "h:1")).await;
    assert_eq!(code, 201, "{made}");
    // Another one writes in the other version: what the first had is changed by it.
    let patch = [("content-type", "application/merge-patch+json")];
    let path = format!("{path2}?fieldManager=second");
    let response = raw(
        server,
        "PATCH",
        &path,
        &patch,
        json!({"extra": "x"}).to_string(),
    )
    .await;
    assert_eq!(response.status(), 200);
    let (_, seen) = get(server, &path2).await;
    assert_eq!(
        owned(&seen, "first"),
        [("x.test/v1".to_owned(), json!({"f:hostPort": {}}))]
    );
    // The third takes a part of it, and hears whose it is.
    let third = json!({"apiVersion": "x.test/v2", "kind": "Service", "metadata": {"name": "a"},
                       "port": "2"});
    let (code, refused) = apply(server, &path2, "fieldManager=third", third.clone()).await;
    assert_eq!(code, 409, "{refused}");
    assert_eq!(
        refused["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".hostPort",
                "message": "conflict with \"first\""}])
    );
    let (code, taken) = apply(server, &path2, "fieldManager=third&force=true", third).await;
    assert_eq!(code, 200, "{taken}");
    assert_eq!((&taken["host"], &taken["port"]), (&json!("h"), &json!("2")));
    assert_eq!(owned(&taken, "first"), []);
    assert_eq!(
        owned(&taken, "third"),
        [("x.test/v2".to_owned(), json!({"f:port": {}}))]
    );
}

#[tokio::test]
async fn a_new_object_keeps_the_managers_of_other_versions() {
    let setting = setting(convert).await;
    let server = &setting.server;
    let mut object = v1("a", "h:1");
    let entry = |manager: &str, version: &str, fields: Value| {
        json!({"manager": manager, "operation": "Update", "apiVersion": version,
               "fieldsType": "FieldsV1", "fieldsV1": fields})
    };
    object["metadata"]["managedFields"] = json!([
        entry("gone", "x.test/v2", json!({"f:extra": {}})),
        entry("taken", "x.test/v2", json!({"f:port": {}})),
    ]);
    let made = ok(server, "POST", &format!("{V1}?fieldManager=maker"), object).await;
    // What is in the object is its maker's; what is not is left to whom it was given.
    assert_eq!(
        owned(&made, "gone"),
        [("x.test/v2".to_owned(), json!({"f:extra": {}}))]
    );
    assert_eq!(owned(&made, "taken"), []);
    assert_eq!(owned(&made, "maker").len(), 1);
}

#[tokio::test]
async fn a_policy_about_one_version_sees_the_others_converted() {
    let setting = setting(convert).await;
    let server = &setting.server;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let rules = json!({"resourceRules": [{
        "operations": ["*"], "apiGroups": ["x.test"], "apiVersions": ["v2"],
        "resources": ["services"]}]});
    let policy = json!({"metadata": {"name": "m"}, "spec": {
        "matchConstraints": rules, "reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'replace', path: '/port', value: object.port + '0'}]"}}]}});
    ok(
        server,
        "POST",
        &format!("{group}/mutatingadmissionpolicies"),
        policy,
    )
    .await;
    let policy = json!({"metadata": {"name": "v"}, "spec": {
        "matchConstraints": rules,
        "validations": [{"expression": "object.host != 'bad'", "message": "a bad host"}]}});
    ok(
        server,
        "POST",
        &format!("{group}/validatingadmissionpolicies"),
        policy,
    )
    .await;
    let binding = json!({"metadata": {"name": "m"}, "spec": {"policyName": "m"}});
    ok(
        server,
        "POST",
        &format!("{group}/mutatingadmissionpolicybindings"),
        binding,
    )
    .await;
    let binding = json!({"metadata": {"name": "v"}, "spec": {
        "policyName": "v", "validationActions": ["Deny"]}});
    ok(
        server,
        "POST",
        &format!("{group}/validatingadmissionpolicybindings"),
        binding,
    )
    .await;
    let made = ok(server, "POST", V1, v1("a", "h:1")).await;
    assert_eq!(made["hostPort"], "h:10");
    let (code, refused) = send(server, "POST", V1, v1("b", "bad:1")).await;
    let message = refused["message"].as_str().unwrap();
    assert!(code == 422 && message.ends_with("a bad host"), "{message}");
}
