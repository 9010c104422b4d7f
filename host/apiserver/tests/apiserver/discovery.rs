//! What clients learn about the server: discovery in both forms, health, version.

use serde_json::{Value, json};

use crate::{bytes, get, ok, raw, server};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

fn widgets(versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(at, name)| {
            json!({
                "name": name, "served": true, "storage": at == 0,
                "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                    },
                },
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.x.test"},
        "spec": {
            "group": "x.test", "scope": "Namespaced", "versions": versions,
            "names": {
                "plural": "widgets", "singular": "widget", "kind": "Widget",
                "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["all"],
            },
        },
    })
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Body and headers of a request with this `Accept`.
async fn accept(
    server: &eyot_apiserver::ApiServer,
    path: &str,
    accept: &str,
) -> (u16, http::HeaderMap, Value) {
    let response = raw(server, "GET", path, &[("accept", accept)], "").await;
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    let body = serde_json::from_slice(&bytes(response).await).unwrap_or_default();
    (code, headers, body)
}

#[tokio::test]
async fn aggregated_discovery_comes_in_the_version_asked_for_and_is_cacheable() {
    let server = server().await;
    for path in ["/api", "/apis", "/apis/"] {
        for (asked, version) in [(V2, "v2"), (BETA, "v2beta1")] {
            let (code, headers, body) = accept(&server, path, asked).await;
            assert_eq!(code, 200);
            assert_eq!(headers["content-type"], asked);
            assert_eq!(headers["vary"], "Accept");
            assert_eq!(body["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
            let etag = headers["etag"].to_str().unwrap();
            assert!(etag.len() == 130 && etag.starts_with('"'), "{etag}");
            let again = [("accept", asked), ("if-none-match", etag)];
            let response = raw(&server, "GET", path, &again, "").await;
            assert_eq!(response.status(), 304);
            assert!(bytes(response).await.is_empty());
        }
        // The first form that can be given wins, and others are passed over.
        for (asked, kind) in [
            (
                format!("{V2},{BETA},application/json"),
                "APIGroupDiscoveryList",
            ),
            (
                format!("application/json,{V2}"),
                if path == "/api" {
                    "APIVersions"
                } else {
                    "APIGroupList"
                },
            ),
            (
                format!(
                    "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,{BETA}"
                ),
                "APIGroupDiscoveryList",
            ),
            (
                String::from("*/*"),
                if path == "/api" {
                    "APIVersions"
                } else {
                    "APIGroupList"
                },
            ),
        ] {
            let (_, headers, body) = accept(&server, path, &asked).await;
            assert_eq!(body["kind"], kind, "{asked}");
            assert_eq!(headers["vary"], "Accept");
        }
    }
}

#[tokio::test]
async fn a_custom_resource_is_discovered_in_both_forms_and_leaves_with_its_definition() {
    let server = server().await;
    let before = accept(&server, "/apis", V2).await.1["etag"].clone();
    ok(&server, "POST", CRDS, widgets(&["v1", "v1beta1", "v2"])).await;
    let (_, headers, list) = accept(&server, "/apis", V2).await;
    assert_ne!(headers["etag"], before);
    let group = list["items"].as_array().unwrap().last().unwrap();
    assert_eq!(group["metadata"]["name"], "x.test");
    let versions: Vec<&str> = group["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["version"].as_str().unwrap())
        .collect();
    assert_eq!(versions, ["v2", "v1", "v1beta1"]);
    let own = json!({"group": "", "version": "", "kind": "Widget"});
    assert_eq!(
        group["versions"][0]["resources"],
        json!([{
            "resource": "widgets", "singularResource": "widget", "scope": "Namespaced",
            "responseKind": own, "shortNames": ["wd"], "categories": ["all"],
            "verbs": ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"],
            "subresources": [
                {"subresource": "status", "responseKind": own, "verbs": ["get", "patch", "update"]},
                {
                    "subresource": "scale", "verbs": ["get", "patch", "update"],
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
                },
            ],
        }])
    );
    let (_, group) = get(&server, "/apis/x.test/").await;
    assert_eq!(
        group["preferredVersion"],
        json!({"groupVersion": "x.test/v2", "version": "v2"})
    );
    let (_, list) = get(&server, "/apis/x.test/v2").await;
    assert_eq!(list["groupVersion"], "x.test/v2");
    assert_eq!(list["resources"][0]["name"], "widgets");
    // SHA-256 of "x.test/v1/Widget", the version that is stored.
    assert_eq!(list["resources"][0]["storageVersionHash"], "V+iyyVegVHY=");
    assert_eq!(list["resources"][1]["name"], "widgets/status");
    assert_eq!(list["resources"][2]["group"], "autoscaling");
    ok(
        &server,
        "DELETE",
        &format!("{CRDS}/widgets.x.test"),
        Value::Null,
    )
    .await;
    for _ in 0..200 {
        if accept(&server, "/apis", V2).await.1["etag"] == before {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the group is still there");
}

#[tokio::test]
async fn legacy_documents_name_everything_that_is_served() {
    let server = server().await;
    let (_, core) = get(&server, "/api/v1").await;
    let names: Vec<&str> = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert!(
        names.is_sorted() && names.contains(&"bindings") && names.contains(&"pods/eviction"),
        "{names:?}"
    );
    let pods = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "pods")
        .unwrap();
    assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
    assert_eq!(pods["singularName"], "pod");
    let (_, reviews) = get(&server, "/apis/authorization.k8s.io/v1").await;
    assert_eq!(reviews["resources"][0]["verbs"], json!(["create"]));
    let (_, root) = get(&server, "/").await;
    let paths: Vec<&str> = root["paths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_str().unwrap())
        .collect();
    for path in [
        "/api/v1",
        "/apis/apps/v1",
        "/livez/ping",
        "/readyz/informer-sync",
        "/openapi/v2",
        "/version",
    ] {
        assert!(paths.contains(&path), "{path}");
    }
    assert!(paths.is_sorted());
}

#[tokio::test]
async fn health_is_told_in_kubernetes_words() {
    let server = server().await;
    let text = async |path: &str| {
        let response = raw(&server, "GET", path, &[], "").await;
        let code = response.status().as_u16();
        (
            code,
            String::from_utf8(bytes(response).await.to_vec()).unwrap(),
        )
    };
    for name in ["healthz", "livez", "readyz"] {
        assert_eq!(text(&format!("/{name}")).await, (200, "ok".to_owned()));
        assert_eq!(text(&format!("/{name}/ping")).await, (200, "ok".to_owned()));
        assert_eq!(text(&format!("/{name}/nope")).await.0, 404);
        let (code, all) = text(&format!("/{name}?verbose=1&exclude=etcd&exclude=nope")).await;
        assert_eq!(code, 200);
        assert!(
            all.starts_with("[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n"),
            "{all}"
        );
        assert!(
            all.contains("[+]poststarthook/crd-informer-synced ok\n"),
            "{all}"
        );
        let end = format!(
            "warn: some health checks cannot be excluded: no matches for \"nope\"\n{name} check passed\n"
        );
        assert!(all.ends_with(&end), "{all}");
        assert_eq!(all.contains("[+]informer-sync ok\n"), name == "readyz");
    }
}

#[tokio::test]
async fn a_server_that_stops_is_alive_and_not_ready() {
    let options = eyot_apiserver::Options::default();
    let stop = options.shutdown.clone();
    let server = crate::server_with(options).await;
    stop.cancel();
    assert_eq!(raw(&server, "GET", "/livez", &[], "").await.status(), 200);
    let response = raw(&server, "GET", "/readyz", &[], "").await;
    assert_eq!(response.status(), 500);
    let text = String::from_utf8(bytes(response).await.to_vec()).unwrap();
    assert!(
        text.ends_with("[-]shutdown failed: reason withheld\nreadyz check failed\n"),
        "{text}"
    );
}

#[tokio::test]
async fn the_version_is_one_that_clients_can_compare() {
    let (_, version) = get(&server().await, "/version").await;
    assert_eq!(
        (&version["major"], &version["minor"]),
        (&json!("1"), &json!("36"))
    );
    assert!(
        version["gitVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.36.")
    );
    for key in [
        "emulationMajor",
        "minCompatibilityMinor",
        "platform",
        "compiler",
    ] {
        assert!(version[key].is_string(), "{key}");
    }
}

/// Compares with what a real server answers, for all that is served here.
#[tokio::test]
async fn discovery_is_that_of_the_real_server() {
    let Some(golden) = std::env::var_os("EYOT_SHARED") else {
        eprintln!("SKIPPED discovery_is_that_of_the_real_server: EYOT_SHARED is not set");
        return;
    };
    let golden = std::path::PathBuf::from(golden).join("facts/kubernetes-golden");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(golden.join(name)).unwrap()).unwrap()
    };
    let server = server().await;
    for (path, file) in [("/api", "api_v2.json"), ("/apis", "apis_v2.json")] {
        let (_, _, ours) = accept(&server, path, V2).await;
        let theirs = read(file);
        for (ours, theirs) in pairs(&ours["items"], &theirs["items"]) {
            assert_eq!(ours["metadata"], theirs["metadata"], "order of groups");
            for (ours, theirs) in pairs(&ours["versions"], &theirs["versions"]) {
                for (ours, theirs) in pairs(&ours["resources"], &theirs["resources"]) {
                    assert_eq!(ours, theirs);
                }
                assert_eq!(ours, theirs);
            }
        }
        assert_eq!(ours["items"], theirs["items"]);
    }
    let (_, ours) = get(&server, "/apis").await;
    assert_eq!(ours, read("apis_legacy.json"));
    let (_, ours) = get(&server, "/api").await;
    assert_eq!(ours["versions"], read("api_legacy.json")["versions"]);
    let (_, ours) = get(&server, "/openapi/v3").await;
    let theirs = read("openapi_v3_index.json");
    let paths = |index: &Value| -> Vec<String> {
        let paths = index["paths"].as_object().unwrap().keys();
        paths.cloned().collect()
    };
    assert_eq!(paths(&ours), paths(&theirs));
}

/// The elements of two lists side by side.
fn pairs<'a>(ours: &'a Value, theirs: &'a Value) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    let list = |value: &'a Value| value.as_array().unwrap().iter();
    list(ours).zip(list(theirs))
}

#[tokio::test]
async fn metrics_count_what_is_served_and_nothing_that_clients_make_up() {
    let server = server().await;
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    ok(&server, "POST", MAPS, crate::config_map("a")).await;
    for _ in 0..3 {
        ok(&server, "GET", &format!("{MAPS}/a"), Value::Null).await;
    }
    for n in 0..5 {
        assert_eq!(
            get(&server, &format!("/apis/made.up/v1/things{n}")).await.0,
            404
        );
    }
    let watch = raw(&server, "GET", &format!("{MAPS}?watch=1"), &[], "").await;
    let page = async || {
        let response = raw(&server, "GET", "/metrics", &[], "").await;
        assert_eq!(
            response.headers()["content-type"],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        String::from_utf8(bytes(response).await.to_vec()).unwrap()
    };
    let text = page().await;
    let labels = |scope: &str, verb: &str| {
        format!(
            "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\""
        )
    };
    for line in [
        format!(
            "apiserver_request_total{{code=\"201\",{}}} 1",
            labels("namespace", "POST")
        ),
        format!(
            "apiserver_request_total{{code=\"200\",{}}} 3",
            labels("resource", "GET")
        ),
        format!(
            "apiserver_request_total{{code=\"200\",{}}} 1",
            labels("namespace", "WATCH")
        ),
        format!(
            "apiserver_request_duration_seconds_count{{{}}} 3",
            labels("resource", "GET")
        ),
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1".to_owned(),
        "apiserver_longrunning_requests{component=\"apiserver\",verb=\"WATCH\"} 1".to_owned(),
        "apiserver_storage_objects{resource=\"configmaps\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("process_resident_memory_bytes ") && !text.contains("made.up"));
    drop(watch);
    assert!(page().await.contains("verb=\"WATCH\"} 0"));
}
