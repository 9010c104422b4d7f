//! Messages on EdgeX's bus.

use bytes::Bytes;
use serde_json::{Value as Json, json};
use uuid::Uuid;

/// The bus's envelope around a payload that is JSON; for messages that are few.
pub fn message(payload: Json) -> Bytes {
    enveloped(payload, "application/json")
}

/// The same around a payload of that media type: JSON, or a text that stands for bytes.
pub fn enveloped(payload: Json, content_type: &str) -> Bytes {
    let envelope = json!({
        "apiVersion": "v3",
        "receivedTopic": "",
        "correlationID": Uuid::new_v4().to_string(),
        "requestID": "",
        "errorCode": 0,
        "contentType": content_type,
        "payload": payload,
    });
    envelope.to_string().into()
}
