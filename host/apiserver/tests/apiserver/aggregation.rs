//! APIServices, and servers that answer behind this one.

use eyot_apiserver::{FrontProxy, Options};
use serde_json::{Value, json};

use crate::{get, ok, send, server, server_with};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Read until this holds of what is read.
async fn until(
    server: &eyot_apiserver::ApiServer,
    path: &str,
    holds: impl Fn(u16, &Value) -> bool,
) -> Value {
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
    let (_, map) = get(&server, path).await;
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
