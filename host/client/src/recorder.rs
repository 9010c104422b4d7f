//! Records what happened to an object as core/v1 Events, as `kubectl describe` shows them.
//!
//! The same thing happening again to the same object raises the count of one Event instead of
//! adding another: the Event's name is derived from what it says. From the tenth on, events that
//! differ in their message alone are one, too, and who says very much about one object is not heard
//! ([`correlate`](crate::correlate)). Recording never fails its
//! caller: an event is a courtesy, and the log has it too.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};

use crate::correlate::{Correlator, Fate};

/// Longest message that Kubernetes accepts.
const MESSAGE: usize = 1024;

/// Whether the user should worry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes events in the name of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    component: &'static str,
    lately: Arc<Correlator>,
}

impl Recorder {
    pub fn new(client: Client, component: &'static str) -> Self {
        Self {
            client,
            component,
            lately: Arc::default(),
        }
    }

    /// Record that `reason` happened to `object`. Returns when the event is stored or failed to be.
    pub async fn event(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
    ) {
        let fate = self
            .lately
            .observe(object, kind, reason, message, Instant::now());
        let said = match fate {
            Fate::Itself => Cow::Borrowed(message),
            Fate::Combined => Cow::Owned(format!("(combined from similar events): {message}")),
            Fate::Dropped => return,
        };
        let message = clip(&said);
        // What is combined goes by one name, whatever it says.
        let seed = if fate == Fate::Combined {
            None
        } else {
            Some(message)
        };
        let name = event_name(self.component, object, kind, reason, seed);
        if let Err(error) = self.record(object, kind, reason, message, name).await {
            tracing::debug!(%error, reason, message, "event was not recorded");
        }
    }

    async fn record(
        &self,
        object: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
        name: String,
    ) -> Result<(), kube::Error> {
        let namespace = object.namespace.as_deref().unwrap_or("default");
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let now = Time(Timestamp::now());
        if let Some(earlier) = events.get_opt(&name).await? {
            let count = earlier.count.unwrap_or(1).saturating_add(1);
            let patch =
                serde_json::json!({ "count": count, "lastTimestamp": now, "message": message });
            events
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await?;
            return Ok(());
        }
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: object.clone(),
            type_: Some(kind.as_str().to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                ..EventSource::default()
            }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            reporting_component: Some(self.component.to_owned()),
            ..Event::default()
        };
        events.create(&PostParams::default(), &event).await?;
        Ok(())
    }
}

/// `<object>.<hash of what is said>`: the same words about the same object are the same Event.
fn event_name(
    component: &str,
    object: &ObjectReference,
    kind: EventType,
    reason: &str,
    message: Option<&str>,
) -> String {
    let mut hasher = DefaultHasher::new();
    (
        component,
        &object.kind,
        &object.uid,
        &object.field_path,
        kind,
        reason,
        message,
    )
        .hash(&mut hasher);
    // Object names may have 253 characters, and so may event names: leave room for the hash.
    let base: String = object
        .name
        .as_deref()
        .unwrap_or("object")
        .chars()
        .take(200)
        .collect();
    format!(
        "{}.{:016x}",
        base.trim_end_matches(['.', '-']),
        hasher.finish()
    )
}

fn clip(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            ..ObjectReference::default()
        }
    }

    #[test]
    fn the_same_words_about_the_same_object_are_one_event() {
        let name = |uid, message| {
            event_name(
                "node",
                &pod("web", uid),
                EventType::Normal,
                "Started",
                Some(message),
            )
        };
        assert_eq!(name("1", "m"), name("1", "m"));
        assert_ne!(name("1", "m"), name("2", "m"));
        assert_ne!(name("1", "m"), name("1", "n"));
        assert!(name("1", "m").starts_with("web."));
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let long = "°".repeat(MESSAGE);
        assert_eq!(clip(&long).len(), MESSAGE);
        assert_eq!(clip("short"), "short");
    }
}
