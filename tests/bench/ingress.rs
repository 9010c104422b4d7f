//! Requests through the Ingress, with `wrk`, beside peers on the same machine in the same run: a Wasm
//! component beside `wasmtime serve`, and a static server behind nginx.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    host::Host,
    median, row,
    tools::{eventually, free_port, guest, run, succeed},
};

const CONNECTIONS: &str = "-c32";
const SECONDS: &str = "-d3";
/// Each is measured so often, in turn; the median counts.
const ROUNDS: usize = 3;
const START: Duration = Duration::from_secs(30);

/// What `wrk` saw.
#[derive(Default)]
struct Seen {
    per_second: Vec<f64>,
    /// Milliseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Seen {
    fn text(&mut self) -> String {
        let (p50, p99) = (median(&mut self.p50), median(&mut self.p99));
        let rate = median(&mut self.per_second);
        format!("{rate:.0} requests/s, p50 {p50:.2} ms, p99 {p99:.2} ms")
    }
}

/// A server that ends with its guard.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Not SIGKILL: nginx ends its workers itself.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

pub fn ingress(host: &Host) -> anyhow::Result<()> {
    if !is_there("wrk") {
        row(
            "HTTP through the Ingress",
            "",
            "",
            "no `wrk` on this machine: not measured",
        );
        return Ok(());
    }
    wasm(host)?;
    fixed(host)
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// A component behind an Ingress, called in the process, and the same component in wasmtime's server.
fn wasm(host: &Host) -> anyhow::Result<()> {
    host.k(&["run", "routed", "--image=bench/web:v1", "--port=8080"])?;
    host.wait_ready_pod("routed")?;
    host.k(&["expose", "pod", "routed", "--port=80", "--target-port=8080"])?;
    host.k(&[
        "create",
        "ingress",
        "routed",
        "--rule=wasm.bench/*=routed:80",
    ])?;
    let own = Url::new(host.ports.ingress, "wasm.bench");
    own.wait()?;
    let peer = match is_there("wasmtime") {
        true => {
            let port = free_port()?;
            let mut serve = Command::new("wasmtime");
            serve.args(["serve", "-S", "cli", "--addr", &format!("127.0.0.1:{port}")]);
            serve.arg(guest("hello_web")?);
            Some((Url::new(port, "wasm.bench"), start(serve)?))
        }
        false => None,
    };
    let what = "HTTP through the Ingress to a Wasm component, a fresh instance per request, 32 connections";
    compare(
        what,
        "≥ 0.9 × `wasmtime serve`; p99 ≤ 3 × p50",
        &own,
        peer.as_ref().map(|(url, _)| ("wasmtime serve", url)),
    )?;
    host.k(&[
        "delete",
        "ingress/routed",
        "service/routed",
        "pod/routed",
        "--now",
    ])?;
    Ok(())
}

/// nginx with a small file, behind the Ingress and behind another nginx.
fn fixed(host: &Host) -> anyhow::Result<()> {
    if !is_there("nginx") {
        row(
            "HTTP through the Ingress to a static server",
            "",
            "",
            "no `nginx` on this machine: not measured",
        );
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (origin, proxy) = (free_port()?, free_port()?);
    fs::write(
        dir.path().join("index.html"),
        "hello from a file\n".repeat(50),
    )?;
    let place = dir.path().display();
    let _origin = nginx(
        dir.path(),
        "origin",
        &format!("server {{ listen 0.0.0.0:{origin}; root {place}; }}"),
    )?;
    let _proxy = nginx(
        dir.path(),
        "proxy",
        &format!(
            "upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}\n\
         server {{ listen 127.0.0.1:{proxy}; location / {{ proxy_pass http://origin; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; }} }}"
        ),
    )?;
    host.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: origin}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: origin, labels: {{kubernetes.io/service-name: origin}}}}\n\
         ports: [{{port: {origin}}}]\nendpoints: [{{addresses: [10.244.{}.1]}}]\n",
        host.ports.net
    ))?;
    host.k(&[
        "create",
        "ingress",
        "origin",
        "--rule=static.bench/*=origin:80",
    ])?;
    let own = Url::new(host.ports.ingress, "static.bench");
    own.wait()?;
    let peer = Url::new(proxy, "static.bench");
    compare(
        "HTTP through the Ingress to a static server, 32 connections",
        "≥ 0.7 × nginx",
        &own,
        Some(("nginx as the proxy", &peer)),
    )?;
    host.k(&[
        "delete",
        "ingress/origin",
        "service/origin",
        "endpointslice/origin",
    ])?;
    Ok(())
}

/// An nginx of its own, with all it writes below `dir`.
fn nginx(dir: &Path, name: &str, http: &str) -> anyhow::Result<Server> {
    let own = dir.join(name);
    fs::create_dir(&own)?;
    let place = own.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {place}/{kind};\n"))
        .concat();
    let config = format!(
        "daemon off; worker_processes auto; pid {place}/pid; error_log {place}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000;\n{temporary}{http} }}\n"
    );
    let file = own.join("nginx.conf");
    fs::write(&file, config)?;
    // As root it would serve as somebody who may not read the file.
    let mut command = Command::new("nginx");
    command.args(["-g", "user root;", "-c"]).arg(file);
    start(command)
}

fn start(mut command: Command) -> anyhow::Result<Server> {
    let name = command.get_program().to_string_lossy().into_owned();
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(Server(command.spawn().with_context(|| name)?))
}

/// What is asked for.
struct Url {
    url: String,
    host: String,
}

impl Url {
    fn new(port: u16, host: &str) -> Self {
        Self {
            url: format!("http://127.0.0.1:{port}/"),
            host: format!("Host: {host}"),
        }
    }

    fn wait(&self) -> anyhow::Result<()> {
        eventually(&format!("{} answers", self.url), START, || {
            let status = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "2"];
            let output = run(Command::new("curl")
                .args(status)
                .args(["-H", &self.host, &self.url]))?;
            Ok((output.stdout == b"200").then_some(()))
        })
    }

    fn load(&self, seen: &mut Seen) -> anyhow::Result<()> {
        let flags = [
            "-t2",
            CONNECTIONS,
            SECONDS,
            "--latency",
            "-H",
            &self.host,
            &self.url,
        ];
        let said = succeed(Command::new("wrk").args(flags))?;
        ensure!(!said.contains("Non-2xx"), "{said}");
        let after = |what: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(what));
            line.map(str::trim)
                .with_context(|| format!("no {what:?} in {said}"))
        };
        seen.per_second.push(after("Requests/sec:")?.parse()?);
        seen.p50.push(milliseconds(after("50%")?)?);
        seen.p99.push(milliseconds(after("99%")?)?);
        Ok(())
    }
}

fn milliseconds(text: &str) -> anyhow::Result<f64> {
    for (unit, factor) in [("us", 1e-3), ("ms", 1.0), ("s", 1e3)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    anyhow::bail!("{text:?} is no time")
}

fn compare(what: &str, aim: &str, own: &Url, peer: Option<(&str, &Url)>) -> anyhow::Result<()> {
    if let Some((_, peer)) = peer {
        peer.wait()?;
    }
    let (mut ours, mut theirs) = (Seen::default(), Seen::default());
    for _ in 0..ROUNDS {
        own.load(&mut ours)?;
        if let Some((_, peer)) = peer {
            peer.load(&mut theirs)?;
        }
    }
    let against = match peer {
        None => "no `wasmtime` on this machine (cargo install wasmtime-cli)".to_owned(),
        Some((name, _)) => {
            let ratio = median(&mut ours.per_second) / median(&mut theirs.per_second);
            format!("{name}: {}; so {ratio:.2} ×", theirs.text())
        }
    };
    row(what, aim, &ours.text(), &against);
    Ok(())
}
