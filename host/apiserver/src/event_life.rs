//! Events are news, and news grow old: an event goes an hour after it was last written, as with
//! Kubernetes.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use eyot_store::WriteError;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::Deserialize;

use crate::api::Api;

/// How all events are stored, of whichever group.
const STORAGE: &str = "events";
/// How long after its last write.
const LIFE: Duration = Duration::from_secs(3600);
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(60);
/// Deletions at the same time: the store writes together what comes together.
const AT_ONCE: usize = 64;

/// Clear up until the API is gone.
pub(crate) async fn keep(api: Weak<Api>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match api.upgrade() {
            Some(api) => clear(&api, Timestamp::now()).await,
            None => return,
        }
    }
}

async fn clear(api: &Arc<Api>, now: Timestamp) {
    let all = api.store.list(STORAGE, None).objects;
    let old: Vec<_> = all
        .into_iter()
        .filter(|event| is_old(&event.json, now))
        .collect();
    let gone = stream::iter(old).map(|event| async move {
        // Who wrote it meanwhile has made it new.
        match api.store.delete(&event.key, Some(event.revision)).await {
            Ok(_) | Err(WriteError::NotFound | WriteError::Conflict { .. }) => {}
            Err(error) => tracing::debug!(%error, event = %event.key.name, "an old event stays"),
        }
    });
    gone.buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// What tells when an event was written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    metadata: Metadata,
    last_timestamp: Option<Timestamp>,
    series: Option<Series>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    creation_timestamp: Option<Timestamp>,
    #[serde(default)]
    managed_fields: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    time: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    last_observed_time: Option<Timestamp>,
}

/// What cannot be read tells of no time, and stays.
fn is_old(json: &[u8], now: Timestamp) -> bool {
    let Ok(written) = serde_json::from_slice::<Written>(json) else {
        return false;
    };
    let entries = written.metadata.managed_fields.iter();
    let by_server = entries.filter_map(|entry| entry.time);
    let by_server = by_server.chain(written.metadata.creation_timestamp);
    let series = written.series.and_then(|series| series.last_observed_time);
    // What clients say may be of the past, but they cannot have written in the future.
    let by_clients = written.last_timestamp.into_iter().chain(series);
    let last = by_server.chain(by_clients.map(|time| time.min(now))).max();
    last.is_some_and(|last| {
        Duration::try_from(now.duration_since(last)).is_ok_and(|age| age > LIFE)
    })
}

#[cfg(test)]
mod tests {
    use eyot_store::{Key, Store};
    use serde_json::{Value, json};

    use super::*;
    use crate::{api::Options, extract};

    fn event(name: &str, more: Value) -> Value {
        let mut event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        });
        for (key, value) in more.as_object().unwrap() {
            event[key] = value.clone();
        }
        event
    }

    #[track_caller]
    fn check(more: Value, now: &str, expected: bool) {
        let json = event("e", more).to_string();
        assert_eq!(
            is_old(json.as_bytes(), now.parse().unwrap()),
            expected,
            "{json}"
        );
    }

    #[test]
    fn an_event_is_old_an_hour_after_its_last_write() {
        check(json!({}), "2026-01-01T01:00:00Z", false);
        check(json!({}), "2026-01-01T01:00:01Z", true);
        let seen = json!({"lastTimestamp": "2026-01-01T02:00:00Z"});
        check(seen.clone(), "2026-01-01T03:00:00Z", false);
        check(seen, "2026-01-01T03:00:01Z", true);
        let series =
            json!({"series": {"lastObservedTime": "2026-01-01T02:00:00.000000Z", "count": 2}});
        check(series, "2026-01-01T02:30:00Z", false);
        let managed = json!({"metadata": {"name": "e", "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [{"manager": "m", "time": "2026-01-01T02:00:00Z"}]}});
        check(managed, "2026-01-01T02:30:00Z", false);
        // A clock of the past keeps what it sees, and what says nothing stays.
        check(json!({}), "2025-01-01T00:00:00Z", false);
        check(
            json!({"metadata": {"name": "e"}}),
            "2027-01-01T00:00:00Z",
            false,
        );
        check(
            json!({"lastTimestamp": "2099-01-01T00:00:00Z", "metadata": {"name": "e"}}),
            "2027-01-01T00:00:00Z",
            false,
        );
    }

    #[tokio::test]
    async fn old_events_go_and_all_else_stays() {
        let store = Store::in_memory(extract);
        let api = Api::start(store, Options::default()).await.unwrap();
        // In a time to come: the server clears what is old by its own clock meanwhile.
        for (name, last) in [
            ("old", "2199-01-01T00:10:00Z"),
            ("new", "2199-01-01T02:10:00Z"),
        ] {
            let key = Key::new(STORAGE, "default", name);
            let event = event(name, json!({"lastTimestamp": last}));
            api.store.create(key, event).await.unwrap();
        }
        let before = api
            .store
            .list("namespaces", None)
            .objects
            .into_iter()
            .count();
        clear(&api, "2199-01-01T03:00:00Z".parse().unwrap()).await;
        let left = api.store.list(STORAGE, None).objects.into_iter();
        let left: Vec<_> = left.map(|event| event.key.name.to_string()).collect();
        assert_eq!(left, ["new"]);
        assert_eq!(
            api.store
                .list("namespaces", None)
                .objects
                .into_iter()
                .count(),
            before
        );
    }
}
