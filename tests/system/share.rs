//! What the containers of a pod share, and images that its volumes show.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    Case, case,
    container::push_busybox,
    host::{Host, condition, shared},
    security::said,
    tools::eventually,
};

pub const CASES: &[Case] = &[
    case!(
        containers_share_their_processes_where_the_pod_says_so,
        [Kubectl, Root, Busybox]
    ),
    case!(
        what_was_left_in_shared_memory_outlives_the_container,
        [Kubectl, Root, Busybox]
    ),
    case!(a_volume_shows_an_image, [Kubectl, Root, Busybox]),
    case!(
        a_pod_that_the_node_cannot_take_is_rejected_or_waits,
        [Kubectl, Root, Busybox]
    ),
];

fn containers_share_their_processes_where_the_pod_says_so() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "share/processes:v1")?;
    let container = |name: &str, script: &str| {
        json!({
            "name": name, "image": "share/processes:v1",
            "command": ["/bin/sh", "-c", script],
        })
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "crowd" },
        "spec": {
            "shareProcessNamespace": true, "terminationGracePeriodSeconds": 1,
            "containers": [
                // A child of its own, which its end must not leave behind.
                container("first", "sleep 7771 & sleep 7772"),
                container("second", "while true; do sleep 1; done"),
            ],
        },
    });
    host.apply(&pod.to_string())?;
    host.wait_ready_pod("crowd")?;
    let processes = || {
        host.k(&[
            "exec", "crowd", "-c", "second", "--", "ps", "-o", "pid,args",
        ])
    };
    let seen = processes()?;
    for process in ["sleep 7771", "sleep 7772", "while true"] {
        ensure!(seen.contains(process), "no {process:?} in {seen}");
    }
    let first = seen
        .lines()
        .find(|line| line.trim_start().starts_with("1 "));
    ensure!(first.is_some_and(|line| line.contains("pause")), "{seen}");
    // Nothing of the machine is found by it.
    let look = "ls /proc/1/root/ /proc/1/fd/ 2>&1; cat /proc/1/cmdline";
    let found = host.k(&["exec", "crowd", "-c", "second", "--", "/bin/sh", "-c", look])?;
    ensure!(
        !found.contains("etc") && !found.contains("launcher"),
        "{found}"
    );
    // Ended by its neighbour, with what it had started, and started again in the same place.
    let victim = seen
        .lines()
        .find(|line| line.contains("sleep 7772") && !line.contains("7771"))
        .and_then(|line| line.split_whitespace().next().map(str::to_owned));
    let Some(victim) = victim else {
        anyhow::bail!("no victim in {seen}");
    };
    host.k(&["exec", "crowd", "-c", "second", "--", "kill", "-9", &victim])?;
    let again = host.wait_pod("crowd", "has started the first again", |pod| {
        let all = pod["status"]["containerStatuses"].as_array();
        let mut all = all.into_iter().flatten();
        all.any(|one| one["name"] == "first" && one["restartCount"] == 1 && one["ready"] == true)
    })?;
    ensure!(condition(&again, "Ready"), "{again}");
    let seen = processes()?;
    let children = seen
        .lines()
        .filter(|line| line.ends_with("sleep 7771"))
        .count();
    ensure!(children == 1, "one was left behind: {seen}");
    host.k(&["delete", "pod", "crowd", "--now"])?;
    Ok(())
}

fn what_was_left_in_shared_memory_outlives_the_container() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "share/memory:v1")?;
    let script = "echo x >> /dev/shm/starts; \
                  [ $(busybox wc -l < /dev/shm/starts) -ge 2 ] && exec sleep 10000; exit 1";
    let spec = json!({ "restartPolicy": "Always" });
    let pod = crate::security::script_pod("reborn", "share/memory:v1", script, spec, json!({}));
    host.apply(&pod)?;
    host.wait_pod("reborn", "goes on after its second start", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["ready"] == true
    })?;
    host.k(&["delete", "pod", "reborn", "--now"])?;
    Ok(())
}

fn a_volume_shows_an_image() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "share/shown:v1")?;
    let spec = json!({ "volumes": [
        { "name": "files", "image": { "reference": "share/shown:v1", "pullPolicy": "IfNotPresent" } },
    ]});
    let mounts =
        json!({ "volumeMounts": [{ "name": "files", "mountPath": "/shown", "readOnly": true }] });
    let script = "ls /shown/bin/busybox; busybox touch /shown/x 2>&1; /shown/bin/busybox true 2>&1; echo end";
    let said = said(host, "shown", script, spec, mounts)?;
    ensure!(said.contains("/shown/bin/busybox\n"), "{said}");
    ensure!(said.contains("Read-only file system"), "{said}");
    ensure!(said.contains("Permission denied"), "{said}");
    let missing = json!({ "volumes": [
        { "name": "files", "image": { "reference": "share/none:v1", "pullPolicy": "Never" } },
    ]});
    let mounts = json!({ "volumeMounts": [{ "name": "files", "mountPath": "/shown" }] });
    let pod = crate::security::script_pod("unshown", "share/shown:v1", "true", missing, mounts);
    host.apply(&pod)?;
    host.wait_pod("unshown", "says which image is missing", |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "ErrImageNeverPull"
    })?;
    host.k(&["delete", "pod", "unshown", "--now"])?;
    Ok(())
}

fn refused(host: &Host, name: &str, context: &Value) -> anyhow::Result<Value> {
    let spec = json!({ "securityContext": context });
    let pod = crate::security::script_pod(name, "share/refused:v1", "true", spec, json!({}));
    host.apply(&pod)?;
    host.wait_pod(name, "is refused", |pod| !pod["status"]["reason"].is_null())
}

fn a_pod_that_the_node_cannot_take_is_rejected_or_waits() -> anyhow::Result<()> {
    let host = shared()?;
    let sysctls = json!({ "sysctls": [{ "name": "kernel.panic", "value": "1" }] });
    let pod = refused(host, "panics", &sysctls)?;
    ensure!(pod["status"]["phase"] == "Failed", "{pod}");
    ensure!(pod["status"]["reason"] == "SysctlForbidden", "{pod}");
    let profile = json!({ "appArmorProfile": { "type": "RuntimeDefault" } });
    let pod = refused(host, "armoured", &profile)?;
    ensure!(pod["status"]["phase"] == "Pending", "{pod}");
    ensure!(pod["status"]["reason"] == "AppArmor", "{pod}");
    eventually("both are told", Duration::from_secs(60), || {
        let events = host.k(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
        let both = ["SysctlForbidden", "AppArmor"];
        Ok(both.iter().all(|one| events.contains(one)).then_some(()))
    })?;
    host.k(&["delete", "pod", "panics", "armoured", "--now"])?;
    Ok(())
}
