//! Decisions of the garbage collector, and the picture that they are taken from.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{api::PropagationPolicy, discovery::ApiResource};
use serde_json::json;

use super::{
    decide::{Act, OwnerState, decide},
    graph::{Graph, Item},
};
use crate::resources::Served;

fn owner(uid: &str) -> OwnerReference {
    OwnerReference {
        uid: uid.into(),
        ..OwnerReference::default()
    }
}

#[track_caller]
fn check(states: &[(&str, OwnerState)], has_dependents: bool, expected: Act<'_>) {
    let owners: Vec<_> = states.iter().map(|(uid, _)| owner(uid)).collect();
    let states: HashMap<&str, OwnerState> = states.iter().copied().collect();
    assert_eq!(decide(&owners, &states, has_dependents), expected);
}

#[test]
fn an_object_stays_while_one_owner_does() {
    use OwnerState::{Gone, There, WaitsForDependents as Waits};
    check(&[("a", There)], false, Act::Keep);
    check(&[("a", There), ("b", Gone)], false, Act::Release(vec!["b"]));
    check(&[("a", Waits), ("b", There)], true, Act::Release(vec!["a"]));
    check(
        &[("a", Gone)],
        true,
        Act::Delete(PropagationPolicy::Background),
    );
    check(
        &[("a", Gone), ("b", Gone)],
        false,
        Act::Delete(PropagationPolicy::Background),
    );
    check(
        &[("a", Waits)],
        false,
        Act::Delete(PropagationPolicy::Background),
    );
    check(
        &[("a", Waits), ("b", Gone)],
        true,
        Act::Delete(PropagationPolicy::Foreground),
    );
}

fn item(uid: &str, meta: serde_json::Value) -> Item {
    let mut meta: ObjectMeta = serde_json::from_value(meta).unwrap();
    meta.uid = Some(uid.into());
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let served = Arc::new(Served {
        resource,
        namespaced: true,
        collections: true,
    });
    Item::new(served, meta)
}

fn put(graph: &mut Graph, item: Item) -> Vec<String> {
    texts(graph.put(item))
}

fn remove(graph: &mut Graph, uid: &str) -> Vec<String> {
    texts(graph.remove(uid))
}

fn texts(uids: Vec<Arc<str>>) -> Vec<String> {
    uids.iter().map(ToString::to_string).collect()
}

fn owned(uid: &str, by: &str) -> Item {
    let owner = json!({ "uid": by, "apiVersion": "v1", "kind": "Pod", "name": by });
    item(uid, json!({ "ownerReferences": [owner] }))
}

#[test]
fn dependents_are_looked_at_when_they_come_and_when_their_owner_goes() {
    let mut graph = Graph::default();
    assert_eq!(put(&mut graph, item("o", json!({}))), Vec::<String>::new());
    assert_eq!(put(&mut graph, owned("a", "o")), ["a"]);
    assert_eq!(put(&mut graph, owned("b", "o")), ["b"]);
    assert_eq!(
        put(&mut graph, owned("b", "o")),
        Vec::<String>::new(),
        "nothing that matters changed"
    );
    assert_eq!(remove(&mut graph, "o"), ["a", "b"]);
    assert_eq!(remove(&mut graph, "a"), Vec::<String>::new());
    remove(&mut graph, "b");
    assert!(graph.dependents("o").is_empty());
}

#[test]
fn an_owner_that_waits_is_looked_at_when_a_dependent_goes() {
    let mut graph = Graph::default();
    put(&mut graph, owned("a", "o"));
    let waiting = json!({
        "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"],
    });
    assert_eq!(put(&mut graph, item("o", waiting)), ["o"]);
    assert_eq!(graph.dependents("o").len(), 1);
    assert_eq!(
        put(&mut graph, item("a", json!({}))),
        ["o"],
        "let go is as good as gone"
    );
    put(&mut graph, owned("b", "o"));
    assert_eq!(remove(&mut graph, "b"), ["o"]);
}

#[test]
fn an_object_that_changed_hands_depends_on_its_new_owner_only() {
    let mut graph = Graph::default();
    put(&mut graph, owned("a", "o"));
    assert_eq!(put(&mut graph, owned("a", "p")), ["a"]);
    assert!(graph.dependents("o").is_empty());
    assert_eq!(graph.dependents("p").len(), 1);
}

#[test]
fn a_repeated_list_removes_what_it_does_not_name_of_its_own_kind() {
    let mut graph = Graph::default();
    let (kept, mut gone, other) = (
        item("kept", json!({})),
        item("gone", json!({})),
        owned("d", "gone"),
    );
    let served = kept.served.clone();
    gone.served = served.clone();
    for item in [kept, gone, other] {
        put(&mut graph, item);
    }
    let listed = HashSet::from([Arc::from("kept")]);
    assert_eq!(
        texts(graph.retain(&served, &listed)),
        ["d"],
        "its dependents are looked at"
    );
    assert!(graph.get("gone").is_none() && graph.get("kept").is_some());
    assert!(graph.get("d").is_some(), "a kind that was not listed");
}

#[test]
fn who_waits_for_himself_through_others_is_in_a_circle() {
    let waiting = |uid: &str, by: &str, block: bool| {
        let owner = json!({
            "uid": by, "apiVersion": "v1", "kind": "Pod", "name": by, "blockOwnerDeletion": block,
        });
        item(
            uid,
            json!({
                "ownerReferences": [owner], "finalizers": ["foregroundDeletion"],
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            }),
        )
    };
    let mut graph = Graph::default();
    let a = waiting("a", "c", true);
    put(&mut graph, a.clone());
    put(&mut graph, waiting("b", "a", true));
    put(&mut graph, owned("c", "b"));
    assert!(!graph.waits_for(&a, "c"), "c is not being deleted");
    put(&mut graph, waiting("c", "b", true));
    assert!(graph.waits_for(&a, "c") && graph.waits_for(&a, "b"));
    assert!(graph.waits_for(&a, "a"));
    put(&mut graph, waiting("c", "b", false));
    assert!(!graph.waits_for(&a, "c"), "b does not wait for c");
}
