//! The readings bus: each event once, first to the store and then to MQTT and to the pipelines.
//!
//! What anybody is told is stored: a subscriber or a pipeline that has seen an event will find it in
//! core-data, also after the host was killed at any instant. What is stored and not told yet when the
//! host dies is told by nobody, as by a broker that dies.
//!
//! Nothing is dropped on the way to the store. Its queue is bounded, and whoever publishes waits for
//! room: a disk that is slower than the devices slows down the devices' tasks, and they skip beats.
//! Only a disk that refuses to store at all for [`TRIES`] times loses events, which are counted,
//! logged, and told all the same. MQTT and the pipelines have bounded queues of their own; what finds
//! one full is dropped there, counted and logged. Clients who send events themselves wait until their
//! event is safe with the pipelines, too: that is what they take our answer for.

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use eyot_runtime::reading::Event;
use eyot_store::{ReadingEvent, ReadingSlice, Readings, ReadingsError};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Message, Publisher},
    edgex::Counters,
    encode::{self, Encoded},
    loss::Loss,
};

/// Events that wait for the store at most, and the bytes of their bodies.
const QUEUE: usize = 20_000;
const WAITING: u32 = 32 * 1024 * 1024;
/// Events stored together, and the least time from one transaction to the next: what comes meanwhile
/// shares it, so that a thousand devices do not make a thousand transactions. The first event after a
/// rest does not wait.
const BATCH: usize = 500;
const PAUSE: Duration = Duration::from_millis(2);
/// How often an event is tried to be stored, and how long between.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_secs(1);

/// Events that wait until it is known which pipelines there are: at the start.
const EARLY: usize = 10_000;
/// How long a client's event waits at most until the pipelines are known.
const START: Duration = Duration::from_secs(10);

/// Takes events for a pipeline.
#[async_trait]
pub(crate) trait Inlet: Send + Sync {
    /// Never waits: what finds no room is lost there.
    fn offer(&self, namespace: &str, event: &Arc<Event>);

    /// Returns when the events will survive an end of the host, those that the pipeline takes.
    async fn take(&self, namespace: &str, events: &[Arc<Event>]) -> Result<(), String>;
}

/// Somebody in this process who sees each event that is stored, with its namespace, and never waits.
pub type Tap = Arc<dyn Fn(&str, &Event) + Send + Sync>;

/// An event on its way.
pub(crate) struct Said {
    namespace: Arc<str>,
    encoded: Encoded,
    /// Its bytes of the queue's.
    bytes: u32,
}

/// What waits for the store.
pub(crate) struct Stored {
    queue: mpsc::Receiver<Said>,
    room: Arc<Semaphore>,
}

impl Stored {
    /// Up to so many more events into `batch`, waiting for the first; how many came.
    pub(crate) async fn next(&mut self, batch: &mut Vec<Said>, most: usize) -> usize {
        let known = batch.len();
        let count = self.queue.recv_many(batch, most).await;
        let bytes = batch.iter().skip(known).map(|said| said.bytes as usize);
        self.room.add_permits(bytes.sum());
        count
    }
}

/// The pipelines that listen.
enum Inlets {
    /// Nobody knows yet which there are.
    Unknown(Vec<(String, Arc<Event>)>),
    Known(Arc<[Arc<dyn Inlet>]>),
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    publisher: Publisher,
    store: mpsc::Sender<Said>,
    /// Bytes that may still wait for the store.
    room: Arc<Semaphore>,
    store_loss: Loss,
    broker_loss: Loss,
    counters: Counters,
    early_loss: Loss,
    inlets: RwLock<Inlets>,
    tap: OnceLock<Tap>,
    /// Told when the pipelines are known.
    known: Notify,
    /// The namespace whose devices go by their bare names in EdgeX.
    namespace: String,
}

impl Bus {
    /// The bus, and what [`store`] is to empty.
    pub(crate) fn new(publisher: Publisher, namespace: String) -> (Self, Stored) {
        let (store, queue) = mpsc::channel(QUEUE);
        let room = Arc::new(Semaphore::new(WAITING as usize));
        let inner = Inner {
            publisher,
            store,
            room: room.clone(),
            store_loss: Loss::new("readings store"),
            broker_loss: Loss::new("MQTT broker"),
            counters: Counters::default(),
            early_loss: Loss::new("pipelines, at the start"),
            inlets: RwLock::new(Inlets::Unknown(Vec::new())),
            tap: OnceLock::new(),
            known: Notify::new(),
            namespace,
        };
        (
            Self {
                inner: Arc::new(inner),
            },
            Stored { queue, room },
        )
    }

    /// Have an event stored, and everybody told. Waits for room on the way.
    pub(crate) async fn publish(&self, namespace: &Arc<str>, event: Arc<Event>) {
        let inner = &*self.inner;
        let encoded = encode::event(event);
        let bytes = u32::try_from(encoded.body.len()).map_or(WAITING, |bytes| bytes.min(WAITING));
        let said = Said {
            namespace: namespace.clone(),
            encoded,
            bytes,
        };
        // Neither is ever closed while there are devices.
        let Ok(room) = inner.room.acquire_many(bytes).await else {
            return;
        };
        if inner.store.send(said).await.is_ok() {
            room.forget();
        }
    }

    /// An event as it is stored.
    pub(crate) fn stored(&self, said: &Said) -> ReadingEvent {
        let device = &said.encoded.event.device;
        let device = stored_name(&self.inner.namespace, &said.namespace, device);
        reading_event(&said.encoded, device)
    }

    /// Tell those who listen of an event that is stored.
    pub(crate) fn tell(&self, said: Said) {
        let encoded = said.encoded;
        self.inner.counters.sent(&encoded.event);
        self.offer(&said.namespace, &encoded.event);
        self.show(&said.namespace, &encoded.event);
        self.send(encode::topic(&encoded.event), &encoded.body);
    }

    /// Tell MQTT of an event that a client has sent, and that is stored already with this body.
    pub(crate) fn pass_on(&self, topic: &str, body: &[u8]) {
        self.send(topic.to_owned(), body);
    }

    /// Give the pipelines an event that a client has sent. Returns when they have it for good, or why
    /// one has not.
    pub(crate) async fn take(&self, namespace: &str, event: &Arc<Event>) -> Result<(), String> {
        self.take_all(namespace, std::slice::from_ref(event)).await
    }

    /// The same for some.
    pub(crate) async fn take_all(
        &self,
        namespace: &str,
        events: &[Arc<Event>],
    ) -> Result<(), String> {
        let mut known = std::pin::pin!(self.inner.known.notified());
        known.as_mut().enable();
        let inlets = match self.inlets() {
            Some(inlets) => Some(inlets),
            None => {
                let waited = tokio::time::timeout(START, known).await;
                waited.map_err(|_| "the host is still starting; try again".to_owned())?;
                self.inlets()
            }
        };
        for inlet in inlets.iter().flat_map(|inlets| inlets.iter()) {
            inlet.take(namespace, events).await?;
        }
        for event in events {
            self.show(namespace, event);
        }
        Ok(())
    }

    /// From now on show each event to somebody; the first who asks is the only one.
    pub(crate) fn tap(&self, tap: Tap) {
        let _ = self.inner.tap.set(tap);
    }

    fn show(&self, namespace: &str, event: &Event) {
        if let Some(tap) = self.inner.tap.get() {
            tap(namespace, event);
        }
    }

    fn inlets(&self) -> Option<Arc<[Arc<dyn Inlet>]>> {
        let inlets = self.inner.inlets.read();
        match &*inlets.unwrap_or_else(PoisonError::into_inner) {
            Inlets::Known(inlets) => Some(inlets.clone()),
            Inlets::Unknown(_) => None,
        }
    }

    fn offer(&self, namespace: &str, event: &Arc<Event>) {
        let inlets = match self.inlets() {
            Some(inlets) => inlets,
            None => match self.keep(namespace, event) {
                Some(inlets) => inlets,
                None => return,
            },
        };
        for inlet in inlets.iter() {
            inlet.offer(namespace, event);
        }
    }

    /// Keep an event for pipelines that are not known yet, unless they are by now.
    fn keep(&self, namespace: &str, event: &Arc<Event>) -> Option<Arc<[Arc<dyn Inlet>]>> {
        let inlets = self.inner.inlets.write();
        match &mut *inlets.unwrap_or_else(PoisonError::into_inner) {
            Inlets::Known(inlets) => Some(inlets.clone()),
            Inlets::Unknown(early) => {
                if early.len() < EARLY {
                    early.push((namespace.to_owned(), event.clone()));
                } else {
                    self.inner.early_loss.lost(1);
                }
                None
            }
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
        let inlets: Arc<[Arc<dyn Inlet>]> = inlets.into();
        let held = self.inner.inlets.write();
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that no event overtakes an early one.
        if let Inlets::Unknown(early) = &mut *held {
            for (namespace, event) in early.drain(..) {
                for inlet in inlets.iter() {
                    inlet.offer(&namespace, &event);
                }
            }
        }
        *held = Inlets::Known(inlets);
        drop(held);
        self.inner.known.notify_waiters();
    }

    /// What was counted of the events.
    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Events that an outlet did not take: the store's, the broker's.
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

fn reading_event(encoded: &Encoded, device: Arc<str>) -> ReadingEvent {
    let event = &encoded.event;
    let slices = event.readings.iter().zip(&encoded.readings);
    let slice = |(reading, range): (&eyot_runtime::reading::Reading, &std::ops::Range<usize>)| {
        ReadingSlice {
            resource: reading.resource.as_str().into(),
            range: range.clone(),
        }
    };
    ReadingEvent {
        id: event.id.clone(),
        device,
        source: event.source.clone(),
        origin: event.origin,
        readings: slices.map(slice).collect(),
        body: encoded.body.clone(),
    }
}

/// Store what is published and tell it, until `stop` is cancelled, and then what is left.
pub(crate) async fn store(
    bus: Bus,
    mut queue: Stored,
    readings: Readings,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    let mut rested = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(rested) => {}
            () = stop.cancelled() => {}
        }
        let more = tokio::select! {
            biased;
            count = queue.next(&mut batch, BATCH) => count > 0,
            () = stop.cancelled() => false,
        };
        if !more {
            return;
        }
        rested = Instant::now() + PAUSE;
        let events = batch.iter().map(|said| bus.stored(said)).collect();
        match insist(&readings, events, &stop).await {
            Ok(()) => {
                let events = batch.iter().map(|said| &*said.encoded.event);
                bus.inner.counters.persisted(events);
            }
            Err(error) => {
                let why = error.to_string();
                bus.inner.store_loss.lost_because(batch.len() as u64, &why);
            }
        }
        for said in batch.drain(..) {
            bus.tell(said);
        }
    }
}

/// Store events, if need be after some tries.
async fn insist(
    readings: &Readings,
    events: Vec<ReadingEvent>,
    stop: &CancellationToken,
) -> Result<(), ReadingsError> {
    let mut tries = 1;
    loop {
        match readings.append(events.clone()).await {
            Err(ReadingsError::Storage(_)) if tries < TRIES && !stop.is_cancelled() => {
                tries += 1;
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = stop.cancelled() => {}
                }
            }
            outcome => return outcome,
        }
    }
}
