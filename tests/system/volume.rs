//! What containers and guests see of their volumes, and what outlives them.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Case, case,
    container::{ended, push_busybox},
    host::{Host, shared},
    security::{self, script_pod},
    tools::{eventually, has_lines},
};

pub const CASES: &[Case] = &[
    case!(
        a_container_sees_each_kind_of_volume_as_it_should,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_config_map_that_changes_changes_in_the_container,
        [Kubectl, Root, Busybox]
    ),
    case!(
        parts_of_volumes_and_memory_are_mounted_and_given_back,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_claims_data_outlives_its_pod_and_the_host_and_goes_with_the_claim,
        [Kubectl, Root, Busybox]
    ),
    case!(
        a_stateful_set_keeps_the_data_of_each_member,
        [Kubectl, Root, Busybox]
    ),
    case!(
        volumes_of_an_administrator_are_mounted_or_refused_with_the_reason,
        [Kubectl, Root, Busybox]
    ),
];

const PATIENCE: Duration = Duration::from_secs(60);

fn mounts_below(directory: &Path) -> anyhow::Result<usize> {
    let directory = directory.canonicalize()?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points
        .filter(|point| Path::new(point).starts_with(&directory))
        .count())
}

/// What the script of such a pod says, which runs to its end.
fn said(
    host: &Host,
    name: &str,
    script: &str,
    volumes: Value,
    mounts: Value,
) -> anyhow::Result<String> {
    let (spec, container) = (
        json!({ "volumes": volumes }),
        json!({ "volumeMounts": mounts }),
    );
    security::said(host, name, script, spec, container)
}

/// Wait until the command in the pod says this.
fn until_says(host: &Host, pod: &str, command: &str, text: &str) -> anyhow::Result<()> {
    eventually(&format!("{pod} says {text:?}"), PATIENCE, || {
        let said = host.k(&["exec", pod, "--", "/bin/sh", "-c", command]);
        Ok(said.is_ok_and(|said| said.trim() == text).then_some(()))
    })
}

fn until_event(host: &Host, reason: &str, text: &str) -> anyhow::Result<()> {
    eventually(&format!("{reason}: {text}"), PATIENCE, || {
        let events = host.get("events")?;
        let mut all = events["items"].as_array().context("no items")?.iter();
        Ok(all
            .any(|event| {
                event["reason"] == reason
                    && event["message"]
                        .as_str()
                        .is_some_and(|said| said.contains(text))
            })
            .then_some(()))
    })
}

fn a_container_sees_each_kind_of_volume_as_it_should() -> anyhow::Result<()> {
    let host = shared()?;
    host.k(&[
        "create",
        "configmap",
        "kinds",
        "--from-literal=a=alpha",
        "--from-literal=b=beta",
    ])?;
    host.k(&[
        "create",
        "secret",
        "generic",
        "kinds",
        "--from-literal=key=s3cret",
    ])?;
    let shown = host.dir.join("shown");
    fs::create_dir_all(&shown)?;
    fs::write(shown.join("file"), "of the machine")?;
    let script = "cat /map/a; echo; cat /map/sub/b; echo; cat /secret/key; echo; cat /me/name; echo; \
                  cat /machine/file; echo; cat /all/key /all/a; echo; \
                  [ -s /all/token ] && echo token; \
                  echo x > /scratch/x && echo scratch; echo x > /map/x || echo map is read-only; \
                  set -- $(ls -lL /secret/key); echo mode $1; readlink /map/a; readlink /map/..data";
    let said = said(
        host,
        "kinds",
        script,
        json!([
            { "name": "map", "configMap": { "name": "kinds", "items": [
                { "key": "a", "path": "a" }, { "key": "b", "path": "sub/b" } ] } },
            { "name": "secret", "secret": { "secretName": "kinds", "defaultMode": 0o400 } },
            { "name": "me", "downwardAPI": { "items": [
                { "path": "name", "fieldRef": { "fieldPath": "metadata.name" } } ] } },
            { "name": "machine", "hostPath": { "path": shown, "type": "Directory" } },
            { "name": "all", "projected": { "sources": [
                { "secret": { "name": "kinds" } }, { "configMap": { "name": "kinds" } },
                { "serviceAccountToken": { "path": "token" } } ] } },
            { "name": "scratch", "emptyDir": {} },
        ]),
        json!([
            { "name": "map", "mountPath": "/map" },
            { "name": "secret", "mountPath": "/secret" },
            { "name": "me", "mountPath": "/me" },
            { "name": "machine", "mountPath": "/machine", "readOnly": true },
            { "name": "all", "mountPath": "/all" },
            { "name": "scratch", "mountPath": "/scratch" },
        ]),
    )?;
    has_lines(
        &said,
        &[
            "alpha",
            "beta",
            "s3cret",
            "kinds",
            "of the machine",
            "s3cretalpha",
            "token",
            "scratch",
            "map is read-only",
            "mode -r--------",
            "..data/a",
        ],
    )
}

fn a_config_map_that_changes_changes_in_the_container() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "volume/changes:v1")?;
    // It waits for what it is to show.
    let spec = json!({ "volumes": [{ "name": "map", "configMap": { "name": "changes" } }] });
    let mounts = json!({ "volumeMounts": [{ "name": "map", "mountPath": "/map" }] });
    let pod = script_pod(
        "changes",
        "volume/changes:v1",
        "exec sleep 1000",
        spec,
        mounts,
    );
    host.apply(&pod)?;
    until_event(host, "FailedMount", "configmap \"changes\" not found")?;
    host.k(&["create", "configmap", "changes", "--from-literal=a=one"])?;
    host.wait_ready_pod("changes")?;
    until_says(host, "changes", "cat /map/a", "one")?;
    let patch = r#"{"data":{"a":"two","b":"new"}}"#;
    host.k(&["patch", "configmap", "changes", "-p", patch])?;
    until_says(host, "changes", "cat /map/a /map/b", "twonew")?;
    let patch = r#"{"data":{"b":null}}"#;
    host.k(&["patch", "configmap", "changes", "-p", patch])?;
    until_says(host, "changes", "ls /map", "a")?;
    host.k(&["delete", "pod", "changes", "--grace-period=1"])?;
    Ok(())
}

fn parts_of_volumes_and_memory_are_mounted_and_given_back() -> anyhow::Result<()> {
    // Its own host: it counts what is mounted.
    let host = Host::start()?;
    let before = mounts_below(&host.dir.join("pods")).unwrap_or(0);
    let script = "grep -c '/memory tmpfs' /proc/mounts; \
                  dd if=/dev/zero of=/memory/big bs=1024 count=4096 2>/dev/null || echo full; \
                  echo part > /part/file; cat /whole/parts/main/file; cat /one; echo; \
                  ln -s /etc /whole/out; echo done";
    push_busybox(&host, "volume/parts:v1")?;
    let mut container = json!({ "env": [{ "name": "PART", "value": "main" }] });
    container["volumeMounts"] = json!([
        { "name": "memory", "mountPath": "/memory" },
        { "name": "disk", "mountPath": "/whole" },
        { "name": "disk", "mountPath": "/part", "subPathExpr": "parts/$(PART)" },
        { "name": "me", "mountPath": "/one", "subPath": "name" },
    ]);
    let spec = json!({ "volumes": [
        { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        { "name": "disk", "emptyDir": {} },
        { "name": "me", "downwardAPI": { "items": [
            { "path": "name", "fieldRef": { "fieldPath": "metadata.name" } } ] } },
    ] });
    host.apply(&script_pod(
        "whole",
        "volume/parts:v1",
        script,
        spec,
        container,
    ))?;
    host.wait_pod("whole", "has ended", |pod| !ended(pod).is_null())?;
    has_lines(
        &host.k(&["logs", "whole"])?,
        &["1", "full", "part", "whole", "done"],
    )?;
    host.k(&["delete", "pod", "whole"])?;
    let pods = host.dir.join("pods");
    eventually("nothing is left mounted", PATIENCE, || {
        let left = mounts_below(&pods)?;
        let empty = fs::read_dir(&pods)?.next().is_none();
        Ok((left == before && empty).then_some(()))
    })
}

/// A claim and a pod that appends to a file of it.
fn claim(name: &str, more: &Value) -> String {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": { "accessModes": ["ReadWriteOnce"],
                  "resources": { "requests": { "storage": "64Mi" } } },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        claim["spec"][field] = value.clone();
    }
    claim.to_string()
}

fn user(name: &str, claim: &str, script: &str) -> String {
    let spec = json!({ "volumes": [
        { "name": "data", "persistentVolumeClaim": { "claimName": claim } } ] });
    let mounts = json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    script_pod(name, "volume/claims:v1", script, spec, mounts)
}

fn phase_is(host: &Host, what: &str, phase: &str) -> anyhow::Result<Value> {
    eventually(&format!("{what} is {phase}"), PATIENCE, || {
        let object = host.get(what)?;
        Ok((object["status"]["phase"] == phase).then_some(object))
    })
}

fn a_claims_data_outlives_its_pod_and_the_host_and_goes_with_the_claim() -> anyhow::Result<()> {
    let mut host = Host::start()?;
    push_busybox(&host, "volume/claims:v1")?;
    let classes = host.k(&["get", "storageclass"])?;
    ensure!(classes.contains("local-path (default)"), "{classes}");
    host.apply(&claim("data", &json!({})))?;
    until_event(&host, "WaitForFirstConsumer", "waiting for first consumer")?;
    host.apply(&user("first", "data", "echo one >> /data/log"))?;
    host.wait_pod("first", "has ended", |pod| !ended(pod).is_null())?;
    let bound = phase_is(&host, "pvc/data", "Bound")?;
    let volume = bound["spec"]["volumeName"]
        .as_str()
        .context("no volume")?
        .to_owned();
    let object = host.get(&format!("pv/{volume}"))?;
    ensure!(
        object["spec"]["persistentVolumeReclaimPolicy"] == "Delete",
        "{object}"
    );
    let path = object["spec"]["local"]["path"]
        .as_str()
        .context("no path")?
        .to_owned();
    ensure!(fs::read_to_string(Path::new(&path).join("log"))? == "one\n");
    host.k(&["delete", "pod", "first"])?;
    host.kill()?;
    host.restart()?;
    host.apply(&user(
        "second",
        "data",
        "echo two >> /data/log; cat /data/log",
    ))?;
    host.wait_pod("second", "has ended", |pod| !ended(pod).is_null())?;
    has_lines(&host.k(&["logs", "second"])?, &["one", "two"])?;
    let patch = r#"{"spec":{"resources":{"requests":{"storage":"128Mi"}}}}"#;
    host.k(&["patch", "pvc", "data", "-p", patch])?;
    eventually("the claim has grown", PATIENCE, || {
        let claim = host.get("pvc/data")?;
        Ok((claim["status"]["capacity"]["storage"] == "128Mi").then_some(()))
    })?;
    host.k(&["delete", "pod", "second"])?;
    host.k(&["delete", "pvc", "data"])?;
    eventually("volume and data are gone", PATIENCE, || {
        let gone = host.get(&format!("pv/{volume}")).is_err();
        Ok((gone && !Path::new(&path).exists()).then_some(()))
    })
}

fn a_stateful_set_keeps_the_data_of_each_member() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "volume/members:v1")?;
    let script = "echo $HOSTNAME >> /data/who; exec sleep 1000";
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "member" },
        "spec": {
            "serviceName": "member", "replicas": 2,
            "selector": { "matchLabels": { "app": "member" } },
            "persistentVolumeClaimRetentionPolicy": { "whenScaled": "Delete", "whenDeleted": "Delete" },
            "template": {
                "metadata": { "labels": { "app": "member" } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "main", "image": "volume/members:v1",
                        "command": ["/bin/sh", "-c", script],
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    }],
                },
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"],
                          "resources": { "requests": { "storage": "16Mi" } } },
            }],
        },
    });
    host.apply(&set.to_string())?;
    host.wait_ready_pod("member-1")?;
    phase_is(host, "pvc/data-member-0", "Bound")?;
    phase_is(host, "pvc/data-member-1", "Bound")?;
    // The successor of a member finds what that wrote.
    host.k(&["delete", "pod", "member-0"])?;
    host.wait_ready_pod("member-0")?;
    until_says(
        host,
        "member-0",
        "sort -u /data/who; wc -l < /data/who",
        "member-0\n2",
    )?;
    host.k(&["scale", "statefulset", "member", "--replicas=1"])?;
    eventually(
        "the claim of the member that went is gone",
        PATIENCE,
        || Ok(host.get("pvc/data-member-1").is_err().then_some(())),
    )?;
    host.k(&["delete", "statefulset", "member"])?;
    eventually("the claims of the set are gone", PATIENCE, || {
        Ok(host.get("pvc/data-member-0").is_err().then_some(()))
    })
}

fn volumes_of_an_administrator_are_mounted_or_refused_with_the_reason() -> anyhow::Result<()> {
    let host = shared()?;
    push_busybox(host, "volume/claims:v1")?;
    let path = host.dir.join("by-hand");
    fs::create_dir_all(&path)?;
    fs::write(path.join("file"), "by hand\n")?;
    let volume = |name: &str, spec: Value| {
        let mut volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
            "spec": { "capacity": { "storage": "64Mi" }, "accessModes": ["ReadWriteOnce"],
                      "storageClassName": name },
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            volume["spec"][field] = value.clone();
        }
        volume.to_string()
    };
    let of_class = |name: &str| claim(name, &json!({ "storageClassName": name }));
    host.apply(&volume("by-hand", json!({ "hostPath": { "path": path } })))?;
    host.apply(&of_class("by-hand"))?;
    phase_is(host, "pvc/by-hand", "Bound")?;
    host.apply(&user("by-hand", "by-hand", "cat /data/file"))?;
    host.wait_pod("by-hand", "has ended", |pod| !ended(pod).is_null())?;
    has_lines(&host.k(&["logs", "by-hand"])?, &["by hand"])?;
    host.k(&["delete", "pod", "by-hand"])?;
    host.k(&["delete", "pvc", "by-hand"])?;
    phase_is(host, "pv/by-hand", "Released")?;
    ensure!(path.join("file").exists(), "what is retained stays");

    let csi = json!({ "csi": { "driver": "csi.example.com", "volumeHandle": "h" } });
    host.apply(&volume("by-csi", csi))?;
    host.apply(&of_class("by-csi"))?;
    phase_is(host, "pvc/by-csi", "Bound")?;
    host.apply(&user("by-csi", "by-csi", "true"))?;
    let why = "driver name csi.example.com not found in the list of registered CSI drivers";
    until_event(host, "FailedMount", why)?;
    host.k(&["delete", "pod", "by-csi", "--grace-period=0", "--force"])?;
    host.k(&["delete", "pvc", "by-csi"])?;
    host.k(&["delete", "pv", "by-csi", "by-hand"])?;
    Ok(())
}
