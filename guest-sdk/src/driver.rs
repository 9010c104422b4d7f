//! Drivers: the trait, and what stands between it and the generated interface.

use std::{collections::HashMap, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    Device, DiscoveredDevice, Error, Invalid, Reading, ScanRequest, Service, Value, ValueType,
    bindings::driver::exports::eyot::device::{driver as wire, inlet},
    lenient,
};

/// Parsed attributes that are kept between calls; a device with more resources has them parsed
/// again now and then.
const REMEMBERED: usize = 4096;

/// A device driver: knows one protocol, serves one device.
///
/// The host makes one instance for each device, calls [`open`](Self::open) once, then
/// [`subscribe`](Self::subscribe), then any number of [`read`](Self::read), [`write`](Self::write)
/// and [`poll`](Self::poll), never two at a time, then [`close`](Self::close). A panic ends this
/// instance alone; the host makes a new one. What has no `self` is called in an instance that serves
/// no device.
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

    /// Prepare for readings that come by themselves, of these resources: all of the profile. Called
    /// once, after [`open`](Self::open); keep what is needed to make readings of what will come.
    /// Without it the driver does not listen, and [`poll`](Self::poll) is not called.
    fn subscribe(&mut self, resources: Vec<Resource<Self::Attributes>>) -> Result<(), Error> {
        let _ = resources;
        Err(Error::NotSupported(
            "this driver does not listen".to_owned(),
        ))
    }

    /// Take what has come and hand it to [`publish`](crate::publish). Called when a message waits at
    /// a transport of the host, and at the latest after the time that the last call gave.
    fn poll(&mut self) -> Result<Option<Duration>, Error> {
        Ok(None)
    }

    /// Take what was sent over HTTP for a resource of this device, and hand it to
    /// [`publish`](crate::publish). [`Error::Invalid`] and [`Error::NotSupported`] are told to the
    /// sender as its own mistake.
    fn deliver(&mut self, delivery: &Delivery<'_, Self::Attributes>) -> Result<(), Error> {
        let _ = delivery;
        Err(Error::NotSupported(
            "nothing can be sent to the devices of this driver".to_owned(),
        ))
    }

    /// Check a device before it is taken in, without talking to it. The instance serves no device,
    /// and nothing can be reached from it.
    fn validate(device: &Device) -> Result<(), Error> {
        Self::open(device).map(drop)
    }

    /// Look for devices at what the service's `discovery` property names. At most 30 seconds are
    /// given; the instance serves no device.
    fn discover(service: &Service, options: &str) -> Result<Vec<DiscoveredDevice>, Error> {
        let _ = options;
        let name = &service.name;
        Err(Error::NotSupported(format!(
            "the driver of {name} finds no devices"
        )))
    }

    /// Describe a device: a device profile in EdgeX's JSON, with the name asked for. At most 30
    /// seconds are given; the instance serves no device, and reaches what this one names.
    fn profile_scan(service: &Service, request: &ScanRequest) -> Result<String, Error> {
        let _ = request;
        let name = &service.name;
        Err(Error::NotSupported(format!(
            "the driver of {name} scans no devices"
        )))
    }

    /// The device is removed or the host ends. At most one second is given.
    fn close(&mut self) {}
}

/// A resource of the device's profile.
#[derive(Debug, Clone)]
pub struct Resource<A> {
    /// Its name.
    pub name: String,
    /// The type that its values have.
    pub value_type: ValueType,
    /// Its attributes.
    pub attributes: A,
}

impl<A> Resource<A> {
    /// A reading of it that is true now.
    pub fn reading(&self, value: Value) -> Reading {
        reading(&self.name, value)
    }
}

fn reading(resource: &str, value: Value) -> Reading {
    Reading {
        resource: resource.to_owned(),
        value,
        origin: 0,
        units: String::new(),
        tags: Vec::new(),
    }
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
        reading(self.resource, value)
    }

    /// An error that blames this resource's attribute.
    pub fn invalid(&self, attribute: &str, message: impl Into<String>) -> Error {
        Error::attribute(self.resource, attribute, message)
    }
}

/// Something that was sent for a resource.
#[derive(Debug)]
pub struct Delivery<'a, A> {
    /// The resource that it is about.
    pub resource: ReadRequest<'a, A>,
    /// What the body is, in lower case and without parameters; empty if it was not said.
    pub media_type: &'a str,
    /// The body.
    pub body: &'a [u8],
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
        let typed = requests.iter().map(|r| typed(&self.attributes, r));
        let typed: Vec<_> = typed.collect::<Result<_, Error>>()?;
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

    pub fn subscribe(&mut self, requests: Vec<wire::ReadRequest>) -> Result<(), Error> {
        let mut resources = Vec::with_capacity(requests.len());
        for request in requests {
            // What cannot be read is told when it is read; the others can be listened to.
            let place = attributes_of(&request.resource);
            let attributes = parse::<D::Attributes>(&request.attributes, &place);
            if let (Ok(attributes), Some(value_type)) =
                (attributes, ValueType::parse(&request.value_type))
            {
                resources.push(Resource {
                    name: request.resource,
                    value_type,
                    attributes,
                });
            }
        }
        self.driver.subscribe(resources)
    }

    pub fn deliver(&mut self, delivery: &inlet::Delivery) -> Result<(), Error> {
        let request = &delivery.resource;
        self.remember([(request.resource.as_str(), request.attributes.as_str())].into_iter())?;
        self.driver.deliver(&Delivery {
            resource: typed(&self.attributes, request)?,
            media_type: &delivery.media_type,
            body: &delivery.body,
        })
    }

    pub fn poll(&mut self) -> Result<u32, Error> {
        let again = self.driver.poll()?;
        // Zero asks to be called for messages only.
        let milliseconds = again.map(|again| again.as_millis().max(1));
        Ok(milliseconds.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)))
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

fn typed<'a, A>(
    attributes: &'a HashMap<String, (String, A)>,
    request: &'a wire::ReadRequest,
) -> Result<ReadRequest<'a, A>, Error> {
    let value_type = ValueType::parse(&request.value_type).ok_or_else(|| {
        let field = format!("deviceResources[{}].properties.valueType", request.resource);
        Error::invalid(field, format!("{:?} is no value type", request.value_type))
    })?;
    Ok(ReadRequest {
        resource: &request.resource,
        value_type,
        attributes: look_up(attributes, &request.resource)?,
    })
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
            use $crate::bindings::driver::exports::eyot::device::{
                driver as wire, inlet, listener, service,
            };

            struct Exported;

            ::std::thread_local! {
                static SESSION: ::std::cell::RefCell<Option<$crate::Session<$driver>>> =
                    const { ::std::cell::RefCell::new(None) };
                static SERVICE: ::std::cell::RefCell<Option<$crate::Service>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            fn serving<T>(
                act: impl FnOnce(&$crate::Service) -> Result<T, $crate::Error>,
            ) -> Result<T, $crate::Error> {
                SERVICE.with_borrow(|service| match service {
                    Some(service) => act(service),
                    None => Err($crate::Error::Other("called before start".to_owned())),
                })
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

            impl listener::Guest for Exported {
                fn subscribe(resources: Vec<wire::ReadRequest>) -> Result<(), $crate::Error> {
                    session(|session| session.subscribe(resources))
                }

                fn poll() -> Result<u32, $crate::Error> {
                    session(|session| session.poll())
                }
            }

            impl inlet::Guest for Exported {
                fn deliver(delivery: inlet::Delivery) -> Result<(), $crate::Error> {
                    session(|session| session.deliver(&delivery))
                }
            }

            impl service::Guest for Exported {
                fn start(info: $crate::Service) -> Result<(), $crate::Error> {
                    SERVICE.set(Some(info));
                    Ok(())
                }

                fn validate(device: $crate::Device) -> Result<(), $crate::Error> {
                    <$driver as $crate::Driver>::validate(&device)
                }

                fn discover(
                    options: String,
                ) -> Result<Vec<$crate::DiscoveredDevice>, $crate::Error> {
                    serving(|service| <$driver as $crate::Driver>::discover(service, &options))
                }

                fn profile_scan(request: $crate::ScanRequest) -> Result<String, $crate::Error> {
                    serving(|service| <$driver as $crate::Driver>::profile_scan(service, &request))
                }

                fn stop() {}
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

    struct Listening(Vec<Resource<Attributes>>);

    impl Driver for Listening {
        type Attributes = Attributes;

        fn open(_: &Device) -> Result<Self, Error> {
            Ok(Self(Vec::new()))
        }

        fn read(&mut self, _: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
            Ok(Vec::new())
        }

        fn subscribe(&mut self, resources: Vec<Resource<Attributes>>) -> Result<(), Error> {
            self.0 = resources;
            Ok(())
        }

        fn poll(&mut self) -> Result<Option<Duration>, Error> {
            for resource in &self.0 {
                let reading = resource.reading(Value::Uint16(resource.attributes.address));
                crate::publish(&resource.name, vec![reading])?;
            }
            Ok(Some(Duration::from_micros(1)))
        }
    }

    #[test]
    fn a_driver_that_listens_publishes_what_it_could_parse() {
        let mut session = Session::<Listening>::open(&device("{}")).unwrap();
        let request = |resource: &str, attributes: &str| wire::ReadRequest {
            resource: resource.into(),
            value_type: "Uint16".into(),
            attributes: attributes.into(),
        };
        let requests = vec![
            request("Speed", r#"{"address":7}"#),
            request("Broken", "{}"),
        ];
        session.subscribe(requests).unwrap();
        assert_eq!(session.poll(), Ok(1), "no wish is rounded down to none");
        let published = crate::publisher::take();
        assert_eq!(published.len(), 1);
        assert_eq!(published[0].0, "Speed");
        assert_eq!(published[0].1[0].value, Value::Uint16(7));
        let mut deaf = Session::<Echo>::open(&device(r#"{"Address":"h","Port":1}"#)).unwrap();
        let refused = deaf.subscribe(Vec::new());
        assert!(
            matches!(refused, Err(Error::NotSupported(_))),
            "{refused:?}"
        );
        assert_eq!(deaf.poll(), Ok(0));
    }

    #[test]
    fn a_device_is_validated_as_it_is_opened_and_nothing_is_found() {
        blames(
            Echo::validate(&device("{}")),
            "protocols.tcp.Address",
            "missing",
        );
        let service = Service {
            name: "echo".into(),
            properties: "{}".into(),
        };
        let found = Echo::discover(&service, "");
        assert!(matches!(found, Err(Error::NotSupported(_))), "{found:?}");
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
