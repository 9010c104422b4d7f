//! The example drivers beside Modbus, as pods of Wasm components, with clients that know nothing of
//! Eyot: mosquitto's as devices, curl as EdgeX's client.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    host::{Host, shared},
    tools::{curl, eventually, guest, succeed},
};

pub const CASES: &[Case] = &[
    case!(virtual_devices_have_values_of_every_type, [Kubectl, Guests]),
    case!(
        devices_on_mqtt_speak_and_are_commanded,
        [Kubectl, Guests, MosquittoSub]
    ),
];

pub const WAIT: Duration = Duration::from_secs(60);

/// Start a driver as a pod of the name of its service, and wait until it has a DeviceService.
pub fn driver(host: &Host, name: &str, file: &str) -> anyhow::Result<()> {
    host.push(&format!("demo/{name}:v1"), &guest(file)?)?;
    host.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{eyot.dev/device-service: {name}}}}}\n\
         spec: {{containers: [{{name: driver, image: 'demo/{name}:v1'}}]}}\n"
    ))?;
    eventually("the driver is registered", WAIT, || {
        Ok(host.get(&format!("deviceservice {name}")).ok().map(drop))
    })
}

pub fn device(host: &Host, name: &str, spec: &Value, resources: &Value) -> anyhow::Result<()> {
    let profile = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "DeviceProfile", "metadata": { "name": name },
        "spec": { "deviceResources": resources },
    });
    host.apply(&profile.to_string())?;
    let mut device = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "Device", "metadata": { "name": name },
        "spec": spec,
    });
    device["spec"]["profileName"] = json!(name);
    host.apply(&device.to_string())?;
    eventually("the device is UP", WAIT, || {
        let device = host.get(&format!("device {name}"))?;
        Ok((device["status"]["operatingState"] == "UP").then_some(()))
    })
}

pub fn command(host: &Host, device: &str, resource: &str) -> String {
    let port = host.ports.core_command;
    format!("http://127.0.0.1:{port}/api/v3/device/name/{device}/{resource}")
}

pub fn read(host: &Host, device: &str, resource: &str) -> anyhow::Result<Value> {
    let (status, body) = curl(&[&command(host, device, resource)])?;
    ensure!(status == 200, "{status} {body}");
    let answer: Value = serde_json::from_str(&body)?;
    Ok(answer["event"]["readings"][0].clone())
}

pub fn write(host: &Host, device: &str, resource: &str, value: &str) -> anyhow::Result<()> {
    let body = json!({ resource: value }).to_string();
    let (status, answer) = curl(&["-X", "PUT", "-d", &body, &command(host, device, resource)])?;
    ensure!(status == 200, "{status} {answer}");
    Ok(())
}

fn virtual_devices_have_values_of_every_type() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host, "virtual-driver", "virtual_driver")?;
    let types = [
        "Bool",
        "String",
        "Uint8",
        "Uint16",
        "Uint32",
        "Uint64",
        "Int8",
        "Int16",
        "Int32",
        "Int64",
        "Float32",
        "Float64",
        "BoolArray",
        "StringArray",
        "Uint8Array",
        "Uint16Array",
        "Uint32Array",
        "Uint64Array",
        "Int8Array",
        "Int16Array",
        "Int32Array",
        "Int64Array",
        "Float32Array",
        "Float64Array",
        "Object",
        "ObjectArray",
    ];
    let resource = |name: &&str| json!({ "name": name, "properties": { "valueType": name, "readWrite": "RW" } });
    let resources: Vec<Value> = types.iter().map(resource).collect();
    let spec = json!({ "serviceName": "virtual-driver", "protocols": { "other": {} } });
    device(host, "virtual-1", &spec, &json!(resources))?;
    for name in types {
        let reading = read(host, "virtual-1", name)?;
        ensure!(reading["valueType"] == name, "{reading}");
    }
    write(host, "virtual-1", "Uint64", "18446744073709551615")?;
    let reading = read(host, "virtual-1", "Uint64")?;
    ensure!(reading["value"] == "18446744073709551615", "{reading}");
    Ok(())
}

/// A device on MQTT: what is set is what it answers.
struct Sensor(Child);

impl Sensor {
    fn start(host: &Host) -> anyhow::Result<Self> {
        let port = host.ports.mqtt.to_string();
        let mut listening = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-t", "sensor/cmd/#", "-v"])
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(listening.stdout.take().context("no output")?).lines();
        std::thread::spawn(move || {
            let mut value = json!(1.5);
            for line in lines.map_while(Result::ok) {
                let (topic, payload) = line.split_once(' ').unwrap_or((&line, ""));
                let level: Vec<&str> = topic.split('/').collect();
                let ["sensor", "cmd", resource, method, id] = level[..] else {
                    continue;
                };
                if method == "set"
                    && let Ok(set) = serde_json::from_str::<Value>(payload)
                {
                    value = set[resource].clone();
                }
                let answer = json!({ resource: value }).to_string();
                let _ = publish(&port, &format!("command/response/{id}"), &answer);
            }
        });
        Ok(Self(listening))
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn publish(port: &str, topic: &str, payload: &str) -> anyhow::Result<()> {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", port, "-t", topic, "-m", payload]);
    succeed(&mut command).map(drop)
}

fn devices_on_mqtt_speak_and_are_commanded() -> anyhow::Result<()> {
    let host = shared()?;
    driver(host, "mqtt-driver", "mqtt_driver")?;
    let spec = json!({
        "serviceName": "mqtt-driver", "protocols": { "mqtt": { "CommandTopic": "sensor/cmd" } },
    });
    let resources = json!([
        { "name": "Heat", "properties": { "valueType": "Float32", "readWrite": "RW" } },
    ]);
    device(host, "sensor-1", &spec, &resources)?;

    // It speaks by itself.
    let port = host.ports.mqtt.to_string();
    let stored = format!(
        "http://127.0.0.1:{}/api/v3/reading/device/name/sensor-1/resourceName/Heat?limit=1",
        host.ports.core_data
    );
    eventually("a reading that came by itself is stored", WAIT, || {
        publish(&port, "incoming/data/sensor-1/Heat", "21.5")?;
        let (status, body) = curl(&[&stored])?;
        ensure!(status == 200, "{status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let value = answer["readings"][0]["value"].as_str();
        Ok((value == Some("2.15e+01")).then_some(()))
    })?;

    // It is asked and told.
    let _sensor = Sensor::start(host)?;
    eventually("the device answers a command", WAIT, || {
        let reading = read(host, "sensor-1", "Heat").ok();
        Ok(reading.filter(|reading| reading["value"] == "1.5e+00"))
    })?;
    write(host, "sensor-1", "Heat", "30.25")?;
    let reading = read(host, "sensor-1", "Heat")?;
    ensure!(reading["value"] == "3.025e+01", "{reading}");
    Ok(())
}
