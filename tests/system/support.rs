//! EdgeX's support services as their clients use them: found in the register, told over HTTP, heard at real
//! receivers.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    host::{Host, shared},
    peers::{Peer, answers, mqtt::secured},
    tools::{curl, eventually, free_port, run, succeed},
};

pub const CASES: &[Case] = &[
    case!(the_hosts_own_services_are_found_in_the_register, [Kubectl]),
    case!(
        a_notification_reaches_a_web_service_and_a_broker_with_tls,
        [Kubectl, Python, Mosquitto, MosquittoSub]
    ),
    case!(
        alerts_of_readings_and_of_pods_reach_a_web_service,
        [Kubectl, Python]
    ),
    case!(
        a_job_calls_a_web_service_and_speaks_on_the_bus,
        [Kubectl, Python, MosquittoSub]
    ),
];

const WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Send JSON, and answer what came back if the status is the expected one.
fn send(method: &str, port: u16, path: &str, body: &Value, expected: u16) -> anyhow::Result<Value> {
    let url = format!("http://127.0.0.1:{port}/api/v3{path}");
    let body = body.to_string();
    let (status, answer) = curl(&[
        "-X",
        method,
        "-H",
        "Content-Type: application/json",
        "-d",
        &body,
        &url,
    ])?;
    ensure!(status == expected, "{method} {path}: {status} {answer}");
    serde_json::from_str(&answer).with_context(|| answer.clone())
}

/// Send one item of a list, which is to be made.
fn make(port: u16, path: &str, item: &str, value: &Value) -> anyhow::Result<Value> {
    let body = json!([{ "apiVersion": "v3", item: value }]);
    let mut answer = send("POST", port, path, &body, 207)?;
    ensure!(answer[0]["statusCode"] == 201, "{path}: {answer}");
    Ok(answer[0].take())
}

/// A web service that keeps what is PUT, until it has something.
fn web() -> anyhow::Result<(Peer, u16)> {
    let port = free_port()?;
    let python = crate::tools::find("python3").context("python3")?;
    let peer = Peer::script(&python, "rest.py", &[&port.to_string()])?;
    answers(port)?;
    Ok((peer, port))
}

fn kept(port: u16, path: &str) -> anyhow::Result<String> {
    eventually("the web service has been told", WAIT, || {
        let (status, body) = curl(&[&format!("http://127.0.0.1:{port}{path}")])?;
        Ok((status == 200).then_some(body))
    })
}

fn the_hosts_own_services_are_found_in_the_register() -> anyhow::Result<()> {
    let host = shared()?;
    let keeper = host.ports.core_keeper;
    for (id, port) in [
        ("core-data", host.ports.core_data),
        ("core-metadata", host.ports.core_metadata),
        ("core-command", host.ports.core_command),
        ("support-notifications", host.ports.support_notifications),
        ("support-scheduler", host.ports.support_scheduler),
    ] {
        let url = format!("http://127.0.0.1:{keeper}/api/v3/registry/serviceId/{id}");
        let (status, body) = curl(&[&url])?;
        ensure!(status == 200, "{id}: {status} {body}");
        let found: Value = serde_json::from_str(&body)?;
        let found = &found["registration"];
        ensure!(found["status"] == "UP" && found["port"] == port, "{found}");
        // As a client would that has found it there.
        let place = found["host"].as_str().context("host")?;
        let path = found["healthCheck"]["path"].as_str().context("path")?;
        let (status, body) = curl(&[&format!("http://{place}:{port}{path}")])?;
        ensure!(status == 200, "{id}: {status} {body}");
    }
    Ok(())
}

fn a_notification_reaches_a_web_service_and_a_broker_with_tls() -> anyhow::Result<()> {
    let host = shared()?;
    let directory = tempfile::tempdir()?;
    let (_broker, broker) = secured(directory.path())?;
    let (_web, web) = web()?;
    let authority = directory.path().join("ca.crt");
    let subscriber = |more: &[&str]| {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "localhost", "-p", &broker.to_string(), "--cafile"]);
        command.arg(&authority).args(["-u", "eyot", "-P", "a:b@c"]);
        command.args(["-c", "-i", "watch", "-q", "1", "-t", "alarms"]);
        command.args(more);
        command
    };
    // Its session lasts: what comes later is kept for it.
    succeed(&mut subscriber(&["-E"]))?;
    let service = host.ports.support_notifications;
    let secret = json!({ "apiVersion": "v3", "secretName": "alarm-broker", "secretData": [
        { "key": "username", "value": "eyot" }, { "key": "password", "value": "a:b@c" },
        { "key": "cacert", "value": std::fs::read_to_string(&authority)? },
    ] });
    send("POST", service, "/secret", &secret, 201)?;
    let subscription = json!({
        "name": "system-watch", "receiver": "system", "categories": ["system-fire"],
        "adminState": "UNLOCKED",
        "channels": [
            { "type": "REST", "host": "127.0.0.1", "port": web, "path": "/told", "httpMethod": "PUT" },
            { "type": "MQTT", "scheme": "ssl", "host": "localhost", "port": broker,
              "publisher": "notifier", "topic": "alarms", "qos": 1,
              "authMode": "usernamepassword", "secretPath": "alarm-broker" },
        ],
    });
    make(service, "/subscription", "subscription", &subscription)?;
    let notification = json!({
        "category": "system-fire", "content": "smoke in the hall", "sender": "detector",
        "severity": "CRITICAL",
    });
    let made = make(service, "/notification", "notification", &notification)?;
    ensure!(
        kept(web, "/told")? == "smoke in the hall",
        "another content"
    );
    eventually("the broker has it", WAIT, || {
        let output = run(&mut subscriber(&["-C", "1", "-W", "2"]))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((text.trim() == "smoke in the hall").then_some(()))
    })?;
    let id = made["id"].as_str().context("id")?;
    eventually("both are known to be sent", WAIT, || {
        let path = format!("/api/v3/transmission/notification/id/{id}");
        let (_, body) = curl(&[&format!("http://127.0.0.1:{service}{path}")])?;
        let found: Value = serde_json::from_str(&body)?;
        let all = found["transmissions"].as_array().context("transmissions")?;
        let sent = all.iter().filter(|one| one["status"] == "SENT").count();
        ensure!(sent == 2, "{body}");
        Ok(Some(()))
    })?;
    forget(
        host,
        "subscription",
        service,
        "/subscription/name/system-watch",
    )
}

const RULES: &str = r#"
apiVersion: eyot.dev/v1alpha1
kind: AlertRule
metadata: {name: alert-hot}
spec:
  reading: {devices: [alert-press], resources: [Temperature], is: Above, value: 80}
  category: alert-heat
---
apiVersion: eyot.dev/v1alpha1
kind: AlertRule
metadata: {name: alert-image}
spec:
  pod: {matchLabels: {app: alert}, is: ImageMissing}
  category: alert-image
  severity: CRITICAL
---
apiVersion: v1
kind: Pod
metadata: {name: alert-pod, labels: {app: alert}}
spec: {containers: [{name: main, image: "127.0.0.1:1/none:v1"}]}
"#;

fn alerts_of_readings_and_of_pods_reach_a_web_service() -> anyhow::Result<()> {
    let host = shared()?;
    let (_web, web) = web()?;
    let service = host.ports.support_notifications;
    for (name, category) in [("heat", "alert-heat"), ("image", "alert-image")] {
        let subscription = json!({
            "name": format!("alert-{name}"), "receiver": "system", "categories": [category],
            "adminState": "UNLOCKED",
            "channels": [{ "type": "REST", "host": "127.0.0.1", "port": web,
                           "path": format!("/{name}"), "httpMethod": "PUT" }],
        });
        make(service, "/subscription", "subscription", &subscription)?;
    }
    host.apply(RULES)?;
    ensure!(
        kept(web, "/image")? == "alert-pod is waiting for an image that does not come",
        "another content"
    );
    let post = |number: u32, value: &str| {
        let id = format!("00000000-0000-4000-a000-{number:012}");
        let event = json!({ "apiVersion": "v3", "event": {
            "apiVersion": "v3", "id": id, "deviceName": "alert-press", "profileName": "press",
            "sourceName": "Temperature", "origin": 1_700_000_000_000_000_000_u64 + u64::from(number),
            "readings": [{ "id": id, "origin": 1, "deviceName": "alert-press",
                "resourceName": "Temperature", "profileName": "press", "valueType": "Float64",
                "value": value }],
        } });
        let path = "/event/modbus/press/alert-press/Temperature";
        send("POST", host.ports.core_data, path, &event, 201)
    };
    post(1, "79.5")?;
    post(2, "81.25")?;
    ensure!(
        kept(web, "/heat")? == "alert-press/Temperature is above 80: 81.25",
        "another content"
    );
    eventually("both rules say that they fire", WAIT, || {
        let fires = |name: &str| -> anyhow::Result<bool> {
            Ok(host.get(&format!("alertrule {name}"))?["status"]["firing"] == 1)
        };
        Ok((fires("alert-hot")? && fires("alert-image")?).then_some(()))
    })?;
    post(3, "60")?;
    host.k(&["delete", "pod", "alert-pod"])?;
    for (path, content) in [
        ("/heat", "alert-press/Temperature is not above 80 any more"),
        (
            "/image",
            "alert-pod is not waiting for an image that does not come any more",
        ),
    ] {
        eventually("the end is told", WAIT, || {
            Ok((kept(web, path)? == content).then_some(()))
        })?;
    }
    host.k(&["delete", "alertrules", "alert-hot", "alert-image"])?;
    for name in ["heat", "image"] {
        let path = format!("/subscription/name/alert-{name}");
        forget(host, "subscription", service, &path)?;
    }
    Ok(())
}

fn a_job_calls_a_web_service_and_speaks_on_the_bus() -> anyhow::Result<()> {
    let host = shared()?;
    let (_web, web) = web()?;
    let service = host.ports.support_scheduler;
    // {"a":1} in base64.
    let payload = "eyJhIjoxfQ==";
    let job = json!({
        "name": "system-job",
        "definition": { "type": "INTERVAL", "interval": "1s" },
        "actions": [
            { "type": "REST", "address": format!("http://127.0.0.1:{web}/done"), "method": "PUT",
              "contentType": "application/json", "payload": payload },
            { "type": "EDGEXMESSAGEBUS", "topic": "system-job/tick", "payload": payload,
              "contentType": "application/json" },
        ],
    });
    make(service, "/job", "scheduleJob", &job)?;
    ensure!(kept(web, "/done")? == r#"{"a":1}"#, "another payload");
    let port = host.ports.mqtt.to_string();
    let said = succeed(Command::new("mosquitto_sub").args([
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-t",
        "system-job/tick",
        "-C",
        "1",
        "-W",
        "40",
    ]))?;
    let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(said["payload"] == json!({ "a": 1 }), "{said}");
    eventually("what was done is recorded", WAIT, || {
        let path = "/api/v3/scheduleactionrecord/job/name/system-job/status/SUCCEEDED?limit=-1";
        let (_, body) = curl(&[&format!("http://127.0.0.1:{service}{path}")])?;
        let found: Value = serde_json::from_str(&body)?;
        ensure!(found["totalCount"].as_u64() >= Some(2), "{body}");
        Ok(Some(()))
    })?;
    forget(host, "schedulejob", service, "/job/name/system-job")
}

/// Deleted over REST, and gone for kubectl, too.
fn forget(host: &Host, kind: &str, port: u16, path: &str) -> anyhow::Result<()> {
    let (status, body) = curl(&[
        "-X",
        "DELETE",
        &format!("http://127.0.0.1:{port}/api/v3{path}"),
    ])?;
    ensure!(status == 200, "{status} {body}");
    let name = path.rsplit('/').next().context("a name")?;
    host.k_fails(&["get", kind, name]).map(drop)
}
