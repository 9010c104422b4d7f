//! NodeGroup: machines that belong together, such as those of one site.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient;

/// Label of a node: the NodeGroup that it is in. Written by the host alone, by what the groups say.
pub const NODE_GROUP_LABEL: &str = "eyot.dev/node-group";

/// Machines that belong together. Fields and meanings are those of KubeEdge's NodeGroup.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "NodeGroup",
    plural = "nodegroups",
    singular = "nodegroup",
    shortname = "ng",
    category = "eyot",
    status = "NodeGroupStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Members","type":"integer","jsonPath":".status.members"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.ready"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct NodeGroupSpec {
    /// Nodes by name, whether they are there yet or not.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub nodes: Vec<String>,
    /// Nodes that have all of these labels; none if absent.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub match_labels: BTreeMap<String, String>,
}

/// What the host sees of a group's nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct NodeGroupStatus {
    /// The nodes that the group asks for, by name.
    #[serde(deserialize_with = "lenient::nullable")]
    pub node_statuses: Vec<NodeStatus>,
    /// How many nodes are in the group...
    pub members: u32,
    /// ...and how many of these are ready.
    pub ready: u32,
}

/// One node that a group asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["nodeName", "readyStatus", "selectionStatus"]))]
pub struct NodeStatus {
    pub node_name: String,
    pub ready_status: ReadyStatus,
    pub selection_status: SelectionStatus,
    /// Why it is not in the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection_status_reason: Option<String>,
}

/// A node's condition `Ready`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReadyStatus {
    Ready,
    NotReady,
    #[default]
    Unknown,
}

/// Whether a node is in the group that asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectionStatus {
    Succeeded,
    #[default]
    Failed,
}
