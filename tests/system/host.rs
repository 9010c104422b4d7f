//! Starting the program as a user would, and talking to it.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::tools::{eventually, free_port, kubectl, run, succeed};

/// How long a start may take on a busy machine before a case fails.
const START: Duration = Duration::from_secs(30);

/// A running host with a data directory of its own.
pub struct Host {
    pub dir: PathBuf,
    pub ports: Ports,
    /// Flags beside those that say where things are.
    more: Vec<String>,
    child: Child,
    /// Kept for its destructor; `None` for a host that continues another's directory.
    _temporary: Option<tempfile::TempDir>,
}

#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Where the API listens; all else is on loopback.
    pub address: Ipv4Addr,
    pub api: u16,
    pub registry: u16,
    pub mqtt: u16,
    pub core_data: u16,
    pub core_metadata: u16,
    pub core_command: u16,
    pub core_keeper: u16,
    pub device_services: u16,
    pub support_notifications: u16,
    pub support_scheduler: u16,
    pub ingress: u16,
    pub ingress_tls: u16,
    /// Third byte of the pod network. Even: the next is for a node that joins.
    pub net: u8,
}

impl Ports {
    pub fn choose() -> anyhow::Result<Self> {
        static NET: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(2);
        Ok(Self {
            address: Ipv4Addr::LOCALHOST,
            api: free_port()?,
            registry: free_port()?,
            mqtt: free_port()?,
            core_data: free_port()?,
            core_metadata: free_port()?,
            core_command: free_port()?,
            core_keeper: free_port()?,
            device_services: free_port()?,
            support_notifications: free_port()?,
            support_scheduler: free_port()?,
            ingress: free_port()?,
            ingress_tls: free_port()?,
            net: NET.fetch_add(2, std::sync::atomic::Ordering::Relaxed),
        })
    }

    /// The flags that say all this.
    pub fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> = [
            ("registry", self.registry),
            ("mqtt", self.mqtt),
            ("core-data", self.core_data),
            ("core-metadata", self.core_metadata),
            ("core-command", self.core_command),
            ("core-keeper", self.core_keeper),
            ("device-services", self.device_services),
            ("support-notifications", self.support_notifications),
            ("support-scheduler", self.support_scheduler),
            ("ingress", self.ingress),
            ("ingress-tls", self.ingress_tls),
        ]
        .iter()
        .map(|(name, port)| format!("--{name}-address=127.0.0.1:{port}"))
        .collect();
        flags.push(format!("--api-address={}:{}", self.address, self.api));
        flags.push(format!("--pod-cidr=10.244.{}.0/24", self.net));
        flags.push(format!("--service-cidr=10.96.{}.0/24", self.net));
        flags.push(format!("--bridge=eyot{}", self.net));
        flags.push("--node-name=island".to_owned());
        flags
    }
}

/// The program, with an environment that has no settings in it.
pub fn eyot() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eyot"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EYOT_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

impl Host {
    /// Start on an empty data directory.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with more flags.
    pub fn start_with(more: &[&str]) -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, more)
    }

    /// The same with the API where others reach it.
    pub fn start_at(address: Ipv4Addr, more: &[&str]) -> anyhow::Result<Self> {
        let mut more: Vec<String> = more.iter().map(|flag| (*flag).to_owned()).collect();
        let temporary = tempfile::Builder::new().prefix("eyot-").tempdir()?;
        let dir = temporary.path().to_owned();
        let ports = Ports {
            address,
            ..Ports::choose()?
        };
        // Hosts of this suite share a namespace: no two of them may lead the same addresses elsewhere.
        if !address.is_loopback() {
            more.push(format!("--cluster-cidr=10.244.{}.0/23", ports.net));
        }
        let child = spawn(&dir, ports, &more)?;
        let host = Self {
            more,
            dir,
            ports,
            child,
            _temporary: Some(temporary),
        };
        host.wait_ready()?;
        Ok(host)
    }

    /// Start again on the directory and the ports that it had before.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.spawn_again()?;
        self.wait_ready()
    }

    /// The same with other flags beside those that say where things are.
    pub fn restart_with(&mut self, more: &[&str]) -> anyhow::Result<()> {
        self.more = more.iter().map(|flag| (*flag).to_owned()).collect();
        self.restart()
    }

    /// Start again without waiting for anything.
    pub fn spawn_again(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.dir, self.ports, &self.more)?;
        Ok(())
    }

    /// `kill -9`, now.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and wait for the end.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        eventually("the host ends after SIGTERM", START, || {
            Ok(self.child.try_wait()?)
        })
        .with_context(|| self.log_tail())
    }

    fn wait_ready(&self) -> anyhow::Result<()> {
        eventually("the API is ready and the node is Ready", START, || {
            let nodes = self.get("nodes")?;
            let ready = nodes["items"][0]["status"]["conditions"]
                .as_array()
                .is_some_and(|c| {
                    c.iter()
                        .any(|c| c["type"] == "Ready" && c["status"] == "True")
                });
            Ok(ready.then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// A kubectl command against this host.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl().unwrap_or_else(|| "kubectl".into()));
        command
            .arg("--kubeconfig")
            .arg(self.dir.join("kubeconfig"))
            .arg("--cache-dir")
            .arg(self.dir.join("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Run kubectl; it must succeed.
    pub fn k(&self, arguments: &[&str]) -> anyhow::Result<String> {
        succeed(&mut self.kubectl(arguments))
    }

    /// Run kubectl; it must fail. What it says on standard error.
    pub fn k_fails(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = run(&mut self.kubectl(arguments))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success(),
            "kubectl {arguments:?} did not fail: {said}"
        );
        Ok(said)
    }

    /// Apply a manifest given as text.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        succeed(&mut self.apply_command(manifest)?)
    }

    /// Apply a manifest that must be refused; what kubectl says.
    pub fn apply_fails(&self, manifest: &str) -> anyhow::Result<String> {
        let output = run(&mut self.apply_command(manifest)?)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success(),
            "this was not refused: {manifest}\n{said}"
        );
        Ok(said)
    }

    fn apply_command(&self, manifest: &str) -> anyhow::Result<Command> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = self.dir.join(format!("manifest-{number}.yaml"));
        std::fs::write(&file, manifest)?;
        Ok(self.kubectl(&["apply", "-f", file.to_str().context("path")?]))
    }

    /// `kubectl get WHAT -o json`, parsed. `what` may hold several words.
    pub fn get(&self, what: &str) -> anyhow::Result<Value> {
        let mut arguments = vec!["get"];
        arguments.extend(what.split_whitespace());
        arguments.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.k(&arguments)?)?)
    }

    /// Push a file under a name.
    pub fn push(&self, image: &str, file: &Path) -> anyhow::Result<String> {
        succeed(
            eyot()
                .args([
                    "push",
                    "--registry",
                    &format!("127.0.0.1:{}", self.ports.registry),
                    image,
                ])
                .arg(file),
        )
    }

    /// Wait until a pod's object satisfies `good`; the object.
    pub fn wait_pod(
        &self,
        name: &str,
        what: &str,
        good: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let seen = std::cell::RefCell::new(Value::Null);
        eventually(
            &format!("pod {name} {what}"),
            Duration::from_secs(60),
            || {
                let pod = self.get(&format!("pod {name}"))?;
                *seen.borrow_mut() = pod["status"].clone();
                Ok(good(&pod).then_some(pod))
            },
        )
        .with_context(|| format!("status was {}\n{}", seen.borrow(), self.log_tail()))
    }

    /// Wait until a pod is Ready; the object.
    pub fn wait_ready_pod(&self, name: &str) -> anyhow::Result<Value> {
        self.wait_pod(name, "is Ready", |pod| condition(pod, "Ready"))
    }

    /// Wait until an event of `pod` is told whose `REASON: MESSAGE` holds `text`. Events are written
    /// beside what they are about, so none may be there yet when it is.
    pub fn wait_event(&self, pod: &str, text: &str) -> anyhow::Result<()> {
        let of = format!("--field-selector=involvedObject.name={pod}");
        let lines = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        let seen = std::cell::RefCell::new(String::new());
        let what = format!("an event of {pod} says {text:?}");
        eventually(&what, Duration::from_secs(60), || {
            let events = self.k(&["get", "events", &of, "-o", lines])?;
            let told = events.contains(text).then_some(());
            *seen.borrow_mut() = events;
            Ok(told)
        })
        .with_context(|| format!("events were\n{}\n{}", seen.borrow(), self.log_tail()))
    }

    pub fn mqtt(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.mqtt))
    }

    /// The program's resident memory in bytes.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|l| l.starts_with("VmRSS"))
            .context("no VmRSS")?;
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .context("no number")?
            .parse()?;
        Ok(kib * 1024)
    }

    /// Processor time that the program has used.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // After the name in brackets, user and system time are fields 14 and 15, in ticks of 10 ms.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .context("stat")?
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Have all its threads, and those to come, run on this processor alone.
    pub fn pin(&self, processor: usize) -> anyhow::Result<()> {
        self.run_on(&processor.to_string())
    }

    /// Have it run anywhere again.
    pub fn unpin(&self) -> anyhow::Result<()> {
        let most = std::thread::available_parallelism()?.get() - 1;
        self.run_on(&format!("0-{most}"))
    }

    fn run_on(&self, processors: &str) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        succeed(Command::new("taskset").args(["-a", "-c", "-p", processors, &pid])).map(drop)
    }

    /// Bytes that the program had written to disk.
    pub fn written(&self) -> anyhow::Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(line.context("no write_bytes")?.parse()?)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of the log, for messages about failures.
    pub fn log_tail(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(self.dir.join("eyot.log")) {
            let _ = file.read_to_string(&mut text);
        }
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(25);
        format!("the host's log ends with:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.terminate();
        }
        let _ = self.kill();
        reset(&self.dir, self.ports);
    }
}

/// End what a stopped host left running, and take down what it made.
fn reset(dir: &Path, ports: Ports) {
    let mut command = eyot();
    command
        .arg("reset")
        .arg("--data-dir")
        .arg(dir)
        .args(ports.flags());
    if let Err(error) = succeed(&mut command) {
        eprintln!("what a host left was not cleared: {error:#}");
    }
}

fn spawn(dir: &Path, ports: Ports, more: &[String]) -> anyhow::Result<Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("eyot.log"))?;
    // A flag that is given by name wins.
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let mut flags = ports.flags();
    flags.retain(|flag| !more.iter().any(|given| name(given) == name(flag)));
    eyot()
        .arg("up")
        .arg("--data-dir")
        .arg(dir)
        .args(flags)
        .args(more)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("eyot up")
}

/// Whether a condition of an object is True.
pub fn condition(object: &Value, name: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .is_some_and(|all| {
            all.iter()
                .any(|c| c["type"] == name && c["status"] == "True")
        })
}

static SHARED: OnceLock<Mutex<Option<&'static Host>>> = OnceLock::new();

/// The host that most cases share; started at first use. Cases use names of their own.
pub fn shared() -> anyhow::Result<&'static Host> {
    let mut slot = SHARED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(|e| e.into_inner());
    if let Some(host) = *slot {
        return Ok(host);
    }
    let host: &'static Host = Box::leak(Box::new(Host::start()?));
    *slot = Some(host);
    Ok(host)
}

/// End the shared host. Statics are never dropped, so this is called at the end of `main`.
pub fn stop_shared() {
    let Some(slot) = SHARED.get() else { return };
    let Some(host) = slot.lock().unwrap_or_else(|e| e.into_inner()).take() else {
        return;
    };
    if let Ok(pid) = i32::try_from(host.child.id()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let ended = eventually("the shared host ends", Duration::from_secs(20), || {
            let now = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
            let alive = Ok(nix::sys::wait::WaitStatus::StillAlive);
            Ok((nix::sys::wait::waitpid(pid, now) != alive).then_some(()))
        });
        if ended.is_err() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    reset(&host.dir, host.ports);
    let _ = std::fs::remove_dir_all(&host.dir);
}
