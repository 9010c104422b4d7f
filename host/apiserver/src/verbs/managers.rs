//! The field manager of a write: who it is, and how its fields are kept.

use std::sync::Arc;

use http::header::USER_AGENT;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    api::Api,
    call::Call,
    catalog::Catalog,
    crd::convert::Shown,
    failure::Failure,
    managed::{self, Versions, Write},
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

    /// Set the managed fields of `new`, which replaces `live` or is created. Fails if others manage
    /// fields in a version that only a webhook can show, and it does not.
    pub(crate) async fn track(
        self,
        api: &Api,
        call: &Call,
        subresource: &str,
        live: Option<&Value>,
        new: &mut Value,
    ) -> Result<(), Failure> {
        let resource = &call.resource;
        if let Tracking::Compared { forget, granted } = self {
            let (manager, now) = (name(call), Timestamp::now());
            let versions = Served::new(api, resource);
            let sent = resource.converted.is_some().then(|| new.clone());
            for _ in 0..ROUNDS {
                let write = Write::new(resource, subresource, &manager, &versions, now);
                if let Some(write) = write {
                    let lent = managed::lend(resource, live.is_none(), new);
                    managed::update(&write.without(granted.clone()), live, new, forget);
                    if let Some(name) = lent {
                        object::metadata(new).remove(name);
                    }
                }
                let Some(sent) = &sent else { break };
                match versions.fetch(api).await {
                    Ok(true) => new.clone_from(sent),
                    Ok(false) => break,
                    Err(failure) => return Err(failure),
                }
            }
        }
        if !resource.is_custom() {
            managed::settle(&resource.api_version(), &resource.kind, new);
        }
        Ok(())
    }
}

/// How often a write is looked at anew because a webhook had to show something in another version:
/// each look may need what the one before it led to.
pub(crate) const ROUNDS: usize = 8;

/// The versions in which a resource is served, for one write.
pub(crate) struct Served<'a> {
    catalog: Arc<Catalog>,
    resource: &'a Resource,
    shown: Shown,
}

impl<'a> Served<'a> {
    pub(crate) fn new(api: &Api, resource: &'a Resource) -> Served<'a> {
        Served {
            catalog: api.catalog(),
            resource,
            shown: Shown::default(),
        }
    }

    /// Whether everything that was asked for could be shown.
    pub(crate) fn is_complete(&self) -> bool {
        !self.shown.is_missing()
    }

    /// Have shown what could not be. Answers whether there was any, so that the write must be
    /// looked at anew.
    pub(crate) async fn fetch(&self, api: &Api) -> Result<bool, Failure> {
        self.shown.fetch(api).await
    }
}

impl Versions for Served<'_> {
    fn find(&self, api_version: &str) -> Option<Arc<Resource>> {
        version(&self.catalog, self.resource, api_version)
    }

    fn show(&self, from: &str, to: &Resource, value: &Value) -> Option<Value> {
        // Nothing, which a new object is compared with, is nothing in every version.
        let is_nothing = value.as_object().is_some_and(Map::is_empty);
        if self.resource.converted.is_some() && from != to.api_version() && !is_nothing {
            return self.shown.get(from, &self.find(&to.api_version())?, value);
        }
        Some(self.find(from)?.convert(to, value))
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
    // Kubernetes' names, by which clients tell what controllers write from what people do.
    if user.starts_with("system:serviceaccount:kube-system:") {
        return "kube-controller-manager";
    }
    if user == "system:kube-scheduler" {
        return "kube-scheduler";
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
