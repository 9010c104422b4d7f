//! What is known of the kept events without asking the disk: enough to answer which ones match.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    Filter, Latest, PAGE, Page, ReadingEvent, Retention, SourceRetention, TRIM,
    file::Row,
    ids::Ids,
    stream::{Entry, Selection, Shape, Stream},
};

/// Devices times resources whose latest reading is held: a host has hundreds of devices, a device
/// tens of resources.
const LATEST: usize = 100_000;
/// Different lists of resources that are shared; a host has one for each source of a profile.
const SHAPES: usize = 10_000;
/// Numbers that are counted together.
const BUCKET: u64 = 64;

/// A latest reading and the row that it is in; zero once it is saved apart from its row.
struct Kept {
    seq: u64,
    latest: Latest,
}

/// A latest reading to be saved: device, resource, reading.
pub(super) type Saved = (Arc<str>, Arc<str>, Latest);

/// Rows that are superfluous, except for these readings in them.
pub(super) struct Superfluous {
    /// All whose number is lower.
    pub(super) before: u64,
    /// And these.
    pub(super) rows: Vec<u64>,
    pub(super) latest: Vec<Saved>,
}

/// How many events there are of each few numbers: what was first is found without a list of all.
#[derive(Default)]
struct Arrivals {
    buckets: VecDeque<(u64, u32)>,
}

impl Arrivals {
    fn add(&mut self, seq: u64) {
        let first = seq - seq % BUCKET;
        match self.buckets.back_mut() {
            Some((known, count)) if *known == first => *count += 1,
            _ => self.buckets.push_back((first, 1)),
        }
    }

    fn remove(&mut self, seq: u64) {
        let first = seq - seq % BUCKET;
        if let Ok(at) = self
            .buckets
            .binary_search_by_key(&first, |(first, _)| *first)
            && let Some((_, count)) = self.buckets.get_mut(at)
        {
            *count = count.saturating_sub(1);
        }
        while self
            .buckets
            .pop_front_if(|(_, count)| *count == 0)
            .is_some()
        {}
    }

    /// The first number of the bucket that the `count`th event after the first is in, and how many
    /// of that bucket come before it.
    fn nth(&self, count: usize) -> Option<(u64, usize)> {
        let mut left = count;
        for (first, live) in &self.buckets {
            let live = *live as usize;
            if left < live {
                return Some((*first, left));
            }
            left -= live;
        }
        None
    }
}

#[derive(Default)]
pub(super) struct Index {
    pub(super) retention: Retention,
    /// What holds for single sources, by device and source.
    pub(super) of_sources: HashMap<Arc<str>, HashMap<Arc<str>, SourceRetention>>,
    /// By device.
    streams: HashMap<Arc<str>, Vec<Stream>>,
    arrivals: Arrivals,
    total: usize,
    latest: HashMap<Arc<str>, BTreeMap<Arc<str>, Kept>>,
    latest_count: usize,
    shapes: HashSet<Shape>,
    ids: Ids,
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
            source: row.source,
            origin: row.origin,
            body: row.body,
            readings: row.readings,
        };
        self.append(row.seq, vec![event]);
    }

    /// Add stored events; the first has this number, the others follow.
    pub(super) fn append(&mut self, first: u64, events: Vec<ReadingEvent>) {
        for (seq, event) in (first..).zip(events) {
            self.ids.add(&event.id, seq);
            let origin = event.origin;
            let resources = event.readings.iter();
            let shape: Shape = resources.map(|slice| slice.resource.clone()).collect();
            let shape = self.share(shape);
            let device = match self.streams.get_key_value(&event.device) {
                Some((known, _)) => known.clone(),
                None => event.device,
            };
            for slice in event.readings {
                // A copy, so that one small reading does not hold on to a large event.
                let body = event.body.get(slice.range).unwrap_or_default();
                let body = bytes::Bytes::copy_from_slice(body);
                self.keep(
                    device.clone(),
                    slice.resource,
                    Kept {
                        seq,
                        latest: Latest { origin, body },
                    },
                );
            }
            let streams = self.streams.entry(device.clone()).or_default();
            let known = streams
                .iter()
                .position(|stream| stream.is(&event.source, &shape));
            let at = known.unwrap_or_else(|| {
                streams.push(Stream::new(device, event.source, shape));
                streams.len() - 1
            });
            if let Some(stream) = streams.get_mut(at) {
                stream.push(Entry { origin, seq });
                self.arrivals.add(seq);
                self.total += 1;
            }
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
        self.ids.find(id)
    }

    /// Let the table of ids forget events that are gone, if there are many.
    fn forget_ids(&mut self) {
        if !self.ids.is_worth_keeping(self.total) {
            return;
        }
        let living = self.streams.values().flatten().flat_map(Stream::entries);
        let mut living: Vec<u64> = living.map(|entry| entry.seq).collect();
        living.sort_unstable();
        self.ids.keep(|seq| living.binary_search(&seq).is_ok());
    }

    fn all(&self) -> impl Iterator<Item = &Stream> {
        self.streams.values().flatten()
    }

    /// The streams that a filter's device leaves.
    fn of(&self, filter: &Filter) -> Box<dyn Iterator<Item = &Stream> + '_> {
        match filter.device.as_deref() {
            Some(device) => Box::new(self.streams.get(device).into_iter().flatten()),
            None => Box::new(self.all()),
        }
    }

    /// How many events match, and the rows of the page.
    pub(super) fn events(&self, filter: &Filter, page: Page) -> (usize, Vec<u64>) {
        let found = Selection::events(self.of(filter), filter);
        let rows = found.page(page, PAGE).into_iter().map(|(seq, _)| seq);
        (found.total(), rows.collect())
    }

    /// How many readings match, and the rows of the page with the position in the event.
    pub(super) fn readings(&self, filter: &Filter, page: Page) -> (usize, Vec<(u64, usize)>) {
        let found = Selection::readings(self.of(filter), filter);
        (found.total(), found.page(page, PAGE))
    }

    /// The rows of all events that match.
    pub(super) fn matching(&self, filter: &Filter) -> Vec<u64> {
        let found = Selection::events(self.of(filter), filter);
        found.all().map(|entry| entry.seq).collect()
    }

    /// How many events of one source there are.
    #[cfg(test)]
    pub(super) fn of_source(&self, device: &str, source: &str) -> usize {
        let streams = self.streams.get(device).into_iter().flatten();
        let streams = streams.filter(|stream| *stream.source == *source);
        streams.map(Stream::len).sum()
    }

    pub(super) fn remove(&mut self, gone: &[u64]) {
        let gone: HashSet<u64> = gone.iter().copied().collect();
        let (arrivals, total) = (&mut self.arrivals, &mut self.total);
        for stream in self.streams.values_mut().flatten() {
            stream.take(
                |entry| gone.contains(&entry.seq),
                |entry| {
                    arrivals.remove(entry.seq);
                    *total -= 1;
                },
            );
        }
        self.forget_empty();
    }

    fn forget_empty(&mut self) {
        self.streams.retain(|_, streams| {
            streams.retain(|stream| stream.len() > 0);
            !streams.is_empty()
        });
        self.forget_ids();
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

    /// Forget what is beyond the retention: of single sources at once, of all once it is worth a
    /// deletion.
    pub(super) fn trim(&mut self, now: u64) -> Option<Superfluous> {
        let mut rows = self.trim_sources(now);
        let mut before = 0;
        if let Some(age) = self.retention.age {
            let oldest = older_than(now, age);
            let count: usize = self.all().map(|stream| stream.older(oldest)).sum();
            if count > 0 && count >= self.worth() {
                let (arrivals, total) = (&mut self.arrivals, &mut self.total);
                for stream in self.streams.values_mut().flatten() {
                    for _ in 0..stream.older(oldest) {
                        let Some(entry) = stream.pop_oldest() else {
                            break;
                        };
                        arrivals.remove(entry.seq);
                        *total -= 1;
                        rows.push(entry.seq);
                    }
                }
            }
        }
        let many = self.total.saturating_sub(self.retention.events);
        if many > 0 && many >= self.worth() {
            before = self.number_of(many);
            let (arrivals, total) = (&mut self.arrivals, &mut self.total);
            for stream in self.streams.values_mut().flatten() {
                stream.take_before(before, |entry| {
                    arrivals.remove(entry.seq);
                    *total -= 1;
                });
            }
        }
        if before == 0 && rows.is_empty() {
            return None;
        }
        self.forget_empty();
        let gone: HashSet<u64> = rows.iter().copied().collect();
        let latest = self.save(|seq| seq < before || gone.contains(&seq));
        Some(Superfluous {
            before,
            rows,
            latest,
        })
    }

    /// Superfluous events that are worth a deletion: a small retention is kept exactly enough too.
    fn worth(&self) -> usize {
        TRIM.min(self.retention.events / 4 + 1)
    }

    /// The number of the event that so many came before.
    fn number_of(&self, count: usize) -> u64 {
        let Some((first, before)) = self.arrivals.nth(count) else {
            return u64::MAX;
        };
        let mut numbers = Vec::new();
        for stream in self.all() {
            stream.numbered(first..first + BUCKET, |seq| numbers.push(seq));
        }
        numbers.sort_unstable();
        numbers.get(before).copied().unwrap_or(first)
    }

    /// Forget what single sources are not to keep.
    fn trim_sources(&mut self, now: u64) -> Vec<u64> {
        let mut rows = Vec::new();
        for (device, sources) in &self.of_sources {
            let Some(streams) = self.streams.get_mut(device) else {
                continue;
            };
            for (source, retention) in sources {
                let mut streams: Vec<&mut Stream> = streams
                    .iter_mut()
                    .filter(|stream| stream.source == *source)
                    .collect();
                let count: usize = streams.iter().map(|stream| stream.len()).sum();
                let mut superfluous = retention.superfluous(count);
                let oldest = retention.age.map_or(0, |age| older_than(now, age));
                let mut left = count;
                loop {
                    let by_age = |entry: &Entry| entry.origin < oldest && left > retention.least;
                    let next = streams
                        .iter_mut()
                        .filter(|stream| stream.len() > 0)
                        .min_by_key(|stream| stream.oldest().map(|e| (e.origin, e.seq)));
                    let Some(next) = next else { break };
                    if superfluous == 0 && !next.oldest().is_some_and(by_age) {
                        break;
                    }
                    let Some(entry) = next.pop_oldest() else {
                        break;
                    };
                    superfluous = superfluous.saturating_sub(1);
                    left -= 1;
                    self.total -= 1;
                    self.arrivals.remove(entry.seq);
                    rows.push(entry.seq);
                }
            }
        }
        rows
    }
}

/// The origin before which events are older than this.
fn older_than(now: u64, age: std::time::Duration) -> u64 {
    now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
}
