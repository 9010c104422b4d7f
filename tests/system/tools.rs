//! The tools that cases use, waiting for conditions, and the private network.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

/// What a case cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Root,
    Kubectl,
    Skopeo,
    Buildah,
    /// The package `oras` in the Python at `PYTHON_CLIENT`.
    Oras,
    /// The guests of examples/, built for Wasm.
    Guests,
    Busybox,
    MosquittoSub,
    /// A Python with the official Kubernetes client, at `PYTHON_CLIENT`.
    PythonClient,
    Postgres,
    /// A Python with what drivers are tested against, at `DEVICE_PEERS`.
    DevicePeers,
    /// The same with schemathesis, and EdgeX's documents below `EYOT_SHARED`.
    Schemathesis,
    Python,
    Snmpd,
    Mosquitto,
    Socat,
}

impl Need {
    /// Why the case must be skipped, if it must.
    pub fn missing(self, isolated: bool) -> Option<String> {
        let program = |name: &str, package: &str| {
            find(name)
                .is_none()
                .then(|| format!("{name} is missing (package {package})"))
        };
        match self {
            Self::Root => (!isolated).then(|| "needs root and network namespaces".to_owned()),
            Self::Kubectl => kubectl().is_none().then(|| "kubectl is missing".to_owned()),
            Self::Skopeo => program("skopeo", "skopeo"),
            Self::Buildah => program("buildah", "buildah"),
            Self::Oras => {
                let python = std::env::var_os("PYTHON_CLIENT").unwrap_or_default();
                let mut import = Command::new(python);
                import.args(["-c", "import oras.client"]);
                let there = import.output().is_ok_and(|import| import.status.success());
                (!there).then(|| "PYTHON_CLIENT has no package oras".to_owned())
            }
            Self::Busybox => program("busybox", "busybox-static"),
            Self::MosquittoSub => program("mosquitto_sub", "mosquitto-clients"),
            Self::PythonClient => std::env::var_os("PYTHON_CLIENT")
                .is_none()
                .then(|| "PYTHON_CLIENT is not set: see scripts/python-client.sh".to_owned()),
            Self::Postgres => postgres_programs()
                .is_none()
                .then(|| "PostgreSQL is missing (package postgresql)".to_owned()),
            Self::DevicePeers => std::env::var_os("DEVICE_PEERS")
                .is_none()
                .then(|| "DEVICE_PEERS is not set: see scripts/device-peers.sh".to_owned()),
            Self::Schemathesis => {
                let python = std::env::var_os("DEVICE_PEERS").unwrap_or_default();
                let mut import = Command::new(python);
                import.args(["-c", "import schemathesis"]);
                if edgex_document("core-data").is_none() {
                    return Some("EYOT_SHARED has no OpenAPI documents of EdgeX".to_owned());
                }
                let there = import.output().is_ok_and(|import| import.status.success());
                (!there).then(|| "DEVICE_PEERS has no package schemathesis".to_owned())
            }
            Self::Python => program("python3", "python3"),
            Self::Snmpd => program("snmpd", "snmpd").or_else(|| program("snmptrap", "snmp")),
            Self::Mosquitto => program("mosquitto", "mosquitto")
                .or_else(|| program("mosquitto_pub", "mosquitto-clients"))
                .or_else(|| program("openssl", "openssl")),
            Self::Socat => program("socat", "socat"),
            Self::Guests => guest("hello_cli").err().map(|error| error.to_string()),
        }
    }
}

/// A document of EdgeX, by its file's stem.
pub fn edgex_document(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("EYOT_SHARED")?;
    let file = Path::new(&shared).join(format!("facts/edgex-openapi/{name}.yaml"));
    file.is_file().then_some(file)
}

/// Where Debian puts what is not for users.
pub fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let bins = versions.map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").exists()).max()
}

/// Ports of servers: below those that the kernel gives to clients.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// Move into a network namespace of our own, with loopback up. False if that is not allowed.
pub fn enter_private_network() -> bool {
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
        return false;
    }
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .is_ok_and(|s| s.success())
}

/// End what the cases have left running in our network namespace, and say what it was: whoever waits
/// for our output would wait for theirs, too.
pub fn end_the_left() {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let (ours, own) = (namespace("self"), std::process::id());
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse() != Ok(own)) else {
            continue;
        };
        let Ok(number) = pid.parse() else { continue };
        if ours.is_none() || namespace(pid) != ours {
            continue;
        }
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        eprintln!("left running, ended now: {pid} {command}");
        let pid = nix::unistd::Pid::from_raw(number);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The path of a built guest of examples/, by its file stem.
pub fn guest(name: &str) -> anyhow::Result<PathBuf> {
    let target = std::env::var_os("EYOT_GUESTS_TARGET")
        .map_or_else(|| repository().join("examples/target"), PathBuf::from);
    let path = target.join(format!("wasm32-wasip2/release/{name}.wasm"));
    if !path.exists() {
        bail!(
            "guest {} is not built: run scripts/guests.sh",
            path.display()
        );
    }
    Ok(path)
}

/// The kubectl to use: `$KUBECTL`, the fetched one, the one on PATH.
pub fn kubectl() -> Option<PathBuf> {
    let fetched = repository().join("target/tools/kubectl");
    std::env::var_os("KUBECTL")
        .map(PathBuf::from)
        .or_else(|| fetched.exists().then_some(fetched))
        .or_else(|| find("kubectl"))
}

/// A program on PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Daemons are where only root looks.
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Whether each of these is a line of what was said.
pub fn has_lines(said: &str, lines: &[&str]) -> anyhow::Result<()> {
    for line in lines {
        ensure!(said.lines().any(|l| l == *line), "no {line:?} in {said}");
    }
    Ok(())
}

/// Ask again until the answer is there, at most for `limit`.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    let mut last = String::new();
    loop {
        match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(error) => last = format!(" (last: {error:#})"),
        }
        if Instant::now() > end {
            bail!("not within {limit:?}: {what}{last}");
        }
        pause();
    }
}

/// Between two questions of a poll; never a substitute for a condition.
#[expect(
    clippy::disallowed_methods,
    reason = "the poll of eventually(), on a thread of its own"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(30));
}

/// Run a command to its end and hand back what it said.
pub fn run(command: &mut Command) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))
}

/// Run a command that must succeed; its standard output.
pub fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output = run(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed with {}:\n{text}{error}", output.status);
    }
    Ok(text)
}

/// A TCP port that nobody uses now in this network namespace, and that the kernel gives to no
/// client: a host which is started again needs the port that it had.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(*PORTS.start());
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(PORTS.contains(&port), "no port of {PORTS:?} is free");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

/// GET or PUT over plain HTTP with curl, as a user would; status and body.
pub fn curl(arguments: &[&str]) -> anyhow::Result<(u16, String)> {
    let output = succeed(
        Command::new("curl")
            .args(["-sS", "-m", "10", "-w", "\n%{http_code}"])
            .args(arguments),
    )?;
    let (body, status) = output.rsplit_once('\n').context("curl printed no status")?;
    Ok((status.trim().parse()?, body.to_owned()))
}
