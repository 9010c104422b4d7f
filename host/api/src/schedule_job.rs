//! ScheduleJob: what is done again and again, and when.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AdminState, lenient};

/// Actions that are carried out at certain times: a job of EdgeX's support-scheduler.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "ScheduleJob",
    plural = "schedulejobs",
    singular = "schedulejob",
    shortname = "sjob",
    category = "eyot",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.definition.type"}"#,
    printcolumn = r#"{"name":"Interval","type":"string","jsonPath":".spec.definition.interval"}"#,
    printcolumn = r#"{"name":"Crontab","type":"string","jsonPath":".spec.definition.crontab"}"#,
    printcolumn = r#"{"name":"Admin","type":"string","jsonPath":".spec.adminState"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["definition", "actions"]))]
pub struct ScheduleJobSpec {
    /// Name for EdgeX clients, where it cannot be the object's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When.
    pub definition: ScheduleDefinition,
    /// What. Each action is carried out and recorded by itself.
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(length(min = 1, max = 64))]
    pub actions: Vec<ScheduleAction>,
    /// Carry the actions out once at the start of the host if they were due while it was off.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub auto_trigger_missed_records: bool,
    /// `LOCKED` does nothing.
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

crate::edgex_named!(ScheduleJob);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScheduleType {
    #[default]
    #[serde(rename = "INTERVAL")]
    Interval,
    #[serde(rename = "CRON")]
    Cron,
}

/// When a job's actions are due.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["type"]))]
pub struct ScheduleDefinition {
    #[serde(rename = "type")]
    pub kind: ScheduleType,
    /// INTERVAL: `10s`, `1h30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// CRON: five fields, or six with seconds in front, with a zone before them if it is not UTC:
    /// `CRON_TZ=Asia/Taipei 0 6 * * ?`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crontab: Option<String>,
    /// Not before; milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timestamp: Option<i64>,
    /// Not after; milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_timestamp: Option<i64>,
    /// Only on these days of each year.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_yearly_time_window: Option<YearlyWindow>,
}

/// Days of each year, both ends included; it may cross the turn of the year.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["startMonth", "startDay", "endMonth", "endDay"]))]
pub struct YearlyWindow {
    #[schemars(range(min = 1, max = 12))]
    pub start_month: i64,
    #[schemars(range(min = 1, max = 31))]
    pub start_day: i64,
    #[schemars(range(min = 1, max = 12))]
    pub end_month: i64,
    #[schemars(range(min = 1, max = 31))]
    pub end_day: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ActionType {
    #[default]
    #[serde(rename = "REST")]
    Rest,
    #[serde(rename = "EDGEXMESSAGEBUS")]
    MessageBus,
    #[serde(rename = "DEVICECONTROL")]
    DeviceControl,
}

/// One thing to do. Which fields count is said by the type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["type"]))]
pub struct ScheduleAction {
    #[serde(rename = "type")]
    pub kind: ActionType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// EDGEXMESSAGEBUS: where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// EDGEXMESSAGEBUS: publish the payload without an envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_raw_payload: Option<bool>,
    /// REST: the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// REST: kept for EdgeX's clients; there are no tokens of EdgeX's here.
    #[serde(rename = "injectEdgeXAuth", skip_serializing_if = "Option::is_none")]
    pub inject_edgex_auth: Option<bool>,
    /// DEVICECONTROL: what is written, with a payload `{"<resource>": <value>}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_name: Option<String>,
}
