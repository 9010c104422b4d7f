//! The rules of probes and of lifecycle hooks.

use serde_json::Value;

use super::Context;
use crate::kinds::{
    descent::Descent,
    json::{at, has, int, list, text},
    names,
};

const COUNTS: [&str; 5] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
];
const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];
/// Sorted, as they are shown; the numbered real-time signals come from [`signals`].
const LINUX_SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// The three probes of a container.
pub(super) fn probes(f: &mut Descent, container: &Value) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        f.inside(container, name, |f, probe| {
            handler(f, probe, &["exec", "httpGet", "tcpSocket", "grpc"], None);
            for count in COUNTS {
                f.not_negative(probe, count);
            }
            let grace = at(probe, "/terminationGracePeriodSeconds");
            if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
                let detail = "must be greater than 0";
                f.invalid("terminationGracePeriodSeconds", grace.clone(), detail);
            }
            if name == "readinessProbe" {
                if !grace.is_null() {
                    let detail = "must not be set for readinessProbes";
                    f.invalid("terminationGracePeriodSeconds", grace.clone(), detail);
                }
            } else if int(probe, "/successThreshold") != 1 {
                f.invalid(
                    "successThreshold",
                    int(probe, "/successThreshold"),
                    "must be 1",
                );
            }
        });
    }
}

pub(super) fn lifecycle(f: &mut Descent, container: &Value, context: &Context<'_>) {
    f.inside(container, "lifecycle", |f, lifecycle| {
        for name in ["postStart", "preStop"] {
            f.inside(lifecycle, name, |f, hook| {
                let kinds = ["exec", "httpGet", "tcpSocket", "sleep"];
                handler(f, hook, &kinds, context.grace());
            });
        }
        let signal = text(lifecycle, "/stopSignal");
        if !has(lifecycle, "/stopSignal") {
            return;
        }
        match context.os() {
            "" => {
                let detail = "may not be set for containers with empty `spec.os.name`";
                f.forbidden("stopSignal", detail);
            }
            "windows" if !WINDOWS_SIGNALS.contains(&signal) => {
                f.unsupported("stopSignal", signal, &WINDOWS_SIGNALS);
            }
            "linux" => {
                let all = signals();
                let all: Vec<&str> = all.iter().map(String::as_str).collect();
                if !all.contains(&signal) {
                    f.unsupported("stopSignal", signal, &all);
                }
            }
            _ => {}
        }
    });
}

fn signals() -> Vec<String> {
    let mut all: Vec<String> = LINUX_SIGNALS.map(str::to_owned).into();
    all.push("SIGRTMIN".to_owned());
    all.push("SIGRTMAX".to_owned());
    all.extend((1..=15).map(|number| format!("SIGRTMIN+{number}")));
    all.extend((1..=14).map(|number| format!("SIGRTMAX-{number}")));
    all.sort();
    all
}

/// One action, of one of these kinds.
fn handler(f: &mut Descent, object: &Value, kinds: &[&str], grace: Option<i64>) {
    let mut found = false;
    for kind in kinds {
        let action = at(object, &format!("/{kind}"));
        if action.is_null() {
            continue;
        }
        if found {
            f.forbidden(kind, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        f.within(kind, |f| match *kind {
            "exec" if list(action, "/command").is_empty() => f.required("command", ""),
            "httpGet" => http_get(f, action),
            "tcpSocket" | "grpc" => f.port(action, "port"),
            "sleep" => {
                let seconds = int(action, "/seconds");
                if let Some(grace) = grace
                    && !(0..=grace).contains(&seconds)
                {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    f.invalid("", seconds, &detail);
                }
            }
            _ => {}
        });
    }
    if !found {
        f.required("", "must specify a handler type");
    }
}

fn http_get(f: &mut Descent, action: &Value) {
    f.given(action, "path");
    f.port(action, "port");
    let scheme = text(action, "/scheme");
    if !["HTTP", "HTTPS"].contains(&scheme) {
        f.unsupported("scheme", scheme, &["HTTP", "HTTPS"]);
    }
    for header in list(action, "/httpHeaders") {
        f.named("httpHeaders", text(header, "/name"), names::http_header);
    }
}
