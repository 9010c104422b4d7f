//! Objects from creation to deletion.

use eyot_apiserver::{ApiServer, Options};
use eyot_store::Store;
use serde_json::{Value, json};

use crate::{bytes, config_map, get, ok, pod, raw, send, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_strategic_patch_to_a_wrong_type_is_refused_in_words_of_its_own() {
    let server = server().await;
    ok(&server, "POST", "/api/v1/namespaces/default/pods", pod("a")).await;
    for (patch, why) in [
        (
            json!({"metadata": {"labels": "x"}}),
            "cannot restore map from string",
        ),
        (
            json!({"spec": {"tolerations": {}}}),
            "cannot restore slice from map",
        ),
        (json!({"spec": "x"}), "cannot restore struct from: string"),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "cannot convert int64 to string",
        ),
    ] {
        let media = [("content-type", "application/strategic-merge-patch+json")];
        let path = "/api/v1/namespaces/default/pods/a";
        let answer = raw(&server, "PATCH", path, &media, patch.to_string()).await;
        assert_eq!(answer.status(), 422, "{patch}");
        let status: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
        let message = status["message"].as_str().unwrap();
        assert!(message.ends_with(why), "{message}");
        let merged = send(&server, "PATCH", path, patch).await.1;
        let message = merged["message"].as_str().unwrap();
        assert!(message.contains("json: cannot unmarshal"), "{message}");
    }
}

#[tokio::test]
async fn revision_zero_is_any_revision() {
    let server = server().await;
    let mut map = config_map("a");
    map["metadata"]["resourceVersion"] = "0".into();
    ok(&server, "POST", MAPS, map.clone()).await;
    map["data"]["k"] = "other".into();
    let path = format!("{MAPS}/a");
    let changed = ok(&server, "PUT", &path, map).await;
    assert_eq!(changed["data"]["k"], "other");
    let patch = json!({"metadata": {"resourceVersion": "0"}, "data": {"k": "third"}});
    assert_eq!(
        ok(&server, "PATCH", &path, patch).await["data"]["k"],
        "third"
    );
}

#[tokio::test]
async fn an_object_is_created_read_listed_and_deleted() {
    let server = server().await;
    let made = ok(&server, "POST", MAPS, config_map("a")).await;
    assert!(!made["metadata"]["uid"].as_str().unwrap().is_empty());
    assert_eq!(made["metadata"]["namespace"], "default");
    let (code, read) = get(&server, &format!("{MAPS}/a")).await;
    assert_eq!((code, &read), (200, &made));
    let list = ok(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(list["kind"], "ConfigMapList");
    assert_eq!(list["items"], json!([made]));
    let gone = ok(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["uid"], made["metadata"]["uid"]);
    let (code, status) = get(&server, &format!("{MAPS}/a")).await;
    assert_eq!((code, status["reason"].as_str()), (404, Some("NotFound")));
}

#[tokio::test]
async fn a_write_from_a_stale_revision_is_a_conflict_and_one_without_revision_is_not() {
    let server = server().await;
    let first = ok(&server, "POST", MAPS, config_map("a")).await;
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    ok(&server, "PUT", &format!("{MAPS}/a"), second).await;
    let mut late = first.clone();
    late["data"]["k"] = "3".into();
    let (code, status) = send(&server, "PUT", &format!("{MAPS}/a"), late.clone()).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("the object has been modified")
    );
    late["metadata"]["resourceVersion"] = "".into();
    let last = ok(&server, "PUT", &format!("{MAPS}/a"), late).await;
    assert_eq!(last["data"]["k"], "3");
    assert_eq!(last["metadata"]["uid"], first["metadata"]["uid"]);
}

#[tokio::test]
async fn some_kinds_are_written_at_a_known_revision_only() {
    let server = server().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "a"}, "spec": {},
    });
    let made = ok(&server, "PUT", &format!("{leases}/a"), lease.clone()).await;
    let (code, status) = send(&server, "PUT", &format!("{leases}/a"), lease.clone()).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "leases.coordination.k8s.io \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: \
         must be specified for an update"
    );
    lease["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    lease["spec"]["holderIdentity"] = "b".into();
    ok(&server, "PUT", &format!("{leases}/a"), lease).await;
    // A patch that says nothing of it is a patch of what is there.
    let patch = json!({"spec": {"holderIdentity": "c"}});
    ok(&server, "PATCH", &format!("{leases}/a"), patch).await;
}

#[tokio::test]
async fn finalizers_of_namespaces_are_checked_and_the_phase_follows_the_deletion() {
    let server = server().await;
    let path = "/api/v1/namespaces";
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    let mut made = ok(&server, "POST", path, namespace).await;
    made["spec"]["finalizers"] = json!(["kubernetes", "mine"]);
    let (code, status) = send(&server, "PUT", &format!("{path}/n/finalize"), made.clone()).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "Namespace \"n\" is invalid: spec.finalizers[1]: Invalid value: \"mine\": name is neither \
         a standard finalizer name nor is it fully qualified"
    );
    made["spec"]["finalizers"] = json!(["kubernetes"]);
    made["status"]["phase"] = "Terminating".into();
    let (code, status) = send(&server, "PUT", &format!("{path}/n/status"), made).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "Namespace \"n\" is invalid: status.Phase: Invalid value: \"Terminating\": may only be \
         'Active' if `deletionTimestamp` is empty"
    );
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_revision() {
    let server = server().await;
    let first = ok(&server, "POST", MAPS, config_map("a")).await;
    let second = ok(
        &server,
        "PATCH",
        &format!("{MAPS}/a"),
        json!({"data": {"k": "v"}}),
    )
    .await;
    assert_eq!(first, second);
}

#[tokio::test]
async fn concurrent_patches_without_revision_all_take_effect() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let writers = (0..12).map(|n| {
        let server = server.clone();
        tokio::spawn(async move {
            ok(
                &server,
                "PATCH",
                &format!("{MAPS}/a"),
                json!({"data": {format!("n{n}"): "1"}}),
            )
            .await
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let (_, map) = get(&server, &format!("{MAPS}/a")).await;
    assert_eq!(map["data"].as_object().unwrap().len(), 13);
}

#[tokio::test]
async fn every_page_of_a_list_shows_the_same_revision() {
    let server = server().await;
    for name in ["a", "b", "c", "d", "e"] {
        ok(&server, "POST", MAPS, config_map(name)).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = ok(&server, "GET", &format!("{MAPS}?limit=2"), Value::Null).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    ok(&server, "DELETE", &format!("{MAPS}/d"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = ok(
        &server,
        "GET",
        &format!("{MAPS}?limit=9&continue={token}"),
        Value::Null,
    )
    .await;
    assert_eq!(names(&rest), ["c", "d", "e"]);
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(rest["metadata"].get("continue"), None);
    let (code, _) = get(&server, &format!("{MAPS}?continue=garbage")).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn a_page_whose_revision_is_gone_offers_to_go_on_in_the_present() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        ok(&server, "POST", MAPS, config_map(name)).await;
    }
    let first = ok(&server, "GET", &format!("{MAPS}?limit=1"), Value::Null).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    // More changes than the log keeps.
    for turn in 0..9000 {
        let patch = json!({"data": {"turn": turn.to_string()}});
        ok(&server, "PATCH", &format!("{MAPS}/a"), patch).await;
    }
    ok(&server, "POST", MAPS, config_map("b1")).await;
    let (code, gone) = get(&server, &format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let rest = ok(
        &server,
        "GET",
        &format!("{MAPS}?continue={token}"),
        Value::Null,
    )
    .await;
    let items = rest["items"].as_array().unwrap().iter();
    let names: Vec<_> = items.map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["b", "b1", "c"]);
    let old = &first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(get(&server, &path).await.0, 410);
}

#[tokio::test]
async fn only_the_renewal_of_a_lease_spares_the_disk() {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("eyot.db");
    let store = Store::open(&path, eyot_apiserver::extract).await.unwrap();
    let server = ApiServer::new(store.clone(), Options::default());
    let server = server.await.unwrap();
    let lease = json!({
        "metadata": {"name": "n"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 40},
    });
    ok(&server, "POST", LEASES, lease).await;
    let patch = async |spec: Value| {
        let path = format!("{LEASES}/n");
        ok(&server, "PATCH", &path, json!({"spec": spec})).await;
        store.stats().groups
    };
    let renew = |second: u32| json!({"renewTime": format!("2026-01-01T00:00:{second}.000000Z")});
    // The first sets revisions aside.
    let transactions = patch(renew(10)).await;
    for second in 11..30 {
        assert_eq!(patch(renew(second)).await, transactions);
    }
    let (_, read) = get(&server, &format!("{LEASES}/n")).await;
    assert_eq!(read["spec"]["renewTime"], "2026-01-01T00:00:29.000000Z");
    assert_eq!(
        patch(json!({"holderIdentity": "b"})).await,
        transactions + 1
    );
    store.close().await;
}

#[tokio::test]
async fn a_list_is_answered_exactly_as_of_the_revision_asked_for() {
    let server = server().await;
    let first = ok(&server, "POST", MAPS, config_map("a")).await;
    ok(&server, "POST", MAPS, config_map("b")).await;
    ok(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    let old = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    let list = ok(&server, "GET", &path, Value::Null).await;
    assert_eq!(list["items"], json!([first]));
    assert_eq!(list["metadata"]["resourceVersion"], *old);
}

#[tokio::test]
async fn a_long_list_arrives_whole_in_each_form() {
    let server = server().await;
    let filler = "x".repeat(1000);
    for n in 0..300 {
        let mut map = config_map(&format!("m{n:03}"));
        map["data"]["filler"] = filler.as_str().into();
        ok(&server, "POST", MAPS, map).await;
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    for (accept, items, name) in [
        ("application/json", "items", "/metadata/name"),
        (table, "rows", "/object/metadata/name"),
        (partial, "items", "/metadata/name"),
    ] {
        let response = raw(&server, "GET", MAPS, &[("accept", accept)], "").await;
        let list: Value = serde_json::from_slice(&bytes(response).await).unwrap();
        let items = list[items].as_array().unwrap();
        let names = items.iter().map(|item| item.pointer(name).unwrap().clone());
        assert!(
            names.eq((0..300).map(|n| json!(format!("m{n:03}")))),
            "{accept}"
        );
        assert!(list["metadata"]["resourceVersion"].is_string());
    }
}

#[tokio::test]
async fn a_generated_name_starts_with_its_prefix() {
    let server = server().await;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}});
    let made = ok(&server, "POST", MAPS, body).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn objects_need_a_namespace_that_exists_and_stays() {
    let server = server().await;
    let (code, status) = send(
        &server,
        "POST",
        "/api/v1/namespaces/no/configmaps",
        config_map("a"),
    )
    .await;
    assert_eq!(code, 404);
    assert_eq!(status["message"], "namespaces \"no\" not found");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    ok(&server, "POST", "/api/v1/namespaces", namespace).await;
    let going = ok(&server, "DELETE", "/api/v1/namespaces/n", Value::Null).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    let (code, status) = send(
        &server,
        "POST",
        "/api/v1/namespaces/n/configmaps",
        config_map("a"),
    )
    .await;
    assert_eq!((code, status["reason"].as_str()), (403, Some("Forbidden")));
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    let mut released = going;
    released["spec"]["finalizers"] = json!([]);
    ok(&server, "PUT", "/api/v1/namespaces/n/finalize", released).await;
    assert_eq!(get(&server, "/api/v1/namespaces/n").await.0, 404);
}

#[tokio::test]
async fn an_object_with_finalizers_stays_until_the_last_is_removed() {
    let server = server().await;
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["x.test/a"]);
    ok(&server, "POST", MAPS, body).await;
    let marked = ok(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert!(
        marked["metadata"]["deletionTimestamp"].is_string(),
        "{marked}"
    );
    assert_eq!(get(&server, &format!("{MAPS}/a")).await.0, 200);
    let none = json!({"metadata": {"finalizers": null}});
    ok(&server, "PATCH", &format!("{MAPS}/a"), none).await;
    assert_eq!(get(&server, &format!("{MAPS}/a")).await.0, 404);
}

#[tokio::test]
async fn a_delete_with_another_uid_is_refused() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let (code, status) = send(
        &server,
        "DELETE",
        &format!("{MAPS}/a"),
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "wrong"}}),
    )
    .await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
}

#[tokio::test]
async fn dry_runs_change_nothing() {
    let server = server().await;
    ok(
        &server,
        "POST",
        &format!("{MAPS}?dryRun=All"),
        config_map("a"),
    )
    .await;
    assert_eq!(get(&server, &format!("{MAPS}/a")).await.0, 404);
    ok(&server, "POST", MAPS, config_map("a")).await;
    let patched = ok(
        &server,
        "PATCH",
        &format!("{MAPS}/a?dryRun=All"),
        json!({"data": {"k": "new"}}),
    )
    .await;
    assert_eq!(patched["data"]["k"], "new");
    ok(
        &server,
        "DELETE",
        &format!("{MAPS}/a?dryRun=All"),
        Value::Null,
    )
    .await;
    assert_eq!(get(&server, &format!("{MAPS}/a")).await.1["data"]["k"], "v");
}

#[tokio::test]
async fn a_collection_is_deleted_by_label() {
    let server = server().await;
    for (name, tier) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut body = config_map(name);
        body["metadata"]["labels"] = json!({"tier": tier});
        ok(&server, "POST", MAPS, body).await;
    }
    ok(
        &server,
        "DELETE",
        &format!("{MAPS}?labelSelector=tier%3Dx"),
        Value::Null,
    )
    .await;
    let list = ok(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
}

#[tokio::test]
async fn unknown_fields_are_refused_named_or_dropped_as_asked() {
    let server = server().await;
    let mut body = config_map("a");
    body["bogus"] = json!(1);
    let (code, status) = send(
        &server,
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        body.clone(),
    )
    .await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with("strict decoding error: unknown field \"bogus\""),
        "{status}"
    );
    let headers = [("content-type", "application/json")];
    let answer = raw(&server, "POST", MAPS, &headers, body.to_string()).await;
    assert_eq!(
        answer.headers()["warning"],
        "299 - \"unknown field \\\"bogus\\\"\""
    );
    let made: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    assert_eq!(made.get("bogus"), None);
}

#[tokio::test]
async fn bad_requests_name_what_is_wrong() {
    let server = server().await;
    let huge = vec![b' '; 4 * 1024 * 1024];
    let answer = raw(&server, "POST", MAPS, &[], huge).await;
    assert_eq!(answer.status(), 413);
    let answer = raw(&server, "POST", MAPS, &[], "{").await;
    assert_eq!(answer.status(), 400);
    let answer = raw(
        &server,
        "POST",
        MAPS,
        &[("content-type", "text/plain")],
        "{}",
    )
    .await;
    assert_eq!(answer.status(), 415);
    let apply = [("content-type", "application/apply-patch+cbor")];
    ok(&server, "POST", MAPS, config_map("a")).await;
    let answer = raw(&server, "PATCH", &format!("{MAPS}/a"), &apply, "{}").await;
    assert_eq!(answer.status(), 415);
    assert_eq!(send(&server, "POST", MAPS, json!([1])).await.0, 400);
    assert_eq!(send(&server, "PUT", MAPS, config_map("a")).await.0, 405);
    assert_eq!(get(&server, "/api/v1/namespaces/default/nope").await.0, 404);
    assert_eq!(get(&server, "/nope").await.0, 404);
    assert_eq!(
        get(&server, &format!("{MAPS}?labelSelector=%3D%3D"))
            .await
            .0,
        400
    );
    assert_eq!(
        get(&server, &format!("{MAPS}?resourceVersion=99999"))
            .await
            .0,
        504
    );
}

#[tokio::test]
async fn a_table_has_a_row_for_each_object() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = raw(&server, "GET", MAPS, &[("accept", accept)], "").await;
    let table: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let answer = raw(&server, "GET", MAPS, &[("accept", accept)], "").await;
    let list: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(list["items"][0].get("data"), None);
}

#[tokio::test]
async fn the_standing_namespaces_exist_from_the_start() {
    let server = server().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let (code, namespace) = get(&server, &format!("/api/v1/namespaces/{name}")).await;
        assert_eq!(
            (code, namespace["status"]["phase"].as_str()),
            (200, Some("Active"))
        );
    }
}

#[tokio::test]
async fn discovery_names_every_served_kind_in_both_forms() {
    let server = server().await;
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    for path in ["/api", "/apis"] {
        let answer = raw(&server, "GET", path, &[("accept", accept)], "").await;
        let list: Value = serde_json::from_slice(&bytes(answer).await).unwrap();
        assert_eq!(list["kind"], "APIGroupDiscoveryList", "{path}");
    }
    let core = ok(&server, "GET", "/api/v1", Value::Null).await;
    let names: Vec<&str> = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    for name in [
        "pods",
        "pods/log",
        "pods/binding",
        "pods/status",
        "namespaces",
        "configmaps",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let groups = ok(&server, "GET", "/apis", Value::Null).await;
    let groups = groups["groups"].to_string();
    for group in [
        "apps/v1",
        "coordination.k8s.io/v1",
        "apiextensions.k8s.io/v1",
    ] {
        assert!(groups.contains(group), "{group} in {groups}");
    }
}

#[tokio::test]
async fn put_makes_what_is_not_there_where_kubernetes_does() {
    let server = server().await;
    let namespaced = |group: &str, plural: &str| match group {
        "v1" => format!("/api/v1/namespaces/default/{plural}"),
        group => format!("/apis/{group}/namespaces/default/{plural}"),
    };
    let role =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let about = json!({"kind": "Pod", "name": "p", "namespace": "default"});
    let rbac = "rbac.authorization.k8s.io/v1";
    let cluster = |plural: &str| format!("/apis/{rbac}/{plural}");
    for (version, kind, path, rest) in [
        (
            "coordination.k8s.io/v1",
            "Lease",
            namespaced("coordination.k8s.io/v1", "leases"),
            json!({}),
        ),
        ("v1", "Endpoints", namespaced("v1", "endpoints"), json!({})),
        (
            "v1",
            "LimitRange",
            namespaced("v1", "limitranges"),
            json!({}),
        ),
        (
            "v1",
            "Event",
            namespaced("v1", "events"),
            json!({"involvedObject": about}),
        ),
        (
            "v1",
            "Service",
            namespaced("v1", "services"),
            json!({"spec": {"ports": [{"port": 80}]}}),
        ),
        (rbac, "Role", namespaced(rbac, "roles"), json!({})),
        (
            rbac,
            "RoleBinding",
            namespaced(rbac, "rolebindings"),
            json!({"roleRef": role}),
        ),
        (rbac, "ClusterRole", cluster("clusterroles"), json!({})),
        (
            rbac,
            "ClusterRoleBinding",
            cluster("clusterrolebindings"),
            json!({"roleRef": role}),
        ),
        (
            "node.k8s.io/v1",
            "RuntimeClass",
            "/apis/node.k8s.io/v1/runtimeclasses".to_owned(),
            json!({"handler": "h"}),
        ),
    ] {
        let mut body = json!({
            "apiVersion": version, "kind": kind, "metadata": {"name": "made"},
        });
        body.as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        let path = format!("{path}/made");
        let (code, made) = send(&server, "PUT", &format!("{path}?dryRun=All"), body.clone()).await;
        assert_eq!(code, 201, "{made}");
        assert_eq!(get(&server, &path).await.0, 404);
        // What revision it once had does not matter; which object it was does.
        body["metadata"]["resourceVersion"] = "7".into();
        let (code, made) = send(&server, "PUT", &path, body.clone()).await;
        assert_eq!(code, 201, "{made}");
        assert!(made["metadata"]["uid"].is_string());
        let (code, _) = send(&server, "PUT", &path, made.clone()).await;
        assert_eq!(code, 200);
        ok(&server, "DELETE", &path, Value::Null).await;
        let (code, answer) = send(&server, "PUT", &path, made).await;
        assert_eq!(
            (code, &answer["reason"]),
            (409, &json!("Conflict")),
            "{kind}"
        );
    }
    let map = crate::config_map("made");
    let path = "/api/v1/namespaces/default/configmaps/made";
    assert_eq!(send(&server, "PUT", path, map).await.0, 404);
    let lease =
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/none/leases/x";
    assert_eq!(send(&server, "PUT", path, lease).await.0, 404);
}
