//! Policies in, chains out.

use serde_json::{Value, json};

use super::*;

fn pod(namespace: &str, name: &str, ip: &str, labels: Value) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"nodeName": "n", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip},
        }))
        .unwrap(),
    )
}

/// The chains and sets that one policy makes in namespace `d`, as lines.
#[track_caller]
fn check(spec: Value, expected: &[&str]) {
    let policy = json!({"metadata": {"namespace": "d", "name": "np"}, "spec": spec});
    let policy = Arc::new(serde_json::from_value::<NetworkPolicy>(policy).unwrap());
    let pods = [
        pod("d", "web", "10.244.0.2", json!({"app": "web"})),
        pod("d", "db", "10.244.0.3", json!({"app": "db"})),
        pod("e", "other", "10.244.0.4", json!({"app": "db"})),
        pod("e", "far", "10.244.9.4", json!({"app": "far"})),
    ];
    let namespace = |name: &str, team: &str| {
        let meta = json!({"name": name, "labels": {"team": team}});
        Arc::new(serde_json::from_value::<Namespace>(json!({"metadata": meta})).unwrap())
    };
    let namespaces = [
        namespace("d", "one"),
        namespace("e", "two"),
        namespace("kube-system", "k"),
    ];
    let network = "10.244.0.0/24".parse().unwrap();
    let gateway = Some(Ipv4Addr::new(10, 244, 0, 1));
    let planned = plan(&[policy], &pods, &namespaces, network, gateway);
    let mut lines = Vec::new();
    for (name, set) in &planned.rules.sets {
        let elements: Vec<&str> = set.elements.iter().map(String::as_str).collect();
        lines.push(format!("{name} = {}", elements.join(" ")));
    }
    for (chain, rules) in &planned.rules.chains {
        lines.extend(rules.iter().map(|rule| format!("{chain}: {rule}")));
    }
    lines.extend(
        planned
            .complaints
            .iter()
            .map(|c| format!("! {}", c.message)),
    );
    assert_eq!(lines, expected);
}

#[test]
fn default_deny_closes_the_directions_that_are_named() {
    check(
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"]}),
        &[
            "in-10.244.0.2: ip saddr 10.244.0.2 return",
            "in-10.244.0.2: drop",
            "out-10.244.0.2: ip daddr 10.244.0.2 return",
            "out-10.244.0.2: drop",
        ],
    );
    check(
        json!({"podSelector": {"matchLabels": {"app": "db"}}}),
        &[
            "in-10.244.0.3: ip saddr 10.244.0.3 return",
            "in-10.244.0.3: drop",
        ],
    );
}

#[test]
fn peers_are_pods_of_here_or_of_namespaces_and_blocks_with_holes() {
    check(
        json!({
            "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]}}],
                 "ports": [{"port": 80}, {"port": 90, "endPort": 95, "protocol": "UDP"}, {"port": "web"}, {"port": "none"}]},
                {"from": [
                    {"namespaceSelector": {"matchLabels": {"team": "two"}}, "podSelector": {"matchLabels": {"app": "db"}}},
                    {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}},
                    {"ipBlock": {"cidr": "fd00::/8"}},
                ]},
                {"ports": [{"port": 443}]},
            ],
        }),
        &[
            "p-in-d/np-0 = 10.244.0.3",
            "p-in-d/np-1 = 10.244.0.4",
            "in-10.244.0.2: ip saddr 10.244.0.2 return",
            "in-10.244.0.2: ip saddr @p-in-d/np-0 meta l4proto 6 th dport 80 return",
            "in-10.244.0.2: ip saddr @p-in-d/np-0 meta l4proto 17 th dport 90-95 return",
            "in-10.244.0.2: ip saddr @p-in-d/np-0 meta l4proto 6 th dport 8080 return",
            "in-10.244.0.2: ip saddr @p-in-d/np-1 return",
            "in-10.244.0.2: ip saddr 192.0.2.0/24 ip saddr != 192.0.2.128/25 return",
            "in-10.244.0.2: meta l4proto 6 th dport 443 return",
            "in-10.244.0.2: drop",
            "! ipBlock fd00::/8: only IPv4 networks are enforced",
        ],
    );
}

#[test]
fn egress_knows_the_names_of_others_ports_and_the_clusters_dns() {
    check(
        json!({
            "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
                 "ports": [{"port": 53, "protocol": "UDP"}]},
                {"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": "web"}]},
                {"to": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]},
            ],
        }),
        &[
            "p-out-d/np-0 = 10.244.0.1",
            "p-out-d/np-1 = 10.244.0.3",
            "out-10.244.0.2: ip daddr 10.244.0.2 return",
            "out-10.244.0.2: ip daddr @p-out-d/np-0 meta l4proto 17 th dport 53 return",
            "out-10.244.0.2: ip daddr @p-out-d/np-1 ip daddr 10.244.0.2 meta l4proto 6 th dport 8080 return",
            "out-10.244.0.2: ip daddr @p-out-d/np-1 ip daddr 10.244.0.3 meta l4proto 6 th dport 8080 return",
            "out-10.244.0.2: ip daddr @p-out-d/np-1 ip daddr 10.244.0.4 meta l4proto 6 th dport 8080 return",
            "out-10.244.0.2: ip daddr @p-out-d/np-1 ip daddr 10.244.9.4 meta l4proto 6 th dport 8080 return",
            "out-10.244.0.2: drop",
        ],
    );
}
