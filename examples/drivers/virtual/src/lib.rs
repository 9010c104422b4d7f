//! Devices that are not there, for trying things out: every resource has a random value of its type,
//! between the attributes `minimum` and `maximum` if it is a number. What is written stays as it is.
//!
//! As with EdgeX's virtual devices, a Bool resource `EnableRandomization_NAME` tells whether the
//! resource `NAME` is random, and switches it; a resource that was written is not.

mod random;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use eyot_sdk::{
    Binary, Device, Driver, Error, ReadRequest, Reading, Value, ValueType, WriteRequest, lenient,
};
use serde::Deserialize;

use random::Random;

/// What the resources that switch others are called.
const SWITCH: &str = "EnableRandomization_";
/// Items of an array, and bytes of a picture.
const ITEMS: usize = 5;
const BYTES: usize = 64;

pub struct Virtual {
    random: Random,
    /// Values that were written, or that stood when the resource was switched.
    values: HashMap<String, Value>,
    /// Resources that are not random.
    fixed: HashSet<String>,
}

/// `attributes` of a device resource: the range of its numbers.
#[derive(Deserialize)]
pub struct Attributes {
    #[serde(default, deserialize_with = "lenient::optional")]
    minimum: Option<f64>,
    #[serde(default, deserialize_with = "lenient::optional")]
    maximum: Option<f64>,
}

impl Driver for Virtual {
    type Attributes = Attributes;

    fn open(_: &Device) -> Result<Self, Error> {
        Ok(Self {
            random: Random::default(),
            values: HashMap::new(),
            fixed: HashSet::new(),
        })
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let answer = |request: &ReadRequest<'_, Attributes>| {
            let name = request.resource;
            let value = match name.strip_prefix(SWITCH) {
                Some(switched) => Value::Boolean(!self.fixed.contains(switched)),
                None => self.value(request)?,
            };
            Ok(request.answer(value))
        };
        requests.iter().map(answer).collect()
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        for request in requests {
            match (request.resource.strip_prefix(SWITCH), request.value) {
                (Some(switched), Value::Boolean(true)) => {
                    self.fixed.remove(switched);
                }
                (Some(switched), Value::Boolean(false)) => {
                    self.fixed.insert(switched.to_owned());
                }
                (Some(_), _) => {
                    let field =
                        format!("deviceResources[{}].properties.valueType", request.resource);
                    return Err(Error::invalid(field, "must be Bool: it is a switch"));
                }
                (None, value) => {
                    self.fixed.insert(request.resource.to_owned());
                    self.values
                        .insert(request.resource.to_owned(), value.clone());
                }
            }
        }
        Ok(())
    }
}

impl Virtual {
    fn value(&mut self, request: &ReadRequest<'_, Attributes>) -> Result<Value, Error> {
        let name = request.resource;
        let standing = self.values.get(name).filter(|_| self.fixed.contains(name));
        if let Some(value) = standing {
            return Ok(value.clone());
        }
        let value = self.invent(request)?;
        self.values.insert(name.to_owned(), value.clone());
        Ok(value)
    }

    fn invent(&mut self, request: &ReadRequest<'_, Attributes>) -> Result<Value, Error> {
        use ValueType as T;
        let range = |least: f64, most: f64| -> Result<(f64, f64), Error> {
            let Attributes { minimum, maximum } = *request.attributes;
            let low = minimum.unwrap_or(least).max(least);
            let high = maximum.unwrap_or(most).min(most);
            match low <= high {
                true => Ok((low, high)),
                false => Err(request.invalid("minimum", format!("{low} is above {high}"))),
            }
        };
        let random = &mut self.random;
        macro_rules! number {
            ($one:ident $many:ident $kind:ty, $is_many:expr) => {{
                let range = range(<$kind>::MIN as f64, <$kind>::MAX as f64)?;
                match $is_many {
                    false => Value::$one(random.between(range) as $kind),
                    true => {
                        Value::$many((0..ITEMS).map(|_| random.between(range) as $kind).collect())
                    }
                }
            }};
        }
        macro_rules! whole {
            ($one:ident $many:ident $kind:ty, $is_many:expr) => {{
                // The full range of 64 bits is finer than what a float can tell apart.
                let Attributes { minimum, maximum } = request.attributes;
                match (minimum, maximum, $is_many) {
                    (None, None, false) => Value::$one(random.next() as $kind),
                    (None, None, true) => {
                        Value::$many((0..ITEMS).map(|_| random.next() as $kind).collect())
                    }
                    _ => number!($one $many $kind, $is_many),
                }
            }};
        }
        Ok(match request.value_type {
            T::Bool => Value::Boolean(random.next() & 1 == 1),
            T::BoolArray => Value::Booleans((0..ITEMS).map(|_| random.next() & 1 == 1).collect()),
            T::Int8 | T::Int8Array => whole!(Int8 Int8s i8, request.value_type == T::Int8Array),
            T::Int16 | T::Int16Array => {
                whole!(Int16 Int16s i16, request.value_type == T::Int16Array)
            }
            T::Int32 | T::Int32Array => {
                whole!(Int32 Int32s i32, request.value_type == T::Int32Array)
            }
            T::Int64 | T::Int64Array => {
                whole!(Int64 Int64s i64, request.value_type == T::Int64Array)
            }
            T::Uint8 | T::Uint8Array => {
                whole!(Uint8 Uint8s u8, request.value_type == T::Uint8Array)
            }
            T::Uint16 | T::Uint16Array => {
                whole!(Uint16 Uint16s u16, request.value_type == T::Uint16Array)
            }
            T::Uint32 | T::Uint32Array => {
                whole!(Uint32 Uint32s u32, request.value_type == T::Uint32Array)
            }
            T::Uint64 | T::Uint64Array => {
                whole!(Uint64 Uint64s u64, request.value_type == T::Uint64Array)
            }
            T::Float32 | T::Float32Array => {
                number!(Float32 Float32s f32, request.value_type == T::Float32Array)
            }
            T::Float64 | T::Float64Array => {
                number!(Float64 Float64s f64, request.value_type == T::Float64Array)
            }
            T::String => Value::Text(random.word()),
            T::StringArray => Value::Texts((0..ITEMS).map(|_| random.word()).collect()),
            T::Binary => Value::Binary(Binary {
                data: (0..BYTES).map(|_| random.next() as u8).collect(),
                media_type: "application/octet-stream".into(),
            }),
            T::Object => Value::Object(random.object()),
            T::ObjectArray => {
                let objects: Vec<String> = (0..ITEMS).map(|_| random.object()).collect();
                Value::Objects(format!("[{}]", objects.join(",")))
            }
        })
    }
}

eyot_sdk::export_driver!(Virtual);
