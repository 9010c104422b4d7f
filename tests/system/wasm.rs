//! Wasm pods: processes and web services.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    Case, case,
    host::{Host, shared},
    tools::{curl, eventually, guest},
};

pub const CASES: &[Case] = &[
    case!(
        a_rollout_under_load_loses_no_request,
        [Kubectl, Root, Guests]
    ),
    case!(
        a_process_gets_args_and_env_and_its_output_and_exit_code_are_kept,
        [Kubectl, Guests]
    ),
    case!(
        a_failing_process_is_restarted_with_back_off,
        [Kubectl, Guests]
    ),
    case!(a_web_service_answers_on_the_pod_port, [Kubectl, Guests]),
    case!(logs_follow_a_running_process, [Kubectl, Guests]),
    case!(a_deleted_pod_is_ended_and_gone, [Kubectl, Guests]),
    case!(a_trap_ends_its_own_pod_only, [Kubectl, Guests]),
    case!(
        a_loop_without_end_is_ended_when_the_pod_is_deleted,
        [Kubectl, Guests]
    ),
    case!(
        growing_past_the_memory_limit_is_oom_killed,
        [Kubectl, Guests]
    ),
];

/// Push the guest that does as it is told, under a name of the case's own.
pub fn push_unruly(host: &Host, image: &str) -> anyhow::Result<()> {
    host.push(image, &guest("unruly")?)?;
    Ok(())
}

/// A pod with one container.
pub fn pod(name: &str, image: &str, arguments: &[&str], more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {image}\n    args: {}\n{more}",
        serde_json::json!(arguments),
    )
}

fn ended(pod: &serde_json::Value) -> &serde_json::Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

fn a_process_gets_args_and_env_and_its_output_and_exit_code_are_kept() -> anyhow::Result<()> {
    let host = shared()?;
    push_unruly(host, "wasm/process:v1")?;
    host.k(&[
        "create",
        "configmap",
        "process",
        "--from-literal=colour=blue",
    ])?;
    host.k(&[
        "create",
        "secret",
        "generic",
        "process",
        "--from-literal=word=swordfish",
    ])?;
    let env = "    env:
    - {name: PLAIN, value: literal}
    - {name: EXPANDED, value: 'is $(PLAIN)'}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: process, key: colour}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: process, key: word}}}
";
    let steps = [
        "say",
        "two words",
        "env",
        "PLAIN,EXPANDED,POD,COLOUR,WORD",
        "complain",
        "to stderr",
        "exit",
        "7",
    ];
    host.apply(&pod("process", "wasm/process:v1", &steps, env))?;
    let ended_pod = host.wait_pod("process", "has ended", |p| !ended(p).is_null())?;
    ensure!(ended(&ended_pod)["exitCode"] == 1, "{ended_pod}");
    ensure!(ended(&ended_pod)["reason"] == "Error", "{ended_pod}");
    ensure!(ended_pod["status"]["phase"] == "Failed", "{ended_pod}");
    let logs = host.k(&["logs", "process"])?;
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    let mut expected = [
        "two words",
        "PLAIN=literal",
        "EXPANDED=is literal",
        "POD=process",
        "COLOUR=blue",
        "WORD=swordfish",
        "to stderr",
    ];
    expected.sort_unstable();
    ensure!(lines == expected, "{logs}");
    ensure!(host.k(&["logs", "process", "--tail=1"])?.lines().count() == 1);
    let table = host.k(&["get", "pod", "process"])?;
    ensure!(table.contains("Error"), "{table}");
    Ok(())
}

fn a_failing_process_is_restarted_with_back_off() -> anyhow::Result<()> {
    let host = shared()?;
    push_unruly(host, "wasm/failing:v1")?;
    let manifest = pod(
        "failing",
        "wasm/failing:v1",
        &["say", "again", "exit", "1"],
        "",
    );
    host.apply(&manifest.replace("restartPolicy: Never", "restartPolicy: Always"))?;
    let state = host.wait_pod("failing", "is backing off", |p| {
        let status = &p["status"]["containerStatuses"][0];
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && status["restartCount"].as_i64() >= Some(1)
    })?;
    let status = &state["status"]["containerStatuses"][0];
    ensure!(
        status["lastState"]["terminated"]["exitCode"] == 1,
        "{status}"
    );
    let message = status["state"]["waiting"]["message"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        message.starts_with("back-off 10s restarting failed container=main"),
        "{message}"
    );
    ensure!(
        host.k(&["logs", "failing", "--previous"])?
            .contains("again")
    );
    let table = host.k(&["get", "pod", "failing"])?;
    ensure!(table.contains("CrashLoopBackOff"), "{table}");
    host.k(&["delete", "pod", "failing"])?;
    Ok(())
}

fn a_web_service_answers_on_the_pod_port() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("wasm/web:v1", &guest("hello_web")?)?;
    host.k(&["run", "web", "--image=wasm/web:v1", "--port=8081"])?;
    let pod = host.wait_ready_pod("web")?;
    let ip = pod["status"]["podIP"].as_str().context("no podIP")?;
    let (status, body) = curl(&[&format!("http://{ip}:8081/")])?;
    ensure!(status == 200 && body.contains("Hello"), "{status} {body}");
    let id = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap_or_default();
    ensure!(id.starts_with("wasm://"), "{pod}");
    host.k(&["delete", "pod", "web"])?;
    eventually("the port is closed", Duration::from_secs(10), || {
        Ok(std::net::TcpStream::connect((ip, 8081))
            .is_err()
            .then_some(()))
    })
}

fn logs_follow_a_running_process() -> anyhow::Result<()> {
    let host = shared()?;
    push_unruly(host, "wasm/talking:v1")?;
    let steps = [
        "say", "first", "wait", "700", "say", "second", "wait", "700", "say", "third",
    ];
    host.apply(&pod("talking", "wasm/talking:v1", &steps, ""))?;
    host.wait_pod("talking", "has started", |p| {
        p["status"]["phase"] != "Pending"
    })?;
    let mut child = host
        .kubectl(&["logs", "-f", "talking"])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("no output")?;
    // `logs -f` ends by itself when the container has ended.
    let lines: Vec<String> = BufReader::new(out).lines().map_while(Result::ok).collect();
    child.wait()?;
    ensure!(lines == ["first", "second", "third"], "{lines:?}");
    host.wait_pod("talking", "has succeeded", |p| {
        p["status"]["phase"] == "Succeeded"
    })?;
    Ok(())
}

fn a_deleted_pod_is_ended_and_gone() -> anyhow::Result<()> {
    let host = shared()?;
    push_unruly(host, "wasm/deleted:v1")?;
    host.apply(&pod("deleted", "wasm/deleted:v1", &["wait", "3600000"], ""))?;
    host.wait_ready_pod("deleted")?;
    host.k(&["delete", "pod", "deleted", "--timeout=30s"])?;
    let said = host.k_fails(&["get", "pod", "deleted"])?;
    ensure!(said.contains("NotFound"), "{said}");
    Ok(())
}

fn a_trap_ends_its_own_pod_only() -> anyhow::Result<()> {
    let host = shared()?;
    push_unruly(host, "wasm/trap:v1")?;
    host.apply(&pod("bystander", "wasm/trap:v1", &["wait", "3600000"], ""))?;
    host.wait_ready_pod("bystander")?;
    host.apply(&pod("trap", "wasm/trap:v1", &["trap"], ""))?;
    let pod = host.wait_pod("trap", "has ended", |p| !ended(p).is_null())?;
    ensure!(ended(&pod)["exitCode"] == 134, "{pod}");
    let message = ended(&pod)["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("unreachable"),
        "the trap is not named: {pod}"
    );
    let other = host.get("pod bystander")?;
    ensure!(other["status"]["phase"] == "Running", "{other}");
    ensure!(
        other["status"]["containerStatuses"][0]["restartCount"] == 0,
        "{other}"
    );
    host.k(&["delete", "pod", "bystander", "trap"])?;
    Ok(())
}

fn a_loop_without_end_is_ended_when_the_pod_is_deleted() -> anyhow::Result<()> {
    let host = shared()?;
    push_unruly(host, "wasm/spin:v1")?;
    host.apply(&pod("spin", "wasm/spin:v1", &["spin"], ""))?;
    host.wait_pod("spin", "runs", |p| p["status"]["phase"] == "Running")?;
    // Others go on while it spins.
    host.apply(&pod(
        "beside-spin",
        "wasm/spin:v1",
        &["say", "still here"],
        "",
    ))?;
    host.wait_pod("beside-spin", "has succeeded", |p| {
        p["status"]["phase"] == "Succeeded"
    })?;
    host.k(&["delete", "pod", "spin", "--timeout=30s"])?;
    host.k_fails(&["get", "pod", "spin"])?;
    Ok(())
}

fn growing_past_the_memory_limit_is_oom_killed() -> anyhow::Result<()> {
    let host = shared()?;
    push_unruly(host, "wasm/grow:v1")?;
    let limit = "    resources: {limits: {memory: 32Mi}}\n";
    host.apply(&pod("grow", "wasm/grow:v1", &["grow"], limit))?;
    let pod = host.wait_pod("grow", "has ended", |p| !ended(p).is_null())?;
    ensure!(
        ended(&pod)["reason"] == "OOMKilled" && ended(&pod)["exitCode"] == 137,
        "{pod}"
    );
    Ok(())
}

/// Somebody asks all the time, through the Service and on a connection of its own each time, while
/// every pod is replaced.
fn a_rollout_under_load_loses_no_request() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("wasm/rolled:v1", &guest("hello_web")?)?;
    host.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: rolled}\nspec:\n  replicas: 3\n  \
         selector: {matchLabels: {app: rolled}}\n  template:\n    metadata: {labels: {app: rolled}}\n    spec:\n      \
         containers:\n      - name: web\n        image: wasm/rolled:v1\n        ports: [{containerPort: 8080}]\n",
    )?;
    host.k(&["rollout", "status", "deployment/rolled", "--timeout=60s"])?;
    host.k(&[
        "expose",
        "deployment",
        "rolled",
        "--port=80",
        "--target-port=8080",
    ])?;
    let service = host.get("service rolled")?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .context("no address")?;
    let url = format!("http://{address}/");
    eventually("the Service answers", Duration::from_secs(20), || {
        Ok((curl(&[&url])?.0 == 200).then_some(()))
    })?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (asked, lost) = std::thread::scope(|scope| -> anyhow::Result<_> {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut asked, mut lost) = (0, Vec::new());
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        asked += 1;
                        match curl(&[&url]) {
                            Ok((200, _)) => {}
                            other => lost.push(format!("{other:?}")),
                        }
                    }
                    (asked, lost)
                })
            })
            .collect();
        let rolled = (0..2).try_for_each(|_| {
            host.k(&["rollout", "restart", "deployment/rolled"])?;
            host.k(&["rollout", "status", "deployment/rolled", "--timeout=90s"])?;
            // Until the last of the old has gone.
            eventually("only new pods are left", Duration::from_secs(60), || {
                let pods = host.get("pods -l app=rolled")?;
                Ok((pods["items"].as_array().map(Vec::len) == Some(3)).then_some(()))
            })
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut sum = (0, Vec::new());
        for client in clients {
            let (asked, lost) = client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))?;
            sum.0 += asked;
            sum.1.extend(lost);
        }
        rolled?;
        Ok(sum)
    })?;
    eprintln!("rollout under load: {asked} requests, {} lost", lost.len());
    ensure!(
        asked > 50 && lost.is_empty(),
        "{} of {asked} lost: {:?}",
        lost.len(),
        lost.first()
    );
    host.k(&["delete", "deployment,service", "rolled"])?;
    Ok(())
}
