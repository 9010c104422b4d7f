//! The objects and their recent changes in memory: what reads are answered from.
//!
//! One lock guards everything, so a list is a snapshot at one revision. Writers hold it only to
//! put finished objects in place, readers only to copy pointers out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{Change, ChangeKind, Expired, Key, Object, Snapshot};

/// Changes kept per resource: a watcher that falls behind by more has to list again. A burst of
/// writes reaches some thousands a second, and a client that reads at all is not seconds behind.
const LOG_CHANGES: usize = 8192;
/// Bytes of superseded states that the log of one resource may hold on to.
const LOG_BYTES: usize = 16 << 20;
/// Changes older than this go, as etcd's do with Kubernetes' defaults...
const LOG_AGE: Duration = Duration::from_secs(5 * 60);
/// ...except for this many, so that a client that comes back to a quiet host need not list again.
const LOG_KEPT: usize = 128;

/// Everything that is known.
pub(crate) struct State {
    /// Of the last write that is visible.
    pub(crate) revision: u64,
    resources: HashMap<Arc<str>, Resource>,
}

struct Resource {
    objects: BTreeMap<(Arc<str>, Arc<str>), Arc<Object>>,
    log: VecDeque<(Instant, Change)>,
    log_bytes: usize,
    /// Changes up to and including this revision are no longer in the log.
    horizon: u64,
    /// Sends the revision of each change to wake the watchers.
    wake: watch::Sender<u64>,
}

/// What trimming the logs made superfluous on disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    /// Rows that nobody needs any more.
    pub(crate) revisions: Vec<u64>,
    /// The new horizon of each resource that was trimmed.
    pub(crate) horizons: BTreeMap<Arc<str>, u64>,
}

impl State {
    pub(crate) fn new(revision: u64) -> Self {
        Self {
            revision,
            resources: HashMap::new(),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        let resource = self.resources.get(&key.resource)?;
        resource
            .objects
            .get(&(key.namespace.clone(), key.name.clone()))
    }

    pub(crate) fn list(&self, resource: &str, namespace: Option<&str>) -> Snapshot {
        let objects = self
            .resources
            .get(resource)
            .map(|resource| match namespace {
                None => resource.objects.values().cloned().collect(),
                Some(namespace) => {
                    let first = (Arc::from(namespace), Arc::from(""));
                    resource
                        .objects
                        .range((Bound::Included(first), Bound::Unbounded))
                        .take_while(|((ns, _), _)| &**ns == namespace)
                        .map(|(_, object)| object.clone())
                        .collect()
                }
            });
        Snapshot {
            revision: self.revision,
            objects: objects.unwrap_or_default(),
        }
    }

    /// The resource's name as it is shared by all its objects.
    pub(crate) fn intern(&self, resource: &Arc<str>) -> Arc<str> {
        self.resources
            .get_key_value(resource)
            .map_or_else(|| resource.clone(), |(k, _)| k.clone())
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        self.resources
            .iter()
            .map(|(name, resource)| (name, resource.objects.len()))
    }

    fn resource(&mut self, name: &Arc<str>) -> &mut Resource {
        self.resources
            .entry(name.clone())
            .or_insert_with(|| Resource {
                objects: BTreeMap::new(),
                log: VecDeque::new(),
                log_bytes: 0,
                horizon: 0,
                wake: watch::Sender::new(0),
            })
    }

    /// Put a change in place and in the log. The caller wakes the watchers once it let go of the
    /// lock, with what [`State::waker`] gives.
    pub(crate) fn apply(&mut self, change: Change, now: Instant) {
        self.revision = self.revision.max(change.object.revision);
        let resource = self.resource(&change.object.key.resource);
        resource.place(&change);
        resource.log_bytes += weight(&change);
        resource.log.push_back((now, change));
    }

    /// At start: an object that is older than the log.
    pub(crate) fn settle(&mut self, object: Arc<Object>) {
        self.revision = self.revision.max(object.revision);
        let change = Change {
            kind: ChangeKind::Added,
            object,
            previous: None,
        };
        self.resource(&change.object.key.resource).place(&change);
    }

    pub(crate) fn set_horizon(&mut self, resource: &Arc<str>, revision: u64) {
        self.revision = self.revision.max(revision);
        self.resource(resource).horizon = revision;
    }

    pub(crate) fn horizon(&self, resource: &str) -> u64 {
        self.resources
            .get(resource)
            .map_or(0, |resource| resource.horizon)
    }

    pub(crate) fn waker(&mut self, resource: &Arc<str>) -> watch::Sender<u64> {
        self.resource(resource).wake.clone()
    }

    /// Append to `into` the changes after `after`, at most `limit`. Answers up to which revision
    /// the reader now knows everything.
    pub(crate) fn changes(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: u64,
        limit: usize,
        into: &mut VecDeque<Change>,
    ) -> Result<u64, Expired> {
        let Some(found) = self.resources.get(resource) else {
            return Ok(self.revision);
        };
        // A revision from the future belongs to a database that was since replaced by an older one.
        if after < found.horizon || after > self.revision {
            return Err(Expired {
                asked: after,
                oldest: found.horizon,
            });
        }
        let from = found
            .log
            .partition_point(|(_, change)| change.object.revision <= after);
        for (_, change) in found.log.range(from..) {
            if namespace.is_some_and(|namespace| *change.object.key.namespace != *namespace) {
                continue;
            }
            if into.len() == limit {
                return Ok(into.back().map_or(after, |change| change.object.revision));
            }
            into.push_back(change.clone());
        }
        Ok(self.revision)
    }

    /// Drop from the logs what is beyond their limits.
    pub(crate) fn trim(&mut self, now: Instant) -> Trimmed {
        let mut trimmed = Trimmed::default();
        for (name, resource) in &mut self.resources {
            if resource.trim(now, &mut trimmed.revisions) {
                trimmed.horizons.insert(name.clone(), resource.horizon);
            }
        }
        trimmed
    }
}

impl Resource {
    fn place(&mut self, change: &Change) {
        let key = &change.object.key;
        let place = (key.namespace.clone(), key.name.clone());
        match change.kind {
            ChangeKind::Deleted => self.objects.remove(&place),
            ChangeKind::Added | ChangeKind::Modified => {
                self.objects.insert(place, change.object.clone())
            }
        };
    }

    fn trim(&mut self, now: Instant, superfluous: &mut Vec<u64>) -> bool {
        let before = self.horizon;
        while let Some((at, _)) = self.log.front() {
            let full = self.log.len() > LOG_CHANGES || self.log_bytes > LOG_BYTES;
            let old = self.log.len() > LOG_KEPT && now.duration_since(*at) > LOG_AGE;
            if !full && !old {
                break;
            }
            let Some((_, change)) = self.log.pop_front() else {
                break;
            };
            self.log_bytes -= weight(&change);
            self.horizon = change.object.revision;
            superfluous.extend(change.previous.map(|previous| previous.revision));
            if change.kind == ChangeKind::Deleted {
                superfluous.push(change.object.revision);
            }
        }
        self.horizon != before
    }
}

/// What the log holds in memory on behalf of this change alone.
fn weight(change: &Change) -> usize {
    let last = if change.kind == ChangeKind::Deleted {
        change.object.json.len()
    } else {
        0
    };
    last + change
        .previous
        .as_ref()
        .map_or(0, |previous| previous.json.len())
}
