//! DeviceService: who serves devices, as EdgeX clients register and see it.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AdminState, lenient};

/// A device service: an EdgeX v4 device service. The host makes one for each driver that runs and
/// has none yet; others may be written for services elsewhere.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "DeviceService",
    plural = "deviceservices",
    singular = "deviceservice",
    shortname = "dservice",
    category = "eyot",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.baseAddress"}"#,
    printcolumn = r#"{"name":"Admin","type":"string","jsonPath":".spec.adminState"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&[]))]
pub struct DeviceServiceSpec {
    /// Name for EdgeX clients and topics, where it cannot be the object's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub description: String,
    /// Where the service answers, `http://host:port`. The host's own drivers are reached through
    /// the host whatever stands here.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub base_address: String,
    /// `LOCKED` keeps everybody from reading and writing its devices.
    pub admin_state: AdminState,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub labels: Vec<String>,
    /// Whatever else belongs to it.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "lenient::any_map")]
    pub properties: BTreeMap<String, Value>,
}

crate::edgex_named!(DeviceService);
