//! Revisions, and what else a Deployment writes in annotations: `kubectl rollout history` and
//! `rollout undo` read them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};

use super::{
    plan::{Sets, desired},
    rolling,
};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// The Deployment's own, which make no sense on a ReplicaSet.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
];
/// Bytes of past revisions that a ReplicaSet remembers.
const HISTORY_BYTES: usize = 2000;

/// The revision of a ReplicaSet; zero if it has none.
pub(super) fn of(set: &ReplicaSet) -> u64 {
    annotation(set, REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

/// The revision that the current template must have: above all older ones.
pub(super) fn next(sets: &Sets<'_>) -> u64 {
    sets.old.iter().map(|set| of(set)).max().unwrap_or(0) + 1
}

/// For which `replicas` the ReplicaSet was last scaled.
pub(super) fn desired_replicas(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED)?.parse().ok()
}

/// The most pods that there might be when it was last scaled.
pub(super) fn most_replicas(set: &ReplicaSet) -> Option<i32> {
    annotation(set, MOST)?.parse().ok()
}

/// What each scaled ReplicaSet remembers.
pub(super) fn sizes(deployment: &Deployment) -> Value {
    json!({
        DESIRED: desired(deployment).to_string(),
        MOST: rolling::most(deployment).to_string(),
    })
}

/// The annotations of a new ReplicaSet.
pub(super) fn annotations(deployment: &Deployment, revision: u64) -> BTreeMap<String, String> {
    let mut annotations: BTreeMap<_, _> = copied(deployment)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    annotations.insert(REVISION.into(), revision.to_string());
    annotations.insert(DESIRED.into(), desired(deployment).to_string());
    annotations.insert(MOST.into(), rolling::most(deployment).to_string());
    annotations
}

/// A patch that brings the annotations of the current ReplicaSet up to date: after a rollback its
/// revision is raised above that of the template it replaces.
pub(super) fn of_set(deployment: &Deployment, new: &ReplicaSet, revision: u64) -> Option<Value> {
    let mut changed = BTreeMap::new();
    for (key, value) in copied(deployment) {
        if annotation(new, key) != Some(value.as_str()) {
            changed.insert(key.as_str(), value.clone());
        }
    }
    let known = of(new);
    if known < revision {
        changed.insert(REVISION, revision.to_string());
        if known > 0 {
            let past = annotation(new, HISTORY).unwrap_or_default();
            let past = if past.len() > HISTORY_BYTES { "" } else { past };
            let comma = if past.is_empty() { "" } else { "," };
            changed.insert(HISTORY, format!("{past}{comma}{known}"));
        }
    }
    let settle = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds);
    let settles = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    if changed.is_empty() && settle == settles {
        return None;
    }
    let version = &new.metadata.resource_version;
    let mut patch = json!({ "metadata": { "resourceVersion": version, "annotations": changed } });
    if settles != settle {
        patch["spec"] = json!({ "minReadySeconds": settle });
    }
    Some(patch)
}

/// A patch that gives the Deployment the revision of its current ReplicaSet.
pub(super) fn of_deployment(deployment: &Deployment, new: &ReplicaSet) -> Option<Value> {
    let revision = annotation(new, REVISION)?;
    let known = deployment
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(REVISION));
    let differs = known.map(String::as_str) != Some(revision);
    differs.then(|| json!({ "metadata": { "annotations": { REVISION: revision } } }))
}

fn copied(deployment: &Deployment) -> impl Iterator<Item = (&String, &String)> {
    let all = deployment.metadata.annotations.iter().flatten();
    all.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
}

fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}
