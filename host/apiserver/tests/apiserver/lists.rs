//! Lists in pages and at revisions, watches by their parameters: what the API's documentation says.

use serde_json::{Value, json};

use crate::{Lines, config_map, get, ok, raw, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value["metadata"][key].as_str().unwrap_or_default()
}

async fn fill(server: &eyot_apiserver::ApiServer, names: &[&str]) {
    for name in names {
        ok(server, "POST", MAPS, config_map(name)).await;
    }
}

#[tokio::test]
async fn pages_show_one_revision_and_count_what_remains() {
    let server = server().await;
    let all: Vec<String> = (0..7).map(|n| format!("m{n}")).collect();
    fill(&server, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for collection in [MAPS, "/api/v1/configmaps"] {
        let (mut found, mut token, mut revision) = (Vec::new(), String::new(), String::new());
        loop {
            let (code, page) =
                get(&server, &format!("{collection}?limit=3&continue={token}")).await;
            assert_eq!(code, 200, "{page}");
            if revision.is_empty() {
                revision = text(&page, "resourceVersion").to_owned();
                // Nothing that happens from here on is seen.
                ok(&server, "DELETE", &format!("{MAPS}/m5"), Value::Null).await;
                ok(&server, "POST", MAPS, config_map("m4x")).await;
                ok(
                    &server,
                    "PATCH",
                    &format!("{MAPS}/m6"),
                    json!({"data": {"new": "1"}}),
                )
                .await;
            }
            assert_eq!(text(&page, "resourceVersion"), revision);
            found.extend(names(&page));
            token = text(&page, "continue").to_owned();
            let remaining = page["metadata"]["remainingItemCount"].as_u64();
            if token.is_empty() {
                assert_eq!(remaining, None);
                assert!(page["items"][0]["data"].get("new").is_none());
                break;
            }
            assert_eq!(remaining.map(|n| n as usize + found.len()), Some(7));
        }
        assert_eq!(found, all);
        for path in ["m4x", "m6"] {
            ok(&server, "DELETE", &format!("{MAPS}/{path}"), Value::Null).await;
        }
        fill(&server, &["m5", "m6"]).await;
    }
}

#[tokio::test]
async fn a_token_of_a_list_that_is_gone_goes_on_with_the_present() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let server = server().await;
    fill(&server, &["a", "b", "c", "d"]).await;
    // As a client holds it whose list was made before the log begins.
    let token = json!({"v": "meta.k8s.io/v1", "rv": 1, "start": "/b\0"});
    // More changes than the log keeps.
    for n in 0..300 {
        let patch = json!({"data": {"n": n.to_string()}});
        ok(&server, "PATCH", &format!("{MAPS}/a"), patch).await;
    }
    let token = URL_SAFE_NO_PAD.encode(token.to_string());
    let (code, status) = get(&server, &format!("{MAPS}?limit=1&continue={token}")).await;
    if code == 200 {
        // The log still reaches back: then the list is that of revision 1, with nothing in it.
        assert_eq!(text(&status, "resourceVersion"), "1");
        assert_eq!(names(&status), [""; 0]);
        return;
    }
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")));
    let again = text(&status, "continue");
    let (code, page) = get(&server, &format!("{MAPS}?limit=1&continue={again}")).await;
    assert_eq!(code, 200);
    assert_eq!(names(&page), ["c"]);
}

#[tokio::test]
async fn a_list_cannot_be_continued_for_ever_even_if_nothing_changed() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let server = server().await;
    fill(&server, &["a", "b", "c", "d"]).await;
    let read = |page: &Value| -> Value {
        let token = URL_SAFE_NO_PAD.decode(text(page, "continue")).unwrap();
        serde_json::from_slice(&token).unwrap()
    };
    let next = async |token: &Value| {
        let token = URL_SAFE_NO_PAD.encode(token.to_string());
        get(&server, &format!("{MAPS}?limit=1&continue={token}")).await
    };
    let (_, page) = get(&server, &format!("{MAPS}?limit=1")).await;
    let mut token = read(&page);
    let began = token["t"].as_i64().unwrap();
    token["t"] = (began - 200).into();
    let (_, page) = next(&token).await;
    assert_eq!(names(&page), ["b"]);
    let mut token = read(&page);
    assert_eq!(token["t"], began - 200, "the age is that of the whole list");
    token["t"] = (began - 301).into();
    let (code, status) = next(&token).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    let (_, page) = next(&read(&status)).await;
    assert_eq!(names(&page), ["c"]);
    assert!(read(&page)["t"].as_i64().unwrap() >= began, "it began anew");
}

#[tokio::test]
async fn an_inconsistent_token_continues_after_the_last_key() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let server = server().await;
    fill(&server, &["a", "b", "c", "d"]).await;
    let token = json!({"v": "meta.k8s.io/v1", "rv": -1, "start": "/b\0"}).to_string();
    let token = URL_SAFE_NO_PAD.encode(token);
    let (_, page) = get(&server, &format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!(names(&page), ["c"]);
    assert_eq!(page["metadata"]["remainingItemCount"], 1);
    let (code, status) = get(
        &server,
        &format!("{MAPS}?continue={token}&resourceVersion=7"),
    )
    .await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "specifying resource version is not allowed when using continue"
    );
}

#[tokio::test]
async fn an_exact_revision_is_shown_as_it_was() {
    let server = server().await;
    fill(&server, &["a", "b"]).await;
    let (_, then) = get(&server, MAPS).await;
    let revision = text(&then, "resourceVersion").to_owned();
    ok(
        &server,
        "PATCH",
        &format!("{MAPS}/a"),
        json!({"data": {"k": "new"}}),
    )
    .await;
    ok(&server, "DELETE", &format!("{MAPS}/b"), Value::Null).await;
    fill(&server, &["c"]).await;
    for query in [
        format!("resourceVersion={revision}&resourceVersionMatch=Exact"),
        // Without a match a limit makes it exact.
        format!("resourceVersion={revision}&limit=500"),
    ] {
        let (code, list) = get(&server, &format!("{MAPS}?{query}")).await;
        assert_eq!(code, 200, "{list}");
        assert_eq!(text(&list, "resourceVersion"), revision);
        assert_eq!(names(&list), ["a", "b"]);
        assert_eq!(list["items"][0]["data"]["k"], "v");
    }
    for query in [
        format!("resourceVersion={revision}&resourceVersionMatch=NotOlderThan"),
        format!("resourceVersion={revision}"),
        "resourceVersion=0".to_owned(),
    ] {
        let (_, list) = get(&server, &format!("{MAPS}?{query}")).await;
        assert_eq!(names(&list), ["a", "c"], "{query}");
    }
    for path in [
        format!("{MAPS}?resourceVersion=999999"),
        format!("{MAPS}/a?resourceVersion=999999"),
    ] {
        let (code, status) = get(&server, &path).await;
        assert_eq!((code, status["reason"].as_str()), (504, Some("Timeout")));
        assert_eq!(
            status["details"]["causes"][0]["reason"],
            "ResourceVersionTooLarge"
        );
    }
}

#[tokio::test]
async fn a_watch_begins_where_its_parameters_say() {
    let server = server().await;
    fill(&server, &["a"]).await;
    // Without a revision, or at "0": with what exists.
    for query in [
        "",
        "&resourceVersion=0",
        "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
    ] {
        let path = format!("{MAPS}?watch=1{query}");
        let mut lines = Lines::open(&server, &path, "application/json").await;
        assert_eq!(lines.event().await, "ADDED a", "{query}");
    }
    // Without initial events: with what comes.
    let path = format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let mut later = Lines::open(&server, &path, "application/json").await;
    // From a revision that is yet to come: silent until then.
    let (_, now) = get(&server, MAPS).await;
    let next: u64 = text(&now, "resourceVersion").parse().unwrap();
    let path = format!("{MAPS}?watch=1&resourceVersion={}", next + 1);
    let mut future = Lines::open(&server, &path, "application/json").await;
    fill(&server, &["b"]).await;
    assert_eq!(later.event().await, "ADDED b");
    fill(&server, &["c"]).await;
    assert_eq!(future.event().await, "ADDED c");
    // The old path.
    let mut old = Lines::open(
        &server,
        "/api/v1/watch/namespaces/default/configmaps/b",
        "application/json",
    )
    .await;
    assert_eq!(old.event().await, "ADDED b");
    let (code, status) = get(&server, &format!("{MAPS}?watch=1&resourceVersion=abc")).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "configmaps \"\" is invalid: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax"
    );
}

#[tokio::test]
async fn a_streaming_list_of_several_selects_as_its_watch_does() {
    let server = server().await;
    fill(&server, &["a", "b"]).await;
    ok(
        &server,
        "PATCH",
        &format!("{MAPS}/a"),
        json!({"metadata": {"labels": {"on": "1"}}}),
    )
    .await;
    let path = format!(
        "{MAPS}?watch=1&labelSelector=on&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut lines = Lines::open(&server, &path, "application/json").await;
    assert_eq!(lines.event().await, "ADDED a");
    assert_eq!(lines.event().await, "BOOKMARK -");
    ok(
        &server,
        "PATCH",
        &format!("{MAPS}/b"),
        json!({"metadata": {"labels": {"on": "1"}}}),
    )
    .await;
    assert_eq!(lines.event().await, "ADDED b");
    ok(
        &server,
        "PATCH",
        &format!("{MAPS}/a"),
        json!({"metadata": {"labels": {"on": null}}}),
    )
    .await;
    assert_eq!(lines.event().await, "DELETED a");
}

#[tokio::test]
async fn tables_and_metadata_come_in_both_versions_for_get_list_and_watch() {
    let server = server().await;
    fill(&server, &["a", "b", "c"]).await;
    let show = async |path: &str, accept: &str| {
        let response = raw(&server, "GET", path, &[("accept", accept)], "").await;
        let code = response.status().as_u16();
        let body: Value = serde_json::from_slice(&crate::bytes(response).await).unwrap();
        (code, body)
    };
    for version in ["v1", "v1beta1"] {
        let whole = format!("meta.k8s.io/{version}");
        let of = |kind: &str| format!("application/json;as={kind};v={version};g=meta.k8s.io");
        let (_, table) = show(&format!("{MAPS}?limit=2"), &of("Table")).await;
        assert_eq!(
            (table["kind"].as_str(), &table["apiVersion"]),
            (Some("Table"), &json!(whole))
        );
        assert_eq!(table["rows"][0]["cells"][0], "a");
        assert_eq!(table["rows"][0]["object"]["apiVersion"], whole);
        assert_eq!(table["metadata"]["remainingItemCount"], 1);
        let rest = format!("{MAPS}?continue={}", text(&table, "continue"));
        let (_, rest) = show(&rest, &of("Table")).await;
        assert_eq!(rest["rows"][0]["cells"][0], "c");
        for (include, kind) in [
            ("None", Value::Null),
            ("Object", json!("ConfigMap")),
            ("Metadata", json!("PartialObjectMetadata")),
        ] {
            let (_, table) = show(&format!("{MAPS}/a?includeObject={include}"), &of("Table")).await;
            assert_eq!(table["rows"][0]["object"]["kind"], kind, "{include}");
            assert_eq!(
                table["rows"][0]["cells"].as_array().unwrap().len(),
                table["columnDefinitions"].as_array().unwrap().len()
            );
        }
        let (code, status) = show(&format!("{MAPS}?includeObject=All"), &of("Table")).await;
        assert_eq!(code, 400);
        assert_eq!(
            status["message"],
            "Unable to convert to Table as requested: includeObject: Invalid value: \"All\": must be 'Metadata', 'Object', 'None', or empty"
        );
        let (_, list) = show(MAPS, &of("PartialObjectMetadataList")).await;
        assert_eq!(
            (&list["apiVersion"], &list["items"][1]["kind"]),
            (&json!(whole), &json!("PartialObjectMetadata"))
        );
        let (_, one) = show(&format!("{MAPS}/a"), &of("PartialObjectMetadata")).await;
        assert_eq!((text(&one, "name"), one.get("data")), ("a", None));
        // The shape of a list for one object, and the other way round.
        for (path, kind) in [
            (MAPS.to_owned(), "PartialObjectMetadata"),
            (format!("{MAPS}/a"), "PartialObjectMetadataList"),
        ] {
            let (code, status) = show(&path, &of(kind)).await;
            assert_eq!(
                (code, status["reason"].as_str()),
                (406, Some("NotAcceptable"))
            );
            let message = status["message"].as_str().unwrap();
            assert!(
                message.starts_with(&format!(
                    "you requested {kind}, but the requested object is"
                )),
                "{message}"
            );
        }
        for kind in ["Table", "PartialObjectMetadata"] {
            let mut lines = Lines::open(&server, &format!("{MAPS}?watch=1"), &of(kind)).await;
            let event = lines.next().await.unwrap();
            assert_eq!(
                (&event["object"]["apiVersion"], &event["object"]["kind"]),
                (&json!(whole), &json!(kind))
            );
        }
    }
}

#[tokio::test]
async fn what_cannot_be_answered_in_a_form_is_refused_with_what_can() {
    let server = server().await;
    ok(&server, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.x.test"},
        "spec": {
            "group": "x.test", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    }))
    .await;
    const WIDGETS: &str = "/apis/x.test/v1/namespaces/default/widgets";
    const ALL: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let only = |media: &str| format!("only the following media types are accepted: {media}");
    for (path, accept, message) in [
        (
            MAPS,
            "text/html",
            format!(
                "406: Not Acceptable\n\nAvailable representations: {ALL}, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
            ),
        ),
        (
            MAPS,
            "application/json;as=Table;v=v9;g=meta.k8s.io",
            only(ALL),
        ),
        (
            MAPS,
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
            only(ALL),
        ),
        (
            WIDGETS,
            "application/vnd.kubernetes.protobuf",
            only("application/json, application/yaml"),
        ),
        (
            WIDGETS,
            "application/cbor",
            only("application/json, application/yaml"),
        ),
        (
            "/api/v1/namespaces/default/configmaps?watch=1",
            "application/yaml",
            only("application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"),
        ),
    ] {
        let response = raw(&server, "GET", path, &[("accept", accept)], "").await;
        assert_eq!(response.status(), 406, "{path} {accept}");
        let body = crate::bytes(response).await;
        match serde_json::from_slice::<Value>(&body) {
            Ok(status) => assert_eq!(status["message"], message, "{path} {accept}"),
            // The refusal itself may well come in protobuf.
            Err(_) => assert!(
                String::from_utf8_lossy(&body).contains(&message),
                "{path} {accept}"
            ),
        }
    }
    // Questions have no Table.
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let headers = [
        ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("content-type", "application/json"),
    ];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let response = raw(&server, "POST", path, &headers, review.to_string()).await;
    assert_eq!(response.status(), 406);
}
