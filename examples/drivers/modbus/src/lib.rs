//! Modbus TCP devices. Profiles and devices are those of EdgeX's Modbus service: the protocol
//! `modbus-tcp` with `Address`, `Port`, `UnitID` and `Timeout`, and the attributes below.

#[cfg(test)]
mod tests;

use std::str::FromStr;

use eyot_sdk::{
    Device, Driver, Error, ReadRequest, Reading, Value, ValueType, WriteRequest, lenient,
    modbus::{Endpoint, Host, Layout, Span, Table, Transport, read_spans},
};
use serde::Deserialize;

pub struct Modbus<T> {
    transport: T,
    endpoint: Endpoint,
}

/// `protocols.modbus-tcp` of a device.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    address: String,
    #[serde(deserialize_with = "lenient::number")]
    port: u16,
    #[serde(rename = "UnitID", deserialize_with = "lenient::number")]
    unit: u8,
    /// For connecting and for each answer.
    #[serde(default, deserialize_with = "lenient::optional")]
    timeout: Option<Timeout>,
}

/// Seconds, or a number with a unit such as `500ms`.
struct Timeout(f64);

/// `attributes` of a device resource.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    #[serde(deserialize_with = "lenient::number")]
    primary_table: Named<Table>,
    #[serde(deserialize_with = "lenient::number")]
    starting_address: Address,
    /// Type on the wire, where the value's type is another, such as `Int16` under a `Float32`.
    #[serde(default, deserialize_with = "lenient::optional")]
    raw_type: Option<Named<ValueType>>,
    /// Swap the bytes of each register, or the registers, of 32-bit values.
    #[serde(default, deserialize_with = "lenient::boolean")]
    is_byte_swap: bool,
    #[serde(default, deserialize_with = "lenient::boolean")]
    is_word_swap: bool,
    /// Registers of a string.
    #[serde(default, deserialize_with = "lenient::optional")]
    string_register_size: Option<u16>,
}

/// Zero-based; `4003.5` is bit 5 of register 4003.
struct Address {
    register: u16,
    bit: Option<u8>,
}

/// Something that profiles call by a name.
struct Named<T>(T);

impl Attributes {
    fn layout(&self, value_type: ValueType) -> Layout {
        Layout {
            raw: self.raw_type.as_ref().map_or(value_type, |named| named.0),
            bit: self.starting_address.bit.unwrap_or(0),
            byte_swap: self.is_byte_swap,
            word_swap: self.is_word_swap,
            text: self.string_register_size.unwrap_or(0),
        }
    }

    /// Where the value is, or the attribute that is wrong and why.
    fn span(&self, value_type: ValueType) -> Result<Span, (&'static str, String)> {
        let (table, start) = (self.primary_table.0, self.starting_address.register);
        let layout = self.layout(value_type);
        let count = match (table.is_bits(), layout.raw) {
            (true, ValueType::Bool) => 1,
            (true, _) => {
                return Err((
                    "primaryTable",
                    "holds bits, so the type must be Bool".into(),
                ));
            }
            (false, ValueType::String) => layout
                .registers()
                .map_err(|text| ("stringRegisterSize", text))?,
            (false, _) => layout.registers().map_err(|text| ("rawType", text))?,
        };
        Ok(Span {
            table,
            start,
            count,
        })
    }
}

impl<T: Transport + Default> Driver for Modbus<T> {
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        let Properties {
            address,
            port,
            unit,
            timeout,
        } = device.protocol("modbus-tcp")?;
        let address = if address.contains(':') {
            format!("[{address}]")
        } else {
            address
        };
        let timeout_ms = timeout.map_or(0, |Timeout(seconds)| (seconds * 1000.0) as u32);
        let endpoint = Endpoint {
            address: format!("{address}:{port}"),
            unit,
            timeout_ms,
        };
        Ok(Self {
            transport: T::default(),
            endpoint,
        })
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let mut spans = Vec::with_capacity(requests.len());
        for request in requests {
            let span = request.attributes.span(request.value_type);
            spans.push(span.map_err(|(attribute, text)| request.invalid(attribute, text))?);
        }
        let words = read_spans(&mut self.transport, &self.endpoint, &spans)?;
        let answer = |(request, words): (&ReadRequest<'_, Attributes>, Vec<u16>)| {
            let value = request
                .attributes
                .layout(request.value_type)
                .decode(&words, request.value_type);
            Ok(request.answer(value.map_err(|text| request.invalid("rawType", text))?))
        };
        requests.iter().zip(words).map(answer).collect()
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        for WriteRequest {
            resource,
            value,
            attributes,
        } in requests
        {
            let Address { register, bit } = attributes.starting_address;
            match (attributes.primary_table.0, value) {
                (Table::Coils, Value::Boolean(on)) => {
                    self.transport
                        .write_coils(&self.endpoint, register, &[*on])?;
                }
                (Table::Holding, value) if bit.is_none() => {
                    let own = ValueType::parse(value.value_type()).unwrap_or(ValueType::String);
                    let words = attributes.layout(own).encode(value);
                    let words =
                        words.map_err(|text| Error::attribute(resource, "rawType", text))?;
                    self.transport
                        .write_registers(&self.endpoint, register, &words)?;
                }
                _ => {
                    let message = format!("{resource} is no coil and no whole holding register");
                    return Err(Error::NotSupported(message));
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Timeout {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, seconds) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => (number, 0.001),
            (None, number) => (number.unwrap_or(text), 1.0),
        };
        let time = number.parse::<f64>().ok().map(|number| number * seconds);
        time.filter(|time| (0.0..=60.0).contains(time))
            .map(Self)
            .ok_or("a time is 5, 5s or 500ms, at most 60s")
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (register, bit) = text
            .split_once('.')
            .map_or((text, None), |(r, b)| (r, Some(b)));
        let bit = bit.map(|bit| {
            bit.parse()
                .ok()
                .filter(|bit| *bit < 16)
                .ok_or("bits are 0 to 15")
        });
        let register = register.parse().map_err(|_| "registers are 0 to 65535")?;
        Ok(Self {
            register,
            bit: bit.transpose()?,
        })
    }
}

impl FromStr for Named<Table> {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(Self(match name.to_ascii_uppercase().as_str() {
            "COILS" => Table::Coils,
            "DISCRETES_INPUT" | "DISCRETE_INPUTS" => Table::DiscreteInputs,
            "HOLDING_REGISTERS" => Table::Holding,
            "INPUT_REGISTERS" => Table::Input,
            _ => {
                return Err(
                    "tables are COILS, DISCRETES_INPUT, HOLDING_REGISTERS, INPUT_REGISTERS",
                );
            }
        }))
    }
}

impl FromStr for Named<ValueType> {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        ValueType::parse(name)
            .map(Self)
            .ok_or("types are Int16, Uint16, Int32, Float32 and so on")
    }
}

eyot_sdk::export_driver!(Modbus<Host>);
