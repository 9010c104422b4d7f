//! Pipelines whose target is away while the host is killed; and what never can be delivered.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    host::{Host, condition, eyot},
    tools::{eventually, free_port, guest, run, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        nothing_acknowledged_is_lost_or_out_of_order_over_an_outage_and_two_kills,
        [Kubectl, Guests, Mosquitto, MosquittoSub]
    ),
    case!(
        a_batch_that_has_begun_goes_on_after_a_kill,
        [Kubectl, Guests, Mosquitto, MosquittoSub]
    ),
    case!(
        what_cannot_be_delivered_is_a_letter_that_can_be_sent_again,
        [Kubectl, Guests, Mosquitto, MosquittoSub]
    ),
];

const WAIT: Duration = Duration::from_secs(60);
const DEVICES: [&str; 3] = ["press", "kiln", "pump"];

/// A broker that keeps its sessions on disk.
struct Target {
    port: u16,
    configuration: std::path::PathBuf,
    child: Option<Child>,
}

impl Target {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let configuration = dir.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
             persistence_location {}/\nmax_queued_messages 0\nmax_inflight_messages 0\nuser root\n",
            dir.display()
        );
        std::fs::write(&configuration, text)?;
        Ok(Self {
            port,
            configuration,
            child: None,
        })
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&self.configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("mosquitto")?;
        self.child = Some(child);
        let address = ("127.0.0.1", self.port);
        eventually("mosquitto listens", WAIT, || {
            Ok(std::net::TcpStream::connect(address).ok().map(drop))
        })
    }

    /// SIGTERM: it writes its sessions down.
    fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
            child.wait()?;
        }
        Ok(())
    }

    /// A client whose session lasts.
    fn recorder(&self, more: &[&str]) -> Command {
        let mut command = Command::new("mosquitto_sub");
        command
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-c", "-i", "recorder", "-q", "1", "-t", "out/#"])
            .args(more);
        command
    }

    /// The messages that the recorder has, until there are `least` different ones and `done` says so.
    fn recorded(&self, seconds: u32) -> anyhow::Result<Vec<Value>> {
        let output = run(&mut self.recorder(&["-W", &seconds.to_string()]))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A host with the demo's exporter, and a pipeline to the target.
fn prepared(target: &Target) -> anyhow::Result<Host> {
    let host = Host::start()?;
    host.push("demo/mqtt-exporter:v1", &guest("mqtt_exporter")?)?;
    let pipeline = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "Pipeline", "metadata": { "name": "out" },
        "spec": { "exporters": [{
            "name": "mqtt", "image": "demo/mqtt-exporter:v1",
            "config": { "broker": format!("mqtt://127.0.0.1:{}", target.port),
                        "topic": "out/{device}", "qos": "1" },
        }] },
    });
    host.apply(&pipeline.to_string())?;
    ready(&host)?;
    Ok(host)
}

/// Wait until the pipeline runs as it was written last.
fn ready(host: &Host) -> anyhow::Result<()> {
    eventually("the pipeline is ready", WAIT, || {
        let pipeline = host.get("pipeline out")?;
        let is_seen =
            pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"];
        Ok((is_seen && condition(&pipeline, "Ready")).then_some(()))
    })
}

/// Send an event to core-data as a client would; whether it was acknowledged.
pub fn post(port: u16, device: &str, number: u64) -> bool {
    let id = uuid(device, number);
    let origin = 1_700_000_000_000_000_000 + number;
    let event = json!({ "apiVersion": "v3", "event": {
        "apiVersion": "v3", "id": id, "deviceName": device, "profileName": "p", "sourceName": "s",
        "origin": origin, "readings": [{
            "deviceName": device, "resourceName": "n", "profileName": "p", "valueType": "Uint64",
            "origin": origin, "value": number.to_string(),
        }],
    } });
    let url = format!("http://127.0.0.1:{port}/api/v3/event/svc/p/{device}/s");
    let output = run(Command::new("curl").args([
        "-s",
        "-m",
        "20",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        "Content-Type: application/json",
        "-d",
        &event.to_string(),
        &url,
    ]));
    // Refused for being there: it was taken, and the answer was lost in a kill.
    output.is_ok_and(|output| output.stdout == b"201" || output.stdout == b"409")
}

fn uuid(device: &str, number: u64) -> String {
    let device = device.bytes().map(u64::from).sum::<u64>();
    format!("00000000-0000-4000-8000-{device:04x}{number:08x}")
}

/// Device and number of a delivered event.
fn number(message: &Value) -> anyhow::Result<(String, u64)> {
    let device = message["deviceName"].as_str().context("no device")?;
    let value = message["readings"][0]["value"].as_str();
    Ok((device.to_owned(), value.context("no value")?.parse()?))
}

fn nothing_acknowledged_is_lost_or_out_of_order_over_an_outage_and_two_kills() -> anyhow::Result<()>
{
    let dir = tempfile::tempdir()?;
    let mut target = Target::new(dir.path())?;
    target.start()?;
    succeed(&mut target.recorder(&["-E"]))?;
    let mut host = prepared(&target)?;
    for device in DEVICES {
        ensure!(post(host.ports.core_data, device, 0), "not acknowledged");
    }
    eventually("the pipeline delivers", WAIT, || {
        let pipeline = host.get("pipeline out")?;
        Ok((pipeline["status"]["delivered"].as_i64() >= Some(3)).then_some(()))
    })?;
    target.stop()?;
    let acknowledged = Mutex::new(BTreeMap::<&str, Vec<u64>>::new());
    let (stop, port) = (AtomicBool::new(false), host.ports.core_data);
    let count = || -> usize {
        let all = acknowledged.lock().unwrap_or_else(|e| e.into_inner());
        all.values().map(Vec::len).sum()
    };
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for device in DEVICES {
            let (acknowledged, stop) = (&acknowledged, &stop);
            scope.spawn(move || {
                let mut number = 1;
                while !stop.load(Ordering::Relaxed) {
                    // Until it is acknowledged, as a client would that must not lose it.
                    if post(port, device, number) {
                        let mut all = acknowledged.lock().unwrap_or_else(|e| e.into_inner());
                        all.entry(device).or_default().push(number);
                        number += 1;
                    } else {
                        // The host is away: ask no more often than a patient client would.
                        std::thread::park_timeout(Duration::from_millis(100));
                    }
                }
            });
        }
        let mut drill = || -> anyhow::Result<()> {
            for so_many in [40, 80] {
                eventually("events are acknowledged", WAIT, || {
                    Ok((count() >= so_many).then_some(()))
                })?;
                host.kill()?;
                host.restart()?;
            }
            eventually("events are acknowledged again", WAIT, || {
                Ok((count() >= 120).then_some(()))
            })
        };
        let drilled = drill();
        stop.store(true, Ordering::Relaxed);
        drilled
    })?;
    eventually("what waits is counted", WAIT, || {
        let pipeline = host.get("pipeline out")?;
        let status = &pipeline["status"];
        ensure!(status["queued"].as_i64() >= Some(100), "{status}");
        Ok(Some(()))
    })?;
    target.start()?;
    eventually("everything is delivered", WAIT, || {
        let pipeline = host.get("pipeline out")?;
        let status = &pipeline["status"];
        ensure!(status["queued"] == 0, "{status}");
        Ok(Some(()))
    })?;
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in target.recorded(5)? {
        let (device, number) = number(&message)?;
        seen.entry(device).or_default().push(number);
    }
    for (device, acknowledged) in acknowledged.into_inner().unwrap_or_else(|e| e.into_inner()) {
        let delivered = seen.remove(device).unwrap_or_default();
        let mut known = HashSet::new();
        // Some may come twice: what counts is when each came first.
        let first: Vec<u64> = delivered.into_iter().filter(|n| known.insert(*n)).collect();
        ensure!(first.is_sorted(), "{device}: out of order: {first:?}");
        for number in acknowledged {
            ensure!(known.contains(&number), "{device}: {number} is lost");
        }
    }
    Ok(())
}

fn a_batch_that_has_begun_goes_on_after_a_kill() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut target = Target::new(dir.path())?;
    target.start()?;
    succeed(&mut target.recorder(&["-E"]))?;
    let mut host = Host::start()?;
    host.push("demo/app-functions:v1", &guest("app_functions")?)?;
    host.push("demo/mqtt-exporter:v1", &guest("mqtt_exporter")?)?;
    let pipeline = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "Pipeline", "metadata": { "name": "out" },
        "spec": {
            "steps": [{ "name": "batch", "image": "demo/app-functions:v1", "config": {
                "Function": "Batch", "Mode": "bycount", "BatchThreshold": "5", "IsEventData": "true",
            } }],
            "exporters": [{ "name": "mqtt", "image": "demo/mqtt-exporter:v1", "config": {
                "broker": format!("mqtt://127.0.0.1:{}", target.port), "topic": "out/{device}",
            } }],
        },
    });
    host.apply(&pipeline.to_string())?;
    ready(&host)?;
    for number in 0..3 {
        ensure!(post(host.ports.core_data, "press", number), "not taken");
    }
    host.kill()?;
    host.restart()?;
    ready(&host)?;
    for number in 3..5 {
        ensure!(post(host.ports.core_data, "press", number), "not taken");
    }
    let batch = eventually("the batch is published", WAIT, || {
        Ok(target.recorded(2)?.into_iter().next())
    })?;
    let events = batch.as_array().context("no array")?;
    let numbers = events.iter().map(|event| Ok(number(event)?.1));
    let numbers = numbers.collect::<anyhow::Result<Vec<u64>>>()?;
    ensure!(numbers == [0, 1, 2, 3, 4], "{numbers:?}");
    Ok(())
}

/// `eyot pipeline …` against a host.
fn pipeline(host: &Host, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = eyot();
    command
        .arg("pipeline")
        .args(arguments)
        .arg("--kubeconfig")
        .arg(host.dir.join("kubeconfig"));
    succeed(&mut command)
}

fn what_cannot_be_delivered_is_a_letter_that_can_be_sent_again() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut target = Target::new(dir.path())?;
    target.start()?;
    succeed(&mut target.recorder(&["-E"]))?;
    let host = prepared(&target)?;
    // A topic that no broker takes, of a step that makes payloads of its own.
    host.push("demo/json:v1", &guest("json_step")?)?;
    let bad = |destination: &str| {
        let patch = json!({ "spec": { "steps": [{
            "name": "json", "image": "demo/json:v1",
            "config": { "format": "edgex", "destination": destination },
        }], "exporters": [{
            "name": "mqtt", "image": "demo/mqtt-exporter:v1",
            "config": { "broker": format!("mqtt://127.0.0.1:{}", target.port), "qos": "1" },
        }] } });
        host.k(&[
            "patch",
            "pipeline",
            "out",
            "--type=merge",
            "-p",
            &patch.to_string(),
        ])
    };
    bad("out/+/{device}")?;
    ready(&host)?;
    for number in 0..3 {
        ensure!(
            post(host.ports.core_data, "press", number),
            "not acknowledged"
        );
    }
    let letters = eventually("three letters", WAIT, || {
        let letters = pipeline(&host, &["letters", "out"])?;
        Ok((letters.lines().count() == 3).then_some(letters))
    })?;
    ensure!(
        letters
            .lines()
            .all(|l| l.contains("mqtt") && l.contains("rejected")),
        "{letters}"
    );
    let whole = pipeline(&host, &["letters", "out", "--json"])?;
    ensure!(whole.contains("out/+/press"), "{whole}");
    eventually("they are counted", WAIT, || {
        let pipeline = host.get("pipeline out")?;
        ensure!(pipeline["status"]["failed"] == 3, "{pipeline}");
        Ok(Some(()))
    })?;
    // Sent again they fail again, and are letters again.
    let said = pipeline(&host, &["replay", "out", "--letters"])?;
    ensure!(said.starts_with("3 items"), "{said}");
    eventually("they are letters again", WAIT, || {
        let letters = pipeline(&host, &["letters", "out"])?;
        Ok((letters.lines().count() == 3).then_some(()))
    })?;
    // What went wrong is mended, and the stored events go through once more.
    bad("out/{device}")?;
    let said = eventually("the mended pipeline takes them", WAIT, || {
        pipeline(&host, &["replay", "out", "--since", "2023-01-01T00:00:00Z"]).map(Some)
    })?;
    ensure!(said.starts_with("3 items"), "{said}");
    eventually("they are delivered", WAIT, || {
        let pipeline = host.get("pipeline out")?;
        Ok((pipeline["status"]["delivered"].as_i64() >= Some(3)).then_some(()))
    })?;
    let numbers = target.recorded(3)?;
    let numbers: Vec<u64> = numbers
        .iter()
        .map(|message| Ok(number(message)?.1))
        .collect::<anyhow::Result<_>>()?;
    ensure!(numbers == [0, 1, 2], "{numbers:?}");
    Ok(())
}
