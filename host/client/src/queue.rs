//! The keys that a controller still has to look at.
//!
//! A key is in the queue once, however often it was added; while it is being worked on, adding it
//! makes it come once more afterwards. Never are two workers on one key.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::Key;

/// A de-duplicating queue of keys. Cheap to clone; all clones are one queue.
#[derive(Clone, Default)]
pub struct Queue {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    entries: HashMap<Key, Entry>,
    later: BTreeSet<(Instant, Key)>,
}

/// What is known of a key that is ready, running or due later.
#[derive(Default)]
struct Entry {
    stage: Stage,
    due: Option<Instant>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Ready,
    Running,
    /// Running, and to be run again.
    Overtaken,
}

impl Queue {
    /// Work on this key soon.
    pub fn add(&self, key: Key) {
        self.state().add(key);
        self.inner.wake.notify_one();
    }

    /// Work on this key after a while; of several such times the earliest counts.
    pub fn add_after(&self, key: Key, delay: Duration) {
        let due = Instant::now() + delay;
        let mut state = self.state();
        let entry = state.entries.entry(key.clone()).or_default();
        if entry.due.is_some_and(|known| known <= due) {
            return;
        }
        if let Some(known) = entry.due.replace(due) {
            state.later.remove(&(known, key.clone()));
        }
        state.later.insert((due, key));
        drop(state);
        self.inner.wake.notify_one();
    }

    /// The next key to work on; [`Queue::done`] must follow. For one consumer.
    pub(crate) async fn next(&self) -> Key {
        loop {
            let notified = self.inner.wake.notified();
            let due = {
                let mut state = self.state();
                state.ripen(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                state.later.first().map(|(due, _)| *due)
            };
            match due {
                None => notified.await,
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, notified).await;
                }
            }
        }
    }

    /// Work on the key has ended.
    pub(crate) fn done(&self, key: &Key) {
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(key) else {
            return;
        };
        let again = entry.stage == Stage::Overtaken;
        entry.stage = Stage::Idle;
        if again {
            state.add(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        } else if entry.due.is_none() {
            state.entries.remove(key);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can leave the state half-written.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: Key) {
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.stage {
            Stage::Idle => {
                entry.stage = Stage::Ready;
                self.ready.push_back(key);
            }
            Stage::Running => entry.stage = Stage::Overtaken,
            Stage::Ready | Stage::Overtaken => {}
        }
    }

    /// Make ready what is due.
    fn ripen(&mut self, now: Instant) {
        while let Some((due, _)) = self.later.first() {
            if *due > now {
                break;
            }
            let Some((_, key)) = self.later.pop_first() else {
                break;
            };
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.due = None;
            }
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.stage = Stage::Running;
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waits(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next())
            .await
            .is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_comes_once() {
        let queue = Queue::default();
        queue.add(Key::new("d", "a"));
        queue.add(Key::new("d", "b"));
        queue.add(Key::new("d", "a"));
        assert_eq!(queue.next().await, Key::new("d", "a"));
        assert_eq!(queue.next().await, Key::new("d", "b"));
        assert!(waits(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_it_is_worked_on_comes_again_after_it_is_done() {
        let queue = Queue::default();
        queue.add(Key::new("d", "a"));
        let key = queue.next().await;
        queue.add(key.clone());
        assert!(waits(&queue).await);
        queue.done(&key);
        assert_eq!(queue.next().await, key);
        queue.done(&key);
        assert!(waits(&queue).await);
        assert!(
            queue.state().entries.is_empty(),
            "nothing is remembered of what is done"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_later_times_the_earliest_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after(Key::new("d", "a"), Duration::from_secs(20));
        queue.add_after(Key::new("d", "a"), Duration::from_secs(5));
        queue.add_after(Key::new("d", "a"), Duration::from_secs(9));
        let key = queue.next().await;
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&key);
        assert!(waits(&queue).await);
        assert!(queue.state().entries.is_empty());
    }
}
