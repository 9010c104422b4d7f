//! Drivers against peers that were not written for them: pymodbus, net-snmp, curl and Python's HTTP
//! server, mosquitto with TLS, an ONVIF camera of PyPI, asyncua. Only the camera's events come from a responder
//! of our own, `tests/peers/events.py`, since nobody has one.

mod broker;
mod camera;
mod modbus;
pub mod mqtt;
mod opcua;
mod rest;
mod snmp;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    Case, case,
    drivers::{self, WAIT},
    host::Host,
    tools::{curl, eventually, repository},
};
use broker::a_broker_of_the_site_takes_the_place_of_the_embedded_one;
use camera::{a_camera_is_found_moved_and_looked_through, events_of_a_camera_are_pulled};
use modbus::{modbus_is_spoken_over_a_serial_line, modbus_is_spoken_over_every_framing};
use mqtt::devices_on_mqtt_are_reached_over_tls_with_a_password;
use opcua::variables_of_opc_ua_are_read_written_and_subscribed_to;
use rest::devices_push_over_http_and_are_commanded;
use snmp::{snmp_agents_are_believed_if_they_prove_it, snmp_agents_are_read_set_walked_and_heard};

pub const CASES: &[Case] = &[
    case!(
        modbus_is_spoken_over_every_framing,
        [Kubectl, Guests, DevicePeers]
    ),
    case!(
        modbus_is_spoken_over_a_serial_line,
        [Root, Kubectl, Guests, DevicePeers, Socat]
    ),
    case!(
        snmp_agents_are_read_set_walked_and_heard,
        [Kubectl, Guests, Snmpd]
    ),
    case!(
        snmp_agents_are_believed_if_they_prove_it,
        [Kubectl, Guests, Snmpd]
    ),
    case!(
        devices_push_over_http_and_are_commanded,
        [Kubectl, Guests, Python]
    ),
    case!(
        devices_on_mqtt_are_reached_over_tls_with_a_password,
        [Kubectl, Guests, Mosquitto]
    ),
    case!(
        a_broker_of_the_site_takes_the_place_of_the_embedded_one,
        [Kubectl, Guests, Mosquitto]
    ),
    case!(
        a_camera_is_found_moved_and_looked_through,
        [Root, Kubectl, Guests, DevicePeers]
    ),
    case!(events_of_a_camera_are_pulled, [Kubectl, Guests, Python]),
    case!(
        variables_of_opc_ua_are_read_written_and_subscribed_to,
        [Kubectl, Guests, DevicePeers]
    ),
];

/// Another program, for as long as it is needed.
pub struct Peer(Child);

impl Peer {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(
            command.spawn().with_context(|| format!("{command:?}"))?,
        ))
    }

    /// A script of `tests/peers` under a Python.
    pub fn script(python: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let script = repository().join("tests/peers").join(name);
        let mut command = Command::new(python);
        Self::start(
            command
                .args(["-B", "-W", "ignore"])
                .arg(script)
                .args(arguments),
        )
    }

    /// The same under the Python that has the packages.
    fn packaged(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let python = std::env::var_os("DEVICE_PEERS").context("DEVICE_PEERS")?;
        Self::script(Path::new(&python), name, arguments)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Wait until a TCP port is listened on.
pub fn answers(port: u16) -> anyhow::Result<()> {
    eventually("the peer listens", WAIT, || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", port))
            .ok()
            .map(drop))
    })
}

/// Start a driver once for all cases that need it.
fn shared_driver(
    once: &OnceLock<Result<(), String>>,
    host: &Host,
    name: &str,
    file: &str,
) -> anyhow::Result<()> {
    let started = once
        .get_or_init(|| drivers::driver(host, name, file).map_err(|error| format!("{error:#}")));
    started.clone().map_err(anyhow::Error::msg)
}

/// Grant a device service's driver something, by its properties.
fn set_properties(host: &Host, service: &str, properties: &Value) -> anyhow::Result<()> {
    let patch = serde_json::json!({ "spec": { "properties": properties } }).to_string();
    let patch = [
        "patch",
        "deviceservice",
        service,
        "--type=merge",
        "-p",
        &patch,
    ];
    host.k(&patch).map(drop)
}

/// A Secret for drivers.
fn credentials(host: &Host, name: &str, data: &Value) -> anyhow::Result<()> {
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": name, "labels": { "eyot.dev/device-credentials": "true" } },
        "stringData": data,
    });
    host.apply(&secret.to_string()).map(drop)
}

/// The value that a reading has in EdgeX's own words.
fn value(host: &Host, device: &str, resource: &str) -> anyhow::Result<String> {
    let reading = drivers::read(host, device, resource)?;
    let value = reading["value"].as_str();
    value
        .map(str::to_owned)
        .with_context(|| reading.to_string())
}

#[track_caller]
fn has(host: &Host, device: &str, resource: &str, expected: &str) -> anyhow::Result<()> {
    let found = value(host, device, resource)?;
    ensure!(
        found == expected,
        "{device} {resource}: {found}, not {expected}"
    );
    Ok(())
}

/// The newest stored reading of a resource.
fn stored(host: &Host, device: &str, resource: &str) -> anyhow::Result<Option<Value>> {
    let url = format!(
        "http://127.0.0.1:{}/api/v3/reading/device/name/{device}/resourceName/{resource}?limit=1",
        host.ports.core_data
    );
    let (status, body) = curl(&[&url])?;
    ensure!(status == 200, "{status} {body}");
    let answer: Value = serde_json::from_str(&body)?;
    let first = answer["readings"][0].clone();
    Ok((!first.is_null()).then_some(first))
}
