//! The readings bus: each event once, to the store, to MQTT and to the pipelines.
//!
//! Publishing never waits, so that a slow disk or exporter cannot hold up a device. Each outlet has
//! a bounded queue; what finds it full is dropped there, counted and logged, and reaches the other
//! outlets all the same.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eyot_runtime::reading::Event;
use eyot_store::{ReadingEvent, ReadingSlice, Readings};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Message, Publisher},
    encode::{self, Encoded},
    loss::Loss,
};

/// Events that wait for the store at most, and the bytes of their bodies: a burst of a hundred
/// thousand finds room.
const QUEUE: usize = 200_000;
const WAITING: usize = 128 * 1024 * 1024;
/// Events stored together, and how long the first of them may wait for more.
const BATCH: usize = 500;
const LINGER: Duration = Duration::from_millis(10);

/// Takes events for a pipeline; never waits.
pub(crate) trait Inlet: Send + Sync {
    fn offer(&self, namespace: &str, event: &Arc<Event>);
}

/// What waits for the store.
pub(crate) struct Stored {
    queue: mpsc::Receiver<ReadingEvent>,
    waiting: Arc<AtomicUsize>,
}

impl Stored {
    /// Up to so many more events into `batch`, waiting for the first; how many came.
    pub(crate) async fn next(&mut self, batch: &mut Vec<ReadingEvent>, most: usize) -> usize {
        let known = batch.len();
        let count = self.queue.recv_many(batch, most).await;
        let bytes = batch.iter().skip(known).map(|event| event.body.len()).sum();
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        count
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    publisher: Publisher,
    store: mpsc::Sender<ReadingEvent>,
    /// Bytes that wait for the store.
    waiting: Arc<AtomicUsize>,
    store_loss: Loss,
    broker_loss: Loss,
    inlets: RwLock<Arc<[Arc<dyn Inlet>]>>,
    /// The namespace whose devices go by their bare names in EdgeX.
    namespace: String,
}

impl Bus {
    /// The bus, and what [`store`] is to empty.
    pub(crate) fn new(publisher: Publisher, namespace: String) -> (Self, Stored) {
        let (store, queue) = mpsc::channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let inner = Inner {
            publisher,
            store,
            waiting: waiting.clone(),
            store_loss: Loss::new("readings store"),
            broker_loss: Loss::new("MQTT broker"),
            inlets: RwLock::new(Arc::new([])),
            namespace,
        };
        (
            Self {
                inner: Arc::new(inner),
            },
            Stored { queue, waiting },
        )
    }

    /// Tell everybody.
    pub(crate) fn publish(&self, namespace: &str, event: Arc<Event>) {
        let inner = &*self.inner;
        self.offer(namespace, &event);
        let encoded = encode::event(event);
        self.send(encode::topic(&encoded.event), &encoded.body);
        let device = stored_name(&inner.namespace, namespace, &encoded.event.device);
        let bytes = encoded.body.len();
        let before = inner.waiting.fetch_add(bytes, Ordering::Relaxed);
        let event = reading_event(encoded, device);
        if before + bytes > WAITING || inner.store.try_send(event).is_err() {
            inner.waiting.fetch_sub(bytes, Ordering::Relaxed);
            inner.store_loss.lost(1);
        }
    }

    /// Tell the pipelines and MQTT of an event that a client has sent, and that is stored already
    /// with this body.
    pub(crate) fn pass_on(&self, namespace: &str, event: &Arc<Event>, body: &[u8]) {
        self.offer(namespace, event);
        self.send(encode::core_topic(event), body);
    }

    fn offer(&self, namespace: &str, event: &Arc<Event>) {
        let inlets = self
            .inner
            .inlets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for inlet in inlets.iter() {
            inlet.offer(namespace, event);
        }
    }

    fn send(&self, topic: String, body: &[u8]) {
        self.say(Message {
            topic: topic.into(),
            payload: encode::envelope(body),
        });
    }

    /// Give MQTT a message that is no event.
    pub(crate) fn say(&self, message: Message) {
        if !(self.inner.publisher)(message) {
            self.inner.broker_loss.lost(1);
        }
    }

    /// Replace the pipelines that listen.
    pub(crate) fn set_inlets(&self, inlets: Vec<Arc<dyn Inlet>>) {
        *self
            .inner
            .inlets
            .write()
            .unwrap_or_else(PoisonError::into_inner) = inlets.into();
    }

    /// Events that an outlet could not take: the store's, the broker's.
    pub(crate) fn lost(&self) -> (u64, u64) {
        (
            self.inner.store_loss.total(),
            self.inner.broker_loss.total(),
        )
    }
}

/// EdgeX knows no namespaces: devices of others than its own are kept apart by a prefix that no
/// name can have.
pub(crate) fn stored_name(edgex: &str, namespace: &str, device: &Arc<str>) -> Arc<str> {
    if namespace == edgex {
        device.clone()
    } else {
        format!("{namespace}/{device}").into()
    }
}

fn reading_event(encoded: Encoded, device: Arc<str>) -> ReadingEvent {
    let Encoded {
        event,
        body,
        readings,
    } = encoded;
    let slices = event.readings.iter().zip(readings);
    let slice = |(reading, range): (&eyot_runtime::reading::Reading, _)| ReadingSlice {
        resource: reading.resource.as_str().into(),
        range,
    };
    ReadingEvent {
        id: event.id.clone(),
        device,
        source: event.source.clone(),
        origin: event.origin,
        readings: slices.map(slice).collect(),
        body,
    }
}

/// Empty the queue into the store until `stop` is cancelled, and then what is left of it.
pub(crate) async fn store(mut queue: Stored, readings: Readings, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let more = tokio::select! {
            biased;
            count = queue.next(&mut batch, BATCH) => count > 0,
            () = stop.cancelled() => false,
        };
        if !more {
            return;
        }
        let full = tokio::time::Instant::now() + LINGER;
        while batch.len() < BATCH && !stop.is_cancelled() {
            let room = BATCH - batch.len();
            let more = queue.next(&mut batch, room);
            if !matches!(tokio::time::timeout_at(full, more).await, Ok(1..)) {
                break;
            }
        }
        if let Err(error) = readings.append(std::mem::take(&mut batch)).await {
            tracing::error!(%error, "readings were not stored");
        }
    }
}
