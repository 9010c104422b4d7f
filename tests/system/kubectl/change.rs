//! Commands that change what is there: `set`, `label`, `annotate`, `edit`, `replace`, `diff`,
//! `apply` and its kin.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::space::Space;
use crate::tools::{eventually, run, succeed};

pub fn set_changes_one_thing() -> anyhow::Result<()> {
    let s = Space::make("set")?;
    s.words("create deployment d --image=none/x --replicas=0")?;
    s.words("create configmap c --from-literal=colour=red")?;
    s.words("create serviceaccount sa")?;
    s.words("create service clusterip s --tcp=80")?;
    s.words("create role r --verb=get --resource=pods")?;
    s.words("create rolebinding rb --role=r --user=ann")?;
    s.words("set image deployment/d x=none/y")?;
    s.words("set env deployment/d A=b")?;
    s.words("set env deployment/d --from=configmap/c")?;
    s.words("set resources deployment d --limits=cpu=200m,memory=64Mi --requests=cpu=100m")?;
    s.words("set serviceaccount deployment d sa")?;
    s.words("set selector service s app=new")?;
    s.words("set subject rolebinding rb --group=g")?;
    let d = s.get("deployment d")?;
    let spec = &d["spec"]["template"]["spec"];
    let main = &spec["containers"][0];
    ensure!(
        main["image"] == "none/y" && spec["serviceAccountName"] == "sa",
        "{main}"
    );
    ensure!(
        main["env"]
            == json!([
                {"name": "A", "value": "b"},
                {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"key": "colour", "name": "c"}}}
            ]),
        "{main}"
    );
    ensure!(
        main["resources"]["limits"] == json!({"cpu": "200m", "memory": "64Mi"}),
        "{main}"
    );
    ensure!(s.get("service s")?["spec"]["selector"] == json!({"app": "new"}));
    ensure!(
        s.get("rolebinding rb")?["subjects"]
            .as_array()
            .map(Vec::len)
            == Some(2)
    );
    let listed = s.words("set env deployment/d --list")?;
    ensure!(
        listed.contains("A=b") && listed.contains("COLOUR from configmap c"),
        "{listed}"
    );
    s.words("set env deployment/d A-")?;
    ensure!(!s.words("set env deployment/d --list")?.contains("A=b"));
    Ok(())
}

pub fn labels_and_annotations_are_kept_unless_overwritten() -> anyhow::Result<()> {
    let s = Space::make("labelled")?;
    for command in ["label", "annotate"] {
        s.words(&format!("create configmap {command}"))?;
        s.words(&format!("{command} configmap {command} a=1 b=2"))?;
        let said = s.fails(&format!("{command} configmap {command} a=3"))?;
        ensure!(said.contains("--overwrite is false"), "{said}");
        s.words(&format!("{command} --overwrite configmap {command} a=3"))?;
        let listed = s.words(&format!("{command} configmap {command} --list"))?;
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable();
        ensure!(lines == ["a=3", "b=2"], "{listed}");
        s.words(&format!("{command} configmap {command} a-"))?;
        let listed = s.words(&format!("{command} configmap {command} --list"))?;
        ensure!(listed == "b=2\n", "{listed}");
        // A condition on the revision that does not hold.
        let said = s.fails(&format!(
            "{command} configmap {command} c=4 --resource-version=1"
        ))?;
        ensure!(said.contains("the object has been modified"), "{said}");
    }
    s.words("label configmap --all every=one")?;
    let names = s.words("get configmap -l every=one -o name")?;
    ensure!(names.lines().count() == 3, "{names}");
    let said = s.fails("label configmap label wrong=-x-")?;
    ensure!(said.contains("a valid label must be"), "{said}");
    Ok(())
}

/// An editor that runs a sed script on the file.
fn editor(s: &Space, script: &str) -> anyhow::Result<String> {
    use std::os::unix::fs::PermissionsExt;
    let path = s.file("editor", &format!("#!/bin/sh\nsed -i '{script}' \"$1\"\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

pub fn what_an_editor_leaves_is_stored() -> anyhow::Result<()> {
    let s = Space::make("edited")?;
    s.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: one}\n")?;
    let edit = |script: &str, command: &[&str]| -> anyhow::Result<String> {
        succeed(s.command(command).env("EDITOR", editor(&s, script)?))
    };
    ensure!(edit("s/a: one/a: two/", &["edit", "configmap", "c"])?.contains("edited"));
    ensure!(s.get("configmap c")?["data"]["a"] == "two");
    edit("s/nothing/x/", &["edit", "configmap", "c"])?;
    // What the server refuses is shown again; leaving it unchanged then gives up.
    let refused = run(s
        .command(&["edit", "configmap", "c"])
        .env("EDITOR", editor(&s, "s/  a: two/  a?b: two/")?))?;
    ensure!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("configmaps \"c\" is invalid"), "{said}");
    ensure!(s.get("configmap c")?["data"] == json!({"a": "two"}));
    s.words("create deployment d --image=none/x --replicas=0")?;
    edit("s/replicas: 0/replicas: 1/", &["edit", "deployment", "d"])?;
    ensure!(s.get("deployment d")?["spec"]["replicas"] == 1);
    let seen = s.words("apply view-last-applied configmap/c -o json")?;
    ensure!(
        serde_json::from_str::<serde_json::Value>(&seen)?["data"] == json!({"a": "one"}),
        "{seen}"
    );
    edit(
        "s/a: one/a: three/",
        &["apply", "edit-last-applied", "configmap/c"],
    )?;
    let seen = s.words("apply view-last-applied configmap/c")?;
    ensure!(seen.contains("a: three"), "{seen}");
    let file = s.file(
        "four.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: four}\n",
    )?;
    s.k(&["apply", "set-last-applied", "-f", &file])?;
    let seen = s.words("apply view-last-applied configmap/c")?;
    ensure!(seen.contains("a: four"), "{seen}");
    ensure!(
        s.get("configmap c")?["data"]["a"] == "two",
        "only the annotation was meant"
    );
    Ok(())
}

pub fn diff_and_replace_compare_with_what_is_stored() -> anyhow::Result<()> {
    let s = Space::make("replaced")?;
    let manifest = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{a: {value}}}\n")
    };
    s.apply(&manifest("one"))?;
    let file = s.file("two.yaml", &manifest("two"))?;
    for more in [
        &["diff", "-f"][..],
        &["diff", "--server-side", "--force-conflicts", "-f"],
    ] {
        let output = run(s.command(more).arg(&file))?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(
            said.contains("-  a: one") && said.contains("+  a: two"),
            "{said}"
        );
    }
    ensure!(s.get("configmap c")?["data"]["a"] == "one");
    let before = s.get("configmap c")?["metadata"]["uid"].clone();
    s.k(&["replace", "-f", &file])?;
    ensure!(s.get("configmap c")?["metadata"]["uid"] == before);
    s.k(&["replace", "--force", "-f", &file])?;
    let after = s.get("configmap c")?;
    ensure!(after["metadata"]["uid"] != before && after["data"]["a"] == "two");
    let output = run(s.command(&["diff", "-f"]).arg(&file))?;
    // Replacing leaves no note of what was applied, which is a difference.
    ensure!(
        output.status.code().is_some_and(|code| code <= 1),
        "{output:?}"
    );
    s.words("delete configmap c")?;
    ensure!(
        s.host
            .k_fails(&["-n", s.name, "replace", "-f", &file])?
            .contains("not found")
    );
    Ok(())
}

const BASE: &str = "resources: [cm.yaml]\n\
    configMapGenerator:\n- {name: gen, literals: [a=b]}\n\
    secretGenerator:\n- {name: sec, literals: [p=q]}\n";
const OVERLAY: &str = "resources: [../base]\nnamePrefix: over-\nlabels:\n- pairs: {app: kus}\npatches:\n\
    - patch: |-\n    apiVersion: v1\n    kind: ConfigMap\n    metadata: {name: plain}\n    data: {x: \"2\"}\n";

pub fn kustomizations_are_applied_and_pruned() -> anyhow::Result<()> {
    let s = Space::make("kustomized")?;
    let plain = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain}\ndata: {x: \"1\"}\n";
    s.file("base/cm.yaml", plain)?;
    s.file("base/kustomization.yaml", BASE)?;
    let overlay = s.file("over/kustomization.yaml", OVERLAY)?;
    let folder = overlay.trim_end_matches("/kustomization.yaml");
    let said = s.k(&["apply", "-k", folder])?;
    ensure!(said.matches("created").count() == 3, "{said}");
    ensure!(s.get("configmap over-plain")?["data"]["x"] == "2");
    let output = run(s.command(&["diff", "-k"]).arg(folder))?;
    ensure!(
        output.status.code() == Some(0),
        "nothing differs: {output:?}"
    );
    // A changed literal makes an object of another name; the old one is pruned.
    s.file("base/kustomization.yaml", &BASE.replace("a=b", "a=c"))?;
    let said = s.k(&[
        "apply",
        "-k",
        folder,
        "--prune",
        "-l",
        "app=kus",
        "--prune-allowlist=core/v1/ConfigMap",
    ])?;
    ensure!(
        said.contains("pruned") && said.contains("over-gen-"),
        "{said}"
    );
    let names = s.words("get configmap -l app=kus -o name")?;
    ensure!(names.lines().count() == 2, "{names}");
    s.k(&["delete", "-k", folder])?;
    let names = s.words("get configmap,secret -l app=kus -o name")?;
    ensure!(names.is_empty(), "{names}");
    apply_sets(&s)
}

/// `--applyset`: the set's own object knows which kinds and namespaces are in it.
fn apply_sets(s: &Space) -> anyhow::Result<()> {
    let both = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n---\n\
                apiVersion: v1\nkind: Secret\nmetadata: {name: two}\n";
    let all = s.file("set.yaml", both)?;
    let one = s.file("part.yaml", both.split("---").next().context("document")?)?;
    for set in ["secrets/mine", "configmaps/mine"] {
        let apply = |file: &str| {
            let arguments = ["apply", "--prune", "--applyset", set, "-f", file];
            succeed(s.command(&arguments).env("KUBECTL_APPLYSET", "true"))
        };
        apply(&all)?;
        let (kind, _) = set.split_once('/').context("kind")?;
        let parent = s.get(&format!("{kind} mine"))?;
        let notes = &parent["metadata"]["annotations"];
        ensure!(
            notes["applyset.kubernetes.io/contains-group-kinds"] == "ConfigMap,Secret",
            "{parent}"
        );
        let said = apply(&one)?;
        ensure!(said.contains("secret/two pruned"), "{said}");
        let parent = s.get(&format!("{kind} mine"))?;
        let notes = &parent["metadata"]["annotations"];
        ensure!(
            notes["applyset.kubernetes.io/contains-group-kinds"] == "ConfigMap",
            "{parent}"
        );
        s.words("delete configmap one")?;
        s.fails("get secret two")?;
    }
    Ok(())
}

pub fn deletes_cascade_as_asked() -> anyhow::Result<()> {
    let s = Space::make("cascades")?;
    let minute = Duration::from_secs(60);
    for (cascade, left) in [("orphan", 1), ("background", 0), ("foreground", 0)] {
        s.words("create deployment d --image=none/x --replicas=0")?;
        let sets = || -> anyhow::Result<usize> {
            Ok(s.get("replicasets -l app=d")?["items"]
                .as_array()
                .map_or(0, Vec::len))
        };
        eventually("the deployment has its set", minute, || {
            Ok((sets()? == 1).then_some(()))
        })?;
        s.words(&format!(
            "delete deployment d --cascade={cascade} --timeout=60s"
        ))?;
        if cascade == "foreground" {
            ensure!(sets()? == 0, "the deployment waits for its sets");
        }
        eventually(&format!("{left} sets after {cascade}"), minute, || {
            Ok((sets()? == left).then_some(()))
        })?;
        if left == 1 {
            let set = s.get("replicasets -l app=d")?["items"][0].clone();
            ensure!(set["metadata"]["ownerReferences"].is_null(), "{set}");
            s.words("delete replicasets --all")?;
        }
    }
    Ok(())
}
