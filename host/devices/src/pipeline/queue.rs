//! What waits between two tasks of a pipeline: ordered, bounded, taken in batches.
//!
//! A batch is looked at first and removed when it is done with, so that nothing is lost between;
//! a queue that survives a restart can take this one's place.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eyot_runtime::guest::Item;
use tokio::sync::Notify;

/// Items that wait at most.
pub(super) struct Queue {
    limit: usize,
    state: Mutex<State>,
    arrived: Notify,
    length: AtomicUsize,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Number of the first item, counted since the start.
    first: u64,
}

/// Items at the front of a queue.
pub(super) struct Batch {
    pub items: Vec<Item>,
    /// Number of the item after the last.
    end: u64,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            state: Mutex::default(),
            arrived: Notify::new(),
            length: AtomicUsize::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Add items at the end; answers how many of the oldest had to go.
    pub(super) fn push(&self, items: impl IntoIterator<Item = Item>) -> usize {
        let mut state = self.state();
        state.items.extend(items);
        let over = state.items.len().saturating_sub(self.limit);
        state.items.drain(..over);
        state.first += over as u64;
        self.length.store(state.items.len(), Ordering::Relaxed);
        drop(state);
        self.arrived.notify_one();
        over
    }

    /// Look at up to `most` items at the front; waits for the first, and `linger` for more.
    pub(super) async fn batch(&self, most: usize, linger: Duration) -> Batch {
        while self.len() == 0 {
            self.arrived.notified().await;
        }
        if self.len() < most && !linger.is_zero() {
            tokio::time::sleep(linger).await;
        }
        let state = self.state();
        let items: Vec<Item> = state.items.iter().take(most).cloned().collect();
        Batch {
            end: state.first + items.len() as u64,
            items,
        }
    }

    /// The batch has been dealt with.
    pub(super) fn done(&self, end: u64) {
        let mut state = self.state();
        // Some of it may have been dropped for being oldest meanwhile.
        let count = usize::try_from(end.saturating_sub(state.first)).unwrap_or(usize::MAX);
        let count = count.min(state.items.len());
        state.items.drain(..count);
        state.first += count as u64;
        self.length.store(state.items.len(), Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }
}

impl Batch {
    pub(super) fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use eyot_runtime::guest::Payload;

    use super::*;

    fn item(destination: &str) -> Item {
        Item::Payload(Payload {
            media_type: String::new(),
            destination: destination.into(),
            data: vec![],
            device: String::new(),
        })
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_oldest_and_a_batch_in_hand_is_not_taken_twice() {
        let queue = Queue::new(3);
        assert_eq!(queue.push([item("a"), item("b")]), 0);
        let batch = queue.batch(10, Duration::ZERO).await;
        assert_eq!(batch.items, [item("a"), item("b")]);
        assert_eq!(queue.push([item("c"), item("d")]), 1);
        queue.done(batch.end());
        assert_eq!(
            queue.batch(10, Duration::ZERO).await.items,
            [item("c"), item("d")]
        );
        assert_eq!(queue.len(), 2);
    }
}
