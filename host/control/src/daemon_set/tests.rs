//! Plans of DaemonSets: a set, nodes and pods in; pods to make and take away and a status out.

use std::{sync::Arc, time::Duration};

use eyot_client::view::Pod;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node};
use serde_json::{Value, json};

use super::{
    plan::{Input, Plan, plan},
    status::changed,
};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn set(spec: Value) -> DaemonSet {
    let mut value = json!({
        "metadata": { "name": "agent", "namespace": "d", "uid": "ds", "generation": 3,
                      "annotations": { "deprecated.daemonset.template.generation": "2" } },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "template": {
                "metadata": { "labels": { "app": "agent" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    });
    merge(&mut value["spec"], spec);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(map) => {
            for (key, value) in map {
                merge(&mut into[key], value);
            }
        }
        other => *into = other,
    }
}

fn rolling(how: Value) -> Value {
    json!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": how } })
}

fn node(name: &str, spec: Value) -> Arc<Node> {
    let labels = json!({ "kubernetes.io/hostname": name });
    let node = json!({ "metadata": { "name": name, "labels": labels }, "spec": spec });
    Arc::new(serde_json::from_value(node).unwrap())
}

fn nodes(count: usize) -> Vec<Arc<Node>> {
    (0..count)
        .map(|n| node(&format!("n{n}"), json!({})))
        .collect()
}

/// A pod on a node with the hash of its template, changed as the merge patch says.
fn pod(name: &str, on: &str, hash: &str, patch: Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": { "name": name, "namespace": "d", "uid": format!("uid-{name}"),
                      "labels": { "app": "agent", "controller-revision-hash": hash } },
        "spec": { "containers": [], "nodeName": on },
        "status": { "phase": "Running", "conditions": [
            { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    });
    merge(&mut value, patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn unready() -> Value {
    json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } })
}

fn planned(set: &DaemonSet, nodes: &[Arc<Node>], mine: &[Arc<Pod>]) -> Plan {
    let input = Input {
        set,
        hash: "new",
        nodes,
        mine,
        in_namespace: mine,
        now: now(),
    };
    plan(&input, |_| None)
}

fn gone(plan: &Plan) -> Vec<&str> {
    let names = plan.delete.iter().map(|pod| pod.metadata.name.as_deref());
    names.flatten().collect()
}

/// The nodes that the made pods are meant for.
fn made(plan: &Plan) -> Vec<String> {
    let pods = plan.create.iter().map(crate::pod::seen);
    pods.filter_map(|pod| super::placement::target(&pod).map(str::to_owned))
        .collect()
}

#[test]
fn each_node_gets_a_pod_that_is_meant_for_it_and_bears_its_troubles() {
    let set = set(
        json!({ "template": { "spec": { "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "Exists" }] }] },
    } } } } }),
    );
    let plan = planned(&set, &nodes(2), &[]);
    assert_eq!(made(&plan), ["n0", "n1"]);
    let pod = &plan.create[0];
    let spec = pod.spec.as_ref().unwrap();
    let terms = json!(spec.affinity)["nodeAffinity"]
        ["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone();
    assert_eq!(
        terms,
        json!([{ "matchFields": [
        { "key": "metadata.name", "operator": "In", "values": ["n0"] }] }])
    );
    let tolerations = json!(spec.tolerations);
    assert_eq!(tolerations.as_array().unwrap().len(), 6);
    assert_eq!(
        tolerations[0],
        json!({
        "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute" })
    );
    let labels = pod.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["controller-revision-hash"], "new");
    assert_eq!(labels["pod-template-generation"], "2");
    assert_eq!(
        pod.metadata.owner_references.as_ref().unwrap()[0].kind,
        "DaemonSet"
    );
    assert_eq!(plan, planned(&set, &nodes(2), &[]), "named alike each time");
}

#[test]
fn taints_and_selectors_decide_where_pods_run_stay_and_leave() {
    let taint = |effect: &str| json!({ "taints": [{ "key": "k", "effect": effect }] });
    let unschedulable = json!({ "unschedulable": true, "taints": [
        { "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }] });
    let nodes = [
        node("closed", taint("NoSchedule")),
        node("cordoned", unschedulable),
        node("expelled", taint("NoExecute")),
    ];
    let set = set(json!({}));
    assert_eq!(made(&planned(&set, &nodes, &[])), ["cordoned"]);
    let pods = [
        pod("a", "closed", "new", json!({})),
        pod("b", "cordoned", "new", json!({})),
        pod("c", "expelled", "new", json!({})),
    ];
    let plan = planned(&set, &nodes, &pods);
    assert_eq!((made(&plan), gone(&plan)), (vec![], vec!["c"]));
    assert_eq!((plan.status.desired, plan.status.wrong), (1, 2));
    let selective =
        self::set(json!({ "template": { "spec": { "nodeSelector": { "no": "where" } } } }));
    assert_eq!(gone(&planned(&selective, &nodes, &pods)), ["a", "b", "c"]);
}

#[test]
fn pods_for_nodes_that_are_gone_go_unless_they_are_bound() {
    let set = set(json!({}));
    let mut unbound = planned(&set, &[node("lost", json!({}))], &[])
        .create
        .remove(0);
    unbound.metadata.name = Some("unbound".into());
    let pods = [
        Arc::new(crate::pod::seen(&unbound)),
        pod("bound", "lost", "new", json!({})),
    ];
    let plan = planned(&set, &nodes(1), &pods);
    assert_eq!(gone(&plan), ["unbound"]);
    assert_eq!(made(&plan), ["n0"]);
}

#[test]
fn of_two_pods_on_a_node_the_older_stays() {
    let at = |time: &str| json!({ "metadata": { "creationTimestamp": time } });
    let pods = [
        pod("young", "n0", "new", at("2026-01-01T00:01:00Z")),
        pod("old", "n0", "new", at("2026-01-01T00:00:00Z")),
    ];
    assert_eq!(gone(&planned(&set(json!({})), &nodes(1), &pods)), ["young"]);
}

#[test]
fn an_ended_pod_is_taken_away_and_then_followed_by_another_after_a_back_off() {
    let set = set(json!({}));
    let failed = pod("a", "n0", "new", json!({ "status": { "phase": "Failed" } }));
    let pods = [failed];
    let plan = planned(&set, &nodes(1), &pods);
    assert_eq!((plan.ended.len(), made(&plan)), (1, vec![]));
    let input = Input {
        set: &set,
        hash: "new",
        nodes: &nodes(1),
        mine: &pods,
        in_namespace: &pods,
        now: now(),
    };
    let wait = Duration::from_secs(4);
    let plan = super::plan::plan(&input, |_| Some(wait));
    assert!(plan.is_idle());
    assert_eq!(plan.again, Some(wait));
}

#[test]
fn a_rolling_update_takes_away_as_many_as_may_lack() {
    let nodes = nodes(4);
    let old = |n: usize, patch| pod(&format!("p{n}"), &format!("n{n}"), "old", patch);
    let all: Vec<_> = (0..4).map(|n| old(n, json!({}))).collect();
    for (lack, names) in [
        (json!(1), vec!["p0"]),
        (json!(2), vec!["p0", "p1"]),
        (json!("26%"), vec!["p0", "p1"]),
        (json!(0), vec!["p0"]),
    ] {
        let set = set(rolling(json!({ "maxUnavailable": lack })));
        assert_eq!(gone(&planned(&set, &nodes, &all)), names, "{lack}");
    }
    // Old pods that do not work go at any rate, and count as lacking.
    let set = set(rolling(json!({ "maxUnavailable": 1 })));
    let pods = [
        old(0, json!({})),
        old(1, unready()),
        old(2, json!({})),
        old(3, json!({})),
    ];
    assert_eq!(gone(&planned(&set, &nodes, &pods)), ["p1"]);
    // Nobody goes while a new one is not available.
    let pods = [
        pod("p0", "n0", "new", unready()),
        all[1].clone(),
        all[2].clone(),
        all[3].clone(),
    ];
    assert!(planned(&set, &nodes, &pods).is_idle());
    let deleted = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:59:59Z" } });
    let pods = [
        old(0, deleted),
        all[1].clone(),
        all[2].clone(),
        all[3].clone(),
    ];
    assert!(planned(&set, &nodes, &pods).is_idle());
}

#[test]
fn with_surge_the_new_pod_works_before_the_old_one_goes() {
    let nodes = nodes(3);
    let set = set(rolling(json!({ "maxSurge": 1, "maxUnavailable": 0 })));
    let old = |n: usize| pod(&format!("p{n}"), &format!("n{n}"), "old", json!({}));
    let mut pods = vec![old(0), old(1), old(2)];
    let plan = planned(&set, &nodes, &pods);
    assert_eq!(made(&plan), ["n0"]);
    assert!(gone(&plan).is_empty());
    pods.push(pod("q0", "n0", "new", unready()));
    assert!(planned(&set, &nodes, &pods).is_idle());
    pods[3] = pod("q0", "n0", "new", json!({}));
    let plan = planned(&set, &nodes, &pods);
    assert_eq!((made(&plan), gone(&plan)), (vec![], vec!["p0"]));
    pods.remove(0);
    assert_eq!(made(&planned(&set, &nodes, &pods)), ["n1"]);
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let set = set(json!({ "updateStrategy": { "type": "OnDelete" } }));
    let pods = [pod("a", "n0", "old", json!({}))];
    let plan = planned(&set, &nodes(1), &pods);
    assert!(plan.is_idle());
    assert_eq!((plan.status.updated, plan.status.available), (0, 1));
}

#[test]
fn the_status_counts_nodes_and_is_written_only_when_it_differs() {
    let mut set = set(json!({ "minReadySeconds": 3601 }));
    let pods = [
        pod("a", "n0", "new", json!({})),
        pod("b", "n1", "old", unready()),
    ];
    let plan = planned(&set, &nodes(3), &pods);
    assert_eq!(plan.again, Some(Duration::from_secs(1)));
    let patch = changed(&set, plan.status).unwrap();
    assert_eq!(
        patch,
        json!({ "status": {
        "observedGeneration": 3, "desiredNumberScheduled": 3, "currentNumberScheduled": 2,
        "numberMisscheduled": 0, "updatedNumberScheduled": 1, "numberReady": 1,
        "numberAvailable": null, "numberUnavailable": 3,
    } })
    );
    set.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
    assert_eq!(changed(&set, plan.status), None);
}
