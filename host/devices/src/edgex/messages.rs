//! Requests over MQTT: commands and the list of what is possible, as EdgeX has them.
//!
//! | request | who answers | where |
//! |---|---|---|
//! | `edgex/core/command/request/<device>/<command>/<get or set>` | core-command | `edgex/response/core-command/<request>` |
//! | `edgex/core/commandquery/request/<device or all>` | core-command | the same |
//! | `edgex/device/command/request/<service>/<device>/<command>/<get or set>` | the device service | `edgex/response/<service>/<request>` |
//! | `edgex/command/request/<device>/<command>/<get or set>` | core-command, from outside | `edgex/command/response/<device>/<command>/<get or set>` |
//! | `edgex/commandquery/request/<device or all>` | core-command, from outside | `edgex/commandquery/response` |
//!
//! The last two are the topics of EdgeX's external broker; here one broker has them all. Names are
//! percent-encoded. A request is an envelope with a `requestID`; one without cannot be answered and
//! is logged, as is one whose topic is none of these.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value as Json, value::RawValue};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Edgex, command,
    reply::{Failure, Reply},
    request::Page,
};
use crate::{broker::Message, encode, twins};

/// What [`answer`] is to be given.
pub(crate) const FILTERS: &[&str] = &[
    "edgex/core/command/request/#",
    "edgex/core/commandquery/request/#",
    "edgex/device/command/request/#",
    "edgex/command/request/#",
    "edgex/commandquery/request/#",
];
/// Requests that are being carried out at most; EdgeX's device services take 32 each.
const AT_ONCE: usize = 256;
/// Longest request: what the REST API takes.
const LONGEST: usize = super::request::BODY;

/// A request's envelope. What EdgeX 3 and 4 write, and either way of writing the payload.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "requestID", default)]
    request_id: String,
    #[serde(rename = "correlationID", default)]
    correlation_id: String,
    #[serde(default)]
    payload: Json,
    #[serde(rename = "queryParams", default)]
    query: Option<HashMap<String, String>>,
}

/// What a topic asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Get { device: String, command: String },
    Set { device: String, command: String },
    Commands { device: String },
    AllCommands,
}

/// A request by its topic, and where its answer goes.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    asked: Asked,
    /// The device service that was asked, if not core-command.
    service: Option<String>,
    /// The answer's topic; the request's identifier is to be put behind a slash at the end.
    answer: String,
}

/// Answer requests until `stop`. Each is carried out by itself, so that a device that is slow holds
/// up no other; more than [`AT_ONCE`] are refused at once.
pub(crate) async fn answer(
    edgex: Edgex,
    mut requests: mpsc::Receiver<Message>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            message = requests.recv() => message,
            Some(_) = tasks.join_next() => continue,
        };
        let Some(message) = message else {
            return;
        };
        let edgex = edgex.clone();
        if let Some(asked) = twins::asked(&message.topic) {
            // Nobody can be told: the topics of KubeEdge have no word for it.
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!("busy: a message about a twin was dropped");
                continue;
            };
            tasks.spawn(async move {
                twins::answer(&edgex.inner, asked, &message.payload).await;
                drop(place);
            });
            continue;
        }
        let Some((request, envelope)) = read(&message) else {
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                tasks.spawn(async move {
                    let outcome = carry_out(&edgex, &request, &envelope).await;
                    reply(&edgex, &request, &envelope, outcome);
                    drop(place);
                });
            }
            Err(_) => {
                let busy = format!("busy: {AT_ONCE} requests are being carried out; try again");
                reply(&edgex, &request, &envelope, Err(Failure::conflict(busy)));
            }
        }
    }
}

/// Read a message; what cannot be answered is logged.
fn read(message: &Message) -> Option<(Request, Envelope)> {
    let topic = String::from_utf8_lossy(&message.topic);
    let refused = |why: &str| {
        tracing::warn!(%topic, why, "a request over MQTT cannot be answered");
        None
    };
    if message.payload.len() > LONGEST {
        return refused("it is too long");
    }
    let Some(request) = request(&topic) else {
        return refused("its topic is none of core-command's or a device service's");
    };
    let envelope: Envelope = match serde_json::from_slice(&message.payload) {
        Ok(envelope) => envelope,
        Err(error) => return refused(&format!("it is no message envelope: {error}")),
    };
    if Uuid::parse_str(&envelope.request_id).is_err() {
        return refused("its requestID is no uuid");
    }
    Some((request, envelope))
}

fn request(topic: &str) -> Option<Request> {
    let levels: Vec<&str> = topic.split('/').collect();
    let name = |level: &str| {
        let name = percent_decode_str(level).decode_utf8().ok()?;
        (!name.is_empty()).then(|| name.into_owned())
    };
    let command = |device: &str, command: &str, method: &str| {
        let (device, command) = (name(device)?, name(command)?);
        match method.to_ascii_lowercase().as_str() {
            "get" => Some(Asked::Get { device, command }),
            "set" => Some(Asked::Set { device, command }),
            _ => None,
        }
    };
    let query = |device: &str| {
        if device.eq_ignore_ascii_case("all") {
            return Some(Asked::AllCommands);
        }
        Some(Asked::Commands {
            device: name(device)?,
        })
    };
    let inside = "edgex/response/core-command/".to_owned();
    let (asked, service, answer) = match levels.as_slice() {
        [
            "edgex",
            "core",
            "command",
            "request",
            device,
            source,
            method,
        ] => (command(device, source, method)?, None, inside),
        ["edgex", "core", "commandquery", "request", device] => (query(device)?, None, inside),
        [
            "edgex",
            "device",
            "command",
            "request",
            service,
            device,
            source,
            method,
        ] => (
            command(device, source, method)?,
            Some(name(service)?),
            format!("edgex/response/{service}/"),
        ),
        ["edgex", "command", "request", device, source, method] => (
            command(device, source, method)?,
            None,
            format!("edgex/command/response/{device}/{source}/{method}"),
        ),
        ["edgex", "commandquery", "request", device] => (
            query(device)?,
            None,
            "edgex/commandquery/response".to_owned(),
        ),
        _ => return None,
    };
    Some(Request {
        asked,
        service,
        answer,
    })
}

/// The answer's payload.
async fn carry_out(
    edgex: &Edgex,
    request: &Request,
    envelope: &Envelope,
) -> Result<Box<RawValue>, Failure> {
    let none = HashMap::new();
    let query = envelope.query.as_ref().unwrap_or(&none);
    if let (Some(service), Asked::Get { device, .. } | Asked::Set { device, .. }) =
        (&request.service, &request.asked)
    {
        super::device_service::own(edgex, service, device)?;
    }
    let id = &envelope.request_id;
    match &request.asked {
        Asked::Get { device, command } => {
            match command::read_source(edgex, device, command, query).await? {
                Some(event) => raw(format!(
                    "{{\"apiVersion\":\"v3\",\"requestId\":\"{id}\",\"statusCode\":200,\"event\":{}}}",
                    String::from_utf8_lossy(&event.body)
                )),
                None => raw("null".to_owned()),
            }
        }
        Asked::Set { device, command } => {
            let values = values(&envelope.payload)?;
            command::write_source(edgex, device, command, values, query).await?;
            raw("null".to_owned())
        }
        Asked::Commands { device } => payload(id, command::commands(edgex, device)?),
        Asked::AllCommands => payload(id, command::page(edgex, Page::asked(query)?)?),
    }
}

/// The values to set: an object, or its JSON in base64 as EdgeX 3 has it.
fn values(payload: &Json) -> Result<BTreeMap<String, Json>, Failure> {
    let wrong = |error: String| {
        Failure::bad_request(format!(
            "the payload must be an object of values by resource name: {error}"
        ))
    };
    match payload {
        Json::String(text) => {
            let bytes = STANDARD
                .decode(text)
                .map_err(|error| wrong(error.to_string()))?;
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
        }
        other => BTreeMap::deserialize(other).map_err(|error| wrong(error.to_string())),
    }
}

fn payload(request_id: &str, reply: Reply) -> Result<Box<RawValue>, Failure> {
    let mut json = reply.into_json();
    json["requestId"] = request_id.into();
    raw(json.to_string())
}

fn raw(json: String) -> Result<Box<RawValue>, Failure> {
    RawValue::from_string(json).map_err(|error| Failure::internal(error.to_string()))
}

fn reply(
    edgex: &Edgex,
    request: &Request,
    envelope: &Envelope,
    outcome: Result<Box<RawValue>, Failure>,
) {
    let id = &envelope.request_id;
    let topic = if request.answer.ends_with('/') {
        format!("{}{id}", request.answer)
    } else {
        request.answer.clone()
    };
    let outcome = match &outcome {
        Ok(payload) => Ok(payload.clone()),
        Err(failure) => Err(failure.message.as_str()),
    };
    edgex.inner.bus.say(Message {
        topic: topic.into(),
        payload: encode::answer(id, &envelope.correlation_id, outcome),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_says_what_is_asked_and_where_the_answer_goes() {
        let get = request("edgex/core/command/request/press%201/a%2Fb/GET").unwrap();
        let asked = Asked::Get {
            device: "press 1".into(),
            command: "a/b".into(),
        };
        assert_eq!(get.asked, asked);
        assert_eq!(get.answer, "edgex/response/core-command/");
        let set = request("edgex/device/command/request/modbus%20x/d/c/set").unwrap();
        assert_eq!(set.service.as_deref(), Some("modbus x"));
        assert_eq!(set.answer, "edgex/response/modbus%20x/");
        let outside = request("edgex/command/request/d/c/set").unwrap();
        assert_eq!(outside.answer, "edgex/command/response/d/c/set");
        let all = request("edgex/commandquery/request/ALL").unwrap();
        assert_eq!(all.asked, Asked::AllCommands);
        for wrong in [
            "edgex/core/command/request/d/c/delete",
            "edgex/core/command/request/d/c",
            "edgex/core/command/request//c/get",
            "edgex/core/command/request/%ff/c/get",
            "edgex/device/command/request/d/c/get",
        ] {
            assert_eq!(request(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn values_come_as_an_object_or_in_base64() {
        let plain = values(&serde_json::json!({ "Heat": "1" })).unwrap();
        let coded = values(&STANDARD.encode(r#"{"Heat":"1"}"#).into()).unwrap();
        assert_eq!(plain, coded);
        for wrong in [Json::Null, "%".into(), serde_json::json!([1])] {
            assert!(values(&wrong).is_err(), "{wrong}");
        }
    }
}
