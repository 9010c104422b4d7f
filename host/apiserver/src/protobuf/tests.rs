use serde_json::{Value, json};

use super::{ProtobufError, decode};

/// Writes messages by hand: `(number, bytes)` fields.
fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, bytes) in fields {
        varint(u64::from(number << 3 | 2), &mut out);
        varint(bytes.len() as u64, &mut out);
        out.extend_from_slice(bytes);
    }
    out
}

fn number(field: u32, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(u64::from(field << 3), &mut out);
    varint(value.cast_unsigned(), &mut out);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = message(&[(1, api_version.as_bytes()), (2, kind.as_bytes())]);
    let mut out = b"k8s\0".to_vec();
    out.extend(message(&[(1, &meta), (2, raw), (3, b""), (4, b"")]));
    out
}

#[track_caller]
fn check(api_version: &str, kind: &str, raw: &[u8], mut expected: Value) {
    let decoded = decode(&body(api_version, kind, raw)).unwrap();
    expected["apiVersion"] = json!(api_version);
    expected["kind"] = json!(kind);
    assert_eq!(decoded.value, expected);
}

#[test]
fn maps_bytes_and_times_take_their_json_form() {
    let time = [number(1, 1_767_225_600), number(2, 5)].concat();
    let entry = message(&[(1, b"a"), (2, b"1")]);
    let metadata = message(&[
        (1, b"x"),
        (2, b""),
        (8, &time),
        (11, &entry),
        (14, b"f/a"),
        (14, b"f/b"),
    ]);
    let data = message(&[(1, b"k"), (2, b"\x00\xff")]);
    check(
        "v1",
        "Secret",
        &message(&[(1, &metadata), (2, &data), (3, b"Opaque")]),
        json!({
            "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z",
                         "labels": {"a": "1"}, "finalizers": ["f/a", "f/b"]},
            "data": {"k": "AP8="}, "type": "Opaque",
        }),
    );
}

#[test]
fn embedded_structs_are_flat_in_json() {
    let get = message(&[(1, b"/h"), (2, &number(2, 8080)), (3, b"")]);
    let probe = [
        message(&[(1, &message(&[(2, &get)]))]),
        number(2, 0),
        number(3, 4),
    ]
    .concat();
    let volume = message(&[
        (1, b"v"),
        (2, &message(&[(2, &[number(99, 1), vec![]].concat())])),
    ]);
    let container = message(&[(1, b"c"), (2, b"img"), (10, &probe)]);
    let spec = message(&[(1, &volume), (2, &container)]);
    check(
        "v1",
        "Pod",
        &message(&[(1, b""), (2, &spec)]),
        json!({"metadata": {}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "img",
                "livenessProbe": {"httpGet": {"path": "/h", "port": 8080}, "timeoutSeconds": 4}}],
        }}),
    );
}

#[test]
fn pointers_to_zero_stay_and_plain_zeros_go() {
    let resources = message(&[(1, &message(&[(1, b"cpu"), (2, &message(&[(1, b"500m")]))]))]);
    let container = message(&[(1, b"c"), (8, &resources)]);
    let template = message(&[(2, &message(&[(2, &container)]))]);
    let rolling = message(&[
        (1, &[number(1, 1), message(&[(3, b"25%")])].concat()),
        (2, &number(1, 0)),
    ]);
    let spec = [
        number(1, 0),
        message(&[
            (3, &template),
            (4, &message(&[(1, b"RollingUpdate"), (2, &rolling)])),
        ]),
        number(5, 0),
    ]
    .concat();
    check(
        "apps/v1",
        "Deployment",
        &message(&[(2, &spec)]),
        json!({"spec": {
            "replicas": 0,
            "template": {"spec": {"containers": [
                {"name": "c", "resources": {"limits": {"cpu": "500m"}}}]}},
            "strategy": {"type": "RollingUpdate",
                         "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": 0}},
        }}),
    );
}

#[test]
fn schemas_choose_between_their_forms() {
    let item = message(&[(5, b"string")]);
    let items = message(&[(1, &item)]);
    let open = number(1, 1);
    let schema = message(&[
        (5, b"object"),
        (8, &message(&[(1, b"{\"a\":1}")])),
        (24, &items),
        (30, &open),
    ]);
    let json = decode(&body(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &message(&[(
            2,
            &message(&[(7, &message(&[(1, b"v1"), (4, &message(&[(1, &schema)]))]))]),
        )]),
    ))
    .unwrap()
    .value;
    let schema = json
        .pointer("/spec/versions/0/schema/openAPIV3Schema")
        .unwrap();
    assert_eq!(schema["type"], "object", "{json}");
    assert_eq!(schema["default"], json!({"a": 1}), "{json}");
    assert_eq!(schema["items"], json!({"type": "string"}), "{json}");
    assert_eq!(schema["additionalProperties"], json!(true), "{json}");
}

#[test]
fn delete_options_come_under_any_version() {
    let raw = number(1, 0);
    check(
        "apps/v1",
        "DeleteOptions",
        &raw,
        json!({"gracePeriodSeconds": 0}),
    );
}

#[test]
fn broken_bodies_are_refused_with_the_place() {
    assert_eq!(decode(b"{}").unwrap_err(), ProtobufError::Magic);
    let unknown = decode(&body("v9", "Nope", b"")).unwrap_err();
    assert!(unknown.to_string().contains("Nope in v9"), "{unknown}");
    let spec = message(&[(2, b"\x0a\x7f")]);
    let error = decode(&body("v1", "Pod", &spec)).unwrap_err();
    assert_eq!(
        error,
        ProtobufError::Malformed {
            at: "spec".to_owned(),
            what: "the message is cut short"
        }
    );
    let not_text = message(&[(1, &message(&[(1, b"\xff")]))]);
    assert!(
        decode(&body("v1", "Pod", &not_text))
            .unwrap_err()
            .to_string()
            .contains("metadata.name")
    );
}

#[test]
fn no_prefix_of_a_body_does_harm() {
    let container = message(&[
        (1, b"c"),
        (2, b"img"),
        (7, &message(&[(1, b"A"), (2, b"b")])),
    ]);
    let whole = body("v1", "Pod", &message(&[(2, &message(&[(2, &container)]))]));
    for end in 0..whole.len() {
        let _ = decode(&whole[..end]);
    }
    for at in 0..whole.len() {
        for flip in [1_u8, 0x7f, 0x80] {
            let mut broken = whole.clone();
            broken[at] ^= flip;
            let _ = decode(&broken);
        }
    }
}

#[test]
fn nesting_is_limited() {
    let mut schema = message(&[(5, b"object")]);
    for _ in 0..500 {
        schema = message(&[(28, &schema)]);
    }
    let version = message(&[(4, &message(&[(1, &schema)]))]);
    let raw = message(&[(2, &message(&[(7, &version)]))]);
    let error = decode(&body(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &raw,
    ));
    assert!(error.unwrap_err().to_string().contains("too deeply"));
}
