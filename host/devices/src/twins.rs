//! Twins of devices over MQTT, on KubeEdge's topics.
//!
//! | topic, behind `$hw/events/` | who says it |
//! |---|---|
//! | `device/<namespace>/<name>/twin/get` | a client asks for the twin |
//! | `…/twin/get/result` | its properties, or a code and a reason |
//! | `…/twin/update` | a client wants values (`expected`) or reports some (`actual`) |
//! | `…/twin/update/result` | what became of it |
//! | `…/twin/update/document` | what the properties were, and what they are |
//! | `…/twin/update/delta` | what is wanted and is not yet, whoever wants it |
//! | `…/twin/cloud_updated` | as `update`, for wanted values alone and without a result |
//! | `node/<node>/membership/get`, `…/result` | the devices there are |
//!
//! The twin is the Device: what is expected is `spec.desired`, which the device's task brings about;
//! what is actual are its last readings, or for a device that no driver of this host serves what a
//! mapper reported last. There are no versions in a twin, because there are no two copies of one.

use std::collections::{BTreeMap, BTreeSet};

use eyot_api::{Device, DeviceProfile, OperatingState};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::{
    broker::{Message, Publisher, hidden},
    catalog::Cache,
    clock,
    service::Inner,
    source::plain,
    status::DeviceKey,
};

/// What [`answer`] is to be given, as the broker has it.
pub(crate) const FILTERS: [&str; 2] = [
    "~hw/events/device/+/+/twin/+",
    "~hw/events/node/+/membership/get",
];
/// Longest message: hundreds of properties.
const LONGEST: usize = 256 * 1024;
/// Properties of one update at most.
const PROPERTIES: usize = 256;

/// KubeEdge's codes.
const BAD_REQUEST: u16 = 400;
const NOT_FOUND: u16 = 404;
const INTERNAL: u16 = 500;

/// A topic that is for this file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Get(DeviceKey),
    Update(DeviceKey),
    CloudUpdated(DeviceKey),
    Members { node: String },
}

/// What a message from a client asks for; `None` if it is none of these.
pub(crate) fn asked(topic: &[u8]) -> Option<Asked> {
    let topic = std::str::from_utf8(topic).ok()?;
    let levels: Vec<&str> = topic.split('/').collect();
    match levels.as_slice() {
        ["~hw", "events", "device", namespace, name, "twin", what] => {
            let key = DeviceKey::new(namespace, name);
            match *what {
                "get" => Some(Asked::Get(key)),
                "update" => Some(Asked::Update(key)),
                "cloud_updated" => Some(Asked::CloudUpdated(key)),
                _ => None,
            }
        }
        ["~hw", "events", "node", node, "membership", "get"] => Some(Asked::Members {
            node: (*node).to_owned(),
        }),
        _ => None,
    }
}

/// What every message of KubeEdge begins with.
#[derive(Deserialize, Default)]
struct Base {
    #[serde(default)]
    event_id: String,
    /// Absent in an update is an error; `null` of a property takes back what was wanted.
    twin: Option<BTreeMap<String, Option<Property>>>,
}

#[derive(Deserialize)]
struct Property {
    expected: Option<Value>,
    actual: Option<Value>,
}

#[derive(Deserialize)]
struct Value {
    value: Option<Json>,
}

struct Refusal {
    code: u16,
    reason: String,
}

impl Refusal {
    fn new(code: u16, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { code, reason }
    }
}

/// Do what a client asks, and say what became of it.
pub(crate) async fn answer(inner: &Inner, asked: Asked, payload: &[u8]) {
    let base = match payload.len() {
        ..=LONGEST => serde_json::from_slice(payload).map_err(|error| error.to_string()),
        _ => Err(format!("more than {LONGEST} bytes")),
    };
    let base: Result<Base, _> = base.map_err(|why| Refusal::new(BAD_REQUEST, why));
    let event = base
        .as_ref()
        .map_or("", |base| base.event_id.as_str())
        .to_owned();
    let say = |topic: String, outcome: Result<Map<String, Json>, Refusal>| {
        inner.bus.say(message(&topic, &event, outcome));
    };
    match asked {
        Asked::Members { node } => {
            let topic = format!("$hw/events/node/{node}/membership/get/result");
            say(topic, base.map(|_| members(inner)));
        }
        Asked::Get(key) => {
            let twin = base.and_then(|_| {
                let device = device(inner, &key)?;
                Ok(properties(&twin(inner, &key, &device)))
            });
            say(topic(&key, "get/result"), twin);
        }
        Asked::CloudUpdated(key) => {
            let outcome = match base {
                Ok(base) => update(inner, &key, base, false).await.map(drop),
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = outcome {
                tracing::warn!(device = %key.name, reason = refusal.reason, "a twin was not updated");
            }
        }
        Asked::Update(key) => match base {
            Ok(base) => match update(inner, &key, base, true).await {
                Ok(Updated {
                    before,
                    after,
                    is_wanted,
                }) => {
                    say(topic(&key, "update/result"), Ok(properties(&after)));
                    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
                    let document = names.into_iter().map(|name| {
                        let of = |twin: &Twin| twin.get(name).cloned().unwrap_or_default();
                        let both = json!({ "last": of(&before), "current": of(&after) });
                        (name.clone(), both)
                    });
                    let document: Map<String, Json> = document.collect();
                    let document = Map::from_iter([("twin".to_owned(), Json::Object(document))]);
                    say(topic(&key, "update/document"), Ok(document));
                    // What is newly wanted is told by [`announce`].
                    if !is_wanted && let Some(delta) = delta(&after) {
                        say(topic(&key, "update/delta"), Ok(delta));
                    }
                }
                Err(refusal) => say(topic(&key, "update/result"), Err(refusal)),
            },
            Err(refusal) => say(topic(&key, "update/result"), Err(refusal)),
        },
    }
}

/// Tell MQTT what is wanted of a device and is not yet, whenever something else is wanted.
pub(crate) fn announce(publisher: &Publisher, devices: &Cache<Device>) {
    let publisher = publisher.clone();
    devices.listen(move |change| {
        let Some(now) = change.after else {
            return;
        };
        let before = change.before.map(|before| &before.spec.desired);
        let is_same = before.is_some_and(|before| *before == now.spec.desired);
        if is_same || now.spec.desired.is_empty() {
            return;
        }
        if let Some(delta) = delta(&rendered(now, None, &BTreeMap::new())) {
            let topic = topic(change.key, "update/delta");
            if !publisher(message(&topic, "", Ok(delta))) {
                tracing::warn!("a twin's delta was lost: the MQTT broker is behind");
            }
        }
    });
}

fn topic(key: &DeviceKey, what: &str) -> String {
    format!(
        "$hw/events/device/{}/{}/twin/{what}",
        key.namespace, key.name
    )
}

fn message(topic: &str, event: &str, outcome: Result<Map<String, Json>, Refusal>) -> Message {
    let mut payload = match outcome {
        Ok(fields) => fields,
        Err(Refusal { code, reason }) => Map::from_iter([
            ("code".to_owned(), code.into()),
            ("reason".to_owned(), reason.into()),
        ]),
    };
    payload.insert("event_id".to_owned(), event.into());
    payload.insert("timestamp".to_owned(), milliseconds().into());
    Message {
        topic: hidden(topic).into(),
        payload: Json::Object(payload).to_string().into(),
    }
}

fn milliseconds() -> u64 {
    clock::nanoseconds() / 1_000_000
}

fn device(inner: &Inner, key: &DeviceKey) -> Result<std::sync::Arc<Device>, Refusal> {
    let found = inner.devices.get(&key.namespace, &key.name);
    found.ok_or_else(|| {
        let reason = format!("there is no device {}/{}", key.namespace, key.name);
        Refusal::new(NOT_FOUND, reason)
    })
}

/// A twin: KubeEdge's object of each property.
type Twin = BTreeMap<String, Json>;

fn properties(twin: &Twin) -> Map<String, Json> {
    Map::from_iter([("twin".to_owned(), json!(twin))])
}

/// What is wanted and is not; `None` if that is nothing.
fn delta(twin: &Twin) -> Option<Map<String, Json>> {
    let wanted = twin.iter().filter_map(|(name, property)| {
        let expected = property["expected"]["value"].as_str()?;
        (property["actual"]["value"].as_str() != Some(expected))
            .then(|| (name.clone(), Json::from(expected)))
    });
    let wanted: Map<String, Json> = wanted.collect();
    (!wanted.is_empty()).then(|| {
        let mut fields = properties(twin);
        fields.insert("delta".to_owned(), wanted.into());
        fields
    })
}

/// The twin as it is now.
fn twin(inner: &Inner, key: &DeviceKey, device: &Device) -> Twin {
    let profile = inner.profile_of(device);
    rendered(device, profile.as_deref(), &inner.board.actual(key))
}

/// A twin of a device's wanted values and of what it said, by its status and by the board, which
/// knows more.
fn rendered(
    device: &Device,
    profile: Option<&DeviceProfile>,
    actual: &BTreeMap<String, (String, u64)>,
) -> Twin {
    let status = device.status.as_ref();
    let mut actual = actual.clone();
    for reading in status.map(|s| &s.last_readings).into_iter().flatten() {
        let time = reading
            .time
            .as_ref()
            .map_or(0, |time| time.0.as_millisecond());
        let known = (reading.value.clone(), time.cast_unsigned());
        actual.entry(reading.resource.clone()).or_insert(known);
    }
    let desired = &device.spec.desired;
    let names: BTreeSet<&String> = desired.keys().chain(actual.keys()).collect();
    let property = |name: &String| {
        let mut property = json!({ "optional": true, "metadata": { "type": kind(profile, name) } });
        if let Some(wanted) = desired.get(name) {
            property["expected"] = json!({ "value": plain(wanted) });
        }
        if let Some((value, time)) = actual.get(name) {
            property["actual"] = json!({ "value": value, "metadata": { "timestamp": time } });
        }
        property
    };
    let properties = names.into_iter();
    properties
        .map(|name| (name.clone(), property(name)))
        .collect()
}

/// KubeEdge's name for the type of a property.
fn kind(profile: Option<&DeviceProfile>, name: &str) -> &'static str {
    let resources = profile.map(|profile| &profile.spec.device_resources);
    let resource = resources.into_iter().flatten().find(|r| r.name == name);
    match resource.map(|resource| resource.properties.value_type.as_str()) {
        Some("Bool") => "boolean",
        Some("Float32" | "Float64") => "float",
        Some(kind)
            if kind
                .trim_start_matches('U')
                .to_ascii_lowercase()
                .starts_with("int")
                && !kind.ends_with("Array") =>
        {
            "int"
        }
        _ => "string",
    }
}

struct Updated {
    before: Twin,
    after: Twin,
    /// Something else is wanted than before.
    is_wanted: bool,
}

/// Want and report what a client says; the properties that it named, before and after.
async fn update(
    inner: &Inner,
    key: &DeviceKey,
    base: Base,
    reports: bool,
) -> Result<Updated, Refusal> {
    let Some(said) = base.twin else {
        return Err(Refusal::new(BAD_REQUEST, "the message has no twin"));
    };
    if said.len() > PROPERTIES {
        let reason = format!("more than {PROPERTIES} properties");
        return Err(Refusal::new(BAD_REQUEST, reason));
    }
    let before = device(inner, key)?;
    let mut wanted = Map::new();
    let mut after = (*before).clone();
    for (name, property) in &said {
        let expected = match property {
            None => Some(Json::Null),
            Some(property) => property
                .expected
                .as_ref()
                .map(|expected| expected.value.clone().unwrap_or_default()),
        };
        let Some(value) = expected else {
            continue;
        };
        let desired = &mut after.spec.desired;
        let is_new = match &value {
            Json::Null => desired.remove(name).is_some(),
            Json::String(_) | Json::Number(_) | Json::Bool(_) => {
                desired.insert(name.clone(), value.clone()).as_ref() != Some(&value)
            }
            _ => {
                let reason = format!("{name}: a value is a text, a number or a boolean");
                return Err(Refusal::new(BAD_REQUEST, reason));
            }
        };
        if is_new {
            wanted.insert(name.clone(), value);
        }
    }
    let named = |twin: Twin| -> Twin {
        let named = twin.into_iter().filter(|(name, _)| said.contains_key(name));
        named.collect()
    };
    let earlier = named(twin(inner, key, &before));
    if reports {
        for (name, property) in &said {
            let actual = property.as_ref().and_then(|p| p.actual.as_ref());
            if let Some(value) = actual.and_then(|actual| actual.value.as_ref()) {
                inner
                    .board
                    .reported(key, name, plain(value), milliseconds());
            }
        }
    }
    let is_wanted = !wanted.is_empty();
    if is_wanted {
        let api: Api<Device> = Api::namespaced(inner.client.clone(), &key.namespace);
        let patch = json!({ "spec": { "desired": wanted } });
        let patched = api
            .patch(
                &before.name_any(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await;
        match patched {
            Ok(written) => inner.devices.has(&written).await,
            Err(kube::Error::Api(status)) if [400, 422].contains(&status.code) => {
                return Err(Refusal::new(BAD_REQUEST, status.message));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                return Err(Refusal::new(NOT_FOUND, status.message));
            }
            Err(error) => return Err(Refusal::new(INTERNAL, error.to_string())),
        }
    }
    Ok(Updated {
        before: earlier,
        after: named(twin(inner, key, &after)),
        is_wanted,
    })
}

fn members(inner: &Inner) -> Map<String, Json> {
    let devices = inner.devices.all();
    let devices = devices.iter().map(|device| {
        let status = device.status.as_ref();
        let state = match status.map(|status| status.operating_state) {
            Some(OperatingState::Up) => "online",
            Some(OperatingState::Down) => "offline",
            _ => "unknown",
        };
        let (namespace, name) = (device.namespace().unwrap_or_default(), device.name_any());
        json!({
            "id": format!("{namespace}/{name}"),
            "name": name,
            "description": device.spec.description,
            "state": state,
        })
    });
    Map::from_iter([("devices".to_owned(), devices.collect())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_is_what_is_wanted_and_is_not() {
        let device: Device = serde_json::from_value(json!({
            "metadata": { "name": "d" },
            "spec": { "desired": { "A": 1, "B": "on", "C": true } },
            "status": { "lastReadings": [{ "resource": "A", "value": "1" }, { "resource": "D", "value": "9" }] },
        }))
        .unwrap();
        let said = BTreeMap::from([("B".to_owned(), ("off".to_owned(), 5))]);
        let twin = rendered(&device, None, &said);
        assert_eq!(
            twin["B"]["actual"],
            json!({ "value": "off", "metadata": { "timestamp": 5 } })
        );
        assert_eq!(twin["D"]["expected"], Json::Null);
        let delta = delta(&twin).unwrap();
        assert_eq!(delta["delta"], json!({ "B": "on", "C": "true" }));
        assert_eq!(super::delta(&BTreeMap::new()), None);
    }

    #[test]
    fn topics_say_what_is_asked() {
        let key = || DeviceKey::new("default", "d");
        let asked = |topic: &str| super::asked(hidden(topic).as_bytes());
        assert_eq!(
            asked("$hw/events/device/default/d/twin/get"),
            Some(Asked::Get(key()))
        );
        assert_eq!(
            asked("$hw/events/device/default/d/twin/cloud_updated"),
            Some(Asked::CloudUpdated(key()))
        );
        assert_eq!(asked("$hw/events/device/default/d/twin/get/result"), None);
        assert_eq!(asked("$hw/events/device/d/twin/get"), None);
    }
}
