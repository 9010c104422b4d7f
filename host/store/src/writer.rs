//! The one task that writes.
//!
//! Requests are taken in the order of arrival, as many as wait, and decided one after the other.
//! Then the group goes to the disk as one statement with one fsync, then into memory, then
//! everybody is answered: also those who were refused, for what refused them may be a write of the
//! same group. If the disk fails, nothing has happened and everybody is told so.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::{
    Change, Key, WriteError,
    group::{Act, Answer, Group},
    herald::Herald,
    journal::{AppendError, Batch, Found, Journal, News},
    state::Trimmed,
    store::Shared,
};

/// Writes in one transaction at most: beyond this the fsync is no longer what costs.
pub(crate) const GROUP: usize = 64;
/// Bytes of objects in one transaction at most, or one object: what a transaction adds to the
/// write-ahead log at once.
const GROUP_BYTES: usize = 8 << 20;
/// Rows to delete that are worth the pages that change. Until then they wait; then they go with
/// the next write, in its transaction.
const COMPACT_ROWS: usize = 256;
/// Rows deleted in one transaction at most, so that no write waits long for it.
const COMPACT_ROWS_AT_ONCE: usize = 1024;
/// How often a host on which nothing is written looks for changes that are too old.
const TIDY: Duration = Duration::from_secs(60);
/// How long renewals may stay unwritten. What a power cut takes of them their owners say again
/// within seconds of the next start.
const LAZY: Duration = Duration::from_secs(5 * 60);
/// Keys whose renewals may stay unwritten at once.
const LAZY_KEYS: usize = 1024;
/// Revisions set aside on disk for renewals: a start after a crash goes on beyond them, so that no
/// revision is given twice.
const RESERVE: u64 = 10_000;
/// How often a group is decided again because another server was faster: each time somebody gets
/// on, so that failing so often takes a crowd.
const ATTEMPTS: usize = 32;

/// Pause before what others wrote is read again, after it could not be.
const AGAIN: Duration = Duration::from_millis(500);

/// The wakers of the resources that changed, with their latest revisions.
type Wakers = BTreeMap<Arc<str>, (watch::Sender<u64>, u64)>;

pub(crate) struct Write {
    pub(crate) act: Act,
    pub(crate) answer: oneshot::Sender<Answer>,
    /// The room that it takes among what waits.
    pub(crate) room: OwnedSemaphorePermit,
}

pub(crate) enum Request {
    Write(Write),
    /// Look for what other servers wrote, and answer when it is in memory.
    CatchUp(oneshot::Sender<Result<(), WriteError>>),
    Close(oneshot::Sender<()>),
}

/// Serve requests until all handles are dropped or one of them closes the store.
pub(crate) async fn run(
    shared: Arc<Shared>,
    journal: Journal,
    reserved: BTreeMap<Arc<str>, u64>,
    mut queue: mpsc::Receiver<Request>,
) {
    let mut writer = Writer {
        shared,
        journal,
        herald: Herald::start(),
        trimmed: Trimmed::default(),
        compacted: false,
        unwritten: BTreeMap::new(),
        unwritten_since: None,
        reserved,
    };
    let news = writer.journal.news();
    let others = async || match &news {
        Some(news) => news.notified().await,
        None => std::future::pending().await,
    };
    let mut waiting = VecDeque::with_capacity(GROUP);
    let mut arrived = Vec::with_capacity(GROUP);
    // Others told that they wrote, and what could not be read. They may not tell again.
    let mut missed = false;
    loop {
        if waiting.is_empty() {
            tokio::select! {
                count = queue.recv_many(&mut arrived, GROUP) => match count {
                    0 => break,
                    _ => waiting.extend(arrived.drain(..)),
                },
                () = others() => {
                    missed = writer.catch_up().await.is_err();
                    continue;
                }
                () = tokio::time::sleep(AGAIN), if missed => {
                    missed = writer.catch_up().await.is_err();
                    continue;
                }
                () = tokio::time::sleep(TIDY) => {
                    writer.tidy().await;
                    continue;
                }
            }
        }
        let (writes, then) = take(&mut waiting);
        writer.serve(writes).await;
        match then {
            None => {}
            Some(Then::CatchUp(done)) => {
                let _ = done.send(writer.catch_up().await);
            }
            Some(Then::Close(done)) => {
                queue.close();
                writer.end().await;
                let _ = done.send(());
                return;
            }
        }
    }
    writer.end().await;
}

/// What comes after a group of writes.
enum Then {
    CatchUp(oneshot::Sender<Result<(), WriteError>>),
    Close(oneshot::Sender<()>),
}

/// As many of the waiting writes as go into one transaction, and what comes after them.
fn take(waiting: &mut VecDeque<Request>) -> (Vec<Write>, Option<Then>) {
    let mut writes = Vec::with_capacity(waiting.len());
    let mut bytes = 0;
    while let Some(request) = waiting.pop_front() {
        match request {
            Request::Close(done) => return (writes, Some(Then::Close(done))),
            Request::CatchUp(done) => return (writes, Some(Then::CatchUp(done))),
            Request::Write(write) => {
                bytes += write.room.num_permits() << 10;
                if bytes > GROUP_BYTES && !writes.is_empty() {
                    waiting.push_front(Request::Write(write));
                    break;
                }
                writes.push(write);
            }
        }
    }
    (writes, None)
}

struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    herald: Herald,
    /// Not yet deleted on disk.
    trimmed: Trimmed,
    /// Rows were deleted, so that there may be free space to give back.
    compacted: bool,
    /// The last states of renewed objects that the disk does not know yet.
    unwritten: BTreeMap<Key, Change>,
    unwritten_since: Option<Instant>,
    /// For each resource with renewals, the revision up to which they may go unwritten.
    reserved: BTreeMap<Arc<str>, u64>,
}

impl Writer {
    async fn serve(&mut self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        match self.write(&writes).await {
            Ok((answers, news)) => {
                for (write, answer) in writes.into_iter().zip(answers) {
                    let _ = write.answer.send(answer);
                }
                self.wake(news);
            }
            Err(error) => {
                for write in writes {
                    let _ = write.answer.send(Err(error.clone()));
                }
            }
        }
        self.trim();
        if std::mem::take(&mut self.compacted) {
            self.journal.tidy().await;
        }
    }

    /// Decide and store a group; answers what each is to be told, and who is to be woken.
    async fn write(&mut self, writes: &[Write]) -> Result<(Vec<Answer>, Wakers), WriteError> {
        for _ in 0..ATTEMPTS {
            let mut group = Group::new(&self.shared);
            let acts = writes.iter().map(|write| &write.act);
            let answers: Vec<Answer> = acts.map(|act| group.decide(act)).collect();
            let (changes, lazy, renewed) = (group.changes, group.lazy, group.renewed);
            if changes.is_empty() || (lazy && self.may_wait(&changes)) {
                self.remember(&changes);
                return Ok((answers, self.publish(changes)));
            }
            match self.append(&changes, &renewed, COMPACT_ROWS).await {
                Ok(()) => return Ok((answers, self.publish(changes))),
                Err(AppendError::Behind) => self.catch_up().await?,
                Err(error @ AppendError::Unknown(_)) => {
                    self.catch_up().await?;
                    let state = self.shared.read();
                    if !changes.iter().all(|change| state.has(change)) {
                        return Err(error.into());
                    }
                    // It was stored, and has just been read back.
                    return Ok((answers, Wakers::new()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Storage(
            "other servers were faster each time".into(),
        ))
    }

    /// Take what other servers wrote into memory.
    async fn catch_up(&mut self) -> Result<(), WriteError> {
        let known = self.shared.read().revision;
        let wakers = match self.journal.catch_up(known).await {
            Ok(News::Changes(found)) => self.take_in(found),
            Ok(News::Everything(loaded)) => {
                self.trimmed = Trimmed::default();
                let revision = loaded.state.revision;
                let all = self.shared.write().replace(loaded.state).into_iter();
                all.map(|(name, waker)| (name, (waker, revision))).collect()
            }
            Err(error) => {
                tracing::error!(%error, "what other servers wrote could not be read");
                return Err(error.into());
            }
        };
        self.wake(wakers);
        Ok(())
    }

    fn take_in(&self, found: Vec<Found>) -> Wakers {
        let now = Instant::now();
        let mut wakers = Wakers::new();
        let mut state = self.shared.write();
        for Found { kind, object } in found {
            let (resource, revision) = (object.key.resource.clone(), object.revision);
            let change = Change {
                kind,
                previous: state.get(&object.key).cloned(),
                object: Arc::new(object),
            };
            wakers.insert(resource, (state.apply(change, now), revision));
        }
        wakers
    }

    fn wake(&self, wakers: Wakers) {
        for (resource, (waker, revision)) in wakers {
            self.herald.wake(resource, waker, revision);
        }
    }

    /// Whether these renewals may stay unwritten for now.
    fn may_wait(&self, changes: &[Change]) -> bool {
        self.journal.may_lag()
            && self.unwritten.len() + changes.len() <= LAZY_KEYS
            && self
                .unwritten_since
                .is_none_or(|since| since.elapsed() < LAZY)
            && changes.iter().all(|Change { object, .. }| {
                let reserved = self.reserved.get(&object.key.resource);
                reserved.is_some_and(|reserved| object.revision <= *reserved)
            })
    }

    fn remember(&mut self, changes: &[Change]) {
        for change in changes {
            let key = change.object.key.clone();
            self.unwritten.insert(key, change.clone());
        }
        if !changes.is_empty() {
            self.unwritten_since.get_or_insert_with(Instant::now);
        }
    }

    /// Store the changes together with what else is due, or none of it. Superfluous rows are
    /// deleted if there are at least `worth`.
    async fn append(
        &mut self,
        changes: &[Change],
        renewed: &[Arc<str>],
        worth: usize,
    ) -> Result<(), AppendError> {
        let compact = (self.trimmed.revisions.len() >= worth)
            .then(|| self.trimmed.first(COMPACT_ROWS_AT_ONCE));
        let reserve = self.reserve(changes, renewed);
        let mut batch = Batch {
            known: self.shared.read().revision,
            changes: together(&self.unwritten, changes),
            compact: compact.as_ref(),
            reserve: &reserve,
        };
        if batch.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let mut stored = self.journal.append(&batch).await;
        if let (Err(AppendError::Failed(error)), Some(_)) = (&stored, &compact) {
            // Damage where old rows are must not keep new ones from being written.
            tracing::warn!(error, "the database could not be compacted");
            batch.compact = None;
            stored = self.journal.append(&batch).await;
        }
        let (writes, compacted) = (batch.changes.len(), batch.compacted());
        let counters = &self.shared.counters;
        match stored {
            Ok(()) => {
                counters.stored(writes, begun.elapsed());
                counters.compacted(compacted);
                self.compacted |= compacted > 0;
                self.trimmed.revisions.drain(..compacted);
                self.unwritten.clear();
                self.unwritten_since = None;
                self.reserved.extend(reserve);
                Ok(())
            }
            Err(AppendError::Behind) => Err(AppendError::Behind),
            Err(error) => {
                counters.failed(matches!(error, AppendError::Full(_)));
                tracing::error!(%error, writes, "objects could not be stored");
                Err(error)
            }
        }
    }

    /// The revisions to set aside from now on, where what was set aside runs out.
    fn reserve(&self, changes: &[Change], renewed: &[Arc<str>]) -> BTreeMap<Arc<str>, u64> {
        if !self.journal.may_lag() {
            return BTreeMap::new();
        }
        let last = changes.last().map(|change| change.object.revision);
        let last = last.unwrap_or_else(|| self.shared.read().revision);
        let names = self.reserved.keys().chain(renewed).cloned();
        names
            .filter(|name| {
                let reserved = self.reserved.get(name);
                reserved.is_none_or(|reserved| *reserved < last + RESERVE / 2)
            })
            .map(|name| (name, last + RESERVE))
            .collect()
    }

    /// Put the changes into memory; answers who is to be woken.
    fn publish(&self, changes: Vec<Change>) -> Wakers {
        let now = Instant::now();
        let mut news = Wakers::new();
        let mut state = self.shared.write();
        for change in changes {
            let (resource, revision) = (change.object.key.resource.clone(), change.object.revision);
            let waker = state.apply(change, now);
            news.insert(resource, (waker, revision));
        }
        news
    }

    /// Cut the logs in memory to their limits.
    fn trim(&mut self) {
        let gone = self.shared.write().trim(Instant::now(), &mut self.trimmed);
        // Freed only now, when nobody waits for the lock.
        drop(gone);
    }

    /// What is to be done although nobody writes.
    async fn tidy(&mut self) {
        self.trim();
        let overdue = self
            .unwritten_since
            .is_some_and(|since| since.elapsed() >= LAZY);
        if overdue || self.trimmed.revisions.len() >= COMPACT_ROWS {
            let _ = self.append(&[], &[], COMPACT_ROWS).await;
        }
        self.journal.tidy().await;
    }

    async fn end(mut self) {
        // What is reserved for renewals was either used and is written now, or never will be.
        let revision = self.shared.read().revision;
        let reserve: BTreeMap<_, _> = self
            .reserved
            .keys()
            .map(|name| (name.clone(), revision))
            .collect();
        let batch = Batch {
            known: revision,
            changes: together(&self.unwritten, &[]),
            compact: (!self.trimmed.horizons.is_empty()).then_some(&self.trimmed),
            reserve: &reserve,
        };
        if !batch.is_empty()
            && let Err(error) = self.journal.append(&batch).await
        {
            tracing::warn!(%error, "the last renewals could not be stored");
        }
        self.journal.close().await;
    }
}

/// The changes with the renewals that wait, unless there is a later state of the same object.
fn together<'a>(unwritten: &'a BTreeMap<Key, Change>, changes: &'a [Change]) -> Vec<&'a Change> {
    if unwritten.is_empty() {
        return changes.iter().collect();
    }
    let later: HashSet<&Key> = changes.iter().map(|change| &change.object.key).collect();
    let waiting = unwritten.iter().filter(|(key, _)| !later.contains(key));
    waiting.map(|(_, change)| change).chain(changes).collect()
}
