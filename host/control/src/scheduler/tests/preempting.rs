//! DefaultPreemption.

use eyot_client::Key;
use serde_json::{Value, json};

use super::{Cluster, asks, merge};
use crate::scheduler::core::{Promise, Work};

fn pod(priority: i32, cpu: &str) -> Value {
    let mut spec = asks(cpu, "0");
    spec["priority"] = json!(priority);
    json!({ "metadata": { "labels": { "app": "web" } }, "spec": spec })
}

/// Who has to go for a pod, and from where.
#[track_caller]
fn preempts(cluster: &mut Cluster, of: Value) -> (String, Vec<String>) {
    cluster.pod("vip", of);
    match cluster.next() {
        Some(Work::Refuse {
            promise: Promise::Make(place),
            ..
        }) => {
            let victims = place.victims.iter().map(|(key, _)| key.name.to_string());
            (place.node.to_string(), victims.collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_fewest_and_least_important_go_and_only_as_many_as_needed() {
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("low", "a", pod(1, "1"));
    cluster.run("lower", "a", pod(0, "1"));
    assert_eq!(
        preempts(&mut cluster, pod(10, "1")),
        ("a".into(), vec!["lower".into()])
    );
    let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({})), ("c", json!({}))]);
    cluster.run("1", "a", pod(5, "2"));
    cluster.run("2", "b", pod(1, "1"));
    cluster.run("3", "b", pod(1, "1"));
    cluster.run("4", "c", pod(1, "2"));
    assert_eq!(
        preempts(&mut cluster, pod(10, "2")),
        ("c".into(), vec!["4".into()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_the_place_it_was_promised_and_nobody_lesser_takes_it() {
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("low", "a", pod(0, "2"));
    preempts(&mut cluster, pod(10, "2"));
    let key = Key::new("d", "vip");
    let promised = |cluster: &Cluster| cluster.core.pending(&key).unwrap().nominated.clone();
    assert_eq!(promised(&cluster).as_deref(), Some("a"));
    // The victim is on its way.
    let mut leaving = pod(0, "2");
    merge(
        &mut leaving,
        json!({
            "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "status": { "conditions": [{ "type": "DisruptionTarget", "status": "True",
                "reason": "PreemptionByScheduler" }] },
        }),
    );
    cluster.run("low", "a", leaving);
    cluster.gone("low");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    cluster.pod("thief", pod(5, "2"));
    let mut outcomes = Vec::new();
    while let Some(work) = cluster.next() {
        outcomes.push(work);
    }
    let bound = |work: &Work| match work {
        Work::Bind { key, .. } => Some(key.name.to_string()),
        Work::Refuse { .. } => None,
    };
    let bound: Vec<_> = outcomes.iter().filter_map(bound).collect();
    assert_eq!(bound, ["vip"]);
}

#[tokio::test(start_paused = true)]
async fn while_victims_are_leaving_no_more_are_made() {
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("low", "a", pod(0, "2"));
    preempts(&mut cluster, pod(10, "2"));
    let mut leaving = pod(0, "2");
    merge(
        &mut leaving,
        json!({
            "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "status": { "conditions": [{ "type": "DisruptionTarget", "status": "True",
                "reason": "PreemptionByScheduler" }] },
        }),
    );
    cluster.run("low", "a", leaving);
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    match cluster.next() {
        Some(Work::Refuse {
            message,
            promise: Promise::Keep,
            ..
        }) => assert_eq!(
            message,
            "0/1 nodes are available: 1 Insufficient cpu. preemption: \
             not eligible due to a terminating pod on the nominated node."
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_never_preempts_or_is_not_more_important_makes_nobody_go() {
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("low", "a", pod(0, "2"));
    let mut meek = pod(10, "1");
    meek["spec"]["preemptionPolicy"] = json!("Never");
    assert_eq!(
        cluster.place("meek", meek).unwrap_err(),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: \
         not eligible due to preemptionPolicy=Never."
    );
    let refused = cluster.place("equal", pod(0, "1")).unwrap_err();
    assert!(
        refused.ends_with("1 No preemption victims found for incoming pod."),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn budgets_are_kept_where_it_can_be() {
    let budget = |allowed: i32| {
        serde_json::from_value(json!({
            "metadata": { "name": "b", "namespace": "d" },
            "spec": { "selector": { "matchLabels": { "app": "web" } } },
            "status": { "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1,
                "expectedPods": 1 },
        }))
        .unwrap()
    };
    let key = Key::new("d", "b");
    let mut free = pod(5, "2");
    free["metadata"]["labels"]["app"] = json!("free");
    let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({}))]);
    cluster.run("guarded", "a", pod(0, "2"));
    cluster.run("free", "b", free);
    cluster.core.budget(&key, Some(&budget(0)));
    assert_eq!(
        preempts(&mut cluster, pod(10, "2")).0,
        "b",
        "although it matters more"
    );
    cluster.gone("vip");
    cluster.core.budget(&key, Some(&budget(1)));
    assert_eq!(preempts(&mut cluster, pod(10, "2")).0, "a");
}

#[tokio::test(start_paused = true)]
async fn anti_affinity_and_ports_are_made_room_for_too() {
    let far = json!({ "affinity": { "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "web" } } }] } } });
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("low", "a", pod(0, "100m"));
    let mut vip = pod(10, "100m");
    merge(&mut vip["spec"], far);
    assert_eq!(preempts(&mut cluster, vip).1, ["low"]);
    let port = |priority: i32| {
        json!({ "spec": { "priority": priority, "containers": [{ "name": "c", "ports": [
            { "containerPort": 80, "hostPort": 80 }] }] } })
    };
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("low", "a", port(0));
    cluster.run("other", "a", pod(0, "1"));
    assert_eq!(preempts(&mut cluster, port(10)).1, ["low"]);
}
