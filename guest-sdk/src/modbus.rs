//! Modbus, as the host provides it: connections, timeouts and reconnecting are the host's.
//!
//! A driver is generic over [`Transport`]: [`Host`] in the component, [`Simulated`] in its tests.

mod layout;
mod span;

use std::collections::HashMap;

use crate::bindings::driver::eyot::modbus::client;
pub use crate::bindings::driver::eyot::modbus::client::{Bits, Endpoint, Error, Registers};
pub use layout::{Layout, TEXT_LIMIT};
pub use span::{Span, Table, read_spans};

/// Most bits that one request may read.
pub const READ_BITS_LIMIT: u16 = 2000;
/// Most registers that one request may read.
pub const READ_REGISTERS_LIMIT: u16 = 125;

/// A Modbus client. Addresses are zero-based as on the wire.
pub trait Transport {
    /// Read 1 to 2000 bits; the answer has exactly `count`.
    fn read_bits(
        &mut self,
        endpoint: &Endpoint,
        table: Bits,
        address: u16,
        count: u16,
    ) -> Result<Vec<bool>, Error>;

    /// Read 1 to 125 registers; the answer has exactly `count`.
    fn read_registers(
        &mut self,
        endpoint: &Endpoint,
        table: Registers,
        address: u16,
        count: u16,
    ) -> Result<Vec<u16>, Error>;

    /// Write 1 to 1968 coils.
    fn write_coils(
        &mut self,
        endpoint: &Endpoint,
        address: u16,
        values: &[bool],
    ) -> Result<(), Error>;

    /// Write 1 to 123 holding registers.
    fn write_registers(
        &mut self,
        endpoint: &Endpoint,
        address: u16,
        values: &[u16],
    ) -> Result<(), Error>;
}

/// The host's Modbus client. Calling it outside of a component panics: use [`Simulated`] in tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Transport for Host {
    fn read_bits(
        &mut self,
        endpoint: &Endpoint,
        table: Bits,
        address: u16,
        count: u16,
    ) -> Result<Vec<bool>, Error> {
        client::read_bits(endpoint, table, address, count)
    }

    fn read_registers(
        &mut self,
        endpoint: &Endpoint,
        table: Registers,
        address: u16,
        count: u16,
    ) -> Result<Vec<u16>, Error> {
        client::read_registers(endpoint, table, address, count)
    }

    fn write_coils(
        &mut self,
        endpoint: &Endpoint,
        address: u16,
        values: &[bool],
    ) -> Result<(), Error> {
        client::write_coils(endpoint, address, values)
    }

    fn write_registers(
        &mut self,
        endpoint: &Endpoint,
        address: u16,
        values: &[u16],
    ) -> Result<(), Error> {
        client::write_registers(endpoint, address, values)
    }
}

/// A device in memory, for the tests of drivers. What was never set is exception 2, illegal data
/// address.
#[derive(Debug, Clone, Default)]
pub struct Simulated {
    /// Coils by address.
    pub coils: HashMap<u16, bool>,
    /// Discrete inputs by address.
    pub discrete_inputs: HashMap<u16, bool>,
    /// Holding registers by address.
    pub holding: HashMap<u16, u16>,
    /// Input registers by address.
    pub input: HashMap<u16, u16>,
    /// Answer everything with this error instead.
    pub failure: Option<Error>,
    /// Requests so far.
    pub requests: usize,
}

impl Simulated {
    /// Set holding registers from `address`.
    pub fn with_holding(mut self, address: u16, values: &[u16]) -> Self {
        self.holding.extend((address..).zip(values.iter().copied()));
        self
    }

    /// Set input registers from `address`.
    pub fn with_input(mut self, address: u16, values: &[u16]) -> Self {
        self.input.extend((address..).zip(values.iter().copied()));
        self
    }

    /// Set coils from `address`.
    pub fn with_coils(mut self, address: u16, values: &[bool]) -> Self {
        self.coils.extend((address..).zip(values.iter().copied()));
        self
    }

    fn request(&mut self) -> Result<(), Error> {
        self.requests += 1;
        self.failure.clone().map_or(Ok(()), Err)
    }
}

fn look_up<T: Copy>(table: &HashMap<u16, T>, address: u16, count: u16) -> Result<Vec<T>, Error> {
    let wanted = u32::from(address)..u32::from(address) + u32::from(count);
    wanted
        .map(|at| {
            u16::try_from(at)
                .ok()
                .and_then(|at| table.get(&at))
                .copied()
        })
        .collect::<Option<_>>()
        .ok_or(Error::Exception(2))
}

impl Transport for Simulated {
    fn read_bits(
        &mut self,
        _endpoint: &Endpoint,
        table: Bits,
        address: u16,
        count: u16,
    ) -> Result<Vec<bool>, Error> {
        self.request()?;
        match table {
            Bits::Coils => look_up(&self.coils, address, count),
            Bits::DiscreteInputs => look_up(&self.discrete_inputs, address, count),
        }
    }

    fn read_registers(
        &mut self,
        _endpoint: &Endpoint,
        table: Registers,
        address: u16,
        count: u16,
    ) -> Result<Vec<u16>, Error> {
        self.request()?;
        match table {
            Registers::Holding => look_up(&self.holding, address, count),
            Registers::Input => look_up(&self.input, address, count),
        }
    }

    fn write_coils(
        &mut self,
        _endpoint: &Endpoint,
        address: u16,
        values: &[bool],
    ) -> Result<(), Error> {
        self.request()?;
        self.coils.extend((address..).zip(values.iter().copied()));
        Ok(())
    }

    fn write_registers(
        &mut self,
        _endpoint: &Endpoint,
        address: u16,
        values: &[u16],
    ) -> Result<(), Error> {
        self.request()?;
        self.holding.extend((address..).zip(values.iter().copied()));
        Ok(())
    }
}

impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(text) => Self::Other(format!("Modbus: {text}")),
            Error::BadEndpoint(text) => Self::invalid("protocols", text),
            Error::Unreachable(text) => Self::Unreachable(text),
            Error::Timeout(text) => Self::Timeout(text),
            Error::Garbled(text) => Self::Garbled(text),
            Error::Exception(code) => Self::Protocol(crate::ProtocolError {
                code: code.into(),
                message: exception(code).to_owned(),
            }),
        }
    }
}

/// The specification's words for an exception code.
fn exception(code: u8) -> &'static str {
    match code {
        1 => "illegal function: the device does not have this table or cannot write it",
        2 => "illegal data address: the device has nothing at this address",
        3 => "illegal data value: the device does not take this value or so many at once",
        4 => "server device failure",
        5 => "acknowledge: the device needs long for this",
        6 => "server device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target device failed to respond: is the unit identifier right?",
        _ => "an exception that the specification does not name",
    }
}
