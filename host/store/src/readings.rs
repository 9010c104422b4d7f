//! What devices measured: the events of the last while, and the latest reading of each resource.
//!
//! Readings are not objects: they come by the thousand, nobody updates them, and losing the last
//! instant of them to a power cut is no harm. So they live in a SQLite file of their own, appended
//! in groups ([`writer`]) without waiting for the disk (`synchronous=NORMAL`), one row an event. What
//! [`Readings::append`] has returned for is in the kernel's hands: no death of this process loses it.
//! The index for queries is in memory: what is kept is bounded (100,000 events unless told
//! otherwise), an entry is some 32 bytes, and a flash disk is spared the index writes, which would be
//! most of all writes.
//!
//! Bodies are opaque JSON to the store: EdgeX's shape is the business of the devices crate.

mod file;
mod ids;
mod index;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::HashMap,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;

use self::{
    file::{File, Reader, Row},
    index::Index,
};
use crate::{OpenError, ReadingsError};

/// Events kept if nobody says otherwise: a day of one device read once a second.
const EVENTS: usize = 100_000;
/// Events kept at most, whatever is asked for: the index takes some 32 bytes of memory for each.
pub const EVENTS_AT_MOST: usize = 10_000_000;
/// Bodies answered at once at most; EdgeX's own limit on a page is 1024 unless configured.
pub const PAGE: usize = 10_000;
/// Superfluous events that are worth a deletion.
const TRIM: usize = 1024;

/// An event to keep: what one read of one source of one device yielded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadingEvent {
    /// The event's UUID as text.
    pub id: String,
    pub device: Arc<str>,
    /// What of the device was read: a resource or a command of its profile.
    pub source: Arc<str>,
    /// Nanoseconds since 1970.
    pub origin: u64,
    /// The whole event as JSON.
    pub body: Bytes,
    /// Where in `body` each reading's JSON object is, in order.
    pub readings: Vec<ReadingSlice>,
}

/// One reading: a part of its event's body, so that it is stored once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadingSlice {
    pub resource: Arc<str>,
    /// Byte range within the event's body of this reading's JSON object.
    pub range: Range<usize>,
}

/// Which events or readings are meant. The default means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub device: Option<String>,
    /// Any of these resources; empty means any at all. An event matches if one reading does.
    pub resources: Vec<String>,
    /// Origin at or after this, in nanoseconds.
    pub start: Option<u64>,
    /// Origin at or before this, in nanoseconds.
    pub end: Option<u64>,
}

/// Which part of what was found to answer, newest (by origin) first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub offset: usize,
    /// At most this many, and never more than [`PAGE`]; zero only counts.
    pub limit: usize,
}

/// The answer to a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// How many match in all.
    pub total: usize,
    /// The bodies on this page, newest first: whole events, or the readings' own JSON objects.
    pub bodies: Vec<Bytes>,
}

/// The newest reading of a resource of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    pub origin: u64,
    /// The reading's JSON object.
    pub body: Bytes,
}

/// How much to keep. Older events go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub events: usize,
    /// Not older than this by origin, if set.
    pub age: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: EVENTS,
            age: None,
        }
    }
}

/// How much of one source of a device to keep, within what is kept of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceRetention {
    /// More events than this are cut down to `least`, or to this if `least` is zero or more than it.
    pub most: Option<usize>,
    /// So many are kept whatever their age.
    pub least: usize,
    /// Not older than this by origin, if set.
    pub age: Option<Duration>,
}

impl SourceRetention {
    /// How many of so many events are too many.
    fn superfluous(&self, count: usize) -> usize {
        match self.most {
            Some(most) if count > most => {
                let kept = if (1..=most).contains(&self.least) {
                    self.least
                } else {
                    most
                };
                count - kept
            }
            _ => 0,
        }
    }
}

/// The readings of this host. Cheap to clone.
#[derive(Clone)]
pub struct Readings {
    inner: Arc<Inner>,
}

struct Inner {
    /// Locked before `index` by whoever needs both.
    file: Arc<AsyncMutex<File>>,
    /// Locked before `file`. A query that arrives while the file is still being read at start waits
    /// for this.
    reader: Arc<AsyncMutex<Reader>>,
    index: Mutex<Index>,
    queue: Mutex<writer::Queue>,
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Nothing that holds the lock can leave the index half-written.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, writer::Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Readings {
    /// Open the file. What is in it is read in the background, so that a start does not wait for
    /// it; queries do.
    pub(crate) async fn open(path: &Path) -> Result<Self, OpenError> {
        let readings = Self::new(File::open(path).await?, Some(path));
        let inner = readings.inner.clone();
        let reader = inner.reader.clone().lock_owned().await;
        let mut file = inner.file.clone().lock_owned().await;
        tokio::spawn(async move {
            let _queries_wait = reader;
            let latest = |saved| inner.index().load_latest(saved);
            let event = |row| inner.index().load(row);
            if let Err(error) = file.load(latest, event).await {
                tracing::error!(%error, "stored readings could not be read");
            }
        });
        Ok(readings)
    }

    /// Readings that are forgotten in the end, for tests.
    pub fn in_memory() -> Self {
        Self::new(File::in_memory(), None)
    }

    fn new(file: File, path: Option<&Path>) -> Self {
        Self {
            inner: Arc::new(Inner {
                file: Arc::new(AsyncMutex::new(file)),
                reader: Arc::new(AsyncMutex::new(Reader::new(path))),
                index: Mutex::default(),
                queue: Mutex::default(),
            }),
        }
    }

    /// Keep events. Returns when they are stored: the death of this process does not lose them, a
    /// power cut may still take the last moments.
    ///
    /// All of them are kept or, on an error, none. Calls that come while others are written share
    /// one transaction. A call that is given up may have stored its events all the same.
    pub async fn append(&self, events: Vec<ReadingEvent>) -> Result<(), ReadingsError> {
        check_ranges(&events)?;
        writer::store(&self.inner, events, false).await.map(drop)
    }

    /// The same for events that may have come before: one whose id is kept already is left out. For
    /// each event whether it is new.
    pub async fn append_new(&self, events: Vec<ReadingEvent>) -> Result<Vec<bool>, ReadingsError> {
        check_ranges(&events)?;
        writer::store(&self.inner, events, true).await
    }

    /// Forget what has become too old since the last event. To be called now and then.
    pub async fn sweep(&self) -> Result<(), ReadingsError> {
        let mut file = self.inner.file.lock().await;
        let superfluous = self.inner.index().trim(now());
        if let Some(superfluous) = superfluous {
            file.trim(&superfluous).await?;
        }
        Ok(())
    }

    /// Change how much is kept of single sources, by device and source; what is not named is kept as
    /// [`Self::set_retention`] says. Takes effect with the next events.
    pub fn set_source_retentions(
        &self,
        retentions: HashMap<Arc<str>, HashMap<Arc<str>, SourceRetention>>,
    ) {
        self.inner.index().of_sources = retentions;
    }

    /// The newest reading of a resource of a device. From memory.
    pub fn latest(&self, device: &str, resource: &str) -> Option<Latest> {
        self.inner.index().latest(device, resource)
    }

    /// The newest reading of each resource of a device, ordered by resource. From memory.
    pub fn latest_of(&self, device: &str) -> Vec<(Arc<str>, Latest)> {
        self.inner.index().latest_of(device)
    }

    /// One event by its id.
    pub async fn event(&self, id: &str) -> Result<Option<Bytes>, ReadingsError> {
        let rows = self.rows(|index| (index.by_id(id), ()), |seq| *seq).await?;
        Ok(file::with_id(rows.0, id).map(|(_, body)| body))
    }

    /// Events that match, newest first.
    pub async fn events(&self, filter: &Filter, page: Page) -> Result<Found, ReadingsError> {
        let found = |index: &Index| {
            let (total, wanted) = index.events(filter, page);
            (wanted, total)
        };
        let (rows, wanted, total) = self.rows(found, |seq| *seq).await?;
        let bodies = wanted
            .iter()
            .filter_map(|seq| Some(rows.get(seq)?.body.clone()));
        Ok(Found {
            total,
            bodies: bodies.collect(),
        })
    }

    /// Readings that match, newest first; those of one event in the event's order.
    pub async fn readings(&self, filter: &Filter, page: Page) -> Result<Found, ReadingsError> {
        let found = |index: &Index| {
            let (total, wanted) = index.readings(filter, page);
            (wanted, total)
        };
        let (rows, wanted, total) = self.rows(found, |(seq, _)| *seq).await?;
        let bodies = wanted
            .iter()
            .filter_map(|(seq, at)| rows.get(seq)?.reading(*at));
        Ok(Found {
            total,
            bodies: bodies.collect(),
        })
    }

    /// The rows of what the index finds, what it found, and what else it says.
    async fn rows<T, U>(
        &self,
        find: impl FnOnce(&Index) -> (Vec<T>, U),
        number: impl Fn(&T) -> u64,
    ) -> Result<(HashMap<u64, Row>, Vec<T>, U), ReadingsError> {
        let mut reader = self.inner.reader.lock().await;
        let (found, more) = find(&self.inner.index());
        let numbers = found.iter().map(number);
        let rows = if found.is_empty() {
            HashMap::new()
        } else if let Some(connection) = reader.connection().await? {
            file::rows(connection, numbers).await?
        } else {
            self.inner.file.lock().await.rows(numbers).await?
        };
        Ok((rows, found, more))
    }

    /// Remove the events that match and answer how many there were. The latest readings stay.
    pub async fn delete(&self, filter: &Filter) -> Result<usize, ReadingsError> {
        let mut file = self.inner.file.lock().await;
        let gone = self.inner.index().matching(filter);
        self.remove(&mut file, &gone).await?;
        Ok(gone.len())
    }

    /// Remove one event; false if there was none.
    pub async fn delete_event(&self, id: &str) -> Result<bool, ReadingsError> {
        let mut file = self.inner.file.lock().await;
        let candidates = self.inner.index().by_id(id);
        let Some((seq, _)) = file.find(&candidates, id).await? else {
            return Ok(false);
        };
        self.remove(&mut file, &[seq]).await?;
        Ok(true)
    }

    async fn remove(&self, file: &mut File, gone: &[u64]) -> Result<(), ReadingsError> {
        let latest = self.inner.index().unsaved(gone);
        file.remove(gone, &latest).await?;
        self.inner.index().remove(gone);
        Ok(())
    }

    /// Change how much is kept; takes effect with the next events.
    pub fn set_retention(&self, retention: Retention) {
        let events = retention.events.min(EVENTS_AT_MOST);
        self.inner.index().retention = Retention {
            events,
            ..retention
        };
    }

    pub(crate) async fn close(&self) {
        self.inner.reader.lock().await.close().await;
        self.inner.file.lock().await.close().await;
    }
}

fn check_ranges(events: &[ReadingEvent]) -> Result<(), ReadingsError> {
    for event in events {
        for slice in &event.readings {
            if event.body.get(slice.range.clone()).is_none() {
                return Err(ReadingsError::Range(format!(
                    "{} of {}",
                    slice.resource, event.device
                )));
            }
        }
    }
    Ok(())
}

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
