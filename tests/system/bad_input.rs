//! Wrong input of every kind gets an error that names the thing and the remedy, and the host goes on.

use std::process::Command;

use anyhow::ensure;
use serde_json::Value;

use crate::{
    Case, case,
    host::{eyot, shared},
    tools::{curl, guest, run},
    wasm::pod,
};

pub const CASES: &[Case] = &[
    case!(manifests_that_are_wrong_are_refused_by_field, [Kubectl]),
    case!(a_file_that_is_no_component_is_not_pushed, [Guests]),
    case!(an_image_that_is_not_there_is_named_in_the_pod, [Kubectl]),
    case!(a_missing_config_map_is_named_in_the_pod, [Kubectl, Guests]),
    case!(a_module_instead_of_a_component_is_explained, [Kubectl]),
    case!(an_import_that_is_not_granted_is_named, [Kubectl]),
    case!(bodies_that_are_no_json_or_too_large_are_refused),
    case!(a_kubeconfig_that_is_not_there_is_named, [Kubectl]),
];

fn manifests_that_are_wrong_are_refused_by_field() -> anyhow::Result<()> {
    let host = shared()?;
    let deployment = |spec: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: wrong}}\nspec:\n  selector: {{matchLabels: {{a: b}}}}\n  \
             template:\n    metadata: {{labels: {{a: b}}}}\n    spec:\n      containers:\n      - {{name: c, image: x/y}}\n{spec}"
        )
    };
    for (manifest, expected) in [
        (deployment("  replica: 3\n"), "unknown field \"spec.replica\""),
        (deployment("  replicas: many\n"), "spec.replicas"),
        (deployment("").replace("image: x/y", "imag: x/y"), "unknown field \"spec.template.spec.containers[0].imag\""),
        (deployment("").replace("labels: {a: b}", "labels: {a: c}"), "`selector` does not match template `labels`"),
        (deployment("").replace(", image: x/y", ""), "spec.template.spec.containers[0].image: Required value"),
        (deployment("  replicas: -1\n"), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: Upper}\nspec: {containers: [{name: a, image: x/y}]}\n".to_owned(),
            "a lowercase RFC 1123 subdomain must consist of",
        ),
        ("apiVersion: v1\nkind: Nonsense\nmetadata: {name: a}\n".to_owned(), "no matches for kind \"Nonsense\""),
    ] {
        let said = host.apply_fails(&manifest)?;
        ensure!(said.contains(expected), "expected {expected:?} in {said}");
    }
    host.k_fails(&["get", "deployment", "wrong"])?;
    Ok(())
}

fn a_file_that_is_no_component_is_not_pushed() -> anyhow::Result<()> {
    let host = shared()?;
    let whole = std::fs::read(guest("hello_web")?)?;
    let dir = &host.dir;
    for (name, content, expected) in [
        ("text.wasm", b"#!/bin/sh\necho no\n".to_vec(), "text.wasm"),
        ("cut.wasm", whole[..whole.len() / 2].to_vec(), "cut.wasm"),
        ("short.wasm", whole[..6].to_vec(), "short.wasm"),
        ("empty.wasm", Vec::new(), "empty.wasm"),
    ] {
        let file = dir.join(name);
        std::fs::write(&file, content)?;
        let registry = format!("--registry=127.0.0.1:{}", host.ports.registry);
        let output = run(eyot().args(["push", &registry, "bad/file:v1"]).arg(&file))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && said.contains(expected),
            "{name}: {said}"
        );
    }
    let url = format!(
        "http://127.0.0.1:{}/v2/bad/file/manifests/v1",
        host.ports.registry
    );
    ensure!(curl(&[&url])?.0 == 404);
    Ok(())
}

/// The waiting state of the pod's container.
fn waiting(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]
}

fn an_image_that_is_not_there_is_named_in_the_pod() -> anyhow::Result<()> {
    let host = shared()?;
    host.apply(&pod("no-image", "bad/nowhere:v1", &[], ""))?;
    let pod = host.wait_pod("no-image", "says so", |p| !waiting(p)["message"].is_null())?;
    let reason = waiting(&pod)["reason"].as_str().unwrap_or_default();
    ensure!(
        ["ErrImagePull", "ImagePullBackOff"].contains(&reason),
        "{pod}"
    );
    let table = host.k(&["get", "pod", "no-image"])?;
    ensure!(table.contains("ImagePull"), "{table}");
    for part in ["bad/nowhere:v1", "eyot push"] {
        host.wait_event("no-image", part)?;
    }
    host.k(&["delete", "pod", "no-image"])?;
    Ok(())
}

fn a_missing_config_map_is_named_in_the_pod() -> anyhow::Result<()> {
    let host = shared()?;
    crate::wasm::push_unruly(host, "bad/config:v1")?;
    let env = "    env: [{name: A, valueFrom: {configMapKeyRef: {name: late, key: a}}}]\n";
    host.apply(&pod("no-config", "bad/config:v1", &["env", "A"], env))?;
    let seen = host.wait_pod("no-config", "says so", |p| {
        waiting(p)["reason"] == "CreateContainerConfigError"
    })?;
    ensure!(
        waiting(&seen)["message"] == "configmap \"late\" not found",
        "{seen}"
    );
    // The remedy works without touching the pod.
    host.k(&["create", "configmap", "late", "--from-literal=a=here"])?;
    host.wait_pod("no-config", "has succeeded", |p| {
        p["status"]["phase"] == "Succeeded"
    })?;
    ensure!(host.k(&["logs", "no-config"])? == "A=here\n");
    Ok(())
}

fn a_module_instead_of_a_component_is_explained() -> anyhow::Result<()> {
    let host = shared()?;
    let file = host.dir.join("module.wasm");
    // The smallest core module: magic and version.
    std::fs::write(&file, b"\0asm\x01\0\0\0")?;
    host.push("bad/module:v1", &file)?;
    host.apply(&pod("module", "bad/module:v1", &[], ""))?;
    let seen = host.wait_pod("module", "says so", |p| !waiting(p)["message"].is_null())?;
    let message = waiting(&seen)["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("component") && message.contains("wasm32-wasip2"),
        "{seen}"
    );
    host.k(&["delete", "pod", "module"])?;
    Ok(())
}

fn an_import_that_is_not_granted_is_named() -> anyhow::Result<()> {
    let host = shared()?;
    let file = host.dir.join("wanting.wasm");
    std::fs::write(&file, wanting())?;
    host.push("bad/wanting:v1", &file)?;
    host.apply(&pod("wanting", "bad/wanting:v1", &[], ""))?;
    let seen = host.wait_pod("wanting", "says so", |p| !waiting(p)["message"].is_null())?;
    ensure!(
        waiting(&seen)["reason"] == "CreateContainerConfigError",
        "{seen}"
    );
    let message = waiting(&seen)["message"].as_str().unwrap_or_default();
    ensure!(message.contains("acme:rockets/launch"), "{seen}");
    host.k(&["delete", "pod", "wanting"])?;
    Ok(())
}

/// A component that imports the instance `acme:rockets/launch` with one function `go`, and exports an (empty)
/// `wasi:cli/run@0.2.0`, in the component model's binary format: too little for a tool chain.
fn wanting() -> Vec<u8> {
    let named = |name: &str| {
        let mut bytes = vec![0x00, name.len() as u8];
        bytes.extend_from_slice(name.as_bytes());
        bytes
    };
    let section = |id: u8, items: &[u8]| {
        let mut bytes = vec![id, items.len() as u8 + 1, 0x01];
        bytes.extend_from_slice(items);
        bytes
    };
    let header = vec![0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];
    let instance_type = section(
        0x07,
        &[
            0x42, 0x02, 0x01, 0x40, 0x00, 0x01, 0x00, 0x04, 0x00, 0x02, b'g', b'o', 0x01, 0x00,
        ],
    );
    let import = section(
        0x0a,
        &[named("acme:rockets/launch"), vec![0x05, 0x00]].concat(),
    );
    let empty_instance = section(0x05, &[0x01, 0x00]);
    let export = section(
        0x0b,
        &[named("wasi:cli/run@0.2.0"), vec![0x05, 0x01, 0x00]].concat(),
    );
    [header, instance_type, import, empty_instance, export].concat()
}

fn bodies_that_are_no_json_or_too_large_are_refused() -> anyhow::Result<()> {
    let host = shared()?;
    let url = format!(
        "https://127.0.0.1:{}/api/v1/namespaces/default/configmaps",
        host.ports.api
    );
    let pki = host.dir.join("pki");
    let post = |media: &str, body: &str| -> anyhow::Result<Value> {
        let file = host.dir.join("body");
        std::fs::write(&file, body)?;
        let output = run(Command::new("curl")
            .args(["-s", "-m", "20", "--cacert"])
            .arg(pki.join("ca.crt"))
            .arg("--cert")
            .arg(pki.join("admin.crt"))
            .arg("--key")
            .arg(pki.join("admin.key"))
            .args([
                "-H",
                &format!("Content-Type: {media}"),
                "-H",
                "Expect:",
                "--data-binary",
            ])
            .arg(format!("@{}", file.display()))
            .arg(&url))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let answer = post("application/json", "{\"kind\": ")?;
    ensure!(
        answer["kind"] == "Status" && answer["code"] == 400,
        "{answer}"
    );
    let answer = post(
        "application/vnd.kubernetes.protobuf",
        "k8s\0\u{1}\u{2}\u{3}",
    )?;
    ensure!(
        answer["kind"] == "Status" && answer["code"] == 400,
        "{answer}"
    );
    let answer = post("text/plain", "hello")?;
    ensure!(answer["code"] == 415, "{answer}");
    let big = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"big"}},"data":{{"a":"{}"}}}}"#,
        "x".repeat(4 << 20)
    );
    let answer = post("application/json", &big)?;
    ensure!(answer["code"] == 413, "{answer}");
    Ok(())
}

fn a_kubeconfig_that_is_not_there_is_named() -> anyhow::Result<()> {
    let host = shared()?;
    let mut command = host.kubectl(&["get", "pods"]);
    command.arg("--kubeconfig=/nowhere/kubeconfig");
    let output = run(&mut command)?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/kubeconfig"));
    Ok(())
}
