//! Device: one device, how to reach it and what to read from it by itself.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lenient;

/// One device: an EdgeX v4 device, its driver and what to read from it by itself.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "Device",
    plural = "devices",
    singular = "device",
    shortname = "dev",
    category = "eyot",
    namespaced,
    status = "DeviceStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Profile","type":"string","jsonPath":".spec.profileName"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.serviceName"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.operatingState"}"#,
    printcolumn = r#"{"name":"Last","type":"string","jsonPath":".status.last"}"#,
    printcolumn = r#"{"name":"Error","type":"string","priority":1,"jsonPath":".status.lastError"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["serviceName"]))]
pub struct DeviceSpec {
    /// Name for EdgeX clients and topics, where it cannot be the object's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub description: String,
    /// The device that this one is a part of, by its EdgeX name.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub parent: String,
    /// `LOCKED` keeps everybody from reading and writing it.
    pub admin_state: AdminState,
    /// The device service whose driver serves it: the `eyot.dev/device-service` label of a pod in
    /// this namespace.
    pub service_name: String,
    /// The DeviceProfile, in this namespace.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub profile_name: String,
    /// How to reach it, per protocol: for the driver.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_maps")]
    pub protocols: BTreeMap<String, BTreeMap<String, Value>>,
    /// What to read without being asked.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub auto_events: Vec<AutoEvent>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub labels: Vec<String>,
    /// Values that it is to have, by resource: written when they change and whenever the device
    /// returns. At most 256.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub desired: BTreeMap<String, Value>,
    /// Where it stands, in any form.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub location: Option<Value>,
    /// Added to each event of the device.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub tags: BTreeMap<String, Value>,
    /// Whatever else belongs to it.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub properties: BTreeMap<String, Value>,
}

crate::edgex_named!(Device);

/// Whether a device may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum AdminState {
    #[default]
    Unlocked,
    Locked,
}

/// Whether a device answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum OperatingState {
    Up,
    Down,
    #[default]
    Unknown,
}

impl OperatingState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Down => "DOWN",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A read that repeats by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["interval", "sourceName"]))]
pub struct AutoEvent {
    /// Time between reads, for example `500ms`; at least 1 ms.
    pub interval: String,
    /// Only make an event when a value differs from the last event's.
    #[serde(
        deserialize_with = "lenient::boolean",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub on_change: bool,
    /// With `onChange`: numbers must differ by more than this.
    #[serde(
        deserialize_with = "lenient::float",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub on_change_threshold: Option<f64>,
    /// A resource or a command of the profile.
    pub source_name: String,
    /// How much of what it yields to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// How many events of a source to keep, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct Retention {
    /// More events than this are cut down to `minCap`; none or -1: no bound.
    #[serde(
        deserialize_with = "lenient::signed",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub max_cap: Option<i64>,
    /// As many are kept whatever their age.
    #[serde(
        deserialize_with = "lenient::signed",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub min_cap: Option<i64>,
    /// Older events go, for example `24h`.
    #[serde(
        deserialize_with = "lenient::text",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "lenient::any_scalar")]
    pub duration: Option<String>,
}

/// What the host knows about a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct DeviceStatus {
    pub operating_state: OperatingState,
    /// The last readings in one line, for lists.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last: String,
    /// The last reading of each resource.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_readings: Vec<LastReading>,
    /// What came of the desired values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<TwinStatus>,
    /// When it last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_connected: Option<Time>,
    /// Why it last failed; absent while it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A property of a device's twin, as KubeEdge has it: what is wanted and what is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["propertyName"]))]
pub struct TwinStatus {
    pub property_name: String,
    /// The desired value that the device was last brought to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_desired: Option<TwinValue>,
    /// What it last said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<TwinValue>,
    /// Why the desired value was not brought about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A value of a twin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["value"]))]
pub struct TwinValue {
    pub value: String,
}

/// The last reading of a resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["resource", "value"]))]
pub struct LastReading {
    pub resource: String,
    /// As EdgeX writes it in a reading; long texts are cut.
    pub value: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub units: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}
