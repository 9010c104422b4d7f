//! Objects as EdgeX shows them: the spec has EdgeX's fields already; this adds what EdgeX keeps
//! beside them.

use eyot_api::{Device, DeviceProfile, DeviceService, ProvisionWatcher};
use eyot_edgex::objects::shown;
use serde_json::{Value as Json, json};

use crate::device::said::operating_state;

pub(super) fn device(device: &Device) -> Json {
    let mut json = shown(&device.spec, &device.edgex_name(), &device.metadata);
    if let Some(fields) = json.as_object_mut() {
        // EdgeX knows no twins.
        fields.remove("desired");
    }
    json["operatingState"] = operating_state(device).as_str().into();
    fill(&mut json, &["autoEvents", "labels"], &["protocols"]);
    json
}

pub(super) fn profile(profile: &DeviceProfile) -> Json {
    let mut json = shown(&profile.spec, &profile.edgex_name(), &profile.metadata);
    json["apiVersion"] = "v3".into();
    fill(
        &mut json,
        &["deviceResources", "deviceCommands", "labels"],
        &[],
    );
    json
}

/// A profile without what it is about.
pub(super) fn basic_info(profile: &DeviceProfile) -> Json {
    let mut json = self::profile(profile);
    if let Some(fields) = json.as_object_mut() {
        fields.remove("deviceResources");
        fields.remove("deviceCommands");
    }
    json
}

pub(super) fn service(service: &DeviceService) -> Json {
    let mut json = shown(&service.spec, &service.edgex_name(), &service.metadata);
    fill(&mut json, &["labels"], &[]);
    json
}

pub(super) fn watcher(watcher: &ProvisionWatcher) -> Json {
    let mut json = shown(&watcher.spec, &watcher.edgex_name(), &watcher.metadata);
    fill(&mut json, &["labels"], &["identifiers"]);
    json
}

/// Empty lists and maps stand where clients expect one.
fn fill(json: &mut Json, lists: &[&str], maps: &[&str]) {
    for list in lists {
        if json.get(list).is_none() {
            json[list] = json!([]);
        }
    }
    for map in maps {
        if json.get(map).is_none() {
            json[map] = json!({});
        }
    }
}
