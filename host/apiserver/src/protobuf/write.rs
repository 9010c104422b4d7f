//! Writes JSON objects in Kubernetes' protobuf, by the same table of types that reads them.
//!
//! A field that JSON leaves out is left out here too: a reader takes that for the empty value, which
//! is what Go would have written for a field that is no pointer.

use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{MAGIC, MAX_DEPTH, SCHEMA};
use crate::model::{Kind, Model, Raw, SchemaOr, Type};

const META: [&str; 2] = ["meta.k8s.io/v1", "meta.k8s.io/v1beta1"];

/// An object, list, status or metadata as a client reads it, with its envelope; `None` for what has
/// no protobuf form: custom resources, Tables.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut raw = Vec::new();
    let items = object.get("items").and_then(Value::as_array);
    match items {
        Some(items) if kind.ends_with("List") => {
            let of = item_type(api_version, kind)?;
            metadata(&mut raw, "meta.v1.ListMeta", object.get("metadata"));
            for item in items {
                bytes(&mut raw, 2, &message(of, item, 0));
            }
        }
        _ if META.contains(&api_version) && kind == "PartialObjectMetadata" => {
            metadata(&mut raw, "meta.v1.ObjectMeta", object.get("metadata"));
        }
        _ => raw = message(root(api_version, kind)?, object, 0),
    }
    Some(envelope(api_version, kind, &raw))
}

/// A list whose items are given as JSON, one by one: the whole never exists as a value.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    list_metadata: &Value,
    items: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let of = item_type(api_version, kind)?;
    let mut raw = Vec::new();
    metadata(&mut raw, "meta.v1.ListMeta", Some(list_metadata));
    for item in items {
        let item: Value = serde_json::from_slice(item).ok()?;
        bytes(&mut raw, 2, &message(of, &item, 0));
    }
    Some(envelope(api_version, kind, &raw))
}

/// One event of a watch: its length in four bytes, then the event around an object in its envelope.
pub fn encode_event(kind: &str, object: &Value) -> Option<Vec<u8>> {
    let object = encode(object)?;
    let (mut raw, mut event) = (Vec::with_capacity(object.len() + 8), Vec::new());
    bytes(&mut raw, 1, &object);
    bytes(&mut event, 1, kind.as_bytes());
    bytes(&mut event, 2, &raw);
    let mut frame = u32::try_from(event.len()).ok()?.to_be_bytes().to_vec();
    frame.extend_from_slice(&event);
    Some(frame)
}

/// Whether objects of this kind have a protobuf form.
pub fn is_known(api_version: &str, kind: &str) -> bool {
    root(api_version, kind).is_some()
}

/// A type of which no number is known cannot be written.
fn root(api_version: &str, kind: &str) -> Option<&'static Type> {
    super::root(api_version, kind).filter(|of| of.fields.iter().any(|field| field.number > 0))
}

fn item_type(api_version: &str, kind: &str) -> Option<&'static Type> {
    let kind = kind.strip_suffix("List")?;
    if META.contains(&api_version) && kind == "PartialObjectMetadata" {
        // A message with the metadata as its first field: so begins every object.
        return Model::get().named("core.v1.ConfigMap");
    }
    root(api_version, kind)
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    bytes(&mut meta, 1, api_version.as_bytes());
    bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + meta.len() + 24);
    out.extend_from_slice(MAGIC);
    bytes(&mut out, 1, &meta);
    bytes(&mut out, 2, raw);
    // Neither an encoding nor a media type of the content.
    bytes(&mut out, 3, &[]);
    bytes(&mut out, 4, &[]);
    out
}

fn metadata(out: &mut Vec<u8>, name: &str, value: Option<&Value>) {
    if let Some(of) = Model::get().named(name) {
        let inner = value.map_or_else(Vec::new, |value| message(of, value, 0));
        bytes(out, 1, &inner);
    }
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(out: &mut Vec<u8>, field: u32, number: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, number);
}

fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// What is stored was read within the same depth, so nothing is lost to it.
pub(super) fn message(of: &Type, value: &Value, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if let (Value::Object(map), true) = (value, depth <= MAX_DEPTH) {
        fields(of, map, &mut out, depth);
    }
    out
}

fn fields(of: &Type, map: &Map<String, Value>, out: &mut Vec<u8>, depth: usize) {
    for field in of.fields.iter().filter(|field| field.number > 0) {
        if field.name == "." {
            // JSON shows the fields of this message in its parent.
            if let Kind::Object(at) = &field.kind
                && let Some(inner) = Model::get().at(*at)
            {
                let mut content = Vec::new();
                fields(inner, map, &mut content, depth + 1);
                bytes(out, field.number, &content);
            }
            continue;
        }
        match map.get(field.name) {
            None | Some(Value::Null) => {}
            Some(value) => one(field.number, &field.kind, value, out, depth),
        }
    }
}

fn one(field: u32, kind: &Kind, value: &Value, out: &mut Vec<u8>, depth: usize) {
    match (kind, value) {
        (Kind::List(of), Value::Array(items)) => {
            for item in items {
                one(field, of, item, out, depth);
            }
        }
        (Kind::Map(of), Value::Object(map)) => {
            for (key, item) in map {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, key.as_bytes());
                match (&**of, item) {
                    // A list as a map's value is wrapped into a message of its own.
                    (Kind::List(inner), Value::Array(items)) => {
                        let mut wrapped = Vec::new();
                        for item in items {
                            one(1, inner, item, &mut wrapped, depth + 1);
                        }
                        bytes(&mut entry, 2, &wrapped);
                    }
                    _ => one(2, of, item, &mut entry, depth + 1),
                }
                bytes(out, field, &entry);
            }
        }
        (Kind::String, Value::String(text)) => bytes(out, field, text.as_bytes()),
        (Kind::Bool, Value::Bool(flag)) => number(out, field, u64::from(*flag)),
        (Kind::Int32 | Kind::Int64, Value::Number(value)) => {
            if let Some(value) = value.as_i64() {
                number(out, field, value.cast_unsigned());
            }
        }
        (Kind::Float, Value::Number(value)) => {
            if let Some(value) = value.as_f64() {
                varint(out, u64::from(field) << 3 | 1);
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        (Kind::Bytes, Value::String(text)) => {
            let content = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
            bytes(out, field, &content.unwrap_or_default());
        }
        (Kind::Time | Kind::MicroTime, Value::String(text)) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                let mut inner = Vec::new();
                number(&mut inner, 1, time.as_second().cast_unsigned());
                number(
                    &mut inner,
                    2,
                    i64::from(time.subsec_nanosecond()).cast_unsigned(),
                );
                bytes(out, field, &inner);
            }
        }
        (Kind::Quantity, _) => {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let mut inner = Vec::new();
            bytes(&mut inner, 1, text.as_bytes());
            bytes(out, field, &inner);
        }
        (Kind::IntOrString, _) => {
            let mut inner = Vec::new();
            let text = value.as_str();
            number(&mut inner, 1, u64::from(text.is_some()));
            number(&mut inner, 2, value.as_i64().unwrap_or(0).cast_unsigned());
            bytes(&mut inner, 3, text.unwrap_or_default().as_bytes());
            bytes(out, field, &inner);
        }
        (Kind::Any(Raw::Bytes), _) => {
            let mut inner = Vec::new();
            bytes(&mut inner, 1, value.to_string().as_bytes());
            bytes(out, field, &inner);
        }
        (Kind::Any(Raw::SchemaOr(which)), _) => bytes(out, field, &schema_or(*which, value, depth)),
        (Kind::Object(at), Value::Object(_)) => {
            if let Some(of) = Model::get().at(*at) {
                bytes(out, field, &message(of, value, depth + 1));
            }
        }
        // What has another type than its field was never stored.
        _ => {}
    }
}

fn schema_or(which: SchemaOr, value: &Value, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let schema = |value: &Value| {
        let of = Model::get().named(SCHEMA);
        of.map_or_else(Vec::new, |of| message(of, value, depth + 1))
    };
    match (which, value) {
        (SchemaOr::Bool, Value::Bool(allows)) => number(&mut out, 1, u64::from(*allows)),
        (SchemaOr::Bool, Value::Object(_)) => {
            // A schema allows what it describes.
            number(&mut out, 1, 1);
            bytes(&mut out, 2, &schema(value));
        }
        (SchemaOr::Array | SchemaOr::StringArray, Value::Object(_)) => {
            bytes(&mut out, 1, &schema(value));
        }
        (SchemaOr::Array, Value::Array(items)) => {
            for item in items {
                bytes(&mut out, 2, &schema(item));
            }
        }
        (SchemaOr::StringArray, Value::Array(items)) => {
            for item in items.iter().filter_map(Value::as_str) {
                bytes(&mut out, 2, item.as_bytes());
            }
        }
        _ => {}
    }
    out
}
