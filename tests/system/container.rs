//! OCI containers beside Wasm.

use std::{
    io::{BufRead, BufReader},
    process::Command,
};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    host::{Host, shared},
    tools::{repository, succeed},
    wasm::pod,
};

pub const CASES: &[Case] = &[
    case!(
        a_container_is_isolated_and_its_output_and_exit_code_are_kept,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_container_runs_the_image_command_and_ends_on_sigterm,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_container_past_its_memory_limit_is_oom_killed,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_container_cannot_fork_without_end,
        [Kubectl, Root, Busybox]
    ),
    case!(
        containers_reach_wasm_services_by_pod_address,
        [Kubectl, Root, Busybox, Guests]
    ),
    case!(a_missing_program_is_named, [Kubectl, Root, Busybox]),
    case!(
        a_deadline_that_is_set_later_ends_the_pod,
        [Kubectl, Root, Busybox]
    ),
];

/// Make the busybox image as the demo does, and push it under a name of the case's own.
pub fn push_busybox(host: &Host, image: &str) -> anyhow::Result<()> {
    let layout = host
        .dir
        .join(format!("layout-{}", image.replace(['/', ':'], "-")));
    succeed(Command::new(repository().join("scripts/container-image.sh")).arg(&layout))?;
    host.push(image, &layout)?;
    Ok(())
}

/// A pod whose container runs a shell script.
fn script(name: &str, image: &str, script: &str, more: &str) -> String {
    pod(name, image, &["/bin/sh", "-c", script], more)
}

/// How the first container ended; null if it did not.
pub fn ended(pod: &serde_json::Value) -> &serde_json::Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

fn a_container_is_isolated_and_its_output_and_exit_code_are_kept() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "container/isolated:v1")?;
    let what = "echo pid $$$$; echo name $(hostname); echo env $WORD; \
                echo complaint >&2; touch /written && echo written; exit 5";
    host.apply(&script(
        "isolated",
        "container/isolated:v1",
        what,
        "    env: [{name: WORD, value: inside}]\n",
    ))?;
    let pod = host.wait_pod("isolated", "has ended", |p| !ended(p).is_null())?;
    ensure!(ended(&pod)["exitCode"] == 5, "{pod}");
    let logs = host.k(&["logs", "isolated"])?;
    for line in ["pid 1", "name isolated", "env inside", "complaint"] {
        ensure!(logs.lines().any(|l| l == line), "no {line:?} in {logs}");
    }
    let id = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap_or_default();
    ensure!(id.starts_with("libcontainer://"), "{pod}");
    ensure!(!std::path::Path::new("/written").exists());
    host.k(&["delete", "pod", "isolated"])?;
    Ok(())
}

fn a_container_runs_the_image_command_and_ends_on_sigterm() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "container/polite:v1")?;
    host.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: polite}\nspec:\n  terminationGracePeriodSeconds: 20\n  \
         containers:\n  - name: main\n    image: container/polite:v1\n    env: [{name: GREETING, value: hi}]\n",
    )?;
    host.wait_ready_pod("polite")?;
    let mut follow = host
        .kubectl(&["logs", "-f", "polite"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("no output")?).lines();
    // The log is being followed before the pod is deleted.
    let first = lines.next().context("no log")??;
    ensure!(
        first.contains("hello from a container") && first.ends_with(" hi"),
        "{first}"
    );
    host.k(&["delete", "pod", "polite", "--timeout=15s"])
        .context("it did not end on SIGTERM")?;
    let said: Vec<String> = lines.map_while(Result::ok).collect();
    follow.wait()?;
    ensure!(said.iter().any(|line| line == "goodbye"), "{said:?}");
    Ok(())
}

fn a_container_past_its_memory_limit_is_oom_killed() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "container/hungry:v1")?;
    let eat = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let limit = "    resources: {limits: {memory: 32Mi}}\n";
    host.apply(&script(
        "hungry",
        "container/hungry:v1",
        &format!("exec {eat}"),
        limit,
    ))?;
    let pod = host.wait_pod("hungry", "has ended", |p| !ended(p).is_null())?;
    ensure!(
        ended(&pod)["reason"] == "OOMKilled" && ended(&pod)["exitCode"] == 137,
        "{pod}"
    );
    Ok(())
}

fn a_container_cannot_fork_without_end() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "container/forks:v1")?;
    // Far more than the limit; the shell ends with an error when it cannot fork.
    let what = "i=0; while [ $i -lt 100000 ]; do sleep 60 & i=$((i+1)); done; echo all started";
    host.apply(&script("forks", "container/forks:v1", what, ""))?;
    let pod = host.wait_pod("forks", "has ended", |p| !ended(p).is_null())?;
    ensure!(ended(&pod)["exitCode"] != 0, "{pod}");
    ensure!(!host.k(&["logs", "forks"])?.contains("all started"));
    host.k(&["delete", "pod", "forks"])?;
    Ok(())
}

fn containers_reach_wasm_services_by_pod_address() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "container/client:v1")?;
    host.push("container/web:v1", &crate::tools::guest("hello_web")?)?;
    host.k(&["run", "reached", "--image=container/web:v1", "--port=8080"])?;
    let server = host.wait_ready_pod("reached")?;
    let ip = server["status"]["podIP"].as_str().context("no podIP")?;
    let ask = format!("printf 'GET / HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n' | nc -w 30 {ip} 8080");
    host.apply(&script("client", "container/client:v1", &ask, ""))?;
    host.wait_pod("client", "has ended", |p| !ended(p).is_null())?;
    let logs = host.k(&["logs", "client"])?;
    ensure!(logs.contains("200 OK") && logs.contains("Hello"), "{logs}");
    host.k(&["delete", "pod", "client", "reached"])?;
    Ok(())
}

fn a_missing_program_is_named() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "container/missing:v1")?;
    host.apply(&pod(
        "missing",
        "container/missing:v1",
        &["/bin/no-such-program"],
        "",
    ))?;
    // The pod is never started again, so this is how it ends.
    let pod = host.wait_pod("missing", "says what is wrong", |p| {
        ended(p)["reason"] == "StartError" && ended(p)["exitCode"] == 128
    })?;
    let end = ended(&pod).to_string();
    ensure!(end.contains("no-such-program"), "{pod}");
    ensure!(end.contains("1970-01-01T00:00:00Z"), "{pod}");
    ensure!(pod["status"]["phase"] == "Failed", "{pod}");
    host.k(&["delete", "pod", "missing"])?;
    Ok(())
}

fn a_deadline_that_is_set_later_ends_the_pod() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "container/limited:v1")?;
    host.apply(&script("limited", "container/limited:v1", "sleep 600", ""))?;
    host.wait_ready_pod("limited")?;
    let limit = |seconds: &str| format!("{{\"spec\": {{\"activeDeadlineSeconds\": {seconds}}}}}");
    host.k(&["patch", "pod", "limited", "-p", &limit("600")])?;
    host.k(&["patch", "pod", "limited", "-p", &limit("3")])?;
    let pod = host.wait_pod("limited", "has failed", |p| {
        p["status"]["phase"] == "Failed"
    })?;
    ensure!(pod["status"]["reason"] == "DeadlineExceeded", "{pod}");
    host.k(&["delete", "pod", "limited"])?;
    Ok(())
}
