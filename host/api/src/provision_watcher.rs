//! ProvisionWatcher: which of the devices that a driver finds become devices by themselves.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AdminState, AutoEvent, lenient};

/// Which discovered devices become Devices: an EdgeX v4 provision watcher.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "ProvisionWatcher",
    plural = "provisionwatchers",
    singular = "provisionwatcher",
    shortname = "pwatcher",
    category = "eyot",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.serviceName"}"#,
    printcolumn = r#"{"name":"Profile","type":"string","jsonPath":".spec.discoveredDevice.profileName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["serviceName", "identifiers"]))]
pub struct ProvisionWatcherSpec {
    /// Name for EdgeX clients and topics, where it cannot be the object's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The device service whose finds are looked at.
    pub service_name: String,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub labels: Vec<String>,
    /// By protocol property, a regular expression that its value must match.
    #[serde(deserialize_with = "lenient::nullable")]
    pub identifiers: BTreeMap<String, String>,
    /// By protocol property, values that keep a device out whatever else matches.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub blocking_identifiers: BTreeMap<String, Vec<String>>,
    /// `LOCKED` makes it let nothing in.
    pub admin_state: AdminState,
    /// What the new device is given.
    #[serde(deserialize_with = "lenient::nullable")]
    pub discovered_device: DiscoveredDevice,
}

/// What a discovered device is given when it becomes a Device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct DiscoveredDevice {
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub profile_name: String,
    pub admin_state: AdminState,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub auto_events: Vec<AutoEvent>,
    /// Added to the properties that the driver told.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub properties: BTreeMap<String, Value>,
}

crate::edgex_named!(ProvisionWatcher);
