//! What wakes pods that found no place, and what does not.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{Cluster, asks};

/// Whether `change` has the scheduler look again at a pod that found no place.
async fn wakes(nodes: &[(&str, Value)], pod: Value, change: impl FnOnce(&mut Cluster)) -> bool {
    let mut cluster = Cluster::of(nodes);
    cluster.run(
        "there",
        "a",
        json!({ "metadata": { "labels": { "app": "there" } },
        "spec": asks("1500m", "0") }),
    );
    cluster.place("p", pod).unwrap_err();
    tokio::time::advance(Duration::from_secs(2)).await;
    change(&mut cluster);
    cluster.next().is_some()
}

#[tokio::test(start_paused = true)]
async fn only_what_could_help_wakes() {
    let one = || [("a", json!({}))];
    let big = || json!({ "spec": asks("1", "0") });
    assert!(wakes(&one(), big(), |c| c.gone("there")).await);
    assert!(wakes(&one(), big(), |c| c.node("b", json!({}))).await);
    let small = json!({ "status": { "allocatable": { "cpu": "500m" } } });
    assert!(
        !wakes(&one(), big(), |c| c.node("b", small)).await,
        "it would not fit"
    );
    let more = json!({ "status": { "allocatable": { "cpu": "4" } } });
    assert!(wakes(&one(), big(), |c| c.node("a", more.clone())).await);
    let other = json!({ "spec": { "nodeSelector": { "zone": "b" } } });
    assert!(!wakes(&one(), other.clone(), |c| c.gone("there")).await);
    assert!(!wakes(&one(), other.clone(), |c| c.node("a", more)).await);
    let moved = json!({ "metadata": { "labels": { "zone": "b" } } });
    assert!(wakes(&one(), other, |c| c.node("a", moved)).await);
    let near = json!({ "spec": { "affinity": { "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "db" } } }] } } } });
    let db = |app: &str| json!({ "metadata": { "labels": { "app": app } } });
    assert!(wakes(&one(), near.clone(), |c| c.run("db", "a", db("db"))).await);
    assert!(!wakes(&one(), near, |c| c.run("db", "a", db("x"))).await);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_changed_itself_is_looked_at_again() {
    let pod = json!({ "spec": { "nodeSelector": { "zone": "b" } } });
    let changed = json!({ "spec": { "nodeSelector": { "zone": "a" } } });
    assert!(wakes(&[("a", json!({}))], pod.clone(), |c| c.pod("p", changed)).await);
    let mut told = pod.clone();
    told["status"] = json!({ "phase": "Pending" });
    assert!(!wakes(&[("a", json!({}))], pod, |c| c.pod("p", told)).await);
}

#[tokio::test(start_paused = true)]
async fn a_device_service_runs_where_its_devices_are() {
    let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({}))]);
    let service = ("d".to_owned(), "modbus".to_owned());
    let driver = json!({ "metadata": { "labels": { "eyot.dev/device-service": "modbus" } } });
    let at = |nodes: &[&str]| {
        nodes
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let now = tokio::time::Instant::now;
    cluster.core.devices(service.clone(), at(&["b"]), now());
    assert_eq!(cluster.place("1", driver.clone()).unwrap(), "b");
    cluster.core.devices(service.clone(), at(&["c"]), now());
    let refused = cluster.place("2", driver).unwrap_err();
    let why = "0/2 nodes are available: \
               2 node(s) didn't have the devices of the pod's device service.";
    assert!(refused.starts_with(why), "{refused}");
    tokio::time::advance(Duration::from_secs(1)).await;
    cluster.core.devices(service, at(&["a"]), now());
    assert_eq!(cluster.outcome("2").unwrap(), "a");
}
