//! core-data under load: events posted over HTTP, and a burst from the bus to the store.
//!
//! The peer is EdgeX 4.0.2 (core-data on PostgreSQL, Mosquitto as its bus), measured on this class of
//! machine: 2 processors that clients and host share.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

use crate::{host::Host, row, wire::Wire};

const CLIENTS: usize = 4;
const DURATION: Duration = Duration::from_secs(6);
const BURST: usize = 100_000;
const INFLIGHT: u16 = 2000;

/// An event with one reading, of the size that EdgeX's own device services send.
fn event(device: &str, group: usize, number: usize) -> String {
    let id = format!("{group:08x}-0000-4000-8000-{number:012x}");
    let origin = 1_700_000_000_000_000_000 + number as u64;
    format!(
        r#"{{"apiVersion":"v3","id":"{id}","deviceName":"{device}","profileName":"bench","sourceName":"Temperature","origin":{origin},"readings":[{{"id":"{id}","origin":{origin},"deviceName":"{device}","resourceName":"Temperature","profileName":"bench","valueType":"Float64","value":"2.150000e+01","units":"degC"}}]}}"#
    )
}

fn at(sorted: &[f64], share: f64) -> f64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

pub fn core_data(host: &Host) -> anyhow::Result<()> {
    posts(host)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(burst(host))
}

fn posts(host: &Host) -> anyhow::Result<()> {
    let port = host.ports.core_data;
    let before = host.processor_time()?;
    let begin = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || -> anyhow::Result<Vec<f64>> {
                let mut wire = Wire::open(port)?;
                let mut times = Vec::new();
                for number in 0.. {
                    if begin.elapsed() >= DURATION {
                        break;
                    }
                    let event = event("posted", client, number);
                    let body = format!(r#"{{"apiVersion":"v3","event":{event}}}"#);
                    let start = Instant::now();
                    let path = "/api/v3/event/bench/bench/posted/Temperature";
                    let (status, answer) = wire.ask("POST", path, &body)?;
                    ensure!(status == 201, "{status} {answer}");
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        let client = client.join();
        times.extend(client.map_err(|_| anyhow::anyhow!("a client panicked"))??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = host.processor_time()?.saturating_sub(before);
    times.sort_by(f64::total_cmp);
    row(
        "event POST, 4 connections, each answered when it is stored",
        "≥ 20,000/s, p99 ≤ 3 ms",
        &format!(
            "{:.0}/s; p50 {:.2} ms, p99 {:.2} ms; {:.0} µs of processor time each",
            times.len() as f64 / seconds,
            at(&times, 0.5),
            at(&times, 0.99),
            cpu.as_secs_f64() * 1e6 / times.len() as f64
        ),
        "EdgeX 4.0.2: 2,083/s, p99 9.9 ms",
    );
    Ok(())
}

/// A hundred thousand events as fast as they go, with QoS 1: acknowledged means stored.
async fn burst(host: &Host) -> anyhow::Result<()> {
    let mut options = MqttOptions::new("burst", "127.0.0.1", host.mqtt().port());
    options.set_inflight(INFLIGHT);
    let (client, mut events) = AsyncClient::new(options, 4000);
    let messages: Vec<String> = (0..BURST)
        .map(|number| {
            let event = event("burst", 9, number);
            format!(
                r#"{{"apiVersion":"v3","contentType":"application/json","payload":{{"apiVersion":"v3","event":{event}}}}}"#
            )
        })
        .collect();
    let begin = Instant::now();
    let sending = tokio::spawn(async move {
        for message in messages {
            let topic = "edgex/events/device/bench/bench/burst/Temperature";
            client
                .publish(topic, QoS::AtLeastOnce, false, message)
                .await?;
        }
        anyhow::Ok(client)
    });
    let mut acknowledged = HashSet::new();
    let mut count = 0;
    while count < BURST {
        let event = tokio::time::timeout(Duration::from_secs(60), events.poll()).await;
        if let Event::Incoming(Packet::PubAck(ack)) = event.context("no acknowledgement")?? {
            acknowledged.insert(ack.pkid);
            count += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    drop(sending.await??);
    let mut wire = Wire::open(host.ports.core_data)?;
    let path = "/api/v3/event/count/device/name/burst";
    let (_, answer) = wire.ask("GET", path, "")?;
    let stored = serde_json::from_str::<Value>(&answer)?["count"]
        .as_u64()
        .context("no count")?;
    row(
        "burst of 100,000 events from the bus to the store (MQTT QoS 1, one client)",
        "≥ 20,000/s, none lost",
        &format!("{:.0}/s, {stored} stored", BURST as f64 / seconds),
        "EdgeX 4.0.2: 1,000/s without loss; 34 % of a burst of 20,000 stored",
    );
    Ok(())
}
