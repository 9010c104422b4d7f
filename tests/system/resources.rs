//! What the kernel is told of a pod's requests and limits, and containers that are added to a pod.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    container::push_busybox,
    host::{Host, shared},
    security::script_pod,
    tools::{eventually, succeed},
};

pub const CASES: &[Case] = &[
    case!(
        the_kernel_is_told_what_a_pod_may_have,
        [Kubectl, Root, Busybox]
    ),
    case!(a_pod_is_resized_while_it_runs, [Kubectl, Root, Busybox]),
    case!(
        a_debug_container_sees_the_processes_of_its_target,
        [Kubectl, Root, Busybox]
    ),
    case!(
        pods_over_their_local_storage_are_evicted,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_node_without_memory_says_so_and_ends_who_takes_most,
        [Kubectl, Root, Busybox]
    ),
];

/// Directories of a pod's control group, one for each hierarchy that has it.
fn groups(uid: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")? {
        let below = hierarchy?.path().join("eyot");
        for host in std::fs::read_dir(below).into_iter().flatten() {
            let host = host?.path();
            let holders = [
                host.clone(),
                host.join("burstable"),
                host.join("besteffort"),
            ];
            let pods = holders.map(|holder| holder.join(uid));
            found.extend(pods.into_iter().filter(|group| group.is_dir()));
        }
    }
    Ok(found)
}

/// The value of a file in a pod's control group, whichever hierarchy has it.
fn group_value(groups: &[PathBuf], file: &str) -> Option<String> {
    let read = |group: &PathBuf| std::fs::read_to_string(group.join(file)).ok();
    groups
        .iter()
        .find_map(read)
        .map(|text| text.trim().to_owned())
}

fn uid(pod: &Value) -> anyhow::Result<&str> {
    pod["metadata"]["uid"].as_str().context("no uid")
}

fn the_kernel_is_told_what_a_pod_may_have() -> anyhow::Result<()> {
    let host = Host::start_with(&["--pod-pids-limit=77"])?;
    push_busybox(&host, "resources/told:v1")?;
    let own = json!({ "resources": {
        "requests": { "cpu": "250m", "memory": "32Mi" },
        "limits": { "cpu": "500m", "memory": "64Mi" },
    }});
    let script = "cat /proc/self/oom_score_adj; while true; do sleep 1; done";
    host.apply(&script_pod(
        "told",
        "resources/told:v1",
        script,
        json!({}),
        own,
    ))?;
    let pod = host.wait_ready_pod("told")?;
    ensure!(pod["status"]["qosClass"] == "Burstable", "{pod}");
    let groups = groups(uid(&pod)?)?;
    ensure!(!groups.is_empty(), "the pod has no control group");
    // The unified hierarchy of this name is not there on every machine.
    if let Some(shares) = group_value(&groups, "cpu.shares") {
        ensure!(shares == "256", "{shares}");
        // That of its service class, which is all that this host's pods ask for.
        let class: Vec<_> = groups.iter().filter_map(|g| g.parent()).collect();
        let class = class
            .iter()
            .map(|group| group.to_path_buf())
            .collect::<Vec<_>>();
        let shares = group_value(&class, "cpu.shares");
        ensure!(shares.as_deref() == Some("256"), "{shares:?}");
        ensure!(
            class.iter().all(|group| group.ends_with("burstable")),
            "{class:?}"
        );
        let quota = group_value(&groups, "cpu.cfs_quota_us");
        ensure!(quota.as_deref() == Some("50000"), "{quota:?}");
        let memory = group_value(&groups, "memory.limit_in_bytes");
        ensure!(memory.as_deref() == Some("67108864"), "{memory:?}");
    } else {
        let memory = group_value(&groups, "memory.max");
        ensure!(memory.as_deref() == Some("67108864"), "{memory:?}");
    }
    let pids = group_value(&groups, "pids.max");
    ensure!(pids.as_deref() == Some("77"), "{pids:?}");
    let score: i32 = host.k(&["logs", "told"])?.trim().parse()?;
    ensure!((950..1000).contains(&score), "{score}");
    host.k(&["delete", "pod", "told"])?;
    eventually("the groups are gone", Duration::from_secs(20), || {
        Ok(self::groups(uid(&pod)?)?.is_empty().then_some(()))
    })
}

fn a_pod_is_resized_while_it_runs() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "resources/sized:v1")?;
    let own = json!({
        "resources": {
            "requests": { "cpu": "100m", "memory": "32Mi" },
            "limits": { "cpu": "200m", "memory": "64Mi" },
        },
        "resizePolicy": [
            { "resourceName": "cpu", "restartPolicy": "NotRequired" },
            { "resourceName": "memory", "restartPolicy": "RestartContainer" },
        ],
    });
    let script = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
    host.apply(&script_pod(
        "sized",
        "resources/sized:v1",
        script,
        json!({ "restartPolicy": "Always" }),
        own,
    ))?;
    let pod = host.wait_ready_pod("sized")?;
    let groups = groups(uid(&pod)?)?;
    let resize = |resources: Value| {
        let name = &pod["spec"]["containers"][0]["name"];
        let patch = json!({ "spec": { "containers": [{ "name": name, "resources": resources }] } });
        host.k(&[
            "patch",
            "pod",
            "sized",
            "--subresource=resize",
            "-p",
            &patch.to_string(),
        ])
    };
    let quota = |groups: &[PathBuf]| {
        group_value(groups, "cpu.cfs_quota_us").or_else(|| group_value(groups, "cpu.max"))
    };
    let has = |pod: &Value, kind: &str, what: &str| {
        pod["status"]["containerStatuses"][0]["resources"][kind][what].clone()
    };
    resize(json!({ "requests": { "cpu": "150m" }, "limits": { "cpu": "300m" } }))?;
    let grown = host.wait_pod("sized", "has more processor", |pod| {
        has(pod, "limits", "cpu") == "300m"
    })?;
    let status = &grown["status"]["containerStatuses"][0];
    ensure!(status["restartCount"] == 0, "{grown}");
    ensure!(status["allocatedResources"]["cpu"] == "150m", "{grown}");
    let inner = inner(&groups)?;
    for groups in [&groups, &inner] {
        let quota = quota(groups).unwrap_or_default();
        ensure!(quota.starts_with("30000"), "{quota} in {groups:?}");
    }
    resize(json!({ "requests": { "memory": "40Mi" }, "limits": { "memory": "80Mi" } }))?;
    let again = host.wait_pod("sized", "was started again with more memory", |pod| {
        has(pod, "limits", "memory") == "80Mi" && crate::host::condition(pod, "Ready")
    })?;
    ensure!(
        again["status"]["containerStatuses"][0]["restartCount"] == 1,
        "{again}"
    );
    let too_much =
        resize(json!({ "requests": { "memory": "64Ti" }, "limits": { "memory": "64Ti" } }));
    if too_much.is_ok() {
        host.wait_pod("sized", "cannot have that", |pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|condition| {
                condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible"
            })
        })?;
    }
    eventually("what happened is told", Duration::from_secs(60), || {
        let events = host.k(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
        let told = ["ResizeStarted", "ResizeCompleted"];
        Ok(told.iter().all(|one| events.contains(one)).then_some(()))
    })?;
    host.k(&["delete", "pod", "sized", "--now"])?;
    Ok(())
}

/// The control groups of the one container of a pod.
fn inner(groups: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for group in groups {
        for entry in std::fs::read_dir(group)? {
            let path = entry?.path();
            found.extend(path.is_dir().then_some(path));
        }
    }
    Ok(found)
}

fn a_debug_container_sees_the_processes_of_its_target() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "resources/main:v1")?;
    push_busybox(host, "resources/debug:v1")?;
    let script = "busybox httpd -f -p 9999";
    host.apply(&script_pod(
        "looked-at",
        "resources/main:v1",
        script,
        json!({}),
        json!({}),
    ))?;
    host.wait_ready_pod("looked-at")?;
    let debug = |name: &str, more: &[&str], script: &str| {
        let mut arguments = vec![
            "debug",
            "looked-at",
            "--image=resources/debug:v1",
            "-c",
            name,
        ];
        arguments.extend(more);
        arguments.extend(["--", "/bin/sh", "-c", script]);
        succeed(&mut host.kubectl(&arguments))?;
        let all = |pod: &Value| pod["status"]["ephemeralContainerStatuses"].clone();
        let of = |pod: &Value| {
            let all = all(pod);
            let mut all = all.as_array().into_iter().flatten();
            all.find(|status| status["name"] == name)
                .cloned()
                .unwrap_or_default()
        };
        let pod = host.wait_pod("looked-at", "was looked at", |pod| {
            !of(pod)["state"]["terminated"].is_null()
        })?;
        let code = &of(&pod)["state"]["terminated"]["exitCode"];
        ensure!(*code == 0, "{pod}");
        ensure!(crate::host::condition(&pod, "Ready"), "{pod}");
        host.k(&["logs", "looked-at", "-c", name])
    };
    let look = "cat /proc/1/cmdline | tr '\\0' ' '; echo; hostname";
    let look = look.replace("tr ", "busybox tr ");
    let seen = debug("joined", &["--target=main"], &look)?;
    ensure!(seen.contains("httpd -f -p 9999"), "{seen}");
    ensure!(seen.contains("looked-at"), "{seen}");
    // Without a target it shares the pod's network only.
    let seen = debug(
        "apart",
        &[],
        &format!("{look}; nc 127.0.0.1 9999 < /dev/null && echo reached"),
    )?;
    ensure!(
        !seen.contains("httpd") && seen.contains("reached"),
        "{seen}"
    );
    host.k(&["delete", "pod", "looked-at"])?;
    Ok(())
}

fn evicted(host: &Host, name: &str) -> anyhow::Result<Value> {
    let pod = host.wait_pod(name, "is evicted", |pod| {
        pod["status"]["phase"] == "Failed" && pod["status"]["reason"] == "Evicted"
    })?;
    ensure!(crate::host::condition(&pod, "DisruptionTarget"), "{pod}");
    Ok(pod)
}

fn pods_over_their_local_storage_are_evicted() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "resources/full:v1")?;
    let fill = |path: &str| {
        format!("dd if=/dev/zero of={path} bs=1M count=8; while true; do sleep 1; done")
    };
    let spec = json!({ "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": "4Mi" } }] });
    let own = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }] });
    host.apply(&script_pod(
        "full-volume",
        "resources/full:v1",
        &fill("/v/x"),
        spec,
        own,
    ))?;
    let own = json!({ "resources": { "limits": { "ephemeral-storage": "4Mi" } } });
    host.apply(&script_pod(
        "full-root",
        "resources/full:v1",
        &fill("/x"),
        json!({}),
        own,
    ))?;
    let pod = evicted(host, "full-volume")?;
    let said = "Usage of EmptyDir volume \"v\" exceeds the limit \"4Mi\". ";
    ensure!(pod["status"]["message"] == said, "{pod}");
    let pod = evicted(host, "full-root")?;
    let said = "Container main exceeded its local ephemeral storage limit \"4Mi\". ";
    ensure!(pod["status"]["message"] == said, "{pod}");
    host.wait_event("full-root", "Evicted: ")?;
    host.k(&["delete", "pod", "full-volume", "full-root"])?;
    Ok(())
}

fn a_node_without_memory_says_so_and_ends_who_takes_most() -> anyhow::Result<()> {
    // More than any machine has: always short.
    let mut host = Host::start_with(&["--eviction-hard=memory.available<100%"])?;
    push_busybox(&host, "resources/short:v1")?;
    eventually("the node says so", Duration::from_secs(40), || {
        let node = host.get("node island")?;
        Ok(crate::host::condition(&node, "MemoryPressure").then_some(()))
    })?;
    let tolerant = json!({ "tolerations": [{ "operator": "Exists" }] });
    let wait = "while true; do sleep 1; done";
    host.apply(&script_pod(
        "short",
        "resources/short:v1",
        wait,
        tolerant,
        json!({}),
    ))?;
    let pod = evicted(&host, "short")?;
    let message = pod["status"]["message"].as_str().unwrap_or_default();
    ensure!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: ")
            && message.contains("Container main was using ")
            && message.contains(", request is 0, has larger consumption of memory. "),
        "{message}"
    );
    host.terminate()?;
    Ok(())
}
