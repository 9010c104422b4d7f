//! Events as EdgeX's JSON: the body that the store keeps, the REST API answers and MQTT carries.
//!
//! Written by hand in one pass, once per event: it is on the path of every reading, and the store
//! wants to know where in the body each reading is.

use std::{ops::Range, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use eyot_edgex::names::name;
use eyot_runtime::reading::{Event, Reading, Value};
use uuid::Uuid;

use crate::value;

pub(crate) use eyot_edgex::bus::message;

/// An event and its JSON.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub event: Arc<Event>,
    pub body: Bytes,
    /// Where in `body` each reading is.
    pub readings: Vec<Range<usize>>,
}

/// Write an event.
pub(crate) fn event(event: Arc<Event>) -> Encoded {
    let mut out = Vec::with_capacity(200 + 280 * event.readings.len());
    out.extend_from_slice(b"{\"apiVersion\":\"v3\",\"id\":");
    string(&mut out, &event.id);
    for (name, text) in [
        (&b",\"deviceName\":"[..], &event.device),
        (b",\"profileName\":", &event.profile),
        (b",\"sourceName\":", &event.source),
    ] {
        out.extend_from_slice(name);
        string(&mut out, text);
    }
    number(&mut out, b",\"origin\":", event.origin);
    out.extend_from_slice(b",\"readings\":[");
    let mut readings = Vec::with_capacity(event.readings.len());
    for (index, one) in event.readings.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let start = out.len();
        reading(&mut out, &event, one);
        readings.push(start..out.len());
    }
    out.push(b']');
    tags(&mut out, &event.tags);
    out.push(b'}');
    Encoded {
        event,
        body: out.into(),
        readings,
    }
}

/// Whether EdgeX writes an event as CBOR where it has the choice: if a reading is bytes.
pub(crate) fn has_bytes(event: &Event) -> bool {
    let mut readings = event.readings.iter();
    readings.any(|reading| matches!(reading.value, Value::Binary { .. }))
}

/// The answer with an event as EdgeX's CBOR: the fields of the JSON, bytes as bytes.
pub(crate) fn cbor_answer(encoded: &Encoded) -> Result<Vec<u8>, String> {
    let mut event: serde_json::Value =
        serde_json::from_slice(&encoded.body).map_err(|error| error.to_string())?;
    let readings = encoded.event.readings.iter().enumerate();
    let mut bytes = Vec::new();
    for (index, reading) in readings {
        if let Value::Binary { data, .. } = &reading.value {
            // Not to go through base 64 again: they may be a picture.
            event["readings"][index]["binaryValue"] = serde_json::Value::Null;
            bytes.push((index, data));
        }
    }
    let answer = serde_json::json!({ "apiVersion": "v3", "statusCode": 200, "event": event });
    let mut answer = ciborium::Value::serialized(&answer).map_err(|error| error.to_string())?;
    let readings = field(&mut answer, "event").and_then(|event| field(event, "readings"));
    if let Some(ciborium::Value::Array(readings)) = readings {
        for (index, data) in bytes {
            let reading = readings.get_mut(index);
            if let Some(value) = reading.and_then(|reading| field(reading, "binaryValue")) {
                *value = ciborium::Value::Bytes(data.clone());
            }
        }
    }
    let mut out = Vec::new();
    ciborium::into_writer(&answer, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

fn field<'a>(of: &'a mut ciborium::Value, name: &str) -> Option<&'a mut ciborium::Value> {
    let mut fields = of.as_map_mut()?.iter_mut();
    let (_, value) = fields.find(|(key, _)| key.as_text() == Some(name))?;
    Some(value)
}

/// The message envelope of EdgeX's bus around an event's body.
pub(crate) fn envelope(body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + 260);
    out.extend_from_slice(b"{\"apiVersion\":\"v3\",\"receivedTopic\":\"\",\"correlationID\":\"");
    uuid(&mut out);
    out.extend_from_slice(
        b"\",\"requestID\":\"\",\"errorCode\":0,\"payload\":{\"apiVersion\":\"v3\",\"requestId\":\"",
    );
    uuid(&mut out);
    out.extend_from_slice(b"\",\"event\":");
    out.extend_from_slice(body);
    out.extend_from_slice(b"},\"contentType\":\"application/json\"}");
    out.into()
}

/// The envelope of an answer to a request on the bus: its payload, or the text of what went wrong.
pub(crate) fn answer(
    request_id: &str,
    correlation_id: &str,
    outcome: Result<Box<serde_json::value::RawValue>, &str>,
) -> Bytes {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope<'a, T> {
        api_version: &'a str,
        received_topic: &'a str,
        #[serde(rename = "correlationID")]
        correlation_id: &'a str,
        #[serde(rename = "requestID")]
        request_id: &'a str,
        error_code: u8,
        payload: T,
        content_type: &'a str,
    }
    let fresh = Uuid::new_v4().to_string();
    let correlation_id = if correlation_id.is_empty() {
        &fresh
    } else {
        correlation_id
    };
    let written = match outcome {
        Ok(payload) => serde_json::to_vec(&Envelope {
            api_version: "v3",
            received_topic: "",
            correlation_id,
            request_id,
            error_code: 0,
            payload,
            content_type: "application/json",
        }),
        Err(message) => serde_json::to_vec(&Envelope {
            api_version: "v3",
            received_topic: "",
            correlation_id,
            request_id,
            error_code: 1,
            payload: message,
            content_type: "text/plain",
        }),
    };
    // Texts and JSON that is written already cannot fail to be written.
    written.unwrap_or_default().into()
}

/// `edgex/events/device/<service>/<profile>/<device>/<source>`, names percent-encoded.
pub(crate) fn topic(event: &Event) -> String {
    topic_from("device", event)
}

/// The same for an event that core-data was sent: `edgex/events/core/…`.
pub(crate) fn core_topic(event: &Event) -> String {
    topic_from("core", event)
}

fn topic_from(origin: &str, event: &Event) -> String {
    format!(
        "edgex/events/{origin}/{}/{}/{}/{}",
        name(&event.service),
        name(&event.profile),
        name(&event.device),
        name(&event.source)
    )
}

fn reading(out: &mut Vec<u8>, event: &Event, reading: &Reading) {
    out.extend_from_slice(b"{\"id\":\"");
    uuid(out);
    number(out, b"\",\"origin\":", reading.origin);
    out.extend_from_slice(b",\"deviceName\":");
    string(out, &event.device);
    out.extend_from_slice(b",\"resourceName\":");
    string(out, &reading.resource);
    out.extend_from_slice(b",\"profileName\":");
    string(out, &event.profile);
    out.extend_from_slice(b",\"valueType\":");
    string(out, reading.value.value_type());
    if !reading.units.is_empty() {
        out.extend_from_slice(b",\"units\":");
        string(out, &reading.units);
    }
    match &reading.value {
        Value::Binary { data, media_type } => {
            out.extend_from_slice(b",\"binaryValue\":\"");
            out.extend_from_slice(STANDARD.encode(data).as_bytes());
            out.extend_from_slice(b"\",\"mediaType\":");
            string(out, media_type);
        }
        Value::Object(json) | Value::ObjectArray(json) => {
            out.extend_from_slice(b",\"objectValue\":");
            // A driver's text: never let it break the document.
            match serde_json::from_str::<&serde_json::value::RawValue>(json) {
                Ok(json) => out.extend_from_slice(json.get().as_bytes()),
                Err(_) => out.extend_from_slice(b"null"),
            }
        }
        Value::Null(_) => out.extend_from_slice(b",\"value\":null"),
        simple => {
            out.extend_from_slice(b",\"value\":");
            string(out, &value::text(simple).unwrap_or_default());
        }
    }
    tags(out, &reading.tags);
    out.push(b'}');
}

fn tags(out: &mut Vec<u8>, tags: &[(String, String)]) {
    if tags.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"tags\":{");
    for (index, (name, text)) in tags.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, name);
        out.push(b':');
        string(out, text);
    }
    out.push(b'}');
}

fn string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing a text into memory cannot fail.
        let _ = serde_json::to_writer(out, text);
    }
}

fn number(out: &mut Vec<u8>, name: &[u8], number: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(number.to_string().as_bytes());
}

fn uuid(out: &mut Vec<u8>) {
    let mut text = Uuid::encode_buffer();
    out.extend_from_slice(
        Uuid::new_v4()
            .hyphenated()
            .encode_lower(&mut text)
            .as_bytes(),
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Arc<Event> {
        let reading = |resource: &str, value| Reading {
            resource: resource.into(),
            value,
            origin: 7,
            units: String::new(),
            tags: vec![],
        };
        Arc::new(Event {
            id: "b7b8a2f4-eb14-4649-9e2b-175247911369".into(),
            service: "modbus".into(),
            device: "press \"1\"/a".into(),
            profile: "press".into(),
            source: "All".into(),
            origin: 1_700_000_000_000_000_000,
            readings: vec![
                Reading {
                    units: "°C".into(),
                    tags: vec![("q".into(), "good".into())],
                    ..reading("Heat", Value::Float64(23.4))
                },
                reading(
                    "Raw",
                    Value::Binary {
                        data: vec![1, 2],
                        media_type: "a/b".into(),
                    },
                ),
                reading("Odd", Value::Object("{".into())),
                reading("None", Value::Null("Int8".into())),
            ],
            tags: vec![("site".into(), "north".into())],
        })
    }

    #[test]
    fn an_event_is_the_json_that_edgex_has() {
        let encoded = event(sample());
        let json: serde_json::Value = serde_json::from_slice(&encoded.body).unwrap();
        assert_eq!(json["deviceName"], "press \"1\"/a");
        assert_eq!(json["origin"], 1_700_000_000_000_000_000_u64);
        assert_eq!(json["tags"], json!({"site": "north"}));
        let heat = &json["readings"][0];
        assert_eq!(heat["value"], "2.34e+01");
        assert_eq!(heat["valueType"], "Float64");
        assert_eq!(heat["units"], "°C");
        assert_eq!(heat["tags"], json!({"q": "good"}));
        assert_eq!(json["readings"][1]["binaryValue"], "AQI=");
        assert_eq!(json["readings"][2]["objectValue"], json!(null));
        assert_eq!(json["readings"][3]["value"], json!(null));
        assert_eq!(json["readings"][3]["valueType"], "Int8");
    }

    #[test]
    fn each_reading_is_found_in_the_body() {
        let encoded = event(sample());
        let json: serde_json::Value = serde_json::from_slice(&encoded.body).unwrap();
        for (index, range) in encoded.readings.iter().enumerate() {
            let one: serde_json::Value =
                serde_json::from_slice(&encoded.body[range.clone()]).unwrap();
            assert_eq!(one, json["readings"][index]);
        }
    }

    #[test]
    fn the_envelope_carries_the_event_and_the_topic_cannot_be_widened() {
        let encoded = event(sample());
        let json: serde_json::Value = serde_json::from_slice(&envelope(&encoded.body)).unwrap();
        assert_eq!(json["payload"]["event"]["profileName"], "press");
        assert_eq!(json["contentType"], "application/json");
        assert_eq!(
            topic(&encoded.event),
            "edgex/events/device/modbus/press/press%20%221%22%2Fa/All"
        );
    }
}
