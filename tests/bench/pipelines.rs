//! Pipelines: how late what they deliver is, how much goes through, and how soon a queue is empty once
//! its target is back.
//!
//! Events come over the bus and are stored by core-data as always; the steps and the exporter are Wasm
//! guests. The target is Mosquitto or an HTTP server in this process. EdgeX 4.0.2 was measured on this
//! class of machine with its own configurable application service and Mosquitto.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use crate::{
    host::{Host, condition},
    median, row, tools,
};

const PACE: Duration = Duration::from_millis(1);
const PACED: usize = 8_000;

/// What goes through: events of a hundred readings, of which a filter lets half pass.
const EVENTS: usize = 10_000;
const READINGS: usize = 100;
const BATCH: usize = 10;

const WAITING: usize = 50_000;
const PATIENCE: Duration = Duration::from_secs(120);
const FUNCTIONS: &str = "bench/app-functions:v1";

pub async fn pipelines(host: &Host) -> anyhow::Result<()> {
    host.push(FUNCTIONS, &tools::guest("app_functions")?)?;
    host.push("bench/mqtt-exporter:v1", &tools::guest("mqtt_exporter")?)?;
    host.push("bench/http-exporter:v1", &tools::guest("http_exporter")?)?;
    if tools::find("mosquitto").is_some() {
        latency(host).await?;
        drain(host).await?;
    } else {
        row(
            "pipelines to an MQTT broker",
            "",
            "skipped",
            "mosquitto is missing",
        );
    }
    throughput(host).await
}

fn function(name: &str, settings: &Value) -> Value {
    let mut config = settings.clone();
    config["Function"] = name.into();
    json!({"name": name.to_lowercase(), "image": FUNCTIONS, "config": config})
}

/// Have a pipeline run.
fn pipeline(host: &Host, name: &str, steps: &[Value], exporter: &Value) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": name},
        "spec": {"source": {"devices": [name]}, "steps": steps, "exporters": [exporter]},
    });
    host.apply(&object.to_string())?;
    tools::eventually("the pipeline is ready", PATIENCE, || {
        let pipeline = host.get(&format!("pipeline {name}"))?;
        Ok(condition(&pipeline, "Ready").then_some(()))
    })
}

fn mqtt_exporter(port: u16, topic: &str) -> Value {
    json!({"name": "mqtt", "image": "bench/mqtt-exporter:v1", "config": {
        "broker": format!("mqtt://127.0.0.1:{port}"), "topic": topic, "qos": "1",
    }})
}

/// An event of `device` as it comes over the bus.
fn message(device: &str, number: usize, readings: usize) -> String {
    let origin = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    let id = format!("{readings:08x}-0000-4000-9000-{number:012x}");
    let all: Vec<String> = (0..readings)
        .map(|index| {
            let kind = if index % 2 == 0 { "Temperature" } else { "Pressure" };
            format!(
                r#"{{"id":"{number:08x}-{index:04x}-4000-9000-000000000000","origin":{origin},"deviceName":"{device}","resourceName":"{kind}{index}","profileName":"bench","valueType":"Float64","value":"{}","units":"degC"}}"#,
                20.0 + index as f64 / 8.0
            )
        })
        .collect();
    format!(
        r#"{{"apiVersion":"v3","contentType":"application/json","payload":{{"apiVersion":"v3","event":{{"apiVersion":"v3","id":"{id}","deviceName":"{device}","profileName":"bench","sourceName":"All","origin":{origin},"readings":[{}]}}}}}}"#,
        all.join(",")
    )
}

fn connect(name: &str, port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_max_packet_size(16 << 20, 16 << 20);
    options.set_inflight(500);
    AsyncClient::new(options, 1000)
}

/// Send messages with QoS 1, at once or at a pace, and wait until all are acknowledged.
async fn send(
    port: u16,
    device: &'static str,
    count: usize,
    readings: usize,
    pace: Option<Duration>,
) -> anyhow::Result<()> {
    let (client, mut events) = connect(device, port);
    let sending = tokio::spawn(async move {
        let mut clock = tokio::time::interval(pace.unwrap_or(PACE));
        for number in 0..count {
            if pace.is_some() {
                clock.tick().await;
            }
            let topic = format!("edgex/events/device/bench/bench/{device}/All");
            let text = message(device, number, readings);
            client.publish(topic, QoS::AtLeastOnce, false, text).await?;
        }
        anyhow::Ok(client)
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        let event = tokio::time::timeout(PATIENCE, events.poll()).await;
        if let Event::Incoming(Packet::PubAck(_)) = event.context("no acknowledgement")?? {
            acknowledged += 1;
        }
    }
    drop(sending.await??);
    Ok(())
}

/// Mosquitto, which keeps nothing.
struct Target(Child, u16);

impl Target {
    fn start(dir: &std::path::Path, port: u16) -> anyhow::Result<Self> {
        let configuration = dir.join(format!("mosquitto-{port}.conf"));
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nuser root\n"
        );
        std::fs::write(&configuration, text)?;
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let target = Self(child, port);
        tools::eventually("mosquitto listens", PATIENCE, || {
            Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        })?;
        Ok(target)
    }

    async fn subscribe(&self, topic: &str) -> anyhow::Result<(AsyncClient, EventLoop)> {
        let (client, mut events) = connect("target", self.1);
        client.subscribe(topic, QoS::AtMostOnce).await?;
        loop {
            let event = tokio::time::timeout(PATIENCE, events.poll()).await;
            if let Event::Incoming(Packet::SubAck(_)) = event.context("no answer")?? {
                return Ok((client, events));
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn next(events: &mut EventLoop) -> anyhow::Result<bytes::Bytes> {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.poll()).await;
        if let Event::Incoming(Packet::Publish(message)) = event.context("nothing comes")?? {
            return Ok(message.payload);
        }
    }
}

/// A thousand events a second from the bus through a filter and a transformation to a broker.
async fn latency(host: &Host) -> anyhow::Result<()> {
    let target = Target::start(&host.dir, tools::free_port()?)?;
    let steps = [
        function("FilterByDeviceName", &json!({"DeviceNames": "paced"})),
        function("Transform", &json!({"Type": "json"})),
    ];
    pipeline(
        host,
        "paced",
        &steps,
        &mqtt_exporter(target.1, "paced/{device}"),
    )?;
    let (client, mut events) = target.subscribe("paced/#").await?;
    let sending = tokio::spawn(send(host.mqtt().port(), "paced", PACED, 1, Some(PACE)));
    let mut times = Vec::new();
    while times.len() < PACED {
        let payload = next(&mut events).await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let event: Value = serde_json::from_slice(&payload)?;
        let origin = event["origin"].as_u64().context("no origin")?;
        times.push((now.as_nanos() as f64 - origin as f64) / 1e6);
    }
    sending.await??;
    drop(client);
    let p50 = median(&mut times);
    let p99 = times[times.len() * 99 / 100];
    row(
        "bus to pipeline (filter, transform) to MQTT export, 1,000 events/s",
        "p50 ≤ 1 ms, p99 ≤ 5 ms",
        &format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
        "EdgeX 4.0.2: p50 21.5 ms, p99 57 ms",
    );
    host.k(&["delete", "pipeline", "paced"])?;
    Ok(())
}

/// Events that waited because the target was away.
async fn drain(host: &Host) -> anyhow::Result<()> {
    let port = tools::free_port()?;
    pipeline(host, "away", &[], &mqtt_exporter(port, "away/{device}"))?;
    let begin = Instant::now();
    send(host.mqtt().port(), "away", WAITING, 1, None).await?;
    let taken = begin.elapsed();
    let target = Target::start(&host.dir, port)?;
    let (client, mut events) = target.subscribe("away/#").await?;
    let begin = Instant::now();
    next(&mut events).await?;
    let first = begin.elapsed();
    for _ in 1..WAITING {
        next(&mut events).await?;
    }
    let all = begin.elapsed();
    drop(client);
    row(
        "50,000 events while the target of an exporter is away, then back",
        "none lost",
        &format!(
            "taken at {:.0}/s; the first delivered {:.1} s after, all {:.1} s ({:.0}/s)",
            WAITING as f64 / taken.as_secs_f64(),
            first.as_secs_f64(),
            all.as_secs_f64(),
            WAITING as f64 / (all - first).as_secs_f64()
        ),
        "",
    );
    host.k(&["delete", "pipeline", "away"])?;
    Ok(())
}

/// Filter, transform, batch, compress and export, as fast as it goes.
async fn throughput(host: &Host) -> anyhow::Result<()> {
    let port = host.mqtt().port();
    // What it costs to take and to store them, without a pipeline.
    let before = host.processor_time()?;
    send(port, "stored", EVENTS, READINGS, None).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let storing = host.processor_time()?.saturating_sub(before);

    let (url, bodies) = sink()?;
    let steps = [
        function(
            "FilterByResourceName",
            &json!({"ResourceNames": "^Temperature"}),
        ),
        function("Transform", &json!({"Type": "json"})),
        function(
            "Batch",
            &json!({"Mode": "bycount", "BatchThreshold": BATCH.to_string(), "MergeOnSend": "true"}),
        ),
        function(
            "Compress",
            &json!({"Algorithm": "gzip", "Encoding": "none"}),
        ),
    ];
    let exporter =
        json!({"name": "http", "image": "bench/http-exporter:v1", "config": {"url": url}});
    pipeline(host, "dense", &steps, &exporter)?;
    let before = host.processor_time()?;
    let begin = Instant::now();
    let sending = tokio::spawn(send(port, "dense", EVENTS, READINGS, None));
    let (last, received) = tokio::task::spawn_blocking(move || {
        let mut received = Vec::new();
        while received.len() < EVENTS / BATCH {
            received.push(bodies.recv_timeout(PATIENCE)?);
        }
        anyhow::Ok((Instant::now(), received))
    })
    .await??;
    sending.await??;
    let seconds = last.duration_since(begin).as_secs_f64();
    let whole = host.processor_time()?.saturating_sub(before);
    let mut readings = 0;
    for body in &received {
        let mut text = String::new();
        GzDecoder::new(body.as_slice()).read_to_string(&mut text)?;
        readings += text.matches("\"resourceName\"").count();
    }
    ensure!(
        readings == EVENTS * READINGS / 2,
        "{readings} readings were delivered"
    );
    let each = |time: Duration| time.as_secs_f64() * 1e6 / (EVENTS * READINGS) as f64;
    let native = native()?;
    row(
        "readings through filter, transform, batch, gzip and HTTP export, a hundred an event",
        "≥ 200,000/s",
        &format!(
            "{:.0}/s from the bus on; {:.2} µs of processor time each, {:.2} µs of these to take and store it",
            (EVENTS * READINGS) as f64 / seconds,
            each(whole),
            each(storing)
        ),
        "client, host and target share the two processors",
    );
    let pipeline = each(whole.saturating_sub(storing));
    row(
        "processor time of the pipeline for each reading",
        "≤ 2 × plain Rust",
        &format!("{pipeline:.2} µs"),
        &format!(
            "the same steps in plain Rust, without guests and queues: {:.2} µs, ratio {:.2}",
            each(native),
            pipeline / each(native)
        ),
    );
    host.k(&["delete", "pipeline", "dense"])?;
    Ok(())
}

/// The steps of [`throughput`] on events that are in memory.
fn native() -> anyhow::Result<Duration> {
    let text = message("dense", 1, READINGS);
    let message: Value = serde_json::from_str(&text)?;
    let event = &message["payload"]["event"];
    let pattern = regex::Regex::new("^Temperature")?;
    let begin = Instant::now();
    for _ in 0..EVENTS / BATCH {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let mut event = event.clone();
            if let Some(readings) = event["readings"].as_array_mut() {
                readings.retain(|r| {
                    r["resourceName"]
                        .as_str()
                        .is_some_and(|n| pattern.is_match(n))
                });
            }
            serde_json::to_writer(&mut batch, &event)?;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&batch)?;
        std::hint::black_box(encoder.finish()?);
    }
    Ok(begin.elapsed())
}

/// An HTTP server that hands over what it is sent.
fn sink() -> anyhow::Result<(String, mpsc::Receiver<Vec<u8>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", listener.local_addr()?);
    let (sender, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || take(stream, &sender));
        }
    });
    Ok((url, bodies))
}

/// The requests of one connection.
fn take(mut stream: TcpStream, sender: &mpsc::Sender<Vec<u8>>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "closed");
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        sender.send(body)?;
    }
}
