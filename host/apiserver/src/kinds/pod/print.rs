//! The cells of `kubectl get pods`, above all STATUS: one word for what a pod is doing.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    kinds::json::{at, has, int, list, text},
    table,
};

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let all = list(pod, "/spec/containers").len() + sidecars(pod).count();
    let summary = Summary::of(pod);
    let or_none = |text: &str| {
        if text.is_empty() {
            json!("<none>")
        } else {
            json!(text)
        }
    };
    let ip = list(pod, "/status/podIPs")
        .first()
        .map_or("", |one| text(one, "/ip"));
    let ip = if ip.is_empty() {
        text(pod, "/status/podIP")
    } else {
        ip
    };
    vec![
        json!(text(pod, "/metadata/name")),
        json!(format!("{}/{all}", summary.ready)),
        json!(summary.reason),
        json!(summary.restarts(now)),
        table::age(pod, now),
        or_none(ip),
        or_none(text(pod, "/spec/nodeName")),
        or_none(text(pod, "/status/nominatedNodeName")),
        gates(pod),
    ]
}

/// Init containers that run for the whole life of the pod.
fn sidecars(pod: &Value) -> impl Iterator<Item = &str> {
    list(pod, "/spec/initContainers")
        .iter()
        .filter(|one| text(one, "/restartPolicy") == "Always")
        .map(|one| text(one, "/name"))
}

fn gates(pod: &Value) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return json!("<none>");
    }
    let met = gates
        .iter()
        .filter(|gate| condition(pod, text(gate, "/conditionType")) == "True")
        .count();
    json!(format!("{met}/{}", gates.len()))
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    list(pod, "/status/conditions")
        .iter()
        .find(|one| text(one, "/type") == kind)
        .map_or("", |one| text(one, "/status"))
}

struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    /// When a container last ended before its current run.
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let reason = match text(pod, "/status/reason") {
            "" => text(pod, "/status/phase"),
            reason => reason,
        };
        let gated = list(pod, "/status/conditions").iter().any(|one| {
            text(one, "/type") == "PodScheduled" && text(one, "/reason") == "SchedulingGated"
        });
        let reason = if gated { "SchedulingGated" } else { reason };
        let mut summary = Summary {
            reason: reason.to_owned(),
            ready: 0,
            restarts: 0,
            last_restart: None,
        };
        let initializing = summary.initialising(pod);
        if !initializing || condition(pod, "Initialized") == "True" {
            summary.running(pod);
        }
        if has(pod, "/metadata/deletionTimestamp") {
            let lost = text(pod, "/status/reason") == "NodeLost";
            let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
            if lost {
                summary.reason = "Unknown".to_owned();
            } else if !ended {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Counts init containers; true while one of them still holds the pod up.
    fn initialising(&mut self, pod: &Value) -> bool {
        let sidecars: Vec<&str> = sidecars(pod).collect();
        let total = list(pod, "/spec/initContainers").len();
        for (index, status) in list(pod, "/status/initContainerStatuses")
            .iter()
            .enumerate()
        {
            let is_sidecar = sidecars.contains(&text(status, "/name"));
            self.count(status);
            if has(status, "/state/terminated") && int(status, "/state/terminated/exitCode") == 0 {
                continue;
            }
            if is_sidecar && at(status, "/started") == &Value::Bool(true) {
                if at(status, "/ready") == &Value::Bool(true) {
                    self.ready += 1;
                }
                continue;
            }
            self.reason = if has(status, "/state/terminated") {
                format!("Init:{}", exit_reason(status))
            } else {
                match text(status, "/state/waiting/reason") {
                    "" | "PodInitializing" => format!("Init:{index}/{total}"),
                    reason => format!("Init:{reason}"),
                }
            };
            return true;
        }
        false
    }

    fn count(&mut self, status: &Value) {
        self.restarts += int(status, "/restartCount");
        self.last_restart = self.last_restart.max(ended(at(status, "/lastState")));
    }

    /// Restarts of init containers that are done count no more; those of sidecars do.
    fn running(&mut self, pod: &Value) {
        self.restarts = 0;
        self.last_restart = None;
        let sidecars: Vec<&str> = sidecars(pod).collect();
        for status in list(pod, "/status/initContainerStatuses") {
            if sidecars.contains(&text(status, "/name")) {
                self.count(status);
            }
        }
        let mut has_running = false;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            self.count(status);
            if !text(status, "/state/waiting/reason").is_empty() {
                self.reason = text(status, "/state/waiting/reason").to_owned();
            } else if has(status, "/state/terminated") {
                self.reason = exit_reason(status);
            } else if at(status, "/ready") == &Value::Bool(true) && has(status, "/state/running") {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && has_running {
            let ready = condition(pod, "Ready") == "True";
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn restarts(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(when) if self.restarts > 0 => {
                format!("{} ({} ago)", self.restarts, table::since(when, now))
            }
            _ => self.restarts.to_string(),
        }
    }
}

fn exit_reason(status: &Value) -> String {
    let signal = int(status, "/state/terminated/signal");
    match text(status, "/state/terminated/reason") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", int(status, "/state/terminated/exitCode")),
        reason => reason.to_owned(),
    }
}

fn ended(last_state: &Value) -> Option<Timestamp> {
    text(last_state, "/terminated/finishedAt").parse().ok()
}
