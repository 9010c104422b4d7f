//! OPC UA servers: variables are read, written and subscribed to, over OPC UA's own protocol
//! without encryption (security policy None).
//!
//! The protocol `opcua` of a device has `Endpoint` (`opc.tcp://HOST:PORT/PATH`), and may have
//! `CredentialsName`, a Secret with `username` and `password`; `Timeout` in seconds; and `Interval`,
//! the seconds between two looks of the server at what is subscribed to, 1 without it. Passwords are
//! sent as they are.
//!
//! Attributes of a resource: `nodeId` (`ns=2;s=Boiler.Heat`, `i=2258`), and `subscribe`, `true` for a
//! variable whose changes are readings. A variable is written in the type that it has.

mod binary;
mod channel;
mod session;
mod variant;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, str::FromStr, time::Duration};

use eyot_sdk::{
    Device, Driver, Error, ReadRequest, Reading, Resource, Value, ValueType, WriteRequest, lenient,
    log,
    net::{Stream, Tcp},
    publish,
};
use serde::Deserialize;

use crate::{
    binary::{DataValue, NodeId},
    session::{Login, Session, fault},
    variant::Variant,
};

/// The protocol's name in device files.
const PROTOCOL: &str = "opcua";
/// Longest time for an answer: opening a session takes several.
const LONGEST: f64 = 6.0;
/// How often it is looked whether news have come.
const LOOK: Duration = Duration::from_millis(250);
/// How long to wait before a subscription that was lost is made again.
const AGAIN: Duration = Duration::from_secs(2);

pub struct OpcUa<S> {
    session: Session<S>,
    interval: Duration,
    /// What is subscribed to, in the order in which the server knows it.
    watched: Vec<Resource<Attributes>>,
    /// The types of the variables that were written.
    kinds: HashMap<NodeId, u8>,
    subscribed: bool,
}

/// `protocols.opcua` of a device.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    endpoint: String,
    #[serde(default, deserialize_with = "lenient::optional")]
    timeout: Option<f64>,
    #[serde(default, deserialize_with = "lenient::optional")]
    interval: Option<f64>,
    #[serde(default)]
    credentials: Option<Credentials>,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    #[serde(default)]
    password: String,
}

/// `attributes` of a device resource.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    #[serde(deserialize_with = "lenient::number")]
    node_id: Node,
    #[serde(default, deserialize_with = "lenient::boolean")]
    subscribe: bool,
}

#[derive(Debug, Clone)]
struct Node(NodeId);

impl FromStr for Node {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let node = NodeId::parse(text).map(Self);
        node.ok_or("node identifiers are ns=2;s=NAME or ns=2;i=NUMBER")
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<S: Stream + Default> Driver for OpcUa<S> {
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        let properties: Properties = device.protocol(PROTOCOL)?;
        let wrong = |property: &str, message: &str| {
            Error::invalid(format!("protocols.{PROTOCOL}.{property}"), message)
        };
        let rest = properties.endpoint.strip_prefix("opc.tcp://");
        let rest = rest.ok_or_else(|| wrong("Endpoint", "must begin with opc.tcp://"))?;
        let authority = rest.split('/').next().unwrap_or_default();
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let place = match has_port {
            true => authority.to_owned(),
            false => format!("{authority}:4840"),
        };
        if authority.is_empty() {
            return Err(wrong("Endpoint", "names no host"));
        }
        let timeout = properties.timeout.unwrap_or(5.0);
        if !(0.001..=LONGEST).contains(&timeout) {
            return Err(wrong("Timeout", "must be 0.001 to 6 seconds"));
        }
        let interval = properties.interval.unwrap_or(1.0);
        if !(0.01..=3600.0).contains(&interval) {
            return Err(wrong("Interval", "must be 0.01 to 3600 seconds"));
        }
        let login = properties.credentials.map(|credentials| Login {
            username: credentials.username,
            password: credentials.password,
        });
        let mut session = Session::new(S::default(), place, properties.endpoint, login);
        session.channel.timeout = Duration::from_secs_f64(timeout);
        Ok(Self {
            session,
            interval: Duration::from_secs_f64(interval),
            watched: Vec::new(),
            kinds: HashMap::new(),
            subscribed: false,
        })
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let nodes = requests
            .iter()
            .map(|request| request.attributes.node_id.0.clone());
        let values = self.session.read(&nodes.collect::<Vec<_>>())?;
        let answers = requests.iter().zip(values).map(|(request, found)| {
            let value = value(&found, request.value_type);
            let value = value.map_err(|wrong| wrong.of(request.resource))?;
            let mut reading = request.answer(value);
            reading.origin = found.origin;
            Ok(reading)
        });
        answers.collect()
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        let mut values = Vec::with_capacity(requests.len());
        for request in requests {
            let node = &request.attributes.node_id.0;
            let kind = self.kind(request.resource, node)?;
            let variant = Variant::of(request.value, kind);
            let fits = variant.write(&mut binary::Writer::default());
            fits.map_err(|text| request.invalid("nodeId", text))?;
            values.push((node.clone(), variant));
        }
        let statuses = self.session.write(&values)?;
        for (request, status) in requests.iter().zip(statuses) {
            if status & 0x8000_0000 != 0 {
                self.kinds.remove(&request.attributes.node_id.0);
                let mut error = fault(status);
                error.message = format!("{}: {}", request.resource, error.message);
                return Err(Error::Protocol(error));
            }
        }
        Ok(())
    }

    fn subscribe(&mut self, resources: Vec<Resource<Attributes>>) -> Result<(), Error> {
        let watched = resources.into_iter().filter(|r| r.attributes.subscribe);
        self.watched = watched.collect();
        match self.watched.is_empty() {
            true => Err(Error::NotSupported(
                "no resource has subscribe: true".into(),
            )),
            false => Ok(()),
        }
    }

    fn poll(&mut self) -> Result<Option<Duration>, Error> {
        if !self.subscribed || !self.session.is_open() {
            self.subscribed = false;
            let nodes = self.watched.iter().map(|r| r.attributes.node_id.0.clone());
            let nodes: Vec<_> = nodes.collect();
            let statuses = match self.session.subscribe(&nodes, self.interval) {
                Ok(statuses) => statuses,
                // The server is there, and does not want to: it is asked again later.
                Err(Error::Protocol(error)) => {
                    log::warn(format!("nothing is subscribed to: {}", error.message));
                    return Ok(Some(AGAIN));
                }
                Err(error) => return Err(error),
            };
            self.subscribed = true;
            for (resource, status) in self.watched.iter().zip(statuses) {
                if status & 0x8000_0000 != 0 {
                    log::warn(format!("{}: {}", resource.name, fault(status).message));
                }
            }
        }
        for (handle, found) in self.session.news()? {
            let Some(resource) = self.watched.get(handle as usize) else {
                continue;
            };
            let outcome = value(&found, resource.value_type).map_err(|w| w.of(&resource.name));
            let outcome = outcome.and_then(|value| {
                let mut reading = resource.reading(value);
                reading.origin = found.origin;
                publish(&resource.name, vec![reading])
            });
            if let Err(error) = outcome {
                log::warn(format!("{}: {error:?}", resource.name));
            }
        }
        Ok(Some(LOOK))
    }

    fn close(&mut self) {
        self.session.close();
    }
}

impl<S: Stream> OpcUa<S> {
    /// The type that a variable has now.
    fn kind(&mut self, resource: &str, node: &NodeId) -> Result<u8, Error> {
        if let Some(kind) = self.kinds.get(node) {
            return Ok(*kind);
        }
        let found = self.session.read(std::slice::from_ref(node))?;
        let found = found
            .into_iter()
            .next()
            .and_then(|found| match found.value {
                Some(value) if value.kind != 0 => Some(value.kind),
                _ => None,
            });
        let none =
            || format!("{resource}: the variable has no value yet, so its type is not known");
        let kind = found.ok_or_else(|| Error::Other(none()))?;
        self.kinds.insert(node.clone(), kind);
        Ok(kind)
    }
}

/// Why a value is none.
enum Wrong {
    Status(u32),
    Type(String),
}

impl Wrong {
    fn of(self, resource: &str) -> Error {
        match self {
            Self::Status(status) => {
                let mut error = fault(status);
                error.message = format!("{resource}: {}", error.message);
                Error::Protocol(error)
            }
            Self::Type(text) => Error::attribute(resource, "nodeId", text),
        }
    }
}

fn value(found: &DataValue, to: ValueType) -> Result<Value, Wrong> {
    if found.status & 0x8000_0000 != 0 {
        return Err(Wrong::Status(found.status));
    }
    match &found.value {
        Some(value) if value.kind != 0 => value.value(to).map_err(Wrong::Type),
        _ => Ok(Value::Null(to.name().to_owned())),
    }
}

eyot_sdk::export_driver!(OpcUa<Tcp>);
