//! A second machine, behind NAT: joining, what kubectl does with its pods, cuts and restarts, leaving.
//!
//! ```text
//!   this namespace: server 10.99.N.1 ── 10.99.N.2 router (masquerades) 192.168.77.1 ── 192.168.77.2 edge
//! ```
//!
//! The server has no route to the edge; all that reaches the edge comes by the connection that it
//! made itself. Where pods are to reach each other, there is no NAT or not even a router.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{
    Case, case,
    container::push_busybox,
    host::{Host, condition, eyot},
    reach::Forward,
    tools::{eventually, guest, run, succeed},
    wasm::pod,
};

pub const CASES: &[Case] = &[
    case!(
        a_machine_behind_nat_joins_and_its_pods_are_reached,
        [Kubectl, Root, Busybox, Guests]
    ),
    case!(
        pods_of_two_machines_reach_each_other_on_a_link_and_across_a_router,
        [Kubectl, Root, Busybox]
    ),
    case!(
        pods_go_on_through_cuts_and_kills_of_either_end,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_node_touches_only_what_is_its_own_and_leaves,
        [Kubectl, Root, Busybox]
    ),
    case!(who_shows_no_good_token_is_told_why, [Kubectl, Root]),
];

/// What a start and what follows from it may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Namespaces that stand for a site: a router and a machine behind it.
struct Site {
    number: u8,
}

/// What is between the server and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    /// Nothing: they are on one link, 10.99.N.1 and 10.99.N.2.
    Link,
    /// A router; each knows a way to the other.
    Router,
    /// A router that masquerades: the server knows no way to the machine.
    Nat,
}

impl Site {
    fn make(between: Between) -> anyhow::Result<Self> {
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

    fn namespace(&self, which: &str) -> String {
        format!("eyot-{}-{}{which}", std::process::id(), self.number)
    }

    fn link(&self) -> String {
        format!("site{}", self.number)
    }

    fn server(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.number, 1)
    }

    /// A program in one of the namespaces. Not by `ip netns exec`, which mounts another /sys.
    fn inside(&self, which: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace(which)))
            .arg(program);
        command
    }

    /// Cut the link to the server, or mend it.
    fn set_link(&self, state: &str) -> anyhow::Result<()> {
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

fn ip(commands: &[String]) -> anyhow::Result<()> {
    for command in commands {
        succeed(Command::new("ip").args(command.split_whitespace()))?;
    }
    Ok(())
}

/// A server, a site, and the agent in it.
struct World {
    edge: Edge,
    host: Host,
}

struct Edge {
    site: Site,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Edge {
    fn program(&self) -> anyhow::Result<Command> {
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

    fn flags(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.dir.path().display()),
            "--node-name=edge".to_owned(),
        ]
    }

    fn start(&mut self, more: &[&str]) -> anyhow::Result<()> {
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

    fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn wait_end(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_mut().context("it does not run")?;
        let ended = eventually("the agent ends", LIMIT, || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(ended)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("eyot.log")
    }

    fn log(&self) -> String {
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
    }
}

impl World {
    /// A server, and a machine that has joined it.
    fn joined() -> anyhow::Result<Self> {
        Self::joined_over(Between::Nat)
    }

    fn joined_over(between: Between) -> anyhow::Result<Self> {
        let mut world = Self::at(Site::make(between)?)?;
        let token = world.token(&[])?;
        let address = world.address();
        world.edge.start(&[&address, "--token", &token])?;
        world.wait_node("is Ready", |node| condition(node, "Ready"))?;
        Ok(world)
    }

    fn apart() -> anyhow::Result<Self> {
        Self::at(Site::make(Between::Nat)?)
    }

    fn at(site: Site) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("eyot-edge-").tempdir()?;
        let host = Host::start_at(site.server(), &[])?;
        let edge = Edge {
            site,
            dir,
            child: None,
        };
        Ok(Self { edge, host })
    }

    fn address(&self) -> String {
        format!(
            "https://{}:{}",
            self.edge.site.server(),
            self.host.ports.api
        )
    }

    fn token(&self, more: &[&str]) -> anyhow::Result<String> {
        let mut command = eyot();
        command
            .args(["token", "create", "--data-dir"])
            .arg(&self.host.dir)
            .args(more);
        Ok(succeed(&mut command)?.trim().to_owned())
    }

    fn wait_node(&self, what: &str, good: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
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

    fn logs(&self) -> String {
        format!("{}\n{}", self.edge.log(), self.host.log_tail())
    }

    /// A pod on the edge, running.
    fn run_there(&self, name: &str, image: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let pinned = "  nodeSelector: {kubernetes.io/hostname: edge}\n";
        self.host.apply(&pod(name, image, arguments, pinned))?;
        let running = self
            .host
            .wait_pod(name, "runs", |pod| pod["status"]["phase"] == "Running");
        running.with_context(|| self.edge.log())
    }

    /// Say why, if something fails.
    fn with_logs<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.with_context(|| self.logs())
    }
}

const WAITS: [&str; 3] = [
    "/bin/sh",
    "-c",
    "echo begun; n=0; while true; do n=$((n+1)); echo line $n; sleep 1; done",
];

fn a_machine_behind_nat_joins_and_its_pods_are_reached() -> anyhow::Result<()> {
    let world = World::joined()?;
    let done = reach_all(&world);
    world.with_logs(done)
}

fn reach_all(world: &World) -> anyhow::Result<()> {
    let host = &world.host;
    let node = world.wait_node("has a range", |node| node["spec"]["podCIDR"].is_string())?;
    let own = host.get("node island")?;
    ensure!(
        node["spec"]["podCIDR"] != own["spec"]["podCIDR"],
        "{node} {own}"
    );
    push_busybox(host, "edge/box:v1")?;
    let there = world.run_there("box", "edge/box:v1", &WAITS)?;
    ensure!(there["spec"]["nodeName"] == "edge", "{there}");
    let range = node["spec"]["podCIDR"].as_str().unwrap_or_default();
    let prefix = range.rsplit_once('.').context("a range")?.0;
    let ip = there["status"]["podIP"].as_str().unwrap_or_default();
    ensure!(ip.starts_with(prefix), "{ip} is not of {range}");
    ensure!(there["status"]["hostIP"] == "192.168.77.2", "{there}");

    // Nothing listens there but the DNS of its pods, on the bridge.
    let listening = succeed(world.edge.site.inside("e", "ss").args(["-Hltn"]))?;
    let gateway = format!("{prefix}.1:53");
    for line in listening.lines() {
        ensure!(line.contains(&gateway), "something listens: {listening}");
    }

    let mut following = host
        .kubectl(&["logs", "-f", "box"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("stdout")?).lines();
    ensure!(lines.next().context("no line")?? == "begun");
    ensure!(lines.nth(2).context("no more lines")??.starts_with("line "));
    following.kill()?;
    following.wait()?;

    let said = host.k(&[
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "echo out; cat /etc/hostname",
    ])?;
    ensure!(said == "out\nbox\n", "{said:?}");
    let failed = run(&mut host.kubectl(&["exec", "box", "--", "sh", "-c", "exit 42"]))?;
    ensure!(failed.status.code() == Some(42), "{failed:?}");
    let (sent, back) = (host.dir.join("sent"), host.dir.join("back"));
    let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    std::fs::write(&sent, &text)?;
    host.k(&["cp", &sent.to_string_lossy(), "box:/tmp/file"])?;
    host.k(&["cp", "box:/tmp/file", &back.to_string_lossy()])?;
    ensure!(std::fs::read_to_string(&back)? == text, "the copy differs");

    host.push("edge/web:v1", &guest("hello_web")?)?;
    let web = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nspec:\n  \
               nodeSelector: {kubernetes.io/hostname: edge}\n  containers:\n  - name: web\n    \
               image: edge/web:v1\n    ports: [{containerPort: 8080}]\n";
    host.apply(web)?;
    host.wait_ready_pod("web")
        .with_context(|| world.edge.log())?;
    let forward = Forward::start(host, "pod/web", 8080)?;
    let said = forward.get(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    ensure!(said.starts_with("HTTP/1.1 200"), "{said}");
    drop(forward);

    // A Service of the edge's own pods, by name, from a pod there.
    host.k(&["expose", "pod", "web", "--port=80", "--target-port=8080"])?;
    // (Without -T: with it some builds of busybox crash.)
    let seen = RefCell::new(String::new());
    let asked = [
        "exec",
        "box",
        "--",
        "busybox",
        "wget",
        "-qO-",
        "http://web/",
    ];
    eventually("the Service answers a pod on the edge", LIMIT, || {
        let said = run(&mut host.kubectl(&asked))?;
        let answered = String::from_utf8_lossy(&said.stdout).contains("Hello");
        *seen.borrow_mut() = format!("{said:?}");
        Ok(answered.then_some(()))
    })
    .with_context(|| seen.borrow().clone())?;
    eventually("what the pods use is known", LIMIT, || {
        let said = run(&mut host.kubectl(&["top", "pod", "box", "--no-headers"]))?;
        Ok(said.stdout.starts_with(b"box").then_some(()))
    })?;
    let nodes = eventually("what the nodes use is known", LIMIT, || {
        let said = run(&mut host.kubectl(&["top", "node", "--no-headers"]))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(said.contains("edge").then_some(said))
    })?;
    ensure!(nodes.contains("island"), "{nodes}");
    host.k(&["delete", "pod", "box", "web", "--timeout=60s"])?;
    let forbidden = forbidden(&world.edge.log());
    ensure!(
        forbidden.is_empty(),
        "the node asked for what it may not: {forbidden:?}"
    );
    Ok(())
}

fn pods_of_two_machines_reach_each_other_on_a_link_and_across_a_router() -> anyhow::Result<()> {
    for between in [Between::Link, Between::Router] {
        let world = World::joined_over(between)?;
        let done = talk(&world).with_context(|| format!("{between:?}"));
        world.with_logs(done)?;
    }
    Ok(())
}

/// A pod on each machine, that says who it is and who asks.
fn talk(world: &World) -> anyhow::Result<()> {
    let host = &world.host;
    push_busybox(host, "edge/said:v1")?;
    let nodes = ["island", "edge"];
    for node in nodes {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: at-{node}, labels: {{app: both}}}}\nspec:\n  \
             nodeSelector: {{kubernetes.io/hostname: {node}}}\n  containers:\n  - name: c\n    \
             image: edge/said:v1\n    ports: [{{containerPort: 8080}}]\n    command: [/bin/sh, -c, \
             \"mkdir /tmp/w; hostname > /tmp/w/index.html; exec busybox httpd -f -vv -p 8080 -h /tmp/w\"]\n"
        );
        host.apply(&pod)?;
    }
    let mut addresses = Vec::new();
    for node in nodes {
        let pod = host.wait_ready_pod(&format!("at-{node}"));
        let pod = pod.with_context(|| world.edge.log())?;
        let address = pod["status"]["podIP"].as_str().context("no address")?;
        addresses.push(address.to_owned());
    }
    let ask = |from: &str, url: &str| {
        let pod = format!("at-{from}");
        run(&mut host.kubectl(&["exec", &pod, "--", "busybox", "wget", "-qO-", url]))
    };
    for (from, to, own, address) in [
        ("island", "edge", &addresses[0], &addresses[1]),
        ("edge", "island", &addresses[1], &addresses[0]),
    ] {
        let last = RefCell::new(String::new());
        eventually("a pod of the other machine answers", LIMIT, || {
            let said = ask(from, &format!("http://{address}:8080/"))?;
            *last.borrow_mut() = format!("{said:?}");
            let wanted = format!("at-{to}\n");
            Ok((said.stdout == wanted.as_bytes()).then_some(()))
        })
        .with_context(|| format!("from {from} to {to}: {}", last.borrow()))?;
        let log = host.k(&["logs", &format!("at-{to}")])?;
        ensure!(log.contains(own), "{own} does not show in: {log}");
    }
    // A Service of both, from each.
    host.k(&[
        "expose",
        "pod",
        "at-edge",
        "--name=both",
        "--port=80",
        "--target-port=8080",
    ])?;
    for from in nodes {
        let mut missing = nodes.map(|node| format!("at-{node}\n")).to_vec();
        eventually("both endpoints answer", LIMIT, || {
            let said = String::from_utf8_lossy(&ask(from, "http://both/")?.stdout).into_owned();
            missing.retain(|one| *one != said);
            Ok(missing.is_empty().then_some(()))
        })
        .with_context(|| format!("from {from}"))?;
    }
    Ok(())
}

/// What a log tells of requests that were refused.
fn forbidden(log: &str) -> Vec<String> {
    let lines = log
        .lines()
        .filter(|line| line.contains("forbidden") || line.contains("Forbidden"));
    lines.map(str::to_owned).collect()
}

/// Which life of the first container this is.
fn life(pod: &Value) -> (Value, Value) {
    let status = &pod["status"]["containerStatuses"][0];
    (
        status["containerID"].clone(),
        status["restartCount"].clone(),
    )
}

fn pods_go_on_through_cuts_and_kills_of_either_end() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = break_all(&mut world);
    world.with_logs(done)
}

fn break_all(world: &mut World) -> anyhow::Result<()> {
    push_busybox(&world.host, "edge/lasting:v1")?;
    let before = life(&world.run_there("lasting", "edge/lasting:v1", &WAITS)?);
    let exec = |world: &World| {
        eventually("exec works", LIMIT, || {
            let said = run(&mut world
                .host
                .kubectl(&["exec", "lasting", "--", "echo", "here"]))?;
            Ok((said.stdout == b"here\n").then_some(()))
        })
    };
    exec(world)?;

    // The agent dies. It finds its server and its pod again without being told anything.
    world.edge.kill()?;
    world.edge.start(&[])?;
    exec(world)?;
    ensure!(life(&world.host.get("pod lasting")?) == before, "restarted");

    // The server dies.
    world.host.kill()?;
    world.host.restart()?;
    exec(world)?;
    ensure!(life(&world.host.get("pod lasting")?) == before, "restarted");

    // The link is cut until the server gives the node up, and mended.
    world.edge.site.set_link("down")?;
    world.wait_node("is taken for lost", |node| !condition(node, "Ready"))?;
    world.edge.site.set_link("up")?;
    world.wait_node("is Ready again", |node| condition(node, "Ready"))?;
    exec(world)?;
    ensure!(life(&world.host.get("pod lasting")?) == before, "restarted");
    Ok(())
}

fn a_node_touches_only_what_is_its_own_and_leaves() -> anyhow::Result<()> {
    let mut world = World::joined()?;
    let done = own_and_leave(&mut world);
    world.with_logs(done)
}

fn own_and_leave(world: &mut World) -> anyhow::Result<()> {
    let host = &world.host;
    // The files are the node's secret.
    let pair = world.edge.dir.path().join("edge/node.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&pair)?.permissions());
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let ca = world.edge.dir.path().join("edge/ca.crt");
    let address = world.address();
    let as_node = |arguments: &[&str]| {
        let mut command = host.kubectl(&[
            "--kubeconfig=/dev/null",
            "--server",
            &address,
            "--certificate-authority",
            &ca.to_string_lossy(),
            "--client-certificate",
            &pair.to_string_lossy(),
            "--client-key",
            &pair.to_string_lossy(),
        ]);
        command.args(arguments);
        run(&mut command)
    };
    let own = as_node(&["get", "node", "edge", "-o", "name"])?;
    ensure!(own.stdout == b"node/edge\n", "{own:?}");
    push_busybox(host, "edge/other:v1")?;
    let elsewhere = "  nodeSelector: {kubernetes.io/hostname: island}\n";
    host.apply(&pod("other", "edge/other:v1", &WAITS, elsewhere))?;
    host.wait_pod("other", "runs", |pod| pod["status"]["phase"] == "Running")?;
    host.k(&[
        "create",
        "secret",
        "generic",
        "private",
        "--from-literal=a=b",
    ])?;
    for refused in [
        &["get", "secret", "private"][..],
        &["get", "secrets", "-A"],
        &["get", "pods", "-A"],
        &["get", "pod", "other"],
        &["get", "node", "island"],
        &["delete", "pod", "other"],
        &["delete", "node", "island"],
        &["label", "node", "island", "a=b"],
        &["taint", "node", "edge", "a=b:NoSchedule"],
        &["create", "token", "default"],
        &["exec", "other", "--", "id"],
        &[
            "create",
            "clusterrolebinding",
            "x",
            "--clusterrole=cluster-admin",
            "--user=system:node:edge",
        ],
    ] {
        let said = as_node(refused)?;
        let words = String::from_utf8_lossy(&said.stderr).to_lowercase();
        ensure!(
            !said.status.success() && words.contains("forbidden"),
            "{refused:?}: {said:?}"
        );
    }

    // Another machine with a good token does not become a node that there is.
    let token = world.token(&[])?;
    let (thief, log) = (
        tempfile::tempdir()?,
        world.edge.dir.path().join("thief.log"),
    );
    let mut stealing = world
        .edge
        .program()?
        .args([
            "join",
            &address,
            "--token",
            &token,
            "--node-name=edge",
            "--bridge=thief0",
        ])
        .arg("--data-dir")
        .arg(thief.path())
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    let told = eventually("the second machine is told to wait", LIMIT, || {
        let said = std::fs::read_to_string(&log)?;
        Ok(said.contains("waits for an administrator").then_some(()))
    });
    stealing.kill()?;
    stealing.wait()?;
    told?;
    ensure!(
        !thief.path().join("edge/node.pem").exists(),
        "it got a certificate"
    );

    // It leaves: its pods go, its Node goes, and its certificate is worth nothing.
    world.run_there("last", "edge/other:v1", &WAITS)?;
    let old = tempfile::tempdir()?;
    for name in ["node.pem", "ca.crt"] {
        std::fs::copy(
            world.edge.dir.path().join("edge").join(name),
            old.path().join(name),
        )?;
    }
    let data = format!("--data-dir={}", world.edge.dir.path().display());
    let said = succeed(world.edge.program()?.args(["leave", &data]))?;
    ensure!(said.contains("node edge has left"), "{said}");
    let ended = world.edge.wait_end()?;
    ensure!(ended.success(), "the agent ended with {ended}");
    let gone = world.host.k_fails(&["get", "pod", "last"])?;
    ensure!(gone.contains("not found"), "{gone}");
    let gone = world.host.k_fails(&["get", "node", "edge"])?;
    ensure!(gone.contains("not found"), "{gone}");
    Ok(())
}

fn who_shows_no_good_token_is_told_why() -> anyhow::Result<()> {
    let world = World::apart()?;
    let address = world.address();
    let join = |arguments: &[&str]| -> anyhow::Result<String> {
        let dir = tempfile::tempdir()?;
        let mut child = world
            .edge
            .program()?
            .arg("join")
            .args(arguments)
            .args(["--node-name=nobody", "--log-format=text", "--data-dir"])
            .arg(dir.path())
            .stderr(Stdio::piped())
            .spawn()?;
        let ended = eventually("the join fails", LIMIT, || Ok(child.try_wait()?));
        let _ = child.kill();
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        let ended = ended.with_context(|| said.clone())?;
        ensure!(!ended.success(), "it joined: {said}");
        Ok(said)
    };
    let check = |said: String, words: &str| -> anyhow::Result<()> {
        ensure!(said.contains(words), "no {words:?} in {said}");
        Ok(())
    };
    check(join(&[])?, "has not joined a server")?;
    check(
        join(&[&address, "--token", "abcdef.0123456789abcdef"])?,
        "@sha256:",
    )?;
    let token = world.token(&[])?;
    let (bearer, _) = token.split_once('@').context("a pin")?;
    let other = format!("{bearer}@sha256:{}", "0".repeat(64));
    check(join(&[&address, "--token", &other])?, "another authority")?;
    check(
        join(&["https://10.99.250.1:1", "--token", &token])?,
        "10.99.250.1",
    )?;
    let id = &token[..6];
    let listed = succeed(
        eyot()
            .args(["token", "list", "--data-dir"])
            .arg(&world.host.dir),
    )?;
    ensure!(listed.contains(id) && !listed.contains(bearer), "{listed}");
    succeed(
        eyot()
            .args(["token", "delete", id, "--data-dir"])
            .arg(&world.host.dir),
    )?;
    check(
        join(&[&address, "--token", &token])?,
        "does not accept the token",
    )?;
    let short = world.token(&["--ttl=1ms"])?;
    check(
        join(&[&address, "--token", &short])?,
        "does not accept the token",
    )?;
    let nodes = world.host.k(&["get", "nodes", "-o", "name"])?;
    ensure!(nodes == "node/island\n", "{nodes}");
    Ok(())
}
