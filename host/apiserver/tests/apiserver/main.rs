//! The API server as its clients see it: over an in-memory store, in process and over HTTP.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod admission;
mod aggregation;
mod apply;
mod audit;
mod bad_input;
mod certificates;
mod client_certificates;
mod conversion;
mod custom_resources;
mod deadlines;
mod definition_cases;
mod definition_forms;
mod definition_ratchets;
mod definition_schemas;
mod definitions;
mod devices;
mod discovery;
mod flow;
mod forms;
mod golden;
mod history;
mod impersonation;
mod kubectl;
mod kubectl_rights;
mod life;
mod lifecycles;
mod lists;
mod nodes;
mod oidc;
mod openapi;
mod pod_security;
mod pods;
mod policies;
mod proxy;
mod quota;
mod replays;
mod rights;
mod service_ranges;
mod sockets;
mod tokens;
mod usage;
mod watches;
mod webhooks;
mod workloads;

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use eyot_apiserver::{ApiServer, Options, User};
use eyot_http::Response;
use eyot_store::Store;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn server() -> ApiServer {
    server_with(Options::default()).await
}

pub async fn server_with(options: Options) -> ApiServer {
    let store = Store::in_memory(eyot_apiserver::extract);
    let server = ApiServer::new(store, options).await.unwrap();
    account(&server, "default").await;
    server
}

/// Make the account that pods of a namespace run as, which is a controller's work otherwise.
pub async fn account(server: &ApiServer, namespace: &str) {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    ok(server, "POST", &path, account).await;
}

pub fn admin() -> User {
    User::new("admin", &["system:masters"])
}

/// Send a request as admin and answer the response as it is.
pub async fn raw(
    server: &ApiServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(http_body_util::Full::new(body.into()))
        .unwrap();
    let answer: Result<Response, Infallible> = server.as_user(admin()).oneshot(request).await;
    answer.unwrap()
}

pub async fn bytes(response: Response) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Send JSON and answer code and JSON.
pub async fn send(server: &ApiServer, method: &str, path: &str, body: Value) -> (u16, Value) {
    let media = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let response = raw(server, method, path, &[("content-type", media)], body).await;
    let code = response.status().as_u16();
    let bytes = bytes(response).await;
    let value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    (code, value)
}

pub async fn get(server: &ApiServer, path: &str) -> (u16, Value) {
    send(server, "GET", path, Value::Null).await
}

/// Send and insist on success.
pub async fn ok(server: &ApiServer, method: &str, path: &str, body: Value) -> Value {
    let (code, value) = send(server, method, path, body).await;
    assert!(
        (200..300).contains(&code),
        "{method} {path}: {code} {value}"
    );
    value
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "demo/x:v1"}]},
    })
}

/// The lines of a watch, each as JSON.
pub struct Lines {
    body: eyot_http::Body,
    rest: Vec<u8>,
}

impl Lines {
    pub async fn open(server: &ApiServer, path: &str, accept: &str) -> Lines {
        let response = raw(server, "GET", path, &[("accept", accept)], "").await;
        assert_eq!(response.status(), 200, "{path}");
        Lines {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        let read = async {
            loop {
                if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.rest.drain(..=end).collect();
                    return Some(serde_json::from_slice(&line).unwrap());
                }
                let frame = self.body.frame().await?.unwrap();
                self.rest.extend_from_slice(&frame.into_data().unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("an event in time")
    }

    /// `TYPE name` of the next event.
    pub async fn event(&mut self) -> String {
        let event = self.next().await.expect("an event, not the end");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

/// Send JSON as a user and answer code and JSON.
pub async fn send_as(
    server: &ApiServer,
    user: &User,
    method: &str,
    path: &str,
    body: Value,
) -> (u16, Value) {
    send_with(server, Some(user), method, path, &[], body).await
}

/// Send JSON with headers, as a user of this process or as whoever the headers say.
pub async fn send_with(
    server: &ApiServer,
    user: Option<&User>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> (u16, Value) {
    let media = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut request = request.body(eyot_http::full(text)).unwrap();
    if let Some(user) = user {
        request.extensions_mut().insert(user.clone());
    }
    let response = server.clone().oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = bytes(response).await;
    let value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    (code, value)
}
