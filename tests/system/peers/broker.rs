//! A broker of the site's own in place of the embedded one: mosquitto, over TLS with a password.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{Peer, answers, mqtt::certificates};
use crate::{
    drivers::{WAIT, device, driver, read},
    host::Host,
    tools::{curl, eventually, find, free_port, succeed},
};

const ID: &str = "e6e8a2f4-eb14-4649-9e2b-175247911369";
const EVENTS: &str = "edgex/events/device/#";

/// mosquitto with what it keeps in a directory, and its clients.
struct Site<'a> {
    directory: &'a Path,
    port: u16,
}

impl<'a> Site<'a> {
    fn new(directory: &'a Path) -> anyhow::Result<Self> {
        certificates(directory)?;
        let site = Self {
            directory,
            port: free_port()?,
        };
        let passwords = site.at("passwords");
        let user = ["-b", "-c", &passwords, "eyot", "a:b@c"];
        succeed(Command::new("mosquitto_passwd").args(user))?;
        // What a watcher has not fetched yet survives the broker's end.
        std::fs::write(
            site.at("mosquitto.conf"),
            format!(
                "listener {} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n\
                 user root\ncafile {}\ncertfile {}\nkeyfile {}\npersistence true\n\
                 persistence_location {}/\nmax_queued_messages 0\n",
                site.port,
                site.at("ca.crt"),
                site.at("cert.pem"),
                site.at("key.pem"),
                directory.display(),
            ),
        )?;
        Ok(site)
    }

    fn at(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn start(&self) -> anyhow::Result<Peer> {
        let mosquitto = find("mosquitto").context("mosquitto")?;
        let broker = Peer::start(Command::new(mosquitto).args(["-c", &self.at("mosquitto.conf")]))?;
        answers(self.port)?;
        Ok(broker)
    }

    fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-h", "localhost", "-p", &self.port.to_string()])
            .args(["--cafile", &self.at("ca.crt"), "-u", "eyot", "-P", "a:b@c"])
            .args(arguments);
        command
    }

    fn publish(&self, topic: &str, payload: &Value) -> anyhow::Result<()> {
        let payload = payload.to_string();
        let arguments = ["-q", "1", "-t", topic, "-m", &payload];
        succeed(&mut self.client("mosquitto_pub", &arguments)).map(drop)
    }

    /// Have a message published again and again until there is an answer on `answer`.
    fn ask(&self, topic: &str, payload: &Value, answer: &str) -> anyhow::Result<Value> {
        eventually(&format!("an answer on {answer}"), WAIT, || {
            let listening = ["-t", answer, "-C", "1", "-W", "3"];
            let listening = self
                .client("mosquitto_sub", &listening)
                .stdout(std::process::Stdio::piped())
                .spawn()?;
            let is_over = std::sync::atomic::AtomicBool::new(false);
            let heard = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        // It may not listen yet.
                        let _ = self.publish(topic, payload);
                    }
                });
                let heard = listening.wait_with_output();
                is_over.store(true, std::sync::atomic::Ordering::Relaxed);
                heard
            })?;
            let text = String::from_utf8_lossy(&heard.stdout);
            Ok(serde_json::from_str(text.trim()).ok())
        })
    }

    /// The identifiers of the events that the watcher has not fetched yet, each with its device.
    fn watch(&self, most: &str, seconds: &str) -> anyhow::Result<BTreeSet<(String, String)>> {
        let watching = [
            "-c", "-i", "watcher", "-q", "1", "-t", EVENTS, "-C", most, "-W", seconds,
        ];
        let heard = crate::tools::run(&mut self.client("mosquitto_sub", &watching))?;
        let text = String::from_utf8_lossy(&heard.stdout).into_owned();
        text.lines()
            .map(|line| {
                let message: Value = serde_json::from_str(line)?;
                let event = &message["payload"]["event"];
                let part = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                Ok((part("deviceName"), part("id")))
            })
            .collect()
    }
}

/// What core-data has of a device: the identifiers of its events.
fn stored(host: &Host, device: &str) -> anyhow::Result<BTreeSet<(String, String)>> {
    let url = format!(
        "http://127.0.0.1:{}/api/v3/event/device/name/{device}?limit=1000",
        host.ports.core_data
    );
    let (status, body) = curl(&[&url])?;
    ensure!(status == 200, "{status} {body}");
    let answer: Value = serde_json::from_str(&body)?;
    let events = answer["events"].as_array().context("events")?;
    let id = |event: &Value| event["id"].as_str().unwrap_or_default().to_owned();
    Ok(events.iter().map(|e| (device.to_owned(), id(e))).collect())
}

pub fn a_broker_of_the_site_takes_the_place_of_the_embedded_one() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let site = Site::new(directory.path())?;
    std::fs::write(site.at("password"), "a:b@c\n")?;
    // The host is there first.
    let mut host = Host::start_with(&[
        &format!("--mqtt-broker=mqtts://eyot@localhost:{}", site.port),
        &format!("--mqtt-broker-password-file={}", site.at("password")),
        &format!("--mqtt-broker-ca-file={}", site.at("ca.crt")),
    ])?;
    ensure!(
        std::net::TcpStream::connect(("127.0.0.1", host.ports.mqtt)).is_err(),
        "the embedded broker listens"
    );
    let broker = site.start()?;
    driver(&host, "far-virtual", "virtual_driver")?;
    let spec = json!({
        "serviceName": "far-virtual", "protocols": { "other": {} },
        "autoEvents": [{ "interval": "200ms", "sourceName": "Int8" }],
    });
    let resources = json!([
        { "name": "Int8", "properties": { "valueType": "Int8", "readWrite": "RW" } },
    ]);
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| site.watch("1", "60"));
        device(&host, "far-1", &spec, &resources)?;
        first
            .join()
            .unwrap_or_else(|_| anyhow::bail!("the watcher"))
    })?;
    ensure!(first.len() == 1, "no event: {first:?}");

    // Commands, twins.
    let request = json!({ "apiVersion": "v3", "requestID": ID, "payload": null });
    let answer = format!("edgex/response/core-command/{ID}");
    let topic = "edgex/core/command/request/far-1/Int8/get";
    let answered = site.ask(topic, &request, &answer)?;
    let reading = &answered["payload"]["event"]["readings"][0];
    ensure!(reading["valueType"] == "Int8", "{answered}");
    let twin = "$hw/events/device/default/far-1/twin/get";
    let answered = site.ask(twin, &json!({}), &format!("{twin}/result"))?;
    ensure!(answered["twin"]["Int8"].is_object(), "{answered}");

    // Changes of metadata.
    let filter = ["-t", "edgex/system-events/#", "-C", "1", "-W", "30"];
    let told = std::thread::scope(|scope| {
        let told = scope.spawn(|| succeed(&mut site.client("mosquitto_sub", &filter)));
        let mut turn = 0;
        while !told.is_finished() {
            turn += 1;
            let patch = json!({ "spec": { "labels": [format!("turn-{turn}")] } }).to_string();
            host.k(&["patch", "device", "far-1", "--type=merge", "-p", &patch])?;
        }
        told.join()
            .unwrap_or_else(|_| anyhow::bail!("the listener"))
    })?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(told["payload"]["action"] == "update", "{told}");

    // What a device service elsewhere publishes is stored.
    let event = json!({ "apiVersion": "v3", "id": ID, "deviceName": "elsewhere",
        "profileName": "p", "sourceName": "Heat", "origin": 7, "readings": [{
            "id": ID, "origin": 7, "deviceName": "elsewhere", "resourceName": "Heat",
            "profileName": "p", "valueType": "Int8", "value": "3" }] });
    let message = json!({ "apiVersion": "v3", "requestID": "", "contentType": "application/json",
        "payload": { "apiVersion": "v3", "requestId": ID, "event": event } });
    site.publish("edgex/events/device/other/p/elsewhere/Heat", &message)?;
    eventually("the event of another service is stored", WAIT, || {
        Ok((stored(&host, "elsewhere")?.len() == 1).then_some(()))
    })?;

    // Nothing is lost while the broker is away for a while.
    let before = stored(&host, "far-1")?;
    end(broker)?;
    eventually("events come without a broker", WAIT, || {
        Ok((stored(&host, "far-1")?.len() > before.len() + 10).then_some(()))
    })?;
    let broker = site.start()?;
    let request = site.ask(topic, &request, &answer)?;
    ensure!(request["errorCode"] == 0, "{request}");
    let patch = json!({ "spec": { "adminState": "LOCKED" } }).to_string();
    host.k(&["patch", "device", "far-1", "--type=merge", "-p", &patch])?;
    eventually("the device is locked", WAIT, || {
        Ok(read(&host, "far-1", "Int8").is_err().then_some(()))
    })?;
    let mut seen = first;
    eventually("the watcher has all that is stored", WAIT, || {
        seen.extend(site.watch("10000", "3")?);
        let missing: Vec<_> = (stored(&host, "far-1")?.into_iter())
            .filter(|event| !seen.contains(event))
            .collect();
        // Those from before the watcher came are none that it was to have.
        let early = missing.iter().filter(|event| !before.contains(event));
        let lost = early.count();
        ensure!(lost == 0, "{lost} events are not there");
        Ok(Some(()))
    })?;
    host.terminate()?;
    end(broker)
}

/// End a broker as its own service manager does, so that it keeps what it is to keep.
fn end(mut broker: Peer) -> anyhow::Result<()> {
    let id = Pid::from_raw(i32::try_from(broker.0.id())?);
    kill(id, Signal::SIGTERM)?;
    broker.0.wait()?;
    Ok(())
}
