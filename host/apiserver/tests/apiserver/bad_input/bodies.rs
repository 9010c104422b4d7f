//! Bodies and queries that are larger, deeper or odder than anything a client means.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Doors, status, talk};
use crate::{Lines, bytes, config_map, get, ok, raw, send, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON_PATCH: &str = "application/json-patch+json";

/// Code and `Status` reason of what a body gets, from a server that must serve on.
async fn refusal(
    server: &eyot_apiserver::ApiServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<bytes::Bytes>,
) -> (u16, String) {
    let response = raw(server, method, path, headers, body).await;
    let code = response.status().as_u16();
    let body = bytes(response).await;
    let text = String::from_utf8_lossy(&body);
    let status: Value = serde_json::from_str(&text).expect(&text);
    if code < 300 {
        return (code, String::new());
    }
    assert_eq!(status["kind"], "Status", "{status}");
    assert_eq!(status["code"], code, "{status}");
    // A panic would be answered so.
    let message = status["message"].as_str().unwrap_or_default();
    assert!(!message.contains("hit a bug"), "{status}");
    (
        code,
        status["reason"].as_str().unwrap_or_default().to_owned(),
    )
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + "1" + &close.repeat(depth)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_answered_however_it_comes() {
    let doors = Doors::open().await;
    let huge = "x".repeat(4 << 20);
    let head = format!("POST {MAPS} HTTP/1.1\r\nContent-Type: {JSON}\r\nConnection: close\r\n");
    let sized = format!("{head}Content-Length: {}\r\n\r\n{huge}", huge.len());
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{huge}\r\n0\r\n\r\n",
        huge.len()
    );
    for sent in [sized, chunked] {
        let answer = talk(&mut doors.plain().await, sent.as_bytes()).await;
        let (code, reason, _) = status(&answer);
        assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"));
    }
    // A body that breaks off in the middle, and one whose chunks are none.
    for broken in [
        format!("{head}Content-Length: 10\r\n\r\n{{"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ] {
        let mut socket = doors.plain().await;
        let sent = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            socket.write_all(broken.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer).await;
            answer
        };
        let answer = tokio::time::timeout(crate::PATIENCE, sent).await.unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
    }
    doors.is_well().await;
}

#[tokio::test]
async fn bodies_that_are_packed_are_not_unpacked() {
    let server = server().await;
    // Kubernetes knows no Content-Encoding of requests: it reads the packed bytes, and finds no JSON.
    let packed: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let headers = [("content-type", JSON), ("content-encoding", "gzip")];
    let refused = refusal(&server, "POST", MAPS, &headers, packed).await;
    assert_eq!(refused, (400, "BadRequest".to_owned()));
}

#[tokio::test]
async fn nesting_without_measure_is_refused() {
    let server = server().await;
    for depth in [200, 10_000, 500_000] {
        for (media, body) in [
            (JSON, nested("[", "]", depth)),
            (JSON, nested("{\"a\":", "}", depth)),
            (YAML, nested("[", "]", depth)),
            (YAML, nested("{a: ", "}", depth.min(100_000))),
            (YAML, "- ".repeat(depth) + "a"),
        ] {
            let headers = [("content-type", media)];
            let (code, reason) = refusal(&server, "POST", MAPS, &headers, body).await;
            assert_eq!((code, &*reason), (400, "BadRequest"), "{media} {depth}");
        }
    }
    ok(&server, "POST", MAPS, config_map("a")).await;
    for media in [
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
        JSON_PATCH,
    ] {
        let deep = nested("{\"data\":", "}", 50_000);
        let body = match media {
            JSON_PATCH => format!("[{{\"op\":\"add\",\"path\":\"/data\",\"value\":{deep}}}]"),
            _ => deep,
        };
        let path = format!("{MAPS}/a?fieldManager=t");
        let (code, _) = refusal(&server, "PATCH", &path, &[("content-type", media)], body).await;
        assert_eq!(code, 400, "{media}");
    }
}

#[tokio::test]
async fn aliases_of_yaml_that_multiply_are_refused() {
    let server = server().await;
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let items = vec![before; 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{items}]").unwrap();
    }
    let path = format!("{MAPS}/a?fieldManager=t");
    for (method, path, media) in [
        ("POST", MAPS, YAML),
        ("PATCH", path.as_str(), "application/apply-patch+yaml"),
    ] {
        let headers = [("content-type", media)];
        let (code, reason) = refusal(&server, method, path, &headers, bomb.clone()).await;
        assert_eq!((code, &*reason), (400, "BadRequest"), "{media}");
    }
    // An alias of itself.
    let headers = [("content-type", YAML)];
    let (code, _) = refusal(&server, "POST", MAPS, &headers, "&a [*a]").await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn broken_protobuf_is_refused() {
    let server = server().await;
    let headers = [("content-type", PROTOBUF)];
    let whole = eyot_apiserver::protobuf::encode(&config_map("a")).unwrap();
    // Cut anywhere: refused, or by chance a smaller object; never a broken server.
    for end in 0..whole.len() {
        let (code, _) = refusal(&server, "POST", MAPS, &headers, whole.slice_to(end)).await;
        assert!(matches!(code, 201 | 400 | 409 | 422), "{end}: {code}");
    }
    // Each byte as the largest there is, which makes lengths wrong.
    for at in 4..whole.len() {
        let mut bent = whole.to_vec();
        bent[at] = 0xff;
        let (code, _) = refusal(&server, "POST", MAPS, &headers, bent).await;
        assert!(matches!(code, 201 | 400 | 404 | 409 | 422), "{at}: {code}");
    }
    // A schema within a schema within a schema: the one message of Kubernetes' that recurs.
    let mut schema: Vec<u8> = Vec::new();
    for _ in 0..20_000 {
        // `not`, field 29.
        let mut outer = vec![0xea, 0x01];
        let mut length = schema.len();
        while length >= 0x80 {
            outer.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        outer.push(u8::try_from(length).unwrap());
        outer.extend(&schema);
        schema = outer;
        if schema.len() > 80_000 {
            break;
        }
    }
    let wrap = |field: u8, inner: &[u8]| {
        let mut bytes = vec![field << 3 | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        bytes.push(u8::try_from(length).unwrap());
        bytes.extend(inner);
        bytes
    };
    let version = wrap(4, &wrap(1, &schema));
    let definition = wrap(2, &wrap(7, &version));
    let mut kind = wrap(1, b"apiextensions.k8s.io/v1");
    kind.extend(wrap(2, b"CustomResourceDefinition"));
    let mut envelope = wrap(1, &kind);
    envelope.extend(wrap(2, &definition));
    let mut body = b"k8s\0".to_vec();
    body.extend(envelope);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, _) = refusal(&server, "POST", path, &headers, body).await;
    assert!(matches!(code, 400 | 422), "{code}");
}

/// A prefix of bytes.
trait SliceTo {
    fn slice_to(&self, end: usize) -> Vec<u8>;
}

impl<T: AsRef<[u8]>> SliceTo for T {
    fn slice_to(&self, end: usize) -> Vec<u8> {
        self.as_ref()[..end].to_vec()
    }
}

#[tokio::test]
async fn json_patches_that_blow_up_are_refused() {
    let server = server().await;
    ok(&server, "POST", MAPS, config_map("a")).await;
    let path = format!("{MAPS}/a");
    let headers = [("content-type", JSON_PATCH)];
    let many = vec![json!({"op": "test", "path": "/data/k", "value": "v"}); 10_001];
    let many = Value::from(many).to_string();
    let refused = refusal(&server, "PATCH", &path, &headers, many).await;
    assert_eq!(refused, (413, "RequestEntityTooLarge".to_owned()));
    let just = vec![json!({"op": "test", "path": "/data/k", "value": "v"}); 10_000];
    let just = Value::from(just).to_string();
    assert_eq!(
        refusal(&server, "PATCH", &path, &headers, just).await.0,
        200
    );
    // Each copies everything so far into itself.
    let doubling: Vec<Value> = (0..60)
        .map(|at| json!({"op": "copy", "from": "/data", "path": format!("/data/x{at}")}))
        .collect();
    let doubling = Value::from(doubling).to_string();
    let (code, reason) = refusal(&server, "PATCH", &path, &headers, doubling).await;
    assert_eq!((code, &*reason), (422, "Invalid"));
    for (malformed, code) in [
        ("{}", 400),
        ("[1]", 400),
        ("[{\"op\":1}]", 400),
        ("[{\"op\":\"boom\",\"path\":\"/data\"}]", 422),
        ("[{\"op\":\"add\"}]", 422),
        (
            "[{\"op\":\"remove\",\"path\":\"/data/-99999999999999999999\"}]",
            422,
        ),
        (
            "[{\"op\":\"add\",\"path\":\"/metadata/labels/-\",\"value\":1}]",
            422,
        ),
        ("[", 400),
    ] {
        let (found, _) = refusal(&server, "PATCH", &path, &headers, malformed).await;
        assert_eq!(found, code, "{malformed}");
    }
    let (_, stored) = get(&server, &path).await;
    assert_eq!(stored["data"], json!({"k": "v"}));
}

#[tokio::test]
async fn selectors_and_tokens_that_mean_nothing_are_refused() {
    let server = server().await;
    let wide = (0..5_000).fold(String::new(), |mut text, at| {
        write!(text, "{}k{at}", if at > 0 { "," } else { "" }).unwrap();
        text
    });
    let values = vec!["v"; 20_000].join(",");
    for (query, codes) in [
        (format!("labelSelector={wide}"), &[200][..]),
        (format!("labelSelector=a%20in%20({values})"), &[200]),
        (format!("labelSelector={}", "(".repeat(20_000)), &[400]),
        (format!("labelSelector={}", "!".repeat(30_000)), &[400]),
        (format!("fieldSelector={}", "%5C".repeat(10_000)), &[400]),
        ("labelSelector=%FF%FE".to_owned(), &[400]),
        ("fieldSelector=metadata.name=%00".to_owned(), &[200, 400]),
        ("continue=AAAA".to_owned(), &[400]),
        (
            "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiLi4vLi4vIn0".to_owned(),
            &[400],
        ),
        (format!("continue={}", "A".repeat(50_000)), &[400]),
        ("limit=99999999999999999999".to_owned(), &[400]),
        ("limit=-1".to_owned(), &[200]),
        ("resourceVersion=-1".to_owned(), &[400]),
        (
            "timeoutSeconds=99999999999999999999&watch=1".to_owned(),
            &[400],
        ),
        ("a".repeat(60_000), &[200]),
    ] {
        let path = format!("{MAPS}?{query}");
        let (code, _) = refusal(&server, "GET", &path, &[], "").await;
        let short: String = query.chars().take(60).collect();
        assert!(codes.contains(&code), "{short}: {code}");
    }
    for path in [
        "/api/v1/namespaces/%00/configmaps",
        "/api/v1/namespaces/%FF/configmaps/%FF",
        "/api/v1/namespaces/default/configmaps/..%2f..%2f",
        "/api/v1/namespaces/default/configmaps/(a+)+$",
        "/apis/.*/v1/pods",
    ] {
        let code = raw(&server, "GET", path, &[], "").await.status().as_u16();
        assert!(matches!(code, 200 | 400 | 404), "{path}: {code}");
    }
}

#[tokio::test]
async fn objects_of_odd_contents_are_judged_in_time() {
    let server = server().await;
    let headers = [("content-type", JSON)];
    let mut labels = serde_json::Map::new();
    for at in 0..10_000 {
        labels.insert(format!("label-{at}"), json!("v"));
    }
    let mut object = config_map("many");
    object["metadata"]["labels"] = labels.into();
    ok(&server, "POST", MAPS, object).await;
    // The same key 100,000 times: the last one counts, and not each is remarked upon.
    let mut body =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{"#.to_owned();
    for at in 0..100_000 {
        write!(body, "{}\"k\":\"{at}\"", if at > 0 { "," } else { "" }).unwrap();
    }
    body.push_str("}}");
    let made = raw(&server, "POST", MAPS, &headers, body).await;
    assert_eq!(made.status(), 201);
    assert!(made.headers().get_all("warning").iter().count() <= 100);
    assert_eq!(
        get(&server, &format!("{MAPS}/twice")).await.1["data"]["k"],
        "99999"
    );
    // Bytes that are no UTF-8 become replacement characters, as in Go.
    let mut body =
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"odd"},"data":{"k":""#
            .to_vec();
    body.extend([0xff, 0xc0, 0x80]);
    body.extend(b"\"}}");
    let (code, _) = refusal(&server, "POST", MAPS, &headers, body).await;
    assert_eq!(code, 201);
    let (_, stored) = get(&server, &format!("{MAPS}/odd")).await;
    assert_eq!(stored["data"]["k"], "\u{fffd}\u{fffd}\u{fffd}");
    // Numbers that no type holds.
    for number in ["1e999", "-1e999", "1e-999", &"9".repeat(100_000)] {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"n"}},"spec":{{"priority":{number}}}}}"#
        );
        let path = "/api/v1/namespaces/default/pods";
        let (code, _) = refusal(&server, "POST", path, &headers, body).await;
        assert!(matches!(code, 400 | 422), "{number:.10}: {code}");
    }
}

/// What is stored can be read again, by everybody: an object that could not is refused.
#[tokio::test]
async fn objects_are_as_deep_as_their_readers_can_go() {
    let server = server().await;
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let crd = json!({
        "metadata": {"name": "deeps.x.test"},
        "spec": {"group": "x.test", "scope": "Namespaced",
            "names": {"plural": "deeps", "singular": "deep", "kind": "Deep"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                          "schema": {"openAPIV3Schema": schema}}]},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    ok(&server, "POST", definitions, crd).await;
    let deeps = "/apis/x.test/v1/namespaces/default/deeps";
    let deep = |name: &str, levels: usize| {
        let inside = nested("{\"a\":", "}", levels);
        format!(
            "{{\"apiVersion\":\"x.test/v1\",\"kind\":\"Deep\",\"metadata\":{{\"name\":\"{name}\"}},\
             \"spec\":{inside}}}"
        )
    };
    let refused = |text: &str| text.contains("exceeded max depth");
    let (mut made, mut turned_away) = (0, 0);
    for levels in 90..140 {
        let (name, headers) = (format!("d{levels}"), [("content-type", "application/json")]);
        let answer = raw(&server, "POST", deeps, &headers, deep(&name, levels)).await;
        let code = answer.status().as_u16();
        let text = String::from_utf8(bytes(answer).await.to_vec()).unwrap();
        if code != 201 {
            assert!(code == 400 && refused(&text), "{levels}: {code} {text}");
            turned_away += 1;
            continue;
        }
        made += 1;
        let (code, seen) = get(&server, &format!("{deeps}/{name}")).await;
        assert_eq!((code, &seen["kind"]), (200, &json!("Deep")), "{levels}");
        let patch = json!({"metadata": {"labels": {"x": "y"}}});
        ok(&server, "PATCH", &format!("{deeps}/{name}"), patch).await;
    }
    assert!(made > 20 && turned_away > 10, "{made} {turned_away}");
    // As kube-rs and serde_json read them: in lists, tables and events.
    let (_, list) = get(&server, deeps).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(made));
    let table = [("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")];
    let whole = format!("{deeps}?includeObject=Object");
    let table = bytes(raw(&server, "GET", &whole, &table, "").await).await;
    let table: Value = serde_json::from_slice(&table).unwrap();
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(made));
    let watch = format!("{deeps}?watch=true&timeoutSeconds=1&resourceVersion=0");
    let mut events = Lines::open(&server, &watch, "application/json").await;
    for _ in 0..made {
        assert!(events.event().await.starts_with("ADDED d"));
    }
    // A patch cannot go deeper either.
    let path = format!("/spec{}/b", "/a".repeat(89));
    let value: Value = serde_json::from_str(&nested("{\"a\":", "}", 100)).unwrap();
    let patch = json!([{"op": "add", "path": path, "value": value}]).to_string();
    let headers = [("content-type", "application/json-patch+json")];
    let answer = raw(&server, "PATCH", &format!("{deeps}/d90"), &headers, patch).await;
    let code = answer.status().as_u16();
    let text = String::from_utf8(bytes(answer).await.to_vec()).unwrap();
    assert!(code == 400 && refused(&text), "{code} {text}");
    let (_, gone) = send(&server, "DELETE", deeps, Value::Null).await;
    assert_eq!(gone["items"].as_array().map(Vec::len), Some(made));
}
