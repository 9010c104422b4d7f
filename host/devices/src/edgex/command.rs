//! core-command: reading and writing devices by name, and the list of what is possible.

use std::collections::{BTreeMap, HashMap, HashSet};

use eyot_api::{Device, DeviceProfile, DeviceResource, ReadWrite};
use eyot_edgex::names;
use http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{
    Edgex, no_such_method, objects,
    reply::{Failure, Reply},
    request::{self, Page, Parsed},
};
use crate::{
    device::{Asked, CommandError, Handle, Sent},
    encode::{self, Encoded},
    source::SourceError,
};

/// Where EdgeX's clients look for core-command.
const URL: &str = "http://localhost:59882";

pub(super) async fn route(
    edgex: &Edgex,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    Some(match (path, &request.method) {
        (["device", "name", device, source], &Method::GET) => {
            read(edgex, request, device, source).await
        }
        (["device", "name", device, source], &Method::PUT) => {
            write(edgex, request, device, source).await
        }
        (["device", "name", device], &Method::GET) => commands(edgex, device),
        (["device", "all"], &Method::GET) => all(edgex, request),
        (["device", "name", _, _] | ["device", "name", _] | ["device", "all"], _) => {
            Err(no_such_method(request))
        }
        _ => return None,
    })
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let status = match &error {
            CommandError::NoDevice(_) | CommandError::Source(SourceError::Unknown { .. }) => {
                StatusCode::NOT_FOUND
            }
            CommandError::Source(SourceError::WriteOnly { .. } | SourceError::ReadOnly { .. }) => {
                StatusCode::METHOD_NOT_ALLOWED
            }
            CommandError::Source(_) | CommandError::Refused { .. } => StatusCode::BAD_REQUEST,
            CommandError::Locked(_)
            | CommandError::ServiceLocked(_)
            | CommandError::Down { .. } => StatusCode::LOCKED,
            CommandError::NotServed { .. } | CommandError::Busy(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            CommandError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            CommandError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            message: error.to_string(),
        }
    }
}

async fn read(
    edgex: &Edgex,
    request: &Parsed,
    device: &str,
    source: &str,
) -> Result<Reply, Failure> {
    let Some(event) = read_source(edgex, device, source, &request.query).await? else {
        return Ok(Reply::ok(json!({})));
    };
    if encode::has_bytes(&event.event) {
        let body = encode::cbor_answer(&event)
            .map_err(|error| Failure::internal(format!("the event in CBOR: {error}")))?;
        return Ok(Reply::encoded("application/cbor", body));
    }
    Ok(Reply::written(format!(
        "{{\"apiVersion\":\"v3\",\"statusCode\":200,\"event\":{}}}",
        String::from_utf8_lossy(&event.body)
    )))
}

/// Read a source as the query's arguments say; the event, if it is wanted.
pub(super) async fn read_source(
    edgex: &Edgex,
    device: &str,
    source: &str,
    query: &HashMap<String, String>,
) -> Result<Option<Encoded>, Failure> {
    let asked = Asked {
        push: request::flag(query, "ds-pushevent", false)?,
        pattern: request::flag(query, "ds-regexcmd", true)?,
        query: for_driver(query),
    };
    let answer = request::flag(query, "ds-returnevent", true)?;
    let event = served(edgex, device)?.read(source, asked).await?;
    Ok(answer.then(|| encode::event(event)))
}

async fn write(
    edgex: &Edgex,
    request: &Parsed,
    device: &str,
    source: &str,
) -> Result<Reply, Failure> {
    edgex.device(device)?;
    let values: BTreeMap<String, Json> =
        serde_json::from_slice(&request.body).map_err(|error| {
            Failure::bad_request(format!(
                "the body must be a JSON object such as {{\"{source}\":\"1\"}}: {error}"
            ))
        })?;
    write_source(edgex, device, source, values, &request.query).await?;
    Ok(Reply::ok(json!({})))
}

pub(super) async fn write_source(
    edgex: &Edgex,
    device: &str,
    source: &str,
    values: BTreeMap<String, Json>,
    query: &HashMap<String, String>,
) -> Result<(), Failure> {
    let handle = served(edgex, device)?;
    Ok(handle.write(source, values, for_driver(query)).await?)
}

/// Hand a driver what was sent for a resource.
pub(super) async fn take(
    edgex: &Edgex,
    request: &Parsed,
    device: &str,
    resource: &str,
) -> Result<Reply, Failure> {
    if request.body.is_empty() {
        return Err(Failure::bad_request("no request body provided"));
    }
    let media_type = request.content_type.as_deref().unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    let sent = Sent {
        resource: resource.to_owned(),
        media_type: media_type.to_ascii_lowercase(),
        body: request.body.clone(),
    };
    served(edgex, device)?.take(sent).await?;
    Ok(Reply::ok(json!({})))
}

/// The way to a device of EdgeX's namespace.
fn served(edgex: &Edgex, device: &str) -> Result<Handle, Failure> {
    let (key, _) = edgex.device(device)?;
    let handle = edgex.inner.handle(&key);
    Ok(handle.ok_or_else(|| CommandError::NoDevice(device.to_owned()))?)
}

/// What of a query is not for the host but for the driver, in the order of its names.
fn for_driver(query: &HashMap<String, String>) -> String {
    let ordered: BTreeMap<_, _> = query
        .iter()
        .filter(|(name, _)| !name.starts_with("ds-"))
        .collect();
    let mut text = form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(ordered);
    text.finish()
}

/// What can be done with one device.
pub(super) fn commands(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let (_, device) = edgex.device(name)?;
    Ok(Reply::ok(
        json!({ "deviceCoreCommand": core_commands(edgex, &device) }),
    ))
}

/// What can be done with all devices.
pub(super) fn all(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    page(edgex, request.page()?)
}

/// What can be done with the devices of one page.
pub(super) fn page(edgex: &Edgex, page: Page) -> Result<Reply, Failure> {
    let (total, devices) = page.of(objects::all::<Device>(edgex))?;
    let commands: Vec<_> = devices
        .iter()
        .map(|device| core_commands(edgex, device))
        .collect();
    Ok(Reply::ok(
        json!({ "totalCount": total, "deviceCoreCommands": commands }),
    ))
}

fn core_commands(edgex: &Edgex, device: &Device) -> Json {
    let name = device.edgex_name();
    let mut commands = Vec::new();
    // A device without a profile has no commands.
    if let Some(profile) = objects::find::<DeviceProfile>(edgex, &device.spec.profile_name) {
        let resources = profile.spec.device_resources.iter();
        let resources: HashMap<&str, _> = resources.map(|r| (r.name.as_str(), r)).collect();
        for command in profile
            .spec
            .device_commands
            .iter()
            .filter(|command| !command.is_hidden)
        {
            let operations = command.resource_operations.iter();
            let resources = operations
                .filter_map(|operation| resources.get(operation.device_resource.as_str()).copied());
            let parameters = resources.map(parameter).collect();
            commands.push(core_command(
                &name,
                &command.name,
                command.read_write,
                parameters,
            ));
        }
        for resource in visible(&profile) {
            let access = resource.properties.read_write;
            commands.push(core_command(
                &name,
                &resource.name,
                access,
                vec![parameter(resource)],
            ));
        }
    }
    json!({
        "deviceName": name,
        "profileName": device.spec.profile_name,
        "coreCommands": commands,
    })
}

/// Resources that are commands by themselves: a command of the same name hides one.
fn visible(profile: &DeviceProfile) -> impl Iterator<Item = &DeviceResource> {
    let commands = profile.spec.device_commands.iter();
    let commands: HashSet<&str> = commands.map(|command| command.name.as_str()).collect();
    let resources = profile.spec.device_resources.iter();
    resources.filter(move |r| !r.is_hidden && !commands.contains(r.name.as_str()))
}

fn parameter(resource: &DeviceResource) -> Json {
    json!({ "resourceName": resource.name, "valueType": resource.properties.value_type })
}

fn core_command(device: &str, name: &str, access: ReadWrite, parameters: Vec<Json>) -> Json {
    let mut command = json!({
        "name": name,
        "path": format!("/api/v3/device/name/{}/{}", names::name(device), names::name(name)),
        "url": URL,
        "parameters": parameters,
    });
    if access.readable() {
        command["get"] = true.into();
    }
    if access.writable() {
        command["set"] = true.into();
    }
    command
}
