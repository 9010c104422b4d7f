//! The handle that everybody holds: reads go to memory, writes to the one writer.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Codec, Expired, Extract, Key, Object, OpenError, Plain, Readings, Snapshot, Watch, WriteError,
    journal::Journal,
    lock::DirLock,
    state::State,
    writer::{self, Act, Request},
};

/// Writes waiting for the writer; more wait for room.
const QUEUE: usize = 1024;

/// What all handles, watches and the writer share.
pub(crate) struct Shared {
    state: RwLock<State>,
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
        let (journal, state) = Journal::open(path, extract, codec).await?;
        let readings = Readings::open(&path.with_extension("readings.db")).await?;
        Ok(Self::start(journal, state, Some(lock), readings, extract))
    }

    /// A store that forgets, for tests.
    pub fn in_memory(extract: Extract) -> Self {
        Self::start(
            Journal::Nowhere,
            State::new(0),
            None,
            Readings::in_memory(),
            extract,
        )
    }

    pub(crate) fn start(
        journal: Journal,
        state: State,
        lock: Option<DirLock>,
        readings: Readings,
        extract: Extract,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            _lock: lock,
        });
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(writer::run(shared.clone(), journal, extract, queue));
        Self {
            shared,
            requests,
            readings,
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.read().get(key).cloned()
    }

    /// All objects of a resource, or those in one namespace.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> Snapshot {
        self.shared.read().list(resource, namespace)
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
        self.ask(Act::Create { key, value }).await
    }

    /// Replace an object whose revision is `expected`. A value that equals what is stored is not
    /// written: the answer is the object as it is, with its old revision.
    pub async fn update(
        &self,
        key: &Key,
        expected: u64,
        mut value: Value,
    ) -> Result<Arc<Object>, WriteError> {
        let current = self.get(key).ok_or(WriteError::NotFound)?;
        if current.revision == expected && writer::stamp(&mut value, expected)? == current.json {
            return Ok(current);
        }
        self.ask(Act::Update {
            key: key.clone(),
            expected,
            value,
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
        let name: Arc<str> = Arc::from(resource);
        let mut state = self.shared.write();
        if after < state.horizon(resource) || after > state.revision {
            return Err(Expired {
                asked: after,
                oldest: state.horizon(resource),
            });
        }
        let wake = state.waker(&name).subscribe();
        Ok(Watch::new(
            self.shared.clone(),
            name,
            namespace,
            wake,
            after,
        ))
    }

    /// The revision of the last change to a resource since the store was opened, to be compared
    /// with what was seen before: it has moved when the write that moved it is answered.
    pub fn mark(&self, resource: &str) -> watch::Receiver<u64> {
        let name: Arc<str> = Arc::from(resource);
        self.shared.write().waker(&name).subscribe()
    }

    pub fn readings(&self) -> Readings {
        self.readings.clone()
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

    async fn ask(&self, act: Act) -> Result<Arc<Object>, WriteError> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Write { act, answer };
        self.requests
            .send(request)
            .await
            .map_err(|_| WriteError::Closed)?;
        answered.await.map_err(|_| WriteError::Closed)?
    }
}
