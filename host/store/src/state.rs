//! The objects and their recent changes in memory: what reads are answered from.
//!
//! One lock guards everything, so a list is a snapshot at one revision. Nobody holds it for long:
//! writers only to put finished objects in place, readers only to copy a pointer out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::Instant,
};

use tokio::sync::watch;

use crate::{
    Change, ChangeKind, Expired, Key, Object, Snapshot, index::Index, log::Log,
    stats::ResourceStats,
};

/// Bytes of superseded states that all logs together may hold on to. The largest gives way.
const LOG_BYTES: usize = 32 << 20;

/// Everything that is known.
#[derive(Default)]
pub(crate) struct State {
    /// Of the last write that is visible.
    pub(crate) revision: u64,
    resources: HashMap<Arc<str>, Resource>,
    log_bytes: usize,
}

struct Resource {
    index: Index,
    log: Log,
    mark: Mark,
    /// Sends the revision of each change to wake the watchers.
    wake: watch::Sender<u64>,
}

/// Where the revision of the last change to a resource can be looked up, for the price of reading
/// a number.
#[derive(Debug, Clone, Default)]
pub struct Mark(Arc<AtomicU64>);

impl Mark {
    /// Zero if nothing changed since the store was opened.
    pub fn get(&self) -> u64 {
        self.0.load(Acquire)
    }
}

/// What trimming the logs made superfluous on disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    /// Rows that nobody needs any more. Of one key the older come first.
    pub(crate) revisions: Vec<u64>,
    /// The new horizon of each resource that was trimmed.
    pub(crate) horizons: BTreeMap<Arc<str>, u64>,
}

impl Trimmed {
    /// At most so many of the rows, with all horizons.
    pub(crate) fn first(&self, rows: usize) -> Trimmed {
        Trimmed {
            revisions: self.revisions.iter().take(rows).copied().collect(),
            horizons: self.horizons.clone(),
        }
    }
}

impl State {
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        let resource = self.resources.get(&key.resource)?;
        resource.index.get(&key.namespace, &key.name)
    }

    /// Whether just this change is in the log.
    pub(crate) fn has(&self, change: &Change) -> bool {
        let object = &change.object;
        let found = self.resources.get(&object.key.resource);
        let found = found.and_then(|found| found.log.after(object.revision - 1).next());
        found
            .is_some_and(|found| found.object.key == object.key && found.object.json == object.json)
    }

    pub(crate) fn list(&self, resource: &str, namespace: Option<&str>) -> Snapshot {
        let found = self.resources.get(resource);
        Snapshot {
            revision: self.revision,
            objects: found
                .map(|found| found.index.objects(namespace))
                .unwrap_or_default(),
        }
    }

    /// What is needed to see a resource as it was: as it is, and the changes since then.
    pub(crate) fn past(
        &self,
        resource: &str,
        revision: u64,
    ) -> Result<(Index, Vec<Change>), Expired> {
        self.check(resource, revision)?;
        Ok(self
            .resources
            .get(resource)
            .map(|found| {
                let changes = found.log.after(revision).cloned().collect();
                (found.index.clone(), changes)
            })
            .unwrap_or_default())
    }

    /// The key with those of its parts shared that other objects have already.
    pub(crate) fn intern(&self, key: Key) -> Key {
        let Some((resource, found)) = self.resources.get_key_value(&key.resource) else {
            return key;
        };
        let namespace = found.index.intern(&key.namespace, &key.name);
        Key {
            resource: resource.clone(),
            namespace: namespace.unwrap_or(key.namespace),
            name: key.name,
        }
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.resources
            .iter()
            .map(|(name, resource)| (name, resource.index.len()))
    }

    pub(crate) fn stats(&self) -> Vec<ResourceStats> {
        let stats = self.resources.iter().map(|(name, resource)| ResourceStats {
            name: name.clone(),
            objects: resource.index.len(),
            watchers: resource.wake.receiver_count(),
            log_changes: resource.log.len(),
            log_bytes: resource.log.bytes(),
            horizon: resource.log.horizon,
        });
        stats.collect()
    }

    fn resource(&mut self, name: &Arc<str>) -> &mut Resource {
        self.resources
            .entry(name.clone())
            .or_insert_with(|| Resource {
                index: Index::default(),
                log: Log::default(),
                mark: Mark::default(),
                wake: watch::Sender::new(0),
            })
    }

    /// Put a change in place and in the log. The caller wakes the watchers with the answer, once it
    /// let go of the lock.
    pub(crate) fn apply(&mut self, change: Change, now: Instant) -> watch::Sender<u64> {
        self.revision = self.revision.max(change.object.revision);
        let resource = self.resource(&change.object.key.resource);
        resource.index.place(&change);
        resource.mark.0.store(change.object.revision, Release);
        let before = resource.log.bytes();
        resource.log.push(now, change);
        let (after, waker) = (resource.log.bytes(), resource.wake.clone());
        self.log_bytes += after - before;
        waker
    }

    /// At start: a change that is older than the log.
    pub(crate) fn settle(&mut self, change: &Change) {
        self.revision = self.revision.max(change.object.revision);
        let resource = change.object.key.resource.clone();
        self.resource(&resource).index.place(change);
    }

    pub(crate) fn set_horizon(&mut self, resource: &Arc<str>, revision: u64) {
        self.revision = self.revision.max(revision);
        self.resource(resource).log.horizon = revision;
    }

    pub(crate) fn mark(&mut self, resource: &Arc<str>) -> Mark {
        self.resource(resource).mark.clone()
    }

    /// Take everything from another state, as it is in the database; answers who is to be woken.
    /// Watches end: nobody knows what they missed.
    pub(crate) fn replace(&mut self, new: State) -> Vec<(Arc<str>, watch::Sender<u64>)> {
        let mut new_resources = new.resources;
        (self.revision, self.log_bytes) = (new.revision, 0);
        let names: Vec<Arc<str>> = new_resources.keys().cloned().collect();
        for name in names {
            self.resource(&name);
        }
        for (name, resource) in &mut self.resources {
            let found = new_resources.remove(name);
            resource.index = found.map_or_else(Index::default, |found| found.index);
            resource.log = Log::beginning_after(new.revision);
            resource.mark.0.store(new.revision, Release);
        }
        let all = self.resources.iter();
        all.map(|(name, resource)| (name.clone(), resource.wake.clone()))
            .collect()
    }

    /// Whether the changes after a revision are all known.
    pub(crate) fn check(&self, resource: &str, after: u64) -> Result<(), Expired> {
        let horizon = self
            .resources
            .get(resource)
            .map_or(0, |found| found.log.horizon);
        // A revision from the future belongs to a database that was since replaced by an older one.
        if after < horizon || after > self.revision {
            return Err(Expired {
                asked: after,
                oldest: horizon,
            });
        }
        Ok(())
    }

    /// Woken at each change of the resource.
    pub(crate) fn subscribe(&mut self, resource: &Arc<str>) -> watch::Receiver<u64> {
        self.resource(resource).wake.subscribe()
    }

    /// Append to `into` the changes after `after`, at most `limit`. Answers up to which revision
    /// the reader now knows everything, and how many changes it was behind.
    pub(crate) fn changes(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: u64,
        limit: usize,
        into: &mut VecDeque<Change>,
    ) -> Result<(u64, usize), Expired> {
        self.check(resource, after)?;
        let Some(found) = self.resources.get(resource) else {
            return Ok((self.revision, 0));
        };
        let changes = found.log.after(after);
        let behind = changes.len();
        for change in changes {
            if namespace.is_some_and(|namespace| *change.object.key.namespace != *namespace) {
                continue;
            }
            if into.len() == limit {
                let reached = into.back().map_or(after, |change| change.object.revision);
                return Ok((reached, behind));
            }
            into.push_back(change.clone());
        }
        Ok((self.revision, behind))
    }

    /// Drop from the logs what is beyond their limits. The changes are handed out so that the
    /// caller frees them after it let go of the lock.
    pub(crate) fn trim(&mut self, now: Instant, trimmed: &mut Trimmed) -> Vec<Change> {
        let mut gone = Vec::new();
        for (name, resource) in &mut self.resources {
            let before = resource.log.bytes();
            if resource.log.trim(now, &mut gone) {
                self.log_bytes -= before - resource.log.bytes();
                trimmed.horizons.insert(name.clone(), resource.log.horizon);
            }
        }
        while self.log_bytes > LOG_BYTES {
            let largest = self.resources.iter_mut();
            let Some((name, resource)) = largest.max_by_key(|(_, r)| r.log.bytes()) else {
                break;
            };
            let before = resource.log.bytes();
            if !resource.log.pop(&mut gone) {
                break;
            }
            self.log_bytes -= before - resource.log.bytes();
            trimmed.horizons.insert(name.clone(), resource.log.horizon);
        }
        for change in &gone {
            let previous = change.previous.as_ref();
            trimmed
                .revisions
                .extend(previous.map(|previous| previous.revision));
            if change.kind == ChangeKind::Deleted {
                trimmed.revisions.push(change.object.revision);
            }
        }
        gone
    }
}

impl Index {
    fn place(&mut self, change: &Change) {
        let key = &change.object.key;
        match change.kind {
            ChangeKind::Deleted => self.remove(&key.namespace, &key.name),
            ChangeKind::Added | ChangeKind::Modified => self.insert(change.object.clone()),
        };
    }

    /// Take back changes, which must be in the order of their revisions.
    pub(crate) fn undo(&mut self, changes: &[Change]) {
        for change in changes.iter().rev() {
            let key = &change.object.key;
            match &change.previous {
                Some(previous) => self.insert(previous.clone()),
                None => self.remove(&key.namespace, &key.name),
            };
        }
    }
}
