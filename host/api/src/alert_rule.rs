//! AlertRule: what somebody is to be told of by itself.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::lenient;

/// A condition of readings, pods or nodes that becomes a notification: one when it has held for long
/// enough, and one when it does not hold any more. Who is told how says a Subscription, by category and
/// labels.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "AlertRule",
    plural = "alertrules",
    singular = "alertrule",
    shortname = "alert",
    category = "eyot",
    namespaced,
    status = "AlertRuleStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Severity","type":"string","jsonPath":".spec.severity"}"#,
    printcolumn = r#"{"name":"Firing","type":"integer","jsonPath":".status.firing"}"#,
    printcolumn = r#"{"name":"Error","type":"string","jsonPath":".status.lastError"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = only_one)]
pub struct AlertRuleSpec {
    /// A condition of readings of this namespace's devices; each resource of each device by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reading: Option<ReadingCondition>,
    /// A condition of this namespace's pods, each by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodCondition>,
    /// A condition of nodes, each by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeCondition>,
    /// How long it must hold, for example `5m`; no time if absent.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"))]
    pub hold: Option<String>,
    #[serde(deserialize_with = "lenient::nullable")]
    pub severity: Severity,
    /// The notification's; `alert` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The notification's.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 64))]
    pub labels: Vec<String>,
    /// What to say; `{rule}`, `{object}` and `{value}` stand for what they name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub message: Option<String>,
}

/// Exactly one of the conditions.
fn only_one(schema: &mut Schema) {
    crate::schema::require(&[])(schema);
    let rule = "[has(self.reading), has(self.pod), has(self.node)].exists_one(one, one)";
    let message = "exactly one of reading, pod and node is needed";
    schema.insert(
        "x-kubernetes-validations".to_owned(),
        json!([{"rule": rule, "message": message}]),
    );
}

/// Of readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["is", "value"]))]
pub struct ReadingCondition {
    /// EdgeX names of devices; all if absent.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub devices: Vec<String>,
    /// Names of profiles; all if absent.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub profiles: Vec<String>,
    /// Names of resources; all if absent.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resources: Vec<String>,
    pub is: Comparison,
    /// A number for `Above` and `Below`; a number or the text of a string or Bool for the others.
    #[serde(deserialize_with = "lenient::text")]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub value: Option<String>,
    /// Once `Above` or `Below` has held, it does so until the reading is beyond this number on the other
    /// side; until it is beyond `value` if absent. In the unit of the readings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
}

/// How a reading is to the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Comparison {
    #[default]
    Above,
    Below,
    Equal,
    NotEqual,
}

/// Of pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["is"]))]
pub struct PodCondition {
    /// Pods with all of these labels; all if absent.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub match_labels: BTreeMap<String, String>,
    pub is: PodState,
}

/// What a pod is: not ready although it should run, waiting for a container that ends again and again or
/// for an image that does not come, ended in failure, or without a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodState {
    #[default]
    NotReady,
    CrashLooping,
    ImageMissing,
    Failed,
    Unschedulable,
}

/// Of nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["is"]))]
pub struct NodeCondition {
    /// Nodes with all of these labels; all if absent.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub match_labels: BTreeMap<String, String>,
    pub is: NodeState,
}

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeState {
    #[default]
    NotReady,
    MemoryPressure,
    DiskPressure,
    #[serde(rename = "PIDPressure")]
    PidPressure,
}

/// EdgeX's severities of notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    Minor,
    #[default]
    Normal,
    Critical,
}

/// What of a rule holds now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct AlertRuleStatus {
    /// How many alerts have been told of and still hold.
    pub firing: u32,
    /// The first 64 of them, by name.
    #[serde(deserialize_with = "lenient::nullable")]
    pub alerts: Vec<Alert>,
    /// Why the rule cannot be followed, or an alert could not be told of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// One thing that somebody was told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// `DEVICE/RESOURCE`, or the name of the pod or node.
    pub object: String,
    /// Since when it has held.
    pub since: Time,
}
