//! What kubectl shows: outputs, waiting, explanations, every kind in a table and described.

use std::{process::Command, time::Duration};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{cluster::signing_request, space::Space};
use crate::{
    host::shared,
    tools::{eventually, run},
};

pub fn objects_are_shown_in_every_form() -> anyhow::Result<()> {
    let s = Space::make("forms")?;
    for name in ["a", "b"] {
        s.words(&format!("create configmap {name} --from-literal=k={name}"))?;
    }
    let get = |form: &str| s.k(&["get", "configmap", "a", "b", "-o", form]);
    ensure!(get("name")? == "configmap/a\nconfigmap/b\n");
    ensure!(get("jsonpath={.items[*].data.k}")? == "a b");
    ensure!(get("jsonpath={range .items[*]}{.metadata.name}={.data.k};{end}")? == "a=a;b=b;");
    ensure!(get("jsonpath={.items[?(@.data.k==\"b\")].metadata.name}")? == "b");
    let parsed: Value = serde_json::from_str(&get("jsonpath-as-json={.items[*].metadata.name}")?)?;
    ensure!(parsed == json!(["a", "b"]));
    ensure!(get("go-template={{range .items}}{{.data.k}}{{\"\\n\"}}{{end}}")? == "a\nb\n");
    let file = s.file("template", "{{len .items}}")?;
    ensure!(get(&format!("go-template-file={file}"))? == "2");
    let table = get("custom-columns=NAME:.metadata.name,SPACE:.metadata.namespace,NONE:.x")?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    ensure!(
        rows == [
            ["NAME", "SPACE", "NONE"],
            ["a", "forms", "<none>"],
            ["b", "forms", "<none>"]
        ],
        "{table}"
    );
    let list: Value = serde_json::from_str(&get("json")?)?;
    ensure!(list["kind"] == "List" && list["items"][0]["metadata"]["managedFields"].is_null());
    let shown = s.words("get configmap a -o json --show-managed-fields")?;
    ensure!(
        serde_json::from_str::<Value>(&shown)?["metadata"]["managedFields"][0]["manager"]
            == "kubectl-create"
    );
    ensure!(get("yaml")?.contains("kind: List") && get("kyaml")?.starts_with("---\n{"));
    s.words("label configmap a tier=front")?;
    let table = s.words("get configmap -L tier --show-labels")?;
    ensure!(
        table.contains("TIER") && table.contains("tier=front"),
        "{table}"
    );
    let sorted = s.words("get configmap --sort-by={.metadata.name} --no-headers")?;
    let names: Vec<&str> = sorted
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    ensure!(names == ["a", "b", "kube-root-ca.crt"], "{sorted}");
    let several = s.words("get configmap/a serviceaccount/default")?;
    ensure!(
        several.contains("configmap/a") && several.contains("serviceaccount/default"),
        "{several}"
    );
    let chunks = s.words("get configmap --chunk-size=1 -o name")?;
    ensure!(chunks.lines().count() == 3, "{chunks}");
    ensure!(
        s.words("get configmap nothing --ignore-not-found")?
            .is_empty()
    );
    Ok(())
}

pub fn waiting_ends_when_it_is_so() -> anyhow::Result<()> {
    let s = Space::make("waiting")?;
    // Each of these begins to wait before what it waits for is there.
    let start = |arguments: &[&str]| -> anyhow::Result<std::process::Child> {
        let mut command: Command = s.command(arguments);
        Ok(command
            .arg("--timeout=30s")
            .stdout(std::process::Stdio::null())
            .spawn()?)
    };
    let created = start(&["wait", "--for=create", "configmap/late"])?;
    s.words("create configmap late")?;
    let valued = start(&["wait", "--for=jsonpath={.data.k}=v", "configmap/late"])?;
    s.k(&["patch", "configmap", "late", "-p", r#"{"data":{"k":"v"}}"#])?;
    let deleted = start(&["wait", "--for=delete", "configmap/late"])?;
    for mut child in [created, valued] {
        ensure!(child.wait()?.success());
    }
    s.words("delete configmap late")?;
    let mut deleted = deleted;
    ensure!(deleted.wait()?.success());
    s.words("wait --for=condition=Ready node/island --timeout=30s")?;
    s.words("wait --for=condition=MemoryPressure=False node/island --timeout=30s")?;
    let said = s.fails("wait --for=condition=Never node/island --timeout=1s")?;
    ensure!(
        said.contains("timed out waiting for the condition on nodes/island"),
        "{said}"
    );
    let said = s.fails("wait --for=condition=Ready pod/nothing --timeout=1s")?;
    ensure!(said.contains("pods \"nothing\" not found"), "{said}");
    Ok(())
}

pub fn kinds_and_fields_are_explained() -> anyhow::Result<()> {
    let host = shared()?;
    let text = host.k(&["explain", "deployment.spec.strategy", "--recursive"])?;
    ensure!(
        text.contains("rollingUpdate\t<RollingUpdateDeployment>") && text.contains("maxSurge"),
        "{text}"
    );
    let text = host.k(&["explain", "deployment.spec.strategy.type"])?;
    ensure!(
        text.contains("ENUM:") && text.contains("Recreate"),
        "{text}"
    );
    let text = host.k(&[
        "explain",
        "horizontalpodautoscalers",
        "--api-version=autoscaling/v1",
    ])?;
    ensure!(text.contains("VERSION:    v1"), "{text}");
    let text = host.k(&["explain", "pipelines.spec"])?;
    ensure!(text.contains("GROUP:      eyot.dev"), "{text}");
    let said = host.k_fails(&["explain", "pods.spec.nothing"])?;
    ensure!(said.contains("field \"nothing\" does not exist"), "{said}");
    let text = host.k(&["explain", "pod", "--output=plaintext-openapiv2"])?;
    ensure!(text.contains("KIND:     Pod"), "{text}");
    let versions = host.k(&["api-versions"])?;
    for version in [
        "v1",
        "apps/v1",
        "autoscaling/v1",
        "autoscaling/v2",
        "eyot.dev/v1alpha1",
    ] {
        ensure!(versions.lines().any(|line| line == version), "{versions}");
    }
    let names = host.k(&[
        "api-resources",
        "--categories=all",
        "--namespaced",
        "-o",
        "name",
    ])?;
    ensure!(
        names.lines().any(|l| l == "deployments.apps") && !names.contains("configmaps"),
        "{names}"
    );
    Ok(())
}

/// Objects of kinds that no other case leaves lying about.
const EXAMPLES: &str = include_str!("examples.yaml");

/// Each kind that can be listed: in a wide table with a row, and described.
pub fn every_kind_is_listed_wide_and_described() -> anyhow::Result<()> {
    let s = Space::make("described")?;
    s.apply(&format!("{EXAMPLES}---\n{}", signing_request("described")?))?;
    s.words("create deployment described --image=none/x --replicas=1")?;
    let names = s.words("api-resources --verbs=list -o name")?;
    let mut bare = Vec::new();
    for name in names.lines() {
        // Other cases make and delete definitions of their own meanwhile, and whether a pod is
        // measured now is their affair, too.
        if name.ends_with(".test") || name == "pods.metrics.k8s.io" {
            continue;
        }
        let table = s.words(&format!("get {name} -A -o wide --ignore-not-found"))?;
        let mut lines = table.lines();
        match (lines.next(), lines.next()) {
            (Some(head), Some(_)) => {
                ensure!(head.contains("NAME"), "{name}: {table}");
                ensure!(
                    !head.contains("CREATED AT") || GENERIC.contains(&name),
                    "{name}: {table}"
                );
            }
            _ => bare.push(name.to_owned()),
        }
        // What other cases delete between kubectl's list and its look at each makes it fail.
        let text = eventually(&format!("describe {name}"), Duration::from_secs(30), || {
            s.words(&format!("describe {name} -A")).map(Some)
        })?;
        let field = if name.starts_with("componentstatuses") {
            "etcd-0"
        } else {
            "Name:"
        };
        ensure!(
            bare.iter().any(|b| b == name) || text.contains(field),
            "{name}: {text}"
        );
    }
    ensure!(bare.is_empty(), "without an object to show: {bare:?}");
    let events = s.words("events --for deployment/described")?;
    ensure!(events.contains("ScalingReplicaSet"), "{events}");
    eventually("events by group and kind", Duration::from_secs(20), || {
        let both = s.words("get events.events.k8s.io")?;
        ensure!(both.contains("deployment/described"), "{both}");
        let warnings = s.words("events --types=Warning")?;
        ensure!(
            warnings.contains("ErrImagePull") && !warnings.contains("Normal"),
            "{warnings}"
        );
        Ok(Some(()))
    })?;
    s.words("delete deployment described")?;
    let file = s.host.dir.join("described/applied.yaml");
    let delete = ["delete", "--ignore-not-found", "--wait=false", "-f"];
    run(s.command(&delete).arg(file))?;
    Ok(())
}

/// Kinds whose table is name and time of creation at a Kubernetes server, too.
const GENERIC: &[&str] = &[
    "limitranges",
    "customresourcedefinitions.apiextensions.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "csistoragecapacities.storage.k8s.io",
];

pub fn watch_events_are_shown_in_other_forms() -> anyhow::Result<()> {
    use std::io::{BufRead, BufReader};
    let s = Space::make("watchforms")?;
    s.words("create configmap c --from-literal=k=1")?;
    let mut child = s
        .command(&[
            "get",
            "configmap",
            "c",
            "-w",
            "--output-watch-events",
            "-o",
            "jsonpath={.type}={.object.data.k};{\"\\n\"}",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let seen = (|| -> anyhow::Result<()> {
        let mut lines = BufReader::new(child.stdout.take().context("output")?).lines();
        for value in ["1", "2", "3"] {
            if value != "1" {
                let patch = format!(r#"{{"data":{{"k":"{value}"}}}}"#);
                s.k(&["patch", "configmap", "c", "-p", &patch])?;
            }
            let line = lines.next().context("end")??;
            let kind = if value == "1" { "ADDED" } else { "MODIFIED" };
            ensure!(line == format!("{kind}={value};"), "{line}");
        }
        s.words("delete configmap c")?;
        let line = lines.next().context("end")??;
        ensure!(line == "DELETED=3;", "{line}");
        Ok(())
    })();
    child.kill()?;
    child.wait()?;
    seen
}
