//! From registers to values and back. Registers are big-endian, and so is their order.

use eyot_sdk::{Value, ValueType};

use super::{Attributes, Table};

/// Registers that a value takes, or the attribute that is wrong and why.
pub fn registers(a: &Attributes, to: ValueType) -> Result<u16, (&'static str, String)> {
    use ValueType::*;
    if a.primary_table < Table::Holding {
        return if to == Bool { Ok(1) } else { Err(("primaryTable", "holds bits: the valueType must be Bool".into())) };
    }
    match raw_type(a, to).map_err(|text| ("rawType", text))? {
        Bool | Int8 | Uint8 | Int16 | Uint16 => Ok(1),
        Int32 | Uint32 | Float32 => Ok(2),
        Int64 | Uint64 | Float64 => Ok(4),
        String => match a.string_register_size {
            Some(size @ 1..=123) => Ok(size),
            _ => Err(("stringRegisterSize", "must be 1 to 123 for a String".into())),
        },
        other => Err(("rawType", format!("{} has no form in registers", other.name()))),
    }
}

pub fn decode(a: &Attributes, to: ValueType, words: &[u16]) -> Result<Value, String> {
    let raw = raw_type(a, to)?;
    if raw == ValueType::Bool {
        return Ok(Value::Boolean(words[0] >> a.starting_address.bit.unwrap_or(0) & 1 == 1));
    }
    let bytes: Vec<u8> = swapped(a, words).into_iter().flat_map(u16::to_be_bytes).collect();
    let wide = |count: usize| bytes[..count].iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    let value = match raw {
        ValueType::Int8 => Value::Int8(bytes[1] as i8),
        ValueType::Uint8 => Value::Uint8(bytes[1]),
        ValueType::Int16 => Value::Int16(wide(2) as i16),
        ValueType::Uint16 => Value::Uint16(wide(2) as u16),
        ValueType::Int32 => Value::Int32(wide(4) as i32),
        ValueType::Uint32 => Value::Uint32(wide(4) as u32),
        ValueType::Float32 => Value::Float32(f32::from_bits(wide(4) as u32)),
        ValueType::Int64 => Value::Int64(wide(8) as i64),
        ValueType::Uint64 => Value::Uint64(wide(8)),
        ValueType::Float64 => Value::Float64(f64::from_bits(wide(8))),
        _ => {
            let text = String::from_utf8_lossy(&bytes);
            Value::Text(text.trim_end_matches('\0').to_owned())
        }
    };
    value.convert(to).ok_or_else(|| format!("{value:?} does not fit into {}", to.name()))
}

pub fn encode(a: &Attributes, value: &Value) -> Result<Vec<u16>, String> {
    let own = ValueType::parse(value.value_type()).ok_or("has no type")?;
    let raw = raw_type(a, own)?;
    let value = value.convert(raw).ok_or_else(|| format!("{value:?} does not fit into {}", raw.name()))?;
    let bytes = match value {
        Value::Boolean(on) => u16::from(on).to_be_bytes().to_vec(),
        Value::Int8(value) => i16::from(value).to_be_bytes().to_vec(),
        Value::Uint8(value) => u16::from(value).to_be_bytes().to_vec(),
        Value::Int16(value) => value.to_be_bytes().to_vec(),
        Value::Uint16(value) => value.to_be_bytes().to_vec(),
        Value::Int32(value) => value.to_be_bytes().to_vec(),
        Value::Uint32(value) => value.to_be_bytes().to_vec(),
        Value::Float32(value) => value.to_be_bytes().to_vec(),
        Value::Int64(value) => value.to_be_bytes().to_vec(),
        Value::Uint64(value) => value.to_be_bytes().to_vec(),
        Value::Float64(value) => value.to_be_bytes().to_vec(),
        Value::Text(text) => {
            let size = usize::from(a.string_register_size.unwrap_or(0)) * 2;
            let mut bytes = text.into_bytes();
            if bytes.len() > size {
                return Err(format!("the text has {} bytes, and {size} fit", bytes.len()));
            }
            bytes.resize(size, 0);
            bytes
        }
        other => return Err(format!("{} has no form in registers", other.value_type())),
    };
    let words: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    Ok(swapped(a, &words))
}

fn raw_type(a: &Attributes, to: ValueType) -> Result<ValueType, String> {
    let Some(name) = &a.raw_type else { return Ok(to) };
    ValueType::parse(name).ok_or_else(|| format!("{name:?} is no value type"))
}

/// Other orders exist for 32-bit values only.
fn swapped(a: &Attributes, words: &[u16]) -> Vec<u16> {
    let mut words = words.to_vec();
    if words.len() == 2 && a.string_register_size.is_none() {
        if a.is_word_swap {
            words.swap(0, 1);
        }
        if a.is_byte_swap {
            words.iter_mut().for_each(|word| *word = word.swap_bytes());
        }
    }
    words
}
