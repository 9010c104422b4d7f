//! `kill -9` at bad moments: nothing that was acknowledged is lost, and the next start converges.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    host::Host,
    tools::{eventually, guest, run},
};

pub const CASES: &[Case] = &[
    case!(
        a_kill_in_a_write_burst_loses_no_acknowledged_write,
        [Kubectl]
    ),
    case!(a_kill_in_a_rollout_converges, [Kubectl, Guests]),
];

fn a_kill_in_a_write_burst_loses_no_acknowledged_write() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    // curl with the admin's certificate: one process per write, four at a time, and an answer of
    // 201 is the acknowledgement.
    let credentials = host.dir.join("pki");
    let url = format!(
        "https://127.0.0.1:{}/api/v1/namespaces/default/configmaps",
        host.ports.api
    );
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let (stop, count) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| -> anyhow::Result<()> {
        for writer in 0..4 {
            let (url, credentials) = (&url, &credentials);
            let (acknowledged, stop, count) = (&acknowledged, &stop, &count);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("burst-{writer}-{number}");
                    let body = format!(
                        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"n":"{number}"}}}}"#
                    );
                    let output = run(std::process::Command::new("curl")
                        .args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
                        .arg(credentials.join("ca.crt"))
                        .arg("--cert")
                        .arg(credentials.join("admin.crt"))
                        .arg("--key")
                        .arg(credentials.join("admin.key"))
                        .args(["-H", "Content-Type: application/json", "-d", &body, url]));
                    if output.is_ok_and(|o| o.stdout == b"201")
                        && let Ok(mut names) = acknowledged.lock()
                    {
                        names.push((name, number.to_string()));
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let enough = eventually("writes are acknowledged", Duration::from_secs(60), || {
            Ok((count.load(Ordering::Relaxed) >= 60).then_some(()))
        });
        let killed = host.kill();
        stop.store(true, Ordering::Relaxed);
        enough?;
        killed
    })?;
    host.restart()?;
    let list = host.get("configmaps")?;
    let items = list["items"].as_array().context("no items")?;
    for (name, number) in acknowledged.into_inner().unwrap_or_else(|e| e.into_inner()) {
        let kept = items
            .iter()
            .find(|i| i["metadata"]["name"] == name.as_str());
        let kept = kept.with_context(|| format!("{name} was acknowledged and is lost"))?;
        ensure!(kept["data"]["n"] == number.as_str(), "{kept}");
    }
    Ok(())
}

fn a_kill_in_a_rollout_converges() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    host.push("crash/web:v1", &guest("hello_web")?)?;
    let deployment = |greeting: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: hit}}\nspec:\n  replicas: 5\n  \
             selector: {{matchLabels: {{app: hit}}}}\n  template:\n    metadata: {{labels: {{app: hit}}}}\n    \
             spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      - name: web\n        image: crash/web:v1\n        \
             ports: [{{containerPort: 8080}}]\n        env: [{{name: GREETING, value: {greeting}}}]\n"
        )
    };
    host.apply(&deployment("one"))?;
    host.k(&["rollout", "status", "deployment/hit", "--timeout=60s"])?;
    for greeting in ["two", "three"] {
        host.apply(&deployment(greeting))?;
        // In the middle: the new ReplicaSet has some pods, the old one still has others.
        host.kill()?;
        host.restart()?;
        host.k(&["rollout", "status", "deployment/hit", "--timeout=90s"])?;
        eventually(
            "exactly the new pods are left",
            Duration::from_secs(60),
            || {
                let pods = host.get("pods -l app=hit")?;
                let pods = pods["items"].as_array().context("no items")?;
                let right = pods.len() == 5
                    && pods.iter().all(|p| {
                        p["spec"]["containers"][0]["env"][0]["value"] == greeting
                            && crate::host::condition(p, "Ready")
                    });
                Ok(right.then_some(()))
            },
        )?;
    }
    Ok(())
}
