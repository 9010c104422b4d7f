//! What a pod's `securityContext` does to real processes.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    container::{ended, push_busybox},
    host::{Host, shared},
    tools::has_lines,
};

pub const CASES: &[Case] = &[
    case!(
        a_pod_says_who_its_program_is_and_whose_its_volumes_are,
        [Kubectl, Root, Busybox]
    ),
    case!(
        capabilities_privileges_and_filters_are_as_the_container_says,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_program_that_would_be_root_is_refused_in_the_kubelets_words,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_seccomp_profile_of_the_host_is_applied,
        [Kubectl, Root, Busybox]
    ),
    case!(
        kernel_parameters_are_set_in_the_pods_own_namespaces,
        [Kubectl, Root, Busybox]
    ),
    case!(
        privilege_needs_the_hosts_permission,
        [Kubectl, Root, Busybox]
    ),
];

/// A pod that runs a script, with these fields in its specification and in its container.
pub fn script_pod(name: &str, image: &str, script: &str, spec: Value, container: Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main",
                "image": image,
                "command": ["/bin/sh", "-c", script],
            }],
        },
    });
    let merge = |into: &mut Value, from: Value| {
        for (field, value) in from.as_object().into_iter().flatten() {
            into[field] = value.clone();
        }
    };
    merge(&mut pod["spec"], spec);
    merge(&mut pod["spec"]["containers"][0], container);
    pod.to_string()
}

/// What a script prints that runs to its end in such a pod.
pub fn said(
    host: &Host,
    name: &str,
    script: &str,
    spec: Value,
    container: Value,
) -> anyhow::Result<String> {
    let image = format!("security/{name}:v1");
    push_busybox(host, &image)?;
    host.apply(&script_pod(name, &image, script, spec, container))?;
    host.wait_pod(name, "has ended", |pod| !ended(pod).is_null())?;
    let said = host.k(&["logs", name])?;
    host.k(&["delete", "pod", name])?;
    Ok(said)
}

fn a_pod_says_who_its_program_is_and_whose_its_volumes_are() -> anyhow::Result<()> {
    let script = "echo user $(id -u) group $(id -g) all $(id -G); echo mine > /data/file; \
                  set -- $(ls -ln /data/file); echo file $3 $4; \
                  set -- $(ls -lnd /data); echo volume $1 $4; \
                  set -- $(ls -lnL /map/key); echo map $1 $4; \
                  touch /written || echo read-only";
    let host = shared()?;
    host.k(&["create", "configmap", "who", "--from-literal=key=value"])?;
    let said = said(
        host,
        "who",
        script,
        json!({
            "securityContext": {
                "runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000],
            },
            "volumes": [
                { "name": "data", "emptyDir": {} },
                { "name": "map", "configMap": { "name": "who", "defaultMode": 0o400 } },
            ],
        }),
        json!({
            "securityContext": { "readOnlyRootFilesystem": true },
            "volumeMounts": [
                { "name": "data", "mountPath": "/data" },
                { "name": "map", "mountPath": "/map" },
            ],
        }),
    )?;
    has_lines(
        &said,
        &[
            "user 1000 group 2000 all 2000 3000 4000",
            "file 1000 3000",
            "volume drwxrwsrwx 3000",
            "map -r--r----- 3000",
            "read-only",
        ],
    )
}

fn capabilities_privileges_and_filters_are_as_the_container_says() -> anyhow::Result<()> {
    let host = shared()?;
    let script = "while read name value; do case $name in CapEff:|NoNewPrivs:|Seccomp:) \
                  echo $name $value;; esac; done < /proc/self/status; \
busybox grep -q /proc/keys /proc/mounts && echo masked";
    let plain = said(host, "plain-caps", script, json!({}), json!({}))?;
    has_lines(&plain, &["NoNewPrivs: 0", "Seccomp: 2", "masked"])?;
    // Nothing but CAP_NET_BIND_SERVICE (10); no way to get more; no filter.
    let own = json!({ "securityContext": {
        "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
        "allowPrivilegeEscalation": false,
        "seccompProfile": { "type": "Unconfined" },
    }});
    let bare = said(host, "few-caps", script, json!({}), own)?;
    has_lines(
        &bare,
        &["CapEff: 0000000000000400", "NoNewPrivs: 1", "Seccomp: 0"],
    )?;
    Ok(())
}

fn waits(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]
}

fn a_program_that_would_be_root_is_refused_in_the_kubelets_words() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "security/not-root:v1")?;
    host.apply(&script_pod(
        "not-root",
        "security/not-root:v1",
        "true",
        json!({ "securityContext": { "runAsNonRoot": true } }),
        json!({}),
    ))?;
    let pod = host.wait_pod("not-root", "is refused", |pod| {
        waits(pod)["reason"] == "CreateContainerConfigError"
    })?;
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let expected = format!(
        "container has runAsNonRoot and image will run as root (pod: \"not-root_default({uid})\", \
         container: main)"
    );
    ensure!(waits(&pod)["message"] == expected.as_str(), "{pod}");
    host.wait_event("not-root", &format!("Error: {expected}"))?;
    host.k(&["delete", "pod", "not-root"])?;
    Ok(())
}

fn a_seccomp_profile_of_the_host_is_applied() -> anyhow::Result<()> {
    let host = shared()?;
    let profiles = host.dir.join("seccomp");
    std::fs::create_dir_all(&profiles)?;
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
    });
    std::fs::write(profiles.join("no-mkdir.json"), profile.to_string())?;
    let own = |file: &str| {
        json!({ "securityContext": {
            "seccompProfile": { "type": "Localhost", "localhostProfile": file },
        }})
    };
    let script = "mkdir /tmp/x || echo refused; touch /tmp/y && echo made";
    let said = said(host, "profile", script, json!({}), own("no-mkdir.json"))?;
    has_lines(&said, &["refused", "made"])?;
    host.apply(&script_pod(
        "no-profile",
        "security/profile:v1",
        "true",
        json!({}),
        own("absent.json"),
    ))?;
    let pod = host.wait_pod("no-profile", "is refused", |pod| {
        waits(pod)["reason"] == "CreateContainerError"
    })?;
    let message = waits(&pod)["message"].as_str().unwrap_or_default();
    ensure!(message.contains("absent.json"), "{pod}");
    host.k(&["delete", "pod", "no-profile"])?;
    Ok(())
}

fn kernel_parameters_are_set_in_the_pods_own_namespaces() -> anyhow::Result<()> {
    let host = shared()?;
    let sysctls = json!({ "securityContext": { "sysctls": [
        { "name": "kernel.shm_rmid_forced", "value": "1" },
        { "name": "net.ipv4.ip_unprivileged_port_start", "value": "7" },
    ]}});
    let script = "echo shm $(cat /proc/sys/kernel/shm_rmid_forced); \
                  echo port $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)";
    let said = said(host, "sysctls", script, sysctls, json!({}))?;
    has_lines(&said, &["shm 1", "port 7"])?;
    let own = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    ensure!(own.trim() != "7", "the machine's own parameter changed");
    Ok(())
}

fn privilege_needs_the_hosts_permission() -> anyhow::Result<()> {
    let privileged = || json!({ "securityContext": { "privileged": true } });
    let host = shared()?;
    push_busybox(host, "security/mighty:v1")?;
    host.apply(&script_pod(
        "mighty",
        "security/mighty:v1",
        "true",
        json!({}),
        privileged(),
    ))?;
    let pod = host.wait_pod("mighty", "is refused", |pod| {
        waits(pod)["reason"] == "CreateContainerConfigError"
    })?;
    let message = waits(&pod)["message"].as_str().unwrap_or_default();
    ensure!(message.contains("--allow-privileged"), "{pod}");
    host.k(&["delete", "pod", "mighty"])?;

    let host = Host::start_with(&["--allow-privileged"])?;
    // Nothing hidden, nothing filtered, the machine's devices are there.
    let script = "while read name value; do case $name in CapBnd:|Seccomp:) \
                  echo $name $value;; esac; done < /proc/self/status; ls /dev/kmsg";
    let said = said(&host, "mighty", script, json!({}), privileged())?;
    let own = std::fs::read_to_string("/proc/self/status")?;
    let own = own
        .lines()
        .find(|l| l.starts_with("CapBnd"))
        .unwrap_or_default();
    has_lines(&said, &[&own.replace('\t', " "), "Seccomp: 0", "/dev/kmsg"])
}
