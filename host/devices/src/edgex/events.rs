//! Events that others send to core-data, in JSON or CBOR: over HTTP, or from device services of
//! their own that publish them on MQTT ([`Foreign`]).
//!
//! An event is kept as it was sent (its tags may be anything), is acknowledged once it is stored and
//! safe with the pipelines that take it, and goes to MQTT if it did not come from there. One that is
//! sent again is refused over HTTP as EdgeX does, but the pipelines are given it even so.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use eyot_api::VALUE_TYPES;
use eyot_runtime::reading::{Event, Reading, Value};
use eyot_store::{ReadingEvent, ReadingSlice, ReadingsError};
use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    Edgex,
    body::{self, Check, Fields},
    reply::{Failure, Reply},
    request::Parsed,
};
use crate::{
    broker::{Intake, Message},
    encode,
    loss::Loss,
    value,
};

/// The path that an event is sent to.
pub(super) struct Path<'a> {
    pub service: &'a str,
    pub profile: &'a str,
    pub device: &'a str,
    pub source: &'a str,
}

pub(super) async fn add(
    edgex: &Edgex,
    request: &Parsed,
    path: &Path<'_>,
) -> Result<Reply, Failure> {
    let envelope = decode(request)?;
    let request_id = body::envelope_id(&envelope, "AddEventRequest")?;
    let event = match envelope.get("event") {
        Some(Json::Object(event)) => event,
        _ => {
            return Err(Failure::bad_request(
                "AddEventRequest.Event field is required",
            ));
        }
    };
    let id = text(event, "id").to_owned();
    let (carried, stored) = taken(event, path)?;
    let (body, topic) = (stored.body.clone(), encode::core_topic(&carried));
    let (inner, carried) = (&edgex.inner, Arc::new(carried));
    let failed = |error: ReadingsError| Failure::internal(error.to_string());
    let new = inner.readings.append_new(vec![stored]).await;
    if !new.map_err(failed)?.contains(&true) {
        // It may come again because a host that was killed had stored it and told no pipeline: then
        // its sender was told nothing either.
        let kept = inner.readings.event(&id).await.map_err(failed)?;
        let kept = kept.and_then(|body| stored_event(&body));
        let is_same = |kept: Event| {
            (kept.origin, &kept.device, &kept.source)
                == (carried.origin, &carried.device, &carried.source)
        };
        if kept.is_some_and(is_same) {
            let taken = inner.bus.take(&inner.namespace, &carried).await;
            taken.map_err(Failure::unavailable)?;
        }
        return Err(Failure::conflict(format!("event {id} already exists")));
    }
    inner.bus.counters().persisted([&*carried]);
    if let Err(reason) = inner.bus.take(&inner.namespace, &carried).await {
        // Who is refused can send it again.
        if let Err(error) = inner.readings.delete_event(&id).await {
            tracing::warn!(%error, id, "an event that was refused is still stored");
        }
        return Err(Failure::unavailable(reason));
    }
    inner.bus.pass_on(&topic, &body);
    let mut fields = json!({ "id": id });
    if !request_id.is_empty() {
        fields["requestId"] = request_id.into();
    }
    Ok(Reply::with(StatusCode::CREATED, fields))
}

/// Look whether an event is one: as pipelines see it, and as it is kept.
fn taken(event: &Fields, path: &Path<'_>) -> Result<(Event, ReadingEvent), Failure> {
    let mut check = Check::new("AddEventRequest.Event".to_owned());
    rules(&mut check, event);
    check.done()?;
    for (called, given, wanted) in [
        ("profileName", text(event, "profileName"), path.profile),
        ("deviceName", text(event, "deviceName"), path.device),
        ("sourceName", text(event, "sourceName"), path.source),
    ] {
        if given != wanted {
            return Err(Failure::bad_request(format!(
                "event's {called} {given} mismatches {wanted}"
            )));
        }
    }
    Ok((carried(event, path.service)?, stored(event)))
}

/// Stores the events that device services publish which are no guests of this host, as EdgeX's
/// core-data does.
pub(crate) struct Foreign {
    edgex: Edgex,
    /// The host's own events come, too: those are stored already.
    with_own: bool,
    refused: Loss,
}

impl Foreign {
    pub(crate) fn new(edgex: Edgex, with_own: bool) -> Self {
        Self {
            edgex,
            with_own,
            refused: Loss::new("core-data, from MQTT"),
        }
    }

    /// Whether an event is of a device service whose address is this host's.
    fn is_own(&self, topic: &[u8]) -> bool {
        let topic = String::from_utf8_lossy(topic);
        let service = topic.split('/').nth(3).unwrap_or_default();
        let service = percent_decode_str(service).decode_utf8_lossy();
        let inner = &self.edgex.inner;
        let services = inner.services.all();
        let mut named = services
            .iter()
            .filter(|known| known.edgex_name() == service);
        named.any(|known| {
            let below = known.spec.base_address.strip_prefix(&inner.device_services);
            below.is_some_and(|below| below.starts_with('/'))
        })
    }
}

#[async_trait]
impl Intake for Foreign {
    async fn take(&self, messages: Vec<Message>) -> Result<(), String> {
        let (mut events, mut bodies) = (Vec::new(), Vec::new());
        for message in &messages {
            if self.with_own && self.is_own(&message.topic) {
                continue;
            }
            match published(message) {
                Ok((event, stored)) => {
                    events.push(Arc::new(event));
                    bodies.push(stored);
                }
                Err(failure) => self.refused.lost_because(1, &failure.message),
            }
        }
        if bodies.is_empty() {
            return Ok(());
        }
        let inner = &self.edgex.inner;
        let new = inner.readings.append_new(bodies).await;
        let new = new.map_err(|error| error.to_string())?;
        let stored = events.iter().zip(new).filter(|(_, new)| *new);
        inner
            .bus
            .counters()
            .persisted(stored.map(|(event, _)| &**event));
        // Also those that are stored already: they come again because nobody was told that the
        // pipelines have them.
        inner.bus.take_all(&inner.namespace, &events).await
    }
}

/// The event in an envelope on MQTT. Its topic names what is in it, percent-encoded.
fn published(message: &Message) -> Result<(Event, ReadingEvent), Failure> {
    let topic = String::from_utf8_lossy(&message.topic);
    let levels: Vec<_> = topic
        .split('/')
        .map(|level| percent_decode_str(level).decode_utf8_lossy())
        .collect();
    let [_, _, _, service, profile, device, source] = levels.as_slice() else {
        return Err(Failure::bad_request(format!(
            "{topic} does not end with a service, a profile, a device and a source"
        )));
    };
    let path = Path {
        service,
        profile,
        device,
        source,
    };
    let none = || Failure::bad_request(format!("there is no event in what came on {topic}"));
    let mut envelope = parsed(&message.payload, "").map_err(|_| none())?;
    let payload = match envelope.remove("payload") {
        Some(Json::Object(payload)) => payload,
        // As EdgeX 3 has it.
        Some(Json::String(coded)) => {
            let bytes = STANDARD.decode(coded).map_err(|_| none())?;
            parsed(&bytes, text(&envelope, "contentType"))?
        }
        _ => return Err(none()),
    };
    match payload.get("event") {
        Some(Json::Object(event)) => taken(event, &path),
        _ => Err(none()),
    }
}

fn decode(request: &Parsed) -> Result<Fields, Failure> {
    let kind = request.content_type.as_deref().unwrap_or_default();
    if !is_cbor(kind) {
        return body::object(request);
    }
    cbor(&request.body)
}

fn is_cbor(kind: &str) -> bool {
    kind.to_ascii_lowercase().starts_with("application/cbor")
}

/// An object in JSON, or in CBOR if that is said or seen.
fn parsed(bytes: &[u8], kind: &str) -> Result<Fields, Failure> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if is_cbor(kind) || first != Some(&b'{') {
        return cbor(bytes);
    }
    serde_json::from_slice(bytes).map_err(|error| Failure::bad_request(error.to_string()))
}

fn cbor(bytes: &[u8]) -> Result<Fields, Failure> {
    let value: ciborium::Value = ciborium::from_reader(bytes)
        .map_err(|error| Failure::bad_request(format!("cbor decoding failed: {error}")))?;
    match from_cbor(value) {
        Some(Json::Object(envelope)) => Ok(envelope),
        _ => Err(Failure::bad_request(
            "cbor decoding failed: a map with texts as keys is needed",
        )),
    }
}

/// CBOR as the JSON that says the same: bytes become base 64, as EdgeX writes them. (The reader
/// bounds how deep it goes.)
fn from_cbor(value: ciborium::Value) -> Option<Json> {
    use ciborium::Value as Cbor;
    Some(match value {
        Cbor::Null => Json::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Text(text) => text.into(),
        Cbor::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Cbor::Float(value) => serde_json::Number::from_f64(value)?.into(),
        Cbor::Integer(value) => {
            let wide = i128::from(value);
            match u64::try_from(wide) {
                Ok(value) => value.into(),
                Err(_) => i64::try_from(wide).ok()?.into(),
            }
        }
        Cbor::Array(values) => values
            .into_iter()
            .map(from_cbor)
            .collect::<Option<Vec<_>>>()?
            .into(),
        Cbor::Map(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let name = name.into_text().ok()?;
                Some((name, from_cbor(value)?))
            });
            Json::Object(fields.collect::<Option<Fields>>()?)
        }
        Cbor::Tag(_, value) => from_cbor(*value)?,
        _ => return None,
    })
}

fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).and_then(Json::as_str).unwrap_or_default()
}

fn rules(check: &mut Check, event: &Fields) {
    check.required(event, "id");
    let id = text(event, "id");
    if !id.is_empty() && Uuid::parse_str(id).is_err() {
        let path = check.path("id");
        check.say(format!("{path} field needs a uuid"));
    }
    for name in ["deviceName", "profileName", "sourceName"] {
        check.required(event, name);
    }
    origin(check, event);
    check.map(event, "tags", false);
    let none = event
        .get("readings")
        .and_then(Json::as_array)
        .is_none_or(Vec::is_empty);
    if none {
        let path = check.path("readings");
        check.say(format!("{path} field should greater than 0"));
    }
    check.each(event, "readings", |check, reading| {
        for name in ["deviceName", "resourceName", "profileName"] {
            check.required(reading, name);
        }
        origin(check, reading);
        check.value_type(reading);
        check.map(reading, "tags", false);
        if let Err(problem) = read(reading) {
            check.say(problem);
        }
    });
}

/// Nanoseconds since 1970: there, whole, positive.
fn origin(check: &mut Check, fields: &Fields) {
    let path = check.path("origin");
    match fields.get("origin") {
        None | Some(Json::Null) => check.say(format!("{path} field is required")),
        Some(origin) => match origin.as_u64() {
            Some(0) => check.say(format!("{path} field is required")),
            Some(1..) => {}
            None => check.say(format!(
                "{path} field must be a number of nanoseconds since 1970"
            )),
        },
    }
}

/// The value of a reading.
fn read(reading: &Fields) -> Result<Value, String> {
    let given = text(reading, "valueType");
    let known = VALUE_TYPES
        .iter()
        .find(|known| known.eq_ignore_ascii_case(given));
    let Some(value_type) = known else {
        // Said by the rule for the type.
        return Ok(Value::Null(given.to_owned()));
    };
    let mismatch = || format!("The value does not match the {value_type} valueType");
    match *value_type {
        "Binary" => match reading.get("binaryValue") {
            None | Some(Json::Null) => Ok(Value::Null("Binary".to_owned())),
            Some(data) => {
                let data = data.as_str().and_then(|data| STANDARD.decode(data).ok());
                let media_type = text(reading, "mediaType").to_owned();
                if media_type.is_empty() {
                    return Err("MediaType field is required with BinaryValue".to_owned());
                }
                let data = data.ok_or_else(mismatch)?;
                Ok(Value::Binary { data, media_type })
            }
        },
        "Object" | "ObjectArray" => {
            let value = reading.get("objectValue").unwrap_or(&Json::Null);
            Ok(match value {
                Json::Null => Value::Null((*value_type).to_owned()),
                Json::Array(_) => Value::ObjectArray(value.to_string()),
                _ => Value::Object(value.to_string()),
            })
        }
        _ => match reading.get("value") {
            Some(Json::Null) => Ok(Value::Null((*value_type).to_owned())),
            Some(Json::String(text)) => value::parse(value_type, text).map_err(|_| mismatch()),
            _ => Err(mismatch()),
        },
    }
}

/// The event as pipelines see it.
fn carried(event: &Fields, service: &str) -> Result<Event, Failure> {
    let list = event.get("readings").and_then(Json::as_array);
    let readings = list.into_iter().flatten().filter_map(Json::as_object);
    let readings = readings
        .map(|reading| {
            Ok(Reading {
                resource: text(reading, "resourceName").to_owned(),
                value: read(reading).map_err(Failure::bad_request)?,
                origin: number(reading, "origin"),
                units: text(reading, "units").to_owned(),
                tags: tags(reading),
            })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(Event {
        id: text(event, "id").to_owned(),
        service: service.into(),
        device: text(event, "deviceName").into(),
        profile: text(event, "profileName").into(),
        source: text(event, "sourceName").into(),
        origin: number(event, "origin"),
        readings,
        tags: tags(event),
    })
}

/// A stored event as pipelines see it, but for its device service, which is not stored.
pub(crate) fn stored_event(body: &[u8]) -> Option<Event> {
    let fields: Fields = serde_json::from_slice(body).ok()?;
    carried(&fields, "").ok()
}

fn number(fields: &Fields, name: &str) -> u64 {
    fields.get(name).and_then(Json::as_u64).unwrap_or_default()
}

/// Tags as texts: what is no text is written as JSON.
fn tags(fields: &Fields) -> Vec<(String, String)> {
    let tags = fields.get("tags").and_then(Json::as_object);
    let tags = tags.into_iter().flatten();
    tags.map(|(name, value)| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), text)
    })
    .collect()
}

/// The event as it is kept: as it came, with what EdgeX adds.
fn stored(event: &Fields) -> ReadingEvent {
    let mut fields = event.clone();
    let list = match fields.remove("readings") {
        Some(Json::Array(list)) => list,
        _ => Vec::new(),
    };
    fields.insert("apiVersion".to_owned(), "v3".into());
    let mut body = Json::Object(fields).to_string();
    // The brace that closes the object makes room for the readings.
    body.pop();
    body.push_str(",\"readings\":[");
    let mut readings = Vec::with_capacity(list.len());
    let mut ids = HashSet::new();
    for mut reading in list {
        let known = reading["id"]
            .as_str()
            .is_some_and(|id| ids.insert(id.to_owned()));
        if !known {
            reading["id"] = Uuid::new_v4().to_string().into();
        }
        if let Some(known) = VALUE_TYPES.iter().find(|known| {
            reading["valueType"]
                .as_str()
                .is_some_and(|t| known.eq_ignore_ascii_case(t))
        }) {
            reading["valueType"] = (*known).into();
        }
        if !readings.is_empty() {
            body.push(',');
        }
        let start = body.len();
        body.push_str(&reading.to_string());
        readings.push(ReadingSlice {
            resource: reading["resourceName"].as_str().unwrap_or_default().into(),
            range: start..body.len(),
        });
    }
    body.push_str("]}");
    ReadingEvent {
        id: text(event, "id").to_owned(),
        device: text(event, "deviceName").into(),
        source: text(event, "sourceName").into(),
        origin: number(event, "origin"),
        body: body.into(),
        readings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_kept_as_it_came_with_each_reading_found_in_it() {
        let event = json!({
            "id": "563513b3-f020-46fa-ae44-0fdd1d129185", "deviceName": "d", "profileName": "p",
            "sourceName": "s", "origin": 7, "tags": { "at": { "deg": 1.5 } },
            "readings": [
                { "resourceName": "A", "valueType": "int8", "value": "1" },
                { "resourceName": "B", "valueType": "Object", "objectValue": { "x": [1] } },
            ],
        });
        let event = event.as_object().unwrap();
        let stored = stored(event);
        let json: Json = serde_json::from_slice(&stored.body).unwrap();
        assert_eq!(json["tags"]["at"]["deg"], 1.5);
        assert_eq!(json["readings"][0]["valueType"], "Int8");
        for (index, slice) in stored.readings.iter().enumerate() {
            let one: Json = serde_json::from_slice(&stored.body[slice.range.clone()]).unwrap();
            assert_eq!(one, json["readings"][index]);
            assert_eq!(one["resourceName"], *slice.resource);
        }
        let carried = carried(event, "svc").unwrap();
        assert_eq!(carried.readings[0].value, Value::Int8(1));
        assert_eq!(
            carried.tags,
            [("at".to_owned(), "{\"deg\":1.5}".to_owned())]
        );
    }

    #[test]
    fn a_value_that_is_none_of_its_type_is_refused() {
        let wrong = |reading: Json| read(reading.as_object().unwrap()).unwrap_err();
        assert!(wrong(json!({"valueType": "Int8", "value": "300"})).contains("Int8"));
        assert!(wrong(json!({"valueType": "Int8", "value": 3})).contains("Int8"));
        assert!(wrong(json!({"valueType": "Int8Array", "value": ""})).contains("Int8Array"));
        assert!(wrong(json!({"valueType": "Bool"})).contains("Bool"));
        assert!(wrong(json!({"valueType": "Binary", "binaryValue": "AA=="})).contains("MediaType"));
    }
}
