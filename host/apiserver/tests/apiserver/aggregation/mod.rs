//! APIServices, and servers that answer behind this one.

mod server;

use std::sync::{Arc, atomic::Ordering};

use base64::{Engine, prelude::BASE64_STANDARD};
use eyot_apiserver::{ApiServer, FrontProxy, Options, User};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::server::{Extension, GROUP, front_proxy};
use crate::{
    Lines, bytes, get, ok, raw, send, send_as, server, server_with, webhooks::server::Counting,
};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Read until this holds of what is read.
async fn until(server: &ApiServer, path: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
    let mut last = (0, Value::Null);
    for _ in 0..500 {
        last = get(server, path).await;
        if holds(last.0, &last.1) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(holds(last.0, &last.1), "{path}: {} {}", last.0, last.1);
    last.1
}

#[tokio::test]
async fn what_the_server_answers_itself_is_listed() {
    let server = server().await;
    let (_, list) = get(&server, SERVICES).await;
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect();
    for name in [
        "v1.",
        "v1.apps",
        "v2.autoscaling",
        "v1.authorization.k8s.io",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(!names.contains(&"v1.apiregistration.k8s.io"));
    let (_, apps) = get(&server, &format!("{SERVICES}/v1.apps")).await;
    assert_eq!(
        apps["spec"],
        json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15})
    );
    assert_eq!(
        apps["metadata"]["labels"],
        json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"})
    );
    let mut condition = apps["status"]["conditions"][0].clone();
    condition
        .as_object_mut()
        .unwrap()
        .remove("lastTransitionTime");
    assert_eq!(
        condition,
        json!({"type": "Available", "status": "True", "reason": "Local",
               "message": "Local APIServices are always available"})
    );
}

#[tokio::test]
async fn custom_resources_have_api_services_for_as_long_as_they_are_served() {
    let server = server().await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.x.test"},
        "spec": {
            "group": "x.test", "scope": "Cluster",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                          "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    ok(&server, "POST", CRDS, definition).await;
    let path = format!("{SERVICES}/v1.x.test");
    let found = until(&server, &path, |code, _| code == 200).await;
    assert_eq!(found["spec"]["groupPriorityMinimum"], 1000);
    assert_eq!(found["spec"]["versionPriority"], 100);
    assert_eq!(
        found["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"],
        "true"
    );
    // It comes back if somebody removes it, and goes with the definition.
    let uid = found["metadata"]["uid"].clone();
    ok(&server, "DELETE", &path, Value::Null).await;
    until(&server, &path, |code, one| {
        code == 200 && one["metadata"]["uid"] != uid
    })
    .await;
    ok(
        &server,
        "DELETE",
        &format!("{CRDS}/widgets.x.test"),
        Value::Null,
    )
    .await;
    until(&server, &path, |code, _| code == 404).await;
}

#[tokio::test]
async fn api_services_are_checked() {
    let server = server().await;
    let check = async |name: &str, spec: Value, expected: &str| {
        let body = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": name}, "spec": spec,
        });
        let (code, answer) = send(&server, "POST", SERVICES, body).await;
        assert_eq!(code, 422, "{answer}");
        let prefix = format!("APIService.apiregistration.k8s.io {name:?} is invalid: ");
        let message = answer["message"].as_str().unwrap();
        assert_eq!(message.strip_prefix(&prefix).unwrap_or(message), expected);
    };
    let spec = |more: Value| {
        let mut spec = json!({"group": "x.test", "version": "v1",
                              "groupPriorityMinimum": 100, "versionPriority": 10});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        spec
    };
    check(
        "v1.y.test",
        spec(json!({})),
        "metadata.name: Invalid value: \"v1.y.test\": must be `spec.version+\".\"+spec.group`: \
         \"v1.x.test\"",
    )
    .await;
    check(
        "v1.x.test",
        spec(json!({"groupPriorityMinimum": 20001, "versionPriority": 0})),
        "[spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000, \
         spec.versionPriority: Invalid value: 0: must be positive and less than 1000]",
    )
    .await;
    check(
        "v1.x.test",
        spec(json!({"caBundle": "YWJj", "insecureSkipTLSVerify": true})),
        "[spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle, \
         spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have \
         insecureSkipTLSVerify]",
    )
    .await;
    check(
        "v1.x.test",
        spec(json!({"service": {}, "caBundle": "YWJj", "insecureSkipTLSVerify": true})),
        "[spec.service.namespace: Required value, spec.service.name: Required value, \
         spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present]",
    )
    .await;
}

#[tokio::test]
async fn servers_behind_this_one_can_read_whom_to_believe() {
    let options = Options {
        root_ca: Some("ca".into()),
        front_proxy: Some(FrontProxy {
            authority: "proxy ca".to_owned(),
            certificate: String::new(),
            key: String::new(),
        }),
        ..Options::default()
    };
    let server = server_with(options).await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    // It comes back if somebody removes it.
    ok(&server, "DELETE", path, Value::Null).await;
    let map = until(&server, path, |code, _| code == 200).await;
    assert_eq!(
        map["data"],
        json!({
            "client-ca-file": "ca",
            "requestheader-allowed-names": "[\"front-proxy-client\"]",
            "requestheader-client-ca-file": "proxy ca",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        })
    );
}

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const ROOT: &str = "/apis/wardle.example.com/v1alpha1";
const OWN: &str = "v1alpha1.wardle.example.com";

/// An API server and a server that could stand behind it.
async fn pair() -> (ApiServer, Extension) {
    let proxy = front_proxy();
    let extension = Extension::start(&proxy.authority).await;
    let options = Options {
        front_proxy: Some(proxy),
        dialer: Arc::<Counting>::default(),
        ..Options::default()
    };
    (server_with(options).await, extension)
}

fn api_service(extension: &Extension, more: Value) -> Value {
    let mut spec = json!({
        "group": GROUP, "version": "v1alpha1", "groupPriorityMinimum": 2000,
        "versionPriority": 200, "service": {"namespace": "default", "name": "sample"},
        "caBundle": BASE64_STANDARD.encode(&extension.authority),
    });
    let members = spec.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": OWN}, "spec": spec,
    })
}

async fn service(server: &ApiServer) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample"},
        "spec": {"ports": [{"port": 443}]},
    });
    ok(
        server,
        "POST",
        "/api/v1/namespaces/default/services",
        service,
    )
    .await;
}

async fn slice(server: &ApiServer, extension: &Extension) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "sample", "labels": {"kubernetes.io/service-name": "sample"}},
        "endpoints": [{"addresses": ["10.0.0.7"]}],
        "ports": [{"port": extension.address.port(), "name": ""}],
    });
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    ok(server, "POST", path, slice).await;
}

/// Wait for what the status says.
async fn told(server: &ApiServer, reason: &str) -> Value {
    let path = format!("{SERVICES}/{OWN}");
    let found = until(server, &path, |_, one| {
        one["status"]["conditions"][0]["reason"] == reason
    })
    .await;
    found["status"]["conditions"][0].clone()
}

/// An API server with a server behind it that answers.
async fn joined() -> (ApiServer, Extension) {
    let (server, extension) = pair().await;
    join(&server, &extension).await;
    (server, extension)
}

/// Put the one behind the other, and wait until it is found to answer.
async fn join(server: &ApiServer, extension: &Extension) {
    service(server).await;
    slice(server, extension).await;
    ok(server, "POST", SERVICES, api_service(extension, json!({}))).await;
    told(server, "Passed").await;
}

async fn aggregated(server: &ApiServer) -> Value {
    let response = raw(server, "GET", "/apis", &[("accept", V2)], "").await;
    let list: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    let mut groups = list["items"].as_array().unwrap().iter();
    let found = groups.find(|group| group["metadata"]["name"] == GROUP);
    found.cloned().unwrap_or_default()
}

#[tokio::test]
async fn what_keeps_a_server_from_being_reached_is_told_in_its_status() {
    let (server, extension) = pair().await;
    ok(
        &server,
        "POST",
        SERVICES,
        api_service(&extension, json!({})),
    )
    .await;
    let condition = told(&server, "ServiceNotFound").await;
    assert_eq!(condition["status"], "False");
    assert_eq!(
        condition["message"],
        "service/sample in \"default\" is not present"
    );
    // It is listed, stale, and answers that it is not there.
    let response = raw(&server, "GET", &format!("{ROOT}/flunders"), &[], "").await;
    assert_eq!(response.status(), 503);
    assert_eq!(bytes(response).await, "service unavailable\n");
    let group = aggregated(&server).await;
    assert_eq!(
        group["versions"],
        json!([{"version": "v1alpha1", "freshness": "Stale"}])
    );
    let (_, legacy) = get(&server, "/apis/wardle.example.com").await;
    assert_eq!(
        legacy["preferredVersion"]["groupVersion"],
        "wardle.example.com/v1alpha1"
    );

    service(&server).await;
    let condition = told(&server, "EndpointsNotFound").await;
    assert_eq!(
        condition["message"],
        "cannot find endpointslices for service/sample in \"default\""
    );
    extension.state.is_broken.store(true, Ordering::SeqCst);
    slice(&server, &extension).await;
    let condition = told(&server, "FailedDiscoveryCheck").await;
    let url = format!("https://sample.default.svc:443{ROOT}");
    assert_eq!(
        condition["message"],
        format!("failing or missing response from {url}: bad status from {url}: 500")
    );
    extension.state.is_broken.store(false, Ordering::SeqCst);
    let condition = told(&server, "Passed").await;
    assert_eq!(condition["status"], "True");
    assert_eq!(condition["message"], "all checks passed");
    let response = raw(&server, "GET", "/metrics", &[], "").await;
    let text = String::from_utf8(bytes(response).await.to_vec()).unwrap();
    for line in [
        format!("aggregator_unavailable_apiservice{{name=\"{OWN}\"}} 0"),
        format!(
            "aggregator_unavailable_apiservice_total{{name=\"{OWN}\",reason=\"ServiceNotFound\"}} 1"
        ),
    ] {
        assert!(text.lines().any(|one| one == line), "{line}");
    }
    // A port that the Service does not have.
    let port = json!({"spec": {"service": {"port": 8443}}});
    ok(&server, "PATCH", &format!("{SERVICES}/{OWN}"), port).await;
    let condition = told(&server, "ServicePortError").await;
    assert_eq!(
        condition["message"],
        "service/sample in \"default\" is not listening on port 8443"
    );
}

#[tokio::test]
async fn requests_are_passed_on_with_the_user_and_without_what_the_client_claims() {
    let (server, extension) = joined().await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "flunders"},
        "rules": [{"apiGroups": [GROUP], "resources": ["flunders"], "verbs": ["create"]}],
    });
    ok(
        &server,
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        role,
    )
    .await;
    let path = format!("{ROOT}/namespaces/default/flunders?fieldManager=x%20y");
    let ann = User::new("ann", &["carpenters", "system:authenticated"]);
    // What is asked for counts, however long the path.
    let deep = format!("{ROOT}/namespaces/default/flunders/a/b/c");
    let (_, answer) = send_as(&server, &ann, "GET", &deep, Value::Null).await;
    assert_eq!(
        answer["message"],
        "flunders.wardle.example.com \"a\" is forbidden: User \"ann\" cannot get resource \
         \"flunders/b\" in API group \"wardle.example.com\" in the namespace \"default\""
    );
    let local = get(&server, "/api/v1/namespaces/default/pods/a/log/b").await;
    assert_eq!(local, (404, json!("404 page not found\n")));
    // Who may not is not let through.
    let (code, answer) = send_as(&server, &ann, "POST", &path, json!({"a": 1})).await;
    assert_eq!((code, &answer["reason"]), (403, &json!("Forbidden")));
    assert!(extension.state.seen.lock().unwrap().is_empty());
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "flunders"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": "flunders"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    ok(&server, "POST", bindings, binding).await;
    let claims = [
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-a", "b"),
    ];
    let body = json!({"a": 1});
    let (code, answer) = crate::send_with(&server, Some(&ann), "POST", &path, &claims, body).await;
    assert_eq!((code, &answer["kind"]), (201, &json!("Flunder")));
    let seen = extension.state.seen.lock().unwrap();
    let (method, target, headers, body) = &seen[0];
    assert_eq!((method.as_str(), target), ("POST", &path));
    assert_eq!(body, "{\"a\":1}");
    let all = |name: &str| -> Vec<&str> {
        let values = headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    };
    assert_eq!(all("x-remote-user"), ["ann"]);
    assert_eq!(
        all("x-remote-group"),
        ["carpenters", "system:authenticated"]
    );
    assert!(all("x-remote-extra-a").is_empty() && all("authorization").is_empty());
    assert_eq!(all("host"), ["sample.default.svc"]);
    assert_eq!(all("content-type"), ["application/json"]);
}

#[tokio::test]
async fn discovery_and_openapi_tell_of_the_server_behind() {
    let (server, extension) = joined().await;
    let group = aggregated(&server).await;
    let kind = json!({"group": GROUP, "version": "v1alpha1", "kind": "Flunder"});
    let version = |freshness: &str| {
        json!([{
            "version": "v1alpha1", "freshness": freshness,
            "resources": [{
                "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced",
                "responseKind": kind, "verbs": ["get", "list", "watch"],
            }],
        }])
    };
    assert_eq!(group["versions"], version("Current"));
    let (_, groups) = get(&server, "/apis").await;
    let names: Vec<&Value> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names.last().unwrap(), &GROUP);
    let (_, resources) = get(&server, ROOT).await;
    assert_eq!(resources["resources"][0]["name"], "flunders");
    let (_, root) = get(&server, "/").await;
    assert!(root["paths"].as_array().unwrap().contains(&json!(ROOT)));

    let (_, index) = get(&server, "/openapi/v3").await;
    let url = &index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"];
    assert_eq!(url, "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC");
    let (_, document) = get(&server, url.as_str().unwrap()).await;
    assert_eq!(document["info"]["title"], "flunders");
    let (_, document) = get(&server, "/openapi/v2").await;
    assert!(document["paths"]["/apis/wardle.example.com/v1alpha1/flunders"].is_object());
    assert!(document["paths"]["/apis/other/v1/things"].is_null());
    assert_eq!(
        document["definitions"]["com.example.Flunder"]["type"],
        "object"
    );
    assert!(document["definitions"]["io.k8s.api.core.v1.Pod"].is_object());

    // Priorities order groups and versions.
    let higher = json!({"spec": {"groupPriorityMinimum": 20000}});
    ok(&server, "PATCH", &format!("{SERVICES}/{OWN}"), higher).await;
    until(&server, "/apis", |_, list| {
        list["groups"][1]["name"] == GROUP
    })
    .await;

    // What was learned is still told when the server fails, but as stale.
    extension.state.is_broken.store(true, Ordering::SeqCst);
    let service = "/api/v1/namespaces/default/services/sample";
    ok(
        &server,
        "PATCH",
        service,
        json!({"metadata": {"labels": {"look": "again"}}}),
    )
    .await;
    told(&server, "FailedDiscoveryCheck").await;
    assert_eq!(aggregated(&server).await["versions"], version("Stale"));
    ok(&server, "DELETE", &format!("{SERVICES}/{OWN}"), Value::Null).await;
    until(&server, "/apis/wardle.example.com", |code, _| code == 404).await;
    assert_eq!(get(&server, &format!("{ROOT}/flunders")).await.0, 404);
}

#[tokio::test]
async fn servers_that_know_only_old_discovery_are_discovered_too() {
    let (server, extension) = pair().await;
    extension.state.is_old.store(true, Ordering::SeqCst);
    join(&server, &extension).await;
    let group = aggregated(&server).await;
    assert_eq!(group["versions"][0]["freshness"], "Current");
    assert_eq!(group["versions"][0]["resources"][0]["resource"], "flunders");
    // The same goes for OpenAPI.
    let (_, index) = get(&server, "/openapi/v3").await;
    let url = &index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"];
    let (code, document) = get(&server, url.as_str().unwrap()).await;
    assert_eq!((code, &document["openapi"]), (200, &json!("3.0.0")));
    assert!(document["paths"]["/apis/wardle.example.com/v1alpha1/flunders"].is_object());
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["com.example.Flunder"]["type"], "object");
}

#[tokio::test]
async fn watches_and_upgraded_connections_go_through() {
    let (server, _extension) = joined().await;
    let mut lines = Lines::open(&server, &format!("{ROOT}/flunders?watch=true"), "").await;
    assert_eq!(lines.event().await, "ADDED 0");
    assert_eq!(lines.event().await, "ADDED 1");
    // Only a connection can be upgraded.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let admin = server.as_user(crate::admin());
    tokio::spawn(eyot_http::serve(listener, None, admin, stop.clone()));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET {ROOT}/namespaces/default/flunders/a/echo HTTP/1.1\r\nHost: x\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stream.write_all(b"abcd").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"dcba");
    stop.cancel();
}

#[tokio::test]
async fn a_server_is_believed_by_its_bundle_or_where_it_is_said_without() {
    let (server, extension) = pair().await;
    service(&server).await;
    slice(&server, &extension).await;
    let other = Extension::start(&front_proxy().authority).await;
    ok(&server, "POST", SERVICES, api_service(&other, json!({}))).await;
    // Checks take any certificate; requests do not.
    told(&server, "Passed").await;
    let path = format!("{ROOT}/flunders");
    let (code, text) = get(&server, &path).await;
    assert_eq!(code, 503);
    assert_eq!(
        text,
        "error trying to reach service: tls: failed to verify certificate: x509: certificate \
         signed by unknown authority\n"
    );
    assert_eq!(
        aggregated(&server).await["versions"][0]["freshness"],
        "Stale"
    );
    let all = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    ok(&server, "PATCH", &format!("{SERVICES}/{OWN}"), all).await;
    until(&server, &path, |code, _| code == 201).await;
    // Without a Service it is this server's own business, which serves no such group.
    let own = json!({"spec": {"service": null, "insecureSkipTLSVerify": null}});
    ok(&server, "PATCH", &format!("{SERVICES}/{OWN}"), own).await;
    told(&server, "Local").await;
    until(&server, &path, |code, _| code == 404).await;
}
