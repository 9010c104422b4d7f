//! core-data's queries with ten million readings stored.

use std::{fmt::Write as _, time::Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{host::Host, median, row, wire::Wire};

const EVENTS: usize = 100_000;
/// Readings of each event.
const READINGS: usize = 100;
const DEVICES: usize = 100;
const CLIENTS: usize = 4;
const REPEATS: usize = 5;
/// Origin of the first event; they are a second apart.
const START: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

pub fn queries(host: &Host) -> anyhow::Result<()> {
    let begin = Instant::now();
    fill(host.ports.core_data)?;
    let filled = begin.elapsed();
    let mut wire = Wire::open(host.ports.core_data)?;
    let (_, answer) = wire.ask("GET", "/api/v3/reading/count/device/name/many-0", "")?;
    let count = serde_json::from_str::<Value>(&answer)?["count"].as_u64();
    ensure!(
        count == Some((EVENTS / DEVICES * READINGS) as u64),
        "{answer}"
    );
    row(
        "10,000,000 readings stored over HTTP, a hundred an event",
        "",
        &format!("{:.0} s", filled.as_secs_f64()),
        "",
    );
    let (from, to) = (START + 5000 * SECOND, START + 6000 * SECOND);
    let middle = EVENTS * READINGS / 2;
    for path in [
        "event/all?limit=20".to_owned(),
        "event/count".to_owned(),
        "event/device/name/many-7?limit=20".to_owned(),
        format!("event/start/{from}/end/{to}?limit=20"),
        "event/id/00000000-0000-4000-8000-000000005000".to_owned(),
        "reading/all?limit=20".to_owned(),
        format!("reading/all?limit=20&offset={middle}"),
        "reading/count".to_owned(),
        "reading/device/name/many-7?limit=1024".to_owned(),
        "reading/resourceName/R50?limit=1024".to_owned(),
        "reading/device/name/many-7/resourceName/R50?limit=1024".to_owned(),
        format!("reading/resourceName/R50/start/{from}/end/{to}?limit=1024"),
        format!("reading/device/name/many-7/resourceName/R50/start/{from}/end/{to}?limit=20"),
        "reading/device/name/many-7/resourceName/R50?aggregateFunc=AVG".to_owned(),
        "reading/device/name/many-7?aggregateFunc=MAX".to_owned(),
    ] {
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let start = Instant::now();
            let (status, answer) = wire.ask("GET", &format!("/api/v3/{path}"), "")?;
            ensure!(status == 200, "{path}: {status} {answer}");
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        row(
            &format!("`GET {path}` with 10,000,000 readings"),
            "",
            &format!("{:.1} ms", median(&mut times)),
            "",
        );
    }
    Ok(())
}

fn fill(port: u16) -> anyhow::Result<()> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || -> anyhow::Result<()> {
                let mut wire = Wire::open(port)?;
                for number in (client..EVENTS).step_by(CLIENTS) {
                    let device = number % DEVICES;
                    let path = format!("/api/v3/event/bench/many/many-{device}/All");
                    let (status, answer) = wire.ask("POST", &path, &event(number, device)?)?;
                    ensure!(status == 201, "{status} {answer}");
                }
                Ok(())
            })
        })
        .collect();
    for client in clients {
        let client = client.join();
        client.ok().context("a client panicked")??;
    }
    Ok(())
}

fn event(number: usize, device: usize) -> anyhow::Result<String> {
    let origin = START + number as u64 * SECOND;
    let mut readings = String::new();
    for resource in 0..READINGS {
        let separator = if resource == 0 { "" } else { "," };
        write!(
            readings,
            r#"{separator}{{"id":"{resource:08x}-0000-4000-8000-{number:012x}","origin":{origin},"deviceName":"many-{device}","resourceName":"R{resource}","profileName":"many","valueType":"Int32","value":"{}"}}"#,
            (number * 31 + resource) % 1000
        )?;
    }
    Ok(format!(
        r#"{{"apiVersion":"v3","event":{{"apiVersion":"v3","id":"00000000-0000-4000-8000-{number:012x}","deviceName":"many-{device}","profileName":"many","sourceName":"All","origin":{origin},"readings":[{readings}]}}}}"#
    ))
}
