//! What the store counts about itself, for metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds in microseconds of the classes of durations; there is one more class beyond.
const DURATIONS: [u64; 9] = [250, 500, 1000, 2000, 4000, 8000, 16_000, 64_000, 256_000];
/// Upper bounds of the classes of group sizes; there is one more class beyond.
const SIZES: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// The state of a store at one moment; counters are since it was opened.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub revision: u64,
    pub resources: Vec<ResourceStats>,
    /// Writes that were stored.
    pub writes: u64,
    /// Transactions that stored them.
    pub groups: u64,
    /// Transactions that failed, and among them those that failed because the disk was full.
    pub failures: u64,
    pub full: u64,
    /// Rows that were deleted because nobody needed them any more.
    pub compacted: u64,
    /// Watches that lagged behind the log and were cut off, or came too late to begin.
    pub expired: u64,
    /// The most changes a watcher was behind when it looked.
    pub lag: usize,
    /// How long transactions took, the fsync included.
    pub commit: Histogram,
    /// How many writes shared a transaction.
    pub group: Histogram,
    /// Bytes of the database and of its write-ahead log, where they are files.
    pub file_bytes: u64,
    pub wal_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct ResourceStats {
    pub name: Arc<str>,
    pub objects: usize,
    pub watchers: usize,
    pub log_changes: usize,
    pub log_bytes: usize,
    /// Watches may begin after this revision or a later one.
    pub horizon: u64,
}

/// How many values there were in each class.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// Upper bound of each class with the number of values in it alone (not below it); the last is
    /// `u64::MAX`. Durations are in microseconds.
    pub classes: Vec<(u64, u64)>,
    pub count: u64,
    pub sum: u64,
}

/// The counters behind [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    writes: AtomicU64,
    failures: AtomicU64,
    full: AtomicU64,
    compacted: AtomicU64,
    expired: AtomicU64,
    lag: AtomicUsize,
    commit: Classes,
    group: Classes,
}

#[derive(Default)]
struct Classes {
    counts: [AtomicU64; DURATIONS.len() + 1],
    sum: AtomicU64,
}

impl Classes {
    fn count(&self, bounds: &[u64], value: u64) {
        let class = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(class) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    fn read(&self, bounds: &[u64]) -> Histogram {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        let bounds = bounds.iter().copied().chain([u64::MAX]);
        let classes: Vec<_> = bounds.zip(counts).collect();
        Histogram {
            count: classes.iter().map(|(_, count)| count).sum(),
            sum: self.sum.load(Relaxed),
            classes,
        }
    }
}

impl Counters {
    pub(crate) fn stored(&self, writes: usize, took: Duration) {
        let writes = writes as u64;
        self.writes.fetch_add(writes, Relaxed);
        self.group.count(&SIZES, writes);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.commit.count(&DURATIONS, micros);
    }

    pub(crate) fn compacted(&self, rows: usize) {
        self.compacted.fetch_add(rows as u64, Relaxed);
    }

    pub(crate) fn expired(&self) {
        self.expired.fetch_add(1, Relaxed);
    }

    pub(crate) fn lagged(&self, changes: usize) {
        self.lag.fetch_max(changes, Relaxed);
    }

    pub(crate) fn failed(&self, full: bool) {
        self.failures.fetch_add(1, Relaxed);
        self.full.fetch_add(u64::from(full), Relaxed);
    }

    pub(crate) fn read(&self) -> Stats {
        let commit = self.commit.read(&DURATIONS);
        Stats {
            writes: self.writes.load(Relaxed),
            groups: commit.count,
            failures: self.failures.load(Relaxed),
            full: self.full.load(Relaxed),
            compacted: self.compacted.load(Relaxed),
            expired: self.expired.load(Relaxed),
            lag: self.lag.load(Relaxed),
            commit,
            group: self.group.read(&SIZES),
            ..Stats::default()
        }
    }
}
