//! Device services of core-metadata.

use eyot_api::{Device, DeviceService, DeviceServiceSpec, ProvisionWatcher};
use eyot_edgex::each;
use serde_json::json;

use super::super::{
    Edgex,
    body::{self, Check, Fields},
    dto, objects,
    reply::{Done, Failure, Reply},
    request::Parsed,
};
use super::{created, done, locked, new_name, page, updated};

/// What an update may change.
const FIELDS: &[&str] = &[
    "description",
    "labels",
    "baseAddress",
    "adminState",
    "properties",
];
const ADMIN: &[&str] = &["LOCKED", "UNLOCKED"];

pub(super) fn all(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let all = objects::all::<DeviceService>(edgex);
    page(request, "services", all, dto::service)
}

pub(super) fn one(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let service = objects::named::<DeviceService>(edgex, name)?;
    Ok(Reply::ok(json!({ "service": dto::service(&service) })))
}

/// A device needs a service that is there.
pub(super) fn known(edgex: &Edgex, name: &str) -> Result<(), Failure> {
    match objects::find::<DeviceService>(edgex, name) {
        Some(_) => Ok(()),
        None => Err(Failure::bad_request(format!(
            "device service '{name}' does not exist"
        ))),
    }
}

pub(super) async fn add(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = body::items(
        request,
        "AddDeviceServiceRequest",
        "service",
        |check, service| {
            check.required(service, "name");
            check.required(service, "baseAddress");
            address(check, service);
            check.one_of(service, "adminState", ADMIN, true);
            check.text(service, "description");
        },
    )?;
    let _writing = edgex.writing().await;
    each!(items, mut item => {
        let name = new_name(&mut item.content);
        let spec: DeviceServiceSpec = body::read(item.content)?;
        let service = objects::add(edgex, &name, DeviceService::new("", spec)).await?;
        Ok(created(&service))
    })
}

pub(super) async fn update(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let items = body::items(
        request,
        "UpdateDeviceServiceRequest",
        "service",
        |check, service| {
            check.identity(service);
            address(check, service);
            check.one_of(service, "adminState", ADMIN, false);
            check.text(service, "description");
        },
    )?;
    let _writing = edgex.writing().await;
    each!(items, item => {
        let service = updated::<DeviceService>(edgex, &item.content)?;
        objects::change(edgex, &*service, |service| {
            body::patch(&mut service.spec, &item.content, FIELDS)
        })
        .await?;
        Ok(Done::Changed)
    })
}

pub(super) async fn remove(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let _writing = edgex.writing().await;
    let service = objects::named::<DeviceService>(edgex, name)?;
    let used = |by: &str| {
        locked(format!(
            "fail to delete the device service when associated {by} exists"
        ))
    };
    let devices = objects::all::<Device>(edgex);
    if devices
        .iter()
        .any(|device| device.spec.service_name == name)
    {
        return Err(used("device"));
    }
    let watchers = objects::all::<ProvisionWatcher>(edgex);
    if watchers
        .iter()
        .any(|watcher| watcher.spec.service_name == name)
    {
        return Err(used("provisionWatcher"));
    }
    objects::remove(edgex, &*service).await?;
    done()
}

/// An address must be a URI with a scheme.
fn address(check: &mut Check, service: &Fields) {
    if let Some(address) = check.text(service, "baseAddress")
        && !address.trim().is_empty()
        && !address
            .parse::<http::Uri>()
            .is_ok_and(|uri| uri.scheme().is_some())
    {
        let path = check.path("baseAddress");
        check.say(format!("{path} field validation failed on the uri tag"));
    }
}
