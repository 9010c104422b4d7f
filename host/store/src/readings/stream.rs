//! The kept events of one source of one device, in the order of their origins, and the search for a
//! page among many such streams without looking at every event.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use super::{Filter, Page};

/// The resources of an event in the order of its readings. Events of the same source share one.
pub(super) type Shape = Arc<[Arc<str>]>;

/// An event: 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) origin: u64,
    pub(super) seq: u64,
}

impl Entry {
    fn order(&self) -> (u64, u64) {
        (self.origin, self.seq)
    }
}

/// Events of the same device and source with the same resources.
pub(super) struct Stream {
    pub(super) device: Arc<str>,
    pub(super) source: Arc<str>,
    pub(super) shape: Shape,
    /// By origin, then by number.
    entries: VecDeque<Entry>,
    /// The order of the origins is that of the numbers too.
    arrived_in_order: bool,
}

impl Stream {
    pub(super) fn new(device: Arc<str>, source: Arc<str>, shape: Shape) -> Self {
        Self {
            device,
            source,
            shape,
            entries: VecDeque::new(),
            arrived_in_order: true,
        }
    }

    pub(super) fn is(&self, source: &str, shape: &[Arc<str>]) -> bool {
        *self.source == *source && *self.shape == *shape
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// How many events are older than an origin.
    pub(super) fn older(&self, origin: u64) -> usize {
        self.entries.partition_point(|entry| entry.origin < origin)
    }

    /// Add an event; its number is higher than all there are.
    pub(super) fn push(&mut self, entry: Entry) {
        match self.entries.back() {
            Some(last) if last.order() > entry.order() => {
                self.arrived_in_order = false;
                let at = self
                    .entries
                    .partition_point(|known| known.order() < entry.order());
                self.entries.insert(at, entry);
            }
            _ => self.entries.push_back(entry),
        }
    }

    pub(super) fn pop_oldest(&mut self) -> Option<Entry> {
        let oldest = self.entries.pop_front();
        self.shrink();
        oldest
    }

    /// Take out the events for which `gone` says so, wherever they are.
    pub(super) fn take(&mut self, gone: impl Fn(&Entry) -> bool, mut taken: impl FnMut(Entry)) {
        self.entries.retain(|entry| {
            let gone = gone(entry);
            if gone {
                taken(*entry);
            }
            !gone
        });
        self.shrink();
    }

    /// Take out the events whose number is below.
    pub(super) fn take_before(&mut self, seq: u64, mut taken: impl FnMut(Entry)) {
        if !self.arrived_in_order {
            return self.take(|entry| entry.seq < seq, taken);
        }
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.seq < seq) {
            taken(entry);
        }
        self.shrink();
    }

    /// The events with numbers of a range.
    pub(super) fn numbered(&self, range: Range<u64>, mut found: impl FnMut(u64)) {
        if self.arrived_in_order {
            let from = self.entries.partition_point(|e| e.seq < range.start);
            let entries = self.entries.range(from..);
            entries
                .take_while(|entry| entry.seq < range.end)
                .for_each(|entry| found(entry.seq));
        } else {
            let entries = self.entries.iter();
            entries
                .filter(|entry| range.contains(&entry.seq))
                .for_each(|entry| found(entry.seq));
        }
    }

    fn shrink(&mut self) {
        if self.entries.capacity() > 4 * self.entries.len() + 64 {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Whether a filter's device and resources let anything of this stream through.
    fn fits(&self, filter: &Filter) -> bool {
        let device = filter.device.as_deref();
        device.is_none_or(|device| *device == *self.device)
            && (filter.resources.is_empty()
                || self
                    .shape
                    .iter()
                    .any(|have| filter.resources.iter().any(|r| **r == **have)))
    }

    /// Where the events of a filter's time are.
    fn within(&self, filter: &Filter) -> Range<usize> {
        let from = filter.start.map_or(0, |start| {
            self.entries.partition_point(|entry| entry.origin < start)
        });
        let to = filter.end.map_or(self.entries.len(), |end| {
            self.entries.partition_point(|entry| entry.origin <= end)
        });
        from..to.max(from)
    }
}

/// What of a stream a query is about.
struct Part<'a> {
    stream: &'a Stream,
    range: Range<usize>,
    /// Positions in each event that count one by one.
    positions: Vec<usize>,
}

impl Part<'_> {
    /// How many of its items are newer than an origin.
    fn newer(&self, origin: u64) -> usize {
        let upto = self
            .stream
            .entries
            .partition_point(|entry| entry.origin <= origin);
        let upto = upto.clamp(self.range.start, self.range.end);
        (self.range.end - upto) * self.positions.len()
    }
}

/// The events of some streams that a filter lets through.
pub(super) struct Selection<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Selection<'a> {
    /// Whole events.
    pub(super) fn events(streams: impl Iterator<Item = &'a Stream>, filter: &Filter) -> Self {
        Self::of(streams, filter, |_| vec![0])
    }

    /// Single readings.
    pub(super) fn readings(streams: impl Iterator<Item = &'a Stream>, filter: &Filter) -> Self {
        let wanted: HashSet<&str> = filter.resources.iter().map(String::as_str).collect();
        Self::of(streams, filter, |stream| {
            let resources = stream.shape.iter().enumerate();
            resources
                .filter(|(_, resource)| wanted.is_empty() || wanted.contains(&***resource))
                .map(|(at, _)| at)
                .collect()
        })
    }

    fn of(
        streams: impl Iterator<Item = &'a Stream>,
        filter: &Filter,
        positions: impl Fn(&Stream) -> Vec<usize>,
    ) -> Self {
        let fitting = streams.filter(|stream| stream.fits(filter));
        let parts = fitting.map(|stream| Part {
            stream,
            range: stream.within(filter),
            positions: positions(stream),
        });
        Self {
            parts: parts
                .filter(|part| !part.range.is_empty() && !part.positions.is_empty())
                .collect(),
        }
    }

    pub(super) fn total(&self) -> usize {
        let parts = self.parts.iter();
        parts
            .map(|part| part.range.len() * part.positions.len())
            .sum()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a Entry> {
        self.parts
            .iter()
            .flat_map(|part| part.stream.entries.range(part.range.clone()))
    }

    /// Number and position of what is on the page, newest first. Takes a time that grows with the
    /// streams and the page, and hardly with the events.
    pub(super) fn page(&self, page: Page, most: usize) -> Vec<(u64, usize)> {
        let limit = page.limit.min(most);
        if limit == 0 || page.offset >= self.total() {
            return Vec::new();
        }
        // The newest origin at which no more than the offset is left out.
        let newer = |origin| -> usize { self.parts.iter().map(|part| part.newer(origin)).sum() };
        let (mut low, mut high) = (0, u64::MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            if newer(middle) <= page.offset {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let mut skip = page.offset - newer(high);
        let upto = |part: &Part<'_>| {
            let entries = &part.stream.entries;
            let upto = entries.partition_point(|entry| entry.origin <= high);
            upto.clamp(part.range.start, part.range.end)
        };
        let mut ends: Vec<usize> = self.parts.iter().map(upto).collect();
        let last = |index: usize, end: usize| {
            let part = &self.parts[index];
            let at = end.checked_sub(1).filter(|at| part.range.contains(at))?;
            Some((part.stream.entries.get(at)?.order(), Reverse(index)))
        };
        let mut newest: BinaryHeap<_> = ends
            .iter()
            .enumerate()
            .filter_map(|(index, end)| last(index, *end))
            .collect();
        let mut found = Vec::with_capacity(limit.min(1024));
        while let Some(((_, seq), Reverse(index))) = newest.pop() {
            for at in &self.parts[index].positions {
                if skip > 0 {
                    skip -= 1;
                } else if found.len() < limit {
                    found.push((seq, *at));
                }
            }
            if found.len() >= limit {
                break;
            }
            ends[index] -= 1;
            newest.extend(last(index, ends[index]));
        }
        found
    }
}
