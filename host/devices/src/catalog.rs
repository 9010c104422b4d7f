//! The objects that the host's devices and pipelines are made from, as last seen.
//!
//! A watch per kind keeps a map up to date. Only a change of what somebody *asked for* (spec,
//! labels) wakes those who wait: the host itself writes the statuses, and each of those writes
//! comes back through the watch.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
};

use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    core::object::HasSpec,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

type Name = (String, String);
type Objects<K> = Arc<HashMap<Name, Arc<K>>>;

/// All objects of one kind, in all namespaces. Cheap to clone.
pub(crate) struct Cache<K> {
    objects: Arc<RwLock<Objects<K>>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
        }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            objects: Arc::default(),
        }
    }
}

impl<K> Cache<K> {
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.all()
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// What there is now.
    pub(crate) fn all(&self) -> Objects<K> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + HasSpec + Clone + DeserializeOwned + Debug + Send + Sync,
    K: 'static,
    K::Spec: PartialEq,
    K::DynamicType: Hash + Eq,
{
    /// Keep up with the API until `stop` is cancelled; notify on each change that matters.
    pub(crate) async fn run(
        &self,
        client: kube::Client,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) {
        let events = watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut listed: HashMap<Name, Arc<K>> = HashMap::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(object))) => {
                    listed.insert(name(&object), Arc::new(object));
                }
                Some(Ok(watcher::Event::InitDone)) => {
                    self.replace(std::mem::take(&mut listed));
                    changed.notify_one();
                }
                Some(Ok(watcher::Event::Apply(object))) => {
                    if self.apply(object) {
                        changed.notify_one();
                    }
                }
                Some(Ok(watcher::Event::Delete(object))) => {
                    self.edit(|objects| objects.remove(&name(&object)));
                    changed.notify_one();
                }
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watching failed; trying again");
                }
                None => return,
            }
        }
    }

    fn apply(&self, object: K) -> bool {
        let name = name(&object);
        let object = Arc::new(object);
        let before = self.edit(|objects| objects.insert(name, object.clone()));
        before.is_none_or(|before| {
            before.spec() != object.spec()
                || before.meta().uid != object.meta().uid
                || before.meta().labels != object.meta().labels
                || before.meta().deletion_timestamp != object.meta().deletion_timestamp
        })
    }

    fn replace(&self, objects: HashMap<Name, Arc<K>>) {
        *self.objects.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(objects);
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut HashMap<Name, Arc<K>>) -> T) -> T {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        // Copies the map only while somebody still looks at the old one.
        edit(Arc::make_mut(&mut objects))
    }
}

fn name<K: Resource>(object: &K) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}
