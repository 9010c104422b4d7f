//! What people type: an unmodified kubectl against the API. What is typed most is here; one file
//! a topic has the rest.

mod change;
mod cluster;
mod create;
mod output;
mod rollout;
mod scripted;
mod space;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};

use change::{
    deletes_cascade_as_asked, diff_and_replace_compare_with_what_is_stored,
    kustomizations_are_applied_and_pruned, labels_and_annotations_are_kept_unless_overwritten,
    set_changes_one_thing, what_an_editor_leaves_is_stored,
};
use cluster::{
    certificates_are_approved_and_denied, draining_evicts_what_may_go,
    nodes_are_cordoned_and_tainted, pods_and_nodes_are_debugged, rights_are_listed_and_reconciled,
    the_whole_state_is_dumped_and_served_by_proxy,
};
use create::every_generator_makes_what_it_says;
use output::{
    every_kind_is_listed_wide_and_described, kinds_and_fields_are_explained,
    objects_are_shown_in_every_form, waiting_ends_when_it_is_so,
    watch_events_are_shown_in_other_forms,
};
use rollout::{
    rollouts_are_told_paused_and_taken_back, rollouts_of_other_workloads_are_told_and_taken_back,
};
use scripted::{
    definitions_never_take_the_names_of_pods, events_are_told_of_one_object,
    what_apply_manages_moves_between_client_and_server, writes_say_which_revision_they_mean,
};

use crate::{
    Case, case,
    host::{condition, shared},
    tools::eventually,
};

pub const CASES: &[Case] = &[
    case!(kubectl_get_shows_the_columns_that_people_know, [Kubectl]),
    case!(kubectl_create_apply_edit_and_delete_work, [Kubectl]),
    case!(kubectl_patch_works_in_three_ways, [Kubectl]),
    case!(selectors_choose_by_label_and_field, [Kubectl]),
    case!(get_watch_prints_changes_as_they_come, [Kubectl]),
    case!(deployments_roll_out_scale_and_roll_back, [Kubectl, Guests]),
    case!(stale_writes_are_refused, [Kubectl]),
    case!(deleting_a_namespace_deletes_what_is_in_it, [Kubectl]),
    case!(custom_resources_are_served_at_once, [Kubectl]),
    case!(describe_shows_the_events_of_a_pod, [Kubectl, Guests]),
    case!(every_generator_makes_what_it_says, [Kubectl]),
    case!(set_changes_one_thing, [Kubectl]),
    case!(
        labels_and_annotations_are_kept_unless_overwritten,
        [Kubectl]
    ),
    case!(what_an_editor_leaves_is_stored, [Kubectl]),
    case!(diff_and_replace_compare_with_what_is_stored, [Kubectl]),
    case!(kustomizations_are_applied_and_pruned, [Kubectl]),
    case!(deletes_cascade_as_asked, [Kubectl]),
    case!(nodes_are_cordoned_and_tainted, [Kubectl]),
    case!(draining_evicts_what_may_go, [Kubectl]),
    case!(certificates_are_approved_and_denied, [Kubectl]),
    case!(rights_are_listed_and_reconciled, [Kubectl]),
    case!(the_whole_state_is_dumped_and_served_by_proxy, [Kubectl]),
    case!(pods_and_nodes_are_debugged, [Kubectl, Guests]),
    case!(rollouts_are_told_paused_and_taken_back, [Kubectl, Guests]),
    case!(
        rollouts_of_other_workloads_are_told_and_taken_back,
        [Kubectl, Guests]
    ),
    case!(objects_are_shown_in_every_form, [Kubectl]),
    case!(waiting_ends_when_it_is_so, [Kubectl]),
    case!(kinds_and_fields_are_explained, [Kubectl]),
    case!(every_kind_is_listed_wide_and_described, [Kubectl]),
    case!(watch_events_are_shown_in_other_forms, [Kubectl]),
    case!(writes_say_which_revision_they_mean, [Kubectl]),
    case!(
        what_apply_manages_moves_between_client_and_server,
        [Kubectl]
    ),
    case!(definitions_never_take_the_names_of_pods, [Kubectl]),
    case!(events_are_told_of_one_object, [Kubectl]),
];

fn kubectl_get_shows_the_columns_that_people_know() -> anyhow::Result<()> {
    let host = shared()?;
    let nodes = host.k(&["get", "nodes"])?;
    let mut lines = nodes.lines();
    let head: Vec<&str> = lines
        .next()
        .context("no header")?
        .split_whitespace()
        .collect();
    ensure!(
        head == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
        "{nodes}"
    );
    let row: Vec<&str> = lines
        .next()
        .context("no node")?
        .split_whitespace()
        .collect();
    ensure!(row[0] == "island" && row[1] == "Ready", "{nodes}");
    let names = host.k(&["get", "ns", "-o", "name"])?;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure!(names.contains(&format!("namespace/{name}\n")), "{names}");
    }
    let lease = host.get("lease island -n kube-node-lease")?;
    ensure!(lease["spec"]["holderIdentity"] == "island", "{lease}");
    Ok(())
}

fn kubectl_create_apply_edit_and_delete_work() -> anyhow::Result<()> {
    let host = shared()?;
    // These two are sent as protobuf.
    host.k(&["create", "namespace", "typed"])?;
    host.k(&[
        "create",
        "configmap",
        "c",
        "-n",
        "typed",
        "--from-literal=key=value",
    ])?;
    host.k(&[
        "create",
        "secret",
        "generic",
        "s",
        "-n",
        "typed",
        "--from-literal=password=geheim",
    ])?;
    ensure!(host.get("configmap c -n typed")?["data"]["key"] == "value");
    ensure!(host.get("secret s -n typed")?["data"]["password"] == "Z2VoZWlt");
    let manifest = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied, namespace: typed}}\n\
             data: {{a: \"{value}\", b: kept}}\n"
        )
    };
    ensure!(host.apply(&manifest("1"))?.contains("created"));
    ensure!(host.apply(&manifest("1"))?.contains("unchanged"));
    ensure!(host.apply(&manifest("2"))?.contains("configured"));
    ensure!(host.get("configmap applied -n typed")?["data"]["a"] == "2");
    // What is no longer in the manifest is taken away.
    host.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied, namespace: typed}\ndata: {a: \"2\"}\n")?;
    ensure!(host.get("configmap applied -n typed")?["data"]["b"].is_null());
    host.k(&["label", "configmap", "applied", "-n", "typed", "tier=edge"])?;
    host.k(&[
        "annotate",
        "configmap",
        "applied",
        "-n",
        "typed",
        "note=hello",
    ])?;
    let object = host.get("configmap applied -n typed")?;
    ensure!(object["metadata"]["labels"]["tier"] == "edge", "{object}");
    let yaml = host.k(&["get", "configmap", "applied", "-n", "typed", "-o", "yaml"])?;
    ensure!(yaml.contains("note: hello"), "{yaml}");
    host.k(&["delete", "configmap", "applied", "-n", "typed"])?;
    let said = host.k_fails(&["get", "configmap", "applied", "-n", "typed"])?;
    ensure!(
        said.contains("Error from server (NotFound): configmaps \"applied\" not found"),
        "{said}"
    );
    let said = host.k_fails(&["create", "namespace", "typed"])?;
    ensure!(
        said.contains("(AlreadyExists): namespaces \"typed\" already exists"),
        "{said}"
    );
    Ok(())
}

fn kubectl_patch_works_in_three_ways() -> anyhow::Result<()> {
    let host = shared()?;
    host.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: patched, labels: {a: '1'}}\nspec:\n  \
         nodeSelector: {nowhere: 'true'}\n  containers:\n  - {name: one, image: none/one}\n  - {name: two, image: none/two}\n",
    )?;
    let patch =
        |kind: &str, text: &str| host.k(&["patch", "pod", "patched", "--type", kind, "-p", text]);
    patch(
        "strategic",
        r#"{"spec":{"containers":[{"name":"two","image":"none/three"}]}}"#,
    )?;
    patch("merge", r#"{"metadata":{"labels":{"a":null,"b":"2"}}}"#)?;
    patch(
        "json",
        r#"[{"op":"add","path":"/metadata/labels/c","value":"3"}]"#,
    )?;
    let pod = host.get("pod patched")?;
    let containers = &pod["spec"]["containers"];
    ensure!(
        containers[0]["image"] == "none/one" && containers[1]["image"] == "none/three",
        "{pod}"
    );
    ensure!(
        pod["metadata"]["labels"] == serde_json::json!({"b": "2", "c": "3"}),
        "{pod}"
    );
    let said = host.k_fails(&[
        "patch",
        "pod",
        "patched",
        "--type",
        "json",
        "-p",
        r#"[{"op":"test","path":"/metadata/labels/c","value":"other"}]"#,
    ])?;
    // Kubernetes' own words: it does not say which test failed either.
    ensure!(said.contains("The request is invalid"), "{said}");
    host.k(&["delete", "pod", "patched", "--now"])?;
    Ok(())
}

fn selectors_choose_by_label_and_field() -> anyhow::Result<()> {
    let host = shared()?;
    host.k(&["create", "namespace", "choose"])?;
    for (name, labels) in [
        ("a", "tier=web,zone=1"),
        ("b", "tier=web,zone=2"),
        ("c", "tier=db"),
    ] {
        host.k(&["create", "configmap", name, "-n", "choose"])?;
        let mut arguments = vec!["label", "configmap", name, "-n", "choose"];
        arguments.extend(labels.split(','));
        host.k(&arguments)?;
    }
    for (selector, expected) in [
        ("tier=web", "a b"),
        ("tier!=web,zone", ""),
        ("tier in (db,cache)", "c"),
        ("!zone,tier", "c"),
        ("zone notin (1),tier=web", "b"),
    ] {
        let got = host.k(&[
            "get",
            "cm",
            "-n",
            "choose",
            "-l",
            selector,
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ])?;
        ensure!(
            got == expected,
            "{selector}: got {got:?}, expected {expected:?}"
        );
    }
    let got = host.k(&[
        "get",
        "cm",
        "-n",
        "choose",
        "--field-selector",
        "metadata.name=b",
        "-o",
        "name",
    ])?;
    ensure!(got.trim() == "configmap/b", "{got}");
    let said = host.k_fails(&["get", "cm", "--field-selector", "spec.nonsense=b"])?;
    ensure!(said.contains("is not a known field selector"), "{said}");
    Ok(())
}

fn get_watch_prints_changes_as_they_come() -> anyhow::Result<()> {
    let host = shared()?;
    host.k(&["create", "namespace", "watched"])?;
    let mut child = host
        .kubectl(&[
            "get",
            "configmaps",
            "-n",
            "watched",
            "-w",
            "--output-watch-events",
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().context("no output")?;
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let check = || -> anyhow::Result<()> {
        host.k(&["create", "configmap", "first", "-n", "watched"])?;
        eventually("the creation is printed", Duration::from_secs(20), || {
            let line = lines.recv_timeout(Duration::from_secs(5))?;
            Ok((line.contains("ADDED") && line.contains("first")).then_some(()))
        })?;
        host.k(&["delete", "configmap", "first", "-n", "watched"])?;
        eventually("the deletion is printed", Duration::from_secs(20), || {
            let line = lines.recv_timeout(Duration::from_secs(5))?;
            Ok((line.contains("DELETED") && line.contains("first")).then_some(()))
        })
    };
    let result = check();
    child.kill()?;
    child.wait()?;
    result
}

fn deployments_roll_out_scale_and_roll_back() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("kubectl/web:v1", &crate::tools::guest("hello_web")?)?;
    let deployment = |greeting: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: rolling}}\nspec:\n  replicas: 2\n  \
             selector: {{matchLabels: {{app: rolling}}}}\n  template:\n    metadata: {{labels: {{app: rolling}}}}\n    \
             spec:\n      containers:\n      - name: web\n        image: kubectl/web:v1\n        \
             ports: [{{containerPort: 8080}}]\n        env: [{{name: GREETING, value: {greeting}}}]\n"
        )
    };
    host.apply(&deployment("one"))?;
    let said = host.k(&["rollout", "status", "deployment/rolling", "--timeout=60s"])?;
    ensure!(said.contains("successfully rolled out"), "{said}");
    host.k(&["scale", "deployment/rolling", "--replicas=4"])?;
    host.k(&[
        "wait",
        "--for=jsonpath={.status.readyReplicas}=4",
        "deployment/rolling",
        "--timeout=60s",
    ])?;
    host.apply(&deployment("two").replace("replicas: 2", "replicas: 4"))?;
    host.k(&["rollout", "status", "deployment/rolling", "--timeout=60s"])?;
    let pods = host.get("pods -l app=rolling")?;
    let items = pods["items"].as_array().context("no items")?;
    let live: Vec<_> = items
        .iter()
        .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
        .collect();
    ensure!(live.len() == 4, "{} pods", live.len());
    ensure!(
        live.iter()
            .all(|p| p["spec"]["containers"][0]["env"][0]["value"] == "two")
    );
    ensure!(live.iter().all(|p| condition(p, "Ready")));
    ensure!(
        host.get("replicasets -l app=rolling")?["items"]
            .as_array()
            .map(Vec::len)
            == Some(2)
    );
    host.k(&["rollout", "undo", "deployment/rolling"])?;
    host.k(&["rollout", "status", "deployment/rolling", "--timeout=60s"])?;
    let after = host.get("deployment rolling")?;
    ensure!(
        after["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == "one",
        "{after}"
    );
    let table = host.k(&["get", "deployment", "rolling"])?;
    ensure!(table.contains("4/4"), "{table}");
    host.k(&["delete", "deployment", "rolling", "--timeout=60s"])?;
    eventually(
        "the pods are gone with their deployment",
        Duration::from_secs(60),
        || {
            let left = host.get("pods,replicasets -l app=rolling")?;
            Ok(left["items"]
                .as_array()
                .is_some_and(Vec::is_empty)
                .then_some(()))
        },
    )
}

fn stale_writes_are_refused() -> anyhow::Result<()> {
    let host = shared()?;
    host.k(&["create", "configmap", "contended", "--from-literal=a=1"])?;
    let old = host.k(&["get", "configmap", "contended", "-o", "json"])?;
    host.k(&[
        "patch",
        "configmap",
        "contended",
        "--type",
        "merge",
        "-p",
        r#"{"data":{"a":"2"}}"#,
    ])?;
    let file = host.dir.join("stale.json");
    std::fs::write(&file, old)?;
    let said = host.k_fails(&["replace", "-f", file.to_str().context("path")?])?;
    ensure!(
        said.contains("(Conflict)") && said.contains("the object has been modified"),
        "{said}"
    );
    ensure!(host.get("configmap contended")?["data"]["a"] == "2");
    Ok(())
}

fn deleting_a_namespace_deletes_what_is_in_it() -> anyhow::Result<()> {
    let host = shared()?;
    host.k(&["create", "namespace", "doomed"])?;
    host.k(&["create", "configmap", "c", "-n", "doomed"])?;
    host.k(&["delete", "namespace", "doomed", "--timeout=60s"])?;
    host.k(&["create", "namespace", "doomed"])?;
    let names = host.k(&["get", "cm", "-n", "doomed", "-o", "name"])?;
    ensure!(!names.contains("configmap/c"), "{names}");
    let said = host.k_fails(&["create", "configmap", "c", "-n", "nowhere"])?;
    ensure!(said.contains("namespaces \"nowhere\" not found"), "{said}");
    Ok(())
}

fn custom_resources_are_served_at_once() -> anyhow::Result<()> {
    let host = shared()?;
    host.apply(
        r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.river.test}
spec:
  group: river.test
  scope: Namespaced
  names: {kind: Boat, plural: boats, singular: boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Length, type: integer, jsonPath: .spec.length}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [length]
            properties:
              length: {type: integer, minimum: 1}
              colour: {type: string, default: blue}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#,
    )?;
    host.k(&[
        "wait",
        "--for=condition=Established",
        "crd/boats.river.test",
        "--timeout=20s",
    ])?;
    host.apply(
        "apiVersion: river.test/v1\nkind: Boat\nmetadata: {name: ferry}\nspec: {length: 12}\n",
    )?;
    ensure!(host.get("boat ferry")?["spec"]["colour"] == "blue");
    let table = host.k(&["get", "bt"])?;
    ensure!(table.contains("LENGTH") && table.contains("12"), "{table}");
    let said = host.apply_fails(
        "apiVersion: river.test/v1\nkind: Boat\nmetadata: {name: raft}\nspec: {length: long}\n",
    )?;
    ensure!(
        said.contains("spec.length") && said.contains("integer"),
        "{said}"
    );
    let said = host.apply_fails(
        "apiVersion: river.test/v1\nkind: Boat\nmetadata: {name: raft}\nspec: {length: 1, masts: 2}\n",
    )?;
    ensure!(said.contains("unknown field \"spec.masts\""), "{said}");
    host.k(&["delete", "crd", "boats.river.test", "--timeout=60s"])?;
    host.k_fails(&["get", "boats"])?;
    Ok(())
}

fn describe_shows_the_events_of_a_pod() -> anyhow::Result<()> {
    let host = shared()?;
    host.push("kubectl/described:v1", &crate::tools::guest("hello_web")?)?;
    host.k(&[
        "run",
        "described",
        "--image=kubectl/described:v1",
        "--port=8080",
    ])?;
    host.wait_ready_pod("described")?;
    eventually("the events are described", Duration::from_secs(20), || {
        let text = host.k(&["describe", "pod", "described"])?;
        for word in ["Scheduled", "Pulled", "Created", "Started"] {
            ensure!(text.contains(word), "no {word} in:\n{text}");
        }
        Ok(Some(()))
    })?;
    host.k(&["delete", "pod", "described"])?;
    Ok(())
}
