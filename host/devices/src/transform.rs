//! From the device's own number to the profile's value, and back.
//!
//! On reading, in this order: mask, shift, base, scale, offset. On writing the reverse. Bits are
//! for integers only. What EdgeX does differently, and why not here: it computes an integer
//! resource in integers, so that a scale of 0.1 makes every value 0 (or a tenth, cut off). Here the
//! value becomes a `Float64` as soon as a factor or an offset has a fraction; an integer factor
//! leaves the type alone. Who relies on EdgeX's numbers labels the profile ([`ARITHMETIC_LABEL`]).
//!
//! What cannot be said in the value's type becomes the text `overflow`, and what is no number the
//! text `NaN`, as with EdgeX: a consumer sees that there was a reading and that it is useless.

use eyot_api::{DeviceProfile, ResourceProperties};
use eyot_runtime::reading::Value;

use crate::value;

/// Label of a DeviceProfile whose readings are to be computed as EdgeX does it, if it is `edgex`.
pub(crate) const ARITHMETIC_LABEL: &str = "eyot.dev/arithmetic";

/// How readings of integers are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    #[default]
    Exact,
    /// In the integer's own type, by factors without their fractions: with a scale of 0.1 all is 0.
    Edgex,
}

impl Arithmetic {
    pub(crate) fn of(profile: &DeviceProfile) -> Self {
        let labels = profile.metadata.labels.as_ref();
        let label = labels.and_then(|labels| labels.get(ARITHMETIC_LABEL));
        match label.is_some_and(|label| label.eq_ignore_ascii_case("edgex")) {
            true => Self::Edgex,
            false => Self::Exact,
        }
    }
}

/// Why a value must not be written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Parse(#[from] value::ParseError),
    #[error("{value} is below the minimum of {minimum}")]
    BelowMinimum { value: f64, minimum: f64 },
    #[error("{value} is above the maximum of {maximum}")]
    AboveMaximum { value: f64, maximum: f64 },
    #[error("{value} becomes {raw} for the device, which does not fit its {value_type}")]
    Overflow {
        value: f64,
        raw: f64,
        value_type: String,
    },
}

/// The value of a reading, from what the device gave.
pub(crate) fn read(raw: Value, properties: &ResourceProperties, arithmetic: Arithmetic) -> Value {
    let Some(number) = Number::of(&raw) else {
        return raw;
    };
    let number = match number {
        Number::Integer(bits) => match masked(bits, &raw, properties) {
            Some(bits) => Number::Integer(bits),
            None => return overflow(),
        },
        float @ Number::Float(_) => float,
    };
    let base = properties.base.filter(|base| *base != 0.0);
    let scale = properties
        .scale
        .filter(|scale| *scale != 1.0 && *scale != 0.0);
    let offset = properties.offset.filter(|offset| *offset != 0.0);
    if base.is_none() && scale.is_none() && offset.is_none() {
        return number.into_value(raw.value_type());
    }
    if let (Number::Integer(integer), Arithmetic::Edgex) = (number, arithmetic) {
        let factors = [base, scale, offset];
        return as_edgex(integer, factors, raw.value_type()).unwrap_or_else(overflow);
    }
    let whole = [base, scale, offset]
        .into_iter()
        .flatten()
        .all(|factor| factor.fract() == 0.0);
    if let (Number::Integer(integer), true) = (number, whole) {
        return match whole_numbers(integer, base, scale, offset) {
            Some(integer) => Number::Integer(integer).into_value(raw.value_type()),
            None => overflow(),
        };
    }
    let mut float = number.float();
    if let Some(base) = base {
        float = base.powf(float);
    }
    if let Some(scale) = scale {
        float = times(float, scale);
    }
    float += offset.unwrap_or(0.0);
    let value_type = if Number::is_integer(&raw) {
        "Float64"
    } else {
        raw.value_type()
    };
    Number::Float(float).into_value(value_type)
}

/// The value to hand to the device, from the text that a user gave.
pub(crate) fn write(text: &str, properties: &ResourceProperties) -> Result<Value, WriteError> {
    let value_type = properties.value_type.as_str();
    let base = properties.base.filter(|base| *base > 0.0 && *base != 1.0);
    let scale = properties
        .scale
        .filter(|scale| *scale != 1.0 && *scale != 0.0);
    let offset = properties.offset.filter(|offset| *offset != 0.0);
    let plain = base.is_none() && scale.is_none() && offset.is_none();
    // In the profile's unit an integer resource may have a fraction: 23.5 with a scale of 0.1.
    let given = match value::parse(value_type, text) {
        Ok(given) => given,
        Err(error) if plain || !is_integer_type(value_type) => return Err(error.into()),
        Err(error) => value::parse("Float64", text).map_err(|_| error)?,
    };
    let Some(number) = Number::of(&given) else {
        return Ok(given);
    };
    check_range(number.float(), properties)?;
    let raw = if plain {
        number
    } else {
        let mut float = number.float() - offset.unwrap_or(0.0);
        if let Some(scale) = scale {
            float = divided(float, scale);
        }
        if let Some(base) = base {
            float = float.log(base);
        }
        if is_integer_type(value_type) {
            // The nearest number that the device can hold.
            Number::Integer(float.round() as i128)
        } else {
            Number::Float(float)
        }
    };
    let raw = match raw {
        Number::Integer(bits) => Number::Integer(unmasked(bits, properties)),
        float @ Number::Float(_) => float,
    };
    match raw.fit(value_type) {
        Some(value) => Ok(value),
        None => Err(WriteError::Overflow {
            value: number.float(),
            raw: raw.float(),
            value_type: value_type.to_owned(),
        }),
    }
}

/// Whether a reading is what a healthy device would say.
pub(crate) fn asserted(value: &Value, properties: &ResourceProperties) -> bool {
    match properties.assertion.as_deref() {
        None | Some("") => true,
        Some(expected) => {
            value::display(value) == expected || value::text(value).as_deref() == Some(expected)
        }
    }
}

fn overflow() -> Value {
    Value::String("overflow".to_owned())
}

fn check_range(value: f64, properties: &ResourceProperties) -> Result<(), WriteError> {
    match (properties.minimum, properties.maximum) {
        (Some(minimum), _) if value < minimum => Err(WriteError::BelowMinimum { value, minimum }),
        (_, Some(maximum)) if value > maximum => Err(WriteError::AboveMaximum { value, maximum }),
        _ => Ok(()),
    }
}

/// Mask and shift of reading; `None` if bits are shifted out of the type.
fn masked(mut bits: i128, raw: &Value, properties: &ResourceProperties) -> Option<i128> {
    let width = width(raw.value_type());
    let mask = properties.mask.filter(|mask| *mask != 0);
    let shift = properties.shift.unwrap_or(0);
    if mask.is_none() && shift == 0 {
        return Some(bits);
    }
    // Bits, not a number: a negative value is its two's complement of the type's width.
    bits &= (1_i128 << width) - 1;
    if let Some(mask) = mask {
        bits &= i128::from(mask);
    }
    match shift {
        0 => {}
        1..64 => bits <<= shift,
        -63..0 => bits >>= -shift,
        _ => bits = 0,
    }
    Number::Integer(bits).fit(raw.value_type()).map(|_| bits)
}

/// The reverse for writing.
fn unmasked(mut bits: i128, properties: &ResourceProperties) -> i128 {
    match properties.shift.unwrap_or(0) {
        0 => {}
        shift @ 1..64 => bits >>= shift,
        shift @ -63..0 => bits <<= -shift,
        _ => bits = 0,
    }
    match properties.mask.filter(|mask| *mask != 0) {
        Some(mask) => bits & i128::from(mask),
        None => bits,
    }
}

/// EdgeX looks whether the exact result fits the type, and then computes with what is before the
/// factor's point.
fn as_edgex(
    integer: i128,
    [base, scale, offset]: [Option<f64>; 3],
    value_type: &str,
) -> Option<Value> {
    let fitting = |exact: f64| Number::Integer(exact as i128).fit(value_type);
    let mut value = integer;
    if let Some(base) = base {
        let exact = base.powf(value as f64);
        fitting(exact)?;
        value = exact as i128;
    }
    if let Some(scale) = scale {
        fitting(value as f64 * scale)?;
        value = value.checked_mul(scale as i128)?;
    }
    if let Some(offset) = offset {
        fitting(value as f64 + offset)?;
        value = value.checked_add(offset as i128)?;
    }
    Number::Integer(value).fit(value_type)
}

fn whole_numbers(
    integer: i128,
    base: Option<f64>,
    scale: Option<f64>,
    offset: Option<f64>,
) -> Option<i128> {
    let mut result = integer;
    if let Some(base) = base {
        result = (base as i128).checked_pow(u32::try_from(integer).ok()?)?;
    }
    if let Some(scale) = scale {
        result = result.checked_mul(scale as i128)?;
    }
    result.checked_add(offset.unwrap_or(0.0) as i128)
}

/// `value * scale`, where a scale such as 0.1, which has no exact float, is taken for the tenth
/// that it stands for: 234 becomes 23.4 and not 23.400000000000002.
fn times(value: f64, scale: f64) -> f64 {
    match whole_inverse(scale) {
        Some(divisor) => value / divisor,
        None => value * scale,
    }
}

fn divided(value: f64, scale: f64) -> f64 {
    match whole_inverse(scale) {
        Some(factor) => value * factor,
        None => value / scale,
    }
}

fn whole_inverse(scale: f64) -> Option<f64> {
    let inverse = 1.0 / scale;
    let whole = inverse.round();
    let close = (inverse - whole).abs() <= whole.abs() * 1e-12;
    (scale.abs() < 1.0 && close && whole.abs() < 1e15).then_some(whole)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Uint8(v) => Self::Integer(i128::from(*v)),
            Value::Uint16(v) => Self::Integer(i128::from(*v)),
            Value::Uint32(v) => Self::Integer(i128::from(*v)),
            Value::Uint64(v) => Self::Integer(i128::from(*v)),
            Value::Int8(v) => Self::Integer(i128::from(*v)),
            Value::Int16(v) => Self::Integer(i128::from(*v)),
            Value::Int32(v) => Self::Integer(i128::from(*v)),
            Value::Int64(v) => Self::Integer(i128::from(*v)),
            // Through the text: the decimal number that the float stands for, 0.1 for 0.1f32.
            Value::Float32(v) if v.is_finite() => {
                Self::Float(v.to_string().parse().unwrap_or(f64::from(*v)))
            }
            Value::Float32(v) => Self::Float(f64::from(*v)),
            Value::Float64(v) => Self::Float(*v),
            _ => return None,
        })
    }

    fn is_integer(value: &Value) -> bool {
        is_integer_type(value.value_type())
    }

    fn float(self) -> f64 {
        match self {
            Self::Integer(v) => v as f64,
            Self::Float(v) => v,
        }
    }

    fn into_value(self, value_type: &str) -> Value {
        if let Self::Float(float) = self
            && float.is_nan()
        {
            return Value::String("NaN".to_owned());
        }
        self.fit(value_type).unwrap_or_else(overflow)
    }

    /// As a value of the type, if it fits.
    fn fit(self, value_type: &str) -> Option<Value> {
        match (self, value_type) {
            (Self::Integer(v), "Uint8") => v.try_into().ok().map(Value::Uint8),
            (Self::Integer(v), "Uint16") => v.try_into().ok().map(Value::Uint16),
            (Self::Integer(v), "Uint32") => v.try_into().ok().map(Value::Uint32),
            (Self::Integer(v), "Uint64") => v.try_into().ok().map(Value::Uint64),
            (Self::Integer(v), "Int8") => v.try_into().ok().map(Value::Int8),
            (Self::Integer(v), "Int16") => v.try_into().ok().map(Value::Int16),
            (Self::Integer(v), "Int32") => v.try_into().ok().map(Value::Int32),
            (Self::Integer(v), "Int64") => v.try_into().ok().map(Value::Int64),
            (number, "Float64") => {
                let float = number.float();
                float.is_finite().then_some(Value::Float64(float))
            }
            (number, "Float32") => {
                let float = number.float() as f32;
                float.is_finite().then_some(Value::Float32(float))
            }
            _ => None,
        }
    }
}

fn is_integer_type(value_type: &str) -> bool {
    width(value_type) != 0
}

/// Bits of an integer type; 0 for all others.
fn width(value_type: &str) -> u32 {
    match value_type {
        "Uint8" | "Int8" => 8,
        "Uint16" | "Int16" => 16,
        "Uint32" | "Int32" => 32,
        "Uint64" | "Int64" => 64,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "transform_tests.rs"]
mod tests;
