//! The objects that the host's devices and pipelines are made from, as last seen.
//!
//! Only a change of what somebody *asked for* (spec, labels, annotations) wakes those who wait for changes: the
//! host itself writes the statuses, and each of those writes comes back through the watch.

use std::{fmt::Debug, sync::Arc, time::Duration};

use eyot_client::{Change, Key};
use kube::{Api, Resource, core::object::HasSpec, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a writer waits at most until the local copy has what was written.
const PATIENCE: Duration = Duration::from_secs(5);

/// All objects of one kind, in all namespaces. Cheap to clone.
pub struct Cache<K> {
    objects: eyot_client::Cache<K>,
    /// Any change at all.
    seen: Arc<Notify>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            seen: self.seen.clone(),
        }
    }
}

impl<K> Cache<K> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.get(&Key::new(namespace, name))
    }

    /// What there is now, ordered by namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects.list()
    }

    /// What there is now in one namespace, ordered by name.
    pub fn all_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects.list_in(namespace)
    }

    /// Be told of every change from now on, in order.
    pub fn listen(&self, listener: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        self.objects.listen(listener);
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + HasSpec + Clone + DeserializeOwned + Debug + Send + Sync,
    K: 'static,
    K::Spec: PartialEq,
{
    /// An empty copy, which wakes `changed` at each change that matters.
    pub fn new(changed: &Arc<Notify>) -> Self {
        let objects = eyot_client::Cache::default();
        let seen = Arc::new(Notify::new());
        let (changed, any) = (changed.clone(), seen.clone());
        objects.listen(move |change: Change<'_, K>| {
            if matters(&change) {
                changed.notify_one();
            }
            any.notify_waiters();
        });
        Self { objects, seen }
    }

    /// Keep up with the API until `stop` is cancelled.
    pub async fn run(&self, client: kube::Client, stop: CancellationToken) {
        let api = Api::<K>::all(client);
        self.objects
            .run(api, watcher::Config::default(), stop)
            .await;
    }
}

impl<K: Send + Sync + 'static> Cache<K> {
    /// Return once the first list is complete.
    pub async fn synced(&self) {
        self.objects.synced().await;
    }

    /// Call `then` once the first list is complete.
    pub fn once_listed(&self, then: impl FnOnce() + Send + 'static) {
        let objects = self.objects.clone();
        tokio::spawn(async move {
            objects.synced().await;
            then();
        });
    }
}

impl<K: Resource<DynamicType = ()>> Cache<K> {
    /// Wait until the copy has what was just written, so that who writes reads what was written. A
    /// copy that does not come so far in time is left behind: the write itself has succeeded.
    pub async fn has(&self, written: &K) {
        let version =
            |object: &K| -> Option<u64> { object.meta().resource_version.as_deref()?.parse().ok() };
        let Some(written) = version(written) else {
            return;
        };
        self.until(|objects| objects.version() >= written).await;
    }

    /// Wait until the copy has lost what was just deleted.
    pub async fn lost(&self, deleted: &K) {
        let key = Key::of(deleted.meta());
        let uid = &deleted.meta().uid;
        self.until(|objects| objects.get(&key).is_none_or(|now| now.meta().uid != *uid))
            .await;
    }

    async fn until(&self, reached: impl Fn(&eyot_client::Cache<K>) -> bool) {
        let waiting = async {
            loop {
                let mut seen = std::pin::pin!(self.seen.notified());
                seen.as_mut().enable();
                if reached(&self.objects) {
                    return;
                }
                seen.await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            tracing::warn!(kind = %K::kind(&()), "the local copy is far behind");
        }
    }
}

fn matters<K: Resource + HasSpec>(change: &Change<'_, K>) -> bool
where
    K::Spec: PartialEq,
{
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return true;
    };
    before.meta().annotations != after.meta().annotations
        || before.spec() != after.spec()
        || before.meta().uid != after.meta().uid
        || before.meta().labels != after.meta().labels
        || before.meta().deletion_timestamp != after.meta().deletion_timestamp
}
