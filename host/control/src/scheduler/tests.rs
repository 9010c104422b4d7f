//! Choices of the scheduler: pods, nodes and a ledger in, a node or a reason out.

use std::sync::Arc;

use eyot_client::{Key, view::Pod};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::{
    fit::{self, may_fit_more},
    ledger::Ledger,
    request::Demand,
};

fn node(name: &str, spec: Value) -> Arc<Node> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "zone": name, "cores": "4" } },
            "spec": spec,
            "status": {
                "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3" },
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        }))
        .unwrap(),
    )
}

fn asks(cpu: &str, memory: &str) -> Value {
    let requests = json!({ "cpu": cpu, "memory": memory });
    json!({ "containers": [{ "name": "c", "resources": { "requests": requests } }] })
}

fn pod(spec: Value) -> Pod {
    let mut value = json!({ "metadata": { "name": "p" }, "spec": { "containers": [] } });
    value["spec"]
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

fn choose(
    pod: &Pod,
    demand: &Demand,
    nodes: &[Arc<Node>],
    ledger: &Ledger,
) -> Result<String, String> {
    fit::choose(pod, demand, nodes, ledger, |_| Vec::new())
}

#[test]
fn a_node_that_storage_objects_to_is_not_chosen() {
    let (a, b) = (node("a", json!({})), node("b", json!({})));
    let pod = pod(json!({}));
    let far = |node: &Node| match node.metadata.name.as_deref() {
        Some("a") => vec!["node(s) didn't match PersistentVolume's node affinity".to_owned()],
        _ => Vec::new(),
    };
    let choose =
        |nodes: &[Arc<Node>]| fit::choose(&pod, &Demand::of(&pod), nodes, &Ledger::default(), far);
    assert_eq!(choose(&[a.clone(), b]).as_deref(), Ok("b"));
    let said = "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity.";
    assert_eq!(choose(&[a]), Err(said.to_owned()));
}

#[track_caller]
fn check(spec: Value, nodes: &[Arc<Node>], expected: Result<&str, &str>) {
    let pod = pod(spec);
    let found = choose(&pod, &Demand::of(&pod), nodes, &Ledger::default());
    assert_eq!(
        found.as_ref().map(String::as_str).map_err(String::as_str),
        expected
    );
}

#[test]
fn a_pod_without_wishes_runs_anywhere_and_without_nodes_nowhere() {
    check(json!({}), &[node("a", json!({}))], Ok("a"));
    check(json!({}), &[], Err("no nodes available to schedule pods"));
}

#[test]
fn what_is_short_is_named_for_each_node() {
    let nodes = [
        node("a", json!({})),
        node("b", json!({ "unschedulable": true })),
    ];
    let expected = "0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, \
                    1 node(s) were unschedulable.";
    check(asks("3", "2Gi"), &nodes, Err(expected));
    check(asks("2", "1Gi"), &nodes, Ok("a"));
    let device = json!({ "containers": [{ "name": "c",
        "resources": { "limits": { "x/gpu": "1" } } }] });
    let expected = "0/1 nodes are available: 1 Insufficient x/gpu.";
    check(device, &nodes[..1], Err(expected));
}

#[test]
fn what_others_take_is_gone_and_comes_back() {
    let nodes = [node("a", json!({}))];
    let mut ledger = Ledger::default();
    let big = pod(asks("1500m", "0"));
    let (one, two) = (Key::new("d", "one"), Key::new("d", "two"));
    ledger.put(&one, "a", Demand::of(&big));
    ledger.put(&one, "a", Demand::of(&big));
    let refused = choose(&big, &Demand::of(&big), &nodes, &ledger).unwrap_err();
    assert_eq!(refused, "0/1 nodes are available: 1 Insufficient cpu.");
    assert!(ledger.remove(&one));
    assert!(!ledger.remove(&two));
    assert_eq!(
        choose(&big, &Demand::of(&big), &nodes, &ledger).unwrap(),
        "a"
    );
    for name in ["1", "2", "3"] {
        ledger.put(&Key::new("d", name), "a", Demand::default());
    }
    let refused = choose(&pod(json!({})), &Demand::default(), &nodes, &ledger).unwrap_err();
    assert_eq!(refused, "0/1 nodes are available: 1 Too many pods.");
}

#[test]
fn pods_go_where_the_most_is_free() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let mut ledger = Ledger::default();
    let small = pod(asks("100m", "10Mi"));
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for n in 0..6 {
        let place = choose(&small, &Demand::of(&small), &nodes, &ledger).unwrap();
        ledger.put(&Key::new("d", &n.to_string()), &place, Demand::of(&small));
        *counts.entry(place).or_default() += 1;
    }
    assert_eq!(
        counts.into_iter().collect::<Vec<_>>(),
        [("a".into(), 3), ("b".into(), 3)]
    );
    let idle = Demand::default();
    let mut ledger = Ledger::default();
    ledger.put(&Key::new("d", "x"), "a", idle.clone());
    assert_eq!(
        choose(&pod(json!({})), &idle, &nodes, &ledger).unwrap(),
        "b"
    );
}

#[test]
fn node_selector_and_affinity_choose_by_labels() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    check(json!({ "nodeSelector": { "zone": "b" } }), &nodes, Ok("b"));
    let refused = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    check(
        json!({ "nodeSelector": { "zone": "c" } }),
        &nodes,
        Err(refused),
    );
    let affinity = |expressions: Value| {
        json!({ "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{ "matchExpressions": expressions }] } } } })
    };
    let is = |operator: &str, key: &str, values: Value| {
        affinity(json!([{ "key": key, "operator": operator, "values": values }]))
    };
    check(is("In", "zone", json!(["b", "x"])), &nodes, Ok("b"));
    check(is("NotIn", "zone", json!(["a"])), &nodes, Ok("b"));
    check(is("Gt", "cores", json!(["3"])), &nodes, Ok("a"));
    check(is("Lt", "cores", json!(["3"])), &nodes, Err(refused));
    check(is("Exists", "none", json!([])), &nodes, Err(refused));
    check(is("DoesNotExist", "none", json!([])), &nodes, Ok("a"));
    check(affinity(json!([])), &nodes, Err(refused));
}

#[test]
fn taints_repel_whom_does_not_tolerate_them() {
    let taint = json!({ "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] });
    let nodes = [node("a", taint)];
    let refused = "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.";
    check(json!({}), &nodes, Err(refused));
    let tolerates = |toleration: Value| json!({ "tolerations": [toleration] });
    check(
        tolerates(json!({ "key": "k", "operator": "Exists" })),
        &nodes,
        Ok("a"),
    );
    check(tolerates(json!({ "operator": "Exists" })), &nodes, Ok("a"));
    check(
        tolerates(json!({ "key": "k", "value": "v", "effect": "NoSchedule" })),
        &nodes,
        Ok("a"),
    );
    check(
        tolerates(json!({ "key": "k", "value": "x" })),
        &nodes,
        Err(refused),
    );
    check(
        tolerates(json!({ "key": "k", "value": "v", "effect": "NoExecute" })),
        &nodes,
        Err(refused),
    );
    let soft = json!({ "taints": [{ "key": "k", "effect": "PreferNoSchedule" }] });
    check(json!({}), &[node("a", soft)], Ok("a"));
}

#[test]
fn a_node_that_is_not_ready_takes_nobody_until_it_is() {
    let mut down = (*node("a", json!({}))).clone();
    let conditions = down.status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions[0].status = "Unknown".into();
    let ready = node("a", json!({}));
    check(
        json!({}),
        &[down.clone().into()],
        Err("0/1 nodes are available: 1 node(s) were not ready."),
    );
    assert!(may_fit_more(Some(&down), Some(&ready)));
    assert!(
        !may_fit_more(Some(&ready), Some(&ready)),
        "a heartbeat frees nothing"
    );
    assert!(may_fit_more(None, Some(&ready)));
    assert!(!may_fit_more(Some(&ready), None));
}

#[test]
fn a_port_of_the_node_is_given_once() {
    let port = |number: i32, ip: &str| {
        pod(json!({ "containers": [{ "name": "c", "ports": [
            { "containerPort": 80, "hostPort": number, "hostIP": ip }] }] }))
    };
    let nodes = [node("a", json!({}))];
    let mut ledger = Ledger::default();
    ledger.put(&Key::new("d", "x"), "a", Demand::of(&port(8080, "")));
    let try_port = |pod: Pod| choose(&pod, &Demand::of(&pod), &nodes, &ledger);
    let refused = "0/1 nodes are available: \
                   1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(try_port(port(8080, "127.0.0.1")).unwrap_err(), refused);
    assert_eq!(try_port(port(8081, "")).unwrap(), "a");
}

#[test]
fn a_pod_takes_its_containers_together_or_its_start_at_its_worst() {
    let container = |cpu: &str, always: bool| {
        let mut value = json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
        if always {
            value["restartPolicy"] = json!("Always");
        }
        value
    };
    let cpu = |init: Vec<Value>| {
        let containers = [container("1", false), container("500m", false)];
        let pod = pod(json!({ "containers": containers, "initContainers": init }));
        Demand::of(&pod).amounts["cpu"]
    };
    assert_eq!(cpu(vec![]), 1500);
    assert_eq!(
        cpu(vec![container("2", false), container("1", false)]),
        2000
    );
    assert_eq!(cpu(vec![container("250m", true)]), 1750, "a sidecar stays");
    assert_eq!(cpu(vec![container("1", true), container("2", false)]), 3000);
}
