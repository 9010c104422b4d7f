//! Asking a container how it is: startup, readiness and liveness probes, over HTTP and TCP or by a
//! program in it.
//!
//! A probe is judged by its thresholds here; the pod hears only of changes. What this node cannot
//! ask (`grpc`, HTTPS) leaves the result as it was before the first probe (not ready, but
//! alive), and an event says so.

use std::{fmt::Write as _, net::IpAddr, sync::Arc, time::Duration};

use eyot_client::EventType;
use eyot_runtime::{ContainerError, ExecSpec, ProcessControl, process::Source};
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, ObjectReference, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    actor::Message,
    event::{Event, Probed},
};
use crate::context::Events;

/// Longest status line that is looked at.
const STATUS_LINE: usize = 1024;
/// As much of what a probe's program writes is shown.
const PROGRAM_OUTPUT: u64 = 10 << 10;

/// What the probes of one attempt have in common.
pub(super) struct Watched {
    pub unit: usize,
    pub attempt: u32,
    /// Address of the pod.
    pub host: IpAddr,
    pub running: Arc<dyn eyot_runtime::Container>,
    /// Grace of the pod, for probes that do not have their own.
    pub grace: Duration,
    pub object: ObjectReference,
    pub events: Events,
    pub post: mpsc::Sender<Message>,
}

/// The task that probes `container`, if it has any probes.
pub(super) fn watch(
    container: Container,
    watched: Watched,
) -> Option<impl Future<Output = ()> + Send> {
    let any = container.startup_probe.is_some()
        || container.readiness_probe.is_some()
        || container.liveness_probe.is_some();
    any.then_some(async move {
        if let Some(probe) = &container.startup_probe {
            run(&container, probe, Kind::Startup, &watched).await;
        }
        let readiness = async {
            if let Some(probe) = &container.readiness_probe {
                run(&container, probe, Kind::Readiness, &watched).await;
            }
        };
        let liveness = async {
            if let Some(probe) = &container.liveness_probe {
                run(&container, probe, Kind::Liveness, &watched).await;
            }
        };
        tokio::join!(readiness, liveness);
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What one question was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Good,
    Bad(String),
    /// It could not be asked.
    Unknown(String),
}

/// Counts answers in a row up to a threshold.
#[derive(Debug)]
struct Tally {
    good_from: u32,
    bad_from: u32,
    good: u32,
    bad: u32,
}

impl Tally {
    fn new(probe: &Probe) -> Self {
        let at_least_one = |number: Option<i32>, default| {
            number
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(default)
        };
        Self {
            good_from: at_least_one(probe.success_threshold, 1),
            bad_from: at_least_one(probe.failure_threshold, 3),
            good: 0,
            bad: 0,
        }
    }

    /// The verdict, once there have been enough equal answers.
    fn count(&mut self, good: bool) -> Option<bool> {
        if good {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
        } else {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
        }
        if self.good >= self.good_from {
            Some(true)
        } else if self.bad >= self.bad_from {
            Some(false)
        } else {
            None
        }
    }
}

/// Ask again and again. Ends when there is nothing more to find out for this attempt.
async fn run(container: &Container, probe: &Probe, kind: Kind, watched: &Watched) {
    let seconds = |number: Option<i32>, default: u64| {
        let number = number
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| *n > 0);
        Duration::from_secs(number.unwrap_or(default))
    };
    let delay = Duration::from_secs(
        probe
            .initial_delay_seconds
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
    );
    let patience = seconds(probe.timeout_seconds, 1);
    let mut ticks = interval_at(Instant::now() + delay, seconds(probe.period_seconds, 10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tally = Tally::new(probe);
    let mut last = None;
    loop {
        ticks.tick().await;
        let answer = match timeout(patience, ask(container, probe, watched)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Bad(format!("no answer within {patience:?}")),
        };
        let good = match answer {
            Answer::Good => true,
            Answer::Bad(why) => {
                let message = format!("{} probe failed: {why}", kind.title());
                watched.events.record(
                    watched.object.clone(),
                    EventType::Warning,
                    "Unhealthy",
                    message,
                );
                false
            }
            Answer::Unknown(why) => {
                let message = format!("{} probe errored: {why}", kind.title());
                watched.events.record(
                    watched.object.clone(),
                    EventType::Warning,
                    "Unhealthy",
                    message,
                );
                return;
            }
        };
        let Some(verdict) = tally.count(good) else {
            continue;
        };
        if last == Some(verdict) {
            continue;
        }
        last = Some(verdict);
        let probed = match (kind, verdict) {
            (Kind::Startup, true) => Probed::Started,
            (Kind::Readiness, ready) => Probed::Ready(ready),
            (Kind::Liveness, true) => continue,
            (Kind::Startup | Kind::Liveness, false) => {
                let own = probe.termination_grace_period_seconds;
                let own = own
                    .and_then(|n| u64::try_from(n).ok())
                    .map(Duration::from_secs);
                Probed::Unhealthy {
                    which: kind.name(),
                    grace: own.unwrap_or(watched.grace),
                }
            }
        };
        let event = Event::Probed {
            unit: watched.unit,
            attempt: watched.attempt,
            probe: probed,
        };
        if watched.post.send(Message::Event(event)).await.is_err() || kind == Kind::Startup {
            return;
        }
    }
}

async fn ask(container: &Container, probe: &Probe, watched: &Watched) -> Answer {
    let host = watched.host;
    if let Some(exec) = &probe.exec {
        return program(&*watched.running, exec).await;
    }
    if let Some(get) = &probe.http_get {
        if get
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
        {
            return Answer::Unknown("HTTPS probes are not supported by this node".to_owned());
        }
        let Some(port) = port(&get.port, container) else {
            return Answer::Unknown(format!("couldn't find port: {:?}", get.port));
        };
        let target = get
            .host
            .clone()
            .filter(|h| !h.is_empty())
            .unwrap_or_else(|| host.to_string());
        return http(&target, port, get).await;
    }
    if let Some(socket) = &probe.tcp_socket {
        let Some(port) = port(&socket.port, container) else {
            return Answer::Unknown(format!("couldn't find port: {:?}", socket.port));
        };
        let target = socket
            .host
            .clone()
            .filter(|h| !h.is_empty())
            .unwrap_or_else(|| host.to_string());
        return match TcpStream::connect((target.as_str(), port)).await {
            Ok(_) => Answer::Good,
            Err(error) => Answer::Bad(format!("dial tcp {target}:{port}: {error}")),
        };
    }
    Answer::Unknown("grpc probes are not supported by this node".to_owned())
}

/// Run the probe's program; what it says is its word if it fails.
async fn program(running: &dyn eyot_runtime::Container, action: &ExecAction) -> Answer {
    let spec = ExecSpec {
        command: action.command.clone().unwrap_or_default(),
        ..ExecSpec::default()
    };
    let process = match running.exec(spec).await {
        Ok(process) => process,
        Err(error @ ContainerError::Config { .. }) => return Answer::Unknown(error.to_string()),
        Err(error) => return Answer::Bad(error.to_string()),
    };
    // Ended with this future, if it takes longer than the probe allows.
    let control = Ending(process.control);
    let errors = async {
        match process.stderr {
            Some(stderr) => beginning(stderr).await,
            None => Vec::new(),
        }
    };
    let (exit, mut said, errors) =
        tokio::join!(control.0.wait(), beginning(process.stdout), errors);
    match exit.code {
        0 => Answer::Good,
        _ => {
            said.extend(errors);
            Answer::Bad(String::from_utf8_lossy(&said).trim_end().to_owned())
        }
    }
}

/// The first of all that a program writes.
async fn beginning(mut from: Source) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = (&mut from)
        .take(PROGRAM_OUTPUT)
        .read_to_end(&mut text)
        .await;
    // Read on, so that the program is not kept from writing.
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    text
}

/// Kills a program that is not waited for any more.
struct Ending(Arc<dyn ProcessControl>);

impl Drop for Ending {
    fn drop(&mut self) {
        let control = Arc::clone(&self.0);
        tokio::spawn(async move { control.kill().await });
    }
}

fn port(wanted: &IntOrString, container: &Container) -> Option<u16> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten();
            let named = named
                .into_iter()
                .find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => u16::try_from(port.container_port).ok(),
                None => name.parse().ok(),
            }
        }
    }
}

async fn http(host: &str, port: u16, get: &HTTPGetAction) -> Answer {
    let fails =
        |error: std::io::Error| Answer::Bad(format!("Get \"http://{host}:{port}\": {error}"));
    let mut stream = match TcpStream::connect((host, port)).await {
        Ok(stream) => stream,
        Err(error) => return fails(error),
    };
    if let Err(error) = stream.write_all(request(host, port, get).as_bytes()).await {
        return fails(error);
    }
    let mut head = Vec::new();
    let mut chunk = [0; 256];
    while !head.contains(&b'\n') && head.len() < STATUS_LINE {
        match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(read) => head.extend_from_slice(&chunk[..read]),
            Err(error) => return fails(error),
        }
    }
    match status_code(&head) {
        Some(code) if (200..400).contains(&code) => Answer::Good,
        Some(code) => Answer::Bad(format!("HTTP probe failed with statuscode: {code}")),
        None => Answer::Bad("the answer is not HTTP".to_owned()),
    }
}

fn request(host: &str, port: u16, get: &HTTPGetAction) -> String {
    let path = get
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    // A path with a line break would smuggle in headers.
    let clean = |text: &str| text.replace(['\r', '\n'], "");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut text = format!(
        "GET {slash}{} HTTP/1.1\r\n",
        clean(path).replace(' ', "%20")
    );
    let headers = get.http_headers.as_deref().unwrap_or_default();
    let has = |name: &str| {
        headers
            .iter()
            .any(|header| header.name.eq_ignore_ascii_case(name))
    };
    // Writing to a String cannot fail.
    if !has("host") {
        let _ = write!(text, "Host: {host}:{port}\r\n");
    }
    if !has("user-agent") {
        text.push_str("User-Agent: kube-probe/1.36\r\n");
    }
    for header in headers {
        let _ = write!(
            text,
            "{}: {}\r\n",
            clean(&header.name),
            clean(&header.value)
        );
    }
    text.push_str("Accept: */*\r\nConnection: close\r\n\r\n");
    text
}

fn status_code(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.trim_end().split(' ');
    words
        .next()
        .filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_as_many_equal_answers_as_the_thresholds_say() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Probe::default()
        };
        let mut tally = Tally::new(&probe);
        let answers = [true, true, false, false, true, false, false, false, false];
        let verdicts = answers.map(|good| tally.count(good));
        assert_eq!(
            verdicts,
            [
                None,
                Some(true),
                None,
                None,
                None,
                None,
                None,
                Some(false),
                Some(false)
            ]
        );
    }

    #[test]
    fn a_status_line_is_read_and_nonsense_is_not() {
        assert_eq!(status_code(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status_code(b"HTTP/1.0 500 x\n"), Some(500));
        assert_eq!(status_code(b"SSH-2.0-x\r\n"), None);
        assert_eq!(status_code(b""), None);
    }

    #[test]
    fn a_path_cannot_smuggle_headers() {
        let get = HTTPGetAction {
            path: Some("/x\r\nEvil: 1".to_owned()),
            ..HTTPGetAction::default()
        };
        assert!(!request("h", 1, &get).contains("\nEvil"));
    }
}
