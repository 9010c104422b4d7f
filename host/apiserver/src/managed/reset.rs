//! The fields that a write does not reach, so that nobody comes to own them by it.
//!
//! A write of the object itself leaves the status alone, a write of the status leaves the rest: what
//! the request says about them is dropped, and must not be taken for a change either.

use std::sync::LazyLock;

use serde_json::Value;

use super::set::{self, Node};
use crate::resource::Resource;

type Paths = &'static [&'static [&'static str]];

const SPEC: Paths = &[&["spec"]];
const SPEC_AND_METADATA: Paths = &[&["spec"], &["metadata"]];

/// Fields that never appear among the managed ones.
const NEVER: Paths = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// What a write through `subresource` (empty for the object itself) does not reach.
pub(crate) fn paths(resource: &Resource, subresource: &str) -> Paths {
    let kind = (resource.group.as_str(), resource.plural.as_str());
    match (subresource, kind) {
        ("" | "approval", ("certificates.k8s.io", _)) => &[&["spec"], &["status"]],
        ("status", ("", "pods")) => &[
            &["spec"],
            &["metadata", "deletionTimestamp"],
            &["metadata", "ownerReferences"],
        ],
        ("status", ("apps", "deployments")) => &[&["spec"], &["metadata", "labels"]],
        (
            "status",
            (
                "apiextensions.k8s.io"
                | "apiregistration.k8s.io"
                | "flowcontrol.apiserver.k8s.io"
                | "admissionregistration.k8s.io"
                | "resource.k8s.io",
                _,
            ),
        )
        | ("status", ("storage.k8s.io", "volumeattachments")) => SPEC_AND_METADATA,
        ("status", _) => SPEC,
        _ if resource.status => &[&["status"]],
        _ => &[],
    }
}

/// What a new object gets from the server where its creator does not ask for it: nobody's, therefore.
fn granted(resource: &Resource) -> Paths {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            &["spec", "preemptionPolicy"],
            &["spec", "priority"],
            &["spec", "serviceAccount"],
            &["spec", "serviceAccountName"],
            &["spec", "tolerations"],
        ],
        ("", "services") => &[
            &["spec", "clusterIP"],
            &["spec", "clusterIPs"],
            &["spec", "healthCheckNodePort"],
            &["spec", "ipFamilies"],
            &["spec", "ipFamilyPolicy"],
        ],
        _ => &[],
    }
}

/// What the server will give to a new object, which has no defaults yet.
pub(crate) fn to_be_granted(resource: &Resource, object: &Value) -> Node {
    let mut missing = Node::new();
    for path in granted(resource) {
        if crate::object::at(object, path).is_none_or(Value::is_null) {
            insert(&mut missing, path);
        }
    }
    missing
}

pub(super) fn of(paths: Paths) -> Node {
    let mut node = Node::new();
    for path in paths {
        insert(&mut node, path);
    }
    node
}

fn insert(node: &mut Node, path: &[&str]) {
    let elements: Vec<String> = path.iter().map(|name| format!("f:{name}")).collect();
    let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
    set::insert(node, &elements);
}

/// Drop what never appears among the managed fields.
pub(super) fn strip(fields: &mut Node) {
    static STRIPPED: LazyLock<Node> = LazyLock::new(|| of(NEVER));
    set::subtract(fields, &STRIPPED);
}
