//! Probes, lifecycle hooks and last words of real containers.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    container::{ended, push_busybox},
    host::{condition, shared},
    security::script_pod,
};

pub const CASES: &[Case] = &[
    case!(
        hooks_run_around_a_container_and_are_told_about_when_they_fail,
        [Kubectl, Root, Busybox]
    ),
    case!(a_container_leaves_its_last_words, [Kubectl, Root, Busybox]),
    case!(
        a_container_ends_on_the_signal_that_its_manifest_names,
        [Kubectl, Root, Busybox]
    ),
    case!(
        probes_gate_readiness_and_restart_what_is_unhealthy,
        [Kubectl, Root, Busybox]
    ),
    case!(
        grpc_and_https_probes_ask_as_the_kubelet_does,
        [Kubectl, Root, Busybox]
    ),
];

/// Prints what happens until it is told to end.
const TALKER: &str =
    "trap 'echo ended; exit 0' TERM; echo begun; while true; do sleep 1 & wait $!; done";

fn hooks_run_around_a_container_and_are_told_about_when_they_fail() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "hooks/talker:v1")?;
    let say = |text: &str| json!({ "exec": { "command": ["/bin/sh", "-c", text] } });
    let shown = |name: &str, hooks: Value, grace: u32| {
        let more = json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": grace });
        let own = json!({ "lifecycle": hooks });
        host.apply(&script_pod(name, "hooks/talker:v1", TALKER, more, own))
    };
    // What a hook prints goes nowhere; it leaves marks in the container's own output.
    let hooks = json!({
        "postStart": say("echo after start > /proc/1/fd/1"),
        "preStop": say("echo before stop > /proc/1/fd/1"),
    });
    shown("hooked", hooks, 20)?;
    host.wait_ready_pod("hooked")?;
    let mut follow = host
        .kubectl(&["logs", "-f", "hooked"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("no output")?).lines();
    // Followed from here on: what the pod says at its end cannot be missed.
    ensure!(lines.any(|line| line.is_ok_and(|line| line == "after start")));
    host.k(&["delete", "pod", "hooked", "--timeout=60s"])?;
    let said = lines.collect::<Result<Vec<_>, _>>()?.join("\n");
    follow.wait()?;
    let (stop, end) = (said.find("before stop"), said.find("ended"));
    ensure!(stop.is_some() && stop < end, "{said}");

    shown("unhooked", json!({ "postStart": say("exit 3") }), 1)?;
    host.wait_pod("unhooked", "is restarted", |pod| {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        restarts.as_u64().is_some_and(|restarts| restarts > 0)
    })?;
    host.wait_event("unhooked", "FailedPostStartHook: PostStartHook failed")?;
    host.k(&["delete", "pod", "unhooked"])?;

    // A hook without end is cut off with the grace, and said to have failed.
    shown("stuck", json!({ "preStop": say("sleep 300") }), 1)?;
    host.wait_ready_pod("stuck")?;
    host.k(&["delete", "pod", "stuck", "--timeout=60s"])?;
    host.wait_event("stuck", "PreStopHook failed")
}

fn a_container_leaves_its_last_words() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "hooks/words:v1")?;
    let last = |name: &str, script: &str, own: Value| -> anyhow::Result<String> {
        host.apply(&script_pod(name, "hooks/words:v1", script, json!({}), own))?;
        let pod = host.wait_pod(name, "has ended", |pod| !ended(pod).is_null())?;
        host.k(&["delete", "pod", name])?;
        Ok(ended(&pod)["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    let said = last("words", "echo -n written > /dev/termination-log", json!({}))?;
    ensure!(said == "written", "{said}");
    let own = json!({
        "terminationMessagePath": "/tmp/words", "securityContext": { "runAsUser": 1000 },
    });
    let said = last("own-words", "echo -n elsewhere > /tmp/words; exit 1", own)?;
    ensure!(said == "elsewhere", "{said}");
    let or_log = || json!({ "terminationMessagePolicy": "FallbackToLogsOnError" });
    let said = last("log-words", "echo it broke; exit 1", or_log())?;
    ensure!(said == "it broke\n", "{said:?}");
    let said = last("no-words", "echo all is well", or_log())?;
    ensure!(said.is_empty(), "{said:?}");
    Ok(())
}

fn a_container_ends_on_the_signal_that_its_manifest_names() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "hooks/signal:v1")?;
    let script = "trap 'exit 7' USR1; trap 'exit 8' TERM; while true; do sleep 1 & wait $!; done";
    let spec = json!({ "os": { "name": "linux" }, "terminationGracePeriodSeconds": 20,
        "activeDeadlineSeconds": 2 });
    let own = json!({ "lifecycle": { "stopSignal": "SIGUSR1" } });
    host.apply(&script_pod("signal", "hooks/signal:v1", script, spec, own))?;
    let pod = host.wait_pod("signal", "has ended", |pod| !ended(pod).is_null())?;
    ensure!(ended(&pod)["exitCode"] == 7, "{pod}");
    ensure!(pod["status"]["reason"] == "DeadlineExceeded", "{pod}");
    host.k(&["delete", "pod", "signal"])?;
    Ok(())
}

fn probes_gate_readiness_and_restart_what_is_unhealthy() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "hooks/probed:v1")?;
    // Started after a file is there, healthy until it is gone, ready never.
    let script =
        "sleep 2; touch /tmp/well; sleep 4; busybox rm /tmp/well; while true; do sleep 1; done";
    let well = || json!({ "command": ["/bin/cat", "/tmp/well"] });
    let own = json!({
        "startupProbe": { "exec": well(), "periodSeconds": 1, "failureThreshold": 30 },
        "livenessProbe": {
            "exec": well(), "periodSeconds": 1, "failureThreshold": 2,
            "terminationGracePeriodSeconds": 1,
        },
        "readinessProbe": { "tcpSocket": { "port": 9 }, "periodSeconds": 1 },
    });
    let spec = json!({ "restartPolicy": "Always", "terminationGracePeriodSeconds": 300 });
    host.apply(&script_pod("probed", "hooks/probed:v1", script, spec, own))?;
    let state = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    let pod = host.wait_pod("probed", "has started", |pod| state(pod)["started"] == true)?;
    ensure!(!condition(&pod, "Ready"), "{pod}");
    // Its probe's grace counts, not the pod's five minutes.
    let pod = host.wait_pod("probed", "is restarted", |pod| {
        state(pod)["restartCount"] == 1
    })?;
    ensure!(
        state(&pod)["lastState"]["terminated"]["exitCode"] == 137,
        "{pod}"
    );
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    for said in [
        "Unhealthy: Startup probe failed: cat: can't open '/tmp/well': No such file or directory",
        "Unhealthy: Liveness probe failed: cat: can't open '/tmp/well': No such file or directory",
        "Killing: Container main failed liveness probe, will be restarted",
        &format!("Unhealthy: Readiness probe failed: dial tcp {ip}:9: connect: connection refused"),
    ] {
        host.wait_event("probed", said)?;
    }
    host.k(&["delete", "pod", "probed", "--force", "--grace-period=0"])?;
    Ok(())
}

fn grpc_and_https_probes_ask_as_the_kubelet_does() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "hooks/asked:v1")?;
    // Neither speaks what is asked for, so that what is said shows that it was asked for.
    let script = "while true; do echo garbage | nc -l -p 7000; done";
    let own = json!({
        "ports": [{ "name": "door", "containerPort": 7000 }],
        "readinessProbe": { "grpc": { "port": 7000 }, "periodSeconds": 1 },
        "livenessProbe": {
            "httpGet": { "port": "door", "scheme": "HTTPS" },
            "periodSeconds": 1, "failureThreshold": 100,
        },
    });
    host.apply(&script_pod(
        "asked",
        "hooks/asked:v1",
        script,
        json!({}),
        own,
    ))?;
    for said in [
        "Readiness probe failed: error: health rpc probe failed",
        "tls: ",
    ] {
        host.wait_event("asked", said)?;
    }
    host.k(&["delete", "pod", "asked"])?;
    Ok(())
}
