//! Modbus devices: TCP, and RTU and ASCII over a serial line or a gateway. Profiles and devices are
//! those of EdgeX's Modbus service, with the attributes below and these protocols:
//!
//! | protocol | properties |
//! |---|---|
//! | `modbus-tcp` | `Address`, `Port`, `UnitID`, `Timeout` |
//! | `modbus-rtu`, `modbus-ascii` | `Address` of a serial line (`/dev/ttyUSB0`), `BaudRate`, `DataBits`, `StopBits`, `Parity`, `UnitID`, `Timeout` |
//! | `modbus-rtu`, `modbus-ascii` | `Address` and `Port` of a gateway that hands serial frames through, `UnitID`, `Timeout` |
//!
//! The resources that are read together share requests where they are neighbours. A bit of a holding
//! register is written by reading the register and writing it back: what another client writes to the
//! register in between is lost.

#[cfg(test)]
mod tests;

use std::str::FromStr;

use eyot_sdk::{
    Device, Driver, Error, ReadRequest, Reading, Value, ValueType, WriteRequest, lenient,
    modbus::{
        Endpoint, Host, Layout, READ_BITS_LIMIT, Registers, Span, Table, Transport, read_spans,
    },
};
use serde::Deserialize;

pub struct Modbus<T> {
    transport: T,
    endpoint: Endpoint,
}

/// Properties of the device's protocol.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    address: String,
    #[serde(default, deserialize_with = "lenient::optional")]
    port: Option<u16>,
    #[serde(rename = "UnitID", deserialize_with = "lenient::number")]
    unit: u8,
    /// For connecting and for each answer.
    #[serde(default, deserialize_with = "lenient::optional")]
    timeout: Option<Timeout>,
    #[serde(default, deserialize_with = "lenient::optional")]
    baud_rate: Option<u32>,
    #[serde(default, deserialize_with = "lenient::optional")]
    data_bits: Option<u8>,
    #[serde(default, deserialize_with = "lenient::optional")]
    stop_bits: Option<u8>,
    #[serde(default, deserialize_with = "lenient::optional")]
    parity: Option<String>,
}

/// The protocols and what their frames are called in an address.
const PROTOCOLS: [(&str, &str); 3] = [
    ("modbus-tcp", ""),
    ("modbus-rtu", "rtu://"),
    ("modbus-ascii", "ascii://"),
];

impl Properties {
    /// The address as the transport wants it.
    fn address(&self, protocol: &str, scheme: &str) -> Result<String, Error> {
        if self.address.starts_with('/') && !scheme.is_empty() {
            let usual = if scheme == "ascii://" { 7 } else { 8 };
            return Ok(format!(
                "{scheme}{}?baud={}&data={}&stop={}&parity={}",
                self.address,
                self.baud_rate.unwrap_or(9600),
                self.data_bits.unwrap_or(usual),
                self.stop_bits.unwrap_or(1),
                self.parity.as_deref().unwrap_or("N"),
            ));
        }
        let missing = || Error::invalid(format!("protocols.{protocol}.Port"), "is missing");
        let port = self.port.ok_or_else(missing)?;
        Ok(match self.address.contains(':') {
            true => format!("{scheme}[{}]:{port}", self.address),
            false => format!("{scheme}{}:{port}", self.address),
        })
    }
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
    /// Items of an array.
    #[serde(default, deserialize_with = "lenient::optional")]
    array_length: Option<u16>,
}

/// Zero-based, decimal or `0x0fa3`; `4003.5` is bit 5 of register 4003.
#[derive(Clone, Copy)]
struct Address {
    register: u16,
    bit: Option<u8>,
}

/// Something that profiles call by a name.
struct Named<T>(T);

impl Attributes {
    fn layout(&self, value_type: ValueType) -> Layout {
        let items = self.items(value_type);
        let item = value_type.name().strip_suffix("Array");
        let own = item.and_then(ValueType::parse).filter(|_| items > 0);
        Layout {
            raw: match &self.raw_type {
                Some(named) => named.0,
                None => own.unwrap_or(value_type),
            },
            bit: self.starting_address.bit.unwrap_or(0),
            byte_swap: self.is_byte_swap,
            word_swap: self.is_word_swap,
            text: self.string_register_size.unwrap_or(0),
            items,
        }
    }

    /// Zero unless the value is an array.
    fn items(&self, value_type: ValueType) -> u16 {
        match value_type.name().ends_with("Array") && value_type != ValueType::ObjectArray {
            true => self.array_length.unwrap_or(0),
            false => 0,
        }
    }

    /// Where the value is, or the attribute that is wrong and why.
    fn span(&self, value_type: ValueType) -> Result<Span, (&'static str, String)> {
        let (table, start) = (self.primary_table.0, self.starting_address.register);
        let is_array = value_type.name().ends_with("Array");
        if is_array && value_type != ValueType::ObjectArray && self.array_length.is_none() {
            return Err(("arrayLength", "is missing".into()));
        }
        let layout = self.layout(value_type);
        let count = match (table.is_bits(), layout.raw) {
            (true, ValueType::Bool) if layout.items > READ_BITS_LIMIT => {
                let text = format!("at most {READ_BITS_LIMIT} bits are read together");
                return Err(("arrayLength", text));
            }
            (true, ValueType::Bool) => layout.items.max(1),
            (true, _) => {
                return Err((
                    "primaryTable",
                    "holds bits, so the type must be Bool or BoolArray".into(),
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

    /// The value of these words, or the attribute that is wrong and why.
    fn decode(&self, words: &[u16], to: ValueType) -> Result<Value, String> {
        match to {
            ValueType::BoolArray if self.primary_table.0.is_bits() => Ok(Value::Booleans(
                words.iter().map(|word| *word != 0).collect(),
            )),
            _ => self.layout(to).decode(words, to),
        }
    }
}

impl<T: Transport + Default> Driver for Modbus<T> {
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        let known = |(name, _): &&(&str, &str)| device.protocols.iter().any(|p| p.name == *name);
        // Without any of them the error says that the usual one is missing.
        let (protocol, scheme) = PROTOCOLS.iter().find(known).unwrap_or(&PROTOCOLS[0]);
        let properties: Properties = device.protocol(protocol)?;
        let timeout = properties.timeout.as_ref();
        let timeout_ms = timeout.map_or(0, |Timeout(seconds)| (seconds * 1000.0) as u32);
        let endpoint = Endpoint {
            address: properties.address(protocol, scheme)?,
            unit: properties.unit,
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
            let value = request.attributes.decode(&words, request.value_type);
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
            match (attributes.primary_table.0, value, bit) {
                (Table::Coils, Value::Boolean(on), _) => {
                    self.transport
                        .write_coils(&self.endpoint, register, &[*on])?;
                }
                (Table::Coils, Value::Booleans(all), _) => {
                    self.transport.write_coils(&self.endpoint, register, all)?;
                }
                (Table::Holding, Value::Boolean(on), Some(bit)) => {
                    self.write_bit(register, bit, *on)?;
                }
                (Table::Holding, value, None) => {
                    let own = ValueType::parse(value.value_type()).unwrap_or(ValueType::String);
                    let words = attributes.layout(own).encode(value);
                    let words =
                        words.map_err(|text| Error::attribute(resource, "rawType", text))?;
                    self.transport
                        .write_registers(&self.endpoint, register, &words)?;
                }
                _ => {
                    let message = format!("{resource} is no coil and no holding register");
                    return Err(Error::NotSupported(message));
                }
            }
        }
        Ok(())
    }
}

impl<T: Transport> Modbus<T> {
    /// Not every device has function 22, which would write one bit alone.
    fn write_bit(&mut self, register: u16, bit: u8, on: bool) -> Result<(), Error> {
        let before =
            self.transport
                .read_registers(&self.endpoint, Registers::Holding, register, 1)?;
        let word = before.first().copied().unwrap_or_default();
        let word = match on {
            true => word | 1 << bit,
            false => word & !(1 << bit),
        };
        Ok(self
            .transport
            .write_registers(&self.endpoint, register, &[word])?)
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
        let digits = register.strip_prefix("0x").or(register.strip_prefix("0X"));
        let register = match digits {
            Some(digits) => u16::from_str_radix(digits, 16).ok(),
            None => register.parse().ok(),
        };
        let register = register.ok_or("registers are 0 to 65535")?;
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
