//! The handle that everybody holds: reads go to memory, writes to the one writer.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    Codec, Expired, Extract, Key, Mark, Object, OpenError, Plain, Readings, Snapshot, Stats, Watch,
    WriteError,
    draft::Draft,
    group::Act,
    journal::{Journal, Loaded},
    lock::DirLock,
    state::State,
    stats::Counters,
    writer::{self, Request, Write},
};

/// Writes waiting for the writer; more wait for room.
const QUEUE: usize = 1024;
/// KiB of objects waiting for the writer; more wait for room.
const QUEUE_KIB: usize = 32 << 10;
/// Bytes of one object: what the API server takes as a body, after which patches may grow it a
/// little.
const OBJECT_BYTES: usize = 4 << 20;

/// What all handles, watches and the writer share.
pub(crate) struct Shared {
    state: RwLock<State>,
    pub(crate) counters: Counters,
    /// The database, where it is a file.
    path: Option<PathBuf>,
    /// Whether other servers may write to the database.
    is_shared: bool,
    /// Held until the last handle is gone.
    _lock: Option<DirLock>,
}

impl Shared {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-written.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Revisioned objects. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    extract: Extract,
    readings: Readings,
}

impl Store {
    /// Open the database at `path`, creating it and its directory if they do not exist. The
    /// directory is locked against other processes; readings go to a second file beside it.
    pub async fn open(path: &Path, extract: Extract) -> Result<Self, OpenError> {
        Self::open_with(path, extract, Arc::new(Plain)).await
    }

    /// As [`Store::open`], with objects stored as `codec` says.
    pub async fn open_with(
        path: &Path,
        extract: Extract,
        codec: Arc<dyn Codec>,
    ) -> Result<Self, OpenError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let lock = DirLock::take(dir.unwrap_or(Path::new(".")))?;
        let (journal, loaded) = Journal::open(path, extract, codec).await?;
        let readings = Readings::open(&path.with_extension("readings.db")).await?;
        let disk = Some((path.to_owned(), lock));
        Ok(Self::start(journal, loaded, disk, readings, extract))
    }

    /// Connect to a database server, which other servers may share; readings, which belong to this
    /// site, stay in a file at `readings`. The URL is that of a PostgreSQL database:
    /// `postgres://user:password@host/database`.
    pub async fn connect(
        url: &str,
        readings: &Path,
        extract: Extract,
        codec: Arc<dyn Codec>,
    ) -> Result<Self, OpenError> {
        #[cfg(feature = "postgres")]
        {
            let dir = readings.parent().filter(|dir| !dir.as_os_str().is_empty());
            let lock = DirLock::take(dir.unwrap_or(Path::new(".")))?;
            let (journal, loaded) = Journal::connect(url, extract, codec).await?;
            let disk = Some((readings.to_owned(), lock));
            let readings = Readings::open(readings).await?;
            Ok(Self::start(journal, loaded, disk, readings, extract))
        }
        #[cfg(not(feature = "postgres"))]
        {
            let _ = (url, readings, extract, codec);
            Err(OpenError::NoServers)
        }
    }

    /// A store that forgets, for tests.
    pub fn in_memory(extract: Extract) -> Self {
        let (journal, loaded) = (Journal::Nowhere, Loaded::default());
        Self::start(journal, loaded, None, Readings::in_memory(), extract)
    }

    pub(crate) fn start(
        journal: Journal,
        loaded: Loaded,
        disk: Option<(PathBuf, DirLock)>,
        readings: Readings,
        extract: Extract,
    ) -> Self {
        let (path, lock) = disk.unzip();
        let shared = Arc::new(Shared {
            state: RwLock::new(loaded.state),
            counters: Counters::default(),
            path,
            is_shared: journal.news().is_some(),
            _lock: lock,
        });
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(writer::run(shared.clone(), journal, loaded.reserved, queue));
        Self {
            shared,
            requests,
            room: Arc::new(Semaphore::new(QUEUE_KIB)),
            extract,
            readings,
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.read().get(key).cloned()
    }

    /// All objects of a resource, or those in one namespace. Costs the same however many they are:
    /// what is answered shares everything with the present until that changes.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Snapshot {
        self.shared.read().list(resource, namespace)
    }

    /// The same as it was at an earlier revision, which the log must still reach.
    pub fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Snapshot, Expired> {
        let (mut index, changes) = self.shared.read().past(resource, revision)?;
        index.undo(&changes);
        Ok(Snapshot {
            revision,
            objects: index.objects(namespace),
        })
    }

    /// Returns when what is read from here on is at least as new as anything that was acknowledged
    /// before, whichever server did it. Needs no time where this is the only one.
    pub async fn catch_up(&self) -> Result<(), WriteError> {
        if !self.shared.is_shared {
            return Ok(());
        }
        let (done, caught_up) = oneshot::channel();
        let request = Request::CatchUp(done);
        let sent = self.requests.send(request).await;
        sent.map_err(|_| WriteError::Closed)?;
        caught_up.await.map_err(|_| WriteError::Closed)?
    }

    /// The revision of the last visible write.
    pub fn revision(&self) -> u64 {
        self.shared.read().revision
    }

    /// The resources that have or had objects, with how many they have.
    pub fn resources(&self) -> Vec<(Arc<str>, usize)> {
        self.shared
            .read()
            .resources()
            .map(|(name, count)| (name.clone(), count))
            .collect()
    }

    /// Store a new object. The writer sets `metadata.resourceVersion`.
    ///
    /// When this returns, the write is on the disk. If the call is dropped instead, the write may
    /// still happen.
    pub async fn create(&self, key: Key, value: Value) -> Result<Arc<Object>, WriteError> {
        let draft = self.draft(&key, value)?;
        self.ask(Act::Create { key, draft }).await
    }

    /// Replace an object whose revision is `expected`. A value that equals what is stored is not
    /// written: the answer is the object as it is, with its old revision.
    pub async fn update(
        &self,
        key: &Key,
        expected: u64,
        value: Value,
    ) -> Result<Arc<Object>, WriteError> {
        self.replace(key, expected, value, false).await
    }

    /// Like [`Store::update`], for writes that say nothing but "still here": the renewals of leases.
    ///
    /// Everybody sees the write at once, under a revision that is never given again; but the disk
    /// hears of it only with the next other write, when the store is closed, or after five minutes.
    /// After a crash the object may be found in an earlier state of that span. Watches of the
    /// resource from before the crash are then told to list again. It spares a flash disk hundreds
    /// of writes an hour.
    pub async fn renew(
        &self,
        key: &Key,
        expected: u64,
        value: Value,
    ) -> Result<Arc<Object>, WriteError> {
        self.replace(key, expected, value, true).await
    }

    async fn replace(
        &self,
        key: &Key,
        expected: u64,
        value: Value,
        lazy: bool,
    ) -> Result<Arc<Object>, WriteError> {
        let current = self.get(key).ok_or(WriteError::NotFound)?;
        let draft = self.draft(key, value)?;
        if current.revision == expected && draft.equals(&current) {
            return Ok(current);
        }
        self.ask(Act::Update {
            key: key.clone(),
            expected,
            draft,
            lazy,
        })
        .await
    }

    /// Delete an object, if `expected` is given only at that revision. Answers the last state with
    /// the revision of the deletion.
    pub async fn delete(
        &self,
        key: &Key,
        expected: Option<u64>,
    ) -> Result<Arc<Object>, WriteError> {
        self.ask(Act::Delete {
            key: key.clone(),
            expected,
        })
        .await
    }

    /// The changes after the revision `after`, then whatever comes. Fails with [`Expired`] if the
    /// log does not reach back that far, or if `after` lies in the future.
    pub fn watch(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: u64,
    ) -> Result<Watch, Expired> {
        let checked = self.shared.read().check(resource, after);
        checked.inspect_err(|_| self.shared.counters.expired())?;
        let shared = self.shared.clone();
        Ok(Watch::new(shared, resource.into(), namespace, after))
    }

    /// The revision of the last change to a resource since the store was opened, to be compared
    /// with what was seen before: it has moved when the write that moved it is answered.
    pub fn mark(&self, resource: &str) -> Mark {
        self.shared.write().mark(&Arc::from(resource))
    }

    pub fn readings(&self) -> Readings {
        self.readings.clone()
    }

    /// What the store counts about itself.
    pub fn stats(&self) -> Stats {
        let mut stats = self.shared.counters.read();
        {
            let state = self.shared.read();
            (stats.revision, stats.resources) = (state.revision, state.stats());
        }
        if let Some(path) = &self.shared.path {
            let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
            let mut wal = path.clone().into_os_string();
            wal.push("-wal");
            (stats.file_bytes, stats.wal_bytes) = (size(path), size(Path::new(&wal)));
        }
        stats
    }

    /// Finish the writes that were begun, then leave one tidy file behind. Later writes fail with
    /// [`WriteError::Closed`]; reads go on.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
        self.readings.close().await;
    }

    fn draft(&self, key: &Key, value: Value) -> Result<Draft, WriteError> {
        let draft = Draft::new(&key.resource, &value, self.extract)?;
        if draft.len() > OBJECT_BYTES {
            return Err(WriteError::TooLarge {
                size: draft.len(),
                limit: OBJECT_BYTES,
            });
        }
        Ok(draft)
    }

    async fn ask(&self, act: Act) -> Result<Arc<Object>, WriteError> {
        let kib = u32::try_from(act.bytes() >> 10).unwrap_or(u32::MAX) + 1;
        let room = self.room.clone().acquire_many_owned(kib).await;
        let (answer, answered) = oneshot::channel();
        let request = Request::Write(Write {
            act,
            answer,
            room: room.map_err(|_| WriteError::Closed)?,
        });
        self.requests
            .send(request)
            .await
            .map_err(|_| WriteError::Closed)?;
        answered.await.map_err(|_| WriteError::Closed)?
    }
}
