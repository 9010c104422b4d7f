//! The life that objects of every kind can lead: made, found, watched, patched, replaced, told what
//! became of them, and deleted, one and all.
//!
//! The steps are those that Kubernetes' conformance tests go through with one kind after the other.

mod kinds;

use eyot_apiserver::ApiServer;
use serde_json::{Value, json};

use self::kinds::condition;
use crate::{Lines, account, get, ok, raw, send, server};

const NAMESPACE: &str = "lives";

/// A kind, and the least that makes an object of it.
struct Life {
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    body: Value,
    /// What its status can be told, where it has one.
    status: Option<Value>,
}

fn namespaced(
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    body: Value,
) -> Life {
    Life {
        version,
        plural,
        kind,
        namespaced: true,
        body,
        status: None,
    }
}

fn cluster(version: &'static str, plural: &'static str, kind: &'static str, body: Value) -> Life {
    Life {
        namespaced: false,
        ..namespaced(version, plural, kind, body)
    }
}

impl Life {
    fn told(self, status: Value) -> Life {
        Life {
            status: Some(status),
            ..self
        }
    }

    /// Where the version is described.
    fn group(&self) -> String {
        match self.version {
            "v1" => "/api/v1".to_owned(),
            version => format!("/apis/{version}"),
        }
    }

    fn path(&self) -> String {
        let group = self.group();
        match self.namespaced {
            true => format!("{group}/namespaces/{NAMESPACE}/{}", self.plural),
            false => format!("{group}/{}", self.plural),
        }
    }

    fn object(&self, metadata: Value) -> Value {
        let mut object = self.body.clone();
        object["apiVersion"] = self.version.into();
        object["kind"] = self.kind.into();
        object["metadata"] = metadata;
        object["metadata"]["labels"] = json!({"test": self.plural});
        object
    }
}

/// Patch and insist on success.
async fn patch(server: &ApiServer, path: &str, media: &str, body: Value) -> Value {
    let media = format!("application/{media}+json");
    let headers = [("content-type", media.as_str())];
    let response = raw(server, "PATCH", path, &headers, body.to_string()).await;
    let code = response.status();
    let text = crate::bytes(response).await;
    assert!(code.is_success(), "{path}: {code} {text:?}");
    serde_json::from_slice(&text).unwrap()
}

async fn count(server: &ApiServer, path: &str) -> usize {
    let list = ok(server, "GET", path, Value::Null).await;
    let items = list["items"].as_array().unwrap().iter();
    // What waits for its finalizers is as good as gone.
    items
        .filter(|item| item["metadata"]["deletionTimestamp"].is_null())
        .count()
}

async fn live(server: &ApiServer, life: &Life) {
    let (path, plural) = (life.path(), life.plural);
    let served = ok(server, "GET", &life.group(), Value::Null).await;
    let served = |name: &str| {
        let all = served["resources"].as_array().unwrap();
        all.iter().any(|one| one["name"] == name)
    };
    assert!(served(plural), "{plural} of {}", life.version);
    let names = [
        json!({"generateName": "test-"}),
        json!({"name": "second"}),
        json!({"name": "third"}),
    ];
    let mut made = Vec::new();
    for metadata in names {
        made.push(ok(server, "POST", &path, life.object(metadata)).await);
    }
    let (name, uid) = (&made[0]["metadata"]["name"], &made[0]["metadata"]["uid"]);
    let one = format!("{path}/{}", name.as_str().unwrap());
    let read = ok(server, "GET", &one, Value::Null).await;
    assert_eq!(&read["metadata"]["uid"], uid, "{one}");
    let query = format!("labelSelector=test%3D{plural}");
    let all = format!("{path}?{query}");
    assert_eq!(count(server, &all).await, 3, "{all}");
    let everywhere = format!("{}/{plural}?{query}", life.group());
    let list = ok(server, "GET", &everywhere, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 3, "{everywhere}");

    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = format!("{all}&watch=true&resourceVersion={version}&allowWatchBookmarks=false");
    let mut watch = Lines::open(server, &watch, "application/json").await;
    let note = json!({"metadata": {"annotations": {"merged": "yes"}}});
    patch(server, &one, "merge-patch", note).await;
    // As typed clients send it: empty fields and all.
    let note = json!({"metadata": {"creationTimestamp": null, "annotations": {"patched": "yes"}}});
    patch(server, &one, "strategic-merge-patch", note).await;
    let replaced =
        |object: &mut Value| object["metadata"]["annotations"]["replaced"] = "yes".into();
    let changed = replace(server, &one, replaced).await;
    let notes = json!({"merged": "yes", "patched": "yes", "replaced": "yes"});
    // Some kinds are annotated by the server, too, and some are changed by it before.
    let found = |object: &Value| -> Value {
        let all = object["metadata"]["annotations"].as_object();
        let ours = all.into_iter().flatten();
        let ours = ours.filter(|(key, _)| notes.get(key).is_some());
        ours.map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    assert_eq!(found(&changed), notes, "{one}");
    loop {
        let event = watch.next().await.unwrap();
        assert_eq!(event["type"], "MODIFIED", "{one}: {event}");
        if found(&event["object"]) == notes {
            break;
        }
    }
    in_protobuf(server, &one).await;
    if let Some(status) = &life.status {
        assert!(served(&format!("{plural}/status")), "{plural}");
        tell(server, life, &one, status).await;
    }

    let (code, gone) = send(server, "DELETE", &one, Value::Null).await;
    assert!(matches!(code, 200 | 202), "{one}: {gone}");
    let (code, left) = get(server, &one).await;
    let waits = !left["metadata"]["deletionTimestamp"].is_null();
    assert!(code == 404 || waits, "{one} is there: {left}");
    if code == 404 {
        loop {
            let event = watch.next().await.unwrap();
            if event["type"] == "DELETED" {
                assert_eq!(&event["object"]["metadata"]["name"], name);
                break;
            }
        }
    }
    assert_eq!(count(server, &all).await, 2, "{all}");
    ok(server, "DELETE", &all, Value::Null).await;
    assert_eq!(count(server, &all).await, 0, "{all}");
}

/// Read, change and write back, again if the server wrote in between, as it does to quotas.
async fn replace(server: &ApiServer, path: &str, change: impl Fn(&mut Value)) -> Value {
    loop {
        let mut object = ok(server, "GET", path, Value::Null).await;
        change(&mut object);
        let (code, answer) = send(server, "PUT", path, object).await;
        if code == 200 {
            return answer;
        }
        assert_eq!(code, 409, "{path}: {answer}");
    }
}

/// Typed clients speak protobuf: what they read and write back is no change.
async fn in_protobuf(server: &ApiServer, one: &str) {
    let media = "application/vnd.kubernetes.protobuf";
    let headers = [("content-type", media), ("accept", media)];
    let (read, code, answer) = loop {
        let response = raw(server, "GET", one, &headers[1..], "").await;
        assert_eq!(response.headers()["content-type"], media, "{one}");
        let read = crate::bytes(response).await;
        let response = raw(server, "PUT", one, &headers, read.clone()).await;
        let code = response.status().as_u16();
        if code != 409 {
            break (read, code, crate::bytes(response).await);
        }
    };
    assert_eq!((code, answer), (200, read), "{one}");
}

/// Write the status in both ways; neither touches what is wanted.
async fn tell(server: &ApiServer, life: &Life, one: &str, status: &Value) {
    let path = format!("{one}/status");
    let read = ok(server, "GET", &path, Value::Null).await;
    assert_eq!(read["kind"], life.kind, "{path}");
    let body = json!({"spec": {"unknown": "to all"}, "status": status});
    let told = patch(server, &path, "merge-patch", body).await;
    for (key, value) in status.as_object().unwrap() {
        assert_eq!(&told["status"][key], value, "{path}");
    }
    assert_eq!(
        told["spec"], read["spec"],
        "{path} leaves alone what is wanted"
    );
    let more = |object: &mut Value| {
        if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
            conditions.push(condition("ToldAgain"));
        }
    };
    let told = replace(server, &path, more).await;
    if let Some(conditions) = told["status"]["conditions"].as_array() {
        let last = conditions.last().map(|last| &last["type"]);
        assert_eq!(last, Some(&json!("ToldAgain")), "{path}");
    }
}

async fn live_all(lives: Vec<Life>) {
    let server = server().await;
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    ok(&server, "POST", "/api/v1/namespaces", namespace).await;
    account(&server, NAMESPACE).await;
    for life in lives {
        live(&server, &life).await;
    }
}

#[tokio::test]
async fn objects_of_the_core_live() {
    live_all(kinds::core()).await;
}

#[tokio::test]
async fn objects_of_workloads_live() {
    live_all(kinds::workloads()).await;
}

#[tokio::test]
async fn objects_of_network_and_storage_live() {
    live_all(kinds::network_and_storage()).await;
}

#[tokio::test]
async fn objects_that_rule_others_live() {
    live_all(kinds::rules()).await;
}
