//! Readings per second from the driver to a subscriber of the broker, and how long each takes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use eyot_plc::Plc;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use crate::{host::Host, median, row, tools};

const DEVICES: usize = 8;
const REGISTERS: usize = 100;
const DURATION: Duration = Duration::from_secs(8);

/// Eight devices, each read as fast as its auto event allows, a hundred registers at a time.
pub async fn readings(host: &Host) -> anyhow::Result<()> {
    let plc = Plc::start("127.0.0.1:0".parse()?)?;
    host.push("bench/modbus-driver:v1", &tools::guest("modbus_driver")?)?;
    let manifests = tools::repository().join("examples/manifests/driver.yaml");
    let driver = std::fs::read_to_string(manifests)?.replace("demo/", "bench/");
    host.apply(&driver)?;
    host.k(&[
        "rollout",
        "status",
        "deployment/modbus-driver",
        "--timeout=60s",
    ])?;
    host.apply(&profile())?;
    for number in 0..DEVICES {
        host.apply(&device(number, plc.address().port()))?;
    }
    let mut options = MqttOptions::new("bench", "127.0.0.1", host.mqtt().port());
    options.set_max_packet_size(16 << 20, 16 << 20);
    let (client, mut events) = AsyncClient::new(options, 64);
    client
        .subscribe("edgex/events/device/#", QoS::AtMostOnce)
        .await?;
    let (mut count, mut latencies, mut begin) = (0_u64, Vec::new(), None::<Instant>);
    let end = Instant::now() + DURATION + Duration::from_secs(10);
    while Instant::now() < end && begin.is_none_or(|b| b.elapsed() < DURATION) {
        let Ok(event) = tokio::time::timeout(Duration::from_secs(5), events.poll()).await else {
            break;
        };
        let Event::Incoming(Packet::Publish(message)) = event? else {
            continue;
        };
        begin.get_or_insert_with(Instant::now);
        let text = std::str::from_utf8(&message.payload)?;
        count += text.matches("\"resourceName\"").count() as u64;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .as_nanos() as f64;
        let origin = text
            .split("\"origin\":")
            .nth(1)
            .and_then(|t| t.split([',', '}']).next());
        let origin: f64 = origin.context("no origin")?.trim().parse()?;
        latencies.push((now - origin) / 1e6);
    }
    let seconds = begin.context("no reading came")?.elapsed().as_secs_f64();
    let p50 = median(&mut latencies);
    let p99 = latencies
        .get(latencies.len() * 99 / 100)
        .copied()
        .unwrap_or_default();
    row(
        "readings from Modbus through the Wasm driver to an MQTT subscriber",
        "",
        &format!(
            "{:.0}/s; latency p50 {p50:.1} ms, p99 {p99:.1} ms",
            count as f64 / seconds
        ),
        "PLC, host and subscriber share the two processors",
    );
    Ok(())
}

fn profile() -> String {
    let mut text = "apiVersion: eyot.dev/v1alpha1\nkind: DeviceProfile\nmetadata: {name: bench}\nspec:\n  deviceResources:\n".to_owned();
    let mut operations = String::new();
    for number in 0..REGISTERS {
        text.push_str(&format!(
            "  - name: R{number}\n    attributes: {{primaryTable: HOLDING_REGISTERS, startingAddress: {number}}}\n    \
             properties: {{valueType: Uint16, readWrite: R}}\n"
        ));
        operations.push_str(&format!("    - {{deviceResource: R{number}}}\n"));
    }
    text.push_str("  deviceCommands:\n  - name: All\n    readWrite: R\n    resourceOperations:\n");
    text.push_str(&operations);
    text
}

fn device(number: usize, port: u16) -> String {
    format!(
        "apiVersion: eyot.dev/v1alpha1\nkind: Device\nmetadata: {{name: bench-{number}}}\nspec:\n  \
         serviceName: modbus-driver\n  profileName: bench\n  \
         protocols: {{modbus-tcp: {{Address: 127.0.0.1, Port: {port}, UnitID: 1}}}}\n  \
         autoEvents: [{{interval: 5ms, sourceName: All}}]\n"
    )
}
