//! All queues of one pipeline, what its steps remember, and its letters: what survives an edit of the
//! pipeline and an end of the host.
//!
//! What is promised:
//!
//! - **At least once.** An item leaves its queue when what became of it is in the next queues, or the
//!   destination has it. Both are changed under one lock and saved in one transaction, so a pipeline
//!   that is stopped or killed at any instant goes on from a state that was: what steps made of an
//!   item is in the queues of the exporters if and only if the item is gone from theirs, and what
//!   steps remember is as of that instant. Only what was on its way to a destination may come twice.
//! - **Order.** Queues are in order, and one batch at a time goes through. So it is per device.
//! - **Acknowledged is saved.** [`Stock::safe`] returns when all that was taken in before is on the disk
//!   (fsync) or delivered. Who can hold back an acknowledgement waits for it: events posted over REST,
//!   pushed over HTTP, and those of an external broker with quality of service 1. Those that the
//!   host's own drivers read have nobody to acknowledge them to: they are saved within two ticks of
//!   [`super::depot`], some 40 ms, if they are not delivered by then.
//! - **A file that cannot be read** is waited for ([`Stock::opened`]): until then nothing leaves a queue,
//!   since what is in the file comes before, and nothing is acknowledged. What has no acknowledgement
//!   waits in memory, within bounds.
//! - **A full or broken disk** stops nothing: items go through memory, up to a bound, beyond which they
//!   are discarded as the policy says, and counted; the status says so. What was saved before stays,
//!   and what is acknowledged is saved even then: others wait.

mod draft;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use eyot_runtime::guest::Item;
use eyot_store::{NewLetter, Spool, SpoolError};
use tokio::sync::{Notify, broadcast, watch};

use super::{
    codec,
    lane::{Discard, Entry, Lane, Limits, Next, Pushed},
};
use crate::clock;

pub(super) use self::draft::Due;

/// The queue before the first step: every pipeline has it.
pub(super) const SOURCE: &str = "source";
/// Letters that wait for the disk at most; the oldest go first.
const LETTERS: usize = 1000;
/// Lines that wait for one watcher at most; a slow one misses some, and is told.
const WATCHED: usize = 4096;
/// How long to wait until the disk is read again.
const REREAD: Duration = Duration::from_secs(1);

/// Counted since the host started.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub received: AtomicI64,
    pub delivered: AtomicI64,
    pub dropped: AtomicI64,
    pub failed: AtomicI64,
    /// Of the batches delivered last, in milliseconds.
    pub latency: AtomicI64,
}

/// Wakes the saver.
#[derive(Debug, Default)]
pub(super) struct Bell {
    pub dirty: Notify,
    pub urgent: Notify,
}

#[derive(Debug)]
pub(super) struct Stock {
    /// UID of the Pipeline.
    pipeline: String,
    state: Mutex<State>,
    spool: Arc<Spool>,
    bell: Arc<Bell>,
    pub counts: Counts,
    /// What was taken in up to this version is safe.
    committed: watch::Sender<u64>,
    /// Lines of JSON about what passes, for those who watch.
    passing: broadcast::Sender<Arc<str>>,
}

#[derive(Debug, Default)]
struct State {
    /// What the file has is here. Before, nothing is saved.
    is_open: bool,
    /// [`SOURCE`] first.
    slots: Vec<Slot>,
    /// Slots that there ever were.
    made: u64,
    letters: Vec<NewLetter>,
    /// What steps remember, by stage and key.
    memory: BTreeMap<(String, String), Remembered>,
    /// Queues whose stage is gone.
    removed: Vec<i64>,
    version: u64,
    fault: Option<SpoolError>,
}

#[derive(Debug)]
struct Slot {
    /// Never used again: a queue may go and come back under its name while it is being saved.
    id: u64,
    lane: Lane,
    arrived: Arc<Notify>,
    room: Arc<Notify>,
}

#[derive(Debug)]
struct Remembered {
    body: Bytes,
    saved: bool,
}

/// Items at the front of a queue.
#[derive(Debug)]
pub(super) struct Batch {
    pub items: Vec<Item>,
    /// When the first of them came, in milliseconds since 1970.
    pub at: u64,
    /// Number of the item after the last.
    pub end: u64,
}

/// What became of a batch that went through steps.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub letters: Vec<Aside>,
    /// What steps remember now, by stage and key; empty is nothing.
    pub memory: Vec<((String, String), Bytes)>,
}

impl Outcome {
    pub(super) fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.memory.is_empty()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.letters.extend(other.letters);
        self.memory.extend(other.memory);
    }
}

/// An item that never will pass, and why.
#[derive(Debug, Clone)]
pub(super) struct Aside {
    pub stage: String,
    pub reason: String,
    pub item: Item,
}

impl Stock {
    pub(super) fn new(pipeline: &str, source: Limits, spool: Arc<Spool>, bell: Arc<Bell>) -> Self {
        let mut state = State::default();
        state.add(Lane::new(SOURCE, source));
        Self {
            pipeline: pipeline.to_owned(),
            state: Mutex::new(state),
            spool,
            bell,
            counts: Counts::default(),
            committed: watch::Sender::new(0),
            passing: broadcast::Sender::new(WATCHED),
        }
    }

    /// Begin with what the file has: what has come since waits behind it.
    pub(super) async fn open(&self) -> Result<(), SpoolError> {
        let found = async {
            let queues = self.spool.queues(&self.pipeline).await?;
            Ok::<_, SpoolError>((queues, self.spool.states(&self.pipeline).await?))
        };
        let (queues, memory) = match found.await {
            Ok(found) => found,
            Err(error) => {
                self.state().fault = Some(error.clone());
                return Err(error);
            }
        };
        let mut state = self.state();
        if state.is_open {
            return Ok(());
        }
        let source = state.slots.first().map(|slot| slot.lane.limits);
        for queue in queues {
            match state.slot(&queue.name) {
                Some(slot) => slot.lane.restore(queue),
                None => {
                    // The plan has its own, which it gets with its stage.
                    let limits = source.unwrap_or_else(super::config::usual_limits);
                    let mut lane = Lane::new(&queue.name, limits);
                    lane.restore(queue);
                    state.add(lane);
                }
            }
        }
        let saved = |body| Remembered { body, saved: true };
        state.memory = memory
            .into_iter()
            .map(|(key, body)| (key, saved(body)))
            .collect();
        state.is_open = true;
        state.fault = None;
        drop(state);
        self.bell.dirty.notify_one();
        Ok(())
    }

    /// Wait until the file has been read.
    pub(super) async fn opened(&self) {
        while !self.state().is_open {
            tokio::time::sleep(REREAD).await;
            if let Err(error) = self.open().await {
                tracing::debug!(pipeline = self.pipeline, %error, "still not readable");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have exactly these queues, and what these steps remember. What was in other queues is lost:
    /// which, and how many items.
    pub(super) fn reconcile(
        &self,
        wanted: &[(String, Limits)],
        steps: &[&str],
    ) -> Vec<(String, u64)> {
        let mut state = self.state();
        for ((step, _), known) in &mut state.memory {
            if !steps.contains(&step.as_str()) {
                let (body, saved) = (Bytes::new(), false);
                *known = Remembered { body, saved };
            }
        }
        let mut lost = Vec::new();
        let State { slots, removed, .. } = &mut *state;
        slots.retain(|slot| {
            let keep = wanted.iter().any(|(name, _)| *name == slot.lane.name);
            if !keep {
                if slot.lane.len() > 0 {
                    lost.push((slot.lane.name.clone(), slot.lane.len()));
                }
                removed.extend(slot.lane.disk);
            }
            keep
        });
        for (name, limits) in wanted {
            match state.slot(name) {
                Some(slot) => slot.lane.limits = *limits,
                None => state.add(Lane::new(name, *limits)),
            }
        }
        let dropped = lost.iter().map(|(_, count)| count).sum();
        drop(state);
        self.dropped(dropped);
        self.bell.dirty.notify_one();
        lost
    }

    /// Take an event in, or not: how many items were lost over it. Never waits.
    pub(super) fn offer(&self, item: &Item) -> u64 {
        match self.try_offer(item) {
            Ok(dropped) => dropped,
            Err(dropped) => {
                self.dropped(1);
                dropped + 1
            }
        }
    }

    fn try_offer(&self, item: &Item) -> Result<u64, u64> {
        let now = now();
        let mut state = self.state();
        let Some(slot) = state.slots.first_mut() else {
            return Err(0);
        };
        let pushed = slot.lane.push(Entry::new(now, item.clone()), now);
        let arrived = slot.arrived.clone();
        state.version += 1;
        drop(state);
        let (taken, dropped) = match pushed {
            Pushed::Taken { dropped } => (true, dropped),
            Pushed::Refused { dropped } => (false, dropped),
        };
        self.dropped(dropped);
        if !taken {
            return Err(dropped);
        }
        self.counts.received.fetch_add(1, Ordering::Relaxed);
        arrived.notify_one();
        self.bell.dirty.notify_one();
        Ok(dropped)
    }

    /// Be told what passes from now on.
    pub(super) fn watch(&self) -> broadcast::Receiver<Arc<str>> {
        self.passing.subscribe()
    }

    /// Tell those who watch what became of items.
    pub(super) fn tell(&self, stage: &str, what: &str, items: &[Item]) {
        if self.passing.receiver_count() == 0 {
            return;
        }
        for item in items {
            let mut line = super::door::item(item);
            line["stage"] = stage.into();
            line["what"] = what.into();
            let _ = self.passing.send(line.to_string().into());
        }
    }

    /// Take items in, waiting for room if none are to be discarded, and return when they are safe. To be
    /// given up by whoever has waited long enough.
    pub(super) async fn take(&self, items: &[Item]) {
        for item in items {
            self.take_in(item).await;
        }
        let version = self.version();
        self.safe(version).await;
    }

    /// Take an event in, waiting for room if none is to be discarded.
    pub(super) async fn take_in(&self, item: &Item) {
        loop {
            let room = {
                let state = self.state();
                let Some(slot) = state.slots.first() else {
                    return;
                };
                slot.room.clone()
            };
            let mut waiting = std::pin::pin!(room.notified());
            waiting.as_mut().enable();
            let waits = {
                let state = self.state();
                let waits = |slot: &Slot| slot.lane.limits.discard == Discard::Nothing;
                state.slots.first().is_some_and(waits)
            };
            match (self.try_offer(item), waits) {
                (Ok(_), _) => break,
                (Err(_), true) => waiting.await,
                (Err(_), false) => {
                    self.dropped(1);
                    break;
                }
            }
        }
    }

    /// What has been taken in so far.
    pub(super) fn version(&self) -> u64 {
        self.state().version
    }

    /// Wait until what was taken in up to `version` is on the disk or delivered.
    pub(super) async fn safe(&self, version: u64) {
        let mut committed = self.committed.subscribe();
        self.bell.urgent.notify_one();
        // Fails when the stock is gone, and with it the pipeline.
        let _ = committed.wait_for(|committed| *committed >= version).await;
    }

    fn dropped(&self, count: u64) {
        if count > 0 {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.counts.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Look at up to `most` items at the front of a queue; waits for the first, and `linger` for more.
    pub(super) async fn batch(&self, lane: &str, most: usize, linger: Duration) -> Batch {
        let mut lingered = linger.is_zero();
        loop {
            let arrived = match self.arrived(lane) {
                Some(arrived) => arrived,
                None => std::future::pending().await,
            };
            let mut waiting = std::pin::pin!(arrived.notified());
            waiting.as_mut().enable();
            let (next, disk) = {
                let mut state = self.state();
                let Some(slot) = state.slot(lane) else {
                    continue;
                };
                let ((next, dropped), disk) = (slot.lane.next(most, now()), slot.lane.disk);
                drop(state);
                self.dropped(dropped);
                (next, disk)
            };
            match (next, disk) {
                (Next::Items { entries, end }, _) => {
                    if !lingered && entries.len() < most {
                        lingered = true;
                        tokio::time::sleep(linger).await;
                        continue;
                    }
                    return Batch {
                        at: entries.first().map_or(0, |entry| entry.at),
                        items: entries.into_iter().map(|entry| entry.item).collect(),
                        end,
                    };
                }
                (Next::Read(first), Some(disk)) => self.read(lane, disk, first).await,
                // A queue that has parts has a number.
                (Next::Read(_), None) | (Next::Nothing, _) => waiting.await,
            }
        }
    }

    fn arrived(&self, lane: &str) -> Option<Arc<Notify>> {
        Some(self.state().slot(lane)?.arrived.clone())
    }

    /// Bring a part back into memory.
    async fn read(&self, lane: &str, disk: i64, first: u64) {
        let decoded = match self.spool.body(disk, first).await {
            Ok(Some(body)) => codec::decode(&body),
            Ok(None) => Err("it is not there".to_owned()),
            Err(error) => {
                tracing::warn!(pipeline = self.pipeline, lane, %error, "saved items cannot be read; trying again");
                tokio::time::sleep(REREAD).await;
                return;
            }
        };
        let mut state = self.state();
        let Some(slot) = state.slot(lane) else { return };
        let lost = match decoded {
            Ok(entries) => slot.lane.read(first, entries),
            Err(reason) => {
                tracing::error!(
                    pipeline = self.pipeline,
                    lane,
                    reason,
                    "saved items are given up"
                );
                slot.lane.unreadable(first)
            }
        };
        drop(state);
        let lost = i64::try_from(lost).unwrap_or(i64::MAX);
        self.counts.failed.fetch_add(lost, Ordering::Relaxed);
    }

    /// Wait until each of these queues has room, as far as they let somebody wait.
    pub(super) async fn room(&self, lanes: &[String]) {
        for lane in lanes {
            loop {
                let Some(room) = self.state().slot(lane).map(|slot| slot.room.clone()) else {
                    break;
                };
                let mut waiting = std::pin::pin!(room.notified());
                waiting.as_mut().enable();
                let full = self.state().slot(lane).is_some_and(|slot| {
                    slot.lane.limits.discard == Discard::Nothing && !slot.lane.has_room()
                });
                if !full {
                    break;
                }
                waiting.await;
            }
        }
    }

    /// A batch of `lane` has gone through: it is done with, and what came of it waits in `outlets`, in
    /// one step. Answers how many items each of them has lost over it.
    pub(super) fn advance(
        &self,
        lane: &str,
        batch: &Batch,
        outlets: &[String],
        items: &[Item],
        outcome: Outcome,
    ) -> Vec<u64> {
        let now = now();
        let mut state = self.state();
        let mut lost = Vec::with_capacity(outlets.len());
        let mut bells = Vec::with_capacity(outlets.len() + 1);
        for outlet in outlets {
            let Some(slot) = state.slot(outlet) else {
                continue;
            };
            let mut dropped = 0;
            for item in items {
                let entry = Entry::new(batch.at, item.clone());
                dropped += match slot.lane.limits.discard {
                    Discard::Nothing => {
                        slot.lane.add(entry);
                        0
                    }
                    _ => match slot.lane.push(entry, now) {
                        Pushed::Taken { dropped } => dropped,
                        Pushed::Refused { dropped } => dropped + 1,
                    },
                };
            }
            lost.push(dropped);
            bells.push(slot.arrived.clone());
        }
        if let Some(slot) = state.slot(lane) {
            slot.lane.done(batch.end);
            slot.room.notify_waiters();
        }
        self.keep(&mut state, outcome, now);
        let is_dirty = state.is_dirty();
        drop(state);
        self.dropped(lost.iter().sum());
        for bell in bells {
            bell.notify_one();
        }
        if is_dirty {
            self.bell.dirty.notify_one();
        }
        lost
    }

    fn keep(&self, state: &mut State, outcome: Outcome, now: u64) {
        let failed = i64::try_from(outcome.letters.len()).unwrap_or(i64::MAX);
        self.counts.failed.fetch_add(failed, Ordering::Relaxed);
        for aside in outcome.letters {
            self.tell(
                &aside.stage,
                &aside.reason,
                std::slice::from_ref(&aside.item),
            );
            state.letters.push(NewLetter {
                pipeline: self.pipeline.clone(),
                stage: aside.stage,
                at: now,
                reason: aside.reason,
                body: codec::encode_one(now, &aside.item),
            });
        }
        let over = state.letters.len().saturating_sub(LETTERS);
        state.letters.drain(..over);
        for (key, body) in outcome.memory {
            let known = state.memory.get(&key);
            if known.is_none_or(|known| known.body != body) {
                let saved = false;
                state.memory.insert(key, Remembered { body, saved });
            }
        }
    }

    /// What a step remembers, by key.
    pub(super) fn memory(&self, stage: &str) -> BTreeMap<String, Bytes> {
        let state = self.state();
        let of_stage = state.memory.iter().filter(|((of, _), _)| of == stage);
        let there = of_stage.filter(|(_, known)| !known.body.is_empty());
        there
            .map(|((_, key), known)| (key.clone(), known.body.clone()))
            .collect()
    }

    /// Items that wait in all queues, and about how many bytes they take.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let state = self.state();
        let lanes = state.slots.iter().map(|slot| &slot.lane);
        lanes.fold((0, 0), |(items, bytes), lane| {
            (items + lane.len(), bytes + lane.bytes())
        })
    }

    /// Items that wait in one queue.
    pub(super) fn waiting_in(&self, lane: &str) -> u64 {
        self.state().slot(lane).map_or(0, |slot| slot.lane.len())
    }

    /// Why the last attempt to save failed, if it did.
    pub(super) fn fault(&self) -> Option<SpoolError> {
        self.state().fault.clone()
    }
}

impl State {
    fn slot(&mut self, lane: &str) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.lane.name == lane)
    }

    fn slot_of(&mut self, id: u64) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.id == id)
    }

    fn add(&mut self, lane: Lane) {
        self.made += 1;
        self.slots.push(Slot {
            id: self.made,
            lane,
            arrived: Arc::default(),
            room: Arc::default(),
        });
    }

    fn is_dirty(&self) -> bool {
        self.slots.iter().any(|slot| slot.lane.is_dirty())
            || !self.letters.is_empty()
            || !self.removed.is_empty()
            || self.memory.values().any(|known| !known.saved)
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    clock::nanoseconds() / 1_000_000
}

#[cfg(test)]
#[path = "stock_tests.rs"]
mod tests;
