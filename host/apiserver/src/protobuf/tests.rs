use base64::Engine;
use jiff::{Timestamp, Unit};
use serde_json::{Map, Value, json};

use super::{
    ProtobufError, Walk, decode, encode, encode_event, encode_list,
    wire::{Reader, Wire},
    write,
};
use crate::model::{Kind, Model, Raw, Type, spelled};

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

/// Random values of every type in the table, the same ones in each run.
struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        // xorshift: no quality is needed, only that it repeats.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn object(&mut self, of: &Type, depth: usize) -> Value {
        let mut map = Map::new();
        for field in of.fields.iter().filter(|field| field.number > 0) {
            if field.name == "." {
                if let Kind::Object(at) = &field.kind
                    && let Some(inner) = Model::get().at(*at)
                    && let Value::Object(inner) = self.object(inner, depth + 1)
                {
                    map.extend(inner);
                }
                continue;
            }
            // Some are left out.
            let told = !self.next().is_multiple_of(3 + depth as u64);
            if told && let Some(value) = self.value(&field.kind, depth) {
                map.insert(field.name.to_owned(), value);
            }
        }
        Value::Object(map)
    }

    /// `None` where the types go deeper than the test does.
    fn value(&mut self, kind: &Kind, depth: usize) -> Option<Value> {
        let number = self.next();
        Some(match kind {
            Kind::String => format!("s{number:x}").into(),
            Kind::Bool => true.into(),
            Kind::Int32 => ((number as i32).wrapping_abs().max(1)
                * if number & 1 == 0 { 1 } else { -1 })
            .into(),
            Kind::Int64 => (number as i64 | 1).into(),
            Kind::Float => (f64::from(number as u32) / 8.0 + 0.5).into(),
            Kind::Bytes => base64::engine::general_purpose::STANDARD
                .encode(number.to_le_bytes())
                .into(),
            Kind::Time => spelled(
                Timestamp::from_second((number >> 32) as i64).unwrap(),
                Unit::Second,
            )
            .into(),
            Kind::MicroTime => {
                let time = Timestamp::from_microsecond((number >> 16) as i64).unwrap();
                spelled(time, Unit::Microsecond).into()
            }
            Kind::Quantity => format!("{}m", number >> 40).into(),
            Kind::IntOrString if number & 1 == 0 => format!("{}%", number % 100).into(),
            Kind::IntOrString => ((number % 70_000) as i64).into(),
            Kind::Any(Raw::Bytes) => json!({"k": number >> 12, "l": [1, "x", null, {"d": true}]}),
            Kind::Any(Raw::SchemaOr(_)) => json!({"type": "string"}),
            Kind::List(_) | Kind::Map(_) | Kind::Object(_) if depth > 5 => return None,
            Kind::List(of) => {
                let items: Vec<Value> = (0..1 + number % 2)
                    .filter_map(|_| self.value(of, depth + 1))
                    .collect();
                if items.is_empty() {
                    return None;
                }
                items.into()
            }
            Kind::Map(of) => {
                let entries: Map<String, Value> = (0..1 + number % 2)
                    .filter_map(|n| Some((format!("k{n}"), self.value(of, depth + 1)?)))
                    .collect();
                if entries.is_empty() {
                    return None;
                }
                entries.into()
            }
            Kind::Object(at) => {
                let of = Model::get().at(*at)?;
                // What cannot be written at all cannot come back.
                if !of.fields.iter().any(|field| field.number > 0) {
                    return None;
                }
                self.object(of, depth + 1)
            }
        })
    }
}

#[test]
fn what_is_written_of_any_type_is_read_again() {
    let (mut values, mut count) = (Values(0x9e37_79b9_7f4a_7c15), 0);
    for of in Model::get().all() {
        if !of.fields.iter().any(|field| field.number > 0) {
            continue;
        }
        for _ in 0..3 {
            let value = values.object(of, 0);
            let raw = write::message(of, &value, 0);
            let (mut walk, mut read) = (
                Walk {
                    path: String::new(),
                },
                Map::new(),
            );
            walk.message(of, &raw, &mut read, 0).unwrap();
            assert_eq!(Value::Object(read), value, "{}", of.name);
            count += 1;
        }
    }
    assert!(count > 1800, "{count}");
}

#[test]
fn whole_objects_lists_events_and_statuses_are_read_again() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m"}}}]},
    });
    assert_eq!(decode(&encode(&pod).unwrap()).unwrap().value, pod);
    // Items of a list carry no type of their own.
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7", "remainingItemCount": 2}, "items": [pod]});
    let whole = encode(&list).unwrap();
    let items = [serde_json::to_vec(&pod).unwrap()];
    let parts = encode_list(
        "v1",
        "PodList",
        &list["metadata"],
        items.iter().map(Vec::as_slice),
    );
    assert_eq!(whole, parts.unwrap());
    let event = encode_event("ADDED", &pod).unwrap();
    let (length, event) = event.split_at(4);
    assert_eq!(
        u32::from_be_bytes(length.try_into().unwrap()) as usize,
        event.len()
    );
    let mut reader = Reader::new(event);
    assert_eq!(reader.field().unwrap(), Some((1, Wire::Bytes(b"ADDED"))));
    let Some((2, Wire::Bytes(raw))) = reader.field().unwrap() else {
        panic!("no object");
    };
    let Some((1, Wire::Bytes(object))) = Reader::new(raw).field().unwrap() else {
        panic!("no raw bytes");
    };
    assert_eq!(decode(object).unwrap().value, pod);
    pod["kind"] = "Widget".into();
    assert_eq!(encode(&pod), None);
}

#[test]
fn types_that_became_stable_late_have_the_numbers_of_their_beta() {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "p"},
        "spec": {"failurePolicy": "Fail", "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]},
    });
    assert_eq!(decode(&encode(&policy).unwrap()).unwrap().value, policy);
}
