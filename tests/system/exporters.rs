//! Exporters against what they write to, also when that is in a bad mood.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use serde_json::json;

use crate::{
    Case, case,
    host::{condition, eyot, shared},
    outage::post,
    peers::{Peer, answers},
    tools::{curl, eventually, free_port, guest, succeed},
};

pub const CASES: &[Case] = &[case!(
    influxdb_gets_each_point_once_whatever_it_answers_meanwhile,
    [Kubectl, Guests, Python]
)];

const WAIT: Duration = Duration::from_secs(90);
const IMAGE: &str = "exporters/influxdb:v1";

fn influxdb_gets_each_point_once_whatever_it_answers_meanwhile() -> anyhow::Result<()> {
    let host = shared()?;
    host.push(IMAGE, &guest("influxdb_exporter")?)?;
    let port = free_port()?;
    let _peer = Peer::script(Path::new("python3"), "influxdb.py", &[&port.to_string()])?;
    answers(port)?;
    let at = |path: &str| format!("http://127.0.0.1:{port}/{path}");
    let mood = |mood: &str| -> anyhow::Result<()> {
        let (status, _) = curl(&["-X", "PUT", "-d", mood, &at("mood")])?;
        ensure!(status == 204, "{status}");
        Ok(())
    };
    let writes = || -> anyhow::Result<u64> { Ok(curl(&[&at("writes")])?.1.parse()?) };
    let token = json!({ "secretKeyRef": { "name": "influx", "key": "token" } });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "influx" },
        "stringData": { "token": "t0k" },
    });
    host.apply(&secret.to_string())?;
    let pipeline = json!({
        "apiVersion": "eyot.dev/v1alpha1", "kind": "Pipeline", "metadata": { "name": "influx" },
        "spec": {
            "source": { "devices": ["influxed"] },
            "exporters": [{
                "name": "out", "image": IMAGE, "configFrom": { "token": token },
                "config": { "url": at(""), "bucket": "plant", "org": "eyot", "timeout": "1" },
            }],
        },
    });
    host.apply(&pipeline.to_string())?;
    eventually("the pipeline is ready", WAIT, || {
        let pipeline = host.get("pipeline influx")?;
        Ok(condition(&pipeline, "Ready").then_some(()))
    })?;

    // Each mood is met by at least one write before the next.
    for (number, name) in ["503", "silent", "reset"].iter().enumerate() {
        mood(name)?;
        let before = writes()?;
        let number = u64::try_from(number)?;
        ensure!(
            post(host.ports.core_data, "influxed", 10 + number),
            "not taken"
        );
        eventually(name, WAIT, || Ok((writes()? > before).then_some(())))?;
    }
    for number in 0..5 {
        ensure!(post(host.ports.core_data, "influxed", number), "not taken");
    }
    mood("well")?;
    let expected: Vec<String> = [10, 11, 12, 0, 1, 3, 4]
        .iter()
        .map(|n| {
            format!(
                "p,device=influxed,source=s {} {n}",
                1_700_000_000_000_000_000_u64 + n
            )
        })
        .collect();
    eventually("all but one point are there", WAIT, || {
        let points = curl(&[&at("points")])?.1;
        let mut points: Vec<&str> = points.lines().collect();
        let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        points.sort_unstable();
        expected.sort_unstable();
        ensure!(points.len() <= expected.len(), "{points:?}");
        Ok((points == expected).then_some(()))
    })?;
    // The point that does not fit is a letter, alone, with what InfluxDB said.
    let letter = eventually("the letter is there", WAIT, || {
        let mut command = eyot();
        command.args(["pipeline", "letters", "influx", "--json", "--kubeconfig"]);
        let letters = succeed(command.arg(host.dir.join("kubeconfig")))?;
        Ok((!letters.trim().is_empty()).then_some(letters))
    })?;
    ensure!(letter.trim().lines().count() == 1, "{letter}");
    ensure!(
        letter.contains("partial write") && !letter.contains("t0k"),
        "{letter}"
    );
    host.k(&["delete", "pipeline/influx", "secret/influx"])?;
    Ok(())
}
