//! Plans of ReplicaSets: a set and its pods in, requests and a status out.

use std::{collections::HashSet, sync::Arc};

use eyot_client::view::Pod;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use serde_json::json;

use super::{
    Pods, Replicated,
    plan::{self, Plan},
    status::{Outcome, changed},
};
use crate::owner;

fn plan(set: &ReplicaSet, pods: &Pods, now: Timestamp) -> Plan {
    let related = HashSet::from(["rs-uid".to_owned(), "sibling".to_owned()]);
    plan::plan(set, &owner::reference(set), &related, pods, now)
}

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "d", "uid": "rs-uid", "generation": 2 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" }, "annotations": { "a": "b" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    }))
    .unwrap()
}

/// A pod of the set, changed as the JSON merge patch says.
fn pod(name: &str, patch: serde_json::Value) -> Arc<Pod> {
    let mut value = json!({
        "metadata": {
            "name": name, "namespace": "d", "uid": format!("uid-{name}"),
            "labels": { "app": "web" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs-uid",
                "controller": true,
            }],
        },
        "spec": { "containers": [], "nodeName": "n" },
        "status": { "phase": "Running", "conditions": [
            { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
        ]},
    });
    merge(&mut value, patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn merge(into: &mut serde_json::Value, patch: serde_json::Value) {
    match patch {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                merge(&mut into[key], value);
            }
        }
        other => *into = other,
    }
}

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn names<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<String> {
    let names = pods.into_iter().map(|pod| pod.metadata.name.clone());
    names.flatten().collect()
}

fn made(plan: &Plan) -> Vec<String> {
    let pods: Vec<_> = plan.create.iter().map(crate::pod::seen).collect();
    names(&pods)
}

fn surrendered(plan: &Plan) -> Vec<String> {
    names(plan.delete.iter().map(|pod| &**pod))
}

#[test]
fn missing_pods_are_made_from_the_template_and_owned() {
    let plan = plan(&set(2), &[], now());
    assert_eq!(plan.create.len(), 2);
    let first = &plan.create[0];
    assert!(first.metadata.name.as_ref().unwrap().starts_with("web-"));
    assert_eq!(first.metadata.generate_name.as_deref(), Some("web-"));
    assert_eq!(first.metadata.labels.as_ref().unwrap()["app"], "web");
    assert_eq!(first.metadata.annotations.as_ref().unwrap()["a"], "b");
    let owner = &first.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.uid.as_str(), owner.controller),
        ("rs-uid", Some(true))
    );
    assert_eq!(
        (owner.api_version.as_str(), owner.kind.as_str()),
        ("apps/v1", "ReplicaSet")
    );
    assert_eq!(
        first.spec.as_ref().unwrap().containers[0].image.as_deref(),
        Some("i")
    );
}

#[test]
fn a_repeated_pass_on_an_old_cache_names_the_same_pods() {
    let first = made(&plan(&set(3), &[], now()));
    assert_eq!(made(&plan(&set(3), &[], now())), first);
    let one_seen = [pod(&first[1], json!({}))];
    let second = made(&plan(&set(3), &one_seen, now()));
    assert_eq!(second, [first[0].clone(), first[2].clone()]);
}

#[test]
fn the_name_of_a_pod_that_is_leaving_is_not_reused_before_it_is_gone() {
    let first = made(&plan(&set(1), &[], now()));
    let leaving = pod(
        &first[0],
        json!({ "metadata": { "deletionTimestamp": now() } }),
    );
    let plan = plan(&set(1), &[leaving], now());
    assert_eq!(plan.status.terminating, 1);
    let second = made(&plan);
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);
}

#[test]
fn a_pod_that_ended_is_replaced_and_a_foreign_name_is_left_alone() {
    let first = made(&plan(&set(1), &[], now()));
    let failed = pod(&first[0], json!({ "status": { "phase": "Failed" } }));
    assert_eq!(made(&plan(&set(1), &[failed], now())).len(), 1);
    let foreign = pod(
        &first[0],
        json!({ "metadata": { "labels": null, "ownerReferences": null } }),
    );
    let other = made(&plan(&set(1), &[foreign], now()));
    assert!(other.len() == 1 && other != first, "{other:?}");
}

#[test]
fn scaling_down_surrenders_unready_pods_first() {
    let unready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    let pods = [
        pod("ready", json!({})),
        pod("unready", unready),
        pod(
            "pending",
            json!({ "status": { "phase": "Pending", "conditions": null } }),
        ),
        pod(
            "unbound",
            json!({ "spec": { "nodeName": null }, "status": null }),
        ),
    ];
    assert_eq!(surrendered(&plan(&set(3), &pods, now())), ["unbound"]);
    assert_eq!(
        surrendered(&plan(&set(1), &pods, now())),
        ["unbound", "pending", "unready"]
    );
}

#[test]
fn among_equal_pods_the_cheapest_then_the_youngest_go() {
    let cost = |n: &str| {
        json!({ "metadata": { "annotations": {
        "controller.kubernetes.io/pod-deletion-cost": n } } })
    };
    let since = |t: &str| {
        json!({ "status": { "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": t }] } })
    };
    let pods = [
        pod("old", since("2026-01-01T00:00:00Z")),
        pod("young", since("2026-01-01T00:30:00Z")),
        pod("dear", cost("10")),
        pod("cheap", cost("-10")),
    ];
    assert_eq!(
        surrendered(&plan(&set(1), &pods, now())),
        ["cheap", "young", "old"]
    );
}

#[test]
fn a_typo_of_replicas_is_carried_out_in_portions() {
    assert_eq!(made(&plan(&set(100_000), &[], now())).len(), 500);
}

#[test]
fn orphans_that_match_are_adopted_and_children_that_do_not_are_released() {
    let orphan = pod("orphan", json!({ "metadata": { "ownerReferences": null } }));
    let stray = pod(
        "stray",
        json!({ "metadata": { "labels": { "app": "other" } } }),
    );
    let plan = plan(&set(1), &[orphan, stray], now());
    assert_eq!((made(&plan).len(), surrendered(&plan).len()), (0, 0));
    let claimed = |pods: &[Arc<Pod>]| names(pods.iter().map(|pod| &**pod));
    assert_eq!(claimed(&plan.claim.adopt), ["orphan"]);
    assert_eq!(claimed(&plan.claim.release), ["stray"]);
}

#[test]
fn pods_of_another_controller_are_left_alone_even_if_they_match() {
    let owner = json!({ "metadata": { "ownerReferences": [{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x", "controller": true,
    }] } });
    let plan = plan(&set(0), &[pod("theirs", owner)], now());
    assert_eq!((plan.delete.len(), plan.status.replicas), (0, 0));
    assert!(plan.claim.mine.is_empty() && plan.claim.release.is_empty());
}

#[test]
fn a_deleted_set_makes_and_removes_nothing() {
    let mut gone = set(5);
    gone.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    let orphan = pod("b", json!({ "metadata": { "ownerReferences": null } }));
    let plan = plan(&gone, &[pod("a", json!({})), orphan], now());
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    assert!(plan.claim.adopt.is_empty());
}

#[test]
fn a_pod_counts_as_available_once_it_was_ready_for_long_enough() {
    let mut set = set(1);
    set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
    let pods = [pod("a", json!({}))];
    let ready: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let early = plan(&set, &pods, ready + SignedDuration::from_secs(10));
    assert_eq!((early.status.ready, early.status.available), (1, 0));
    assert_eq!(early.again.unwrap().as_secs(), 20);
    let late = plan(&set, &pods, ready + SignedDuration::from_secs(30));
    assert_eq!((late.status.available, late.again), (1, None));
}

#[test]
fn the_status_is_written_only_when_it_differs() {
    let mut set = set(1);
    let counts = plan(&set, &[pod("a", json!({}))], now()).status;
    let done = Outcome::Done;
    let patch = changed(&set, counts, &done, now()).unwrap();
    assert_eq!(patch["status"]["readyReplicas"], 1);
    assert_eq!(patch["status"]["observedGeneration"], 2);
    set.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
    assert_eq!(changed(&set, counts, &done, now()), None);
    let refused = Outcome::CreateRefused("quota".into());
    let patch = changed(&set, counts, &refused, now()).unwrap();
    let condition = &patch["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("ReplicaFailure"), &json!("FailedCreate"))
    );
    set.status = Some(serde_json::from_value(patch["status"].clone()).unwrap());
    // What was said first stays, and not having tried says nothing.
    let again = Outcome::DeleteRefused("other words".into());
    assert_eq!(changed(&set, counts, &again, now()), None);
    assert_eq!(changed(&set, counts, &Outcome::Untried, now()), None);
    let healed = changed(&set, counts, &done, now()).unwrap();
    assert_eq!(healed["status"]["conditions"], json!(null));
}

#[test]
fn of_equal_pods_those_that_share_a_node_with_most_of_their_kin_go_first() {
    let on = |node: &str| json!({ "spec": { "nodeName": node } });
    let sibling = json!({
        "metadata": { "labels": { "app": "other" }, "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "old", "uid": "sibling",
            "controller": true,
        }] },
        "spec": { "nodeName": "b" },
    });
    let pods = [
        pod("alone", on("a")),
        pod("together", on("b")),
        pod("kin", sibling),
    ];
    assert_eq!(surrendered(&plan(&set(1), &pods, now())), ["together"]);
}

#[test]
fn ages_of_the_same_magnitude_are_equal() {
    let since = |time: &str, restarts: i32| {
        json!({ "status": {
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": time }],
            "containerStatuses": [{ "name": "c", "image": "i", "imageID": "", "ready": true,
                                    "restartCount": restarts }],
        } })
    };
    let pods = [
        pod("younger", since("2026-01-01T00:10:01Z", 0)),
        pod("older", since("2026-01-01T00:10:00Z", 3)),
    ];
    assert_eq!(surrendered(&plan(&set(1), &pods, now())), ["older"]);
}

#[test]
fn a_replication_controller_is_a_set_in_other_words() {
    let controller: ReplicationController = serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "d", "uid": "rs-uid", "generation": 2 },
        "spec": {
            "replicas": 2, "selector": { "app": "web" },
            "template": set(1).spec.unwrap().template,
        },
        "status": { "replicas": 1, "conditions": [
            { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate" }] },
    }))
    .unwrap();
    let as_set = controller.as_set();
    let none = HashSet::new();
    let reference = owner::reference(&controller);
    let owned = json!({ "metadata": { "ownerReferences": [reference] } });
    let plan = plan::plan(&as_set, &reference, &none, &[pod("a", owned)], now());
    assert_eq!((plan.create.len(), plan.claim.adopt.len()), (1, 0));
    let owners = plan.create[0].metadata.owner_references.as_ref().unwrap();
    assert_eq!(
        (owners[0].api_version.as_str(), owners[0].kind.as_str()),
        ("v1", "ReplicationController")
    );
    let patch = changed(&as_set, plan.status, &Outcome::Done, now()).unwrap();
    let patch = ReplicationController::status_patch(patch);
    assert_eq!(patch["status"]["conditions"], json!(null));
    assert!(patch["status"].get("terminatingReplicas").is_none());
}
