//! A local copy of one kind of object, kept current by a watch, and shared by all who need it.
//!
//! One watch serves every reconciler of the process: the pods that the scheduler, the ReplicaSets
//! and the garbage collector look at are the same `Arc`s. Listeners are told of each change as it
//! is applied, without a channel between, so nothing has to be drained and nothing is late.
//!
//! Objects are kept without `metadata.managedFields`: no reconciler reads them, and as parsed trees
//! they take more memory than all the rest. (An update without them leaves them as they are.)

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug},
    ops::Bound,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Which object: namespace (empty for cluster-scoped ones) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of the object that this metadata belongs to.
    pub fn of(meta: &ObjectMeta) -> Self {
        let text = |field: &Option<String>| field.as_deref().unwrap_or_default().into();
        Self {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// One object came, changed or went.
pub struct Change<'a, K> {
    pub key: &'a Key,
    /// `None` if it is new.
    pub before: Option<&'a Arc<K>>,
    /// `None` if it is gone.
    pub after: Option<&'a Arc<K>>,
}

impl<K> Change<'_, K> {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.after.or(self.before)
    }
}

type Listener<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;

/// The objects of one kind. Cheap to clone; all clones are one cache.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    listeners: RwLock<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
    /// The highest version that is applied, with all before it.
    version: AtomicU64,
    trim: fn(&mut K),
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self::trimmed(|_| ())
    }
}

impl<K> Cache<K> {
    /// A cache that keeps of each object what `trim` leaves.
    pub fn trimmed(trim: fn(&mut K)) -> Self {
        let shared = Shared {
            objects: RwLock::new(BTreeMap::new()),
            listeners: RwLock::new(Vec::new()),
            synced: watch::Sender::new(false),
            version: AtomicU64::new(0),
            trim,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects().get(key).cloned()
    }

    /// How far the watch has come: every write to this kind of object up to this resource version
    /// is seen. A writer whose write was given a higher one looks at a copy from before it.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// All objects, ordered by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.objects().values().cloned().collect()
    }

    /// All objects of one namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        let objects = self.objects();
        let from_here = objects.range((Bound::Included(first), Bound::Unbounded));
        let here = from_here.take_while(|(key, _)| &*key.namespace == namespace);
        here.map(|(_, object)| object.clone()).collect()
    }

    /// Be told of what there is, and of every change from now on, in order. The listener is called
    /// while the watch waits, so it must be quick, and may read this cache.
    pub fn listen(&self, listener: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        // No change is told meanwhile.
        let listeners = self.shared.listeners.write();
        let mut listeners = listeners.unwrap_or_else(PoisonError::into_inner);
        let there: Vec<_> = (self.objects().iter())
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        for (key, object) in &there {
            listener(Change {
                key,
                before: None,
                after: Some(object),
            });
        }
        listeners.push(Box::new(listener));
    }

    /// Whether both are one cache.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Resolves once the first full list has arrived.
    pub async fn synced(&self) {
        // The sender lives in `self`.
        let _ = self
            .shared
            .synced
            .subscribe()
            .wait_for(|synced| *synced)
            .await;
    }

    fn objects(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.shared
            .objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn objects_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.shared
            .objects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, version: u64) {
        self.shared.version.fetch_max(version, Ordering::AcqRel);
    }

    /// Apply one change, with which the cache has come to `version`; zero if that cannot be said.
    fn set(&self, key: &Key, after: Option<Arc<K>>, version: u64) {
        // Held over both, so that who begins to listen is told of each object once.
        let listeners = self
            .shared
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let before = match &after {
            Some(object) => self.objects_mut().insert(key.clone(), object.clone()),
            None => self.objects_mut().remove(key),
        };
        // After the object is there to be read, and before a listener wakes who waits for it.
        self.reach(version);
        if before.is_none() && after.is_none() {
            return;
        }
        for listener in listeners.iter() {
            listener(Change {
                key,
                before: before.as_ref(),
                after: after.as_ref(),
            });
        }
    }
}

impl<K: Resource + Clone + Debug + Send + Sync + 'static> Cache<K> {
    /// Keep the cache current from the API until `stop` is cancelled.
    pub async fn run(&self, api: Api<K>, config: watcher::Config, stop: CancellationToken)
    where
        K: DeserializeOwned,
    {
        self.follow(watcher::watcher(api, config), stop).await;
    }

    /// Keep the cache current from a stream of watcher events until `stop` is cancelled.
    pub async fn follow<S>(&self, events: S, stop: CancellationToken)
    where
        S: Stream<Item = watcher::Result<Event<K>>> + Send,
    {
        let mut listed: BTreeSet<Key> = BTreeSet::new();
        // A list is not in the order of its versions: only its end says how far it has come.
        let mut newest = 0;
        let take = |event| match event {
            Event::Init => {
                listed.clear();
                newest = 0;
            }
            Event::InitApply(mut object) => {
                self.trim(&mut object);
                newest = newest.max(version(&object));
                let key = Key::of(object.meta());
                listed.insert(key.clone());
                self.refresh(&key, object);
            }
            Event::InitDone => {
                let known: Vec<Key> = self.objects().keys().cloned().collect();
                for gone in known.iter().filter(|key| !listed.contains(key)) {
                    self.set(gone, None, 0);
                }
                listed.clear();
                self.reach(newest);
                self.shared.synced.send_replace(true);
            }
            Event::Apply(mut object) => {
                self.trim(&mut object);
                let (key, version) = (Key::of(object.meta()), version(&object));
                self.set(&key, Some(Arc::new(object)), version);
            }
            Event::Delete(object) => self.set(&Key::of(object.meta()), None, version(&object)),
        };
        follow(events, stop.clone(), take).await;
        if stop.is_cancelled() {
            // Nobody will be told any more, and listeners mostly hold on to caches. The objects
            // stay: whoever finishes something must not find the world empty.
            let listeners = self.shared.listeners.write();
            listeners.unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn trim(&self, object: &mut K) {
        object.meta_mut().managed_fields = None;
        (self.shared.trim)(object);
    }

    /// An object from a repeated list: often nothing has changed.
    fn refresh(&self, key: &Key, object: K) {
        let known = self.get(key).and_then(|known| known.resource_version());
        if known.is_none() || known != object.resource_version() {
            self.set(key, Some(Arc::new(object)), 0);
        }
    }
}

/// The resource version as a number; zero if there is none.
fn version<K: Resource>(object: &K) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

/// Give each event of a watch to `take`, until `stop` is cancelled. A watch that breaks off is begun
/// again by itself, after a delay that grows.
pub async fn follow<K, S>(events: S, stop: CancellationToken, mut take: impl FnMut(Event<K>))
where
    S: Stream<Item = watcher::Result<Event<K>>> + Send,
{
    let mut events = std::pin::pin!(events);
    let mut pauses = DefaultBackoff::default();
    while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
        match event {
            Ok(event) => {
                // A list that has only begun has not succeeded: who is refused it would ask every second.
                if !matches!(event, Event::Init) {
                    pauses.reset();
                }
                take(event);
            }
            Err(error) => {
                tracing::warn!(%error, "a watch broke off and is begun again");
                let pause = pauses.next().unwrap_or_default();
                stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn map(name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some("d".into());
        map.metadata.name = Some(name.into());
        map.metadata.resource_version = Some(version.into());
        map
    }

    #[tokio::test]
    async fn who_begins_to_listen_is_told_of_what_is_there() {
        let cache = Cache::default();
        let events = futures::stream::iter([Ok(Event::Apply(map("a", "1")))]);
        cache.follow(events, CancellationToken::new()).await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        cache.listen(move |change: Change<'_, ConfigMap>| {
            log.lock()
                .unwrap()
                .push((change.key.to_string(), change.before.is_none()));
        });
        let events = futures::stream::iter([Ok(Event::Apply(map("a", "2")))]);
        cache.follow(events, CancellationToken::new()).await;
        let expected = [("d/a".to_owned(), true), ("d/a".to_owned(), false)];
        assert_eq!(*told.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_cache_that_was_stopped_keeps_its_objects_and_lets_go_of_its_listeners() {
        let (cache, stop, held) = (Cache::default(), CancellationToken::new(), Arc::new(()));
        let listener = held.clone();
        cache.listen(move |_: Change<'_, ConfigMap>| drop(listener.clone()));
        let events = futures::stream::iter([Ok(Event::Apply(map("a", "1")))]);
        cache.follow(events, stop.clone()).await;
        assert_eq!(Arc::strong_count(&held), 2);
        stop.cancel();
        cache.follow(futures::stream::pending(), stop).await;
        assert_eq!((Arc::strong_count(&held), cache.list().len()), (1, 1));
    }

    #[tokio::test]
    async fn a_repeated_list_tells_only_of_what_differs() {
        let cache = Cache::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        cache.listen(move |change: Change<'_, ConfigMap>| {
            let version = |o: Option<&Arc<ConfigMap>>| o.and_then(|o| o.resource_version());
            let (before, after) = (version(change.before), version(change.after));
            let or = |v: Option<String>| v.unwrap_or("-".into());
            log.lock()
                .unwrap()
                .push(format!("{} {} {}", change.key, or(before), or(after)));
        });
        let events = [
            Event::Init,
            Event::InitApply(map("a", "1")),
            Event::InitApply(map("b", "2")),
            Event::InitApply(map("c", "3")),
            Event::InitDone,
            Event::Apply(map("a", "4")),
            Event::Init,
            Event::InitApply(map("a", "4")),
            Event::InitApply(map("c", "5")),
            Event::InitDone,
            Event::Delete(map("a", "6")),
        ];
        let events = futures::stream::iter(events.map(Ok));
        cache.follow(events, CancellationToken::new()).await;
        cache.synced().await;
        let told = told.lock().unwrap();
        let expected = [
            "d/a - 1", "d/b - 2", "d/c - 3", "d/a 1 4", "d/c 3 5", "d/b 2 -", "d/a 4 -",
        ];
        assert_eq!(*told, expected);
        assert_eq!(cache.version(), 6);
        assert_eq!(cache.list_in("d").len(), 1);
        assert!(cache.list_in("e").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_refused_is_asked_for_less_and_less_often() {
        let refused = (0..8).flat_map(|_| {
            let refused = watcher::Error::NoResourceVersion;
            [Ok(Event::<ConfigMap>::Init), Err(refused)]
        });
        let begin = tokio::time::Instant::now();
        let cache = Cache::default();
        let stop = CancellationToken::new();
        cache.follow(futures::stream::iter(refused), stop).await;
        let took = begin.elapsed();
        assert!(took > std::time::Duration::from_secs(60), "{took:?}");
    }
}
