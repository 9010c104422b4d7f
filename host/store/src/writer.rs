//! The one task that writes.
//!
//! Requests are taken in the order of arrival, as many as wait, and decided one after the other
//! against memory plus what earlier requests of the same group will have done. Then the group goes
//! to the disk as one statement with one fsync, then into memory, then everybody is answered: also
//! those who were refused, for what refused them may be a write of the same group. If the disk
//! fails, nothing has happened and everybody is told so.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Change, ChangeKind, Extract, Key, Object, WriteError, journal::Journal, state::Trimmed,
    store::Shared,
};

/// Writes in one transaction at most: beyond this the fsync is no longer what costs.
pub(crate) const GROUP: usize = 64;
/// Bytes of one object: what the API server takes as a body, after which patches may grow it a
/// little.
const OBJECT_BYTES: usize = 4 << 20;
/// Rows to delete that are worth a transaction of their own. Until then they wait: deleting each as
/// it falls out of the log would double the writes to the disk.
const COMPACT_ROWS: usize = 256;
/// How often a host on which nothing is written looks for changes that are too old.
const TIDY: Duration = Duration::from_secs(60);

/// What is to be written.
pub(crate) enum Act {
    Create {
        key: Key,
        value: Value,
    },
    Update {
        key: Key,
        expected: u64,
        value: Value,
    },
    Delete {
        key: Key,
        expected: Option<u64>,
    },
}

type Answer = Result<Arc<Object>, WriteError>;

pub(crate) enum Request {
    Write {
        act: Act,
        answer: oneshot::Sender<Answer>,
    },
    Close(oneshot::Sender<()>),
}

/// Serve requests until all handles are dropped or one of them closes the store.
pub(crate) async fn run(
    shared: Arc<Shared>,
    journal: Journal,
    extract: Extract,
    mut queue: mpsc::Receiver<Request>,
) {
    let mut writer = Writer {
        shared,
        journal,
        extract,
        trimmed: Trimmed::default(),
    };
    let mut waiting = Vec::with_capacity(GROUP);
    loop {
        match tokio::time::timeout(TIDY, queue.recv_many(&mut waiting, GROUP)).await {
            Ok(0) => break,
            Ok(_) => {
                if let Some(done) = writer.serve(&mut waiting).await {
                    queue.close();
                    writer.end().await;
                    let _ = done.send(());
                    return;
                }
            }
            Err(_) => writer.tidy().await,
        }
    }
    writer.end().await;
}

struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    extract: Extract,
    /// Not yet deleted on disk.
    trimmed: Trimmed,
}

impl Writer {
    /// Handle all waiting requests; answers whom to tell when the store is closed.
    async fn serve(&mut self, waiting: &mut Vec<Request>) -> Option<oneshot::Sender<()>> {
        let mut close = None;
        let mut decided = Vec::with_capacity(waiting.len());
        let mut group = Group::new(&self.shared, self.extract);
        for request in waiting.drain(..) {
            match request {
                Request::Write { answer, .. } if close.is_some() => {
                    decided.push((answer, Err(WriteError::Closed)));
                }
                Request::Write { act, answer } => decided.push((answer, group.decide(act))),
                Request::Close(done) => close = Some(done),
            }
        }
        let changes = group.changes;
        match self.journal.append(&changes).await {
            Ok(()) => {
                self.publish(changes);
                for (answer, result) in decided {
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                tracing::error!(error, writes = changes.len(), "objects could not be stored");
                let error = WriteError::Storage(error.into());
                for (answer, _) in decided {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
        self.tidy().await;
        close
    }

    fn publish(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut wakers = BTreeMap::new();
        let mut state = self.shared.write();
        for change in changes {
            let resource = change.object.key.resource.clone();
            wakers.insert(resource, change.object.revision);
            state.apply(change, now);
        }
        let wakers: Vec<_> = wakers
            .into_iter()
            .map(|(name, revision)| (state.waker(&name), revision))
            .collect();
        drop(state);
        for (waker, revision) in wakers {
            waker.send_replace(revision);
        }
    }

    /// Trim the logs in memory, and on disk once it is worth it.
    async fn tidy(&mut self) {
        let Trimmed {
            revisions,
            horizons,
        } = self.shared.write().trim(Instant::now());
        self.trimmed.revisions.extend(revisions);
        self.trimmed.horizons.extend(horizons);
        if self.trimmed.revisions.len() >= COMPACT_ROWS {
            self.compact().await;
        }
    }

    async fn compact(&mut self) {
        match self.journal.compact(&self.trimmed).await {
            Ok(()) => self.trimmed = Trimmed::default(),
            // They stay on the list. A restart would find them again, too.
            Err(error) => tracing::warn!(error, "the database could not be compacted"),
        }
    }

    async fn end(mut self) {
        if !self.trimmed.horizons.is_empty() {
            self.compact().await;
        }
        self.journal.close().await;
    }
}

/// The writes of one transaction, while they are decided.
struct Group<'a> {
    shared: &'a Shared,
    extract: Extract,
    revision: u64,
    /// What the writes so far will have made of these keys; `None` is deleted.
    pending: HashMap<Key, Option<Arc<Object>>>,
    changes: Vec<Change>,
}

impl<'a> Group<'a> {
    fn new(shared: &'a Shared, extract: Extract) -> Self {
        let revision = shared.read().revision;
        Self {
            shared,
            extract,
            revision,
            pending: HashMap::new(),
            changes: Vec::new(),
        }
    }

    fn decide(&mut self, act: Act) -> Answer {
        match act {
            Act::Create { key, value } => match self.current(&key) {
                Some(current) => Err(WriteError::Exists(current)),
                None => self.store(ChangeKind::Added, key, value, None),
            },
            Act::Update {
                key,
                expected,
                value,
            } => {
                let current = self.expect(&key, Some(expected))?;
                self.store(
                    ChangeKind::Modified,
                    current.key.clone(),
                    value,
                    Some(current),
                )
            }
            Act::Delete { key, expected } => {
                let current = self.expect(&key, expected)?;
                let value = serde_json::from_slice(&current.json)
                    .map_err(|error| WriteError::Storage(error.to_string().into()))?;
                self.store(
                    ChangeKind::Deleted,
                    current.key.clone(),
                    value,
                    Some(current),
                )
            }
        }
    }

    fn current(&self, key: &Key) -> Option<Arc<Object>> {
        match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.shared.read().get(key).cloned(),
        }
    }

    fn expect(&self, key: &Key, expected: Option<u64>) -> Answer {
        let current = self.current(key).ok_or(WriteError::NotFound)?;
        if expected.is_some_and(|expected| expected != current.revision) {
            return Err(WriteError::Conflict { current });
        }
        Ok(current)
    }

    fn store(
        &mut self,
        kind: ChangeKind,
        mut key: Key,
        mut value: Value,
        previous: Option<Arc<Object>>,
    ) -> Answer {
        key.resource = self.shared.read().intern(&key.resource);
        let revision = self.revision + 1;
        let json = stamp(&mut value, revision)?;
        if json.len() > OBJECT_BYTES {
            return Err(WriteError::TooLarge {
                size: json.len(),
                limit: OBJECT_BYTES,
            });
        }
        let object = Arc::new(object(key.clone(), revision, json, &value, self.extract));
        self.revision = revision;
        let now = (kind != ChangeKind::Deleted).then(|| object.clone());
        self.pending.insert(key, now);
        self.changes.push(Change {
            kind,
            object: object.clone(),
            previous,
        });
        Ok(object)
    }
}

/// Write the revision into the value and serialise it.
pub(crate) fn stamp(value: &mut Value, revision: u64) -> Result<Bytes, WriteError> {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or(WriteError::Malformed)?;
    metadata.insert(
        "resourceVersion".to_owned(),
        Value::String(revision.to_string()),
    );
    let json = serde_json::to_vec(value).map_err(|_| WriteError::Malformed)?;
    Ok(json.into())
}

/// An object of its parts, with what selectors need taken from `value`.
pub(crate) fn object(
    key: Key,
    revision: u64,
    json: Bytes,
    value: &Value,
    extract: Extract,
) -> Object {
    let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let labels =
        labels.filter_map(|(name, value)| Some((name.as_str().into(), value.as_str()?.into())));
    let labels = labels.collect();
    let fields = extract(&key.resource, value);
    Object {
        key,
        revision,
        json,
        labels,
        fields,
    }
}
