//! The custom resources of Eyot and the names that go with them.
//!
//! Plain data without I/O: whoever watches a Device, from the controller in this process to a
//! user's own program, needs these types and nothing else of the host. The custom resource
//! definitions are derived from the same types, so what the API server validates and what the host
//! reads cannot part ways.
//!
//! Field names and meanings of profiles and devices are those of EdgeX v4. Where existing files are
//! loose (quoted numbers, unquoted texts), reading is loose too and writing is strict: [`lenient`].

/// Kinds that EdgeX knows, too: by `spec.name`, where EdgeX's name cannot be the object's own.
macro_rules! edgex_named {
    ($kind:ty) => {
        impl $kind {
            /// The name that EdgeX clients and topics use.
            pub fn edgex_name(&self) -> std::borrow::Cow<'_, str> {
                match &self.spec.name {
                    Some(name) if !name.is_empty() => name.into(),
                    _ => kube::ResourceExt::name_any(self).into(),
                }
            }
        }
    };
}
use edgex_named;

pub mod alert_rule;
pub mod cron;
pub mod device;
pub mod device_service;
pub mod duration;
pub mod edge_application;
pub mod lenient;
pub mod node_group;
pub mod pipeline;
pub mod profile;
mod profile_yaml;
pub mod provision_watcher;
pub mod schedule_job;
mod schema;
pub mod subscription;

pub use alert_rule::{AlertRule, AlertRuleSpec, AlertRuleStatus};
pub use device::{
    AdminState, AutoEvent, Device, DeviceSpec, DeviceStatus, LastReading, OperatingState,
    TwinStatus, TwinValue,
};
pub use device_service::{DeviceService, DeviceServiceSpec};
pub use duration::{DurationError, parse_duration};
pub use edge_application::{EdgeApplication, EdgeApplicationSpec, EdgeApplicationStatus};
pub use node_group::{NODE_GROUP_LABEL, NodeGroup, NodeGroupSpec, NodeGroupStatus};
pub use pipeline::{
    Branch, ConfigSource, Discard, KeyRef, MqttSource, Pipeline, PipelineSpec, PipelineStatus,
    Queue, Source, Stage,
};
pub use profile::{
    DeviceCommand, DeviceProfile, DeviceProfileSpec, DeviceResource, ReadWrite, ResourceOperation,
    ResourceProperties, VALUE_TYPES,
};
pub use profile_yaml::{ProfileError, object_name};
pub use provision_watcher::{DiscoveredDevice, ProvisionWatcher, ProvisionWatcherSpec};
pub use schedule_job::{
    ActionType, ScheduleAction, ScheduleDefinition, ScheduleJob, ScheduleJobSpec, ScheduleType,
    YearlyWindow,
};
pub use subscription::{Channel, ChannelType, Subscription, SubscriptionSpec};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of everything of our own.
pub const GROUP: &str = "eyot.dev";
/// API version of everything in this crate.
pub const VERSION: &str = "v1alpha1";

/// Label of a driver pod: the device service that it is. Without it the container's name counts.
pub const DEVICE_SERVICE_LABEL: &str = "eyot.dev/device-service";
/// Condition of a Device: its driver serves it and it answers.
pub const CONDITION_AVAILABLE: &str = "Available";
/// Condition of a Pipeline: its components are loaded and configured.
pub const CONDITION_READY: &str = "Ready";

/// The definitions that the host installs at its start.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        DeviceProfile::crd(),
        DeviceService::crd(),
        Device::crd(),
        ProvisionWatcher::crd(),
        Pipeline::crd(),
        Subscription::crd(),
        ScheduleJob::crd(),
        NodeGroup::crd(),
        EdgeApplication::crd(),
        AlertRule::crd(),
    ]
}

#[cfg(test)]
mod tests;
