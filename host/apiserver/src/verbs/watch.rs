//! `GET ?watch=true`: the changes of a resource as a stream of JSON lines.
//!
//! A watcher owns no queue. It reads the store's shared log at its own pace; one that falls behind
//! the log gets an ERROR event with code 410 and lists again. A change that moves an object into or
//! out of what the watcher selected is told as ADDED or DELETED.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use eyot_http::Response;
use eyot_store::{Change, ChangeKind, Expired, Object, Watch};
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    api::Api,
    call::{Call, Filter},
    failure::Failure,
    media::Format,
    object, reply,
    table::IncludeObject,
};

/// How often a watcher that wants bookmarks gets one.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// A watch without `timeoutSeconds` ends after this long, and up to as much again: clients then
/// renew it, not all in the same second.
const LIFETIME: Duration = Duration::from_secs(1800);
/// Events that are ready together are sent together, up to about this size.
const CHUNK: usize = 64 * 1024;

pub(crate) fn watch(api: &Arc<Api>, call: Call) -> Result<Response, Failure> {
    call.query.check_list()?;
    let filter = call.filter()?;
    let include = reply::include(&call)?;
    let asked = call.query.revision()?;
    let current = api.store.revision();
    if let Some(asked) = asked.filter(|asked| *asked > current) {
        return Err(Failure::revision_too_large(asked, current));
    }
    let initial = match call.query.send_initial_events {
        Some(initial) => initial,
        None => asked.is_none(),
    };
    let storage = call.resource.storage.clone();
    let (objects, after) = if initial {
        let snapshot = api.store.list(&storage, call.namespace());
        (snapshot.objects, snapshot.revision)
    } else {
        (Vec::new(), asked.unwrap_or(current))
    };
    let watch = api.store.watch(&storage, call.namespace(), after);
    let lifetime = call.query.timeout.unwrap_or_else(|| {
        LIFETIME + Duration::from_secs(rand::rng().random_range(0..LIFETIME.as_secs()))
    });
    let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = State {
        api: api.clone(),
        mark_initial: call.query.send_initial_events == Some(true),
        call,
        filter,
        include,
        columns: false,
        initial: objects.into_iter(),
        initial_revision: after,
        watch,
        bookmarks,
        deadline: Instant::now() + lifetime,
        ended: false,
    };
    let events = stream::unfold(state, |mut state| async move {
        let chunk = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), state))
    });
    let mut response = http::Response::new(eyot_http::from_stream(events));
    *response.status_mut() = StatusCode::OK;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

struct State {
    api: Arc<Api>,
    call: Call,
    filter: Filter,
    include: IncludeObject,
    /// Whether the column definitions were sent: only the first Table carries them.
    columns: bool,
    initial: std::vec::IntoIter<Arc<Object>>,
    initial_revision: u64,
    /// Whether the end of the initial events must still be told.
    mark_initial: bool,
    watch: Result<Watch, Expired>,
    bookmarks: tokio::time::Interval,
    deadline: Instant,
    ended: bool,
}

impl State {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK
            && let Some(object) = self.initial.next()
        {
            if self.filter.matches(&object) {
                self.encode(&mut chunk, "ADDED", &object);
            }
        }
        if self.initial.len() == 0 && self.mark_initial {
            self.mark_initial = false;
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            self.bookmark(&mut chunk, self.initial_revision, Some(annotations));
        }
        if !chunk.is_empty() {
            return Some(chunk.freeze());
        }
        self.follow(&mut chunk).await;
        (!chunk.is_empty()).then(|| chunk.freeze())
    }

    /// Wait for something to tell, and put it into `chunk`; an empty one is the end.
    async fn follow(&mut self, chunk: &mut BytesMut) {
        while chunk.is_empty() && !self.ended {
            let watch = match &mut self.watch {
                Ok(watch) => watch,
                Err(expired) => {
                    let expired = *expired;
                    return self.expire(chunk, expired);
                }
            };
            let stop = self.api.options.shutdown.clone();
            let change = tokio::select! {
                change = watch.next() => change,
                _ = self.bookmarks.tick(), if self.call.query.allow_watch_bookmarks => {
                    let reached = watch.reached();
                    self.bookmark(chunk, reached, None);
                    return;
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    let reached = watch.reached();
                    self.ended = true;
                    if self.call.query.allow_watch_bookmarks {
                        self.bookmark(chunk, reached, None);
                    }
                    return;
                }
                () = stop.cancelled() => {
                    self.ended = true;
                    return;
                }
            };
            match change {
                Ok(change) => self.tell(chunk, &change),
                Err(expired) => return self.expire(chunk, expired),
            }
            // What is ready now goes into the same chunk.
            while chunk.len() < CHUNK
                && let Ok(watch) = &mut self.watch
            {
                match watch.try_next() {
                    Ok(Some(change)) => self.tell(chunk, &change),
                    Ok(None) => break,
                    Err(expired) => return self.expire(chunk, expired),
                }
            }
        }
    }

    /// One change as this watcher sees it, if it does.
    fn tell(&mut self, chunk: &mut BytesMut, change: &Change) {
        let before = change
            .previous
            .as_ref()
            .filter(|previous| self.filter.matches(previous));
        let after = change.kind != ChangeKind::Deleted && self.filter.matches(&change.object);
        match (before, after) {
            (None, true) => self.encode(chunk, "ADDED", &change.object),
            (Some(_), true) => self.encode(chunk, "MODIFIED", &change.object),
            (Some(_), false) if change.kind == ChangeKind::Deleted => {
                self.encode(chunk, "DELETED", &change.object);
            }
            // It left the selection: told with what it was, at the revision at which it left.
            (Some(previous), false) => {
                if let Ok(mut value) = self.call.resource.value(previous) {
                    let revision = change.object.revision.to_string();
                    object::metadata(&mut value).insert("resourceVersion".into(), revision.into());
                    self.encode_value(chunk, "DELETED", &value);
                }
            }
            (None, false) => {}
        }
    }

    fn encode(&mut self, chunk: &mut BytesMut, kind: &str, object: &Object) {
        if self.call.format == Format::Object {
            frame(chunk, kind, &self.call.resource.show(object));
        } else if let Ok(value) = self.call.resource.value(object) {
            self.encode_value(chunk, kind, &value);
        }
    }

    fn encode_value(&mut self, chunk: &mut BytesMut, kind: &str, value: &Value) {
        let shown = match self.call.format {
            Format::Object => serde_json::to_vec(value),
            Format::Partial => serde_json::to_vec(&reply::partial(value)),
            Format::Table => {
                let printer = &self.call.resource.printer;
                let row = printer.row(value, self.include, Timestamp::now());
                let metadata = json!({"resourceVersion": object::resource_version(value)});
                let first = !std::mem::replace(&mut self.columns, true);
                serde_json::to_vec(&printer.table(metadata, vec![row], first))
            }
        };
        if let Ok(shown) = shown {
            frame(chunk, kind, &shown);
        }
    }

    fn bookmark(&self, chunk: &mut BytesMut, revision: u64, annotations: Option<Value>) {
        let resource = &self.call.resource;
        let (kind, version) = match self.call.format {
            Format::Object => (resource.kind.as_str(), resource.api_version()),
            Format::Table => ("Table", "meta.k8s.io/v1".to_owned()),
            Format::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
        };
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        let mut mark = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if self.call.format == Format::Table {
            mark["columnDefinitions"] = json!([]);
            mark["rows"] = json!([]);
        }
        if let Ok(json) = serde_json::to_vec(&mark) {
            frame(chunk, "BOOKMARK", &json);
        }
    }

    fn expire(&mut self, chunk: &mut BytesMut, expired: Expired) {
        self.ended = true;
        let Expired { asked, oldest } = expired;
        let failure = Failure::expired(format!("too old resource version: {asked} ({oldest})"));
        if let Ok(json) = serde_json::to_vec(&failure.status()) {
            frame(chunk, "ERROR", &json);
        }
    }
}

fn frame(chunk: &mut BytesMut, kind: &str, object: &[u8]) {
    chunk.reserve(object.len() + kind.len() + 32);
    chunk.put_slice(b"{\"type\":\"");
    chunk.put_slice(kind.as_bytes());
    chunk.put_slice(b"\",\"object\":");
    chunk.put_slice(object);
    chunk.put_slice(b"}\n");
}
