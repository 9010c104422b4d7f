//! `eyot:modbus`: Modbus over tokio-modbus: TCP, RTU and ASCII, over the network or a serial line.
//!
//! There is one connection per server address or serial line, whoever uses it, with one request on
//! it at a time: many servers accept only one connection, and gateways and serial lines answer one
//! request after the other anyway. A connection on which anything went wrong is dropped, since an answer that comes late
//! would be taken for that of the next request; the next request makes a new one.

mod address;
mod ascii;
mod serial;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::net::TcpStream;
use tokio_modbus::{
    Error as ModbusError, Request, Response, Slave,
    client::{Client as _, Context, rtu, tcp},
    slave::SlaveContext as _,
};

use self::{
    address::{Address, Framing, Place},
    ascii::Ascii,
    serial::Serial,
};
use crate::bindings::modbus::{Bits, Endpoint, Error, Host, Registers};

/// The contract's default and largest time for connecting and for each answer.
const TIMEOUT: Duration = Duration::from_millis(5000);
const LONGEST_TIMEOUT: Duration = Duration::from_millis(60_000);

// The largest counts that one request can carry, from the Modbus application protocol 1.1b3.
const READ_BITS: u16 = 2000;
const READ_REGISTERS: u16 = 125;
const WRITE_COILS: usize = 1968;
const WRITE_REGISTERS: usize = 123;

/// The connections of the host, by place; one is closed when its last user is gone.
#[derive(Default)]
pub(crate) struct Pool(Mutex<HashMap<String, Weak<Server>>>);

struct Server {
    address: Address,
    /// `None` until the first request and after a failure.
    connection: tokio::sync::Mutex<Option<Context>>,
}

impl Pool {
    fn server(&self, address: Address) -> Result<Arc<Server>, Error> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(address.key()).and_then(Weak::upgrade) {
            return match server.address == address {
                true => Ok(server),
                false => Err(Error::BadEndpoint(format!(
                    "another device speaks to {} with other settings ({})",
                    address.key(),
                    server.address
                ))),
            };
        }
        servers.retain(|_, server| server.strong_count() > 0);
        let key = address.key().to_owned();
        let server = Arc::new(Server {
            address,
            connection: tokio::sync::Mutex::default(),
        });
        servers.insert(key, Arc::downgrade(&server));
        Ok(server)
    }
}

/// Modbus for one instance: the servers that it may talk to, and those that it does talk to.
pub(crate) struct Client {
    pool: Arc<Pool>,
    granted: Vec<Address>,
    used: Vec<Arc<Server>>,
}

impl Client {
    pub(crate) fn new(pool: Arc<Pool>, granted: &[String]) -> Self {
        // A grant that cannot be parsed grants nothing.
        let granted = granted
            .iter()
            .filter_map(|address| Address::parse(address).ok())
            .collect();
        Self {
            pool,
            granted,
            used: Vec::new(),
        }
    }

    fn server(&mut self, address: &str) -> Result<Arc<Server>, Error> {
        let address = Address::parse(address).map_err(Error::BadEndpoint)?;
        if let Some(server) = self.used.iter().find(|server| server.address == address) {
            return Ok(server.clone());
        }
        // How a place is spoken to is the driver's business.
        let same = |granted: &Address| granted.key() == address.key();
        if !self.granted.iter().any(same) {
            let granted: Vec<_> = self.granted.iter().map(ToString::to_string).collect();
            return Err(Error::Denied(format!(
                "{address} is not the address of a device of this driver{}",
                match &*granted {
                    [] => String::new(),
                    granted => format!(" (granted: {})", granted.join(", ")),
                }
            )));
        }
        let server = self.pool.server(address)?;
        self.used.push(server.clone());
        Ok(server)
    }

    async fn request(&mut self, to: Endpoint, request: Request<'_>) -> Result<Response, Error> {
        let server = self.server(&to.address)?;
        let timeout = match to.timeout_ms {
            0 => TIMEOUT,
            millis => Duration::from_millis(millis.into()).min(LONGEST_TIMEOUT),
        };
        server.request(to.unit, timeout, request).await
    }
}

impl Server {
    async fn request(
        &self,
        unit: u8,
        timeout: Duration,
        request: Request<'_>,
    ) -> Result<Response, Error> {
        let mut slot = self.connection.lock().await;
        // A server closes idle connections, and we learn it only by using one: try once more.
        // Only for reads: a write may have been done although its answer is lost.
        let mut context = match slot.take() {
            Some(context) => context,
            None => self.connect(timeout).await?,
        };
        if let Place::Serial(line) = &self.address.place {
            tokio::time::sleep(serial::silence(line)).await;
        }
        context.set_slave(Slave(unit));
        let answer = match tokio::time::timeout(timeout, context.call(request.clone())).await {
            Ok(Err(ModbusError::Transport(error))) if is_closed(&error) && is_read(&request) => {
                context = self.connect(timeout).await?;
                context.set_slave(Slave(unit));
                tokio::time::timeout(timeout, context.call(request)).await
            }
            answer => answer,
        };
        match answer {
            Ok(Ok(answer)) => {
                *slot = Some(context);
                answer.map_err(|code| Error::Exception(code.into()))
            }
            Ok(Err(ModbusError::Protocol(error))) => {
                Err(Error::Garbled(format!("{}: {error}", self.address)))
            }
            Ok(Err(ModbusError::Transport(error))) => Err(self.transport(&error)),
            Err(_) => Err(Error::Timeout(format!(
                "{} did not answer within {timeout:?}",
                self.address
            ))),
        }
    }

    async fn connect(&self, timeout: Duration) -> Result<Context, Error> {
        let unreachable =
            |why: &dyn std::fmt::Display| Error::Unreachable(format!("{}: {why}", self.address));
        let host = match &self.address.place {
            Place::Net(host) => host,
            Place::Serial(line) => {
                let line = Serial::open(line).map_err(|error| unreachable(&error))?;
                return Ok(match self.address.framing {
                    Framing::Ascii => rtu::attach(Ascii::new(line)),
                    Framing::Rtu | Framing::Tcp => rtu::attach(line),
                });
            }
        };
        let stream = match tokio::time::timeout(timeout, TcpStream::connect(host)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(&error)),
            Err(_) => return Err(unreachable(&format!("no connection within {timeout:?}"))),
        };
        let _ = stream.set_nodelay(true);
        Ok(match self.address.framing {
            Framing::Tcp => tcp::attach(stream),
            Framing::Rtu => rtu::attach(stream),
            Framing::Ascii => rtu::attach(Ascii::new(stream)),
        })
    }

    fn transport(&self, error: &std::io::Error) -> Error {
        let text = format!("{}: {error}", self.address);
        // The codec reports frames that it cannot read as invalid data.
        match error.kind() {
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                Error::Garbled(text)
            }
            _ => Error::Unreachable(text),
        }
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn is_read(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::ReadCoils(..)
            | Request::ReadDiscreteInputs(..)
            | Request::ReadHoldingRegisters(..)
            | Request::ReadInputRegisters(..)
    )
}

/// The answer has the wrong function or length although the codec accepted it.
fn odd(answer: &Response, count: usize) -> Error {
    let got = match answer {
        Response::ReadCoils(items) | Response::ReadDiscreteInputs(items) => items.len(),
        Response::ReadHoldingRegisters(items) | Response::ReadInputRegisters(items) => items.len(),
        _ => return Error::Garbled("the answer is to another function".into()),
    };
    Error::Garbled(format!("asked for {count} items, the answer has {got}"))
}

fn out_of_range(what: &str, count: usize, most: usize) -> Error {
    Error::BadEndpoint(format!(
        "{count} {what} in one request: 1 to {most} are possible"
    ))
}

impl Host for Client {
    async fn read_bits(
        &mut self,
        endpoint: Endpoint,
        table: Bits,
        address: u16,
        count: u16,
    ) -> wasmtime::Result<Result<Vec<bool>, Error>> {
        if !(1..=READ_BITS).contains(&count) {
            return Ok(Err(out_of_range("bits", count.into(), READ_BITS.into())));
        }
        let request = match table {
            Bits::Coils => Request::ReadCoils(address, count),
            Bits::DiscreteInputs => Request::ReadDiscreteInputs(address, count),
        };
        Ok(self
            .request(endpoint, request)
            .await
            .and_then(|answer| match answer {
                // Bits come in whole bytes: what is past `count` is padding.
                Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits)
                    if bits.len() >= count.into() =>
                {
                    bits.truncate(count.into());
                    Ok(bits)
                }
                other => Err(odd(&other, count.into())),
            }))
    }

    async fn read_registers(
        &mut self,
        endpoint: Endpoint,
        table: Registers,
        address: u16,
        count: u16,
    ) -> wasmtime::Result<Result<Vec<u16>, Error>> {
        if !(1..=READ_REGISTERS).contains(&count) {
            return Ok(Err(out_of_range(
                "registers",
                count.into(),
                READ_REGISTERS.into(),
            )));
        }
        let request = match table {
            Registers::Holding => Request::ReadHoldingRegisters(address, count),
            Registers::Input => Request::ReadInputRegisters(address, count),
        };
        Ok(self
            .request(endpoint, request)
            .await
            .and_then(|answer| match answer {
                Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words)
                    if words.len() == usize::from(count) =>
                {
                    Ok(words)
                }
                other => Err(odd(&other, count.into())),
            }))
    }

    async fn write_coils(
        &mut self,
        endpoint: Endpoint,
        address: u16,
        values: Vec<bool>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let request = match &*values {
            [one] => Request::WriteSingleCoil(address, *one),
            many if (1..=WRITE_COILS).contains(&many.len()) => {
                Request::WriteMultipleCoils(address, Cow::Borrowed(many))
            }
            many => return Ok(Err(out_of_range("coils", many.len(), WRITE_COILS))),
        };
        Ok(self.request(endpoint, request).await.map(drop))
    }

    async fn write_registers(
        &mut self,
        endpoint: Endpoint,
        address: u16,
        values: Vec<u16>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let request = match &*values {
            [one] => Request::WriteSingleRegister(address, *one),
            many if (1..=WRITE_REGISTERS).contains(&many.len()) => {
                Request::WriteMultipleRegisters(address, Cow::Borrowed(many))
            }
            many => return Ok(Err(out_of_range("registers", many.len(), WRITE_REGISTERS))),
        };
        Ok(self.request(endpoint, request).await.map(drop))
    }
}

#[cfg(test)]
mod tests;
