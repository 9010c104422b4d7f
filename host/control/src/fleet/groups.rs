//! Which node is in which group.
//!
//! A node is in one group at most: in that which it was in as long as that asks for it, else in the
//! first by name of those that do. The others' status says that it is somebody else's.

use eyot_api::{
    NODE_GROUP_LABEL, NodeGroup, NodeGroupStatus,
    node_group::{NodeStatus, ReadyStatus, SelectionStatus},
};
use eyot_client::{Cache, Change, Key, Reconciler, Requeue, view::Pod};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use crate::{
    error::{Act, ControlError, is},
    pod,
};

/// Gives nodes the labels of their groups.
pub(crate) struct Members {
    pub(crate) client: Client,
    pub(crate) groups: Cache<NodeGroup>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) pods: Cache<Pod>,
}

/// Tells groups of their nodes.
pub(crate) struct Groups {
    pub(crate) client: Client,
    pub(crate) groups: Cache<NodeGroup>,
    pub(crate) nodes: Cache<Node>,
}

/// The node that changed, if that can move it from one group to another.
pub(crate) fn of_node(change: &Change<'_, Node>) -> Option<Key> {
    let after = change.after?;
    let same = change
        .before
        .is_some_and(|before| before.labels() == after.labels());
    (!same).then(|| change.key.clone())
}

/// The nodes that a group asks for or asked for, or that are in it.
pub(crate) fn concerned(nodes: &Cache<Node>, change: &Change<'_, NodeGroup>) -> Vec<Key> {
    let spec = |group: &NodeGroup| group.spec.clone();
    let ends = |group: &NodeGroup| group.metadata.deletion_timestamp.is_some();
    if let (Some(before), Some(after)) = (change.before, change.after)
        && (spec(before), ends(before)) == (spec(after), ends(after))
    {
        return Vec::new();
    }
    let asks = |node: &Node| {
        let groups = [change.before, change.after];
        let mut groups = groups.into_iter().flatten();
        groups.any(|group| asks_for(group, node)) || group(node) == Some(&*change.key.name)
    };
    let nodes = nodes.list().into_iter().filter(|node| asks(node));
    nodes.map(|node| Key::of(&node.metadata)).collect()
}

/// The groups that ask or asked for a node, or that it is or was in.
pub(crate) fn that_ask_for(groups: &Cache<NodeGroup>, change: &Change<'_, Node>) -> Vec<Key> {
    let seen = |node: &Node| (node.labels().clone(), readiness(node));
    if let (Some(before), Some(after)) = (change.before, change.after)
        && seen(before) == seen(after)
    {
        return Vec::new();
    }
    let concerns = |group_: &NodeGroup| {
        let nodes = [change.before, change.after];
        let mut nodes = nodes.into_iter().flatten();
        group_
            .spec
            .nodes
            .iter()
            .any(|name| **name == *change.key.name)
            || nodes.any(|node| {
                asks_for(group_, node) || group(node) == group_.metadata.name.as_deref()
            })
    };
    let groups = groups.list().into_iter().filter(|group| concerns(group));
    groups.map(|group| Key::of(&group.metadata)).collect()
}

/// The group that a node is in.
fn group(node: &Node) -> Option<&str> {
    node.labels().get(NODE_GROUP_LABEL).map(String::as_str)
}

fn asks_for(group: &NodeGroup, node: &Node) -> bool {
    let name = node.metadata.name.as_ref();
    let labels = &group.spec.match_labels;
    group.spec.nodes.iter().any(|wanted| Some(wanted) == name)
        || !labels.is_empty()
            && labels
                .iter()
                .all(|(key, value)| node.labels().get(key) == Some(value))
}

/// The group that a node is to be in.
fn choose<'a>(node: &Node, groups: impl Iterator<Item = &'a NodeGroup>) -> Option<&'a str> {
    let mut asking: Vec<&str> = groups
        .filter(|group| group.metadata.deletion_timestamp.is_none() && asks_for(group, node))
        .filter_map(|group| group.metadata.name.as_deref())
        .collect();
    asking.sort_unstable();
    let stays = asking.iter().find(|name| group(node) == Some(**name));
    stays.or(asking.first()).copied()
}

fn readiness(node: &Node) -> ReadyStatus {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.flatten().filter(|one| one.type_ == "Ready");
    match ready.next().map(|one| &*one.status) {
        Some("True") => ReadyStatus::Ready,
        Some("False") => ReadyStatus::NotReady,
        _ => ReadyStatus::Unknown,
    }
}

/// What a group is told of its nodes.
fn tell<'a>(asking: &NodeGroup, nodes: impl Iterator<Item = &'a Node>) -> NodeGroupStatus {
    let name = asking.metadata.name.as_deref();
    let mut told: Vec<NodeStatus> = nodes
        .filter(|node| asks_for(asking, node))
        .map(|node| {
            let reason = match group(node) {
                found if found == name => None,
                Some(other) => Some(format!("the node is in NodeGroup {other}")),
                None => Some("the node has not got its label yet".to_owned()),
            };
            NodeStatus {
                node_name: node.name_any(),
                ready_status: readiness(node),
                selection_status: match reason {
                    None => SelectionStatus::Succeeded,
                    Some(_) => SelectionStatus::Failed,
                },
                selection_status_reason: reason,
            }
        })
        .collect();
    for wanted in &asking.spec.nodes {
        if told.iter().all(|node| node.node_name != *wanted) {
            told.push(NodeStatus {
                node_name: wanted.clone(),
                selection_status_reason: Some("there is no such node".to_owned()),
                ..NodeStatus::default()
            });
        }
    }
    told.sort_by(|a, b| a.node_name.cmp(&b.node_name));
    let members = told
        .iter()
        .filter(|node| node.selection_status == SelectionStatus::Succeeded);
    let (mut count, mut ready) = (0, 0);
    for member in members {
        count += 1;
        ready += u32::from(member.ready_status == ReadyStatus::Ready);
    }
    NodeGroupStatus {
        members: count,
        ready,
        node_statuses: told,
    }
}

impl Reconciler for Members {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "node-group-members"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(node) = self.nodes.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let groups = self.groups.list();
        let wanted = choose(&node, groups.iter().map(|group| &**group));
        if group(&node) != wanted {
            let api: Api<Node> = Api::all(self.client.clone());
            let patch = json!({"metadata": {"labels": {NODE_GROUP_LABEL: wanted}}});
            let params = PatchParams::default();
            let written = api.patch(&key.name, &params, &Patch::Merge(patch)).await;
            written.act_if_there(|| format!("writing the group of node {key}"))?;
        }
        for pod in self.pods.list() {
            if pod::node(&pod) == Some(&*key.name) && is_for_another(&pod, wanted) {
                self.take_away(&pod).await?;
            }
        }
        Ok(Requeue::OnChange)
    }
}

/// Whether a pod asks for a group that its node is not in.
fn is_for_another(pod: &Pod, group: Option<&str>) -> bool {
    let selector = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_selector.as_ref());
    let asked = selector.and_then(|selector| selector.get(NODE_GROUP_LABEL));
    pod.metadata.deletion_timestamp.is_none()
        && !pod::has_ended(pod)
        && asked.is_some_and(|asked| Some(&**asked) != group)
}

impl Members {
    async fn take_away(&self, pod: &Pod) -> Result<(), ControlError> {
        let key = Key::of(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        });
        match api.delete(&key.name, &params).await {
            // Another pod of that name.
            Err(error) if is(&error, 409) => Ok(()),
            deleted => deleted.act_if_there(|| {
                format!("taking pod {key} off a node that has left the pod's group")
            }),
        }
    }
}

impl Reconciler for Groups {
    type Error = ControlError;

    fn name(&self) -> &'static str {
        "node-groups"
    }

    async fn reconcile(&self, key: &Key) -> Result<Requeue, ControlError> {
        let Some(group) = self.groups.get(key) else {
            return Ok(Requeue::OnChange);
        };
        let status = tell(&group, self.nodes.list().iter().map(|node| &**node));
        if group.status.as_ref() != Some(&status) {
            let api: Api<NodeGroup> = Api::all(self.client.clone());
            let patch = Patch::Merge(json!({ "status": status }));
            let written = api
                .patch_status(&key.name, &PatchParams::default(), &patch)
                .await;
            written.act_if_there(|| format!("writing the status of NodeGroup {key}"))?;
        }
        Ok(Requeue::OnChange)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    fn group_of(name: &str, spec: Value) -> NodeGroup {
        of(json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "NodeGroup", "metadata": {"name": name}, "spec": spec,
        }))
    }

    fn node(name: &str, labels: Value, ready: &str) -> Node {
        of(json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
    }

    #[test]
    fn a_node_stays_in_its_group_as_long_as_that_asks_for_it() {
        let groups = [
            group_of("north", json!({"matchLabels": {"site": "n"}})),
            group_of("all", json!({"nodes": ["a", "b"]})),
            group_of("nobody", json!({"matchLabels": {}})),
        ];
        let check = |labels: Value, expected: Option<&str>| {
            let node = node("a", labels, "True");
            assert_eq!(choose(&node, groups.iter()), expected);
        };
        check(json!({}), Some("all"));
        check(json!({"site": "n"}), Some("all"));
        check(
            json!({"site": "n", NODE_GROUP_LABEL: "north"}),
            Some("north"),
        );
        check(json!({NODE_GROUP_LABEL: "north"}), Some("all"));
        check(json!({NODE_GROUP_LABEL: "gone"}), Some("all"));
        let stranger = node("c", json!({NODE_GROUP_LABEL: "nobody"}), "True");
        assert_eq!(choose(&stranger, groups.iter()), None);
    }

    #[test]
    fn a_group_is_told_of_all_that_it_asks_for() {
        let group = group_of(
            "north",
            json!({"nodes": ["z", "a"], "matchLabels": {"site": "n"}}),
        );
        let nodes = [
            node(
                "b",
                json!({"site": "n", NODE_GROUP_LABEL: "south"}),
                "False",
            ),
            node("a", json!({NODE_GROUP_LABEL: "north"}), "True"),
            node("other", json!({}), "True"),
        ];
        let told = serde_json::to_value(tell(&group, nodes.iter())).unwrap();
        assert_eq!((&told["members"], &told["ready"]), (&json!(1), &json!(1)));
        assert_eq!(
            told["nodeStatuses"],
            json!([
                {"nodeName": "a", "readyStatus": "Ready", "selectionStatus": "Succeeded"},
                {"nodeName": "b", "readyStatus": "NotReady", "selectionStatus": "Failed",
                 "selectionStatusReason": "the node is in NodeGroup south"},
                {"nodeName": "z", "readyStatus": "Unknown", "selectionStatus": "Failed",
                 "selectionStatusReason": "there is no such node"},
            ])
        );
    }

    #[test]
    fn pods_go_that_ask_for_another_group() {
        let pod = |selector: Value| -> Pod {
            of(json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": selector}}))
        };
        let north = json!({NODE_GROUP_LABEL: "north"});
        assert!(is_for_another(&pod(north.clone()), None));
        assert!(is_for_another(&pod(north.clone()), Some("south")));
        assert!(!is_for_another(&pod(north), Some("north")));
        assert!(!is_for_another(&pod(json!({"a": "b"})), Some("south")));
    }
}
