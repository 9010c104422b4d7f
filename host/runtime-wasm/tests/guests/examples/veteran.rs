//! A driver of the first version of the contract, as it was then.

wit_bindgen::generate!({
    inline: "
        package test:veteran;

        world veteran {
            import eyot:device/log@0.1.0;
            export eyot:device/driver@0.1.0;
        }

        package eyot:device@0.1.0 {
            interface types {
                use eyot:reading/types@0.1.0.{value};
                record device { name: string, profile: string, protocols: list<protocol> }
                record protocol { name: string, properties: string }
                record read-request { %resource: string, value-type: string, attributes: string }
                record write-request { %resource: string, value: value, attributes: string }
                variant error {
                    unreachable(string),
                    timeout(string),
                    protocol(protocol-error),
                    garbled(string),
                    invalid(invalid),
                    not-supported(string),
                    other(string),
                }
                record protocol-error { code: s64, message: string }
                record invalid { field: string, message: string }
            }
            interface driver {
                use types.{device, read-request, write-request, error};
                use eyot:reading/types@0.1.0.{reading};
                open: func(device: device) -> result<_, error>;
                read: func(requests: list<read-request>) -> result<list<reading>, error>;
                write: func(requests: list<write-request>) -> result<_, error>;
                close: func();
            }
            interface log {
                enum level { debug, info, warn, error }
                write: func(level: level, message: string);
            }
        }
    ",
    path: ["../../../../wit/reading"],
    world: "test:veteran/veteran",
    generate_all,
});

use exports::eyot::device::driver::{Device, Error, Guest, ReadRequest, Reading, WriteRequest};
use eyot::{device::log, reading::types::Value};

struct Driver;
export!(Driver);

impl Guest for Driver {
    fn open(device: Device) -> Result<(), Error> {
        log::write(log::Level::Info, &device.name);
        Ok(())
    }

    fn read(requests: Vec<ReadRequest>) -> Result<Vec<Reading>, Error> {
        let reading = |request: ReadRequest| Reading {
            resource: request.resource,
            value: Value::Text("still here".into()),
            origin: 7,
            units: String::new(),
            tags: Vec::new(),
        };
        Ok(requests.into_iter().map(reading).collect())
    }

    fn write(_: Vec<WriteRequest>) -> Result<(), Error> {
        Err(Error::NotSupported("writing".into()))
    }

    fn close() {}
}
