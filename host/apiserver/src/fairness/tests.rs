//! Sorting by the standing schemas, and who gets seats when there are too few.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eyot_store::{Key, Store};
use http::HeaderMap;
use serde_json::{Value, json};

use super::{Fairness, LEVELS, SCHEMAS, bootstrap};
use crate::{auth::Attributes, user::User};

async fn standing() -> Store {
    let store = Store::in_memory(|_, _| Vec::new());
    bootstrap::reconcile(&store).await.unwrap();
    store
}

fn asked(
    verb: &'static str,
    resource: &'static str,
    namespace: &'static str,
) -> Attributes<'static> {
    Attributes {
        verb: verb.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        ..Attributes::default()
    }
}

fn uid(store: &Store, resource: &str, name: &str) -> String {
    let stored = store.get(&Key::new(resource, "", name)).unwrap();
    let value: Value = serde_json::from_slice(&stored.json).unwrap();
    value["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn requests_are_sorted_as_kubernetes_sorts_them() {
    let store = standing().await;
    let fairness = Fairness::new(&store);
    let path = |path: &'static str| Attributes {
        verb: "get".into(),
        path: Some(path.into()),
        ..Attributes::default()
    };
    let lease = || Attributes {
        group: "coordination.k8s.io".into(),
        ..asked("update", "leases", "kube-node-lease")
    };
    for (name, groups, attributes, schema, level) in [
        (
            "root",
            &["system:masters"][..],
            asked("get", "pods", "x"),
            "exempt",
            "exempt",
        ),
        (
            "system:anonymous",
            &["system:unauthenticated"],
            path("/livez"),
            "probes",
            "exempt",
        ),
        (
            "system:anonymous",
            &["system:unauthenticated"],
            path("/api"),
            "global-default",
            "global-default",
        ),
        (
            "ann",
            &["system:authenticated"],
            asked("list", "pods", ""),
            "global-default",
            "global-default",
        ),
        (
            "system:node:n",
            &["system:nodes", "system:authenticated"],
            lease(),
            "system-node-high",
            "node-high",
        ),
        (
            "system:node:n",
            &["system:nodes", "system:authenticated"],
            asked("get", "pods", "x"),
            "system-nodes",
            "system",
        ),
        (
            "system:kube-scheduler",
            &["system:authenticated"],
            asked("list", "pods", ""),
            "kube-scheduler",
            "workload-high",
        ),
        (
            "system:serviceaccount:kube-system:x",
            &["system:serviceaccounts", "system:authenticated"],
            asked("get", "pods", "x"),
            "kube-system-service-accounts",
            "workload-high",
        ),
        (
            "system:serviceaccount:shop:x",
            &["system:serviceaccounts", "system:authenticated"],
            asked("get", "pods", "x"),
            "service-accounts",
            "workload-low",
        ),
    ] {
        let user = User::new(name, groups);
        let seat = fairness.seat(&user, &attributes, false).await.unwrap();
        let mut headers = HeaderMap::new();
        seat.tell(&mut headers);
        assert_eq!(
            headers["x-kubernetes-pf-flowschema-uid"],
            uid(&store, SCHEMAS, schema),
            "{name}"
        );
        assert_eq!(
            headers["x-kubernetes-pf-prioritylevel-uid"],
            uid(&store, LEVELS, level),
            "{name}"
        );
    }
}

/// A level of so many seats (of 600) for everybody.
async fn narrow(seats: usize, response: Value) -> (Store, Arc<Fairness>) {
    let store = Store::in_memory(|_, _| Vec::new());
    let limited = |shares: usize, response: Value| {
        json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": 0, "borrowingLimitPercent": 0,
            "limitResponse": response,
        }})
    };
    let put = async |resource: &str, name: &str, spec: Value| {
        let value = json!({"metadata": {"name": name, "uid": name}, "spec": spec});
        store
            .create(Key::new(resource, "", name), value)
            .await
            .unwrap();
    };
    put(LEVELS, "narrow", limited(seats, response)).await;
    put(
        LEVELS,
        "rest",
        limited(600 - seats, json!({"type": "Reject"})),
    )
    .await;
    let all = json!({
        "subjects": [{"kind": "Group", "group": {"name": "*"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
    });
    let spec = json!({
        "priorityLevelConfiguration": {"name": "narrow"}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [all],
    });
    put(SCHEMAS, "all", spec).await;
    let fairness = Arc::new(Fairness::new(&store));
    (store, fairness)
}

fn queue(queues: u32, hand: u32, length: u32) -> Value {
    json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
}

fn user(name: &str) -> User {
    User::new(name, &["system:authenticated"])
}

#[tokio::test]
async fn a_level_without_queues_refuses_what_finds_no_seat() {
    let (_store, fairness) = narrow(2, json!({"type": "Reject"})).await;
    let attributes = asked("get", "pods", "x");
    let first = fairness.seat(&user("a"), &attributes, false).await.unwrap();
    let second = fairness.seat(&user("a"), &attributes, false).await.unwrap();
    let refused = fairness
        .seat(&user("b"), &attributes, false)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), 429);
    assert_eq!(refused.response().headers()["retry-after"], "1");
    fairness.seat(&user("b"), &attributes, true).await.unwrap();
    drop(first);
    let third = fairness.seat(&user("b"), &attributes, false).await.unwrap();
    drop((second, third));
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused_and_leaves_no_trace() {
    let (_store, fairness) = narrow(1, queue(4, 2, 5)).await;
    let attributes = asked("get", "pods", "x");
    let held = fairness.seat(&user("a"), &attributes, false).await.unwrap();
    let refused = fairness
        .seat(&user("b"), &attributes, false)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), 429);
    // One that gives up by itself leaves its place, too.
    let impatient = user("b");
    let wait = fairness.seat(&impatient, &attributes, false);
    let gone = tokio::time::timeout(Duration::from_secs(1), wait).await;
    assert!(gone.is_err());
    drop(held);
    for _ in 0..10 {
        fairness.seat(&user("c"), &attributes, false).await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_that_is_full_refuses_more() {
    let (_store, fairness) = narrow(1, queue(1, 1, 3)).await;
    let held = fairness
        .seat(&user("a"), &asked("get", "pods", "x"), false)
        .await
        .unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let fairness = fairness.clone();
        waiting.spawn(async move {
            let attributes = asked("get", "pods", "x");
            fairness.seat(&user("a"), &attributes, false).await.is_ok()
        });
    }
    let mut refused = 0;
    while refused < 7 {
        assert!(!waiting.join_next().await.unwrap().unwrap());
        refused += 1;
    }
    drop(held);
    while let Some(served) = waiting.join_next().await {
        assert!(served.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_client_leaves_the_others_their_share() {
    let (_store, fairness) = narrow(4, queue(64, 4, 200)).await;
    let served = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut clients = tokio::task::JoinSet::new();
    // A hundred and fifty requests at a time of one client, four of the other.
    for (which, name, at_once) in [(0, "flood", 150), (1, "modest", 4)] {
        for _ in 0..at_once {
            let (fairness, served) = (fairness.clone(), served.clone());
            clients.spawn(async move {
                let attributes = asked("list", "pods", "x");
                loop {
                    let seat = fairness.seat(&user(name), &attributes, false).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if seat.is_ok() {
                        served[which].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    clients.shutdown().await;
    let [flood, modest] = [0, 1].map(|which| served[which].load(Ordering::Relaxed));
    // Four seats for ten seconds, ten milliseconds each.
    assert!(
        flood + modest > 3500,
        "the seats are used: {flood} + {modest}"
    );
    assert!(
        modest * 10 > (flood + modest) * 3,
        "{modest} of {}",
        flood + modest
    );
}

#[tokio::test]
async fn idle_seats_are_lent_and_given_back() {
    let store = Store::in_memory(|_, _| Vec::new());
    let put = async |resource: &str, name: &str, spec: Value| {
        let value = json!({"metadata": {"name": name, "uid": name}, "spec": spec});
        store
            .create(Key::new(resource, "", name), value)
            .await
            .unwrap();
    };
    for (name, shares) in [("a", 1), ("b", 1)] {
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": 50,
            "limitResponse": {"type": "Reject"},
        });
        put(LEVELS, name, json!({"type": "Limited", "limited": limited})).await;
        let rules = json!([{
            "subjects": [{"kind": "User", "user": {"name": name}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}],
        }]);
        put(
            SCHEMAS,
            name,
            json!({"priorityLevelConfiguration": {"name": name}, "rules": rules}),
        )
        .await;
    }
    let fairness = Fairness::new(&store);
    let mut seats = Vec::new();
    while let Ok(seat) = fairness
        .seat(&user("a"), &asked("get", "nodes", ""), false)
        .await
    {
        seats.push(seat);
    }
    assert_eq!(seats.len(), 450, "its own 300 and half of the other's");
    let mut others = Vec::new();
    while let Ok(seat) = fairness
        .seat(&user("b"), &asked("get", "nodes", ""), false)
        .await
    {
        others.push(seat);
    }
    assert_eq!(others.len(), 300, "what is its own is never lent away");
    drop(seats);
    assert!(
        fairness
            .seat(&user("a"), &asked("get", "nodes", ""), false)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_change_of_a_level_is_in_force_for_the_next_request() {
    let (store, fairness) = narrow(1, json!({"type": "Reject"})).await;
    let attributes = asked("get", "pods", "x");
    let _held = fairness.seat(&user("a"), &attributes, false).await.unwrap();
    assert!(fairness.seat(&user("a"), &attributes, false).await.is_err());
    let key = Key::new(LEVELS, "", "narrow");
    let stored = store.get(&key).unwrap();
    let mut value: Value = serde_json::from_slice(&stored.json).unwrap();
    value["spec"]["limited"]["nominalConcurrencyShares"] = 10.into();
    store.update(&key, stored.revision, value).await.unwrap();
    assert!(fairness.seat(&user("a"), &attributes, false).await.is_ok());
    store
        .delete(&Key::new(SCHEMAS, "", "all"), None)
        .await
        .unwrap();
    let seat = fairness.seat(&user("a"), &attributes, false).await.unwrap();
    let mut headers = HeaderMap::new();
    seat.tell(&mut headers);
    assert!(headers.is_empty(), "nothing sorts it");
}
