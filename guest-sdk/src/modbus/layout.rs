//! How values lie in registers. Registers are big-endian, and so is their order, unless swapped.

use serde_json::Value as Json;

use crate::{Value, ValueType};

/// Most registers that one text or array may take: what one request can write.
pub const TEXT_LIMIT: u16 = 123;

/// How one value lies in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Type in the registers; may differ from the type that is wanted, such as an `Int16` under a
    /// `Float32`.
    pub raw: ValueType,
    /// Which bit of the register a `Bool` is.
    pub bit: u8,
    /// Whether the bytes of each register are swapped, in 32-bit values.
    pub byte_swap: bool,
    /// Whether the two registers of a 32-bit value are swapped.
    pub word_swap: bool,
    /// Registers of a text.
    pub text: u16,
    /// Items of an array; `raw` is the type of one. Zero for a single value.
    pub items: u16,
}

impl Layout {
    /// Number of registers that the value takes.
    pub fn registers(&self) -> Result<u16, String> {
        let all = self.item()? * self.items.clamp(1, TEXT_LIMIT);
        match self.items > TEXT_LIMIT || all > TEXT_LIMIT {
            true => Err(format!("an array takes 1 to {TEXT_LIMIT} registers")),
            false => Ok(all),
        }
    }

    /// Number of registers of one item.
    fn item(&self) -> Result<u16, String> {
        match self.raw {
            ValueType::Bool
            | ValueType::Int8
            | ValueType::Uint8
            | ValueType::Int16
            | ValueType::Uint16 => Ok(1),
            ValueType::Int32 | ValueType::Uint32 | ValueType::Float32 => Ok(2),
            ValueType::Int64 | ValueType::Uint64 | ValueType::Float64 => Ok(4),
            ValueType::String if (1..=TEXT_LIMIT).contains(&self.text) => Ok(self.text),
            ValueType::String => Err(format!("a String takes 1 to {TEXT_LIMIT} registers")),
            other => Err(format!("{} has no form in registers", other.name())),
        }
    }

    /// The value in `words`, as a `to`.
    pub fn decode(&self, words: &[u16], to: ValueType) -> Result<Value, String> {
        let expected = usize::from(self.registers()?);
        if words.len() != expected {
            return Err(format!(
                "{expected} registers are needed, not {}",
                words.len()
            ));
        }
        if self.items > 0 {
            let one = Self { items: 0, ..*self };
            let of = element(to)?;
            let items = words.chunks_exact(usize::from(self.item()?));
            let items = items.map(|words| Ok(one.decode(words, of)?.to_json()));
            let items: Vec<Json> = items.collect::<Result<_, String>>()?;
            return Value::from_json(&Json::Array(items), to);
        }
        let words = self.swapped(words);
        let wide = words
            .iter()
            .take(4)
            .fold(0, |all, word| all << 16 | u64::from(*word));
        let value = match self.raw {
            ValueType::Bool => Value::Boolean(wide >> self.bit & 1 == 1),
            ValueType::Int8 => Value::Int8(wide as i8),
            ValueType::Uint8 => Value::Uint8(wide as u8),
            ValueType::Int16 => Value::Int16(wide as i16),
            ValueType::Uint16 => Value::Uint16(wide as u16),
            ValueType::Int32 => Value::Int32(wide as i32),
            ValueType::Uint32 => Value::Uint32(wide as u32),
            ValueType::Float32 => Value::Float32(f32::from_bits(wide as u32)),
            ValueType::Int64 => Value::Int64(wide as i64),
            ValueType::Uint64 => Value::Uint64(wide),
            ValueType::Float64 => Value::Float64(f64::from_bits(wide)),
            _ => {
                let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
                let text = String::from_utf8_lossy(&bytes);
                Value::Text(text.trim_end_matches('\0').to_owned())
            }
        };
        value.convert(to).ok_or_else(|| {
            format!(
                "{} {} does not fit into {}",
                self.raw.name(),
                value.to_text(),
                to.name()
            )
        })
    }

    /// The registers that hold `value`.
    pub fn encode(&self, value: &Value) -> Result<Vec<u16>, String> {
        let count = self.registers()?;
        if self.items > 0 {
            let one = Self { items: 0, ..*self };
            let of = ValueType::parse(value.value_type()).unwrap_or(ValueType::String);
            let of = element(of)?;
            let Json::Array(items) = value.to_json() else {
                return Err(format!("{} is no array", value.value_type()));
            };
            if items.len() != usize::from(self.items) {
                let (given, wanted) = (items.len(), self.items);
                return Err(format!("the array has {given} items instead of {wanted}"));
            }
            let items = items
                .iter()
                .map(|item| one.encode(&Value::from_json(item, of)?));
            return Ok(items.collect::<Result<Vec<_>, String>>()?.concat());
        }
        let fits = match self.raw {
            ValueType::Float32 | ValueType::Float64 => value.convert(self.raw),
            _ => rounded(value).convert(self.raw),
        };
        let value = fits.ok_or_else(|| {
            format!(
                "{} {} does not fit into {}",
                value.value_type(),
                value.to_text(),
                self.raw.name()
            )
        })?;
        let wide = match value {
            Value::Boolean(on) => u64::from(on) << self.bit,
            Value::Int8(value) => i64::from(value) as u64,
            Value::Uint8(value) => value.into(),
            Value::Int16(value) => i64::from(value) as u64,
            Value::Uint16(value) => value.into(),
            Value::Int32(value) => i64::from(value) as u64,
            Value::Uint32(value) => value.into(),
            Value::Float32(value) => value.to_bits().into(),
            Value::Int64(value) => value as u64,
            Value::Uint64(value) => value,
            Value::Float64(value) => value.to_bits(),
            Value::Text(text) => return self.encode_text(text),
            other => return Err(format!("{} has no form in registers", other.value_type())),
        };
        let words: Vec<u16> = (0..count)
            .rev()
            .map(|n| (wide >> (16 * n)) as u16)
            .collect();
        Ok(self.swapped(&words))
    }

    fn encode_text(&self, text: String) -> Result<Vec<u16>, String> {
        let (mut bytes, size) = (text.into_bytes(), usize::from(self.text) * 2);
        if bytes.len() > size {
            return Err(format!(
                "the text has {} bytes, and {size} fit",
                bytes.len()
            ));
        }
        bytes.resize(size, 0);
        Ok(bytes
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect())
    }

    /// Other orders exist for 32-bit values only.
    fn swapped(&self, words: &[u16]) -> Vec<u16> {
        let mut words = words.to_vec();
        if words.len() == 2 && self.raw != ValueType::String {
            if self.word_swap {
                words.swap(0, 1);
            }
            if self.byte_swap {
                words.iter_mut().for_each(|word| *word = word.swap_bytes());
            }
        }
        words
    }
}

/// What a scale has made of a whole number is a whole number again: 23.7 / 0.1 is not quite 237.
fn rounded(value: &Value) -> Value {
    let float = match value {
        Value::Float32(float) => f64::from(*float),
        Value::Float64(float) => *float,
        other => return other.clone(),
    };
    let near = (float - float.round()).abs() <= 1e-6 * float.abs().max(1.0);
    match near {
        true if float != float.round() => Value::Float64(float.round()),
        _ => value.clone(),
    }
}

/// The type of an array's items.
fn element(of: ValueType) -> Result<ValueType, String> {
    let name = of.name();
    let item = name.strip_suffix("Array").and_then(ValueType::parse);
    item.ok_or_else(|| format!("{name} is no array"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Layout = Layout {
        raw: ValueType::Uint16,
        bit: 0,
        byte_swap: false,
        word_swap: false,
        text: 0,
        items: 0,
    };

    #[track_caller]
    fn there_and_back(layout: Layout, words: &[u16], value: Value) {
        let to = ValueType::parse(value.value_type()).unwrap();
        assert_eq!(layout.decode(words, to).as_ref(), Ok(&value), "{layout:?}");
        assert_eq!(layout.encode(&value).as_deref(), Ok(words), "{layout:?}");
    }

    #[test]
    fn every_type_has_its_place() {
        let raw = |raw| Layout { raw, ..PLAIN };
        there_and_back(raw(ValueType::Int8), &[0xfffe], Value::Int8(-2));
        there_and_back(raw(ValueType::Uint8), &[200], Value::Uint8(200));
        there_and_back(raw(ValueType::Int16), &[0xfff6], Value::Int16(-10));
        there_and_back(raw(ValueType::Int32), &[0xffff, 0xfffe], Value::Int32(-2));
        there_and_back(raw(ValueType::Uint32), &[1, 2], Value::Uint32(0x10002));
        there_and_back(raw(ValueType::Float32), &[0x41ac, 0], Value::Float32(21.5));
        there_and_back(
            raw(ValueType::Float64),
            &[0x4035, 0x8000, 0, 0],
            Value::Float64(21.5),
        );
        there_and_back(
            raw(ValueType::Int64),
            &[0xffff, 0xffff, 0xffff, 0xfffe],
            Value::Int64(-2),
        );
        there_and_back(raw(ValueType::Bool), &[1], Value::Boolean(true));
        there_and_back(raw(ValueType::Int16), &[0xfff6], Value::Float32(-10.0));
        let bit = Layout {
            raw: ValueType::Bool,
            bit: 5,
            ..PLAIN
        };
        there_and_back(bit, &[0x20], Value::Boolean(true));
        let words = Layout {
            raw: ValueType::Float32,
            word_swap: true,
            ..PLAIN
        };
        there_and_back(words, &[0, 0x41ac], Value::Float32(21.5));
        let bytes = Layout {
            byte_swap: true,
            ..words
        };
        there_and_back(bytes, &[0, 0xac41], Value::Float32(21.5));
        let text = Layout {
            raw: ValueType::String,
            text: 3,
            ..PLAIN
        };
        there_and_back(text, &[0x6579, 0x6f74, 0], Value::Text("eyot".into()));
    }

    #[test]
    fn arrays_lie_item_by_item() {
        let floats = Layout {
            raw: ValueType::Float32,
            word_swap: true,
            items: 2,
            ..PLAIN
        };
        let both = Value::Float32s(vec![21.5, -0.5]);
        there_and_back(floats, &[0, 0x41ac, 0, 0xbf00], both);
        let scaled = Layout {
            raw: ValueType::Int16,
            items: 3,
            ..PLAIN
        };
        let all = Value::Float64s(vec![1.0, -1.0, 2.0]);
        there_and_back(scaled, &[1, 0xffff, 2], all);
        let short = scaled.encode(&Value::Int16s(vec![1]));
        assert!(short.unwrap_err().contains("1 items instead of 3"));
        assert!(scaled.decode(&[1, 2, 3], ValueType::Int16).is_err());
        let long = Layout {
            items: u16::MAX,
            ..floats
        };
        assert!(long.registers().is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let int16 = Layout {
            raw: ValueType::Int16,
            ..PLAIN
        };
        assert!(int16.encode(&Value::Float32(0.5)).is_err());
        assert_eq!(int16.encode(&Value::Float64(23.7 / 0.1)), Ok(vec![237]));
        assert!(int16.encode(&Value::Int32(40_000)).is_err());
        assert!(int16.decode(&[0xffff], ValueType::Uint16).is_err());
        assert!(int16.decode(&[], ValueType::Int16).is_err());
        let text = Layout {
            raw: ValueType::String,
            text: 1,
            ..PLAIN
        };
        assert!(text.encode(&Value::Text("long".into())).is_err());
        assert!(Layout { text: 0, ..text }.registers().is_err());
        assert!(
            Layout {
                raw: ValueType::Object,
                ..PLAIN
            }
            .registers()
            .is_err()
        );
    }
}
