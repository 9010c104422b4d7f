//! Readings and events as the host carries them: the Rust side of `wit/reading`.
//!
//! They are serialised for the host's own files, in which the order of fields and cases is the format:
//! a change of it is a new format there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One typed value; one case for each of the 27 value types of EdgeX, and null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Bool(bool),
    String(String),
    Uint8(u8),
    Uint16(u16),
    Uint32(u32),
    Uint64(u64),
    Int8(i8),
    Int16(i16),
    Int32(i32),
    Int64(i64),
    Float32(f32),
    Float64(f64),
    BoolArray(Vec<bool>),
    StringArray(Vec<String>),
    Uint8Array(Vec<u8>),
    Uint16Array(Vec<u16>),
    Uint32Array(Vec<u32>),
    Uint64Array(Vec<u64>),
    Int8Array(Vec<i8>),
    Int16Array(Vec<i16>),
    Int32Array(Vec<i32>),
    Int64Array(Vec<i64>),
    Float32Array(Vec<f32>),
    Float64Array(Vec<f64>),
    Binary {
        data: Vec<u8>,
        media_type: String,
    },
    /// A JSON object as text.
    Object(String),
    /// A JSON array of objects as text.
    ObjectArray(String),
    /// No value now; the EdgeX value type that it would have had.
    Null(String),
}

impl Value {
    /// The EdgeX name of the value's type.
    pub fn value_type(&self) -> &str {
        match self {
            Self::Bool(_) => "Bool",
            Self::String(_) => "String",
            Self::Uint8(_) => "Uint8",
            Self::Uint16(_) => "Uint16",
            Self::Uint32(_) => "Uint32",
            Self::Uint64(_) => "Uint64",
            Self::Int8(_) => "Int8",
            Self::Int16(_) => "Int16",
            Self::Int32(_) => "Int32",
            Self::Int64(_) => "Int64",
            Self::Float32(_) => "Float32",
            Self::Float64(_) => "Float64",
            Self::BoolArray(_) => "BoolArray",
            Self::StringArray(_) => "StringArray",
            Self::Uint8Array(_) => "Uint8Array",
            Self::Uint16Array(_) => "Uint16Array",
            Self::Uint32Array(_) => "Uint32Array",
            Self::Uint64Array(_) => "Uint64Array",
            Self::Int8Array(_) => "Int8Array",
            Self::Int16Array(_) => "Int16Array",
            Self::Int32Array(_) => "Int32Array",
            Self::Int64Array(_) => "Int64Array",
            Self::Float32Array(_) => "Float32Array",
            Self::Float64Array(_) => "Float64Array",
            Self::Binary { .. } => "Binary",
            Self::Object(_) => "Object",
            Self::ObjectArray(_) => "ObjectArray",
            Self::Null(value_type) => value_type,
        }
    }
}

/// One value of one resource at one instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub resource: String,
    pub value: Value,
    /// Nanoseconds since 1970-01-01T00:00:00Z; zero when not yet known.
    pub origin: u64,
    pub units: String,
    pub tags: Vec<(String, String)>,
}

/// The readings that one read of one source yielded together. Shared, never changed in place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: String,
    /// Name of the device service, for topics and queries.
    pub service: Arc<str>,
    pub device: Arc<str>,
    pub profile: Arc<str>,
    pub source: Arc<str>,
    pub origin: u64,
    pub readings: Vec<Reading>,
    pub tags: Vec<(String, String)>,
}
