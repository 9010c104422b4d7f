//! InterPodAffinity.

use serde_json::{Value, json};

use super::{Cluster, check};

fn term(app: &str, topology: &str) -> Value {
    json!({ "topologyKey": topology, "labelSelector": { "matchLabels": { "app": app } } })
}

fn near(terms: Value) -> Value {
    json!({ "affinity": { "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": terms } } })
}

fn far(terms: Value) -> Value {
    json!({ "affinity": { "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": terms } } })
}

fn app(name: &str, spec: Value) -> Value {
    json!({ "metadata": { "labels": { "app": name } }, "spec": spec })
}

/// Two zones: `a` and `b` are in one, `c` is in another, `d` in none.
fn zones() -> Cluster {
    let zone = |zone: Value| json!({ "metadata": { "labels": { "zone": zone } } });
    let mut none = Cluster::of(&[("a", zone(json!("1"))), ("b", zone(json!("1")))]);
    none.node("c", zone(json!("2")));
    none
}

#[tokio::test(start_paused = true)]
async fn pods_go_near_those_they_need() {
    let mut cluster = zones();
    cluster.run("db", "c", app("db", json!({})));
    let wish = near(json!([term("db", "zone")]));
    assert_eq!(cluster.place("web", json!({ "spec": wish })).unwrap(), "c");
    let refused = cluster.place("x", json!({ "spec": near(json!([term("none", "zone")])) }));
    let expected = "0/3 nodes are available: 3 node(s) didn't match pod affinity rules. \
                    preemption: 0/3 nodes are available: \
                    3 Preemption is not helpful for scheduling.";
    assert_eq!(refused.unwrap_err(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_first_of_those_who_need_each_other_goes_anywhere_with_the_label() {
    let mut cluster = zones();
    let wish = near(json!([term("web", "zone")]));
    let first = cluster.place("1", app("web", wish.clone())).unwrap();
    let zone = |node: &str| if node == "c" { "2" } else { "1" };
    for n in 2..5 {
        if let Ok(node) = cluster.place(&n.to_string(), app("web", wish.clone())) {
            assert_eq!(zone(&node), zone(&first));
        }
    }
    check(
        near(json!([term("p", "rack")])),
        &[("a", json!({}))],
        Err(
            "0/1 nodes are available: 1 node(s) didn't match pod affinity rules. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn all_terms_must_be_met_by_the_same_pods() {
    let mut cluster = zones();
    cluster.run(
        "x",
        "a",
        json!({ "metadata": { "labels": { "app": "db" } } }),
    );
    cluster.run(
        "y",
        "c",
        json!({ "metadata": { "labels": { "app": "db", "tier": "1" } } }),
    );
    let tier =
        json!({ "topologyKey": "zone", "labelSelector": { "matchLabels": { "tier": "1" } } });
    let wish = near(json!([term("db", "zone"), tier]));
    assert_eq!(cluster.place("web", json!({ "spec": wish })).unwrap(), "c");
}

#[tokio::test(start_paused = true)]
async fn pods_that_keep_each_other_away_do_so_both_ways() {
    let mut cluster = zones();
    let alone = far(json!([term("web", "zone")]));
    let mut places: Vec<String> = Vec::new();
    for n in 0..2 {
        places.push(
            cluster
                .place(&n.to_string(), app("web", alone.clone()))
                .unwrap(),
        );
    }
    assert_eq!(
        places.iter().filter(|node| *node == "c").count(),
        1,
        "one in each zone"
    );
    let refused = cluster.place("third", app("web", alone)).unwrap_err();
    let expected = "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. \
                    preemption: 0/3 nodes are available: \
                    3 No preemption victims found for incoming pod.";
    // Two of the three nodes have pods, none of them less important.
    assert_eq!(refused, expected);
    let refused = cluster.place("meek", app("web", json!({}))).unwrap_err();
    let expected = "0/3 nodes are available: \
                    3 node(s) didn't satisfy existing pods anti-affinity rules. \
                    preemption: 0/3 nodes are available: \
                    3 No preemption victims found for incoming pod.";
    assert_eq!(refused, expected);
    cluster.place("other", app("db", json!({}))).unwrap();
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_meant_by_name_and_by_their_labels() {
    let of = |more: Value| {
        let mut one = term("db", "zone");
        super::merge(&mut one, more);
        json!({ "spec": far(json!([one])) })
    };
    let cases = [
        (json!({}), true),
        (json!({ "namespaces": ["e"] }), false),
        (json!({ "namespaces": ["d", "e"] }), true),
        (json!({ "namespaceSelector": {} }), true),
        (
            json!({ "namespaceSelector": { "matchLabels": { "team": "x" } } }),
            true,
        ),
        (
            json!({ "namespaceSelector": { "matchLabels": { "team": "y" } } }),
            false,
        ),
    ];
    for (more, kept_away) in cases {
        let mut cluster = Cluster::of(&[("a", json!({}))]);
        let labels = [("team".to_owned(), "x".to_owned())].into();
        cluster
            .core
            .namespace("d", Some(&labels), tokio::time::Instant::now());
        cluster.run("db", "a", app("db", json!({})));
        let placed = cluster.place("p", of(more.clone()));
        assert_eq!(placed.is_err(), kept_away, "{more}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_gets_other_labels_means_other_pods() {
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.run("db", "a", app("db", json!({})));
    let mut one = term("db", "zone");
    one["namespaceSelector"] = json!({ "matchLabels": { "team": "x" } });
    let wish = json!({ "spec": near(json!([one])) });
    cluster.place("p", wish).unwrap_err();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let labels = [("team".to_owned(), "x".to_owned())].into();
    cluster
        .core
        .namespace("d", Some(&labels), tokio::time::Instant::now());
    assert_eq!(cluster.outcome("p").unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn label_keys_narrow_whom_a_term_means() {
    let mut one = term("web", "zone");
    one["matchLabelKeys"] = json!(["version"]);
    let wish = far(json!([one]));
    let of = |version: &str| json!({ "metadata": { "labels": { "app": "web", "version": version } }, "spec": wish });
    let mut cluster = Cluster::of(&[("a", json!({}))]);
    cluster.place("1", of("v1")).unwrap();
    cluster.place("2", of("v2")).unwrap();
    cluster.place("3", of("v2")).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn likes_and_dislikes_decide_between_nodes() {
    let likes = |kind: &str, weight: i32| {
        let term = json!([{ "weight": weight, "podAffinityTerm": term("db", "zone") }]);
        json!({ "affinity": { kind: {
            "preferredDuringSchedulingIgnoredDuringExecution": term } } })
    };
    for (wish, expected) in [
        (likes("podAffinity", 10), "b"),
        (likes("podAntiAffinity", 10), "a"),
    ] {
        let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({}))]);
        cluster.run("db", "b", app("db", json!({})));
        assert_eq!(
            cluster.place("p", json!({ "spec": wish })).unwrap(),
            expected
        );
        // And the other way round: who is there likes or dislikes who comes.
        let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({}))]);
        cluster.run("fan", "b", json!({ "spec": wish }));
        assert_eq!(cluster.place("p", app("db", json!({}))).unwrap(), expected);
    }
    // Who needs others likes that they come.
    let mut cluster = Cluster::of(&[("a", json!({})), ("b", json!({}))]);
    cluster.run("db", "b", app("db", near(json!([term("db", "zone")]))));
    assert_eq!(cluster.place("p", app("db", json!({}))).unwrap(), "b");
}
