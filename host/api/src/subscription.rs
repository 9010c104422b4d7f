//! Subscription: who is told of which notifications, and how.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AdminState, lenient};

/// Who is told of which notifications: a subscription of EdgeX's support-notifications.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "eyot.dev",
    version = "v1alpha1",
    kind = "Subscription",
    plural = "subscriptions",
    singular = "subscription",
    shortname = "subs",
    category = "eyot",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Receiver","type":"string","jsonPath":".spec.receiver"}"#,
    printcolumn = r#"{"name":"Categories","type":"string","jsonPath":".spec.categories"}"#,
    printcolumn = r#"{"name":"Labels","type":"string","jsonPath":".spec.labels"}"#,
    printcolumn = r#"{"name":"Admin","type":"string","jsonPath":".spec.adminState"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["receiver", "channels"]))]
pub struct SubscriptionSpec {
    /// Name for EdgeX clients, where it cannot be the object's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who is interested.
    pub receiver: String,
    /// The ways in which the receiver is told, each by itself.
    #[serde(deserialize_with = "lenient::nullable")]
    #[schemars(length(min = 1, max = 64))]
    pub channels: Vec<Channel>,
    /// Notifications of these categories are told...
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub categories: Vec<String>,
    /// ...and those that have one of these labels.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub labels: Vec<String>,
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub description: String,
    /// How often a critical notification is sent again if it could not be delivered; 0 for the
    /// service's own limit.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "is_zero"
    )]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub resend_limit: i64,
    /// How long to wait before each time, `5s` or `1h`; empty for the service's own.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub resend_interval: String,
    /// `LOCKED` tells nothing.
    pub admin_state: AdminState,
}

crate::edgex_named!(Subscription);

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// How a channel delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChannelType {
    #[default]
    #[serde(rename = "REST")]
    Rest,
    #[serde(rename = "EMAIL")]
    Email,
    #[serde(rename = "MQTT")]
    Mqtt,
}

/// One way to tell a receiver. Which fields count is said by the type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::require(&["type"]))]
pub struct Channel {
    #[serde(rename = "type")]
    pub kind: ChannelType,
    /// REST: `http` (the default) or `https`. MQTT: `tcp` (the default), or `ssl` for TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<i64>,
    /// REST: where the content goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_method: Option<String>,
    /// REST: kept for EdgeX's clients; there are no tokens of EdgeX's here.
    #[serde(rename = "injectEdgeXAuth", skip_serializing_if = "Option::is_none")]
    pub inject_edgex_auth: Option<bool>,
    /// MQTT: the client's identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2))]
    pub qos: Option<i64>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_reconnect: Option<bool>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<i64>,
    /// MQTT: the Secret of this namespace with `username`, `password`, `cacert`, `clientcert` and
    /// `clientkey`, as the mode needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_path: Option<String>,
    /// MQTT: `none`, `usernamepassword`, `cacert` or `clientcert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_cert_verify: Option<bool>,
    /// EMAIL: the addresses.
    #[serde(
        deserialize_with = "lenient::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub recipients: Vec<String>,
}
