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
    media::{Encoding, Format},
    object, protobuf, reply,
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
    let asked = call
        .query
        .watch_revision(&call.resource.group, &call.resource.plural)?;
    let current = api.store.revision();
    let initial = match call.query.send_initial_events {
        Some(initial) => initial,
        None => asked.is_none(),
    };
    if let Some(asked) = asked.filter(|asked| initial && *asked > current) {
        return Err(Failure::revision_too_large(asked, current));
    }
    let storage = call.resource.storage.clone();
    let (objects, after) = if initial {
        let snapshot = api.store.list(&storage, call.namespace());
        (snapshot.objects, snapshot.revision)
    } else {
        (Vec::new(), asked.unwrap_or(current))
    };
    // A revision that does not exist yet is waited for: until then there is nothing to tell.
    let silent_until = if after > current && !initial {
        after
    } else {
        0
    };
    let from = if silent_until > 0 { current } else { after };
    let watch = api.store.watch(&storage, call.namespace(), from);
    let encoding = call.encoding();
    let lifetime = call.query.timeout.unwrap_or_else(|| {
        LIFETIME + Duration::from_secs(rand::rng().random_range(0..LIFETIME.as_secs()))
    });
    let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = State {
        api: api.clone(),
        mark_initial: call.query.send_initial_events == Some(true)
            && call.query.allow_watch_bookmarks,
        call,
        filter,
        include,
        columns: false,
        initial: objects.into_iter(),
        initial_revision: after,
        silent_until,
        encoding,
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
    let media = HeaderValue::from_static(match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    });
    response.headers_mut().insert(header::CONTENT_TYPE, media);
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
    /// Changes up to here are not told.
    silent_until: u64,
    encoding: Encoding,
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
        if change.object.revision <= self.silent_until {
            return;
        }
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
        if self.call.format == Format::Object && self.encoding != Encoding::Protobuf {
            frame(chunk, kind, &self.call.resource.show(object));
        } else if let Ok(value) = self.call.resource.value(object) {
            self.encode_value(chunk, kind, &value);
        }
    }

    fn encode_value(&mut self, chunk: &mut BytesMut, kind: &str, value: &Value) {
        match self.call.format {
            Format::Object => self.put(chunk, kind, value),
            Format::Partial(meta) | Format::PartialList(meta) => {
                self.put(chunk, kind, &reply::partial(value, meta));
            }
            Format::Table(meta) => {
                let (printer, version) = (&self.call.resource.printer, meta.api_version());
                let row = printer.row(value, self.include, version, Timestamp::now());
                let metadata = json!({"resourceVersion": object::resource_version(value)});
                let first = !std::mem::replace(&mut self.columns, true);
                let table = printer.table(metadata, vec![row], version, first);
                self.put(chunk, kind, &table);
            }
        }
    }

    /// One event around an object in its final shape.
    fn put(&self, chunk: &mut BytesMut, kind: &str, value: &Value) {
        if self.encoding == Encoding::Protobuf {
            if let Some(event) = protobuf::encode_event(kind, value) {
                chunk.extend_from_slice(&event);
            }
        } else if let Ok(json) = serde_json::to_vec(value) {
            frame(chunk, kind, &json);
        }
    }

    fn bookmark(&self, chunk: &mut BytesMut, revision: u64, annotations: Option<Value>) {
        let resource = &self.call.resource;
        let (kind, version) = match self.call.format {
            Format::Object => (resource.kind.as_str(), resource.api_version()),
            Format::Table(meta) => ("Table", meta.api_version().to_owned()),
            Format::Partial(meta) | Format::PartialList(meta) => {
                ("PartialObjectMetadata", meta.api_version().to_owned())
            }
        };
        let revision = revision.max(self.silent_until);
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        let mut mark = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if matches!(self.call.format, Format::Table(_)) {
            mark["columnDefinitions"] = json!([]);
            mark["rows"] = json!([]);
        }
        self.put(chunk, "BOOKMARK", &mark);
    }

    fn expire(&mut self, chunk: &mut BytesMut, expired: Expired) {
        self.ended = true;
        let Expired { asked, oldest } = expired;
        let failure = Failure::expired(format!("too old resource version: {asked} ({oldest})"));
        self.put(chunk, "ERROR", &failure.status());
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
