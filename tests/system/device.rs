//! The device tier from register to message: a simulated PLC that speaks Modbus TCP, the driver,
//! the steps and the exporter of examples/ as Wasm guests, the embedded broker, real clients.

use std::{process::Command, sync::OnceLock, time::Duration};

use anyhow::{Context, ensure};
use eyot_plc::Plc;
use serde_json::{Value, json};

use crate::{
    Case, case,
    host::{Host, condition, shared},
    tools::{curl, eventually, guest, repository, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        readings_of_a_plc_reach_mqtt_through_wasm_guests,
        [Kubectl, Guests, MosquittoSub]
    ),
    case!(
        the_pipeline_filters_and_converts,
        [Kubectl, Guests, MosquittoSub]
    ),
    case!(
        edgex_functions_are_steps_of_a_pipeline,
        [Kubectl, Guests, MosquittoSub]
    ),
    case!(get_devices_shows_the_last_readings, [Kubectl, Guests]),
    case!(readings_are_queried_over_http, [Kubectl, Guests]),
    case!(a_write_command_changes_a_register, [Kubectl, Guests]),
    case!(
        a_device_that_refuses_hangs_or_talks_garbage_disturbs_no_other,
        [Kubectl, Guests]
    ),
    case!(
        a_wrong_attribute_is_named_and_mended_by_an_edit,
        [Kubectl, Guests]
    ),
];

/// The PLC of all cases here, with the demo's driver, device and pipeline applied to the shared host.
struct Site {
    host: &'static Host,
    plc: Plc,
}

fn site() -> anyhow::Result<&'static Site> {
    static SITE: OnceLock<Result<Site, String>> = OnceLock::new();
    match SITE.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(site) => Ok(site),
        Err(error) => anyhow::bail!("{error}"),
    }
}

/// The shared host with the demo's devices up and read at least once.
pub fn site_host() -> anyhow::Result<&'static Host> {
    let host = site()?.host;
    eventually("the device is UP", Duration::from_secs(30), || {
        let device = host.get("device plc-1")?;
        Ok((device["status"]["operatingState"] == "UP").then_some(host))
    })
}

fn build() -> anyhow::Result<Site> {
    let host = shared()?;
    let plc = Plc::start("127.0.0.1:0".parse()?)?;
    for (image, file) in [
        ("demo/modbus-driver:v1", "modbus_driver"),
        ("demo/filter:v1", "filter_step"),
        ("demo/app-functions:v1", "app_functions"),
        ("demo/json:v1", "json_step"),
        ("demo/mqtt-exporter:v1", "mqtt_exporter"),
    ] {
        host.push(image, &guest(file)?)?;
    }
    let manifests = repository().join("examples/manifests");
    for name in ["profile.yaml", "driver.yaml", "pipeline.yaml"] {
        host.k(&[
            "apply",
            "-f",
            manifests.join(name).to_str().context("path")?,
        ])?;
    }
    host.k(&[
        "rollout",
        "status",
        "deployment/modbus-driver",
        "--timeout=60s",
    ])?;
    let device = std::fs::read_to_string(manifests.join("device.yaml"))?;
    host.apply(&device.replace("\"1502\"", &format!("\"{}\"", plc.address().port())))?;
    Ok(Site { host, plc })
}

/// Messages of a topic, with mosquitto_sub: (topic, payload).
fn messages(host: &Host, topic: &str, count: u32) -> anyhow::Result<Vec<(String, Value)>> {
    let port = host.ports.mqtt.to_string();
    let text = succeed(Command::new("mosquitto_sub").args([
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-t",
        topic,
        "-C",
        &count.to_string(),
        "-W",
        "40",
        "-v",
    ]))?;
    text.lines()
        .map(|line| {
            let (topic, payload) = line.split_once(' ').context("no payload")?;
            Ok((
                topic.to_owned(),
                serde_json::from_str(payload).context(payload.to_owned())?,
            ))
        })
        .collect()
}

fn readings_of_a_plc_reach_mqtt_through_wasm_guests() -> anyhow::Result<()> {
    let site = site()?;
    // EdgeX's own topic: edgex/events/device/<service>/<profile>/<device>/<source>.
    for (topic, message) in messages(site.host, "edgex/events/device/#", 3)? {
        let levels: Vec<&str> = topic.split('/').collect();
        ensure!(levels.len() == 7 && levels[5] == "plc-1", "{topic}");
        let event = &message["payload"]["event"];
        ensure!(event["deviceName"] == "plc-1", "{message}");
        for reading in event["readings"].as_array().context("no readings")? {
            ensure!(reading["resourceName"].is_string(), "{reading}");
            ensure!(
                reading["origin"].as_u64() > Some(1_600_000_000_000_000_000),
                "{reading}"
            );
        }
    }
    Ok(())
}

fn the_pipeline_filters_and_converts() -> anyhow::Result<()> {
    let site = site()?;
    for (topic, message) in messages(site.host, "demo/readings/#", 3)? {
        ensure!(topic.contains("plc-1"), "{topic}");
        // The pipeline's filter lets the temperature through and nothing else.
        ensure!(message.to_string().contains("Temperature"), "{message}");
        ensure!(
            !message.to_string().contains("Pressure"),
            "not filtered: {message}"
        );
    }
    eventually(
        "the pipeline counts what it delivered",
        Duration::from_secs(20),
        || {
            let pipeline = site.host.get("pipeline demo")?;
            let status = &pipeline["status"];
            ensure!(condition(&pipeline, "Ready"), "{status}");
            Ok((status["delivered"].as_i64() > Some(0)).then_some(()))
        },
    )
}

fn edgex_functions_are_steps_of_a_pipeline() -> anyhow::Result<()> {
    let host = site()?.host;
    let image = "demo/app-functions:v1";
    let step =
        |name: &str, config: Value| json!({ "name": name, "image": image, "config": config });
    let pipeline = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "Pipeline",
        "metadata": { "name": "functions" },
        "spec": {
            "steps": [
                step("device", json!({ "Function": "FilterByDeviceName", "DeviceNames": "^plc" })),
                step("source", json!({ "Function": "FilterBySourceName", "SourceNames": "^Process$" })),
                step("resource", json!({ "Function": "FilterByResourceName",
                    "ResourceNames": "Pressure", "FilterOut": "true" })),
                step("tags", json!({ "Function": "AddTags", "Tags": "site:north" })),
                step("xml", json!({ "Function": "Transform", "Type": "xml" })),
                step("gzip", json!({ "Function": "Compress", "Algorithm": "gzip" })),
            ],
            "exporters": [{ "name": "mqtt", "image": "demo/mqtt-exporter:v1",
                "config": { "topic": "functions/{device}" } }],
        },
    });
    host.apply(&pipeline.to_string())?;
    let port = host.ports.mqtt;
    let script = format!(
        "mosquitto_sub -h 127.0.0.1 -p {port} -t functions/plc-1 -C 1 -W 60 | base64 -d | gunzip"
    );
    let xml = succeed(Command::new("sh").args(["-c", &script]))?;
    for part in [
        "<Event><ApiVersion>v3</ApiVersion>",
        "<DeviceName>plc-1</DeviceName>",
        "<ResourceName>Temperature</ResourceName>",
        "<Tags><site>north</site></Tags></Event>",
    ] {
        ensure!(xml.contains(part), "no {part} in {xml}");
    }
    ensure!(!xml.contains("Pressure"), "not filtered: {xml}");
    // What is wrong with a step's settings stands in the status, by name.
    let wrong = r#"[{"op": "replace", "path": "/spec/steps/4/config/Type", "value": "yaml"}]"#;
    host.k(&["patch", "pipeline", "functions", "--type=json", "-p", wrong])?;
    eventually(
        "the wrong setting is named",
        Duration::from_secs(60),
        || {
            let pipeline = host.get("pipeline functions")?;
            let status = pipeline["status"].to_string();
            Ok((!condition(&pipeline, "Ready") && status.contains("yaml")).then_some(()))
        },
    )?;
    host.k(&["delete", "pipeline", "functions"])?;
    Ok(())
}

fn get_devices_shows_the_last_readings() -> anyhow::Result<()> {
    let site = site()?;
    eventually("the table shows a reading", Duration::from_secs(30), || {
        let table = site.host.k(&["get", "devices"])?;
        let row = table
            .lines()
            .find(|l| l.starts_with("plc-1"))
            .context(table.clone())?;
        Ok((row.contains("UP") && row.contains("Counter=")).then_some(()))
    })?;
    let device = site.host.get("device plc-1")?;
    let last = device["status"]["lastReadings"].to_string();
    ensure!(last.contains("Temperature"), "{device}");
    Ok(())
}

fn readings_are_queried_over_http() -> anyhow::Result<()> {
    let site = site()?;
    let url = format!(
        "http://127.0.0.1:{}/api/v3/reading/device/name/plc-1/resourceName/Temperature?limit=1",
        site.host.ports.core_data
    );
    let value = eventually("a reading is stored", Duration::from_secs(30), || {
        let (status, body) = curl(&[&url])?;
        ensure!(status == 200, "{status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let value = answer["readings"][0]["value"].as_str();
        Ok(value.and_then(|v| v.parse::<f64>().ok()))
    })?;
    // The register holds tenths; the profile's scale makes degrees of them.
    ensure!((-50.0..150.0).contains(&value), "{value}");
    let (status, body) = curl(&[&format!(
        "http://127.0.0.1:{}/api/v3/device/name/nobody",
        site.host.ports.core_metadata
    )])?;
    ensure!(status == 404 && body.contains("nobody"), "{status} {body}");
    Ok(())
}

fn a_write_command_changes_a_register() -> anyhow::Result<()> {
    let site = site()?;
    let url = format!(
        "http://127.0.0.1:{}/api/v3/device/name/plc-1/Setpoint",
        site.host.ports.core_command
    );
    eventually("the device takes commands", Duration::from_secs(30), || {
        let (status, body) = curl(&[&url])?;
        ensure!(status == 200, "{status} {body}");
        Ok(Some(()))
    })?;
    for value in [215, 180] {
        let body = format!("{{\"Setpoint\":\"{value}\"}}");
        let (status, answer) = curl(&[
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/json",
            "-d",
            &body,
            &url,
        ])?;
        ensure!(status == 200, "{status} {answer}");
        ensure!(
            site.plc.setpoint() == value,
            "the register holds {}",
            site.plc.setpoint()
        );
        let (_, answer) = curl(&[&url])?;
        ensure!(answer.contains(&format!("\"{value}\"")), "{answer}");
    }
    let (status, answer) = curl(&[
        "-X",
        "PUT",
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"Setpoint":"warm"}"#,
        &url,
    ])?;
    ensure!(
        status == 400 && answer.contains("Setpoint"),
        "{status} {answer}"
    );
    let (status, answer) = curl(&[
        "-X",
        "PUT",
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"Temperature":"1"}"#,
        &url.replace("Setpoint", "Temperature"),
    ])?;
    ensure!(status == 405 || status == 400, "{status} {answer}");
    Ok(())
}

/// A device of the demo's profile at another address.
fn device_at(name: &str, port: u16) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(repository().join("examples/manifests/device.yaml"))?;
    Ok(text
        .replace("plc-1", name)
        .replace("\"1502\"", &format!("\"{port}\"")))
}

fn a_device_that_refuses_hangs_or_talks_garbage_disturbs_no_other() -> anyhow::Result<()> {
    let site = site()?;
    let hanging = Plc::start_misbehaving("127.0.0.1:0".parse()?, eyot_plc::Mode::Hang)?;
    let garbage = Plc::start_misbehaving("127.0.0.1:0".parse()?, eyot_plc::Mode::Garbage)?;
    for (name, port) in [
        ("refuses", crate::tools::free_port()?),
        ("hangs", hanging.address().port()),
        ("garbles", garbage.address().port()),
    ] {
        site.host.apply(&device_at(name, port)?)?;
        eventually(
            &format!("device {name} is DOWN"),
            Duration::from_secs(40),
            || {
                let device = site.host.get(&format!("device {name}"))?;
                let status = &device["status"];
                let said = status["lastError"]
                    .as_str()
                    .is_some_and(|e| e.contains(&port.to_string()));
                Ok((status["operatingState"] == "DOWN" && said).then_some(()))
            },
        )?;
    }
    let events = messages(site.host, "edgex/events/device/+/+/plc-1/#", 2)?;
    ensure!(events.len() == 2);
    site.host
        .k(&["delete", "device", "refuses", "hangs", "garbles"])?;
    Ok(())
}

fn a_wrong_attribute_is_named_and_mended_by_an_edit() -> anyhow::Result<()> {
    let site = site()?;
    let profile = |table: &str| {
        format!(
            "apiVersion: eyot.dev/v1alpha1\nkind: DeviceProfile\nmetadata: {{name: wrong}}\nspec:\n  deviceResources:\n  \
             - name: Level\n    attributes: {{primaryTable: {table}, startingAddress: 0}}\n    \
             properties: {{valueType: Int16, readWrite: R}}\n"
        )
    };
    site.host.apply(&profile("FLOATING_REGISTERS"))?;
    site.host.apply(&format!(
        "apiVersion: eyot.dev/v1alpha1\nkind: Device\nmetadata: {{name: wrong}}\nspec:\n  serviceName: modbus-driver\n  \
         profileName: wrong\n  protocols: {{modbus-tcp: {{Address: 127.0.0.1, Port: {}, UnitID: 1}}}}\n  \
         autoEvents: [{{interval: 300ms, sourceName: Level}}]\n",
        site.plc.address().port()
    ))?;
    eventually(
        "the wrong attribute is named",
        Duration::from_secs(20),
        || {
            let device = site.host.get("device wrong")?;
            let error = device["status"]["lastError"].as_str().unwrap_or_default();
            Ok((error.contains("Level") && error.contains("primaryTable")).then_some(()))
        },
    )?;
    site.host.apply(&profile("HOLDING_REGISTERS"))?;
    eventually(
        "the mended profile is read",
        Duration::from_secs(20),
        || {
            let device = site.host.get("device wrong")?;
            Ok(device["status"]["lastReadings"]
                .to_string()
                .contains("Level")
                .then_some(()))
        },
    )?;
    site.host.k(&["delete", "device", "wrong"])?;
    site.host.k(&["delete", "deviceprofile", "wrong"])?;
    Ok(())
}
