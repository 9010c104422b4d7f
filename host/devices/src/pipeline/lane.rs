//! One queue: numbered items, of which some are in memory, some on disk and some both. No I/O, no
//! waiting, no clock: [`super::stock`] has those.
//!
//! ```text
//!            first             front end      back start       saved        next
//!              │   front (memory)  │   disk only   │  back (memory)  │        │
//!   done with  ├───────────────────┼───────────────┼─────────────────┼────────┤
//!              └── parts on disk ────────────────────────────────────┘ unsaved
//! ```
//!
//! A queue whose consumer keeps up is its `back` alone, and nothing of it is ever saved. When the
//! consumer falls behind, what is saved leaves the memory from the front of `back`, and comes back
//! part by part as `front`. So memory is bounded whatever waits.
//!
//! What the limits do not let wait is discarded as the policy says, and counted by whoever asked.

use std::{collections::VecDeque, time::Duration};

use eyot_runtime::{
    guest::Item,
    reading::{Event, Value},
};
use eyot_store::Part;

/// Saved items that stay in memory at most, and their bytes: what the consumer takes in a call or
/// two, so that one which is a little behind reads nothing.
const KEPT: usize = 2000;
const KEPT_BYTES: u64 = 1 << 20;
/// Bytes that wait for the disk at most. Beyond, what comes is discarded or has to wait: the disk is
/// full or broken.
pub(super) const UNSAVED: u64 = 8 << 20;
/// Items and bytes of one part at most, so that one read brings no more than a call takes.
const PART: usize = 1000;
const PART_BYTES: u64 = 512 << 10;

/// What becomes of items for which there is no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Discard {
    #[default]
    Oldest,
    Newest,
    /// None is discarded: whoever brings them waits.
    Nothing,
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub items: u64,
    pub bytes: u64,
    pub age: Option<Duration>,
    pub discard: Discard,
}

/// An item that waits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// When its event came, in milliseconds since 1970.
    pub at: u64,
    pub item: Item,
    size: u32,
}

impl Entry {
    pub(super) fn new(at: u64, item: Item) -> Self {
        let size = u32::try_from(size(&item)).unwrap_or(u32::MAX);
        Self { at, item, size }
    }
}

/// About how many bytes an item takes, in memory or on disk.
fn size(item: &Item) -> usize {
    let texts = |tags: &[(String, String)]| -> usize {
        tags.iter().map(|(a, b)| a.len() + b.len() + 8).sum()
    };
    match item {
        Item::Payload(payload) => {
            64 + payload.data.len() + payload.destination.len() + payload.device.len()
        }
        Item::Event(event) => {
            let Event { readings, tags, .. } = &**event;
            let readings = readings.iter().map(|reading| {
                48 + reading.resource.len() + texts(&reading.tags) + heap(&reading.value)
            });
            128 + readings.sum::<usize>() + texts(tags)
        }
    }
}

fn heap(value: &Value) -> usize {
    match value {
        Value::String(text) | Value::Object(text) | Value::ObjectArray(text) => text.len(),
        Value::Binary { data, .. } => data.len(),
        Value::BoolArray(v) => v.len(),
        Value::StringArray(v) => v.iter().map(|text| text.len() + 8).sum(),
        Value::Uint8Array(v) => v.len(),
        Value::Int8Array(v) => v.len(),
        Value::Uint16Array(v) => 2 * v.len(),
        Value::Int16Array(v) => 2 * v.len(),
        Value::Uint32Array(v) => 4 * v.len(),
        Value::Int32Array(v) => 4 * v.len(),
        Value::Float32Array(v) => 4 * v.len(),
        Value::Uint64Array(v) => 8 * v.len(),
        Value::Int64Array(v) => 8 * v.len(),
        Value::Float64Array(v) => 8 * v.len(),
        _ => 8,
    }
}

/// What came of an attempt to add an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits; so many older ones had to go.
    Taken { dropped: u64 },
    /// It does not; so many older ones went even so, by their age.
    Refused { dropped: u64 },
}

/// What a consumer is to do.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// These wait.
    Items {
        entries: Vec<Entry>,
        end: u64,
    },
    /// The part on disk that begins with this number has them.
    Read(u64),
    Nothing,
}

/// Items of one part to be saved.
#[derive(Debug)]
pub(super) struct Draft {
    pub first: u64,
    pub entries: Vec<Entry>,
}

fn end_of(part: &Part) -> u64 {
    part.first + u64::from(part.count)
}

#[derive(Debug)]
pub(super) struct Lane {
    pub name: String,
    /// The queue's number in the file, once it has one.
    pub disk: Option<i64>,
    pub limits: Limits,
    /// The oldest that is not done with.
    first: u64,
    next: u64,
    front: VecDeque<Entry>,
    back: VecDeque<Entry>,
    parts: VecDeque<Part>,
    /// What is before has been saved, if it waits.
    saved: u64,
    /// What was there at the last look of the saver.
    seen: u64,
    /// Of all that waits, about.
    bytes: u64,
    unsaved: u64,
    /// What the file has for `first`.
    told: u64,
    /// Parts are done with that the file still has.
    removed: bool,
}

impl Lane {
    pub(super) fn new(name: &str, limits: Limits) -> Self {
        Self {
            name: name.to_owned(),
            disk: None,
            limits,
            first: 0,
            next: 0,
            front: VecDeque::new(),
            back: VecDeque::new(),
            parts: VecDeque::new(),
            saved: 0,
            seen: 0,
            bytes: 0,
            unsaved: 0,
            told: 0,
            removed: false,
        }
    }

    /// Have what the file has, before what came since the start. None of it has been taken yet.
    pub(super) fn restore(&mut self, queue: eyot_store::Queue) {
        let since = std::mem::take(&mut self.back);
        let mut lane = Self::new(&self.name, self.limits);
        lane.disk = Some(queue.id);
        lane.parts = queue
            .parts
            .into_iter()
            .filter(|part| end_of(part) > queue.first)
            .collect();
        let reached = lane.parts.front().map_or(0, |part| part.first);
        lane.first = queue.first.max(reached);
        lane.told = lane.first;
        lane.next = lane.parts.back().map_or(lane.first, end_of);
        lane.saved = lane.next;
        lane.seen = lane.next;
        lane.bytes = lane.parts.iter().map(|part| u64::from(part.bytes)).sum();
        for entry in since {
            lane.add(entry);
        }
        *self = lane;
    }

    pub(super) fn len(&self) -> u64 {
        self.next - self.first
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn back_start(&self) -> u64 {
        self.next - self.back.len() as u64
    }

    /// Whether an item more may wait.
    pub(super) fn has_room(&self) -> bool {
        self.len() < self.limits.items && self.bytes < self.limits.bytes && self.unsaved < UNSAVED
    }

    /// Add an item at the end.
    pub(super) fn push(&mut self, entry: Entry, now: u64) -> Pushed {
        let mut dropped = self.expire(now);
        while !self.has_room() {
            // What is saved takes no memory: only what is not can make room for the disk's sake.
            let helps = self.unsaved < UNSAVED || self.first >= self.saved;
            let makes_room = self.limits.discard == Discard::Oldest && helps && self.len() > 0;
            if !makes_room {
                return Pushed::Refused { dropped };
            }
            dropped += self.drop_oldest();
        }
        self.add(entry);
        Pushed::Taken { dropped }
    }

    /// Add an item at the end, whatever the limits: for those who have waited for room.
    pub(super) fn add(&mut self, entry: Entry) {
        self.bytes += u64::from(entry.size);
        self.unsaved += u64::from(entry.size);
        self.next += 1;
        self.back.push_back(entry);
    }

    /// Discard what has become too old; how many.
    pub(super) fn expire(&mut self, now: u64) -> u64 {
        let Some(age) = self.limits.age else { return 0 };
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let too_old = now.saturating_sub(age);
        let mut dropped = 0;
        while let Some(at) = self.oldest() {
            if at >= too_old {
                break;
            }
            dropped += self.drop_oldest();
        }
        dropped
    }

    /// When the oldest came; of a part, when its newest did.
    fn oldest(&self) -> Option<u64> {
        if let Some(entry) = self.front.front() {
            return Some(entry.at);
        }
        match self.first < self.back_start() {
            true => self.parts.front().map(|part| part.newest),
            false => self.back.front().map(|entry| entry.at),
        }
    }

    /// Discard the oldest item; if it is on disk alone, its part. How many that are.
    fn drop_oldest(&mut self) -> u64 {
        let in_memory = !self.front.is_empty() || self.first >= self.back_start();
        let end = match (in_memory, self.parts.front()) {
            (false, Some(part)) => end_of(part).min(self.back_start()),
            (false, None) => self.back_start(),
            (true, _) => self.first + 1,
        };
        let before = self.first;
        self.done(end);
        self.first - before
    }

    /// The items before `end` are done with.
    pub(super) fn done(&mut self, end: u64) {
        let end = end.min(self.next);
        while self.first < end {
            if let Some(entry) = self.front.pop_front() {
                self.forget(&entry, self.first);
                self.first += 1;
            } else if self.first < self.back_start() {
                self.pass_on_disk(end.min(self.back_start()));
            } else if let Some(entry) = self.back.pop_front() {
                self.forget(&entry, self.first);
                self.first += 1;
            } else {
                self.first = end;
            }
        }
        while self
            .parts
            .pop_front_if(|part| end_of(part) <= self.first)
            .is_some()
        {
            self.removed = true;
        }
        self.saved = self.saved.max(self.first);
        self.seen = self.seen.max(self.first);
        if self.len() == 0 {
            self.bytes = 0;
            self.unsaved = 0;
        }
    }

    /// Go on to `end` over items that are on disk alone.
    fn pass_on_disk(&mut self, end: u64) {
        let part = self.parts.iter().find(|part| end_of(part) > self.first);
        let (until, each) = match part {
            Some(part) => (end_of(part), part.bytes / part.count.max(1)),
            None => (end, 0),
        };
        let until = until.min(end);
        let passed = (until - self.first) * u64::from(each);
        self.bytes = self.bytes.saturating_sub(passed);
        self.first = until;
    }

    /// Whether something on disk is done with that the file does not know to be.
    fn has_progressed(&self) -> bool {
        let within = |part: &Part| part.first < self.first;
        self.removed || (self.told != self.first && self.parts.front().is_some_and(within))
    }

    fn forget(&mut self, entry: &Entry, number: u64) {
        let size = u64::from(entry.size);
        self.bytes = self.bytes.saturating_sub(size);
        if number >= self.saved {
            self.unsaved = self.unsaved.saturating_sub(size);
        }
    }

    /// What comes next, at most so many.
    pub(super) fn next(&mut self, most: usize, now: u64) -> (Next, u64) {
        let dropped = self.expire(now);
        let waiting = if !self.front.is_empty() {
            &self.front
        } else if self.first < self.back_start() {
            let next = self
                .parts
                .front()
                .map_or(Next::Nothing, |part| Next::Read(part.first));
            return (next, dropped);
        } else {
            &self.back
        };
        if waiting.is_empty() {
            return (Next::Nothing, dropped);
        }
        let entries: Vec<Entry> = waiting.iter().take(most).cloned().collect();
        let end = self.first + entries.len() as u64;
        (Next::Items { entries, end }, dropped)
    }

    /// The part that begins with the number `first` has been read. How many items of it are lost.
    pub(super) fn read(&mut self, first: u64, entries: Vec<Entry>) -> u64 {
        let (start, end) = (self.first, self.back_start());
        let is_next = self.front.is_empty() && self.parts.front().is_some_and(|p| p.first == first);
        if !is_next {
            return 0;
        }
        let numbered = (first..).zip(entries);
        let wanted = numbered.filter(|(number, _)| (start..end).contains(number));
        self.front = wanted.map(|(_, entry)| entry).collect();
        match self.front.is_empty() && start < end {
            true => self.unreadable(first),
            false => 0,
        }
    }

    /// The part that begins with the number `first` cannot be read: it is given up. How many items
    /// that are.
    pub(super) fn unreadable(&mut self, first: u64) -> u64 {
        match self.parts.front() {
            Some(part) if part.first == first => {
                let before = self.first;
                let end = end_of(part);
                self.done(end.min(self.back_start()).max(self.first));
                self.first - before
            }
            _ => 0,
        }
    }

    /// Whether something waits that was there at the last look, or all of it if `all`; and whether
    /// something on disk is done with.
    pub(super) fn is_due(&self, all: bool) -> (bool, bool) {
        let until = if all { self.next } else { self.seen };
        (until > self.saved.max(self.first), self.has_progressed())
    }

    /// Whether there is anything that is not saved.
    pub(super) fn is_dirty(&self) -> bool {
        self.next > self.saved || self.has_progressed()
    }

    /// Take note of what is there now.
    pub(super) fn look(&mut self) {
        self.seen = self.next;
    }

    /// What is not saved, in parts, and the first that is not done with if the file does not know.
    pub(super) fn draft(&self) -> (Vec<Draft>, Option<u64>) {
        let mut drafts = Vec::new();
        let start = self.saved.max(self.first).max(self.back_start());
        let skip = usize::try_from(start - self.back_start()).unwrap_or(usize::MAX);
        let (mut number, mut bytes) = (start, 0);
        for entry in self.back.iter().skip(skip) {
            let full = |draft: &Draft| draft.entries.len() >= PART || bytes >= PART_BYTES;
            if drafts.last().is_none_or(full) {
                bytes = 0;
                drafts.push(Draft {
                    first: number,
                    entries: Vec::new(),
                });
            }
            if let Some(draft) = drafts.last_mut() {
                draft.entries.push(entry.clone());
            }
            bytes += u64::from(entry.size);
            number += 1;
        }
        (drafts, self.has_progressed().then_some(self.first))
    }

    /// A draft was saved as these parts, and the file knows that what is before `first` is done with.
    pub(super) fn saved(&mut self, parts: &[Part], first: Option<u64>) {
        for part in parts {
            self.parts.push_back(*part);
            self.saved = self.saved.max(end_of(part));
        }
        if let Some(first) = first {
            self.told = first;
            self.removed &= first != self.first;
        }
        // Some of it may have been done with meanwhile.
        self.done(self.first);
        let unsaved = self.saved.max(self.back_start()) - self.back_start();
        let skip = usize::try_from(unsaved).unwrap_or(usize::MAX);
        self.unsaved = self.back.iter().skip(skip).map(|e| u64::from(e.size)).sum();
        self.let_go();
    }

    /// Let what is saved leave the memory, but for a little.
    fn let_go(&mut self) {
        let mut bytes: u64 = self.back.iter().map(|e| u64::from(e.size)).sum();
        while (self.back.len() > KEPT || bytes > KEPT_BYTES) && self.back_start() < self.saved {
            if let Some(entry) = self.back.pop_front() {
                bytes -= u64::from(entry.size);
            }
        }
        if self.back.capacity() > 4 * KEPT && self.back.len() < KEPT {
            self.back.shrink_to(KEPT);
        }
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
