//! Drivers: the trait, and what stands between it and the generated interface.

use std::collections::HashMap;

use serde::de::DeserializeOwned;

use crate::{
    Device, Error, Invalid, Reading, Value, ValueType,
    bindings::driver::exports::eyot::device::driver as wire, lenient,
};

/// Parsed attributes that are kept between calls; a device with more resources has them parsed
/// again now and then.
const REMEMBERED: usize = 4096;

/// A device driver: knows one protocol, serves one device.
///
/// The host makes one instance for each device, calls [`open`](Self::open) once, then any number
/// of [`read`](Self::read) and [`write`](Self::write), never two at a time, then
/// [`close`](Self::close). A panic ends this instance alone; the host makes a new one.
pub trait Driver: Sized {
    /// The `attributes` of a device resource: what only this protocol understands. Attributes that
    /// cannot be parsed are an [`Error::Invalid`] that names resource and attribute.
    type Attributes: DeserializeOwned;

    /// Prepare to serve `device`. Check what can be checked without the device: an address that
    /// does not answer now is no error, one that cannot be parsed is [`Error::Invalid`].
    /// [`Device::protocol`] makes that one line.
    fn open(device: &Device) -> Result<Self, Error>;

    /// Read all of the resources: exactly one reading for each request, in the same order.
    /// Neighbours may share one request to the device.
    fn read(
        &mut self,
        requests: &[ReadRequest<'_, Self::Attributes>],
    ) -> Result<Vec<Reading>, Error>;

    /// Write the values in order and stop at the first that fails.
    fn write(&mut self, requests: &[WriteRequest<'_, Self::Attributes>]) -> Result<(), Error> {
        let names: Vec<&str> = requests.iter().map(|request| request.resource).collect();
        Err(Error::NotSupported(format!(
            "this driver cannot write ({})",
            names.join(", ")
        )))
    }

    /// The device is removed or the host ends. At most one second is given.
    fn close(&mut self) {}
}

/// A resource to read.
#[derive(Debug)]
pub struct ReadRequest<'a, A> {
    /// Name of the device resource in the profile.
    pub resource: &'a str,
    /// The type that the answer's value must have.
    pub value_type: ValueType,
    /// The resource's attributes.
    pub attributes: &'a A,
}

impl<A> ReadRequest<'_, A> {
    /// The reading that answers this request.
    pub fn answer(&self, value: Value) -> Reading {
        Reading {
            resource: self.resource.to_owned(),
            value,
            origin: 0,
            units: String::new(),
            tags: Vec::new(),
        }
    }

    /// An error that blames this resource's attribute.
    pub fn invalid(&self, attribute: &str, message: impl Into<String>) -> Error {
        Error::attribute(self.resource, attribute, message)
    }
}

/// A resource to write.
#[derive(Debug)]
pub struct WriteRequest<'a, A> {
    /// Name of the device resource in the profile.
    pub resource: &'a str,
    /// The value, in the device's own scale.
    pub value: &'a Value,
    /// The resource's attributes.
    pub attributes: &'a A,
}

impl<A> WriteRequest<'_, A> {
    /// An error that blames this resource's attribute.
    pub fn invalid(&self, attribute: &str, message: impl Into<String>) -> Error {
        Error::attribute(self.resource, attribute, message)
    }
}

impl Device {
    /// The properties of one of the device's protocols, for example `modbus-tcp`. A missing
    /// protocol or property, or one that makes no sense, is an error that names it.
    pub fn protocol<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let Some(protocol) = self.protocols.iter().find(|protocol| protocol.name == name) else {
            let has: Vec<&str> = self.protocols.iter().map(|p| p.name.as_str()).collect();
            let message = format!("is missing; the device has [{}]", has.join(", "));
            return Err(Error::invalid(format!("protocols.{name}"), message));
        };
        parse(&protocol.properties, &format!("protocols.{name}"))
    }
}

impl Error {
    /// A setting is wrong; `field` is its path, `message` says what would be right.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(Invalid {
            field: field.into(),
            message: message.into(),
        })
    }

    /// An attribute of a device resource is wrong.
    pub fn attribute(resource: &str, attribute: &str, message: impl Into<String>) -> Self {
        Self::invalid(format!("{}.{attribute}", attributes_of(resource)), message)
    }
}

fn attributes_of(resource: &str) -> String {
    format!("deviceResources[{resource}].attributes")
}

fn parse<T: DeserializeOwned>(json: &str, place: &str) -> Result<T, Error> {
    // An empty text stands for no properties at all.
    let json = if json.is_empty() { "{}" } else { json };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        let (field, message) = lenient::blame(place, &path, &message);
        Error::invalid(field, message)
    })
}

/// What the export macro keeps between calls.
#[doc(hidden)]
pub struct Session<D: Driver> {
    driver: D,
    attributes: HashMap<String, (String, D::Attributes)>,
}

impl<D: Driver> Session<D> {
    pub fn open(device: &Device) -> Result<Self, Error> {
        Ok(Self {
            driver: D::open(device)?,
            attributes: HashMap::new(),
        })
    }

    pub fn read(&mut self, requests: &[wire::ReadRequest]) -> Result<Vec<Reading>, Error> {
        self.remember(
            requests
                .iter()
                .map(|r| (r.resource.as_str(), r.attributes.as_str())),
        )?;
        let mut typed = Vec::with_capacity(requests.len());
        for request in requests {
            let value_type = ValueType::parse(&request.value_type).ok_or_else(|| {
                let field = format!("deviceResources[{}].properties.valueType", request.resource);
                Error::invalid(field, format!("{:?} is no value type", request.value_type))
            })?;
            let attributes = look_up(&self.attributes, &request.resource)?;
            typed.push(ReadRequest {
                resource: &request.resource,
                value_type,
                attributes,
            });
        }
        let readings = self.driver.read(&typed)?;
        if readings.len() != requests.len() {
            let (found, expected) = (readings.len(), requests.len());
            return Err(Error::Other(format!(
                "the driver gave {found} readings for {expected}"
            )));
        }
        Ok(readings)
    }

    pub fn write(&mut self, requests: &[wire::WriteRequest]) -> Result<(), Error> {
        self.remember(
            requests
                .iter()
                .map(|r| (r.resource.as_str(), r.attributes.as_str())),
        )?;
        let mut typed = Vec::with_capacity(requests.len());
        for request in requests {
            let attributes = look_up(&self.attributes, &request.resource)?;
            let (resource, value) = (request.resource.as_str(), &request.value);
            typed.push(WriteRequest {
                resource,
                value,
                attributes,
            });
        }
        self.driver.write(&typed)
    }

    pub fn close(&mut self) {
        self.driver.close();
    }

    /// Parse what is new or has changed: most calls ask for what an earlier one asked for.
    fn remember<'a>(
        &mut self,
        requests: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<(), Error> {
        if self.attributes.len() + requests.clone().count() > REMEMBERED {
            self.attributes.clear();
        }
        for (resource, json) in requests {
            if self
                .attributes
                .get(resource)
                .is_some_and(|(known, _)| known == json)
            {
                continue;
            }
            let parsed = parse(json, &attributes_of(resource))?;
            self.attributes
                .insert(resource.to_owned(), (json.to_owned(), parsed));
        }
        Ok(())
    }
}

fn look_up<'a, A>(
    attributes: &'a HashMap<String, (String, A)>,
    resource: &str,
) -> Result<&'a A, Error> {
    let found = attributes.get(resource).map(|(_, attributes)| attributes);
    found.ok_or_else(|| Error::Other(format!("no attributes of {resource}")))
}

/// Make a component of a [`Driver`].
///
/// Use it once in a crate of the type `cdylib`. It does nothing on targets other than Wasm.
#[macro_export]
macro_rules! export_driver {
    ($driver:ty) => {
        // Also where nothing is exported, so that a native build finds what is wrong.
        const _: () = {
            const fn is_driver<D: $crate::Driver>() {}
            is_driver::<$driver>()
        };

        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::driver::exports::eyot::device::driver as wire;

            struct Exported;

            ::std::thread_local! {
                static SESSION: ::std::cell::RefCell<Option<$crate::Session<$driver>>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            fn session<T>(
                act: impl FnOnce(&mut $crate::Session<$driver>) -> Result<T, $crate::Error>,
            ) -> Result<T, $crate::Error> {
                SESSION.with_borrow_mut(|session| match session {
                    Some(session) => act(session),
                    None => Err($crate::Error::Other("called before open".to_owned())),
                })
            }

            impl wire::Guest for Exported {
                fn open(device: $crate::Device) -> Result<(), $crate::Error> {
                    let opened = $crate::Session::open(&device)?;
                    SESSION.set(Some(opened));
                    Ok(())
                }

                fn read(
                    requests: Vec<wire::ReadRequest>,
                ) -> Result<Vec<$crate::Reading>, $crate::Error> {
                    session(|session| session.read(&requests))
                }

                fn write(requests: Vec<wire::WriteRequest>) -> Result<(), $crate::Error> {
                    session(|session| session.write(&requests))
                }

                fn close() {
                    let _ = session(|session| Ok(session.close()));
                    SESSION.set(None);
                }
            }

            $crate::__version_section!();
    $crate::bindings::driver::export!(Exported with_types_in $crate::bindings::driver);
        };
    };
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::Protocol;

    struct Echo;

    #[derive(Debug, Deserialize)]
    struct Attributes {
        #[serde(deserialize_with = "lenient::number")]
        address: u16,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        address: String,
        #[serde(deserialize_with = "lenient::number")]
        port: u16,
    }

    impl Driver for Echo {
        type Attributes = Attributes;

        fn open(device: &Device) -> Result<Self, Error> {
            device.protocol::<Endpoint>("tcp").map(|_| Self)
        }

        fn read(&mut self, all: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
            Ok(all
                .iter()
                .map(|r| r.answer(Value::Uint16(r.attributes.address)))
                .collect())
        }
    }

    fn device(properties: &str) -> Device {
        let protocol = Protocol {
            name: "tcp".into(),
            properties: properties.into(),
        };
        Device {
            name: "d".into(),
            profile: "p".into(),
            protocols: vec![protocol],
        }
    }

    fn read(attributes: &str) -> Result<Vec<Reading>, Error> {
        let mut session = Session::<Echo>::open(&device(r#"{"Address":"h","Port":"502"}"#))?;
        let request = wire::ReadRequest {
            resource: "Speed".into(),
            value_type: "Uint16".into(),
            attributes: attributes.into(),
        };
        session.read(&[request])
    }

    #[track_caller]
    fn blames<T: std::fmt::Debug>(result: Result<T, Error>, field: &str, words: &str) {
        let Err(Error::Invalid(invalid)) = result else {
            panic!("{result:?}")
        };
        assert_eq!(invalid.field, field, "{invalid:?}");
        assert!(invalid.message.contains(words), "{invalid:?}");
    }

    #[test]
    fn protocol_properties_may_quote_numbers_and_errors_name_the_property() {
        for good in [
            r#"{"Address":"h","Port":502}"#,
            r#"{"Address":"h","Port":"502"}"#,
        ] {
            let endpoint: Endpoint = device(good).protocol("tcp").unwrap();
            assert_eq!((endpoint.address.as_str(), endpoint.port), ("h", 502));
        }
        let parse = |properties: &str| device(properties).protocol::<Endpoint>("tcp");
        blames(
            parse(r#"{"Address":"h"}"#),
            "protocols.tcp.Port",
            "is missing",
        );
        blames(parse(""), "protocols.tcp.Address", "is missing");
        blames(
            parse(r#"{"Address":"h","Port":"x"}"#),
            "protocols.tcp.Port",
            "\"x\"",
        );
        blames(
            parse(r#"{"Address":"h","Port":70000}"#),
            "protocols.tcp.Port",
            "70000",
        );
        blames(
            parse(r#"{"Address":1,"Port":1}"#),
            "protocols.tcp.Address",
            "expected a string",
        );
        blames(
            device("{}").protocol::<Endpoint>("udp"),
            "protocols.udp",
            "has [tcp]",
        );
    }

    #[test]
    fn attributes_are_typed_and_errors_name_resource_and_attribute() {
        let readings = read(r#"{"address":"7"}"#).unwrap();
        assert_eq!(
            (readings[0].resource.as_str(), &readings[0].value),
            ("Speed", &Value::Uint16(7))
        );
        let field = "deviceResources[Speed].attributes.address";
        blames(read("{}"), field, "is missing");
        blames(read(r#"{"address":-1}"#), field, "-1");
        blames(read(r#"{"address":[1]}"#), field, "");
    }

    #[test]
    fn a_driver_that_cannot_write_says_so() {
        let mut session = Session::<Echo>::open(&device(r#"{"Address":"h","Port":1}"#)).unwrap();
        let request = wire::WriteRequest {
            resource: "Speed".into(),
            value: Value::Uint16(1),
            attributes: r#"{"address":1}"#.into(),
        };
        let error = session.write(&[request]).unwrap_err();
        assert!(
            matches!(&error, Error::NotSupported(text) if text.contains("Speed")),
            "{error:?}"
        );
    }
}
