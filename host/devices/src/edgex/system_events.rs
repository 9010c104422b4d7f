//! EdgeX's system events: who changed which metadata, on MQTT, whichever door the change came by.
//!
//! `edgex/system-events/core-metadata/<type>/<action>/<owner>[/<profile>]`, with EdgeX's envelope.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use eyot_api::{Device, DeviceProfile, DeviceService, ProvisionWatcher};
use eyot_edgex::names;
use serde_json::{Value as Json, json};

use super::dto;
use crate::{
    broker::{Message, Publisher},
    catalog::Cache,
    clock, encode,
};

const SOURCE: &str = "core-metadata";

/// What a kind of object says of itself.
struct Told {
    kind: &'static str,
    owner: String,
    /// The profile of a device.
    profile: Option<String>,
    details: Json,
}

/// Tell MQTT of every change of metadata in `namespace` from the end of the first list on.
pub(crate) fn announce(
    publisher: &Publisher,
    namespace: &str,
    devices: &Cache<Device>,
    profiles: &Cache<DeviceProfile>,
    services: &Cache<DeviceService>,
    watchers: &Cache<ProvisionWatcher>,
) {
    tell(publisher, namespace, devices, |device| Told {
        kind: "device",
        owner: device.spec.service_name.clone(),
        profile: Some(device.spec.profile_name.clone()),
        details: dto::device(device),
    });
    tell(publisher, namespace, profiles, |profile| Told {
        kind: "deviceprofile",
        owner: SOURCE.to_owned(),
        profile: None,
        details: dto::profile(profile),
    });
    tell(publisher, namespace, services, |service| Told {
        kind: "deviceservice",
        owner: service.edgex_name().into_owned(),
        profile: None,
        details: dto::service(service),
    });
    tell(publisher, namespace, watchers, |watcher| Told {
        kind: "provisionwatcher",
        owner: watcher.spec.service_name.clone(),
        profile: None,
        details: dto::watcher(watcher),
    });
}

fn tell<K>(
    publisher: &Publisher,
    namespace: &str,
    cache: &Cache<K>,
    told: impl Fn(&K) -> Told + Send + Sync + 'static,
) where
    K: kube::Resource<DynamicType = ()>
        + kube::core::object::HasSpec
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
    K::Spec: PartialEq,
{
    let (publisher, namespace) = (publisher.clone(), namespace.to_owned());
    // What is there at the start is no news.
    let listed = Arc::new(AtomicBool::new(false));
    let mark = listed.clone();
    cache.once_listed(move || mark.store(true, Ordering::Release));
    cache.listen(move |change| {
        if !listed.load(Ordering::Acquire) || *change.key.namespace != *namespace {
            return;
        }
        let (action, object) = match (change.before, change.after) {
            (None, Some(now)) => ("add", now),
            (Some(before), Some(now)) if before.spec() != now.spec() => ("update", now),
            (Some(before), None) => ("delete", before),
            _ => return,
        };
        let message = message(action, &told(object));
        if !publisher(message) {
            tracing::warn!("a system event was lost: the MQTT broker is behind");
        }
    });
}

/// A device service says how far a search of its own is.
pub(super) fn progress(service: &str, action: &str, details: Json) -> Message {
    let service_level = names::name(service).to_string();
    let topic = format!("edgex/system-events/{service_level}/device/{action}/{service_level}");
    let payload = json!({
        "apiVersion": "v3",
        "type": "device",
        "action": action,
        "source": service,
        "owner": service,
        "details": details,
        "timestamp": clock::nanoseconds(),
    });
    Message {
        topic: topic.into(),
        payload: encode::message(payload),
    }
}

fn message(action: &str, told: &Told) -> Message {
    let mut topic = format!(
        "edgex/system-events/{SOURCE}/{}/{action}/{}",
        told.kind,
        names::name(&told.owner)
    );
    if let Some(profile) = &told.profile {
        topic = format!("{topic}/{}", names::name(profile));
    }
    let payload = json!({
        "apiVersion": "v3",
        "type": told.kind,
        "action": action,
        "source": SOURCE,
        "owner": told.owner,
        "details": told.details,
        "timestamp": clock::nanoseconds(),
    });
    Message {
        topic: topic.into(),
        payload: encode::message(payload),
    }
}
