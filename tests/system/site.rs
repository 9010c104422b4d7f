//! A site beside a server: namespaces that stand for a router and a machine behind it, and the agent on
//! that machine.
//!
//! ```text
//!   this namespace: server 10.99.N.1 ── 10.99.N.2 router (masquerades) 192.168.77.1 ── 192.168.77.2 edge
//! ```
//!
//! The server has no route to the edge; all that reaches the edge comes by the connection that it
//! made itself. Where pods are to reach each other, there is no NAT or not even a router.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;

use crate::{
    host::{Host, condition, eyot},
    tools::{eventually, run, succeed},
    wasm::pod,
};

/// What a start and what follows from it may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

pub const WAITS: [&str; 3] = [
    "/bin/sh",
    "-c",
    "echo begun; n=0; while true; do n=$((n+1)); echo line $n; sleep 1; done",
];

/// Namespaces that stand for a site: a router and a machine behind it.
pub struct Site {
    number: u8,
}

/// What is between the server and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Nothing: they are on one link, 10.99.N.1 and 10.99.N.2.
    Link,
    /// A router; each knows a way to the other.
    Router,
    /// A router that masquerades: the server knows no way to the machine.
    Nat,
}

impl Site {
    pub fn make(between: Between) -> anyhow::Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let site = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        };
        let (router, edge) = (site.namespace("r"), site.namespace("e"));
        let (wan, n) = (site.link(), site.number);
        let (peer, next) = match between {
            Between::Link => (&edge, "eth0"),
            _ => (&router, "wan"),
        };
        ip(&[
            format!("netns add {router}"),
            format!("netns add {edge}"),
            format!("-n {edge} link set lo up"),
            format!("link add {wan} type veth peer name {next} netns {peer}"),
            format!("addr add 10.99.{n}.1/24 dev {wan}"),
            format!("link set {wan} up"),
            format!("-n {peer} addr add 10.99.{n}.2/24 dev {next}"),
            format!("-n {peer} link set {next} up"),
        ])?;
        if between == Between::Link {
            ip(&[format!("-n {edge} route add default via 10.99.{n}.1")])?;
            return Ok(site);
        }
        ip(&[
            format!("-n {router} link set lo up"),
            format!("-n {router} link add lan type veth peer name eth0 netns {edge}"),
            format!("-n {router} addr add 192.168.77.1/24 dev lan"),
            format!("-n {router} link set lan up"),
            format!("-n {edge} addr add 192.168.77.2/24 dev eth0"),
            format!("-n {edge} link set eth0 up"),
            format!("-n {edge} route add default via 192.168.77.1"),
        ])?;
        succeed(
            site.inside("r", "sysctl")
                .args(["-qw", "net.ipv4.ip_forward=1"]),
        )?;
        if between == Between::Router {
            ip(&[format!("route add 192.168.77.0/24 via 10.99.{n}.2")])?;
            return Ok(site);
        }
        let rules = "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }; \
                     add rule ip nat post oifname wan masquerade";
        succeed(site.inside("r", "nft").arg(rules))?;
        Ok(site)
    }

    pub fn namespace(&self, which: &str) -> String {
        format!("eyot-{}-{}{which}", std::process::id(), self.number)
    }

    pub fn link(&self) -> String {
        format!("site{}", self.number)
    }

    pub fn server(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.number, 1)
    }

    /// A program in one of the namespaces. Not by `ip netns exec`, which mounts another /sys.
    pub fn inside(&self, which: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace(which)))
            .arg(program);
        command
    }

    /// Cut the link to the server, or mend it.
    pub fn set_link(&self, state: &str) -> anyhow::Result<()> {
        succeed(Command::new("ip").args(["link", "set", &self.link(), state]))?;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for which in ["e", "r"] {
            let _ = run(Command::new("ip").args(["netns", "delete", &self.namespace(which)]));
        }
        let _ = run(Command::new("ip").args(["link", "delete", &self.link()]));
    }
}

pub fn ip(commands: &[String]) -> anyhow::Result<()> {
    for command in commands {
        succeed(Command::new("ip").args(command.split_whitespace()))?;
    }
    Ok(())
}

/// A server, a site, and the agent in it.
pub struct World {
    pub edge: Edge,
    pub host: Host,
}

pub struct Edge {
    pub site: Site,
    pub dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Edge {
    pub fn program(&self) -> anyhow::Result<Command> {
        let program = eyot();
        let mut command = self
            .site
            .inside("e", program.get_program().to_str().context("path")?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EYOT_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    pub fn flags(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.dir.path().display()),
            "--node-name=edge".to_owned(),
        ]
    }

    pub fn start(&mut self, more: &[&str]) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let child = self
            .program()?
            .arg("join")
            .args(self.flags())
            .args(more)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Have the agent end in good order.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_ref().context("it does not run")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.wait_end()
    }

    pub fn wait_end(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_mut().context("it does not run")?;
        let ended = eventually("the agent ends", LIMIT, || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(ended)
    }

    /// Beside the directory: its disk may be full.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().with_extension("log")
    }

    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("the agent's log ends with:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Ok(mut reset) = self.program()
            && let Err(error) = succeed(reset.args(["node", "reset"]).args(self.flags()))
        {
            eprintln!("what an agent left was not cleared: {error:#}");
        }
        let _ = std::fs::remove_file(self.log_path());
    }
}

impl World {
    /// A server, and a machine that has joined it.
    pub fn joined() -> anyhow::Result<Self> {
        Self::joined_over(Between::Nat)
    }

    pub fn joined_over(between: Between) -> anyhow::Result<Self> {
        let mut world = Self::at(Site::make(between)?)?;
        let token = world.token(&[])?;
        let address = world.address();
        world.edge.start(&[&address, "--token", &token])?;
        world.wait_node("is Ready", |node| condition(node, "Ready"))?;
        Ok(world)
    }

    pub fn apart() -> anyhow::Result<Self> {
        Self::at(Site::make(Between::Nat)?)
    }

    pub fn at(site: Site) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("eyot-edge-").tempdir()?;
        let host = Host::start_at(site.server(), &[])?;
        let edge = Edge {
            site,
            dir,
            child: None,
        };
        Ok(Self { edge, host })
    }

    pub fn address(&self) -> String {
        format!(
            "https://{}:{}",
            self.edge.site.server(),
            self.host.ports.api
        )
    }

    pub fn token(&self, more: &[&str]) -> anyhow::Result<String> {
        let mut command = eyot();
        command
            .args(["token", "create", "--data-dir"])
            .arg(&self.host.dir)
            .args(more);
        Ok(succeed(&mut command)?.trim().to_owned())
    }

    pub fn wait_node(&self, what: &str, good: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        eventually(&format!("node edge {what}"), LIMIT, || {
            let nodes = self.host.get("nodes")?;
            let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
            let found = nodes
                .into_iter()
                .find(|node| node["metadata"]["name"] == "edge");
            Ok(found.filter(|node| good(node)))
        })
        .with_context(|| self.logs())
    }

    pub fn logs(&self) -> String {
        format!("{}\n{}", self.edge.log(), self.host.log_tail())
    }

    /// A pod on the edge, running.
    pub fn run_there(&self, name: &str, image: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let pinned = "  nodeSelector: {kubernetes.io/hostname: edge}\n";
        self.host.apply(&pod(name, image, arguments, pinned))?;
        let running = self
            .host
            .wait_pod(name, "runs", |pod| pod["status"]["phase"] == "Running");
        running.with_context(|| self.edge.log())
    }

    /// Say why, if something fails.
    pub fn with_logs<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.with_context(|| self.logs())
    }
}

/// Which life of the first container this is.
pub fn life(pod: &Value) -> (Value, Value) {
    let status = &pod["status"]["containerStatuses"][0];
    (
        status["containerID"].clone(),
        status["restartCount"].clone(),
    )
}
