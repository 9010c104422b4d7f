//! MQTT over TLS against mosquitto.

use std::{path::Path, process::Command};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{Peer, answers, credentials, stored};
use crate::{
    drivers::{WAIT, device, driver, write},
    host::shared,
    tools::{eventually, find, free_port, run, succeed},
};

/// An authority, and a certificate of it for the broker.
pub fn certificates(directory: &Path) -> anyhow::Result<()> {
    let openssl = |arguments: &[&str]| {
        succeed(
            Command::new("openssl")
                .current_dir(directory)
                .args(arguments),
        )
        .map(drop)
    };
    let new: &[&str] = &["req", "-newkey", "rsa:2048", "-nodes", "-batch"];
    openssl(
        &[
            new,
            &[
                "-x509",
                "-keyout",
                "ca.key",
                "-out",
                "ca.crt",
                "-subj",
                "/CN=Test authority",
            ],
        ]
        .concat(),
    )?;
    openssl(
        &[
            new,
            &[
                "-keyout",
                "key.pem",
                "-out",
                "request",
                "-subj",
                "/CN=localhost",
            ],
        ]
        .concat(),
    )?;
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n")?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "cert.pem",
        "-days",
        "2",
        "-extfile",
        "names",
    ])
}

/// A broker on TLS that asks for the password `a:b@c` of the user `eyot`, and its port. What it needs is
/// written to the directory, with the authority in `ca.crt`.
pub fn secured(directory: &Path) -> anyhow::Result<(Peer, u16)> {
    let at = |name: &str| directory.join(name).display().to_string();
    certificates(directory)?;
    succeed(Command::new("mosquitto_passwd").args([
        "-b",
        "-c",
        &at("passwords"),
        "eyot",
        "a:b@c",
    ]))?;
    let port = free_port()?;
    std::fs::write(
        at("mosquitto.conf"),
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\nuser root\n\
             cafile {}\ncertfile {}\nkeyfile {}\n",
            at("passwords"),
            at("ca.crt"),
            at("cert.pem"),
            at("key.pem")
        ),
    )?;
    let mosquitto = find("mosquitto").context("mosquitto")?;
    let broker = Peer::start(Command::new(mosquitto).args(["-c", &at("mosquitto.conf")]))?;
    answers(port)?;
    Ok((broker, port))
}

pub fn devices_on_mqtt_are_reached_over_tls_with_a_password() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host, "mqtt-tls", "mqtt_driver")?;
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (_broker, port) = secured(directory.path())?;
    let authority = std::fs::read_to_string(at("ca.crt"))?;
    credentials(
        host,
        "broker-login",
        &json!({ "username": "eyot", "password": "a:b@c", "cacert": authority }),
    )?;
    let spec = |credentials: &str| {
        json!({
            "serviceName": "mqtt-tls",
            "protocols": { "mqtt": {
                "CommandTopic": "tls/cmd", "Broker": format!("mqtts://localhost:{port}"),
                "CredentialsName": credentials, "Qos": 1,
            } },
        })
    };
    let resources = json!([
        { "name": "Heat", "properties": { "valueType": "Float32", "readWrite": "RW" } },
    ]);
    device(host, "tls-1", &spec("broker-login"), &resources)?;
    let port = port.to_string();
    let authority = at("ca.crt");
    let login: &[&str] = &[
        "-h",
        "localhost",
        "-p",
        &port,
        "--cafile",
        &authority,
        "-u",
        "eyot",
        "-P",
        "a:b@c",
    ];
    eventually("a reading that came by itself is stored", WAIT, || {
        let mut publish = Command::new("mosquitto_pub");
        publish
            .args(login)
            .args(["-t", "incoming/data/tls-1/Heat", "-m", "21.5"]);
        succeed(&mut publish)?;
        let stored = stored(host, "tls-1", "Heat")?.unwrap_or_default();
        Ok((stored["value"] == "2.15e+01").then_some(()))
    })?;

    // It is told something, over the connection for publishing.
    let mut listening = Command::new("mosquitto_sub");
    listening
        .args(login)
        .args(["-t", "tls/cmd/#", "-C", "1", "-W", "60", "-v"]);
    let told = std::thread::spawn(move || run(&mut listening));
    let told = eventually("the device is told", WAIT, || {
        // Nobody answers, so the command itself fails; the device has heard of it.
        let _ = write(host, "tls-1", "Heat", "30.25");
        Ok(told.is_finished().then_some(()))
    })
    .and_then(|()| {
        told.join()
            .unwrap_or_else(|_| anyhow::bail!("mosquitto_sub"))
    })?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(
        told.starts_with("tls/cmd/Heat/set/") && told.contains("30.25"),
        "{told}"
    );

    // Without the authority the broker is not believed, and without a Secret nothing is tried.
    credentials(
        host,
        "no-authority",
        &json!({ "username": "eyot", "password": "a:b@c" }),
    )?;
    for (name, credentials, said) in [
        ("tls-2", "no-authority", "UnknownIssuer"),
        ("tls-3", "not-there", "does not exist"),
    ] {
        let mut object = json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "Device", "metadata": { "name": name },
            "spec": spec(credentials),
        });
        object["spec"]["profileName"] = "tls-1".into();
        host.apply(&object.to_string())?;
        eventually(&format!("{name} says {said}"), WAIT, || {
            let status = host.get(&format!("device {name}"))?["status"].to_string();
            ensure!(status.contains(said), "{status}");
            Ok(Some(()))
        })?;
    }
    host.k(&["delete", "device", "tls-1", "tls-2", "tls-3"])?;
    Ok(())
}
