//! Bodies and answers in other forms than plain JSON, and bodies that are not in order.

use std::io::Read;

use eyot_apiserver::{ApiServer, protobuf};
use serde_json::{Value, json};

use crate::{bytes, config_map, get, ok, pod, raw, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: (&str, &str) = ("content-type", "application/json");
const YAML: (&str, &str) = ("content-type", "application/yaml");
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Code, warnings and JSON of an answer.
async fn send(
    server: &ApiServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, Vec<String>, Value) {
    let response = raw(server, method, path, headers, body.to_owned()).await;
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings
        .map(|value| value.to_str().unwrap().to_owned())
        .collect();
    (
        code,
        warnings,
        serde_json::from_slice(&bytes(response).await).unwrap_or_default(),
    )
}

#[tokio::test]
async fn answers_come_in_protobuf_for_everything_but_custom_resources() {
    let server = server().await;
    let body = protobuf::encode(&pod("p")).unwrap();
    let path = "/api/v1/namespaces/default/pods";
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let made = raw(&server, "POST", path, &headers, body).await;
    assert_eq!(made.status(), 201);
    assert_eq!(made.headers()["content-type"], PROTOBUF);
    let made = protobuf::decode(&bytes(made).await).unwrap().value;
    let (_, stored) = get(&server, &format!("{path}/p")).await;
    for pointer in [
        "/metadata/uid",
        "/spec/containers/0/image",
        "/spec/restartPolicy",
        "/status/phase",
    ] {
        assert_eq!(made.pointer(pointer), stored.pointer(pointer), "{pointer}");
    }
    let show = async |method: &str, path: &str, accept: &str| {
        let response = raw(&server, method, path, &[("accept", accept)], "").await;
        let media = response.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        (media, bytes(response).await)
    };
    let (media, body) = show(
        "GET",
        &format!("{path}/p"),
        &format!("{PROTOBUF},application/json"),
    )
    .await;
    assert_eq!(media, PROTOBUF);
    assert_eq!(
        protobuf::decode(&body).unwrap().value["metadata"]["name"],
        "p"
    );
    let (media, body) = show("GET", path, PROTOBUF).await;
    assert_eq!(media, PROTOBUF);
    assert!(body.starts_with(b"k8s\0") && body.windows(7).any(|part| part == b"PodList"));
    // Errors and reviews too.
    let (media, body) = show("GET", &format!("{path}/nope"), PROTOBUF).await;
    assert_eq!(media, PROTOBUF);
    let status = protobuf::decode(&body).unwrap().value;
    assert_eq!(
        (&status["reason"], &status["code"]),
        (&json!("NotFound"), &json!(404))
    );
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
    let (media, body) = show("GET", &format!("{path}/p"), &metadata).await;
    assert_eq!(media, PROTOBUF);
    assert!(
        body.windows(21)
            .any(|part| part == b"PartialObjectMetadata")
    );
    // A Table has no protobuf form: the next best is taken.
    let table = format!(
        "{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io"
    );
    assert_eq!(show("GET", path, &table).await.0, "application/json");
}

#[tokio::test]
async fn a_watch_in_protobuf_is_a_stream_of_frames() {
    use http_body_util::BodyExt;
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let accept = format!("{PROTOBUF};stream=watch");
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let response = raw(&server, "GET", &path, &[("accept", &accept)], "").await;
    assert_eq!(response.headers()["content-type"], accept);
    let stream = response.into_body().collect().await.unwrap().to_bytes();
    let length = u32::from_be_bytes(stream[..4].try_into().unwrap()) as usize;
    assert_eq!(stream.len(), 4 + length, "one frame");
    assert_eq!(&stream[4..11], b"\x0a\x05ADDED");
    let at = stream.windows(4).position(|part| part == b"k8s\0").unwrap();
    assert_eq!(
        protobuf::decode(&stream[at..]).unwrap().value["metadata"]["name"],
        "a"
    );
}

#[tokio::test]
async fn yaml_goes_both_ways() {
    let server = server().await;
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yam}\ndata:\n  a: \"1\"\n";
    let (code, _, made) = send(&server, "POST", MAPS, &[YAML], body).await;
    assert_eq!((code, &made["data"]["a"]), (201, &json!("1")));
    let response = raw(
        &server,
        "GET",
        &format!("{MAPS}/yam"),
        &[("accept", "application/yaml")],
        "",
    )
    .await;
    assert_eq!(response.headers()["content-type"], "application/yaml");
    let text = String::from_utf8(bytes(response).await.to_vec()).unwrap();
    assert!(
        text.contains("kind: ConfigMap\n") && text.contains("  a: \"1\"\n"),
        "{text}"
    );
    let response = raw(
        &server,
        "GET",
        &format!("{MAPS}/nope"),
        &[("accept", "application/yaml")],
        "",
    )
    .await;
    assert_eq!(response.headers()["content-type"], "application/yaml");
}

#[tokio::test]
async fn people_get_lines_and_programs_do_not() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    let lines = async |query: &str, headers: &[(&str, &str)]| {
        let response = raw(&server, "GET", &format!("{path}{query}"), headers, "").await;
        bytes(response)
            .await
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    };
    assert_eq!(lines("", &[]).await, 0);
    assert!(lines("?pretty=true", &[]).await > 5);
    assert!(lines("", &[("user-agent", "curl/8.0")]).await > 5);
    assert_eq!(lines("?pretty=0", &[("user-agent", "curl/8.0")]).await, 0);
    assert!(lines("", &[("accept", "application/json;pretty=1")]).await > 5);
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_take_it() {
    let server = server().await;
    let big = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"},
        "data": {"k": "abc ".repeat(50_000)},
    });
    ok(&server, "POST", MAPS, big).await;
    let gzip = ("accept-encoding", "gzip");
    for (path, packed) in [
        (MAPS.to_owned(), true),
        (format!("{MAPS}/big"), true),
        ("/api/v1/namespaces".to_owned(), false),
    ] {
        let plain = bytes(raw(&server, "GET", &path, &[], "").await).await;
        let response = raw(&server, "GET", &path, &[gzip], "").await;
        assert_eq!(
            response.headers().contains_key("content-encoding"),
            packed,
            "{path}"
        );
        if packed {
            assert_eq!(response.headers()["vary"], "Accept-Encoding");
            let (body, mut unpacked) = (bytes(response).await, Vec::new());
            assert!(body.len() * 10 < plain.len());
            flate2::read::GzDecoder::new(&body[..])
                .read_to_end(&mut unpacked)
                .unwrap();
            assert_eq!(unpacked, plain);
        }
    }
    // A large list in another form, though it is sent in pieces.
    let yaml = raw(
        &server,
        "GET",
        MAPS,
        &[("accept", "application/yaml"), gzip],
        "",
    )
    .await;
    assert_eq!(yaml.headers()["content-type"], "application/yaml");
    assert_eq!(yaml.headers()["content-encoding"], "gzip");
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let response = raw(&server, "GET", &watch, &[gzip], "").await;
    assert!(!response.headers().contains_key("content-encoding"));
}

#[tokio::test]
async fn fields_given_twice_are_remarked_upon_as_the_client_wishes() {
    let server = server().await;
    let body = |name: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "{name}"}}, "odd": 1,
                "immutable": false, "immutable": true, "data": {{"k": "1", "k": "2"}}}}"#
        )
    };
    let all = "unknown field \"odd\", duplicate field \"immutable\", duplicate field \"data.k\"";
    let (code, _, status) = send(
        &server,
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        &[JSON],
        &body("a"),
    )
    .await;
    assert_eq!(code, 400);
    let refused = format!(
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: {all}"
    );
    assert_eq!(status["message"], refused);
    let (code, warnings, made) = send(&server, "POST", MAPS, &[JSON], &body("a")).await;
    assert_eq!(
        (code, &made["data"]["k"], &made["immutable"]),
        (201, &json!("2"), &json!(true))
    );
    let expected: Vec<String> = all
        .split(", ")
        .map(|text| format!("299 - \"{}\"", text.replace('"', "\\\"")))
        .collect();
    assert_eq!(warnings, expected);
    let (code, warnings, _) = send(
        &server,
        "POST",
        &format!("{MAPS}?fieldValidation=Ignore"),
        &[JSON],
        &body("b"),
    )
    .await;
    assert_eq!((code, warnings.len()), (201, 0));
    let (code, _, status) = send(
        &server,
        "PUT",
        &format!("{MAPS}/b?fieldValidation=Strict"),
        &[JSON],
        &body("b"),
    )
    .await;
    assert_eq!((code, &status["message"]), (400, &json!(refused)));
    let yaml =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\nodd: 1\ndata:\n  k: a\n  k: b\n";
    let (_, _, status) = send(
        &server,
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        &[YAML],
        yaml,
    )
    .await;
    assert_eq!(
        status["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  line 7: key \"k\" already set in map, unknown field \"odd\""
    );
}

#[tokio::test]
async fn bodies_that_are_no_objects_are_refused_in_known_words() {
    let server = server().await;
    let check = async |headers: (&str, &str), body: &str, code: u16, message: &str| {
        let (found, _, status) = send(&server, "POST", MAPS, &[headers], body).await;
        assert_eq!(
            (found, status["message"].as_str()),
            (code, Some(message)),
            "{body}"
        );
    };
    const BAD: &str = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ";
    check(
        JSON,
        "nonsense",
        400,
        &format!("{BAD}invalid character 'o' in literal null (expecting 'u') (6e6f6e73656e7365)"),
    )
    .await;
    check(
        JSON,
        "",
        400,
        &format!("{BAD}unexpected end of JSON input (<empty>)"),
    )
    .await;
    check(
        JSON,
        "{\"metadata\": {\"name\": \"some-long-name\"",
        400,
        &format!("{BAD}unexpected end of JSON input ({{\"metadata\": {{\"name\": \"some-lo ...)"),
    )
    .await;
    check(
        ("content-type", PROTOBUF),
        "nope",
        400,
        "the object provided is unrecognized (must be of type ConfigMap): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (6e6f7065)",
    )
    .await;
    for media in ["text/plain", "application/cbor"] {
        check(
            ("content-type", media),
            "{}",
            415,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )
        .await;
    }
    // Deeper than anything is: refused, not overflowed.
    let deep = format!(
        "{{\"data\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let (code, ..) = send(&server, "POST", MAPS, &[JSON], &deep).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn every_version_of_a_kind_is_printed_alike() {
    let server = server().await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Why", "message": "what", "type": "Normal", "count": 4
    });
    ok(&server, "POST", "/api/v1/namespaces/default/events", event).await;
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {
            "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}
            }}]
        }
    });
    let scalers = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    ok(&server, "POST", scalers, scaler).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let cells = async |path: &str| {
        let (code, _, table) = send(&server, "GET", path, &accept, "").await;
        assert_eq!(code, 200, "{table}");
        table["rows"][0]["cells"].clone()
    };
    for (stored, other) in [
        (
            "/api/v1/namespaces/default/events",
            "/apis/events.k8s.io/v1/namespaces/default/events",
        ),
        (
            scalers,
            "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        ),
    ] {
        assert_eq!(cells(stored).await, cells(other).await);
    }
    let shown = cells("/apis/events.k8s.io/v1/namespaces/default/events").await;
    assert_eq!(shown[3], "pod/p");
    assert_eq!(shown[6], "what");
    assert_eq!(shown[8], "4");
}
