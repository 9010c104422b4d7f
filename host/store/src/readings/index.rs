//! What is known of the kept events without asking the disk: enough to answer which ones match.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use super::{Filter, Latest, PAGE, Page, ReadingEvent, Retention, TRIM, file::Row};

/// Devices times resources whose latest reading is held: a host has hundreds of devices, a device
/// tens of resources.
const LATEST: usize = 100_000;
/// Different lists of resources that are shared; a host has one for each source of a profile.
const SHAPES: usize = 10_000;

/// The resources of an event in the order of its readings. Events of the same source share one.
type Shape = Arc<[Arc<str>]>;

struct Entry {
    seq: u64,
    origin: u64,
    /// Of the id: the id itself is on the disk.
    id: u64,
    device: Arc<str>,
    shape: Shape,
}

/// A latest reading and the row that it is in; zero once it is saved apart from its row.
struct Kept {
    seq: u64,
    latest: Latest,
}

/// A latest reading to be saved: device, resource, reading.
pub(super) type Saved = (Arc<str>, Arc<str>, Latest);

/// Rows before this are superfluous, except for these readings in them.
pub(super) struct Superfluous {
    pub(super) before: u64,
    pub(super) latest: Vec<Saved>,
}

#[derive(Default)]
pub(super) struct Index {
    pub(super) retention: Retention,
    /// In the order of arrival, which is that of `seq`.
    entries: VecDeque<Entry>,
    latest: HashMap<Arc<str>, BTreeMap<Arc<str>, Kept>>,
    latest_count: usize,
    shapes: HashSet<Shape>,
    /// Device names, shared by their entries.
    devices: HashSet<Arc<str>>,
    hasher: RandomState,
}

impl Index {
    /// Take in a latest reading whose event is gone.
    pub(super) fn load_latest(&mut self, (device, resource, latest): Saved) {
        self.keep(device, resource, Kept { seq: 0, latest });
    }

    /// Take in an event from the file; the order of their numbers matters.
    pub(super) fn load(&mut self, row: Row) {
        let event = ReadingEvent {
            id: row.id,
            device: row.device,
            origin: row.origin,
            body: row.body,
            readings: row.readings,
        };
        self.append(row.seq, vec![event]);
    }

    /// Add stored events; the first has this number, the others follow.
    pub(super) fn append(&mut self, first: u64, events: Vec<ReadingEvent>) {
        for (seq, event) in (first..).zip(events) {
            let device = self.name(event.device);
            let shape = event
                .readings
                .iter()
                .map(|slice| slice.resource.clone())
                .collect();
            let shape = self.share(shape);
            for slice in event.readings {
                // A copy, so that one small reading does not hold on to a large event.
                let body = event.body.get(slice.range).unwrap_or_default();
                let body = bytes::Bytes::copy_from_slice(body);
                let latest = Latest {
                    origin: event.origin,
                    body,
                };
                self.keep(device.clone(), slice.resource, Kept { seq, latest });
            }
            let id = self.hasher.hash_one(event.id.as_str());
            let origin = event.origin;
            self.entries.push_back(Entry {
                seq,
                origin,
                id,
                device,
                shape,
            });
        }
    }

    fn share(&mut self, shape: Shape) -> Shape {
        if let Some(known) = self.shapes.get(&shape) {
            return known.clone();
        }
        if self.shapes.len() >= SHAPES {
            self.shapes.clear();
        }
        self.shapes.insert(shape.clone());
        shape
    }

    fn name(&mut self, device: Arc<str>) -> Arc<str> {
        if let Some(known) = self.devices.get(&device) {
            return known.clone();
        }
        if self.devices.len() >= SHAPES {
            self.devices.clear();
        }
        self.devices.insert(device.clone());
        device
    }

    fn keep(&mut self, device: Arc<str>, resource: Arc<str>, kept: Kept) {
        let of_device = self.latest.entry(device).or_default();
        if let Some(known) = of_device.get_mut(&resource) {
            if known.latest.origin <= kept.latest.origin {
                *known = kept;
            }
        } else if self.latest_count < LATEST {
            self.latest_count += 1;
            of_device.insert(resource, kept);
        } else if self.latest_count == LATEST {
            self.latest_count += 1;
            tracing::warn!(
                limit = LATEST,
                "too many resources: not every latest reading is kept"
            );
        }
    }

    pub(super) fn latest(&self, device: &str, resource: &str) -> Option<Latest> {
        Some(self.latest.get(device)?.get(resource)?.latest.clone())
    }

    pub(super) fn latest_of(&self, device: &str) -> Vec<(Arc<str>, Latest)> {
        let of_device = self.latest.get(device).into_iter().flatten();
        of_device
            .map(|(resource, kept)| (resource.clone(), kept.latest.clone()))
            .collect()
    }

    /// Rows that may have this id.
    pub(super) fn by_id(&self, id: &str) -> Vec<u64> {
        let id = self.hasher.hash_one(id);
        self.entries
            .iter()
            .filter(|entry| entry.id == id)
            .map(|entry| entry.seq)
            .collect()
    }

    /// How many events match, and the rows of the page.
    pub(super) fn events(&self, filter: &Filter, page: Page) -> (usize, Vec<u64>) {
        let found = self.entries.iter().filter(|entry| matches(entry, filter));
        cut(
            found
                .map(|entry| (Reverse((entry.origin, entry.seq)), entry.seq))
                .collect(),
            page,
        )
    }

    /// How many readings match, and the rows of the page with the position in the event.
    pub(super) fn readings(&self, filter: &Filter, page: Page) -> (usize, Vec<(u64, usize)>) {
        let mut found = Vec::new();
        for entry in self.entries.iter().filter(|entry| matches(entry, filter)) {
            for (at, resource) in entry.shape.iter().enumerate() {
                if filter.resources.is_empty() || filter.resources.iter().any(|r| **r == **resource)
                {
                    let order = (Reverse((entry.origin, entry.seq)), at);
                    found.push((order, (entry.seq, at)));
                }
            }
        }
        cut(found, page)
    }

    /// The rows of all events that match.
    pub(super) fn matching(&self, filter: &Filter) -> Vec<u64> {
        let found = self.entries.iter().filter(|entry| matches(entry, filter));
        found.map(|entry| entry.seq).collect()
    }

    pub(super) fn remove(&mut self, gone: &[u64]) {
        let gone: HashSet<u64> = gone.iter().copied().collect();
        self.entries.retain(|entry| !gone.contains(&entry.seq));
    }

    /// The latest readings that are only in these rows; from now on they count as saved.
    pub(super) fn unsaved(&mut self, rows: &[u64]) -> Vec<Saved> {
        let rows: HashSet<u64> = rows.iter().copied().collect();
        self.save(|seq| rows.contains(&seq))
    }

    fn save(&mut self, lost: impl Fn(u64) -> bool) -> Vec<Saved> {
        let mut saved = Vec::new();
        for (device, resources) in &mut self.latest {
            for (resource, kept) in resources {
                if kept.seq != 0 && lost(kept.seq) {
                    kept.seq = 0;
                    saved.push((device.clone(), resource.clone(), kept.latest.clone()));
                }
            }
        }
        saved
    }

    /// Forget what is beyond the retention, once it is worth a deletion.
    pub(super) fn trim(&mut self, now: u64) -> Option<Superfluous> {
        let age = self.retention.age.unwrap_or(Duration::MAX).as_nanos();
        let oldest = now.saturating_sub(u64::try_from(age).unwrap_or(u64::MAX));
        let old = self
            .entries
            .iter()
            .take_while(|entry| entry.origin < oldest)
            .count();
        let many = self.entries.len().saturating_sub(self.retention.events);
        let gone = old.max(many);
        // A small retention is kept exactly enough too.
        if gone == 0 || gone < TRIM.min(self.retention.events / 4 + 1) {
            return None;
        }
        self.entries.drain(..gone);
        if self.entries.capacity() > 2 * self.entries.len() + TRIM {
            self.entries.shrink_to_fit();
        }
        let before = self.entries.front().map_or(u64::MAX, |entry| entry.seq);
        Some(Superfluous {
            before,
            latest: self.save(|seq| seq < before),
        })
    }
}

fn matches(entry: &Entry, filter: &Filter) -> bool {
    filter
        .device
        .as_deref()
        .is_none_or(|device| *device == *entry.device)
        && filter.start.is_none_or(|start| entry.origin >= start)
        && filter.end.is_none_or(|end| entry.origin <= end)
        && (filter.resources.is_empty()
            || entry
                .shape
                .iter()
                .any(|have| filter.resources.iter().any(|r| **r == **have)))
}

/// Sort what was found and take the page out of it.
fn cut<O: Ord, T>(mut found: Vec<(O, T)>, page: Page) -> (usize, Vec<T>) {
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let total = found.len();
    let taken = found
        .into_iter()
        .skip(page.offset)
        .take(page.limit.min(PAGE));
    (total, taken.map(|(_, wanted)| wanted).collect())
}
