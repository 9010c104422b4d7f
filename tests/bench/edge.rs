//! What joined machines cost a server: hollow agents, which join, beat and follow their pods, but run
//! none, all in one process beside the server.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::PathBuf,
    pin::pin,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;

use crate::{
    client,
    host::{Host, eyot},
    median, mib, row, tools,
};

const SIZES: [usize; 3] = [1_000, 3_000, 10_000];
const PODS: usize = 300;
/// How long an idle server is looked at, and how long it is left alone before.
const IDLE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(600);

pub async fn edge() -> anyhow::Result<()> {
    let Some(program) = program() else {
        let reason = "build it: cargo build --release -p eyot-edge --example hollow";
        row("joined machines", "", "skipped", reason);
        return Ok(());
    };
    for size in SIZES {
        machines(&program, size).await?;
    }
    Ok(())
}

/// The example `hollow` of `eyot-edge`, built beside the program.
fn program() -> Option<PathBuf> {
    let beside = PathBuf::from(eyot().get_program());
    let file = beside.parent()?.join("examples/hollow");
    file.exists().then_some(file)
}

/// The process with all agents, and what it says.
struct Agents {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Agents {
    fn start(program: &PathBuf, host: &Host, count: usize) -> anyhow::Result<Self> {
        let mut create = eyot();
        create
            .args(["token", "create", "--data-dir"])
            .arg(&host.dir);
        let token = tools::succeed(&mut create)?;
        let mut child = Command::new(program)
            .arg(format!("https://127.0.0.1:{}", host.ports.api))
            .args([token.trim(), &count.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    /// Wait until all lines are up.
    fn all_up(&self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            if line
                .context("not all agents have a line")?
                .starts_with("all ")
            {
                return Ok(());
            }
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn machines(program: &PathBuf, count: usize) -> anyhow::Result<()> {
    let mut host = Host::start()?;
    let before = host.resident()?;
    let begin = Instant::now();
    let agents = Agents::start(program, &host, count)?;
    agents.all_up()?;
    row(
        &format!("{count} machines join at once (certificate, node, line)"),
        "",
        &format!("{:.1} s", begin.elapsed().as_secs_f64()),
        "the agents share the two processors",
    );
    tokio::time::sleep(IDLE).await;
    let each = host.resident()?.saturating_sub(before) / count as u64;
    let (cpu, bytes) = (host.processor_time()?, loopback()?);
    tokio::time::sleep(IDLE).await;
    let cpu = host.processor_time()?.saturating_sub(cpu).as_secs_f64() / IDLE.as_secs_f64();
    let bits = 8.0 * loopback()?.saturating_sub(bytes) as f64 / IDLE.as_secs_f64();
    row(
        &format!("{count} idle machines: the server's memory for each"),
        "≤ 30 KB",
        &format!(
            "{:.0} KB; {} in all, {:.1} % of a core",
            each as f64 / 1e3,
            mib(host.resident()?),
            100.0 * cpu
        ),
        "",
    );
    row(
        &format!("{count} idle machines: traffic of each, both ways, with TCP's headers"),
        "≤ 0.25 kbit/s",
        &format!("{:.2} kbit/s", bits / 1e3 / count as f64),
        "KubeEdge: 0.25 kbit/s",
    );
    starts(&host, count).await?;
    host.kill()?;
    host.restart()?;
    let begin = Instant::now();
    agents.all_up()?;
    row(
        &format!("{count} machines are back after the server was killed and is ready again"),
        if count == 1_000 { "≤ 10 s" } else { "" },
        &format!("{:.1} s", begin.elapsed().as_secs_f64()),
        "",
    );
    Ok(())
}

/// Bytes that the loopback of this namespace carried.
fn loopback() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let received = line.context("no loopback")?.split_whitespace().next();
    Ok(received.context("no count")?.parse()?)
}

/// POST of a pod until its hollow node says that it runs, one after the other.
async fn starts(host: &Host, count: usize) -> anyhow::Result<()> {
    let client = client(host).await?;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let (sender, mut running) = tokio::sync::mpsc::unbounded_channel();
    let watched = pods.clone();
    let watching = tokio::spawn(async move {
        let mut seen = pin!(watcher(watched, watcher::Config::default()).applied_objects());
        while let Some(pod) = seen.next().await {
            let Ok(pod) = pod else { continue };
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            if phase == Some("Running") {
                let _ = sender.send((pod.name_any(), Instant::now()));
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut begun = HashMap::new();
    let mut times = Vec::new();
    for number in 0..PODS {
        let name = format!("hollow-{number}");
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"hollow": "true"},
                "containers": [{"name": "main", "image": "none"}],
            },
        }))?;
        begun.insert(name.clone(), Instant::now());
        pods.create(&PostParams::default(), &pod).await?;
        let (ran, at) = tokio::time::timeout(Duration::from_secs(60), running.recv())
            .await
            .context("a pod does not run")?
            .context("the watch ended")?;
        ensure!(ran == name, "{ran} runs before {name}");
        times.push((at - begun[&name]).as_secs_f64() * 1e3);
    }
    watching.abort();
    let p50 = median(&mut times);
    let p99 = times[times.len() * 99 / 100];
    row(
        &format!("POST of a pod to Running on one of {count} machines"),
        "",
        &format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
        "KubeEdge, 100,000 nodes on 188 processors: p50 1.69 s, p99 4.09 s",
    );
    Ok(())
}
