//! SNMP agents: v1, v2c and v3.
//!
//! The protocol of a device is `SNMP` (or `TCP`, as EdgeX's SNMP service calls it):
//!
//! | property | |
//! |---|---|
//! | `Address`, `Port` | of the agent; 161 without a port |
//! | `Version` | `v1`, `v2c` (without it) or `v3` |
//! | `Community` | for v1 and v2c; `public` without it |
//! | `User`, `ContextName` | for v3 |
//! | `AuthProtocol`, `AuthPassword` | MD5, SHA, SHA224, SHA256, SHA384, SHA512 |
//! | `PrivProtocol`, `PrivPassword` | DES, AES, AES192, AES256, and AES192C, AES256C as Cisco has them |
//! | `Timeout`, `Retries` | seconds for an answer, 2; and how often it is asked again, 2 |
//! | `TrapPort` | where the agent sends its traps; the service's `listen` must grant it |
//! | `CredentialsName` | a Secret that has any of the above, such as `AuthPassword` |
//!
//! Attributes of a resource: `oid`, and may be `community` (instead of the device's), `type` (what is
//! set: `Integer`, `Gauge32`, `Counter64`, `TimeTicks`, `OctetString`, `Hex`, `Oid`, `IpAddress`), and
//! `trap`. Arrays and objects are what is below the identifier: arrays in its order, an `Object` with
//! a member for each. A resource with `trap`, an identifier or `*`, is an `Object` of each such trap;
//! variables in a trap are readings of the resources that have their identifiers.

mod ber;
mod client;
mod message;
mod usm;
mod values;

#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr, time::Duration};

use eyot_sdk::{
    Device, Driver, Error, ReadRequest, Reading, Resource, Value, WriteRequest, lenient, log,
    net::{Datagrams, Host, Notices, Udp},
    publish,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    client::{Client, Secure, Speech},
    message::{INFORM, Pdu, RESPONSE, TRAP, Version},
    usm::{Auth, Engine, Privacy, Session, User},
};

/// The names that the protocol has in device files.
const PROTOCOLS: [&str; 3] = ["SNMP", "snmp", "TCP"];
/// Longest time for an answer, so that all tries fit into what the host gives a call.
const LONGEST: f64 = 10.0;
/// Engines of agents whose traps are believed.
const ENGINES: usize = 16;

pub struct Snmp<T, N> {
    client: Client<T>,
    notices: N,
    settings: Properties,
    user: Option<User>,
    /// Engines that sent traps, with the sessions that read them.
    engines: Vec<Engine>,
    resources: Vec<Resource<Attributes>>,
}

/// Properties of the device's protocol. All but the address may come from its credentials.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Properties {
    address: String,
    #[serde(deserialize_with = "lenient::optional")]
    port: Option<u16>,
    #[serde(deserialize_with = "lenient::optional")]
    version: Option<Named<Spoken>>,
    community: Option<String>,
    user: Option<String>,
    context_name: Option<String>,
    #[serde(deserialize_with = "lenient::optional")]
    auth_protocol: Option<Named<Auth>>,
    auth_password: Option<String>,
    #[serde(deserialize_with = "lenient::optional")]
    priv_protocol: Option<Named<Privacy>>,
    priv_password: Option<String>,
    #[serde(deserialize_with = "lenient::optional")]
    timeout: Option<f64>,
    #[serde(deserialize_with = "lenient::optional")]
    retries: Option<u32>,
    #[serde(deserialize_with = "lenient::optional")]
    trap_port: Option<u16>,
    credentials: Option<Box<Properties>>,
}

/// What is spoken to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    V1,
    V2c,
    V3,
}

/// Something that device files call by a name.
#[derive(Debug, Clone, Copy)]
struct Named<T>(T);

/// `attributes` of a device resource.
#[derive(Debug, Clone, Deserialize)]
pub struct Attributes {
    #[serde(default, deserialize_with = "lenient::optional")]
    oid: Option<Oid>,
    #[serde(default)]
    community: Option<String>,
    /// The type that is set.
    #[serde(rename = "type", default, deserialize_with = "lenient::optional")]
    set_type: Option<values::Type>,
    /// Which traps it is, or `*`.
    #[serde(default)]
    trap: Option<String>,
}

/// An object identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Oid(Vec<u32>);

impl Properties {
    /// With what the credentials have beside it.
    fn filled(mut self) -> Self {
        let Some(more) = self.credentials.take() else {
            return self;
        };
        let more = more.filled();
        self.version = self.version.or(more.version);
        self.community = self.community.or(more.community);
        self.user = self.user.or(more.user);
        self.context_name = self.context_name.or(more.context_name);
        self.auth_protocol = self.auth_protocol.or(more.auth_protocol);
        self.auth_password = self.auth_password.or(more.auth_password);
        self.priv_protocol = self.priv_protocol.or(more.priv_protocol);
        self.priv_password = self.priv_password.or(more.priv_password);
        self
    }

    fn community(&self) -> &str {
        self.community.as_deref().unwrap_or("public")
    }

    fn user(&self, protocol: &str) -> Result<User, Error> {
        let wrong = |property: &str, message: &str| {
            Error::invalid(format!("protocols.{protocol}.{property}"), message)
        };
        let name = self.user.clone().filter(|name| !name.is_empty());
        let password = |given: &Option<String>, property: &str| match given {
            // RFC 3414, section 11.2; agents take no shorter ones.
            Some(password) if password.len() >= 8 => Ok(password.clone()),
            Some(_) => Err(wrong(property, "must have 8 characters or more")),
            None => Err(wrong(property, "is missing")),
        };
        let auth = match self.auth_protocol {
            Some(Named(auth)) => Some((auth, password(&self.auth_password, "AuthPassword")?)),
            None => None,
        };
        let privacy = match self.priv_protocol {
            Some(Named(of)) => Some((of, password(&self.priv_password, "PrivPassword")?)),
            None => None,
        };
        let user = User {
            name: name.ok_or_else(|| wrong("User", "is missing, and v3 needs one"))?,
            auth,
            privacy,
            context: self.context_name.clone().unwrap_or_default(),
        };
        if user.privacy.is_some() && user.auth.is_none() {
            return Err(wrong("AuthProtocol", "is missing: privacy needs it"));
        }
        Ok(user)
    }
}

impl<T, N> Driver for Snmp<T, N>
where
    T: Datagrams + Default,
    N: Notices + Default,
{
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        let known = |name: &&&str| device.protocols.iter().any(|p| p.name == **name);
        let protocol = PROTOCOLS.iter().find(known).unwrap_or(&PROTOCOLS[0]);
        let settings: Properties = device.protocol(protocol)?;
        let settings = settings.filled();
        let wrong = |property: &str, message: &str| {
            Err(Error::invalid(
                format!("protocols.{protocol}.{property}"),
                message,
            ))
        };
        if settings.address.is_empty() {
            return wrong("Address", "is missing");
        }
        if settings
            .timeout
            .is_some_and(|time| !(0.001..=LONGEST).contains(&time))
        {
            return wrong("Timeout", "must be 0.001 to 10 seconds");
        }
        let timeout = settings.timeout.unwrap_or(2.0);
        let retries = settings.retries.unwrap_or(2);
        if f64::from(retries) * timeout > 2.0 * LONGEST {
            return wrong("Retries", "take longer than a call may");
        }
        let (speech, user) = match settings.version.map_or(Spoken::V2c, |named| named.0) {
            Spoken::V1 => (Speech::Community(Version::V1), None),
            Spoken::V2c => (Speech::Community(Version::V2c), None),
            Spoken::V3 => {
                let user = settings.user(protocol)?;
                let secure = Secure::new(user.clone());
                (Speech::Secure(Box::new(secure)), Some(user))
            }
        };
        let port = settings.port.unwrap_or(161);
        let place = match settings.address.contains(':') {
            true => format!("[{}]:{port}", settings.address.trim_matches(['[', ']'])),
            false => format!("{}:{port}", settings.address),
        };
        let mut client = Client::new(T::default(), place, speech);
        client.timeout = Duration::from_secs_f64(timeout);
        client.retries = retries;
        Ok(Self {
            client,
            notices: N::default(),
            settings,
            user,
            engines: Vec::new(),
            resources: Vec::new(),
        })
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let mut readings: Vec<Option<Reading>> = requests.iter().map(|_| None).collect();
        // Single variables of one community share requests.
        let mut single: Vec<(String, Vec<usize>)> = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let oid = oid_of(request.resource, request.attributes)?;
            let community = self.community(request.attributes);
            if values::is_subtree(request.value_type) {
                let rows = self.client.walk(&community, oid)?;
                let value = values::subtree(oid, rows, request.value_type)
                    .map_err(|text| request.invalid("oid", text))?;
                readings[index] = Some(request.answer(value));
                continue;
            }
            match single.iter_mut().find(|(of, _)| *of == community) {
                Some((_, indices)) => indices.push(index),
                None => single.push((community, vec![index])),
            }
        }
        for (community, indices) in single {
            let oids = indices.iter().map(|index| {
                let request = &requests[*index];
                oid_of(request.resource, request.attributes).map(<[u32]>::to_vec)
            });
            let oids: Vec<_> = oids.collect::<Result<_, Error>>()?;
            let found = self.client.get(&community, &oids)?;
            for (index, data) in indices.into_iter().zip(found) {
                let request = &requests[index];
                let value = values::value(&data, request.value_type);
                let value = value.map_err(|fault| fault.of(request.resource))?;
                readings[index] = Some(request.answer(value));
            }
        }
        Ok(readings.into_iter().flatten().collect())
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        // What is for one community is set together: all of it or nothing.
        let mut sets: Vec<(String, Vec<message::Binding>)> = Vec::new();
        for request in requests {
            let oid = oid_of(request.resource, request.attributes)?;
            let data = values::data(request.value, request.attributes.set_type);
            let data = data.map_err(|text| request.invalid("type", text))?;
            let (community, binding) = (self.community(request.attributes), (oid.to_vec(), data));
            match sets.last_mut().filter(|(of, _)| *of == community) {
                Some((_, bindings)) => bindings.push(binding),
                None => sets.push((community, vec![binding])),
            }
        }
        for (community, bindings) in sets {
            self.client.set(&community, bindings)?;
        }
        Ok(())
    }

    fn subscribe(&mut self, resources: Vec<Resource<Attributes>>) -> Result<(), Error> {
        let Some(port) = self.settings.trap_port else {
            return Err(Error::NotSupported("the device names no TrapPort".into()));
        };
        self.notices.listen(port)?;
        self.resources = resources;
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Duration>, Error> {
        for datagram in self.notices.take()? {
            let pdu = match self.heard(&datagram.data) {
                Ok(pdu) => pdu,
                Err(reason) => {
                    log::warn(format!("a trap of {} is dropped: {reason}", datagram.from));
                    continue;
                }
            };
            if pdu.kind == INFORM
                && let Some(port) = self.settings.trap_port
                && let Ok((version, community, _)) = message::read(&datagram.data)
            {
                let answer = Pdu {
                    kind: RESPONSE,
                    ..pdu.clone()
                };
                let answer = message::write(version, community, &answer);
                self.notices.answer(port, datagram.from, &answer)?;
            }
            for (source, readings) in self.notified(&pdu) {
                if let Err(error) = publish(&source, readings) {
                    log::warn(format!("{source}: {error:?}"));
                }
            }
        }
        Ok(None)
    }
}

impl<T, N> Snmp<T, N> {
    fn community(&self, attributes: &Attributes) -> String {
        let own = attributes.community.as_deref();
        own.unwrap_or(self.settings.community()).to_owned()
    }

    /// The trap in a datagram, if it is one that the device may send.
    fn heard(&mut self, datagram: &[u8]) -> Result<Pdu, &'static str> {
        let version = message::version(datagram).map_err(|_| "it is no SNMP message")?;
        let pdu = match (&self.user, version) {
            (None, 0 | 1) => {
                let read = message::read(datagram);
                let (_, community, pdu) = read.map_err(|_| "it is no SNMP message")?;
                let own = self.settings.community().as_bytes();
                let mut others = self.resources.iter();
                let is_other = |r: &Resource<Attributes>| {
                    r.attributes.community.as_deref().map(str::as_bytes) == Some(community)
                };
                if community != own && !others.any(is_other) {
                    return Err("it has another community");
                }
                pdu
            }
            (Some(user), 3) => {
                let user = user.clone();
                self.heard_securely(&user, datagram)?
            }
            _ => return Err("it has another version than the device"),
        };
        match pdu.trap() {
            Some(_) => Ok(pdu),
            None => Err("it is no trap"),
        }
    }

    fn heard_securely(&mut self, user: &User, datagram: &[u8]) -> Result<Pdu, &'static str> {
        let session = Session::new(user.clone(), 0);
        // Who sends a trap speaks for its own engine, which may be none that was ever asked.
        let known = self.engines.iter().position(|engine| engine.sent(datagram));
        let mut engine = known.map(|at| self.engines.remove(at));
        let received = session.receive(&mut engine, datagram);
        if let Some(engine) = engine {
            self.engines.truncate(ENGINES - 1);
            self.engines.insert(0, engine);
        }
        match received {
            Ok(received) if !received.secure => Err("it is less secure than the user is"),
            // For an inform our own engine would have to be known to the agent.
            Ok(received) if received.pdu.kind != TRAP => Err("only traps are taken in v3"),
            Ok(received) => Ok(received.pdu),
            Err(usm::Refused::Old) => Err("it was sent long ago"),
            Err(usm::Refused::Forged) => Err("it is not signed by the user"),
            Err(usm::Refused::Unreadable) => Err("it cannot be decrypted"),
            Err(usm::Refused::Malformed) => Err("it is no SNMP message"),
        }
    }

    /// What a trap means: sources with their readings.
    fn notified(&self, pdu: &Pdu) -> Vec<(String, Vec<Reading>)> {
        let Some(trap) = pdu.trap() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for resource in &self.resources {
            let attributes = &resource.attributes;
            let value = match &attributes.trap {
                Some(wanted) => {
                    let is_it =
                        wanted == "*" || message::parse_oid(wanted).as_deref() == Some(trap);
                    is_it.then(|| whole(trap, pdu))
                }
                None => attributes.oid.as_ref().and_then(|Oid(oid)| {
                    let mut bindings = pdu.bindings.iter();
                    let (_, data) = bindings.find(|(of, _)| of == oid)?;
                    values::value(data, resource.value_type).ok()
                }),
            };
            if let Some(value) = value {
                all.push((resource.name.clone(), vec![resource.reading(value)]));
            }
        }
        all
    }
}

/// A trap as an object.
fn whole(trap: &[u32], pdu: &Pdu) -> Value {
    let variables = pdu
        .bindings
        .iter()
        .filter(|(oid, _)| *oid != message::TRAP_OID);
    let variables = variables.map(|(oid, data)| (message::show_oid(oid), values::json(data)));
    let variables: serde_json::Map<_, _> = variables.collect();
    let object = json!({ "trap": message::show_oid(trap), "variables": variables });
    Value::Object(object.to_string())
}

fn oid_of<'a>(resource: &str, attributes: &'a Attributes) -> Result<&'a [u32], Error> {
    match &attributes.oid {
        Some(Oid(oid)) => Ok(oid),
        None if attributes.trap.is_some() => Err(Error::NotSupported(format!(
            "{resource} comes with traps and cannot be asked for"
        ))),
        None => Err(Error::attribute(resource, "oid", "is missing")),
    }
}

impl FromStr for Oid {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = message::parse_oid(text).map(Self);
        parts.ok_or("an object identifier is numbers with dots, as in 1.3.6.1.2.1.1.3.0")
    }
}

impl FromStr for Named<Spoken> {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(Self(match name.to_ascii_lowercase().as_str() {
            "v1" | "1" => Spoken::V1,
            "v2c" | "2c" | "v2" | "2" => Spoken::V2c,
            "v3" | "3" => Spoken::V3,
            _ => return Err("versions are v1, v2c and v3"),
        }))
    }
}

impl FromStr for Named<Auth> {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = name.to_ascii_uppercase().replace('-', "");
        Ok(Self(match name.as_str() {
            "MD5" => Auth::Md5,
            "SHA" | "SHA1" => Auth::Sha1,
            "SHA224" => Auth::Sha224,
            "SHA256" => Auth::Sha256,
            "SHA384" => Auth::Sha384,
            "SHA512" => Auth::Sha512,
            _ => return Err("protocols are MD5, SHA, SHA224, SHA256, SHA384 and SHA512"),
        }))
    }
}

impl FromStr for Named<Privacy> {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = name.to_ascii_uppercase().replace('-', "");
        Ok(Self(match name.as_str() {
            "DES" => Privacy::Des,
            "AES" | "AES128" => Privacy::Aes128,
            "AES192" => Privacy::Aes192,
            "AES256" => Privacy::Aes256,
            "AES192C" => Privacy::Aes192C,
            "AES256C" => Privacy::Aes256C,
            _ => return Err("protocols are DES, AES, AES192, AES256, AES192C and AES256C"),
        }))
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&message::show_oid(&self.0))
    }
}

eyot_sdk::export_driver!(Snmp<Udp, Host>);
