//! Variables as values and back.

use std::str::FromStr;

use eyot_sdk::{Binary, Error, ProtocolError, Value, ValueType};
use serde_json::{Map, Value as Json, json};

use crate::message::{Binding, Data, parse_oid, show_oid};

/// What a variable is set to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Integer,
    Gauge32,
    Counter32,
    Counter64,
    TimeTicks,
    OctetString,
    Hex,
    Oid,
    IpAddress,
}

/// Why a variable is not the value that is wanted.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent has no such variable.
    Absent(&'static str, i64),
    /// It is of another kind.
    Other(String),
}

impl Fault {
    pub fn of(self, resource: &str) -> Error {
        match self {
            Self::Absent(what, code) => Error::Protocol(ProtocolError {
                code,
                message: format!("{resource}: {what}"),
            }),
            Self::Other(text) => Error::attribute(resource, "oid", text),
        }
    }
}

/// Whether a value of this type is all that is below a variable.
pub fn is_subtree(of: ValueType) -> bool {
    of.name().ends_with("Array") || of == ValueType::Object
}

/// A variable's value.
pub fn value(data: &Data, to: ValueType) -> Result<Value, Fault> {
    match data {
        Data::NoSuchObject => return Err(Fault::Absent("there is no such object", 0x80)),
        Data::NoSuchInstance => return Err(Fault::Absent("there is no such instance", 0x81)),
        Data::EndOfView => return Err(Fault::Absent("there is nothing behind it", 0x82)),
        Data::Null => return Ok(Value::Null(to.name().to_owned())),
        _ => {}
    }
    let wrong = || {
        let (shown, name) = (json(data), to.name());
        Fault::Other(format!("the agent has {shown} there, which is no {name}"))
    };
    Ok(match (to, data) {
        (ValueType::Binary, Data::Octets(bytes) | Data::Opaque(bytes)) => Value::Binary(Binary {
            data: bytes.clone(),
            media_type: "application/octet-stream".to_owned(),
        }),
        // TruthValue of SNMPv2-TC: 1 is true, 2 is false. Others say 0.
        (ValueType::Bool, Data::Integer(number)) => Value::Boolean(*number == 1),
        (ValueType::String, _) => match json(data) {
            Json::String(text) => Value::Text(text),
            other => Value::Text(other.to_string()),
        },
        // Measurements with a fraction come as texts.
        (_, Data::Octets(_)) => Value::from_json(&json(data), to).map_err(|_| wrong())?,
        (_, Data::Address(address)) => {
            let number = Value::Uint32(u32::from(*address));
            number.convert(to).ok_or_else(wrong)?
        }
        _ => number(data).and_then(|n| n.convert(to)).ok_or_else(wrong)?,
    })
}

fn number(data: &Data) -> Option<Value> {
    Some(match *data {
        Data::Integer(number) => Value::Int64(number),
        Data::Counter32(number) | Data::Gauge32(number) | Data::Ticks(number) => {
            Value::Uint32(number)
        }
        Data::Counter64(number) => Value::Uint64(number),
        _ => return None,
    })
}

/// All that is below a variable.
pub fn subtree(root: &[u32], rows: Vec<Binding>, to: ValueType) -> Result<Value, String> {
    if to == ValueType::Object {
        let members = rows.iter().map(|(oid, data)| {
            let below = oid.strip_prefix(root).unwrap_or(oid);
            (show_oid(below), json(data))
        });
        let members: Map<_, _> = members.collect();
        return Ok(Value::Object(Json::Object(members).to_string()));
    }
    let items = rows.iter().map(|(oid, data)| match to {
        ValueType::ObjectArray => json!({ "oid": show_oid(oid), "value": json(data) }),
        _ => json(data),
    });
    Value::from_json(&items.collect(), to)
}

/// A variable in JSON: numbers, and texts.
pub fn json(data: &Data) -> Json {
    match data {
        Data::Octets(bytes) | Data::Opaque(bytes) => json!(text(bytes)),
        Data::Oid(parts) => json!(show_oid(parts)),
        Data::Address(address) => json!(address.to_string()),
        data => number(data).map_or(Json::Null, |number| number.to_json()),
    }
}

/// Octets as they are shown: what can be read as it is, anything else as `00:1b:21:…`.
fn text(bytes: &[u8]) -> String {
    let readable = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    let trimmed = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    match std::str::from_utf8(trimmed) {
        Ok(text) if text.chars().all(readable) => text.to_owned(),
        _ => {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            hex.join(":")
        }
    }
}

/// What a variable is set to.
pub fn data(value: &Value, wanted: Option<Type>) -> Result<Data, String> {
    let as_type = wanted.unwrap_or(match value {
        Value::Text(_) | Value::Binary(_) => Type::OctetString,
        Value::Uint32(_) => Type::Gauge32,
        Value::Uint64(_) => Type::Counter64,
        _ => Type::Integer,
    });
    let shown = || value.to_text();
    let wrong = |what: &str| format!("{} is no {what}", shown());
    let whole = || match value {
        Value::Boolean(on) => Some(if *on { 1 } else { 2 }),
        Value::Text(text) => text.trim().parse().ok(),
        value => value.as_i128(),
    };
    let unsigned = |what: &str| {
        let fits = whole().and_then(|number| u32::try_from(number).ok());
        fits.ok_or_else(|| wrong(what))
    };
    Ok(match as_type {
        Type::Integer => {
            let fits = whole().and_then(|number| i32::try_from(number).ok());
            Data::Integer(fits.ok_or_else(|| wrong("Integer of 32 bits"))?.into())
        }
        Type::Gauge32 => Data::Gauge32(unsigned("Gauge32")?),
        Type::Counter32 => Data::Counter32(unsigned("Counter32")?),
        Type::TimeTicks => Data::Ticks(unsigned("TimeTicks")?),
        Type::Counter64 => {
            let fits = whole().and_then(|number| u64::try_from(number).ok());
            Data::Counter64(fits.ok_or_else(|| wrong("Counter64"))?)
        }
        Type::OctetString => Data::Octets(match value {
            Value::Binary(binary) => binary.data.clone(),
            _ => shown().into_bytes(),
        }),
        Type::Hex => {
            Data::Octets(hex(&shown()).ok_or_else(|| wrong("list of octets such as 00:1b"))?)
        }
        Type::Oid => Data::Oid(parse_oid(&shown()).ok_or_else(|| wrong("object identifier"))?),
        Type::IpAddress => {
            let address = shown().parse();
            Data::Address(address.map_err(|_| wrong("IPv4 address"))?)
        }
    })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.split([':', '-', ' ']).filter(|byte| !byte.is_empty());
    bytes
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect()
}

impl FromStr for Type {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "integer" | "integer32" | "i" => Self::Integer,
            "gauge32" | "gauge" | "unsigned32" | "u" => Self::Gauge32,
            "counter32" | "c" => Self::Counter32,
            "counter64" => Self::Counter64,
            "timeticks" | "t" => Self::TimeTicks,
            "octetstring" | "string" | "s" => Self::OctetString,
            "hex" | "x" => Self::Hex,
            "oid" | "objectidentifier" | "o" => Self::Oid,
            "ipaddress" | "a" => Self::IpAddress,
            _ => {
                return Err(
                    "types are Integer, Gauge32, Counter32, Counter64, TimeTicks, OctetString, \
                     Hex, Oid and IpAddress",
                );
            }
        })
    }
}
