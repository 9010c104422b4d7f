//! Pipeline: which events go through which components to which destinations.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient;

/// Which events go through which steps to which exporters.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "Pipeline",
    plural = "pipelines",
    singular = "pipeline",
    shortname = "pl",
    category = "eyot",
    namespaced,
    status = "PipelineStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"In","type":"integer","jsonPath":".status.received"}"#,
    printcolumn = r#"{"name":"Out","type":"integer","jsonPath":".status.delivered"}"#,
    printcolumn = r#"{"name":"Queued","type":"integer","jsonPath":".status.queued"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failed"}"#,
    printcolumn = r#"{"name":"Dropped","type":"integer","priority":1,"jsonPath":".status.dropped"}"#,
    printcolumn = r#"{"name":"Error","type":"string","jsonPath":".status.lastError"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["exporters"]))]
pub struct PipelineSpec {
    /// Which events of this namespace's devices to take; all if absent.
    #[serde(deserialize_with = "lenient::nullable")]
    pub source: Source,
    /// Components that look at, change or drop what passes, in order.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub steps: Vec<Stage>,
    /// Components that deliver what the steps let through, each by itself.
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(length(min = 1))]
    pub exporters: Vec<Stage>,
    /// Items that wait for one exporter at most; past it the oldest are dropped and counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue_limit: Option<i64>,
}

/// Which events to take. Each list holds names or regular expressions that match whole names; an
/// event must match one of each list that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct Source {
    /// Device services.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub services: Vec<String>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub devices: Vec<String>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub profiles: Vec<String>,
    /// Resources or commands that were read.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub sources: Vec<String>,
    /// Resources: readings of others are taken out of the event.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resources: Vec<String>,
}

/// One component of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["name", "image"]))]
pub struct Stage {
    /// Unique within the pipeline.
    pub name: String,
    /// Image that holds the component, for example `demo/mqtt-exporter:v1`.
    pub image: String,
    /// Settings, as the component documents them.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub config: BTreeMap<String, String>,
}

/// How a pipeline does. Counts are of items since the host started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct PipelineStatus {
    /// Events that matched the source.
    pub received: i64,
    /// Items that all exporters together have delivered.
    pub delivered: i64,
    /// Events or items lost because a queue was full.
    pub dropped: i64,
    /// Items set aside because a component rejected them or kept trapping on them.
    pub failed: i64,
    /// Items waiting for delivery.
    pub queued: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
