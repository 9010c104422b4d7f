//! `kill -9` in the midst of bursts of events: what was acknowledged is there afterwards, once.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use eyot_plc::Plc;
use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use serde_json::Value;

use crate::{
    Case, case,
    host::Host,
    tools::{eventually, guest, repository},
    wire::Wire,
};

pub const CASES: &[Case] = &[
    case!(events_that_were_acknowledged_over_http_survive_a_kill),
    case!(a_burst_over_mqtt_is_stored_whole_and_once_in_spite_of_kills),
    case!(
        readings_that_a_subscriber_has_seen_are_stored_in_spite_of_kills,
        [Kubectl, Guests]
    ),
];

/// Events of one burst.
const BURST: usize = 100_000;
/// Clients of core-data, and events that each sends before a kill at most.
const CLIENTS: usize = 4;
/// Messages on their way at once.
const INFLIGHT: u16 = 500;
const PATIENCE: Duration = Duration::from_secs(300);

/// Enough room that none goes for its age.
fn host() -> anyhow::Result<Host> {
    Host::start_with(&["--readings-events=1000000"])
}

/// A UUID that says which event of which burst it is.
fn id(burst: usize, number: usize) -> String {
    format!("{burst:08x}-0000-4000-8000-{number:012x}")
}

fn event(id: &str, device: &str, number: usize) -> String {
    format!(
        r#"{{"apiVersion":"v3","id":"{id}","deviceName":"{device}","profileName":"p","sourceName":"s","origin":{},"readings":[{{"id":"{id}","origin":1,"deviceName":"{device}","resourceName":"r","profileName":"p","valueType":"Int64","value":"{number}"}}]}}"#,
        number + 1
    )
}

/// The ids of all stored events of a device; each once.
fn stored(host: &Host, device: &str) -> anyhow::Result<HashSet<String>> {
    let mut core_data = Wire::open(host.ports.core_data)?;
    let mut ids = HashSet::new();
    let mut seen = 0;
    loop {
        let path = format!("/api/v3/event/device/name/{device}?offset={seen}&limit=1024");
        let (status, body) = core_data.ask("GET", &path, "")?;
        ensure!(status == 200, "{status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        let events = answer["events"].as_array().context("no events")?;
        for event in events {
            let id = event["id"].as_str().context("no id")?;
            ensure!(ids.insert(id.to_owned()), "{id} is stored twice");
        }
        seen += events.len();
        if events.is_empty() || seen >= answer["totalCount"].as_u64().context("no count")? as usize
        {
            return Ok(ids);
        }
    }
}

fn stored_count(host: &Host, device: &str) -> anyhow::Result<u64> {
    let mut core_data = Wire::open(host.ports.core_data)?;
    let path = format!("/api/v3/event/count/device/name/{device}");
    let (status, body) = core_data.ask("GET", &path, "")?;
    ensure!(status == 200, "{status} {body}");
    let answer: Value = serde_json::from_str(&body)?;
    answer["count"].as_u64().context("no count")
}

fn events_that_were_acknowledged_over_http_survive_a_kill() -> anyhow::Result<()> {
    let mut host = host()?;
    let acknowledged = Mutex::new(HashSet::new());
    let refused = Mutex::new(Vec::new());
    let mut before = 0;
    for burst in 0..3 {
        let stop = AtomicBool::new(false);
        let port = host.ports.core_data;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (acknowledged, refused, stop) = (&acknowledged, &refused, &stop);
                scope.spawn(move || {
                    let Ok(mut wire) = Wire::open(port) else {
                        return;
                    };
                    for number in (client..).step_by(CLIENTS) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let id = id(burst, number);
                        let event = event(&id, "posted", number);
                        let body = format!(r#"{{"apiVersion":"v3","event":{event}}}"#);
                        match wire.ask("POST", "/api/v3/event/far/p/posted/s", &body) {
                            Ok((201, _)) => {
                                let mut all =
                                    acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                                all.insert(id);
                            }
                            Ok(other) => {
                                let mut all =
                                    refused.lock().unwrap_or_else(PoisonError::into_inner);
                                all.push(format!("{other:?}"));
                                return;
                            }
                            // The kill.
                            Err(_) => return,
                        }
                    }
                });
            }
            let enough = eventually("events are acknowledged", PATIENCE, || {
                let all = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                Ok((all.len() > before + 1000 * (burst + 1)).then_some(()))
            });
            let killed = host.kill();
            stop.store(true, Ordering::Relaxed);
            enough.and(killed)
        })?;
        let refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(refused.is_empty(), "{refused:?}");
        host.restart()?;
        let stored = stored(&host, "posted")?;
        let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        before = acknowledged.len();
        let lost = acknowledged.difference(&stored).count();
        ensure!(lost == 0, "{lost} of {before} acknowledged events are lost");
        // One for each client may have been stored with its answer cut off.
        ensure!(stored.len() <= before + CLIENTS * (burst + 1));
    }
    Ok(())
}

/// Publish what is left until it is acknowledged or the connection breaks; what is left then.
fn publish(
    port: u16,
    mut left: VecDeque<usize>,
    acknowledged: &AtomicUsize,
) -> anyhow::Result<VecDeque<usize>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut options = MqttOptions::new("burst", "127.0.0.1", port);
        options.set_inflight(INFLIGHT);
        let (client, mut events) = AsyncClient::new(options, 1000);
        let numbers: Vec<usize> = left.iter().copied().collect();
        tokio::spawn(async move {
            for number in numbers {
                let event = event(&id(9, number), "published", number);
                let envelope = format!(
                    r#"{{"apiVersion":"v3","contentType":"application/json","payload":{{"apiVersion":"v3","event":{event}}}}}"#
                );
                let topic = "edgex/events/device/far/p/published/s";
                let sent = client.publish(topic, QoS::AtLeastOnce, false, envelope);
                if sent.await.is_err() {
                    return;
                }
            }
            // Held until all is acknowledged.
            std::future::pending::<()>().await;
        });
        // In the order of sending: packet numbers, and then which event each was.
        let mut sent = std::collections::HashMap::new();
        let mut unsent = left.clone();
        loop {
            let event = tokio::time::timeout(PATIENCE, events.poll()).await?;
            match event {
                Ok(Event::Outgoing(Outgoing::Publish(packet))) => {
                    let number = unsent.pop_front().context("more was sent than given")?;
                    sent.insert(packet, number);
                }
                Ok(Event::Incoming(Packet::PubAck(ack))) => {
                    let number = sent.remove(&ack.pkid).context("an unknown acknowledgement")?;
                    let at = left.iter().position(|waiting| *waiting == number);
                    left.remove(at.context("acknowledged twice")?);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    if left.is_empty() {
                        return Ok(left);
                    }
                }
                Ok(_) => {}
                Err(_) => return Ok(left),
            }
        }
    })
}

fn a_burst_over_mqtt_is_stored_whole_and_once_in_spite_of_kills() -> anyhow::Result<()> {
    let mut host = host()?;
    let acknowledged = AtomicUsize::new(0);
    let mut left: VecDeque<usize> = (0..BURST).collect();
    for kills in 0.. {
        let port = host.ports.mqtt;
        let before: HashSet<usize> = left.iter().copied().collect();
        left = std::thread::scope(|scope| -> anyhow::Result<_> {
            let publishing = scope.spawn(|| publish(port, left, &acknowledged));
            if kills < 3 {
                eventually("events are acknowledged", PATIENCE, || {
                    let enough = acknowledged.load(Ordering::Relaxed) > 20_000 * (kills + 1);
                    Ok((enough || publishing.is_finished()).then_some(()))
                })?;
                host.kill()?;
            }
            publishing
                .join()
                .map_err(|_| anyhow::anyhow!("the publisher panicked"))?
        })?;
        if kills >= 3 {
            ensure!(left.is_empty(), "{} were not acknowledged", left.len());
            break;
        }
        host.restart()?;
        let stored = stored(&host, "published")?;
        let unacknowledged: HashSet<usize> = left.iter().copied().collect();
        let lost = (0..BURST)
            .filter(|number| !unacknowledged.contains(number))
            .filter(|number| !stored.contains(&id(9, *number)))
            .count();
        ensure!(lost == 0, "{lost} acknowledged events are lost");
        ensure!(before.len() > left.len(), "nothing was acknowledged");
    }
    let stored = stored(&host, "published")?;
    ensure!(stored.len() == BURST, "{} are stored", stored.len());
    Ok(())
}

fn readings_that_a_subscriber_has_seen_are_stored_in_spite_of_kills() -> anyhow::Result<()> {
    let plc = Plc::start("127.0.0.1:0".parse()?)?;
    let mut host = host()?;
    host.push("demo/modbus-driver:v1", &guest("modbus_driver")?)?;
    let manifests = repository().join("examples/manifests");
    for name in ["profile.yaml", "driver.yaml"] {
        let file = manifests.join(name);
        host.k(&["apply", "-f", file.to_str().context("path")?])?;
    }
    let device = std::fs::read_to_string(manifests.join("device.yaml"))?;
    let device = device.replace("\"1502\"", &format!("\"{}\"", plc.address().port()));
    host.apply(&device)?;
    host.k(&[
        "patch",
        "device",
        "plc-1",
        "--type=merge",
        "-p",
        r#"{"spec":{"autoEvents":[{"interval":"1ms","sourceName":"Temperature"}]}}"#,
    ])?;
    for round in 0..3 {
        let seen = Mutex::new(HashSet::new());
        let port = host.ports.mqtt;
        std::thread::scope(|scope| -> anyhow::Result<()> {
            scope.spawn(|| subscribe(port, &seen));
            let enough = eventually("readings are seen", PATIENCE, || {
                let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                Ok((seen.len() > 200 * (round + 1)).then_some(()))
            });
            let killed = host.kill();
            enough.and(killed)
        })?;
        host.restart()?;
        // Pages of what still grows overlap.
        let locked = |state: &str| {
            let patch = format!("{{\"spec\":{{\"adminState\":\"{state}\"}}}}");
            host.k(&["patch", "device", "plc-1", "--type=merge", "-p", &patch])
        };
        locked("LOCKED")?;
        let (mut last, mut same) = (0, 0);
        eventually("no more is stored", PATIENCE, || {
            let count = stored_count(&host, "plc-1")?;
            same = if count == last { same + 1 } else { 0 };
            last = count;
            Ok((same == 10).then_some(()))
        })?;
        let stored = stored(&host, "plc-1")?;
        locked("UNLOCKED")?;
        let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lost = seen.difference(&stored).count();
        ensure!(lost == 0, "{lost} of {} seen events are lost", seen.len());
    }
    Ok(())
}

/// Collect the ids of events until the broker is gone.
fn subscribe(port: u16, seen: &Mutex<HashSet<String>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let options = MqttOptions::new("seen", "127.0.0.1", port);
        let (client, mut events) = AsyncClient::new(options, 10);
        let topic = "edgex/events/device/#";
        if client.subscribe(topic, QoS::AtMostOnce).await.is_err() {
            return;
        }
        while let Ok(event) = events.poll().await {
            let Event::Incoming(Packet::Publish(message)) = event else {
                continue;
            };
            let message: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            if let Some(id) = message["payload"]["event"]["id"].as_str() {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.insert(id.to_owned());
            }
        }
    });
}
