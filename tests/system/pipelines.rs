//! Pipelines as they are made: read from another system's configuration, refused if they can never run.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    host::{Host, condition, eyot, shared},
    outage::post,
    peers::mqtt::secured,
    tools::{eventually, guest, run, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        an_imported_app_service_batches_and_publishes_over_tls_with_a_password,
        [Kubectl, Guests, Mosquitto, MosquittoSub]
    ),
    case!(
        a_pipeline_that_can_never_run_is_refused_with_the_field,
        [Kubectl, Guests]
    ),
];

const WAIT: std::time::Duration = std::time::Duration::from_secs(60);
const FUNCTIONS: &str = "pipes/app-functions:v1";
const EXPORTER: &str = "pipes/mqtt-exporter:v1";

fn pushed() -> anyhow::Result<&'static Host> {
    let host = shared()?;
    host.push(FUNCTIONS, &guest("app_functions")?)?;
    host.push(EXPORTER, &guest("mqtt_exporter")?)?;
    Ok(host)
}

fn an_imported_app_service_batches_and_publishes_over_tls_with_a_password() -> anyhow::Result<()> {
    let host = pushed()?;
    let directory = tempfile::tempdir()?;
    let (_broker, port) = secured(directory.path())?;
    let authority = directory.path().join("ca.crt");
    let subscriber = |more: &[&str]| {
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "localhost", "-p", &port.to_string(), "--cafile"]);
        command.arg(&authority).args(["-u", "eyot", "-P", "a:b@c"]);
        command.args(["-q", "1", "-t", "out/#"]).args(more);
        command
    };
    // Its session lasts: what comes later is kept for it.
    succeed(&mut subscriber(&["-c", "-i", "recorder", "-E"]))?;

    // JSON is YAML.
    let file = directory.path().join("configuration.yaml");
    let configuration = json!({
        "Trigger": { "Type": "edgex-messagebus", "SubscribeTopics": "events/device/+/+/batched/#" },
        "Writable": {
            "Pipeline": {
                "ExecutionOrder": "Batch, MQTTExport",
                "Functions": {
                    "Batch": { "Parameters": {
                        "Mode": "bytimecount", "BatchThreshold": "3", "TimeInterval": "4s",
                        "IsEventData": "true",
                    } },
                    "MQTTExport": { "Parameters": {
                        "BrokerAddress": format!("tcps://localhost:{port}"),
                        "Topic": "out/{devicename}", "QOS": "1", "Retain": "true",
                        "AuthMode": "usernamepassword", "SecretName": "import-broker",
                    } },
                },
            },
            "InsecureSecrets": { "broker": { "SecretName": "import-broker", "SecretData": {
                "username": "eyot", "password": "a:b@c",
                "cacert": std::fs::read_to_string(&authority)?,
            } } },
        },
    });
    std::fs::write(&file, configuration.to_string())?;
    let mut import = eyot();
    import.args(["import", "app-service", "--name", "imported"]);
    import.args(["--functions", FUNCTIONS, "--mqtt-exporter", EXPORTER]);
    host.apply(&succeed(import.arg(&file))?)?;
    eventually("the imported pipeline is ready", WAIT, || {
        let pipeline = host.get("pipeline imported")?;
        ensure!(condition(&pipeline, "Ready"), "{}", pipeline["status"]);
        Ok(Some(()))
    })?;
    for number in 0..4 {
        ensure!(post(host.ports.core_data, "batched", number), "not taken");
    }
    // Three at most make a batch: what is left goes when time is up.
    let mut batches: Vec<Vec<u64>> = Vec::new();
    eventually("all four are published", WAIT, || {
        // Subscribing again brings what is retained, which is no news.
        let text = run(&mut subscriber(&["-c", "-i", "recorder", "-R", "-W", "2"]))?;
        for line in String::from_utf8_lossy(&text.stdout).lines() {
            let events: Vec<Value> = serde_json::from_str(line).context(line.to_owned())?;
            let number = |event: &Value| event["readings"][0]["value"].as_str()?.parse().ok();
            batches.push(events.iter().filter_map(number).collect());
        }
        Ok((batches.iter().map(Vec::len).sum::<usize>() >= 4).then_some(()))
    })?;
    ensure!(batches.concat() == [0, 1, 2, 3], "{batches:?}");
    ensure!(
        batches.iter().all(|batch| (1..=3).contains(&batch.len())),
        "{batches:?}"
    );
    // Who comes later is given the last one.
    let kept = succeed(&mut subscriber(&["-C", "1", "-W", "20", "-F", "%r %q %t"]))?;
    ensure!(kept.trim() == "1 1 out/batched", "{kept}");
    host.k(&["delete", "pipeline/imported", "secret/import-broker"])?;
    Ok(())
}

fn pipeline(spec: &Value) -> String {
    json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "Pipeline",
        "metadata": { "name": "examined" }, "spec": spec,
    })
    .to_string()
}

fn a_pipeline_that_can_never_run_is_refused_with_the_field() -> anyhow::Result<()> {
    let host = pushed()?;
    host.push("pipes/hello:v1", &guest("hello_cli")?)?;
    let step = |name: &str, image: &str| json!({ "name": name, "image": image, "config": { "Function": "Transform", "Type": "json" } });
    let exporter = |name: &str, image: &str| json!({ "name": name, "image": image });
    let fine = exporter("out", EXPORTER);
    for (spec, words) in [
        (
            json!({ "steps": [step("a", EXPORTER)], "exporters": [fine] }),
            [
                "spec.steps[0].image",
                "eyot:pipeline/exporter",
                "eyot:pipeline/step",
            ],
        ),
        (
            json!({ "exporters": [exporter("out", FUNCTIONS)] }),
            [
                "spec.exporters[0].image",
                "eyot:pipeline/step",
                "not eyot:pipeline/exporter",
            ],
        ),
        (
            json!({ "exporters": [fine], "branches": [{ "name": "b",
                "steps": [step("a", "pipes/hello:v1")], "exporters": [exporter("more", EXPORTER)] }] }),
            [
                "spec.branches[0].steps[0].image",
                "wasi:cli/run",
                "eyot:pipeline/step",
            ],
        ),
        (
            json!({ "steps": [step("out", FUNCTIONS)], "exporters": [fine] }),
            ["spec.exporters[0].name", "out is there twice", "Invalid"],
        ),
        (
            json!({ "steps": [step("a", FUNCTIONS)] }),
            ["spec.exporters", "at least one", "Invalid"],
        ),
        (
            json!({ "source": { "topics": ["a/#/b"] }, "exporters": [fine] }),
            ["spec.source.topics[0]", "a/#/b", "Invalid"],
        ),
    ] {
        let said = host.apply_fails(&pipeline(&spec))?;
        ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    // What may still come is told, and no reason to refuse.
    let secret = json!({ "secretKeyRef": { "name": "nowhere", "key": "key" } });
    let spec = json!({ "exporters": [
        { "name": "out", "image": EXPORTER, "configFrom": { "password": secret }, "tlsSecret": "neither" },
        exporter("later", "pipes/later:v1"),
    ] });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), pipeline(&spec))?;
    let path = file.path().to_str().context("path")?;
    let output = run(&mut host.kubectl(&["apply", "-f", path]))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    for words in [
        "Warning: spec.exporters[0]: setting password: there is no Secret nowhere",
        "Warning: spec.exporters[0]: tlsSecret: there is no Secret neither",
        "Warning: spec.exporters[1].image: image pipes/later:v1 was not found",
    ] {
        ensure!(said.contains(words), "{said}");
    }
    // It is there, and what does not touch its spec is not judged.
    host.k(&["label", "pipeline", "examined", "seen=true"])?;
    host.k(&["delete", "pipeline", "examined"])?;
    Ok(())
}
