//! `GET ?watch=true`: the changes of a resource as a stream of JSON lines.
//!
//! A watcher owns no queue. It reads the store's shared log at its own pace; one that falls behind
//! the log gets an ERROR event with code 410 and lists again. A change that moves an object into or
//! out of what the watcher selected is told as ADDED or DELETED.
//!
//! The line that tells of a change is a part of the stored object, and all watchers send the same
//! bytes. Only what is not told as it was written is made for one watcher alone.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use eyot_http::Response;
use eyot_store::{Change, ChangeKind, Expired, IntoObjects, Object, Objects, Watch};
use futures::{Stream, future::BoxFuture};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{
    api::Api,
    call::{Call, Filter},
    crd::convert,
    failure::Failure,
    media::{Encoding, Format},
    metrics::Watching,
    object, protobuf, reply,
    table::IncludeObject,
};

/// How often a watcher that wants bookmarks gets one.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How seldom a watcher may want them: the log is to reach back as far.
const BOOKMARKS_SELDOM: Duration = Duration::from_secs(3600);
/// By which a watcher behind a dear link says that it wants them less often, in seconds.
const BOOKMARKS_HEADER: &str = "eyot-bookmark-seconds";
/// A watch without `timeoutSeconds` ends after this long, and up to as much again: clients then
/// renew it, not all in the same second.
const LIFETIME: Duration = Duration::from_secs(1800);
/// Initial events are sent together, up to about this size.
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
        (Objects::default(), asked.unwrap_or(current))
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
    let webhook = call.resource.converted.is_some().then(|| api.clone());
    let converting = webhook.as_ref().filter(|_| objects.iter().next().is_some());
    let converting =
        converting.map(|api| conversion(api, &call, objects.iter().cloned().collect()));
    let retired = call.resource.retired();
    let every = bookmarks_every(&call);
    let mut bookmarks = tokio::time::interval_at(Instant::now() + every, every);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        _counted: api.metrics.watch(),
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
        deadline: Box::pin(tokio::time::sleep(lifetime)),
        stop: Box::pin(api.options.shutdown.clone().cancelled_owned()),
        retired: retired.map(|retired| Box::pin(retired.cancelled_owned())),
        webhook,
        converting,
        held: None,
        ready: VecDeque::new(),
        ended: false,
    };
    let mut response = http::Response::new(eyot_http::from_stream(events));
    *response.status_mut() = StatusCode::OK;
    let media = HeaderValue::from_static(match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    });
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

/// How often this watcher gets a bookmark.
fn bookmarks_every(call: &Call) -> Duration {
    let asked = call.headers.get(BOOKMARKS_HEADER);
    let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
    asked.map_or(BOOKMARKS, |seconds| {
        Duration::from_secs(seconds).clamp(BOOKMARKS, BOOKMARKS_SELDOM)
    })
}

/// A watch on its way to the client, event by event.
struct Events {
    _counted: Watching,
    call: Call,
    filter: Filter,
    include: IncludeObject,
    /// Whether the column definitions were sent: only the first Table carries them.
    columns: bool,
    initial: IntoObjects,
    initial_revision: u64,
    /// Changes up to here are not told.
    silent_until: u64,
    encoding: Encoding,
    /// Whether the end of the initial events must still be told.
    mark_initial: bool,
    watch: Result<Watch, Expired>,
    bookmarks: tokio::time::Interval,
    deadline: Pin<Box<tokio::time::Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends when the definition of what is watched does, or changes.
    retired: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// What asks the webhook that converts objects, if there is one.
    webhook: Option<Arc<Api>>,
    /// A question to the webhook; until it is answered there is nothing to tell.
    converting: Option<BoxFuture<'static, Result<(), Failure>>>,
    /// The change that the question is about.
    held: Option<Change>,
    /// What can be sent at once.
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(converting) = &mut self.converting {
                let converted = ready!(converting.as_mut().poll(context));
                self.converting = None;
                self.converted(converted);
                continue;
            }
            if self.begin() {
                continue;
            }
            ready!(self.poll(context));
        }
    }
}

impl Events {
    /// Make ready the next of the initial events; false if there are no more.
    fn begin(&mut self) -> bool {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK
            && let Some(object) = self.initial.next()
        {
            if self.filter.matches(&object) {
                self.encode(&mut chunk, "ADDED", &object);
            }
        }
        if chunk.len() < CHUNK && self.mark_initial {
            self.mark_initial = false;
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            self.bookmark(&mut chunk, self.initial_revision, Some(annotations));
        }
        self.send(chunk)
    }

    /// Wait for something to tell and make it ready, if the watcher wants to know of it.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let watch = match &mut self.watch {
            Ok(watch) => watch,
            Err(expired) => {
                let expired = *expired;
                self.expire(expired);
                return Poll::Ready(());
            }
        };
        if let Poll::Ready(change) = watch.poll_next(context) {
            match change {
                Ok(change) => match &self.webhook {
                    Some(api) => {
                        let objects = [&change.object].into_iter().chain(&change.previous);
                        let objects = objects.cloned().collect();
                        self.converting = Some(conversion(api, &self.call, objects));
                        self.held = Some(change);
                    }
                    None => self.tell(&change),
                },
                Err(expired) => self.expire(expired),
            }
            return Poll::Ready(());
        }
        let reached = watch.reached();
        let wanted = self.call.query.allow_watch_bookmarks;
        let mut chunk = BytesMut::new();
        if wanted && self.bookmarks.poll_tick(context).is_ready() {
            self.bookmark(&mut chunk, reached, None);
        } else if self.deadline.as_mut().poll(context).is_ready() {
            self.ended = true;
            if wanted {
                self.bookmark(&mut chunk, reached, None);
            }
        } else if self.stop.as_mut().poll(context).is_ready() || self.is_retired(context) {
            self.ended = true;
        } else {
            return Poll::Pending;
        }
        self.send(chunk);
        Poll::Ready(())
    }

    fn is_retired(&mut self, context: &mut Context<'_>) -> bool {
        let retired = self.retired.as_mut();
        retired.is_some_and(|retired| retired.as_mut().poll(context).is_ready())
    }

    /// Tell what waited for the webhook, or that it failed.
    fn converted(&mut self, converted: Result<(), Failure>) {
        match (converted, self.held.take()) {
            (Ok(()), Some(change)) => self.tell(&change),
            (Ok(()), None) => {}
            (Err(failure), _) => self.fail(&failure),
        }
    }

    fn send(&mut self, chunk: BytesMut) -> bool {
        let something = !chunk.is_empty();
        if something {
            self.ready.push_back(chunk.freeze());
        }
        something
    }

    /// One change as this watcher sees it, if it does.
    fn tell(&mut self, change: &Change) {
        if change.object.revision <= self.silent_until {
            return;
        }
        let before = change
            .previous
            .as_ref()
            .filter(|previous| self.filter.matches(previous));
        let deleted = change.kind == ChangeKind::Deleted;
        let after = !deleted && self.filter.matches(&change.object);
        // As it was written, for most watchers.
        let same = match change.kind {
            ChangeKind::Added => before.is_none() && after,
            ChangeKind::Modified => before.is_some() && after,
            ChangeKind::Deleted => before.is_some(),
        };
        if same && self.is_plain(&change.object) {
            return self.ready.push_back(change.object.event.clone());
        }
        let mut chunk = BytesMut::new();
        match (before, after) {
            (None, true) => self.encode(&mut chunk, "ADDED", &change.object),
            (Some(_), true) => self.encode(&mut chunk, "MODIFIED", &change.object),
            (Some(_), false) if deleted => self.encode(&mut chunk, "DELETED", &change.object),
            // It left the selection: told with what it was, at the revision at which it left.
            (Some(previous), false) if self.is_plain(previous) => {
                let json = previous.json_at(change.object.revision);
                frame(&mut chunk, "DELETED", &json);
            }
            (Some(previous), false) => {
                if let Ok(mut value) = self.call.resource.value(previous) {
                    let revision = change.object.revision.to_string();
                    object::metadata(&mut value).insert("resourceVersion".into(), revision.into());
                    self.encode_value(&mut chunk, "DELETED", &value);
                }
            }
            (None, false) => {}
        }
        self.send(chunk);
    }

    /// Whether the watcher gets the object as it is stored.
    fn is_plain(&self, object: &Object) -> bool {
        self.call.format == Format::Object
            && self.encoding != Encoding::Protobuf
            && self.call.resource.show(object).as_ptr() == object.json.as_ptr()
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

    fn expire(&mut self, expired: Expired) {
        let Expired { asked, oldest } = expired;
        self.fail(&Failure::expired(format!(
            "too old resource version: {asked} ({oldest})"
        )));
    }

    fn fail(&mut self, failure: &Failure) {
        self.ended = true;
        let mut chunk = BytesMut::new();
        self.put(&mut chunk, "ERROR", &failure.status());
        self.send(chunk);
    }
}

fn conversion(
    api: &Arc<Api>,
    call: &Call,
    objects: Vec<Arc<Object>>,
) -> BoxFuture<'static, Result<(), Failure>> {
    let (api, resource) = (api.clone(), call.resource.clone());
    Box::pin(async move { convert::prepare_anew(&api, &resource, &objects).await })
}

fn frame(chunk: &mut BytesMut, kind: &str, object: &[u8]) {
    chunk.reserve(object.len() + kind.len() + 32);
    chunk.put_slice(b"{\"type\":\"");
    chunk.put_slice(kind.as_bytes());
    chunk.put_slice(b"\",\"object\":");
    chunk.put_slice(object);
    chunk.put_slice(b"}\n");
}
