//! The REST API of device services: reading and writing the devices of one of the host's drivers, and
//! what devices and others send for them (`POST /api/v3/resource/<device>/<resource>`, as EdgeX's REST
//! device service has it; here any driver may take it).
//!
//! In EdgeX each device service has a port of its own. Here all share one: a service is reached
//! below its name, `/<service>/api/v3/…`, which is what its `baseAddress` says. Without a name the
//! only service there is is meant, or the one that has the device which the path names.

use std::sync::Arc;

use eyot_api::{Device, DeviceService};
use http::Method;

use super::{
    Edgex, basics, command, discovery, no_such_method, no_such_path, objects,
    reply::{Failure, Reply},
    request::Parsed,
};

/// Answer a request to one of the device services.
pub(super) async fn route(
    edgex: &Edgex,
    request: &Parsed,
    path: &[&str],
) -> Result<Reply, Failure> {
    let (service, path) = match path {
        ["api", "v3", path @ ..] => (unnamed(edgex, path)?, path),
        [service, "api", "v3", path @ ..] => (named(edgex, service)?, path),
        _ => return Err(no_such_path(request)),
    };
    let edgex = Edgex {
        device_service: Some(service.clone()),
        ..edgex.clone()
    };
    if let Some(answer) = basics::route(edgex.basics(), request, path).await {
        return answer;
    }
    if let Some(answer) = discovery::route(&edgex, request, &service, path).await {
        return answer;
    }
    match (path, &request.method) {
        (["device", "name", device, _], &Method::GET | &Method::PUT) => {
            own(&edgex, &service, device)?;
            let answer = command::route(&edgex, request, path).await;
            answer.unwrap_or_else(|| Err(no_such_path(request)))
        }
        (["resource", device, resource], &Method::POST) => {
            own(&edgex, &service, device)?;
            command::take(&edgex, request, device, resource).await
        }
        (["device", "name", _, _] | ["resource", _, _], _) => Err(no_such_method(request)),
        _ => Err(no_such_path(request)),
    }
}

/// A device of this service.
pub(super) fn own(edgex: &Edgex, service: &str, name: &str) -> Result<Arc<Device>, Failure> {
    let device = objects::named::<Device>(edgex, name)?;
    if device.spec.service_name == *service {
        Ok(device)
    } else {
        Err(Failure::not_found(format!(
            "device {name} is one of device service {}",
            device.spec.service_name
        )))
    }
}

fn named(edgex: &Edgex, name: &str) -> Result<Arc<str>, Failure> {
    let known = objects::find::<DeviceService>(edgex, name).is_some()
        || edgex.inner.drivers().iter().any(|driver| **driver == *name);
    if known {
        Ok(name.into())
    } else {
        Err(objects::missing::<DeviceService>(name))
    }
}

/// Which service is meant where none is named.
fn unnamed(edgex: &Edgex, path: &[&str]) -> Result<Arc<str>, Failure> {
    let drivers = edgex.inner.drivers();
    if let [only] = drivers.as_slice() {
        return Ok(only.clone());
    }
    if let ["device", "name", device, _]
    | ["profilescan", "device", "name", device]
    | ["resource", device, _] = path
    {
        let device = objects::named::<Device>(edgex, device)?;
        return Ok(device.spec.service_name.as_str().into());
    }
    Err(Failure::not_found(if drivers.is_empty() {
        "no driver runs, so there is no device service".to_owned()
    } else {
        format!(
            "say which device service is meant, as in /{}/api/v3/ping; there are: {}",
            drivers[0],
            drivers.join(", ")
        )
    }))
}
