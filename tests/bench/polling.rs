//! A thousand Modbus devices, ten registers each, read every second, on one processor.
//!
//! The jitter is how far the time between two events of a device is from a second, by the events'
//! origins.

use std::{
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::Context;
use eyot_plc::{Options, Plc};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

use crate::{host::Host, row, tools};

const DEVICES: usize = 1000;
/// Unit identifiers of one simulator.
const UNITS: usize = 200;
const REGISTERS: usize = 10;
const SETTLING: Duration = Duration::from_secs(60);
const DURATION: Duration = Duration::from_secs(20);

pub async fn polling(host: &Host) -> anyhow::Result<()> {
    let plcs: Vec<Plc> = (0..DEVICES / UNITS)
        .map(|_| {
            let options = Options {
                units: u8::try_from(UNITS)?,
                drift: false,
                ..Options::default()
            };
            Ok(Plc::start_with("127.0.0.1:0".parse()?, options)?)
        })
        .collect::<anyhow::Result<_>>()?;
    host.push("bench/modbus-driver:v1", &tools::guest("modbus_driver")?)?;
    let manifests = tools::repository().join("examples/manifests/driver.yaml");
    host.apply(&std::fs::read_to_string(manifests)?.replace("demo/", "bench/"))?;
    host.k(&[
        "rollout",
        "status",
        "deployment/modbus-driver",
        "--timeout=60s",
    ])?;
    host.apply(&profile()?)?;
    let mut devices = String::new();
    for number in 0..DEVICES {
        let port = plcs[number / UNITS].address().port();
        let unit = number % UNITS + 1;
        write!(
            devices,
            "---\napiVersion: eyot.dev/v1alpha1\nkind: Device\nmetadata: {{name: poll-{number}, labels: {{bench: poll}}}}\nspec:\n  \
             serviceName: modbus-driver\n  profileName: polling\n  \
             protocols: {{modbus-tcp: {{Address: 127.0.0.1, Port: {port}, UnitID: {unit}}}}}\n  \
             autoEvents: [{{interval: 1s, sourceName: All}}]\n"
        )?;
    }
    host.apply(&devices)?;
    let pinned = host.pin(0).is_ok();
    let mut options = MqttOptions::new("polling", "127.0.0.1", host.mqtt().port());
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, 64);
    client
        .subscribe("edgex/events/device/+/polling/#", QoS::AtMostOnce)
        .await?;
    let mut last: HashMap<String, u64> = HashMap::new();
    // Until every device has been read twice.
    let settled = Instant::now() + SETTLING;
    let (mut measured, mut cpu, mut jitter) = (None::<Instant>, Duration::ZERO, Vec::new());
    let mut count = 0_usize;
    loop {
        if measured.is_none() && (last.len() == DEVICES || Instant::now() > settled) {
            measured = Some(Instant::now());
            cpu = host.processor_time()?;
            last.clear();
        }
        if measured.is_some_and(|measured| measured.elapsed() > DURATION) {
            break;
        }
        let event = tokio::time::timeout(Duration::from_secs(30), events.poll()).await;
        let Event::Incoming(Packet::Publish(message)) = event.context("no event")?? else {
            continue;
        };
        let text = std::str::from_utf8(&message.payload)?;
        let origin = text
            .split("\"origin\":")
            .nth(1)
            .and_then(|t| t.split([',', '}']).next());
        let origin: u64 = origin.context("no origin")?.trim().parse()?;
        if let Some(before) = last.insert(message.topic, origin)
            && measured.is_some()
        {
            let apart = origin.saturating_sub(before) as f64 / 1e6;
            jitter.push((apart - 1000.0).abs());
            count += 1;
        }
    }
    let seconds = measured.context("nothing was measured")?.elapsed();
    let cpu = host.processor_time()?.saturating_sub(cpu);
    let devices = last.len();
    jitter.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (jitter.len() as f64 * share) as usize;
        jitter
            .get(index.min(jitter.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    row(
        "Modbus: 1,000 devices × 10 registers each second, the host on one processor",
        "jitter p99 ≤ 20 ms",
        &format!(
            "{devices} devices, {:.0} reads/s; jitter p50 {:.1} ms, p99 {:.1} ms; {:.0} % of one processor{}",
            count as f64 / seconds.as_secs_f64(),
            at(0.5),
            at(0.99),
            100.0 * cpu.as_secs_f64() / seconds.as_secs_f64(),
            if pinned { "" } else { " (not pinned)" },
        ),
        "EdgeX: one request for each resource",
    );
    host.unpin()?;
    host.k(&["delete", "devices", "-l", "bench=poll", "--wait=false"])?;
    Ok(())
}

fn profile() -> anyhow::Result<String> {
    let (mut resources, mut operations) = (String::new(), String::new());
    for number in 0..REGISTERS {
        write!(
            resources,
            "  - name: R{number}\n    attributes: {{primaryTable: HOLDING_REGISTERS, startingAddress: {number}}}\n    \
             properties: {{valueType: Uint16, readWrite: R}}\n"
        )?;
        writeln!(operations, "    - {{deviceResource: R{number}}}")?;
    }
    Ok(format!(
        "apiVersion: eyot.dev/v1alpha1\nkind: DeviceProfile\nmetadata: {{name: polling}}\nspec:\n  deviceResources:\n\
         {resources}  deviceCommands:\n  - name: All\n    readWrite: R\n    resourceOperations:\n{operations}"
    ))
}
