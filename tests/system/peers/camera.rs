//! ONVIF cameras: one of PyPI, and one that has events.

use std::{path::Path, sync::OnceLock};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Peer, answers, credentials, set_properties, shared_driver, stored};
use crate::{
    drivers::{WAIT, command, device, read},
    host::{Host, shared},
    tools::{curl, eventually, free_port},
};

fn driver(host: &Host) -> anyhow::Result<()> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    shared_driver(&ONCE, host, "camera-driver", "camera_driver")
}

/// As in EdgeX's own profile of cameras.
fn resources() -> Value {
    let resource = |name: &str, kind: &str, access: &str, attributes: Value| {
        json!({
            "name": name, "attributes": attributes,
            "properties": { "valueType": kind, "readWrite": access },
        })
    };
    let get =
        |service: &str, function: &str| json!({ "service": service, "getFunction": function });
    let set =
        |service: &str, function: &str| json!({ "service": service, "setFunction": function });
    json!([
        resource(
            "DeviceInformation",
            "Object",
            "R",
            get("Device", "GetDeviceInformation")
        ),
        resource("Profiles", "Object", "R", get("Media", "GetProfiles")),
        resource("StreamUri", "Object", "R", get("Media", "GetStreamUri")),
        resource("GetStatus", "Object", "R", get("PTZ", "GetStatus")),
        resource("AbsoluteMove", "Object", "W", set("PTZ", "AbsoluteMove")),
        resource("Snapshot", "Binary", "R", get("EdgeX", "GetSnapshot")),
        resource(
            "OnvifCameraEvent",
            "Object",
            "R",
            get("EdgeX", "CameraEvent")
        ),
        resource(
            "PullPointSubscription",
            "Object",
            "W",
            json!({
                "service": "EdgeX", "setFunction": "SubscribeCameraEvent", "subscribeType": "PullPoint",
                "defaultAutoRenew": true, "defaultTopicFilter": "",
            })
        ),
    ])
}

pub fn a_camera_is_found_moved_and_looked_through() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host)?;
    let port = free_port()?;
    let _peer = Peer::packaged("camera.py", &[&port.to_string(), "admin", "secret123"])?;
    answers(port)?;
    credentials(
        host,
        "camera-login",
        &json!({ "username": "admin", "password": "secret123", "mode": "usernametoken,basic" }),
    )?;
    let spec = |credentials: &str| {
        json!({
            "serviceName": "camera-driver",
            "protocols": { "Onvif": {
                "Address": "127.0.0.1", "Port": port, "CredentialsName": credentials,
            } },
        })
    };
    device(host, "gate", &spec("camera-login"), &resources())?;
    let object = |resource: &str| anyhow::Ok(read(host, "gate", resource)?["objectValue"].clone());
    let information = object("DeviceInformation")?;
    ensure!(information["Manufacturer"] == "PythonCam", "{information}");
    let profiles = object("Profiles")?;
    let token = profiles["Profiles"][0]["Token"]
        .as_str()
        .context("no profile")?;
    let stream = object("StreamUri")?;
    let uri = stream["MediaUri"]["Uri"].as_str().unwrap_or_default();
    ensure!(uri.starts_with("rtsp://"), "{stream}");

    let body = json!({ "AbsoluteMove": {
        "ProfileToken": token, "Position": { "PanTilt": { "X": 0.5, "Y": -0.25 }, "Zoom": { "X": 0.5 } },
    } });
    let url = command(host, "gate", "AbsoluteMove");
    let (status, answer) = curl(&["-X", "PUT", "-d", &body.to_string(), &url])?;
    ensure!(status == 200, "{status} {answer}");
    eventually("the camera looks there", WAIT, || {
        let status = object("GetStatus")?;
        let position = &status["PTZStatus"]["Position"]["PanTilt"];
        let number = |name: &str| position[name].as_str().and_then(|n| n.parse::<f64>().ok());
        Ok((number("X") == Some(0.5) && number("Y") == Some(-0.25)).then_some(()))
    })?;

    let snapshot = command(host, "gate", "Snapshot");
    let (status, answer) = curl(&[&format!(
        "{snapshot}?ds-pushevent=true&ds-returnevent=false"
    )])?;
    ensure!(status == 200, "{status} {answer}");
    eventually("the picture is stored", WAIT, || {
        let picture = stored(host, "gate", "Snapshot")?.unwrap_or_default();
        Ok((picture["mediaType"] == "image/jpeg").then_some(()))
    })?;

    credentials(
        host,
        "camera-wrong",
        &json!({ "username": "admin", "password": "wrong" }),
    )?;
    device(host, "gate-wrong", &spec("camera-wrong"), &resources())?;
    let (status, answer) = curl(&[&command(host, "gate-wrong", "Profiles")])?;
    ensure!(
        status == 500 && answer.contains("user or the password"),
        "{status} {answer}"
    );

    // It is found, and a watcher lets it in.
    set_properties(
        host,
        "camera-driver",
        &json!({ "discovery": "127.0.0.1:3702" }),
    )?;
    host.apply(
        &json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "ProvisionWatcher",
            "metadata": { "name": "cameras" },
            "spec": {
                "serviceName": "camera-driver", "identifiers": { "Address": "^127\\." },
                "discoveredDevice": { "profileName": "gate" },
            },
        })
        .to_string(),
    )?;
    let url = format!(
        "http://127.0.0.1:{}/camera-driver/api/v3/discovery",
        host.ports.device_services
    );
    eventually("the camera is found", WAIT, || {
        let (status, answer) = curl(&["-X", "POST", &url])?;
        ensure!([202, 423].contains(&status), "{status} {answer}");
        let all = host.k(&["get", "devices", "-o", "name"])?;
        Ok(all.contains("/onvif-").then_some(()))
    })?;
    host.k(&["delete", "provisionwatcher", "cameras"])?;
    let all = host.k(&["get", "devices", "-o", "name"])?;
    for name in all
        .lines()
        .filter(|name| name.contains("/onvif-") || name.contains("/gate"))
    {
        host.k(&["delete", name])?;
    }
    Ok(())
}

pub fn events_of_a_camera_are_pulled() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host)?;
    let port = free_port()?;
    let _peer = Peer::script(
        Path::new("python3"),
        "events.py",
        &[&port.to_string(), "admin", "secret123"],
    )?;
    answers(port)?;
    credentials(
        host,
        "events-login",
        &json!({ "username": "admin", "password": "secret123", "mode": "digest" }),
    )?;
    let spec = json!({
        "serviceName": "camera-driver",
        "protocols": { "Onvif": {
            "Address": "127.0.0.1", "Port": port, "CredentialsName": "events-login", "Events": true,
        } },
    });
    device(host, "watcher", &spec, &resources())?;
    let state = || {
        let event = stored(host, "watcher", "OnvifCameraEvent")?.unwrap_or_default();
        let event = &event["objectValue"];
        let state = event["Data"]["State"]
            .as_str()
            .and_then(|state| state.parse::<u32>().ok());
        let is_it =
            event["Topic"] == "tns1:VideoSource/MotionAlarm" && event["Source"]["Source"] == "lens";
        anyhow::Ok(state.filter(|_| is_it))
    };
    let first = eventually("an event is a reading", WAIT, state)?;
    // The camera forgets; the driver subscribes again.
    curl(&[&format!("http://127.0.0.1:{port}/forget")])?;
    eventually("events come again", WAIT, || {
        Ok(state()?.filter(|now| *now > first + 2))
    })?;
    host.k(&["delete", "device", "watcher"])?;
    Ok(())
}
