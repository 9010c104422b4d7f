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
#[schemars(transform = crate::schema::require(&[]))]
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
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub exporters: Vec<Stage>,
    /// Further ways for what the steps let through, each with steps and exporters of its own.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub branches: Vec<Branch>,
    /// How much may wait before the first step, and before each exporter and branch that does not say
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// The older name of `queue.items`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub queue_limit: Option<i64>,
}

/// A way of its own behind the pipeline's steps, which holds up no other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["name", "exporters"]))]
pub struct Branch {
    /// Unique among the pipeline's branches.
    pub name: String,
    /// What passes here goes through these, after the pipeline's own.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub steps: Vec<Stage>,
    /// Deliver what this branch lets through.
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(length(min = 1))]
    pub exporters: Vec<Stage>,
}

/// How much may wait, and what becomes of the rest. What waits for long is on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct Queue {
    /// Items at most; any number if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub items: Option<i64>,
    /// Bytes at most, about; 268435456 (256 MiB) if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bytes: Option<i64>,
    /// How long an item may wait, for example `24h`; any time if absent. Older ones are discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<String>,
    /// What becomes of items for which there is no room. `Block` lets whoever brings them wait, as far
    /// as that can be: a device that is polled cannot, its events are discarded as with `DropNewest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<Discard>,
    /// Items in a second at most of those that have waited, as after an outage; any number if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub drain_rate: Option<i64>,
}

/// What is discarded when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Discard {
    #[default]
    DropOldest,
    DropNewest,
    Block,
}

/// What to take. Each list holds names or regular expressions that match whole names; an event must
/// match one of each list that is not empty. Without any list all events are taken; if there is another
/// source (`mqtt`, `push`), none.
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
    /// MQTT topic filters, with `+` and `#`, of which one must match the event's EdgeX topic:
    /// `edgex/events/device/SERVICE/PROFILE/DEVICE/SOURCE`.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub topics: Vec<String>,
    /// Messages of a broker, as payloads whose destination is their topic. They are acknowledged when
    /// they are on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSource>,
    /// Take what is POSTed to `nodes/NODE/proxy/pipelines/NAMESPACE/NAME/push`, as payloads.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub push: bool,
}

/// Topics of an MQTT broker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["broker", "topics"]))]
pub struct MqttSource {
    /// `mqtt://HOST:PORT`
    pub broker: String,
    /// Topic filters.
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(length(min = 1, max = 64))]
    pub topics: Vec<String>,
    /// Quality of service: 0, 1 (if absent) or 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<u8>,
    /// The user to log in as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<ConfigSource>,
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
    /// Settings whose values are in Secrets and ConfigMaps of the pipeline's namespace.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub config_from: BTreeMap<String, ConfigSource>,
    /// For exporters: the Secret with the certificates of outgoing TLS. `ca.crt` is trusted in place
    /// of what the machine trusts; `tls.crt` and `tls.key` are shown to servers that ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<String>,
    /// For exporters: what may be reached beside what `config` names, as `HOST:PORT`,
    /// `*.DOMAIN:PORT` or `ADDRESS/BITS:PORT`, with `*` for any port.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub egress: Vec<String>,
    /// For exporters: in place of the pipeline's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
}

/// Where a setting's value is: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct ConfigSource {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["name", "key"]))]
pub struct KeyRef {
    pub name: String,
    pub key: String,
    /// If it is missing, the setting is left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
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
    /// Events or items lost because a queue was full, they were too old, or an edit removed their stage.
    pub dropped: i64,
    /// Items set aside because a component rejected them or kept trapping on them.
    pub failed: i64,
    /// Items waiting for delivery.
    pub queued: i64,
    /// About how many bytes they take.
    pub queued_bytes: i64,
    /// How long items took lately from the bus to their destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_milliseconds: Option<i64>,
    /// Items that wait for each exporter and branch, and before the first step.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub queues: BTreeMap<String, i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
