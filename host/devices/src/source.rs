//! What a source of a device (a resource or a command of its profile) means for the driver: the
//! requests to make, and how the answers become an event. Pure.

use std::{collections::BTreeMap, sync::Arc};

use eyot_api::{Device, DeviceProfile, DeviceResource};
use eyot_runtime::{
    guest::{DeviceInfo, Grants, ReadRequest, WriteRequest},
    reading::{Event, Reading, Value},
};
use regex::RegexBuilder;
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    pipeline::LOCAL_BROKER,
    transform::{self, Arithmetic},
    value,
};

/// Resources in one command at most, as EdgeX has it.
const OPERATIONS: usize = 128;
/// The attribute that carries a command's query arguments, as EdgeX calls it.
const QUERY: &str = "urlRawQuery";
/// Bytes that a compiled pattern of resource names may take.
const PATTERN: usize = 256 * 1024;

/// Why a source cannot be read or written as asked. The text is for the one who asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SourceError {
    #[error("profile {profile} has neither a resource nor a command {source_name}")]
    Unknown {
        profile: String,
        source_name: String,
    },
    #[error("command {command} names resource {resource}, which profile {profile} does not have")]
    Dangling {
        profile: String,
        command: String,
        resource: String,
    },
    #[error("{source_name} cannot be read: its readWrite is W")]
    WriteOnly { source_name: String },
    #[error("{source_name} cannot be written: its readWrite is R")]
    ReadOnly { source_name: String },
    #[error("command {command} has {count} resources; at most {OPERATIONS} are read together")]
    TooMany { command: String, count: usize },
    #[error("no value for resource {resource}, and it has no default value")]
    NoValue { resource: String },
    #[error("{name} is no resource of {source_name}")]
    NotPart { name: String, source_name: String },
    #[error("resource {resource}: {error}")]
    Value {
        resource: String,
        error: transform::WriteError,
    },
}

/// One resource of a source, with the command's mappings for it.
#[derive(Debug, Clone, Copy)]
struct Operation<'a> {
    resource: &'a DeviceResource,
    default: Option<&'a str>,
    mappings: Option<&'a BTreeMap<String, Json>>,
}

/// A source that is ready to be read: kept between reads.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub source: Arc<str>,
    pub requests: Vec<ReadRequest>,
    resources: Vec<DeviceResource>,
    mappings: Vec<BTreeMap<String, Json>>,
    arithmetic: Arithmetic,
}

/// The names that each event of a device carries.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub service: Arc<str>,
    pub device: Arc<str>,
    pub profile: Arc<str>,
    pub tags: Vec<(String, String)>,
}

impl Names {
    pub(crate) fn of(device: &Device, profile: &DeviceProfile) -> Self {
        Self {
            service: device.spec.service_name.as_str().into(),
            device: device.edgex_name().into(),
            profile: profile.edgex_name().into(),
            tags: device
                .spec
                .tags
                .iter()
                .map(|(name, tag)| (name.clone(), plain(tag)))
                .collect(),
        }
    }
}

/// Plan reading `source`, a command or a resource of the profile.
pub(crate) fn plan(profile: &DeviceProfile, source: &str) -> Result<Plan, SourceError> {
    let operations = operations(profile, source)?;
    if let Some(command) = profile.spec.command(source)
        && !command.read_write.readable()
    {
        return Err(SourceError::WriteOnly {
            source_name: source.to_owned(),
        });
    }
    planned(profile, source, operations)
}

/// Plan reading `source`: a command, a resource, or every readable resource whose whole name it
/// matches as a regular expression, as EdgeX's device services and auto events have it.
pub(crate) fn plan_matching(profile: &DeviceProfile, source: &str) -> Result<Plan, SourceError> {
    let unknown = match plan(profile, source) {
        Err(unknown @ SourceError::Unknown { .. }) => unknown,
        outcome => return outcome,
    };
    let found = matching(profile, source);
    if found.is_empty() {
        return Err(unknown);
    }
    let readable = found
        .into_iter()
        .filter(|resource| resource.properties.read_write.readable());
    let operations: Vec<_> = readable
        .map(|resource| Operation {
            resource,
            default: None,
            mappings: None,
        })
        .collect();
    match operations.len() {
        0 => Err(SourceError::WriteOnly {
            source_name: source.to_owned(),
        }),
        1..=OPERATIONS => planned(profile, source, operations),
        count => Err(SourceError::TooMany {
            command: source.to_owned(),
            count,
        }),
    }
}

/// The resources whose whole name a pattern matches; none if it is no pattern.
pub(crate) fn matching<'a>(profile: &'a DeviceProfile, pattern: &str) -> Vec<&'a DeviceResource> {
    let pattern = RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(PATTERN)
        .build();
    let Ok(pattern) = pattern else {
        return Vec::new();
    };
    let resources = profile.spec.device_resources.iter();
    resources
        .filter(|resource| pattern.is_match(&resource.name))
        .collect()
}

fn planned(
    profile: &DeviceProfile,
    source: &str,
    operations: Vec<Operation<'_>>,
) -> Result<Plan, SourceError> {
    let mut plan = Plan {
        source: source.into(),
        requests: Vec::with_capacity(operations.len()),
        resources: Vec::with_capacity(operations.len()),
        mappings: Vec::with_capacity(operations.len()),
        arithmetic: Arithmetic::of(profile),
    };
    for operation in operations {
        let resource = operation.resource;
        if !resource.properties.read_write.readable() {
            return Err(SourceError::WriteOnly {
                source_name: resource.name.clone(),
            });
        }
        plan.add(operation);
    }
    Ok(plan)
}

/// All resources of a profile, for a driver that listens.
pub(crate) fn resources(profile: &DeviceProfile) -> Vec<ReadRequest> {
    profile.spec.device_resources.iter().map(request).collect()
}

fn request(resource: &DeviceResource) -> ReadRequest {
    ReadRequest {
        resource: resource.name.clone(),
        value_type: resource.properties.value_type.clone(),
        attributes: attributes(resource),
    }
}

/// A resource that something was sent for, and the media type that its profile wants.
pub(crate) fn inlet<'a>(
    profile: &'a DeviceProfile,
    resource: &str,
) -> Result<(ReadRequest, Option<&'a str>), SourceError> {
    let found = profile.spec.resource(resource);
    let found = found.ok_or_else(|| SourceError::Unknown {
        profile: profile.edgex_name().into_owned(),
        source_name: resource.to_owned(),
    })?;
    if !found.properties.read_write.readable() {
        return Err(SourceError::WriteOnly {
            source_name: resource.to_owned(),
        });
    }
    let media_type = found.properties.media_type.as_deref();
    Ok((request(found), media_type.filter(|text| !text.is_empty())))
}

/// Plan making an event of `source` from readings that came by themselves.
pub(crate) fn received(
    profile: &DeviceProfile,
    source: &str,
    readings: &[Reading],
) -> Result<Plan, SourceError> {
    let operations = operations(profile, source)?;
    let mut plan = Plan {
        source: source.into(),
        requests: Vec::with_capacity(readings.len()),
        resources: Vec::with_capacity(readings.len()),
        mappings: Vec::with_capacity(readings.len()),
        arithmetic: Arithmetic::of(profile),
    };
    if readings.len() > OPERATIONS {
        return Err(SourceError::TooMany {
            command: source.to_owned(),
            count: readings.len(),
        });
    }
    for reading in readings {
        let named = |operation: &&Operation<'_>| operation.resource.name == reading.resource;
        let operation = operations.iter().find(named);
        let operation = operation.ok_or_else(|| SourceError::NotPart {
            name: reading.resource.clone(),
            source_name: source.to_owned(),
        })?;
        plan.add(*operation);
    }
    Ok(plan)
}

/// What a driver's answer came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub event: Event,
    /// The first resource whose value is not what its profile asserts.
    pub broken_assertion: Option<String>,
}

impl Plan {
    fn add(&mut self, operation: Operation<'_>) {
        self.requests.push(request(operation.resource));
        self.resources.push(operation.resource.clone());
        let mappings = operation.mappings.cloned();
        self.mappings.push(mappings.unwrap_or_default());
    }

    /// Make the event from the driver's readings: transformed, checked, mapped, with units.
    /// An error says how the driver broke its contract.
    pub(crate) fn event(
        &self,
        names: &Names,
        raw: Vec<Reading>,
        now: u64,
    ) -> Result<Answer, String> {
        if raw.len() != self.requests.len() {
            return Err(format!(
                "the driver answered {} readings for {} resources",
                raw.len(),
                self.requests.len()
            ));
        }
        let mut broken_assertion = None;
        let mut readings = Vec::with_capacity(raw.len());
        for (index, mut reading) in raw.into_iter().enumerate() {
            let resource = &self.resources[index];
            if reading.resource != resource.name {
                return Err(format!(
                    "the driver answered {} where {} was asked for",
                    reading.resource, resource.name
                ));
            }
            let properties = &resource.properties;
            let given = reading.value.value_type();
            if given != properties.value_type {
                return Err(format!(
                    "the driver answered {given} for {}, which is {}",
                    resource.name, properties.value_type
                ));
            }
            reading.value = transform::read(reading.value, properties, self.arithmetic);
            if broken_assertion.is_none() && !transform::asserted(&reading.value, properties) {
                broken_assertion = Some(resource.name.clone());
            }
            if let Some(mapped) = mapped(&reading.value, &self.mappings[index]) {
                reading.value = mapped;
            }
            if reading.origin == 0 {
                reading.origin = now;
            }
            reading.units = properties.units.clone().unwrap_or_default();
            for (name, tag) in &resource.tags {
                if !reading.tags.iter().any(|(known, _)| known == name) {
                    reading.tags.push((name.clone(), plain(tag)));
                }
            }
            readings.push(reading);
        }
        let event = Event {
            id: Uuid::new_v4().hyphenated().to_string(),
            service: names.service.clone(),
            device: names.device.clone(),
            profile: names.profile.clone(),
            source: self.source.clone(),
            origin: now,
            readings,
            tags: names.tags.clone(),
        };
        Ok(Answer {
            event,
            broken_assertion,
        })
    }
}

/// Plan writing `values` (by resource name) to `source`.
pub(crate) fn writes(
    profile: &DeviceProfile,
    source: &str,
    values: &BTreeMap<String, Json>,
) -> Result<Vec<WriteRequest>, SourceError> {
    let operations = operations(profile, source)?;
    if let Some(command) = profile.spec.command(source)
        && !command.read_write.writable()
    {
        return Err(SourceError::ReadOnly {
            source_name: source.to_owned(),
        });
    }
    for name in values.keys() {
        if !operations
            .iter()
            .any(|operation| operation.resource.name == *name)
        {
            return Err(SourceError::NotPart {
                name: name.clone(),
                source_name: source.to_owned(),
            });
        }
    }
    let mut requests = Vec::with_capacity(operations.len());
    for operation in operations {
        let resource = operation.resource;
        let properties = &resource.properties;
        if !properties.read_write.writable() {
            return Err(SourceError::ReadOnly {
                source_name: resource.name.clone(),
            });
        }
        let given = values.get(&resource.name).map(plain);
        let default = || operation.default.or(properties.default_value.as_deref());
        let text = given
            .or_else(|| default().map(str::to_owned))
            .ok_or_else(|| SourceError::NoValue {
                resource: resource.name.clone(),
            })?;
        let text = unmapped(&text, operation.mappings);
        let value = transform::write(&text, properties).map_err(|error| SourceError::Value {
            resource: resource.name.clone(),
            error,
        })?;
        requests.push(WriteRequest {
            resource: resource.name.clone(),
            value,
            attributes: attributes(resource),
        });
    }
    Ok(requests)
}

/// What the driver is told about a device.
pub(crate) fn info(device: &Device) -> DeviceInfo {
    let protocols = device.spec.protocols.iter().map(|(name, properties)| {
        (
            name.clone(),
            serde_json::to_string(properties).unwrap_or_default(),
        )
    });
    DeviceInfo {
        name: device.edgex_name().into_owned(),
        profile: device.spec.profile_name.clone(),
        protocols: protocols.collect(),
    }
}

/// What a device's driver may reach: the addresses that the device names.
pub(crate) fn grants(device: &Device) -> Grants {
    let mut grants = Grants::default();
    for (protocol, properties) in &device.spec.protocols {
        let property = |wanted: &str| {
            properties
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, property)| plain(property))
                .filter(|text| !text.is_empty())
        };
        match property("broker") {
            Some(broker) => grants.mqtt.push(broker),
            None if protocol.eq_ignore_ascii_case("mqtt") => {
                grants.mqtt.push(LOCAL_BROKER.to_owned());
            }
            None => {}
        }
        let urls = properties.values().filter_map(Json::as_str);
        grants.sockets.extend(urls.filter_map(place_of));
        let Some(host) = property("address").or_else(|| property("host")) else {
            continue;
        };
        let protocol = protocol.to_ascii_lowercase();
        if protocol.contains("modbus") && host.starts_with("/dev/") {
            // A serial line; how it is set up is the driver's business.
            grants.modbus.push(format!("rtu://{host}"));
            continue;
        }
        let port = property("port");
        if let Some(port) = port.clone().or_else(|| usual_port(&protocol)) {
            let bare = host.trim_matches(['[', ']']);
            grants
                .sockets
                .push(match bare.parse::<std::net::Ipv6Addr>() {
                    Ok(v6) => format!("[{v6}]:{port}"),
                    Err(_) if bare.contains(':') => bare.to_owned(),
                    Err(_) => format!("{bare}:{port}"),
                });
        }
        let default = protocol.contains("modbus").then(|| "502".to_owned());
        match port.or(default) {
            _ if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() => {
                grants.modbus.push(host);
            }
            Some(port) if host.contains(':') => grants.modbus.push(format!("[{host}]:{port}")),
            Some(port) => grants.modbus.push(format!("{host}:{port}")),
            None => {}
        }
    }
    grants
}

/// Where a driver that looks for devices may look: `discovery` among the properties of its service,
/// one text with commas or a list of texts, each as in [`Grants::sockets`].
pub(crate) fn discovery_grants(properties: &BTreeMap<String, Json>) -> Grants {
    let texts = texts(properties.get("discovery"));
    Grants {
        sockets: texts.iter().map(|text| text.trim().to_owned()).collect(),
        ..Grants::default()
    }
}

/// The parts of one text with commas, or of a list of texts.
pub(crate) fn texts(property: Option<&Json>) -> Vec<&str> {
    match property {
        Some(Json::String(text)) => text.split(',').collect(),
        Some(Json::Array(all)) => all.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The port of a protocol whose devices do not name one.
fn usual_port(protocol: &str) -> Option<String> {
    let usual = [
        ("modbus", 502),
        ("snmp", 161),
        ("onvif", 80),
        ("rest", 80),
        ("https", 443),
        ("http", 80),
        ("opcua", 4840),
        ("opc.tcp", 4840),
    ];
    let found = usual.iter().find(|(name, _)| protocol.contains(name));
    found.map(|(_, port)| port.to_string())
}

/// `HOST:PORT` of a URL.
fn place_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let address = authority.rsplit_once('@').map_or(authority, |(_, at)| at);
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match has_port {
        true => Some(address.to_owned()),
        false => Some(format!("{address}:{}", usual_port(scheme)?)),
    }
}

fn operations<'a>(
    profile: &'a DeviceProfile,
    source: &str,
) -> Result<Vec<Operation<'a>>, SourceError> {
    // As EdgeX does: a command hides the resource of the same name.
    let Some(command) = profile.spec.command(source) else {
        let resource = profile
            .spec
            .resource(source)
            .ok_or_else(|| SourceError::Unknown {
                profile: profile.edgex_name().into_owned(),
                source_name: source.to_owned(),
            })?;
        return Ok(vec![Operation {
            resource,
            default: None,
            mappings: None,
        }]);
    };
    let count = command.resource_operations.len();
    if count > OPERATIONS {
        return Err(SourceError::TooMany {
            command: source.to_owned(),
            count,
        });
    }
    let resolve = |operation: &'a eyot_api::ResourceOperation| {
        let resource = profile
            .spec
            .resource(&operation.device_resource)
            .ok_or_else(|| SourceError::Dangling {
                profile: profile.edgex_name().into_owned(),
                command: source.to_owned(),
                resource: operation.device_resource.clone(),
            })?;
        Ok(Operation {
            resource,
            default: operation
                .default_value
                .as_deref()
                .filter(|text| !text.is_empty()),
            mappings: Some(&operation.mappings),
        })
    };
    command.resource_operations.iter().map(resolve).collect()
}

fn attributes(resource: &DeviceResource) -> String {
    serde_json::to_string(&resource.attributes).unwrap_or_else(|_| "{}".to_owned())
}

/// Add a command's query arguments to a resource's attributes, where EdgeX's drivers look for them.
pub(crate) fn with_query(attributes: &mut String, query: &str) {
    if query.is_empty() {
        return;
    }
    let mut all: serde_json::Map<String, Json> =
        serde_json::from_str(attributes).unwrap_or_default();
    all.insert(QUERY.to_owned(), query.into());
    *attributes = Json::Object(all).to_string();
}

fn mapped(value: &Value, mappings: &BTreeMap<String, Json>) -> Option<Value> {
    if mappings.is_empty() {
        return None;
    }
    let to = mappings.get(&value::display(value))?;
    Some(Value::String(plain(to)))
}

fn unmapped(text: &str, mappings: Option<&BTreeMap<String, Json>>) -> String {
    let from = mappings
        .into_iter()
        .flatten()
        .find(|(_, to)| plain(to) == text);
    from.map_or_else(|| text.to_owned(), |(from, _)| from.clone())
}

/// A JSON value as text: texts without quotes.
pub(crate) fn plain(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
