//! Modbus TCP devices. Profiles and devices are those of EdgeX's Modbus service: the protocol
//! `modbus-tcp` with `Address`, `Port`, `UnitID` and `Timeout`, and the attributes below.

mod codec;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use eyot_sdk::{
    Device, Driver, Error, ReadRequest, Reading, Value, WriteRequest, lenient,
    modbus::{self, Bits, Endpoint, Host, Registers, Transport},
};
use serde::Deserialize;

pub struct Modbus<T> {
    transport: T,
    endpoint: Endpoint,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    address: String,
    #[serde(deserialize_with = "lenient::number")]
    port: u16,
    #[serde(rename = "UnitID", deserialize_with = "lenient::number")]
    unit: u8,
    /// Seconds, or a number with a unit such as `500ms`.
    #[serde(default, deserialize_with = "lenient::text")]
    timeout: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    primary_table: Table,
    /// Zero-based; `4003.5` is bit 5 of register 4003.
    #[serde(deserialize_with = "lenient::number")]
    starting_address: Address,
    /// Type on the wire, where the value's type is another, such as `Int16` under a `Float32`.
    raw_type: Option<String>,
    /// Swap the bytes of each register, or the registers, of 32-bit values.
    #[serde(default, deserialize_with = "lenient::boolean")]
    is_byte_swap: bool,
    #[serde(default, deserialize_with = "lenient::boolean")]
    is_word_swap: bool,
    /// Registers of a string.
    #[serde(default, deserialize_with = "lenient::optional")]
    string_register_size: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
enum Table {
    Coils,
    DiscreteInputs,
    Holding,
    Input,
}

impl TryFrom<String> for Table {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.to_ascii_uppercase().as_str() {
            "COILS" => Self::Coils,
            "DISCRETES_INPUT" | "DISCRETE_INPUTS" => Self::DiscreteInputs,
            "HOLDING_REGISTERS" => Self::Holding,
            "INPUT_REGISTERS" => Self::Input,
            _ => return Err(format!("{name:?} is not COILS, DISCRETES_INPUT, HOLDING_REGISTERS or INPUT_REGISTERS")),
        })
    }
}

struct Address {
    register: u16,
    bit: Option<u8>,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (register, bit) = text.split_once('.').map_or((text, None), |(r, b)| (r, Some(b)));
        let bit = bit.map(|bit| bit.parse().ok().filter(|bit| *bit < 16).ok_or("bits are 0 to 15"));
        let register = register.parse().map_err(|_| "registers are 0 to 65535")?;
        Ok(Self { register, bit: bit.transpose()? })
    }
}

/// A stretch of one table, and what it holds; a bit counts as a word here.
struct Block {
    table: Table,
    start: u16,
    words: Vec<u16>,
}

impl<T: Transport + Default> Driver for Modbus<T> {
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        let properties: Properties = device.protocol("modbus-tcp")?;
        let timeout_ms = milliseconds(&properties.timeout).ok_or_else(|| {
            Error::invalid("protocols.modbus-tcp.Timeout", "is no time such as 5 or 500ms")
        })?;
        let Properties { address, port, unit, .. } = properties;
        let address = if address.contains(':') { format!("[{address}]") } else { address };
        let endpoint = Endpoint { address: format!("{address}:{port}"), unit, timeout_ms };
        Ok(Self { transport: T::default(), endpoint })
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let mut spans = Vec::with_capacity(requests.len());
        for request in requests {
            let count = codec::registers(request.attributes, request.value_type)
                .map_err(|(attribute, message)| request.invalid(attribute, message))?;
            spans.push((request.attributes.primary_table, request.attributes.starting_address.register, count));
        }
        let blocks = self.read_all(spans.clone())?;
        let answers = requests.iter().zip(spans).map(|(request, (table, start, count))| {
            let words = find(&blocks, table, start, count)
                .ok_or_else(|| request.invalid("startingAddress", "lies beyond the table"))?;
            let value = codec::decode(request.attributes, request.value_type, words);
            value.map(|value| request.answer(value)).map_err(|text| request.invalid("rawType", text))
        });
        answers.collect()
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        for request in requests {
            let Attributes { primary_table, starting_address, .. } = request.attributes;
            let address = starting_address.register;
            match (primary_table, request.value) {
                (Table::Coils, Value::Boolean(on)) => {
                    self.transport.write_coils(&self.endpoint, address, &[*on])?;
                }
                (Table::Holding, value) if starting_address.bit.is_none() => {
                    let words = codec::encode(request.attributes, value)
                        .map_err(|text| request.invalid("rawType", text))?;
                    self.transport.write_registers(&self.endpoint, address, &words)?;
                }
                _ => return Err(Error::NotSupported(format!("cannot write {}: it is no coil and no whole holding register", request.resource))),
            }
        }
        Ok(())
    }
}

impl<T: Transport> Modbus<T> {
    /// Read the spans with as few requests as may be: neighbours and overlaps share one.
    fn read_all(&mut self, mut spans: Vec<(Table, u16, u16)>) -> Result<Vec<Block>, Error> {
        spans.sort_unstable();
        let mut merged: Vec<(Table, u16, u16)> = Vec::new();
        for (table, start, count) in spans {
            let most = u32::from(if table < Table::Holding { modbus::READ_BITS_LIMIT } else { modbus::READ_REGISTERS_LIMIT });
            let end = u32::from(start) + u32::from(count);
            match merged.last_mut() {
                Some((of, first, length))
                    if *of == table
                        && u32::from(start) <= u32::from(*first) + u32::from(*length)
                        && end - u32::from(*first) <= most =>
                {
                    *length = (*length).max((end - u32::from(*first)) as u16);
                }
                _ => merged.push((table, start, count)),
            }
        }
        let blocks = merged.into_iter().map(|(table, start, count)| {
            let (to, from) = (&mut self.transport, &self.endpoint);
            let bits = |bits: Vec<bool>| bits.into_iter().map(u16::from).collect();
            let words = match table {
                Table::Coils => to.read_bits(from, Bits::Coils, start, count).map(bits),
                Table::DiscreteInputs => to.read_bits(from, Bits::DiscreteInputs, start, count).map(bits),
                Table::Holding => to.read_registers(from, Registers::Holding, start, count),
                Table::Input => to.read_registers(from, Registers::Input, start, count),
            };
            Ok(Block { table, start, words: words? })
        });
        blocks.collect()
    }
}

fn find(blocks: &[Block], table: Table, start: u16, count: u16) -> Option<&[u16]> {
    let holds = |block: &&Block| block.table == table && block.start <= start;
    blocks.iter().filter(holds).find_map(|block| {
        let from = usize::from(start - block.start);
        block.words.get(from..from + usize::from(count))
    })
}

/// Seconds without a unit; zero leaves it to the host.
fn milliseconds(text: &str) -> Option<u32> {
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 1000.0),
        (None, None) => (text, 1000.0),
    };
    let number = if number.is_empty() { 0.0 } else { number.parse::<f64>().ok()? };
    (0.0..=60_000.0).contains(&(number * factor)).then_some((number * factor) as u32)
}

eyot_sdk::export_driver!(Modbus<Host>);
