//! Gives nodes the labels of before `kubernetes.io/os` and `kubernetes.io/arch`, which manifests
//! of old still select by: they always say what the new ones say, and are not there without them.
//!
//! Reads Nodes; writes the two labels `beta.kubernetes.io/os` and `beta.kubernetes.io/arch`.

use std::collections::BTreeMap;

use eyot_client::{Cache, Change, Key, Reconciler, Requeue};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::error::{Act, ControlError};

/// What is known, and the label of before.
const LABELS: [(&str, &str); 2] = [
    ("kubernetes.io/os", "beta.kubernetes.io/os"),
    ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
];

pub(crate) struct NodeLabels {
    pub(crate) client: Client,
    pub(crate) nodes: Cache<Node>,
}

/// The node that a change is about, if anything is to be written.
pub(crate) fn of_node(change: &Change<'_, Node>) -> Option<Key> {
    let node = change.after?;
    (!missing(node.labels()).is_empty()).then(|| change.key.clone())
}

/// The labels that are missing or wrong.
fn missing(labels: &BTreeMap<String, String>) -> BTreeMap<&'static str, String> {
    let missing = LABELS.into_iter().filter_map(|(known, before)| {
        let value = labels.get(known)?;
        (labels.get(before) != Some(value)).then(|| (before, value.clone()))
    });
    missing.collect()
}

impl Reconciler for NodeLabels {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "node-labels"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let labels = missing(node.labels());
        if !labels.is_empty() {
            let api: Api<Node> = Api::all(self.client.clone());
            let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
            let written = api.patch(&key.name, &PatchParams::default(), &patch).await;
            written.act_if_there(|| format!("writing the labels of node {key}"))?;
        }
        Ok(Requeue::OnChange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(labels: &[(&str, &str)], expected: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|(k, v)| (String::from(*k), String::from(*v)));
        let found = missing(&labels.collect());
        let found: Vec<_> = found.iter().map(|(k, v)| (*k, v.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_labels_of_before_say_what_the_new_ones_say() {
        let [(os, old_os), (arch, old_arch)] = LABELS;
        check(&[], &[]);
        check(&[(old_os, "linux")], &[]);
        check(&[(os, "linux")], &[(old_os, "linux")]);
        check(&[(os, "linux"), (old_os, "linux")], &[]);
        check(
            &[(os, "linux"), (old_os, "windows"), (arch, "arm64")],
            &[(old_arch, "arm64"), (old_os, "linux")],
        );
    }
}
