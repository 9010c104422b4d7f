//! What Kubernetes' own test script of kubectl does and no other case here.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::space::Space;
use crate::tools::{eventually, run};

pub fn writes_say_which_revision_they_mean() -> anyhow::Result<()> {
    let s = Space::make("revisions")?;
    s.words("create configmap c --from-literal=k=1")?;
    let revision = s.get("configmap c")?["metadata"]["resourceVersion"].clone();
    let patch = |revision: &serde_json::Value, value: &str| {
        let patch = json!({"metadata": {"resourceVersion": revision}, "data": {"k": value}});
        run(&mut s.command(&["patch", "configmap", "c", "-p", &patch.to_string()]))
    };
    ensure!(patch(&revision, "2")?.status.success());
    let late = patch(&revision, "3")?;
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    ensure!(
        said.contains("please apply your changes to the latest version and try again"),
        "{said}"
    );
    let said = s.k(&["patch", "configmap", "c", "-p", "data: {k: \"2\"}"])?;
    ensure!(said.contains("patched (no change)"), "{said}");

    // Revision 0 stands for any.
    let node = |more: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{{\"name\":\"spare-any\"{more}}},\
             \"spec\":{{\"podCIDR\":\"10.251.7.0/24\",\"podCIDRs\":[\"10.251.7.0/24\"]}}}}"
        )
    };
    s.k(&["create", "-f", &s.file("node.json", &node(""))?])?;
    let file = s.file(
        "node.json",
        &node(",\"annotations\":{\"a\":\"b\"},\"resourceVersion\":\"0\""),
    )?;
    s.k(&["replace", "--dry-run=server", "-f", &file])?;
    s.k(&["replace", "-f", &file])?;
    let kept = s.host.get("node spare-any")?;
    s.host.k(&["delete", "node", "spare-any"])?;
    ensure!(kept["metadata"]["annotations"]["a"] == "b", "{kept}");

    // The same by the paths of the API.
    let maps = "/api/v1/namespaces/revisions/configmaps";
    let one = format!("{maps}/raw");
    let body = |value: &str| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "raw"},
                         "data": {"k": value}});
        s.file("raw.json", &map.to_string())
    };
    s.k(&["create", "--raw", maps, "-f", &body("1")?])?;
    let said = s.k(&["replace", "--raw", &one, "-f", &body("2")?])?;
    ensure!(said.contains("\"uid\""), "{said}");
    ensure!(s.k(&["get", "--raw", &one])?.contains("\"k\":\"2\""));
    s.k(&["delete", "--raw", &one])?;
    ensure!(
        s.fails("get configmap raw")?
            .contains("configmaps \"raw\" not found")
    );
    Ok(())
}

pub fn what_apply_manages_moves_between_client_and_server() -> anyhow::Result<()> {
    let s = Space::make("managed")?;
    let file = |more: &str| {
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, labels: {{l: \"{more}\"}}}}\n\
             data: {{key: value}}\n"
        );
        s.file("c.yaml", &map)
    };
    s.k(&["apply", "-f", &file("first")?])?;
    // What the client applied belongs to it; a stranger on the server conflicts.
    let other = file("second")?;
    let stranger = run(&mut s.command(&[
        "apply",
        "--server-side",
        "--field-manager=not-kubectl",
        "-f",
        &other,
    ]))?;
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    ensure!(
        !stranger.status.success() && said.contains("conflict"),
        "{said}"
    );
    s.k(&["apply", "--server-side", "-f", &other])?;
    let applied = s.words("apply view-last-applied configmap/c -o json")?;
    ensure!(applied.contains("\"l\": \"second\""), "{applied}");
    s.k(&["apply", "-f", &file("third")?])?;
    ensure!(s.get("configmap c")?["metadata"]["labels"]["l"] == "third");

    // A field that is left out is gone, whoever applied it first.
    let legacy =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndata: {key: v, legacy: x}\n";
    let path = s.file("d.yaml", legacy)?;
    s.k(&["apply", "-f", &path])?;
    s.k(&["apply", "--server-side", "-f", &path])?;
    let path = s.file("d.yaml", &legacy.replace(", legacy: x", ""))?;
    s.k(&["apply", "--server-side", "-f", &path])?;
    ensure!(s.get("configmap d")?["data"] == json!({"key": "v"}));

    // What cannot be applied keeps nothing else from being applied.
    let many = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: NOT-A-NAME}\n---\n\
                apiVersion: example.com/v1\nkind: Bogus\nmetadata: {name: b}\n---\n\
                apiVersion: v1\nkind: ConfigMap\nmetadata: {name: last}\n";
    let path = s.file("many.yaml", many)?;
    let said = s.fails(&format!("apply -f {path}"))?;
    ensure!(
        said.contains("ConfigMap \"NOT-A-NAME\" is invalid")
            && said.contains("no matches for kind \"Bogus\" in version \"example.com/v1\""),
        "{said}"
    );
    s.get("configmap last")?;
    Ok(())
}

pub fn definitions_never_take_the_names_of_pods() -> anyhow::Result<()> {
    let s = Space::make("shadowed")?;
    let definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
                      metadata: {name: shadows.scripted.test}\nspec:\n  group: scripted.test\n  \
                      scope: Namespaced\n  names: {plural: shadows, singular: pod, kind: Shadow, \
                      shortNames: [po]}\n  versions:\n  - {name: v1, served: true, storage: true, \
                      schema: {openAPIV3Schema: {type: object, \
                      x-kubernetes-preserve-unknown-fields: true}}}\n";
    s.apply(definition)?;
    s.words("wait --for=condition=Established crd/shadows.scripted.test --timeout=60s")?;
    s.apply("apiVersion: scripted.test/v1\nkind: Shadow\nmetadata: {name: s}\nfield: one\n")?;
    for name in ["pod", "po"] {
        let listed = s.words(&format!("get {name} -o name"))?;
        ensure!(listed.is_empty(), "{name}: {listed}");
    }
    ensure!(s.words("get shadows.v1.scripted.test -o name")? == "shadow.scripted.test/s\n");
    let said = s.fails("patch shadows s -p {\"field\":\"two\"}")?;
    ensure!(
        said.contains("is not supported by scripted.test/v1"),
        "{said}"
    );
    s.words("patch shadows s --type=merge -p {\"field\":null}")?;
    ensure!(s.get("shadows s")?["field"].is_null());
    for cascade in ["orphan", "foreground"] {
        s.apply("apiVersion: scripted.test/v1\nkind: Shadow\nmetadata: {name: s}\n")?;
        s.words(&format!(
            "delete shadows s --cascade={cascade} --timeout=60s"
        ))?;
    }
    s.words("delete crd shadows.scripted.test --timeout=60s")?;
    Ok(())
}

pub fn events_are_told_of_one_object() -> anyhow::Result<()> {
    let s = Space::make("told")?;
    // There is no 31st of February.
    s.k(&[
        "create",
        "cronjob",
        "pi",
        "--schedule=59 23 31 2 *",
        "--image=x",
    ])?;
    s.words("create cronjob other --schedule=@yearly --image=x")?;
    let told = |more: &str| s.words(&format!("events --for=CronJob/pi {more}"));
    eventually("a warning of the schedule", Duration::from_secs(30), || {
        Ok(told("--no-headers")?
            .contains("InvalidSchedule")
            .then_some(()))
    })?;
    ensure!(told("--types=Warning")?.contains("CronJob/pi"));
    ensure!(!told("--types=Normal")?.contains("InvalidSchedule"));
    ensure!(told("-o json")?.contains("\"reason\": \"InvalidSchedule\""));
    ensure!(
        !s.words("events --for=CronJob/other")?
            .contains("InvalidSchedule")
    );
    Ok(())
}
