//! Counting what could not be taken, and saying so now and then.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// At most one log line in this time for each place of loss.
const EVERY: Duration = Duration::from_secs(10);

/// A place where things can be lost.
pub(crate) struct Loss {
    place: String,
    lost: AtomicU64,
    said: Mutex<Option<Instant>>,
}

impl Loss {
    pub(crate) fn new(place: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            lost: AtomicU64::new(0),
            said: Mutex::new(None),
        }
    }

    pub(crate) fn lost(&self, count: u64) {
        self.lost_because(count, "the queue is full");
    }

    /// For another reason than that a queue was full.
    pub(crate) fn lost_because(&self, count: u64, why: &str) {
        if count == 0 {
            return;
        }
        let total = self.lost.fetch_add(count, Ordering::Relaxed) + count;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if said.is_none_or(|said| now - said >= EVERY) {
            *said = Some(now);
            tracing::warn!(place = %self.place, total, "events dropped: {why}");
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
