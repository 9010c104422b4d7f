//! Devices of core-metadata.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eyot_api::{AutoEvent, Device, DeviceProfile, DeviceSpec, parse_duration};
use eyot_edgex::each;
use eyot_runtime::guest::DriverError;
use http::StatusCode;
use kube::{Api, ResourceExt, api::Patch, api::PatchParams};
use serde_json::{Value as Json, json};

use super::super::{
    Edgex,
    body::{self, Check, Fields},
    dto,
    objects::{self, refused},
    reply::{Done, Failure, Reply},
    request::Parsed,
};
use super::{created, done, locked, new_name, page, services, updated};
use crate::{
    Devices, ScanError,
    device::said::{SAID, operating_state, saying},
    source,
};

/// What an update may change in the spec.
const FIELDS: &[&str] = &[
    "parent",
    "description",
    "adminState",
    "serviceName",
    "profileName",
    "labels",
    "location",
    "autoEvents",
    "protocols",
    "tags",
    "properties",
];
/// How long a driver may take to check a device.
const VALIDATION: Duration = Duration::from_secs(5);
const ADMIN: &[&str] = &["LOCKED", "UNLOCKED"];
const OPERATING: &[&str] = &["UP", "DOWN", "UNKNOWN"];

pub(in crate::edgex) fn one(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let device = objects::named::<Device>(edgex, name)?;
    Ok(Reply::ok(json!({ "device": dto::device(&device) })))
}

pub(super) fn identified(edgex: &Edgex, id: &str) -> Result<Reply, Failure> {
    if uuid::Uuid::parse_str(id).is_err() {
        return Err(Failure::bad_request(format!("id: {id:?} is not a uuid")));
    }
    let device = objects::identified::<Device>(edgex, id)?;
    Ok(Reply::ok(json!({ "device": dto::device(&device) })))
}

pub(in crate::edgex) fn all(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let mut devices = objects::all::<Device>(edgex);
    if let Some(ancestor) = request.query.get("descendantsOf").filter(|a| !a.is_empty()) {
        let levels = request.query.get("maxLevels").map(String::as_str);
        let levels = match levels.unwrap_or("0").parse::<usize>() {
            // None asked for is all there are.
            Ok(0) => usize::MAX,
            Ok(levels) => levels,
            Err(_) => {
                return Err(Failure::bad_request(
                    "maxLevels: must be a whole number that is not negative",
                ));
            }
        };
        devices = descendants(devices, ancestor, levels);
    }
    page(request, "devices", devices, dto::device)
}

pub(super) fn of_profile(edgex: &Edgex, request: &Parsed, name: &str) -> Result<Reply, Failure> {
    let mut devices = objects::all::<Device>(edgex);
    devices.retain(|device| device.spec.profile_name == name);
    page(request, "devices", devices, dto::device)
}

pub(super) fn of_service(edgex: &Edgex, request: &Parsed, name: &str) -> Result<Reply, Failure> {
    let mut devices = objects::all::<Device>(edgex);
    devices.retain(|device| device.spec.service_name == name);
    page(request, "devices", devices, dto::device)
}

/// The devices below another, so many levels deep at most. Nobody is asked twice, so parents that
/// go round in a circle do no harm.
fn descendants(devices: Vec<Arc<Device>>, of: &str, levels: usize) -> Vec<Arc<Device>> {
    let mut children: HashMap<String, Vec<Arc<Device>>> = HashMap::new();
    for device in devices {
        if !device.spec.parent.is_empty() {
            let parent = device.spec.parent.clone();
            children.entry(parent).or_default().push(device);
        }
    }
    let mut found = Vec::new();
    let mut level = vec![of.to_owned()];
    for _ in 0..levels {
        let below: Vec<_> = level
            .iter()
            .flat_map(|parent| children.remove(parent).unwrap_or_default())
            .collect();
        if below.is_empty() {
            break;
        }
        level = below.iter().map(|d| d.edgex_name().into_owned()).collect();
        found.extend(below);
    }
    found
}

pub(super) async fn add(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let force = request.flag("force", false)?;
    let unchecked = request.flag("bypassValidation", false)?;
    let items = body::items(request, "AddDeviceRequest", "device", |check, device| {
        check.required(device, "name");
        check.one_of(device, "adminState", ADMIN, true);
        check.one_of(device, "operatingState", OPERATING, true);
        check.required(device, "serviceName");
        check.auto_events(device);
        check.map(device, "protocols", true);
        shape(check, device);
    })?;
    let _writing = edgex.writing().await;
    each!(items, mut item => {
        let name = new_name(&mut item.content);
        let state = item.content.remove("operatingState");
        let spec: DeviceSpec = body::read(item.content)?;
        judge(edgex, &name, &spec)?;
        if !unchecked {
            ask_driver(edgex, &name, &spec).await?;
        }
        let known = objects::find::<Device>(edgex, &name);
        let device = match known.filter(|_| force) {
            Some(device) => {
                let device = objects::change(edgex, &*device, |device| {
                    let name = device.spec.name.take();
                    device.spec = DeviceSpec {
                        name,
                        desired: std::mem::take(&mut device.spec.desired),
                        ..spec.clone()
                    };
                    Ok(())
                })
                .await?;
                set_state(edgex, &device, state.as_ref()).await?;
                device
            }
            None => {
                let mut device = Device::new("", spec);
                if let Some(state) = state.as_ref().and_then(Json::as_str) {
                    device.annotations_mut().insert(SAID.to_owned(), saying(state));
                }
                objects::add(edgex, &name, device).await?
            }
        };
        Ok(created(&device))
    })
}

pub(super) async fn update(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let unchecked = request.flag("bypassValidation", false)?;
    let items = body::items(request, "UpdateDeviceRequest", "device", |check, device| {
        check.identity(device);
        check.one_of(device, "adminState", ADMIN, false);
        check.one_of(device, "operatingState", OPERATING, false);
        check.not_blank(device, "serviceName");
        check.auto_events(device);
        check.map(device, "protocols", false);
        shape(check, device);
    })?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let content = &item.content;
        if let Some(service) = content.get("serviceName").and_then(Json::as_str) {
            services::known(edgex, service)?;
        }
        let device = updated::<Device>(edgex, content)?;
        if !unchecked && (content.contains_key("protocols") || content.contains_key("serviceName"))
        {
            let mut spec = device.spec.clone();
            body::patch(&mut spec, content, FIELDS)?;
            ask_driver(edgex, &device.edgex_name(), &spec).await?;
        }
        let device = objects::change(edgex, &*device, |device| {
            body::patch(&mut device.spec, content, FIELDS)?;
            judge(edgex, &device.edgex_name(), &device.spec)
        })
        .await?;
        set_state(edgex, &device, content.get("operatingState")).await?;
        Ok(Done::Changed)
    })
}

pub(super) async fn remove(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let _writing = edgex.writing().await;
    let device = objects::named::<Device>(edgex, name)?;
    let devices = objects::all::<Device>(edgex);
    if devices.iter().any(|device| device.spec.parent == name) {
        return Err(locked("cannot delete device with children".to_owned()));
    }
    objects::remove(edgex, &*device).await?;
    done()
}

/// The shapes of what both kinds of request may have.
fn shape(check: &mut Check, device: &Fields) {
    for text in ["parent", "description", "profileName"] {
        check.text(device, text);
    }
    for map in ["tags", "properties"] {
        check.map(device, map, false);
    }
}

/// What a device must agree with.
pub(in crate::edgex) fn judge(edgex: &Edgex, name: &str, spec: &DeviceSpec) -> Result<(), Failure> {
    services::known(edgex, &spec.service_name)?;
    if spec.parent == name && !name.is_empty() {
        return Err(Failure::bad_request(format!(
            "device '{name}' cannot be its own parent"
        )));
    }
    if spec.profile_name.is_empty() {
        return Ok(());
    }
    let Some(profile) = objects::find::<DeviceProfile>(edgex, &spec.profile_name) else {
        return Err(Failure::bad_request(format!(
            "device profile '{}' not found during validating device '{name}'",
            spec.profile_name
        )));
    };
    for event in &spec.auto_events {
        judge_event(name, &profile, event)?;
    }
    Ok(())
}

/// Let the driver check a device, if one runs that does so.
async fn ask_driver(edgex: &Edgex, name: &str, spec: &DeviceSpec) -> Result<(), Failure> {
    let mut device = Device::new("", spec.clone());
    device.spec.name = Some(name.to_owned());
    let devices = Devices::of(&edgex.inner);
    let asked = devices.validate(&edgex.inner.namespace, &device);
    match tokio::time::timeout(VALIDATION, asked).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ScanError::NotServed(_) | ScanError::Driver(DriverError::NotSupported(_)))) => {
            Ok(())
        }
        Ok(Err(error @ ScanError::Driver(DriverError::Invalid { .. }))) => {
            Err(Failure::bad_request(format!(
                "device service {} does not take device '{name}': {error}",
                spec.service_name
            )))
        }
        Ok(Err(error)) => Err(Failure::internal(error.to_string())),
        Err(_) => Err(Failure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: format!(
                "device service {} did not check device '{name}' in {VALIDATION:?}; \
                 bypassValidation=true does without",
                spec.service_name
            ),
        }),
    }
}

fn judge_event(name: &str, profile: &DeviceProfile, event: &AutoEvent) -> Result<(), Failure> {
    if parse_duration(&event.interval).is_err() {
        return Err(Failure::bad_request(format!(
            "auto event interval '{}' not valid in the device '{name}'",
            event.interval
        )));
    }
    let source = &event.source_name;
    let direct = profile.spec.resource(source).is_some() || profile.spec.command(source).is_some();
    if direct || !source::matching(profile, source).is_empty() {
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "auto event source '{source}' cannot be found in the device profile '{}'",
        profile.edgex_name()
    )))
}

/// Keep what a client says of a device's state. A client that sends back what it was told says
/// nothing. The status first: the device's task writes its own after it has seen the annotation.
async fn set_state(edgex: &Edgex, device: &Device, state: Option<&Json>) -> Result<(), Failure> {
    let Some(state) = state.and_then(Json::as_str) else {
        return Ok(());
    };
    if operating_state(device).as_str() == state {
        return Ok(());
    }
    let api: Api<Device> = Api::namespaced(edgex.inner.client.clone(), &edgex.inner.namespace);
    let patch = json!({ "status": { "operatingState": state } });
    let (name, how) = (device.name_any(), PatchParams::default());
    api.patch_status(&name, &how, &Patch::Merge(patch))
        .await
        .map_err(refused::<Device>)?;
    let patch = json!({ "metadata": { "annotations": { SAID: saying(state) } } });
    let stored = api
        .patch(&name, &how, &Patch::Merge(patch))
        .await
        .map_err(refused::<Device>)?;
    edgex.inner.devices.has(&stored).await;
    Ok(())
}
