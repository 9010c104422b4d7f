//! The field manager of a write: who it is, and how its fields are kept.

use std::sync::Arc;

use http::header::USER_AGENT;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    api::Api,
    call::Call,
    catalog::Catalog,
    managed::{self, Write},
    object,
    resource::Resource,
};

/// Who keeps `metadata.managedFields` of a write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tracking {
    /// The write is compared with what was there.
    Compared {
        /// The client asks to forget all managers.
        forget: bool,
        /// What changes without the client, and is nobody's.
        granted: Map<String, Value>,
    },
    /// The change brings its managed fields: apply, scale.
    Brought,
}

impl Tracking {
    /// For a body that was not decoded yet: afterwards an empty list looks like none.
    pub(crate) fn of(sent: &Value) -> Tracking {
        Tracking::Compared {
            forget: managed::is_reset(sent),
            granted: Map::new(),
        }
    }

    /// For a new object that has no defaults yet.
    pub(crate) fn granting(mut self, resource: &Resource, new: &Value) -> Tracking {
        if let Tracking::Compared { granted, .. } = &mut self {
            *granted = managed::reset::to_be_granted(resource, new);
        }
        self
    }

    /// Set the managed fields of `new`, which replaces `live` or is created.
    pub(crate) fn track(
        self,
        api: &Api,
        call: &Call,
        subresource: &str,
        live: Option<&Value>,
        new: &mut Value,
    ) {
        let resource = &call.resource;
        if let Tracking::Compared { forget, granted } = self {
            let catalog = api.catalog();
            let versions = |api_version: &str| version(&catalog, resource, api_version);
            let (manager, now) = (name(call), Timestamp::now());
            if let Some(write) = Write::new(resource, subresource, &manager, &versions, now) {
                let lent = managed::lend(resource, live.is_none(), new);
                managed::update(&write.without(granted), live, new, forget);
                if let Some(name) = lent {
                    object::metadata(new).remove(name);
                }
            }
        }
        if !resource.is_custom() {
            managed::settle(&resource.api_version(), &resource.kind, new);
        }
    }
}

/// Keep the managed fields of a status that the server itself writes: `new` replaces `old`.
pub(crate) fn track_own_status(resource: &Resource, old: &Value, new: &mut Value) {
    let versions = |_: &str| None;
    let now = Timestamp::now();
    if let Some(write) = Write::new(resource, "status", "kube-apiserver", &versions, now) {
        managed::update(&write, Some(old), new, false);
    }
}

/// The name under which a write is tracked.
pub(crate) fn name(call: &Call) -> String {
    let agent = call.headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
    let agent = agent.unwrap_or_else(|| part_of_host(&call.user.name));
    managed::manager(&call.query.field_manager, agent)
}

/// The parts of the host speak without a User-Agent, but each as a user of its own.
fn part_of_host(user: &str) -> &str {
    if user.starts_with("system:node:") {
        return "kubelet";
    }
    let part = user.strip_prefix("system:");
    part.filter(|part| part.starts_with("eyot-"))
        .unwrap_or_default()
}

/// The resource of the same objects at another version.
pub(crate) fn version(
    catalog: &Catalog,
    resource: &Resource,
    api_version: &str,
) -> Option<Arc<Resource>> {
    catalog
        .all()
        .iter()
        .find(|other| other.storage == resource.storage && other.api_version() == api_version)
        .cloned()
}
