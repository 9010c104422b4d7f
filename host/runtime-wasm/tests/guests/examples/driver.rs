//! A driver that does what the resource is named after.

wit_bindgen::generate!({
    path: ["../../../../wit/reading", "../../../../wit/modbus", "../../../../wit/mqtt", "../../../../wit/datagrams", "../../../../wit/device"],
    world: "eyot:device/device-driver",
    generate_all,
});

use std::cell::RefCell;

use exports::eyot::device::driver::{Device, Error, Guest, ReadRequest, Reading, WriteRequest};
use eyot::{
    device::{
        log::{self, Level},
        types::{Invalid, ProtocolError},
    },
    modbus::client::{self as modbus, Endpoint},
    reading::types::Value,
};

struct Driver;
export!(Driver);

thread_local!(static ADDRESS: RefCell<String> = const { RefCell::new(String::new()) });

impl Guest for Driver {
    fn open(device: Device) -> Result<(), Error> {
        let Some(protocol) = device.protocols.into_iter().next() else {
            return Err(Error::Invalid(Invalid {
                field: "protocols".into(),
                message: format!("{} has none", device.name),
            }));
        };
        ADDRESS.set(protocol.properties);
        log::write(Level::Info, "open\nfor business");
        Ok(())
    }

    fn read(requests: Vec<ReadRequest>) -> Result<Vec<Reading>, Error> {
        requests.into_iter().map(read).collect()
    }

    fn write(requests: Vec<WriteRequest>) -> Result<(), Error> {
        for request in requests {
            let Value::Uint16(value) = request.value else {
                return Err(Error::NotSupported(format!("{:?}", request.value)));
            };
            let address = request.attributes.parse().unwrap();
            modbus::write_registers(&endpoint(None), address, &[value]).map_err(failed)?;
        }
        Ok(())
    }

    fn close() {
        log::write(Level::Info, "closed");
    }
}

fn read(request: ReadRequest) -> Result<Reading, Error> {
    let value = match request.resource.as_str() {
        "echo" => Value::Text(request.attributes),
        "register" => {
            let address = request.attributes.parse().unwrap();
            let table = modbus::Registers::Holding;
            let words = modbus::read_registers(&endpoint(None), table, address, 1);
            Value::Uint16(words.map_err(failed)?[0])
        }
        "bits" => {
            let bits = modbus::read_bits(&endpoint(None), modbus::Bits::Coils, 0, 10);
            Value::Booleans(bits.map_err(failed)?)
        }
        "foreign" => {
            let table = modbus::Registers::Holding;
            let words = modbus::read_registers(&endpoint(Some(request.attributes)), table, 0, 1);
            Value::Uint16(words.map_err(failed)?[0])
        }
        "panic" => panic!("as told"),
        "spin" => loop {
            std::hint::black_box(0);
        },
        "hog" => {
            let mut held = Vec::new();
            loop {
                held.push(vec![1u8; 1 << 20]);
            }
        }
        other => return Err(Error::NotSupported(other.into())),
    };
    Ok(Reading {
        resource: request.resource,
        value,
        origin: 7,
        units: String::new(),
        tags: vec![("type".into(), request.value_type)],
    })
}

fn endpoint(address: Option<String>) -> Endpoint {
    let address = address.unwrap_or_else(|| ADDRESS.with_borrow(Clone::clone));
    Endpoint {
        address,
        unit: 1,
        timeout_ms: 300,
    }
}

fn failed(error: modbus::Error) -> Error {
    match error {
        modbus::Error::Unreachable(text) => Error::Unreachable(text),
        modbus::Error::Timeout(text) => Error::Timeout(text),
        modbus::Error::Exception(code) => Error::Protocol(ProtocolError {
            code: code.into(),
            message: "exception".into(),
        }),
        modbus::Error::Garbled(text) => Error::Garbled(text),
        modbus::Error::Denied(text) => Error::Other(format!("denied: {text}")),
        modbus::Error::BadEndpoint(text) => Error::Other(format!("bad endpoint: {text}")),
    }
}
