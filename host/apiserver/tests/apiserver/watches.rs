//! Watches: resumable, selective, and honest when they cannot be resumed.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};

use crate::{Lines, PATIENCE, admin, config_map, ok, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_resumes_from_any_revision() {
    let server = server().await;
    let first = ok(&server, "POST", MAPS, config_map("a")).await;
    ok(&server, "POST", MAPS, config_map("b")).await;
    ok(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?watch=true&resourceVersion={revision}");
    let mut lines = Lines::open(&server, &path, "application/json").await;
    assert_eq!(lines.event().await, "ADDED b");
    assert_eq!(lines.event().await, "DELETED a");
    ok(
        &server,
        "PATCH",
        &format!("{MAPS}/b"),
        json!({"data": {"x": "1"}}),
    )
    .await;
    assert_eq!(lines.event().await, "MODIFIED b");
}

#[tokio::test]
async fn leaving_and_entering_a_selection_look_like_deletion_and_creation() {
    let server = server().await;
    let path = format!("{MAPS}?watch=true&labelSelector=on%3Dyes&resourceVersion=0");
    let mut lines = Lines::open(&server, &path, "application/json").await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let label = |value: &str| json!({"metadata": {"labels": {"on": value}}});
    ok(&server, "PATCH", &format!("{MAPS}/a"), label("yes")).await;
    assert_eq!(lines.event().await, "ADDED a");
    let left = ok(&server, "PATCH", &format!("{MAPS}/a"), label("no")).await;
    let event = lines.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["on"], "yes");
    let revision = &event["object"]["metadata"]["resourceVersion"];
    assert_eq!(revision, &left["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let path = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
         &allowWatchBookmarks=true&fieldSelector=metadata.name%3Da"
    );
    let mut lines = Lines::open(&server, &path, "application/json").await;
    assert_eq!(lines.event().await, "ADDED a");
    let bookmark = lines.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let annotations = &bookmark["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    ok(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(lines.event().await, "DELETED a");
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_with_a_bookmark() {
    let server = server().await;
    let path = format!("{MAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut lines = Lines::open(&server, &path, "application/json").await;
    assert_eq!(lines.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn a_watch_as_table_sends_the_columns_once() {
    let server = server().await;
    let path = format!("{MAPS}?watch=true");
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut lines = Lines::open(&server, &path, accept).await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let event = lines.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "Table");
    assert_eq!(event["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(event["object"]["rows"][0]["cells"][0], "a");
}

#[tokio::test]
async fn shutdown_ends_every_watch() {
    let options = eyot_apiserver::Options::default();
    let server = crate::server_with(options.clone()).await;
    let path = format!("{MAPS}?watch=true");
    let mut lines = Lines::open(&server, &path, "application/json").await;
    options.shutdown.cancel();
    assert_eq!(lines.next().await, None);
}

#[tokio::test]
async fn the_kube_client_works_in_process() {
    let client = Client::new(server().await.as_user(admin()), "default");
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut events = std::pin::pin!(
        watcher(api.clone(), watcher::Config::default())
            .default_backoff()
            .applied_objects()
    );
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some("a".into()),
            ..ObjectMeta::default()
        },
        data: Some([("k".to_owned(), "v".to_owned())].into()),
        ..ConfigMap::default()
    };
    let made = api.create(&PostParams::default(), &map).await.unwrap();
    let seen = tokio::time::timeout(PATIENCE, events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(seen, made);
    let patch = Patch::Strategic(json!({"data": {"k": "w"}}));
    api.patch("a", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let seen = tokio::time::timeout(PATIENCE, events.try_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(seen.data.unwrap()["k"], "w");
    let error = api.create(&PostParams::default(), &map).await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.reason == "AlreadyExists"));
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
}
