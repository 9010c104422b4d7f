//! REST: curl pushes, and Python's HTTP server is commanded.

use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Peer, answers, has, stored};
use crate::{
    drivers::{WAIT, command, device, driver, read, write},
    host::shared,
    tools::{curl, eventually, free_port},
};

pub fn devices_push_over_http_and_are_commanded() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host, "rest-driver", "rest_driver")?;
    let port = free_port()?;
    let _peer = Peer::script(Path::new("python3"), "rest.py", &[&port.to_string()])?;
    answers(port)?;
    let spec = json!({
        "serviceName": "rest-driver",
        "protocols": { "REST": { "Host": "127.0.0.1", "Port": port.to_string(), "Path": "api" } },
    });
    let resource = |name: &str, kind: &str, media_type: Option<&str>| {
        let mut properties = json!({ "valueType": kind, "readWrite": "RW" });
        if let Some(media_type) = media_type {
            properties["mediaType"] = media_type.into();
        }
        json!({ "name": name, "properties": properties })
    };
    let resources = json!([
        resource("Heat", "Float64", None),
        resource("Text", "String", None),
        resource("Thing", "Object", Some("application/json")),
        resource("Picture", "Binary", Some("image/png")),
    ]);
    device(host, "rest-1", &spec, &resources)?;

    // Commands go to the device.
    write(host, "rest-1", "Heat", "21.5")?;
    has(host, "rest-1", "Heat", "2.15e+01")?;
    let query = format!("{}?unit=kelvin", command(host, "rest-1", "Text"));
    write(host, "rest-1", "Text", "before")?;
    let (status, body) = curl(&[&query])?;
    ensure!(
        status == 200 && body.contains("unit=kelvin"),
        "{status} {body}"
    );
    let body = json!({ "Thing": { "a": 1 } }).to_string();
    let (status, answer) = curl(&["-X", "PUT", "-d", &body, &command(host, "rest-1", "Thing")])?;
    ensure!(status == 200, "{status} {answer}");
    let thing = read(host, "rest-1", "Thing")?;
    ensure!(thing["objectValue"]["a"] == 1, "{thing}");

    // The device pushes.
    let push = |path: &str, kind: &str, body: &str| {
        let base = format!(
            "http://127.0.0.1:{}/rest-driver",
            host.ports.device_services
        );
        let kind = format!("Content-Type: {kind}");
        let url = format!("{base}/api/v3/resource/{path}");
        curl(&["-X", "POST", "-H", &kind, "--data-binary", body, &url])
    };
    for (path, kind, body, expected) in [
        ("rest-1/Heat", "text/plain", "-3.5", 200),
        (
            "rest-1/Thing",
            "application/json; charset=utf-8",
            r#"{"b":2}"#,
            200,
        ),
        ("rest-1/Picture", "image/png", "no picture", 200),
        ("rest-1/Heat", "text/plain", "warm", 400),
        ("rest-1/Thing", "text/plain", r#"{"b":2}"#, 400),
        ("rest-1/Nothing", "text/plain", "1", 404),
        ("nobody/Heat", "text/plain", "1", 404),
        ("rest-1/Heat", "text/plain", "", 400),
    ] {
        let (status, answer) = push(path, kind, body)?;
        ensure!(
            status == expected,
            "{path} {kind} {body}: {status} {answer}"
        );
    }
    eventually("what was pushed is stored", WAIT, || {
        let heat = stored(host, "rest-1", "Heat")?.unwrap_or_default();
        let thing = stored(host, "rest-1", "Thing")?.unwrap_or_default();
        let picture: Value = stored(host, "rest-1", "Picture")?.unwrap_or_default();
        let all = heat["value"] == "-3.5e+00"
            && thing["objectValue"]["b"] == 2
            && picture["mediaType"] == "image/png";
        Ok(all.then_some(()))
    })?;
    let other = format!(
        "http://127.0.0.1:{}/rest-driver/api/v3/resource/rest-1/Heat",
        host.ports.device_services
    );
    let (status, answer) = curl(&[&other])?;
    ensure!(status == 405, "{status} {answer}");
    host.k(&["delete", "device", "rest-1"])?;
    Ok(())
}
