//! Asking a container how it is: startup, readiness and liveness probes, over HTTP, HTTPS, gRPC and
//! TCP or by a program in it.
//!
//! A probe is judged by its thresholds here; the pod hears only of changes. What cannot be asked (a
//! port of a name that there is not) leaves the result as it was before the first probe (not ready,
//! but alive), and an event says so.

use std::{net::IpAddr, sync::Arc, time::Duration};

use eyot_client::EventType;
use eyot_runtime::ContainerError;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, ObjectReference, Probe};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    actor::Message,
    event::{Event, Probed},
    grpc, program,
    request::{Get, dial, port},
};
use crate::context::Events;

/// A gRPC probe's own time limits tell better what happened than the one around it.
const LATER: Duration = Duration::from_millis(500);

/// What the probes of one attempt have in common.
pub(super) struct Watched {
    pub unit: usize,
    pub attempt: u32,
    /// When it started: delays count from there.
    pub since: Instant,
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
    let first = (watched.since + delay).max(Instant::now());
    let mut ticks = interval_at(first, seconds(probe.period_seconds, 10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tally = Tally::new(probe);
    let mut last = None;
    loop {
        ticks.tick().await;
        let limit = match probe.grpc {
            Some(_) => patience + LATER,
            None => patience,
        };
        let asked = timeout(limit, ask(container, probe, patience, watched)).await;
        let answer =
            asked.unwrap_or_else(|_| Answer::Bad(late(container, probe, patience, watched)));
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
                let message = format!(
                    "{} probe errored and resulted in unknown state: {why}",
                    kind.title()
                );
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

async fn ask(
    container: &Container,
    probe: &Probe,
    patience: Duration,
    watched: &Watched,
) -> Answer {
    if let Some(exec) = &probe.exec {
        return exec_probe(&*watched.running, exec).await;
    }
    if let Some(action) = &probe.http_get {
        return http_probe(action, container, watched.host).await;
    }
    if let Some(socket) = &probe.tcp_socket {
        let host = socket.host.as_deref().filter(|host| !host.is_empty());
        let host = host.map_or_else(|| watched.host.to_string(), str::to_owned);
        return match port(&socket.port, container) {
            Err(why) => Answer::Unknown(why),
            Ok(port) => match dial(&host, port).await {
                Ok(_) => Answer::Good,
                Err(why) => Answer::Bad(why),
            },
        };
    }
    if let Some(action) = &probe.grpc {
        let Ok(port) = u16::try_from(action.port) else {
            return Answer::Unknown(format!("invalid port number: {}", action.port));
        };
        let service = action.service.as_deref().unwrap_or_default();
        let host = watched.host.to_string();
        return match grpc::check(&host, port, service, patience).await {
            Ok(()) => Answer::Good,
            Err(why) => Answer::Bad(why),
        };
    }
    Answer::Unknown("missing probe handler".to_owned())
}

/// What is said of a probe that took too long.
fn late(container: &Container, probe: &Probe, patience: Duration, watched: &Watched) -> String {
    if let Some(exec) = &probe.exec {
        let command = exec.command.as_deref().unwrap_or_default().join(" ");
        return format!("command timed out: \"{command}\" timed out after {patience:?}");
    }
    if let Some(action) = &probe.http_get
        && let Ok(get) = Get::new(action, container, watched.host, "probe")
    {
        return format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            get.url()
        );
    }
    match &probe.tcp_socket {
        Some(_) => format!("dial tcp {}: i/o timeout", watched.host),
        None => format!("no answer within {patience:?}"),
    }
}

/// Run the probe's program; what it says is its word if it fails.
async fn exec_probe(running: &dyn eyot_runtime::Container, action: &ExecAction) -> Answer {
    let command = action.command.as_deref().unwrap_or_default();
    match program::run(running, command).await {
        Ok((0, _)) => Answer::Good,
        Ok((_, said)) => Answer::Bad(said),
        Err(error @ ContainerError::Config { .. }) => Answer::Unknown(error.to_string()),
        Err(error) => Answer::Bad(error.to_string()),
    }
}

async fn http_probe(action: &HTTPGetAction, container: &Container, host: IpAddr) -> Answer {
    let get = match Get::new(action, container, host, "probe") {
        Ok(get) => get,
        Err(why) => return Answer::Unknown(why),
    };
    match get.send().await {
        Ok(status) if status.is_success() || status.is_redirection() => Answer::Good,
        Ok(status) => Answer::Bad(format!(
            "HTTP probe failed with statuscode: {}",
            status.as_u16()
        )),
        Err(why) => Answer::Bad(why),
    }
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
}
