//! Keeps pods off nodes that report trouble: `NoSchedule` taints that follow a node's conditions.
//!
//! A node starts with the taint `not-ready`; here it goes once the node says that it is ready, and
//! comes back when it no longer does. Reads Nodes; writes only the taints in the table below, and
//! leaves all others alone.

use eyot_client::{Cache, Key, Reconciler, Requeue};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::error::{Act, ControlError, is};

const EFFECT: &str = "NoSchedule";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// A condition, the status that means trouble, and the taint that tells of it.
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    (
        "MemoryPressure",
        "True",
        "node.kubernetes.io/memory-pressure",
    ),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "True",
        "node.kubernetes.io/network-unavailable",
    ),
];

pub(crate) struct NodeTaints {
    pub(crate) client: Client,
    pub(crate) nodes: Cache<Node>,
}

impl Reconciler for NodeTaints {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "node-taint"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let Some(taints) = plan(&node, Timestamp::now()) else {
            return Ok(Requeue::OnChange);
        };
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        }));
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch(&key.name, &PatchParams::default(), &patch).await {
            // Somebody else wrote the node: that is a change, which comes here too.
            Err(error) if is(&error, 409) => Ok(Requeue::OnChange),
            written => {
                written.act_if_there(|| format!("writing the taints of node {key}"))?;
                Ok(Requeue::OnChange)
            }
        }
    }
}

/// The taints that the node should have, if they are not those that it has.
fn plan(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let wanted = wanted(node);
    let spec = node.spec.as_ref();
    let held: Vec<Taint> = spec
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let is_ours = |taint: &Taint| {
        taint.effect == EFFECT
            && (taint.key == UNSCHEDULABLE || TAINTS.iter().any(|(_, _, key)| *key == taint.key))
    };
    let mut next: Vec<Taint> = held
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.contains(&&*taint.key))
        .cloned()
        .collect();
    let missing = wanted.iter().filter(|key| {
        !held
            .iter()
            .any(|taint| is_ours(taint) && taint.key == **key)
    });
    next.extend(missing.map(|key| Taint {
        key: (*key).to_owned(),
        effect: EFFECT.to_owned(),
        time_added: Some(Time(now)),
        ..Taint::default()
    }));
    (next != held).then_some(next)
}

fn wanted(node: &Node) -> Vec<&'static str> {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let status = |kind: &str| {
        let found = conditions.clone().find(|condition| condition.type_ == kind);
        found.map(|condition| condition.status.as_str())
    };
    let mut wanted: Vec<&'static str> = TAINTS
        .iter()
        .filter(|(condition, trouble, _)| status(condition) == Some(trouble))
        .map(|(_, _, taint)| *taint)
        .collect();
    // A node that has not reported yet is not ready either.
    if status("Ready").is_none() {
        wanted.push(TAINTS[0].2);
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push(UNSCHEDULABLE);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[track_caller]
    fn check(spec: Value, conditions: Value, expected: Option<&[&str]>) {
        let node = json!({
            "metadata": {}, "spec": spec, "status": { "conditions": conditions },
        });
        let node: Node = serde_json::from_value(node).unwrap();
        let planned = plan(&node, Timestamp::UNIX_EPOCH);
        let keys = planned.map(|taints| taints.into_iter().map(|t| t.key).collect::<Vec<_>>());
        let expected = expected.map(|keys| keys.iter().map(|k| (*k).to_owned()).collect());
        assert_eq!(keys, expected);
    }

    #[test]
    fn taints_follow_conditions_and_others_stay() {
        let fresh = json!({ "taints": [
            { "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" },
            { "key": "mine", "effect": "NoSchedule" },
        ]});
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        check(fresh.clone(), json!([]), None);
        check(fresh.clone(), ready.clone(), Some(&["mine"]));
        check(
            fresh,
            json!([{ "type": "Ready", "status": "Unknown" }]),
            Some(&["mine", "node.kubernetes.io/unreachable"]),
        );
        check(json!({}), ready.clone(), None);
        check(
            json!({ "unschedulable": true }),
            ready.clone(),
            Some(&["node.kubernetes.io/unschedulable"]),
        );
        check(
            json!({}),
            json!([
                { "type": "Ready", "status": "True" }, { "type": "DiskPressure", "status": "True" }
            ]),
            Some(&["node.kubernetes.io/disk-pressure"]),
        );
        // An eviction taint of the same name is somebody else's.
        let evicting = json!({ "taints": [
            { "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" },
        ]});
        check(evicting, ready, None);
    }
}
