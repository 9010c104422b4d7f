//! PodTopologySpread.

use std::collections::BTreeMap;

use eyot_client::Key;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Cluster, Selector, Volumes, Wishes, merge};
use crate::scheduler::{
    class::Class,
    core::{Outside, Taken, Work},
};

fn zone(zone: &str) -> Value {
    let pods = json!({ "allocatable": { "pods": "100" } });
    json!({ "metadata": { "labels": { "zone": zone } }, "status": pods })
}

fn web(constraint: Value) -> Value {
    let mut one = json!({ "topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } } });
    merge(&mut one, constraint);
    json!({ "metadata": { "labels": { "app": "web" } },
        "spec": { "topologySpreadConstraints": [one] } })
}

fn counts(cluster: &mut Cluster, pods: usize, of: &Value) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for n in 0..pods {
        let node = cluster.place(&format!("p{n}"), of.clone()).unwrap();
        let node = &cluster.nodes[&node];
        let zone = node.metadata.labels.as_ref().unwrap()["zone"].clone();
        *counts.entry(zone).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn domains_differ_by_no_more_than_the_skew() {
    let mut cluster = Cluster::of(&[("a", zone("1")), ("b", zone("1")), ("c", zone("2"))]);
    let found = counts(&mut cluster, 6, &web(json!({})));
    assert_eq!(found, [("1".into(), 3), ("2".into(), 3)].into());
    cluster.node(
        "c",
        json!({ "spec": { "unschedulable": true },
        "metadata": { "labels": { "zone": "2" } } }),
    );
    cluster.place("one", web(json!({}))).unwrap();
    let refused = cluster.place("more", web(json!({}))).unwrap_err();
    let expected = "0/3 nodes are available: 1 node(s) were unschedulable, \
                    2 node(s) didn't match pod topology spread constraints. \
                    preemption: 0/3 nodes are available: \
                    1 Preemption is not helpful for scheduling, \
                    2 No preemption victims found for incoming pod.";
    assert_eq!(refused, expected);
}

#[tokio::test(start_paused = true)]
async fn nodes_without_the_label_take_nobody_and_do_not_count() {
    let mut cluster = Cluster::of(&[("a", zone("1"))]);
    let bare = json!({ "metadata": { "labels": { "zone": null } } });
    cluster
        .nodes
        .insert("b".into(), super::node_of("b", json!({})));
    let mut node = super::node_of("b", json!({}));
    node.metadata.labels = None;
    drop(bare);
    cluster.core.node("b", None, Some(&node), Instant::now());
    assert_eq!(
        counts(&mut cluster, 2, &web(json!({}))),
        [("1".into(), 2)].into()
    );
    let mut cluster = Cluster::default();
    cluster.core.node("b", None, Some(&node), Instant::now());
    let refused = cluster.place("p", web(json!({}))).unwrap_err();
    let why = "1 node(s) didn't match pod topology spread constraints (missing required label)";
    assert!(refused.contains(why), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn too_few_domains_count_as_if_one_were_empty() {
    let mut cluster = Cluster::of(&[("a", zone("1")), ("b", zone("2"))]);
    let three = web(json!({ "minDomains": 3 }));
    assert_eq!(counts(&mut cluster, 2, &three).len(), 2);
    cluster.place("third", three.clone()).unwrap_err();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    cluster.node("c", zone("3"));
    assert_eq!(cluster.outcome("third").unwrap(), "c");
}

#[tokio::test(start_paused = true)]
async fn nodes_that_the_pod_cannot_have_count_as_the_policies_say() {
    let with = |policy: Value, spec: Value| {
        let mut pod = web(policy);
        merge(&mut pod, json!({ "spec": spec }));
        pod
    };
    let tainted = || {
        let mut node = zone("2");
        let taints = json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } });
        merge(&mut node, taints);
        node
    };
    let place = |pods: usize, of: Value| {
        let mut cluster = Cluster::of(&[("a", zone("1")), ("b", tainted())]);
        (0..pods).all(|n| cluster.place(&n.to_string(), of.clone()).is_ok())
    };
    assert!(
        !place(2, with(json!({}), json!({}))),
        "the tainted zone stays empty"
    );
    assert!(place(
        2,
        with(json!({ "nodeTaintsPolicy": "Honor" }), json!({}))
    ));
    let chosen = json!({ "nodeSelector": { "zone": "1" } });
    assert!(place(2, with(json!({}), chosen.clone())));
    assert!(!place(
        2,
        with(json!({ "nodeAffinityPolicy": "Ignore" }), chosen)
    ));
}

#[tokio::test(start_paused = true)]
async fn pods_of_another_version_count_only_for_their_own() {
    let of = |version: &str| {
        let mut pod = web(json!({ "matchLabelKeys": ["version"] }));
        pod["metadata"]["labels"]["version"] = json!(version);
        pod
    };
    let mut cluster = Cluster::of(&[("a", zone("1")), ("b", zone("2"))]);
    cluster.run("old", "a", of("1"));
    cluster.run("older", "a", of("1"));
    assert_eq!(
        counts(&mut cluster, 4, &of("2")),
        [("1".into(), 2), ("2".into(), 2)].into()
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_leaving_does_not_count() {
    let mut cluster = Cluster::of(&[("a", zone("1")), ("b", zone("2"))]);
    cluster.run("x", "a", web(json!({})));
    let mut leaving = web(json!({}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(cluster.place("1", web(json!({}))).unwrap(), "b");
    cluster.run("x", "a", leaving);
    assert_eq!(cluster.place("2", web(json!({}))).unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_constraint_that_may_be_broken_still_spreads() {
    let anyway = web(json!({ "whenUnsatisfiable": "ScheduleAnyway" }));
    let mut cluster = Cluster::of(&[("a", zone("1")), ("b", zone("1")), ("c", zone("2"))]);
    let found = counts(&mut cluster, 4, &anyway);
    assert_eq!(found, [("1".into(), 2), ("2".into(), 2)].into());
}

/// Pods with the same label `app` serve the same.
struct Apps;

impl Outside for Apps {
    fn family(&self, class: &Class) -> Option<Selector> {
        let app = class.labels.get_key_value("app")?;
        Some(Selector::of_labels([app].into_iter()))
    }

    fn wishes(&self, _: &Key) -> Result<Wishes, String> {
        Ok(Wishes::default())
    }

    fn objections(&self, _: &Wishes, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn reserve(&self, _: &Wishes, _: &str) -> Result<Option<Volumes>, Taken> {
        Ok(None)
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_say_nothing_are_spread_with_those_who_serve_the_same() {
    let node = |name: &str| {
        let labels = json!({ "topology.kubernetes.io/zone": name });
        json!({ "metadata": { "labels": labels },
            "status": { "allocatable": { "cpu": "100", "memory": "100Gi", "pods": "100" } } })
    };
    let mut cluster = Cluster::of(&[("a", node("1")), ("b", node("2"))]);
    let mut places = BTreeMap::<String, usize>::new();
    for n in 0..10 {
        let pod = json!({ "metadata": { "labels": { "app": "web" } } });
        let name = format!("p{n}");
        cluster.pod(&name, pod);
        match cluster
            .core
            .next(&Apps, Instant::now())
            .map(|decided| decided.work)
        {
            Some(Work::Bind { key, node, .. }) => {
                assert_eq!(key, Key::new("d", &name));
                *places.entry(node).or_default() += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(places, [("a".into(), 5), ("b".into(), 5)].into());
    let left = cluster.core.snapshot.matchers.len();
    assert_eq!(left, 1, "all of them ask the same");
}
