//! Values and their types.

use crate::{Event, Value};

/// The value types of EdgeX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are EdgeX's own")]
pub enum ValueType {
    Bool,
    String,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Binary,
    BoolArray,
    StringArray,
    Uint8Array,
    Uint16Array,
    Uint32Array,
    Uint64Array,
    Int8Array,
    Int16Array,
    Int32Array,
    Int64Array,
    Float32Array,
    Float64Array,
    Object,
    ObjectArray,
}

impl ValueType {
    /// All of them with EdgeX's names.
    const NAMES: [(Self, &'static str); 27] = [
        (Self::Bool, "Bool"),
        (Self::String, "String"),
        (Self::Uint8, "Uint8"),
        (Self::Uint16, "Uint16"),
        (Self::Uint32, "Uint32"),
        (Self::Uint64, "Uint64"),
        (Self::Int8, "Int8"),
        (Self::Int16, "Int16"),
        (Self::Int32, "Int32"),
        (Self::Int64, "Int64"),
        (Self::Float32, "Float32"),
        (Self::Float64, "Float64"),
        (Self::Binary, "Binary"),
        (Self::BoolArray, "BoolArray"),
        (Self::StringArray, "StringArray"),
        (Self::Uint8Array, "Uint8Array"),
        (Self::Uint16Array, "Uint16Array"),
        (Self::Uint32Array, "Uint32Array"),
        (Self::Uint64Array, "Uint64Array"),
        (Self::Int8Array, "Int8Array"),
        (Self::Int16Array, "Int16Array"),
        (Self::Int32Array, "Int32Array"),
        (Self::Int64Array, "Int64Array"),
        (Self::Float32Array, "Float32Array"),
        (Self::Float64Array, "Float64Array"),
        (Self::Object, "Object"),
        (Self::ObjectArray, "ObjectArray"),
    ];

    /// From EdgeX's name, in any case, as old profiles have it.
    pub fn parse(name: &str) -> Option<Self> {
        let found = Self::NAMES
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name));
        found.map(|(value_type, _)| *value_type)
    }

    /// EdgeX's name.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES
            .iter()
            .find(|(value_type, _)| *value_type == self);
        found.map_or("", |(_, name)| name)
    }
}

impl Value {
    /// EdgeX's name of the value's type.
    pub fn value_type(&self) -> &str {
        match self {
            Self::Boolean(_) => "Bool",
            Self::Text(_) => "String",
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
            Self::Booleans(_) => "BoolArray",
            Self::Texts(_) => "StringArray",
            Self::Uint8s(_) => "Uint8Array",
            Self::Uint16s(_) => "Uint16Array",
            Self::Uint32s(_) => "Uint32Array",
            Self::Uint64s(_) => "Uint64Array",
            Self::Int8s(_) => "Int8Array",
            Self::Int16s(_) => "Int16Array",
            Self::Int32s(_) => "Int32Array",
            Self::Int64s(_) => "Int64Array",
            Self::Float32s(_) => "Float32Array",
            Self::Float64s(_) => "Float64Array",
            Self::Binary(_) => "Binary",
            Self::Object(_) => "Object",
            Self::Objects(_) => "ObjectArray",
            Self::Null(value_type) => value_type,
        }
    }

    /// The value as a number, if it is one. Integers beyond 2⁵³ lose their last digits.
    pub fn as_f64(&self) -> Option<f64> {
        Some(match *self {
            Self::Uint8(value) => value.into(),
            Self::Uint16(value) => value.into(),
            Self::Uint32(value) => value.into(),
            Self::Uint64(value) => value as f64,
            Self::Int8(value) => value.into(),
            Self::Int16(value) => value.into(),
            Self::Int32(value) => value.into(),
            Self::Int64(value) => value as f64,
            Self::Float32(value) => value.into(),
            Self::Float64(value) => value,
            _ => return None,
        })
    }

    /// The value as an integer, if it is one without a fraction.
    pub fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            Self::Uint64(value) => value.into(),
            Self::Int64(value) => value.into(),
            _ => {
                let value = self.as_f64()?;
                let whole = value.fract() == 0.0 && value.abs() < 1e18;
                return whole.then_some(value as i128);
            }
        })
    }
}

impl Event {
    /// The reading of a resource.
    pub fn reading(&self, resource: &str) -> Option<&crate::Reading> {
        self.readings
            .iter()
            .find(|reading| reading.resource == resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_name_back() {
        for (value_type, name) in ValueType::NAMES {
            assert_eq!(ValueType::parse(name), Some(value_type));
            assert_eq!(ValueType::parse(&name.to_lowercase()), Some(value_type));
            assert_eq!(value_type.name(), name);
        }
        assert_eq!(ValueType::parse("Float16"), None);
    }

    #[test]
    fn numbers_are_numbers_whatever_their_type() {
        assert_eq!(Value::Int16(-3).as_f64(), Some(-3.0));
        assert_eq!(Value::Uint64(u64::MAX).as_i128(), Some(u64::MAX.into()));
        assert_eq!(Value::Float32(2.0).as_i128(), Some(2));
        assert_eq!(Value::Float32(2.5).as_i128(), None);
        assert_eq!(Value::Text("1".into()).as_f64(), None);
    }
}
