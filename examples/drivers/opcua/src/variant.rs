//! Values of OPC UA, and what they are as readings.

use eyot_sdk::{Binary, Value, ValueType};
use serde_json::{Value as Json, json};

use crate::binary::{Decoded, Malformed, NodeId, Reader, Writer};

/// The built-in types that readings can have (OPC 10000-6, section 5.1.2).
pub mod kind {
    pub const BOOLEAN: u8 = 1;
    pub const SBYTE: u8 = 2;
    pub const BYTE: u8 = 3;
    pub const INT16: u8 = 4;
    pub const UINT16: u8 = 5;
    pub const INT32: u8 = 6;
    pub const UINT32: u8 = 7;
    pub const INT64: u8 = 8;
    pub const UINT64: u8 = 9;
    pub const FLOAT: u8 = 10;
    pub const DOUBLE: u8 = 11;
    pub const STRING: u8 = 12;
    pub const TIME: u8 = 13;
    pub const BYTES: u8 = 15;
}

/// Depth of variants within variants.
const DEPTH: usize = 16;

/// A value: one, or several of a type.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    pub kind: u8,
    pub is_array: bool,
    pub items: Vec<Json>,
}

impl Variant {
    pub fn read(reader: &mut Reader<'_>) -> Decoded<Self> {
        Self::within(reader, 0)
    }

    fn within(reader: &mut Reader<'_>, depth: usize) -> Decoded<Self> {
        let mask = reader.u8()?;
        let kind = mask & 0x3f;
        let is_array = mask & 0x80 != 0;
        let items = match is_array {
            true => reader.many(|reader| item(reader, kind, depth))?,
            false if kind == 0 => Vec::new(),
            false => vec![item(reader, kind, depth)?],
        };
        // The dimensions of a matrix, whose items come row by row.
        if mask & 0x40 != 0 {
            reader.many(Reader::i32)?;
        }
        Ok(Self {
            kind,
            is_array,
            items,
        })
    }

    pub fn write(&self, writer: &mut Writer) -> Result<(), String> {
        if !self.is_array {
            writer.u8(self.kind);
            let first = self.items.first().ok_or("there is no value")?;
            return write_item(writer, self.kind, first);
        }
        writer.u8(self.kind | 0x80);
        writer.u32(self.items.len() as u32);
        let mut items = self.items.iter();
        items.try_for_each(|item| write_item(writer, self.kind, item))
    }

    /// What it is as a reading.
    pub fn value(&self, to: ValueType) -> Result<Value, String> {
        if to == ValueType::Binary {
            let bytes = self.items.first().and_then(Json::as_array);
            let bytes = bytes.filter(|_| self.kind == kind::BYTES);
            let bytes = bytes.ok_or("the server has no ByteString there")?;
            let bytes = bytes
                .iter()
                .filter_map(|byte| u8::try_from(byte.as_u64()?).ok());
            return Ok(Value::Binary(Binary {
                data: bytes.collect(),
                media_type: "application/octet-stream".to_owned(),
            }));
        }
        let json = match self.is_array {
            true => Json::Array(self.items.clone()),
            false => self.items.first().cloned().unwrap_or_default(),
        };
        match (to, &json) {
            // Whatever it is, it can be shown.
            (ValueType::String, Json::Array(_) | Json::Object(_)) => {
                Ok(Value::Text(json.to_string()))
            }
            // A number without a fraction may be a float there.
            (_, Json::Number(number)) if number.is_f64() => {
                let float = Value::Float64(number.as_f64().unwrap_or_default());
                let fits = float.convert(to);
                fits.ok_or_else(|| format!("{json} is no {}", to.name()))
            }
            _ => Value::from_json(&json, to),
        }
    }

    /// A value in the type that a variable has.
    pub fn of(value: &Value, kind: u8) -> Self {
        let json = value.to_json();
        if let (Value::Binary(_), kind::BYTES) = (value, kind) {
            return Self {
                kind,
                is_array: false,
                items: vec![json],
            };
        }
        match json {
            Json::Array(items) => Self {
                kind,
                is_array: true,
                items,
            },
            one => Self {
                kind,
                is_array: false,
                items: vec![one],
            },
        }
    }
}

fn item(reader: &mut Reader<'_>, of: u8, depth: usize) -> Decoded<Json> {
    Ok(match of {
        kind::BOOLEAN => json!(reader.u8()? != 0),
        kind::SBYTE => json!(i8::from_le_bytes(reader.array()?)),
        kind::BYTE => json!(reader.u8()?),
        kind::INT16 => json!(i16::from_le_bytes(reader.array()?)),
        kind::UINT16 => json!(reader.u16()?),
        kind::INT32 => json!(reader.i32()?),
        kind::UINT32 | 19 => json!(reader.u32()?),
        kind::INT64 => json!(reader.i64()?),
        kind::UINT64 => json!(u64::from_le_bytes(reader.array()?)),
        kind::FLOAT => float(f32::from_le_bytes(reader.array()?).into()),
        kind::DOUBLE => float(reader.f64()?),
        kind::STRING | 16 => json!(reader.text()?),
        kind::TIME => json!(reader.i64()?),
        14 => json!(hex(&reader.array::<16>()?)),
        kind::BYTES => json!(reader.bytes()?.unwrap_or_default()),
        17 | 18 => node(&reader.node()?),
        20 => {
            let namespace = reader.u16()?;
            json!(format!("{namespace}:{}", reader.text()?))
        }
        21 => json!(reader.localized()?),
        22 => {
            let (of, body) = reader.extension()?;
            json!({ "type": node(&of), "body": hex(body) })
        }
        24 if depth < DEPTH => {
            let inner = Variant::within(reader, depth + 1)?;
            match inner.is_array {
                true => Json::Array(inner.items),
                false => inner.items.into_iter().next().unwrap_or_default(),
            }
        }
        _ => return Err(Malformed),
    })
}

/// What JSON does not have is its name.
fn float(number: f64) -> Json {
    match number.is_finite() {
        true => json!(number),
        false => Value::Float64(number).to_json(),
    }
}

fn node(node: &NodeId) -> Json {
    json!(format!("{node:?}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_item(writer: &mut Writer, of: u8, item: &Json) -> Result<(), String> {
    let wrong = |name: &str| format!("{item} is no {name}, which the variable is");
    let as_type = |to: ValueType| {
        // Floats without a fraction are taken where the variable is an integer.
        let number = item.as_f64().filter(|_| item.is_f64()).map(Value::Float64);
        let value = match number {
            Some(number) => number.convert(to),
            None => Value::from_json(item, to).ok(),
        };
        value.ok_or_else(|| wrong(to.name()))
    };
    match of {
        kind::BOOLEAN => match as_type(ValueType::Bool)? {
            Value::Boolean(on) => writer.u8(on.into()),
            _ => return Err(wrong("Boolean")),
        },
        kind::SBYTE | kind::INT16 | kind::INT32 | kind::INT64 | kind::TIME => {
            let to = match of {
                kind::SBYTE => ValueType::Int8,
                kind::INT16 => ValueType::Int16,
                kind::INT32 => ValueType::Int32,
                _ => ValueType::Int64,
            };
            match as_type(to)? {
                Value::Int8(number) => writer.0.extend(number.to_le_bytes()),
                Value::Int16(number) => writer.0.extend(number.to_le_bytes()),
                Value::Int32(number) => writer.i32(number),
                Value::Int64(number) => writer.i64(number),
                _ => return Err(wrong(to.name())),
            }
        }
        kind::BYTE | kind::UINT16 | kind::UINT32 | kind::UINT64 => {
            let to = match of {
                kind::BYTE => ValueType::Uint8,
                kind::UINT16 => ValueType::Uint16,
                kind::UINT32 => ValueType::Uint32,
                _ => ValueType::Uint64,
            };
            match as_type(to)? {
                Value::Uint8(number) => writer.u8(number),
                Value::Uint16(number) => writer.u16(number),
                Value::Uint32(number) => writer.u32(number),
                Value::Uint64(number) => writer.0.extend(number.to_le_bytes()),
                _ => return Err(wrong(to.name())),
            }
        }
        kind::FLOAT | kind::DOUBLE => match as_type(ValueType::Float64)? {
            Value::Float64(number) if of == kind::FLOAT => {
                writer.0.extend((number as f32).to_le_bytes());
            }
            Value::Float64(number) => writer.f64(number),
            _ => return Err(wrong("Float")),
        },
        kind::STRING => match item {
            Json::String(text) => writer.text(text),
            other => writer.text(&other.to_string()),
        },
        kind::BYTES => {
            let bytes = item.as_array().ok_or_else(|| wrong("ByteString"))?;
            let bytes = bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok());
            let bytes: Option<Vec<u8>> = bytes.collect();
            writer.bytes(Some(&bytes.ok_or_else(|| wrong("ByteString"))?));
        }
        other => {
            return Err(format!(
                "variables of the built-in type {other} are not written"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        for (value, kind) in [
            (Value::Boolean(true), kind::BOOLEAN),
            (Value::Int8(-5), kind::SBYTE),
            (Value::Uint64(u64::MAX), kind::UINT64),
            (Value::Int64(i64::MIN), kind::INT64),
            (Value::Float32(21.5), kind::FLOAT),
            (Value::Float64(f64::MAX), kind::DOUBLE),
            (Value::Text("pump 7".into()), kind::STRING),
            (Value::Int16s(vec![1, -2, 3]), kind::INT16),
            (Value::Texts(vec!["a".into(), String::new()]), kind::STRING),
            (Value::Float64(3.0), kind::INT32),
            (Value::Uint16(3), kind::DOUBLE),
        ] {
            let mut writer = Writer::default();
            Variant::of(&value, kind).write(&mut writer).unwrap();
            let read = Variant::read(&mut Reader(&writer.0)).unwrap();
            let to = ValueType::parse(value.value_type()).unwrap();
            assert_eq!(read.value(to), Ok(value.clone()), "{value:?}");
            for end in 0..writer.0.len() {
                assert!(Variant::read(&mut Reader(&writer.0[..end])).is_err());
            }
        }
        let mut writer = Writer::default();
        for (value, kind) in [
            (Value::Int32(300), kind::BYTE),
            (Value::Text("warm".into()), kind::DOUBLE),
            (Value::Float64(0.5), kind::INT32),
            (Value::Boolean(true), 22),
        ] {
            let written = Variant::of(&value, kind).write(&mut writer);
            assert!(written.is_err(), "{value:?}");
        }
    }

    #[test]
    fn variants_within_variants_end_somewhere() {
        assert_eq!(Variant::read(&mut Reader(&[24; 100])), Err(Malformed));
        assert_eq!(Variant::read(&mut Reader(&[0])).unwrap().items.len(), 0);
    }
}
