//! core-metadata, the reading side: devices, profiles and device services in EdgeX's shapes.

use std::collections::BTreeMap;

use eyot_api::{Device, DeviceProfile, OperatingState};
use http::Method;
use serde_json::{Value as Json, json};

use super::{
    Edgex, no_such_method,
    reply::{Failure, Reply},
    request::Parsed,
};

pub(super) fn route(
    edgex: &Edgex,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let answer = match path {
        ["device", "all"] => devices(edgex, request, |_| true),
        ["device", "name", name] => device(edgex, name),
        ["device", "check", "name", name] => edgex.device(name).map(|_| Reply::ok(json!({}))),
        ["device", "profile", "name", name] => {
            devices(edgex, request, |device| device.spec.profile_name == *name)
        }
        ["device", "service", "name", name] => {
            devices(edgex, request, |device| device.spec.service_name == *name)
        }
        ["deviceprofile", "all"] => profiles(edgex, request, |_| true),
        ["deviceprofile", "basicinfo", "all"] => basic_info(edgex, request),
        ["deviceprofile", "name", name] => edgex
            .profile(name)
            .map(|profile| Reply::ok(json!({ "profile": profile_json(&profile) }))),
        ["deviceprofile", "manufacturer", manufacturer] => profiles(edgex, request, |profile| {
            profile.spec.manufacturer == *manufacturer
        }),
        ["deviceprofile", "model", model] => {
            profiles(edgex, request, |profile| profile.spec.model == *model)
        }
        [
            "deviceprofile",
            "manufacturer",
            manufacturer,
            "model",
            model,
        ] => profiles(edgex, request, |profile| {
            profile.spec.manufacturer == *manufacturer && profile.spec.model == *model
        }),
        ["deviceresource", "profile", profile, "resource", name] => resource(edgex, profile, name),
        ["deviceservice", "all"] => services(edgex, request),
        ["deviceservice", "name", name] => service(edgex, name),
        ["device" | "deviceprofile"] if request.method != Method::GET => {
            Err(no_such_method(request))
        }
        _ => return None,
    };
    Some(if request.method == Method::GET {
        answer
    } else {
        Err(no_such_method(request))
    })
}

pub(super) fn device(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let (_, device) = edgex.device(name)?;
    Ok(Reply::ok(json!({ "device": device_json(&device) })))
}

pub(super) fn devices(
    edgex: &Edgex,
    request: &Parsed,
    wanted: impl Fn(&Device) -> bool,
) -> Result<Reply, Failure> {
    let labels = labels(request);
    let mut devices = edgex.all_devices();
    devices.retain(|device| {
        wanted(device)
            && labels
                .iter()
                .all(|label| device.spec.labels.contains(label))
    });
    let (total, page) = request.page()?.of(devices)?;
    let page: Vec<_> = page.iter().map(|device| device_json(device)).collect();
    Ok(Reply::ok(json!({ "totalCount": total, "devices": page })))
}

fn profiles(
    edgex: &Edgex,
    request: &Parsed,
    wanted: impl Fn(&DeviceProfile) -> bool,
) -> Result<Reply, Failure> {
    let labels = labels(request);
    let mut profiles = edgex.all_profiles();
    profiles.retain(|profile| {
        wanted(profile)
            && labels
                .iter()
                .all(|label| profile.spec.labels.contains(label))
    });
    let (total, page) = request.page()?.of(profiles)?;
    let page: Vec<_> = page.iter().map(|profile| profile_json(profile)).collect();
    Ok(Reply::ok(json!({ "totalCount": total, "profiles": page })))
}

fn basic_info(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let (total, page) = request.page()?.of(edgex.all_profiles())?;
    let basic = |profile: &DeviceProfile| {
        let mut json = profile_json(profile);
        if let Some(fields) = json.as_object_mut() {
            fields.remove("deviceResources");
            fields.remove("deviceCommands");
        }
        json
    };
    let page: Vec<_> = page.iter().map(|profile| basic(profile)).collect();
    Ok(Reply::ok(json!({ "totalCount": total, "profiles": page })))
}

fn resource(edgex: &Edgex, profile: &str, name: &str) -> Result<Reply, Failure> {
    let found = edgex.profile(profile)?;
    match found.spec.resource(name) {
        Some(resource) => Ok(Reply::ok(json!({ "resource": resource }))),
        None => Err(Failure::not_found(format!(
            "profile {profile} has no resource {name}"
        ))),
    }
}

/// Device services are named by the devices that they serve.
fn known_services(edgex: &Edgex) -> Vec<Json> {
    let devices = edgex.all_devices();
    let names: BTreeMap<&str, ()> = devices
        .iter()
        .map(|device| (device.spec.service_name.as_str(), ()))
        .collect();
    names.into_keys().map(service_json).collect()
}

fn services(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let (total, page) = request.page()?.of(known_services(edgex))?;
    Ok(Reply::ok(json!({ "totalCount": total, "services": page })))
}

fn service(edgex: &Edgex, name: &str) -> Result<Reply, Failure> {
    let known = known_services(edgex)
        .into_iter()
        .find(|service| service["name"] == name);
    let missing = || Failure::not_found(format!("no device names device service {name}"));
    Ok(Reply::ok(json!({ "service": known.ok_or_else(missing)? })))
}

fn service_json(name: &str) -> Json {
    json!({
        "name": name,
        "baseAddress": format!("http://{name}"),
        "adminState": "UNLOCKED",
    })
}

fn labels(request: &Parsed) -> Vec<String> {
    let given = request
        .query
        .get("labels")
        .map(String::as_str)
        .unwrap_or_default();
    given
        .split(',')
        .filter(|label| !label.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The spec has EdgeX's fields already: add what EdgeX keeps beside them.
fn device_json(device: &Device) -> Json {
    let mut json = serde_json::to_value(&device.spec).unwrap_or_default();
    let state = device
        .status
        .as_ref()
        .map_or(OperatingState::Unknown, |s| s.operating_state);
    json["name"] = device.edgex_name().into();
    json["operatingState"] = state.as_str().into();
    for list in ["autoEvents", "labels"] {
        if json.get(list).is_none() {
            json[list] = json!([]);
        }
    }
    stamp(&mut json, &device.metadata);
    json
}

fn profile_json(profile: &DeviceProfile) -> Json {
    let mut json = serde_json::to_value(&profile.spec).unwrap_or_default();
    json["name"] = profile.edgex_name().into();
    json["apiVersion"] = "v3".into();
    for list in ["deviceResources", "deviceCommands", "labels"] {
        if json.get(list).is_none() {
            json[list] = json!([]);
        }
    }
    stamp(&mut json, &profile.metadata);
    json
}

fn stamp(json: &mut Json, metadata: &kube::api::ObjectMeta) {
    if let Some(uid) = &metadata.uid {
        json["id"] = uid.as_str().into();
    }
    if let Some(created) = &metadata.creation_timestamp {
        json["created"] = created.0.as_millisecond().into();
    }
}
