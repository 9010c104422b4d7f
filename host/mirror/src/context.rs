//! What all parts of the mirror share.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use eyot_store::{Key, WriteError};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::{
    kind::{Kind, Which, kinds},
    local::Local,
    merge::fingerprint,
    queue::Queue,
    remote::Remote,
};

/// In the store once everything was here; no API serves it.
const FILLED: &str = "filled.mirror.eyot.internal";

/// How fast the cloud is asked again.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Pause after the first failure; it doubles.
    pub first: Duration,
    /// The longest pause. Each is up to half longer, by the node's name, so that a thousand nodes do
    /// not come back at once.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(15),
        }
    }
}

/// Whether the cloud can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It was not tried yet.
    Unknown,
    Connected,
    CutOff,
}

/// Tells whether the cloud can be reached, as the last who tried has found.
pub(crate) struct LinkState(watch::Sender<Link>);

impl LinkState {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Link::Unknown))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Link> {
        self.0.subscribe()
    }

    pub(crate) fn found(&self) {
        if self.0.send_replace(Link::Connected) != Link::Connected {
            tracing::info!("the cloud is reached");
        }
    }

    pub(crate) fn lost(&self, why: &str) {
        if self.0.send_replace(Link::CutOff) != Link::CutOff {
            tracing::warn!(
                why,
                "cut off from the cloud; everything goes on from what is here"
            );
        }
    }
}

/// What the cloud shows of an object whose status is observed here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub(crate) uid: String,
    /// Of its status.
    pub(crate) status: u64,
    /// The names in its status.
    pub(crate) names: Vec<String>,
    /// Of a Node.
    pub(crate) labels: Option<Value>,
}

impl Shown {
    pub(crate) fn of(kind: &Kind, cloud: &Value) -> Self {
        let names = cloud["status"].as_object().into_iter().flatten();
        Self {
            uid: cloud["metadata"]["uid"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            status: fingerprint(&cloud["status"]),
            names: names.map(|(name, _)| name.clone()).collect(),
            labels: kind
                .is("nodes")
                .then(|| cloud["metadata"]["labels"].clone()),
        }
    }
}

#[derive(Default)]
pub(crate) struct ShownAll(Mutex<HashMap<Key, Shown>>);

impl ShownAll {
    pub(crate) fn get(&self, key: &Key) -> Option<Shown> {
        self.lock().get(key).cloned()
    }

    pub(crate) fn put(&self, key: &Key, shown: Shown) {
        self.lock().insert(key.clone(), shown);
    }

    pub(crate) fn remove(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which kinds the cloud has yet to show for the first time in the life of this node's store. Who acts
/// on what is missing in a store that was never filled would end what runs.
pub(crate) struct Filling {
    left: Mutex<HashSet<&'static str>>,
    filled: watch::Sender<bool>,
}

impl Filling {
    pub(crate) fn of(local: &Local, devices: bool) -> Self {
        let followed = kinds(devices).filter(|kind| kind.which != Which::Wanted);
        Self {
            left: Mutex::new(followed.map(|kind| kind.plural).collect()),
            filled: watch::Sender::new(local.store.get(&filled_key()).is_some()),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.filled.subscribe()
    }

    /// All of a kind is here, or will not be shown.
    pub(crate) async fn has(&self, kind: &Kind, local: &Local) {
        let is_last = {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            left.remove(kind.plural) && left.is_empty()
        };
        if !is_last || *self.filled.borrow() {
            return;
        }
        match local
            .store
            .create(filled_key(), json!({ "metadata": {} }))
            .await
        {
            Ok(_) | Err(WriteError::Exists(_)) => {}
            // The next start waits once more.
            Err(error) => tracing::warn!(%error, "that everything is here was not kept"),
        }
        self.filled.send_replace(true);
    }
}

fn filled_key() -> Key {
    Key::new(FILLED, "", "all")
}

pub(crate) struct Context {
    pub(crate) node: Arc<str>,
    /// Whether there is a device tier here.
    pub(crate) devices: bool,
    pub(crate) filling: Filling,
    pub(crate) remote: Remote,
    pub(crate) local: Local,
    pub(crate) link: LinkState,
    pub(crate) shown: ShownAll,
    pub(crate) pace: Pace,
    /// The node's pods have changed.
    pub(crate) wants: Notify,
    /// Objects that may have to be told to the cloud: what nodes say of themselves, and the rest.
    pub(crate) queues: [Queue; 2],
    /// The revision up to which all events here are in the queue or were told.
    pub(crate) events_seen: AtomicU64,
}

impl Context {
    /// Have it looked at whether the cloud knows an object as it is here.
    pub(crate) fn touch(&self, key: Key) {
        self.queue_of(&key).add(key, None);
    }

    pub(crate) fn queue_of(&self, key: &Key) -> &Queue {
        let first = ["nodes", "leases.coordination.k8s.io"].contains(&&*key.resource);
        &self.queues[usize::from(!first)]
    }

    /// Wait before the next attempt.
    pub(crate) async fn pause(&self, failures: u32, salt: &str) {
        let pause = self.pace.first.saturating_mul(1 << failures.min(16));
        let pause = pause.min(self.pace.longest);
        let mut hash = DefaultHasher::new();
        (&*self.node, salt, failures).hash(&mut hash);
        let part = (hash.finish() % 1000) as u32;
        tokio::time::sleep(pause + pause / 2 * part / 1000).await;
    }
}
