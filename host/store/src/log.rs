//! The recent changes of one resource: what watches are fed from, and how lists look back.
//!
//! It is bounded by number, age and bytes. What falls out names the rows that nobody needs on disk
//! any more, and moves the horizon: a watch or a list from before that is told to begin anew.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{Change, ChangeKind};

/// Changes kept per resource: a watcher that falls behind by more has to list again. A burst of
/// writes reaches some thousands a second, and a client that reads at all is not seconds behind.
const CHANGES: usize = 8192;
/// Bytes of superseded states that the log of one resource may hold on to.
const BYTES: usize = 16 << 20;
/// What a change costs beside the JSON that it keeps alive.
const OVERHEAD: usize = 256;
/// Changes older than this go, as etcd's do with Kubernetes' defaults...
const AGE: Duration = Duration::from_secs(5 * 60);
/// ...except for this many, so that a client that comes back to a quiet host need not list again.
const KEPT: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct Log {
    changes: VecDeque<(Instant, Change)>,
    bytes: usize,
    /// Changes up to and including this revision are no longer here.
    pub(crate) horizon: u64,
}

impl Log {
    pub(crate) fn beginning_after(horizon: u64) -> Self {
        Self {
            horizon,
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, now: Instant, change: Change) {
        self.bytes += weight(&change);
        self.changes.push_back((now, change));
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// What the log holds in memory on its own behalf.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes after a revision, oldest first.
    pub(crate) fn after(&self, revision: u64) -> impl ExactSizeIterator<Item = &Change> {
        let from = self
            .changes
            .partition_point(|(_, change)| change.object.revision <= revision);
        self.changes.range(from..).map(|(_, change)| change)
    }

    /// Move what is beyond the limits to `gone`. Whether anything was.
    pub(crate) fn trim(&mut self, now: Instant, gone: &mut Vec<Change>) -> bool {
        let before = gone.len();
        while let Some((at, _)) = self.changes.front() {
            let full = self.len() > CHANGES || self.bytes > BYTES;
            let old = self.len() > KEPT && now.duration_since(*at) > AGE;
            if !full && !old {
                break;
            }
            self.pop(gone);
        }
        gone.len() > before
    }

    /// Move the oldest change to `gone`; false if there is none.
    pub(crate) fn pop(&mut self, gone: &mut Vec<Change>) -> bool {
        let Some((_, change)) = self.changes.pop_front() else {
            return false;
        };
        self.bytes -= weight(&change);
        self.horizon = self.horizon.max(change.object.revision);
        gone.push(change);
        true
    }
}

/// What the log holds in memory on behalf of this change alone.
fn weight(change: &Change) -> usize {
    let last = match change.kind {
        ChangeKind::Deleted => change.object.json.len(),
        ChangeKind::Added | ChangeKind::Modified => 0,
    };
    let previous = change.previous.as_ref();
    OVERHEAD + last + previous.map_or(0, |previous| previous.json.len())
}
