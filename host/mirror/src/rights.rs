//! What a node may do in the cloud beyond Kubernetes' own role for nodes: read what its network and its
//! devices are made of, and tell of devices. The cloud's host installs this.

use serde_json::{Value, json};

const NAME: &str = "eyot:node-mirror";

/// A ClusterRole and its binding to all nodes.
pub fn rights() -> [Value; 2] {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let read = ["get", "list", "watch"];
    let own = "eyot.dev";
    let devices = [
        "devices",
        "deviceprofiles",
        "deviceservices",
        "provisionwatchers",
        "pipelines",
    ];
    let statuses = [
        "devices/status",
        "deviceservices/status",
        "provisionwatchers/status",
        "pipelines/status",
    ];
    let rules = [
        rule("", &["namespaces"], &read),
        rule("discovery.k8s.io", &["endpointslices"], &read),
        rule(
            "networking.k8s.io",
            &["networkpolicies", "servicecidrs"],
            &read,
        ),
        rule(own, &devices, &read),
        rule(own, &statuses, &["patch", "update"]),
        // What drivers find and what was wanted at the edge.
        rule(
            own,
            &["devices", "deviceservices"],
            &["create", "patch", "update"],
        ),
    ];
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    [
        json!({
            "apiVersion": version, "kind": "ClusterRole",
            "metadata": { "name": NAME }, "rules": rules,
        }),
        json!({
            "apiVersion": version, "kind": "ClusterRoleBinding",
            "metadata": { "name": NAME },
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": NAME },
            "subjects": [{ "apiGroup": group, "kind": "Group", "name": "system:nodes" }],
        }),
    ]
}
