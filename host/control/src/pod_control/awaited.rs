//! What a controller wrote and its cache has yet to show.
//!
//! A controller that counts pods in a cache from before its own writes counts wrongly: it makes too
//! many, or takes away too many. So after writing it waits, for each object that it keeps, until
//! the cache has come as far as the last write. Versions are compared, nothing is counted: a lost,
//! repeated or foreign event cannot put this out of step.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_client::{Cache, Key};
use kube::Resource;
use tokio::time::Instant;

/// After so long a controller acts on what it sees: the watch may be broken for good.
const LIMIT: Duration = Duration::from_secs(30);
/// How often to look whether the cache has come far enough if no event wakes the controller.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(crate) struct Awaited {
    writes: Mutex<HashMap<Key, Writes>>,
}

/// The writes for one owner.
struct Writes {
    since: Instant,
    /// The highest resource version among them.
    version: u64,
    /// Pods that were to go, by uid. A deletion does not always tell its version.
    gone: Vec<(Key, String)>,
}

impl Awaited {
    /// A write for `owner` was given this version.
    pub(crate) fn wrote(&self, owner: &Key, version: Option<&str>) {
        let version = version.and_then(|version| version.parse().ok());
        self.note(owner, |writes| {
            writes.version = writes.version.max(version.unwrap_or(0));
        });
    }

    /// A pod of `owner` was asked to go.
    pub(crate) fn deleted(&self, owner: &Key, pod: Key, uid: String) {
        self.note(owner, |writes| writes.gone.push((pod, uid)));
    }

    fn note(&self, owner: &Key, add: impl FnOnce(&mut Writes)) {
        let mut all = self.all();
        let writes = all.entry(owner.clone()).or_insert_with(|| Writes {
            since: Instant::now(),
            version: 0,
            gone: Vec::new(),
        });
        writes.since = Instant::now();
        add(writes);
    }

    /// Whether the cache still lacks something: then after which time to look again.
    pub(crate) fn lacks<K: Resource>(&self, owner: &Key, cache: &Cache<K>) -> Option<Duration> {
        let mut all = self.all();
        let writes = all.get_mut(owner)?;
        let seen = |(key, uid): &(Key, String)| {
            cache.get(key).is_none_or(|there| {
                let meta = there.meta();
                meta.uid.as_ref() != Some(uid) || meta.deletion_timestamp.is_some()
            })
        };
        writes.gone.retain(|pod| !seen(pod));
        let shown = cache.version() >= writes.version && writes.gone.is_empty();
        if shown || writes.since.elapsed() >= LIMIT {
            all.remove(owner);
            return None;
        }
        Some(AGAIN)
    }

    pub(crate) fn forget(&self, owner: &Key) {
        self.all().remove(owner);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Writes>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use eyot_client::view::Pod;
    use futures::stream;
    use kube::runtime::watcher::Event;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn pod(name: &str, version: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("d".into());
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.metadata.resource_version = Some(version.into());
        pod
    }

    async fn show(cache: &Cache<Pod>, event: Event<Pod>) {
        let events = stream::iter([Ok(event)]);
        cache.follow(events, CancellationToken::new()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_creation_is_awaited_until_the_cache_has_come_as_far() {
        let (awaited, cache, owner) = (
            Awaited::default(),
            Cache::<Pod>::default(),
            Key::new("d", "web"),
        );
        assert_eq!(awaited.lacks(&owner, &cache), None);
        awaited.wrote(&owner, Some("7"));
        show(&cache, Event::Apply(pod("other", "6"))).await;
        assert_eq!(awaited.lacks(&owner, &cache), Some(AGAIN));
        // Also if what was made has gone again meanwhile.
        show(&cache, Event::Apply(pod("other", "9"))).await;
        assert_eq!(awaited.lacks(&owner, &cache), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_is_awaited_until_the_pod_is_seen_leaving_or_gone_or_another() {
        let (awaited, cache, owner) = (
            Awaited::default(),
            Cache::<Pod>::default(),
            Key::new("d", "web"),
        );
        let named = |name: &str| (Key::new("d", name), format!("uid-{name}"));
        show(&cache, Event::Apply(pod("a", "5"))).await;
        let (key, uid) = named("a");
        awaited.deleted(&owner, key, uid);
        assert_eq!(awaited.lacks(&owner, &cache), Some(AGAIN));
        show(&cache, Event::Delete(pod("a", "6"))).await;
        assert_eq!(awaited.lacks(&owner, &cache), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_shows_nothing_is_not_awaited_for_ever() {
        let (awaited, cache, owner) = (
            Awaited::default(),
            Cache::<Pod>::default(),
            Key::new("d", "web"),
        );
        awaited.wrote(&owner, Some("7"));
        tokio::time::advance(LIMIT).await;
        assert_eq!(awaited.lacks(&owner, &cache), None);
        awaited.wrote(&owner, Some("7"));
        awaited.forget(&owner);
        assert_eq!(awaited.lacks(&owner, &cache), None);
    }
}
