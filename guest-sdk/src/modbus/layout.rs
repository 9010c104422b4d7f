//! How values lie in registers. Registers are big-endian, and so is their order, unless swapped.

use crate::{Value, ValueType};

/// Most registers that one text may take: what one request can write.
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
}

impl Layout {
    /// Number of registers that the value takes.
    pub fn registers(&self) -> Result<u16, String> {
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
        let fits = value.convert(self.raw);
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

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Layout = Layout {
        raw: ValueType::Uint16,
        bit: 0,
        byte_swap: false,
        word_swap: false,
        text: 0,
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
    fn what_does_not_fit_is_an_error() {
        let int16 = Layout {
            raw: ValueType::Int16,
            ..PLAIN
        };
        assert!(int16.encode(&Value::Float32(0.5)).is_err());
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
