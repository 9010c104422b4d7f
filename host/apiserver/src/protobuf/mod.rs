//! Reads Kubernetes' protobuf request bodies into the JSON that the rest of the server speaks.
//!
//! kubectl and client-go send typed objects this way and do not fall back to JSON. One generic
//! reader walks the table of types ([`crate::model`]); no message is known by name here except the
//! few that JSON shows in another shape. What Go writes although it is empty (every field that is
//! not a pointer) is left out, as `omitempty` does in JSON.

#[cfg(test)]
mod tests;
mod wire;
mod write;

use base64::Engine;
use jiff::{Timestamp, Unit};
use serde_json::{Map, Value};

use self::wire::{Reader, Wire};
pub use self::write::{encode, encode_event, encode_list, is_known};
use crate::model::{Empty, Field, Kind, Model, Raw, SchemaOr, Type, is_zero, spelled};

/// Every body starts with these four bytes.
const MAGIC: &[u8] = b"k8s\0";

/// Messages nest no deeper; only schemas come near.
const MAX_DEPTH: usize = 100;

const SCHEMA: &str = "apiextensions.v1.JSONSchemaProps";

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub api_version: String,
    pub kind: String,
    /// The whole object, `apiVersion` and `kind` included.
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    #[error("no protobuf form of {kind} in {api_version} is known here: send JSON")]
    UnknownKind { api_version: String, kind: String },
    #[error("malformed protobuf at {at}: {what}")]
    Malformed { at: String, what: &'static str },
}

/// Reads `k8s\0` + `runtime.Unknown`.
pub fn decode(body: &[u8]) -> Result<Decoded, ProtobufError> {
    let body = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let mut walk = Walk {
        path: String::from("envelope"),
    };
    let (mut meta, mut raw): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader::new(body);
    while let Some((number, wire)) = reader.field().map_err(|what| walk.error(what))? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut reader = Reader::new(meta);
    while let Some((number, wire)) = reader.field().map_err(|what| walk.error(what))? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => api_version = walk.text(bytes)?,
            (2, Wire::Bytes(bytes)) => kind = walk.text(bytes)?,
            _ => {}
        }
    }
    let Some(root) = root(&api_version, &kind) else {
        return Err(ProtobufError::UnknownKind { api_version, kind });
    };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), Value::from(api_version.as_str()));
    object.insert("kind".to_owned(), Value::from(kind.as_str()));
    walk.path.clear();
    walk.message(root, raw, &mut object, 0)?;
    Ok(Decoded {
        api_version,
        kind,
        value: Value::Object(object),
    })
}

/// The type of a whole object; `None` for what has no protobuf form.
fn root(api_version: &str, kind: &str) -> Option<&'static Type> {
    let model = Model::get();
    match (api_version, kind) {
        // These live in the package of the metadata, whatever version they are sent under.
        ("v1", "Status" | "APIVersions" | "APIGroupList" | "APIGroup" | "APIResourceList") => {
            model.named(&format!("meta.v1.{kind}"))
        }
        _ => model.root(api_version, kind),
    }
}

struct Walk {
    /// `spec.containers`, for errors.
    path: String,
}

impl Walk {
    fn error(&self, what: &'static str) -> ProtobufError {
        ProtobufError::Malformed {
            at: self.path.clone(),
            what,
        }
    }

    fn text(&self, bytes: &[u8]) -> Result<String, ProtobufError> {
        String::from_utf8(bytes.to_vec()).map_err(|_error| self.error("text is not UTF-8"))
    }

    fn message(
        &mut self,
        of: &Type,
        bytes: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if depth > MAX_DEPTH {
            return Err(self.error("messages nest too deeply"));
        }
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
            // A newer client's field: the server that has no name for it cannot keep it.
            let Some(field) = of.number(number) else {
                continue;
            };
            if field.name == "." {
                if let (Kind::Object(at), Wire::Bytes(bytes)) = (&field.kind, wire)
                    && let Some(of) = Model::get().at(*at)
                {
                    self.message(of, bytes, object, depth + 1)?;
                }
                continue;
            }
            let length = self.path.len();
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(field.name);
            self.field(field, wire, object, depth)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: Wire<'_>,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        let name = field.name;
        match &field.kind {
            Kind::List(of) => {
                let values = self.elements(of, wire, depth)?;
                let list = object
                    .entry(name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.extend(values);
                }
            }
            Kind::Map(of) => {
                let (key, value) = self.entry(of, wire, depth)?;
                let map = object
                    .entry(name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
            kind => {
                let value = self.value(kind, wire, depth)?;
                if !is_absent(field, &value) {
                    object.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// One element, or several numbers packed into one field.
    fn elements(
        &mut self,
        of: &Kind,
        wire: Wire<'_>,
        depth: usize,
    ) -> Result<Vec<Value>, ProtobufError> {
        match (of, wire) {
            (Kind::Int32 | Kind::Int64 | Kind::Bool, Wire::Bytes(packed)) => {
                let mut reader = Reader::new(packed);
                let mut values = Vec::new();
                while !reader.is_empty() {
                    let number = reader.varint().map_err(|what| self.error(what))?;
                    values.push(self.value(of, Wire::Varint(number), depth)?);
                }
                Ok(values)
            }
            (of, wire) => Ok(vec![self.value(of, wire, depth)?]),
        }
    }

    fn entry(
        &mut self,
        of: &Kind,
        wire: Wire<'_>,
        depth: usize,
    ) -> Result<(String, Value), ProtobufError> {
        let Wire::Bytes(bytes) = wire else {
            return Err(self.error("a map entry is not a message"));
        };
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => key = self.text(bytes)?,
                (2, wire) => value = Some(self.value(of, wire, depth)?),
                _ => {}
            }
        }
        // An entry without a value has the empty one.
        let empty = || self.value(of, Wire::Bytes(&[]), depth);
        Ok((key, value.map_or_else(empty, Ok)?))
    }

    fn value(&mut self, kind: &Kind, wire: Wire<'_>, depth: usize) -> Result<Value, ProtobufError> {
        match (kind, wire) {
            (Kind::String, Wire::Bytes(bytes)) => Ok(Value::from(self.text(bytes)?)),
            (Kind::Bytes, Wire::Bytes(bytes)) => Ok(Value::from(
                base64::engine::general_purpose::STANDARD.encode(bytes),
            )),
            (Kind::Bool, Wire::Varint(number)) => Ok(Value::from(number != 0)),
            (Kind::Int32 | Kind::Int64, Wire::Varint(number)) => {
                Ok(Value::from(number.cast_signed()))
            }
            (Kind::Float, Wire::Fixed64(bits)) => Ok(Value::from(f64::from_bits(bits))),
            (Kind::Time, Wire::Bytes(bytes)) => self.time(bytes, Unit::Second),
            (Kind::MicroTime, Wire::Bytes(bytes)) => self.time(bytes, Unit::Microsecond),
            (Kind::Quantity, Wire::Bytes(bytes)) => {
                let text = self.first_text(bytes, 1)?;
                Ok(Value::from(if text.is_empty() {
                    "0".to_owned()
                } else {
                    text
                }))
            }
            (Kind::IntOrString, Wire::Bytes(bytes)) => self.int_or_string(bytes),
            (Kind::Any(Raw::Bytes), Wire::Bytes(bytes)) => self.raw(bytes),
            (Kind::Any(Raw::SchemaOr(which)), Wire::Bytes(bytes)) => {
                self.schema_or(*which, bytes, depth)
            }
            (Kind::Object(at), Wire::Bytes(bytes)) => {
                let mut object = Map::new();
                if let Some(of) = Model::get().at(*at) {
                    self.message(of, bytes, &mut object, depth + 1)?;
                }
                Ok(Value::Object(object))
            }
            // A list as a map's value is wrapped into a message of its own.
            (Kind::List(of), Wire::Bytes(bytes)) => {
                let mut values = Vec::new();
                let mut reader = Reader::new(bytes);
                while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
                    if number == 1 {
                        values.extend(self.elements(of, wire, depth)?);
                    }
                }
                Ok(Value::Array(values))
            }
            _ => Err(self.error("the field has another wire type")),
        }
    }

    fn first_text(&self, bytes: &[u8], wanted: u32) -> Result<String, ProtobufError> {
        let mut reader = Reader::new(bytes);
        let mut text = String::new();
        while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
            if let (true, Wire::Bytes(bytes)) = (number == wanted, wire) {
                text = self.text(bytes)?;
            }
        }
        Ok(text)
    }

    /// Seconds and nanoseconds; nothing at all is no time, which is null in JSON.
    fn time(&self, bytes: &[u8], unit: Unit) -> Result<Value, ProtobufError> {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        let (mut seconds, mut nanos) = (0_i64, 0_i64);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
            match (number, wire) {
                (1, Wire::Varint(number)) => seconds = number.cast_signed(),
                (2, Wire::Varint(number)) => nanos = number.cast_signed(),
                _ => {}
            }
        }
        let nanos = i32::try_from(nanos).map_err(|_error| self.error("time out of range"))?;
        let time =
            Timestamp::new(seconds, nanos).map_err(|_error| self.error("time out of range"))?;
        Ok(Value::from(spelled(time, unit)))
    }

    fn int_or_string(&self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let (mut is_text, mut number_value, mut text) = (false, 0, String::new());
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
            match (number, wire) {
                (1, Wire::Varint(kind)) => is_text = kind == 1,
                (2, Wire::Varint(number)) => number_value = number.cast_signed(),
                (3, Wire::Bytes(bytes)) => text = self.text(bytes)?,
                _ => {}
            }
        }
        Ok(if is_text {
            Value::from(text)
        } else {
            Value::from(number_value)
        })
    }

    /// JSON text inside a message.
    fn raw(&self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut reader = Reader::new(bytes);
        let mut json: &[u8] = b"{}";
        while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
            if let (1, Wire::Bytes(bytes)) = (number, wire) {
                json = bytes;
            }
        }
        serde_json::from_slice(json).map_err(|_error| self.error("embedded JSON is malformed"))
    }

    fn schema_or(
        &mut self,
        which: SchemaOr,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.field().map_err(|what| self.error(what))? {
            match (which, number, wire) {
                (SchemaOr::Bool, 1, Wire::Varint(number)) => allows = number != 0,
                (SchemaOr::Bool, 2, Wire::Bytes(bytes))
                | (SchemaOr::Array | SchemaOr::StringArray, 1, Wire::Bytes(bytes)) => {
                    schema = Some(self.schema(bytes, depth)?);
                }
                (SchemaOr::Array, 2, Wire::Bytes(bytes)) => list.push(self.schema(bytes, depth)?),
                (SchemaOr::StringArray, 2, Wire::Bytes(bytes)) => {
                    list.push(Value::from(self.text(bytes)?));
                }
                _ => {}
            }
        }
        Ok(match (which, schema) {
            (_, Some(schema)) => schema,
            (SchemaOr::Bool, None) => Value::from(allows),
            (_, None) => Value::Array(list),
        })
    }

    fn schema(&mut self, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
        let mut object = Map::new();
        if let Some(of) = Model::get().named(SCHEMA) {
            self.message(of, bytes, &mut object, depth + 1)?;
        }
        Ok(Value::Object(object))
    }
}

/// What Go writes although nobody set it: it writes every value that is no pointer. An empty text
/// that must be given is none, either.
fn is_absent(field: &Field, value: &Value) -> bool {
    match field.empty {
        Empty::Nothing => value.is_null() || is_zero(value),
        Empty::Kept => value.is_null() || value == "",
        Empty::Itself => value.is_null(),
    }
}
