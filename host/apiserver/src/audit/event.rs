//! One event as it travels to the log, and its JSON (`audit.k8s.io/v1` `Event`).
//!
//! On a request's path nothing is parsed or encoded: an event holds handles on what was sent and
//! answered, and the thread that writes the log makes JSON of it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::policy::{Level, Stage};
use crate::{auth::Impersonated, media, object, reading, user::User};

/// Set where an object was too large to be recorded: Kubernetes' own annotation.
const TRUNCATED: &str = "audit.k8s.io/truncated";
/// How Kubernetes writes times that have microseconds.
const MICRO: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";

/// What all events of a request have in common.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) level: Level,
    pub(super) omit_managed_fields: bool,
    pub(super) uri: String,
    pub(super) verb: String,
    /// Not known where authentication failed.
    pub(super) user: Option<User>,
    pub(super) sources: Vec<String>,
    pub(super) agent: String,
    /// `None` outside of the resources.
    pub(super) object: Option<ObjectRef>,
    pub(super) received: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) subresource: String,
}

/// What was sent or answered, in pieces as it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Captured {
    pub(super) pieces: Vec<Bytes>,
    pub(super) size: usize,
    /// There was more than is kept; the pieces are gone.
    pub(super) is_too_large: bool,
}

impl Captured {
    /// Of what is whole already.
    pub(super) fn of(bytes: Bytes) -> Captured {
        Captured {
            size: bytes.len(),
            pieces: vec![bytes],
            is_too_large: false,
        }
    }

    /// Keep one more piece, as long as there are at most `limit` bytes.
    pub(super) fn add(&mut self, piece: &Bytes, limit: usize) {
        if self.is_too_large || self.size + piece.len() > limit {
            self.pieces.clear();
            self.is_too_large = true;
            return;
        }
        self.size += piece.len();
        self.pieces.push(piece.clone());
    }

    fn whole(&self) -> Bytes {
        match self.pieces.as_slice() {
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}

/// What a request sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// The media type.
    pub(super) media: String,
    pub(super) captured: Captured,
}

/// One stage of one request.
pub(super) struct Event {
    pub(super) head: Arc<Head>,
    pub(super) stage: Stage,
    pub(super) at: Timestamp,
    pub(super) impersonated: Option<Impersonated>,
    /// `metav1.Status` without what is in the answer itself.
    pub(super) status: Option<Value>,
    pub(super) sent: Option<Sent>,
    /// JSON.
    pub(super) answered: Option<Captured>,
    pub(super) annotations: Vec<(String, String)>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_metadata: Option<Value>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, &'a str>,
}

impl Event {
    /// About how many bytes it keeps from being freed.
    pub(super) fn weight(&self) -> usize {
        /// Of the parts that are small.
        const REST: usize = 1024;
        let sent = self.sent.as_ref().map_or(0, |sent| sent.captured.size);
        REST + sent + self.answered.as_ref().map_or(0, |captured| captured.size)
    }

    /// The line of the log, with its break. `None` if there is no such JSON, which does not happen.
    pub(super) fn line(&self) -> Option<Vec<u8>> {
        let head = &*self.head;
        let sent = self.sent.as_ref().and_then(Sent::value);
        let mut object = head.object.clone();
        if let (Some(object), Some(sent), Some(true)) =
            (&mut object, &sent, self.sent.as_ref().map(Sent::is_object))
        {
            complete(object, sent);
        }
        let answered = self.answered.as_ref().filter(|one| !one.is_too_large);
        let answered = answered.and_then(|one| serde_json::from_slice(&one.whole()).ok());
        let status = self
            .status
            .clone()
            .map(|status| with_answer(status, answered.as_ref()));
        let is_resource = head.object.is_some();
        let keep = |least: Level, value: Option<Value>| {
            let kept = value.filter(|_| is_resource && head.level >= least);
            kept.map(|value| match head.omit_managed_fields {
                true => without_managed_fields(value),
                false => value,
            })
        };
        let mut annotations: BTreeMap<&str, &str> = self
            .annotations
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let is_cut = |captured: Option<&Captured>| captured.is_some_and(|one| one.is_too_large);
        let sent_captured = self.sent.as_ref().map(|sent| &sent.captured);
        if is_cut(sent_captured) && head.level >= Level::Request
            || is_cut(self.answered.as_ref()) && head.level >= Level::RequestResponse
        {
            annotations.insert(TRUNCATED, "true");
        }
        let line = Line {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: head.level.name(),
            audit_id: &head.id,
            stage: self.stage.name(),
            request_uri: &head.uri,
            verb: &head.verb,
            user: head.user.as_ref().map_or_else(|| json!({}), User::info),
            impersonated_user: self.impersonated.as_ref().map(|other| other.user.info()),
            authentication_metadata: self.constraint(),
            source_ips: &head.sources,
            user_agent: &head.agent,
            object_ref: object,
            response_status: status,
            request_object: keep(Level::Request, sent),
            response_object: keep(Level::RequestResponse, answered),
            request_received_timestamp: micro(head.received),
            stage_timestamp: micro(self.at),
            annotations,
        };
        let mut bytes = serde_json::to_vec(&line).ok()?;
        bytes.push(b'\n');
        Some(bytes)
    }

    /// By which right of limited use another user was acted as.
    fn constraint(&self) -> Option<Value> {
        let constraint = self.impersonated.as_ref()?.constraint;
        (!constraint.is_empty()).then(|| json!({"impersonationConstraint": constraint}))
    }
}

impl Sent {
    fn is_object(&self) -> bool {
        !self.media.contains("patch")
    }

    fn value(&self) -> Option<Value> {
        if self.captured.is_too_large || self.captured.size == 0 {
            return None;
        }
        let bytes = self.captured.whole();
        match self.media.as_str() {
            "application/apply-patch+yaml" => reading::yaml(&bytes).ok().map(|(value, _)| value),
            media if media.contains("patch") => serde_json::from_slice(&bytes).ok(),
            media => media::decode(media, &bytes, "object").ok(),
        }
    }
}

fn micro(at: Timestamp) -> String {
    at.strftime(MICRO).to_string()
}

/// Fill in what the path does not say: the name of what is created, and which state of it was meant.
fn complete(reference: &mut ObjectRef, sent: &Value) {
    for (known, found) in [
        (&mut reference.namespace, object::namespace(sent)),
        (&mut reference.name, object::name(sent)),
        (&mut reference.uid, object::uid(sent)),
        (
            &mut reference.resource_version,
            object::resource_version(sent),
        ),
    ] {
        if known.is_empty() {
            *known = found.to_owned();
        }
    }
}

/// The status of an answer, with what a `Status` that was answered says.
fn with_answer(mut status: Value, answered: Option<&Value>) -> Value {
    let is_status = |value: &&Value| {
        object::text(value, &["kind"]) == "Status" && object::text(value, &["apiVersion"]) == "v1"
    };
    if let (Some(answered), Some(status)) = (answered.filter(is_status), status.as_object_mut()) {
        for key in ["status", "message", "reason", "details"] {
            if let Some(value) = answered.get(key) {
                status.insert(key.to_owned(), value.clone());
            }
        }
    }
    status
}

/// Take `managedFields` out of an object, the items of a list and the rows of a table.
fn without_managed_fields(mut value: Value) -> Value {
    fn remove(object: Option<&mut Value>) {
        let metadata = object.and_then(|object| object.get_mut("metadata"));
        if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    }
    fn each<'a>(value: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
        let list = value.get_mut(list).and_then(Value::as_array_mut);
        list.into_iter().flatten()
    }
    remove(Some(&mut value));
    each(&mut value, "items").for_each(|item| remove(Some(item)));
    each(&mut value, "rows").for_each(|row| remove(row.get_mut("object")));
    value
}

/// A `metav1.Status` of this code and, where they are known, these words.
pub(super) fn status(code: http::StatusCode, words: &[(&str, &str)]) -> Value {
    let mut status = Map::new();
    status.insert("metadata".to_owned(), json!({}));
    for (key, value) in words {
        status.insert((*key).to_owned(), (*value).into());
    }
    status.insert("code".to_owned(), code.as_u16().into());
    Value::Object(status)
}
