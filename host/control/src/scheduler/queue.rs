//! The pods that wait for a place.
//!
//! ```text
//!            come ──▶ Active ──▶ being decided ──▶ placed, and out of here
//!                       ▲  ▲          │
//!             time over │  └──────────┼────────────── something happens that could help
//!                       │             ▼                              │
//!                    Resting ◀── Waiting (found no place) ───────────┘ too soon after the last try
//! ```
//!
//! Of the active ones the most important comes first, then who has been there longest. A pod that
//! found no place waits for something that could help it, and in any case not for longer than
//! [`FORGOTTEN`]; between two tries of the same pod there is a pause that doubles with each.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use eyot_client::Key;
use tokio::time::Instant;

use super::status::Plugin;

/// After so long a pod is tried again although nothing happened that should help.
const FORGOTTEN: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Active(u64),
    /// Something happened that could help, but it was tried only just now.
    Resting(Instant),
    Waiting {
        until: Instant,
        plugins: BTreeSet<Plugin>,
    },
    /// Its place is being written, or it is kept from being scheduled.
    Aside,
}

#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) uid: String,
    pub(super) kind: usize,
    pub(super) priority: i32,
    pub(super) nominated: Option<String>,
    attempts: u32,
    tried: Option<Instant>,
    stage: Stage,
}

#[derive(Default)]
pub(super) struct Queue {
    /// The pause after the first try, and the longest.
    pauses: (Duration, Duration),
    pods: HashMap<Key, Pending>,
    active: BTreeSet<(Reverse<i32>, u64, Key)>,
    resting: BTreeSet<(Instant, Key)>,
    /// The waiting ones by class, since what helps one helps all of them.
    waiting: HashMap<usize, BTreeSet<Key>>,
    forgotten: BTreeSet<(Instant, Key)>,
    entered: u64,
}

impl Queue {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            pauses: (first, longest),
            ..Self::default()
        }
    }

    fn pause(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(16);
        let (first, longest) = self.pauses;
        first.saturating_mul(2u32.pow(doublings)).min(longest)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Pending> {
        self.pods.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Pending> {
        self.pods.get_mut(key)
    }

    /// A new pod, or one that is no longer what it was. Kept aside if it is not to be scheduled yet.
    pub(super) fn put(&mut self, key: &Key, pod: Pending, now: Instant) {
        let aside = pod.stage == Stage::Aside;
        self.remove(key);
        self.pods.insert(key.clone(), pod);
        if !aside {
            self.wake(key, now);
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Pending> {
        self.unstage(key);
        self.pods.remove(key)
    }

    /// Take the pod from wherever it is.
    fn unstage(&mut self, key: &Key) {
        let Some(pod) = self.pods.get_mut(key) else {
            return;
        };
        match std::mem::replace(&mut pod.stage, Stage::Aside) {
            Stage::Active(since) => {
                self.active
                    .remove(&(Reverse(pod.priority), since, key.clone()));
            }
            Stage::Resting(until) => {
                self.resting.remove(&(until, key.clone()));
            }
            Stage::Waiting { until, .. } => {
                self.forgotten.remove(&(until, key.clone()));
                if let Some(alike) = self.waiting.get_mut(&pod.kind) {
                    alike.remove(key);
                    if alike.is_empty() {
                        self.waiting.remove(&pod.kind);
                    }
                }
            }
            Stage::Aside => {}
        }
    }

    /// The next pod to decide on; it stays aside until it is put back or removed.
    pub(super) fn next(&mut self, now: Instant) -> Option<Key> {
        while let Some((until, key)) = self.resting.first().cloned()
            && until <= now
        {
            self.unstage(&key);
            self.activate(&key);
        }
        while let Some((until, key)) = self.forgotten.first().cloned()
            && until <= now
        {
            self.wake(&key, now);
        }
        let (_, _, key) = self.active.first().cloned()?;
        self.unstage(&key);
        if let Some(pod) = self.pods.get_mut(&key) {
            pod.attempts += 1;
            pod.tried = Some(now);
        }
        Some(key)
    }

    /// When [`Queue::next`] may have one, if it has none now.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, Key)>| set.first().map(|(at, _)| *at);
        [first(&self.resting), first(&self.forgotten)]
            .into_iter()
            .flatten()
            .min()
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.active.is_empty()
    }

    /// The pod found no place.
    pub(super) fn wait(&mut self, key: &Key, plugins: BTreeSet<Plugin>, now: Instant) {
        self.unstage(key);
        if let Some(pod) = self.pods.get_mut(key) {
            let until = now + FORGOTTEN;
            pod.stage = Stage::Waiting { until, plugins };
            self.waiting
                .entry(pod.kind)
                .or_default()
                .insert(key.clone());
            self.forgotten.insert((until, key.clone()));
        }
    }

    /// Try the pod again, though not too soon after the last time.
    pub(super) fn wake(&mut self, key: &Key, now: Instant) {
        self.unstage(key);
        let Some(pod) = self.pods.get(key) else {
            return;
        };
        let pause = self.pause(pod.attempts);
        let rested = pod.tried.map_or(now, |tried| tried + pause);
        if rested <= now {
            self.activate(key);
        } else if let Some(pod) = self.pods.get_mut(key) {
            pod.stage = Stage::Resting(rested);
            self.resting.insert((rested, key.clone()));
        }
    }

    fn activate(&mut self, key: &Key) {
        if let Some(pod) = self.pods.get_mut(key) {
            self.entered += 1;
            pod.stage = Stage::Active(self.entered);
            self.active
                .insert((Reverse(pod.priority), self.entered, key.clone()));
        }
    }

    /// Wake those whom it could help: asked once for all pods of a class, with those who said no.
    pub(super) fn wake_if(
        &mut self,
        helps: impl Fn(usize, &BTreeSet<Plugin>) -> bool,
        now: Instant,
    ) {
        let mut woken = Vec::new();
        for (kind, alike) in &self.waiting {
            let all = alike.iter().filter_map(|key| self.pods.get(key));
            let mut plugins = BTreeSet::new();
            for pod in all {
                if let Stage::Waiting {
                    plugins: theirs, ..
                } = &pod.stage
                {
                    plugins.extend(theirs);
                }
            }
            if helps(*kind, &plugins) {
                woken.extend(alike.iter().cloned());
            }
        }
        // As they came, not as they are called.
        woken.sort_by_key(|key| self.pods.get(key).and_then(|pod| pod.tried));
        for key in woken {
            self.wake(&key, now);
        }
    }
}

impl Pending {
    /// A pod that may be scheduled, or is kept from it.
    pub(super) fn new(uid: String, kind: usize, priority: i32, gated: bool) -> Self {
        Self {
            uid,
            kind,
            priority,
            nominated: None,
            attempts: 0,
            tried: None,
            // The queue activates all but those that are to stay aside.
            stage: if gated {
                Stage::Aside
            } else {
                Stage::Active(0)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue::new(Duration::from_secs(1), Duration::from_secs(10))
    }

    fn key(name: &str) -> Key {
        Key::new("d", name)
    }

    fn put(queue: &mut Queue, name: &str, priority: i32) {
        let pod = Pending::new(name.into(), 0, priority, false);
        queue.put(&key(name), pod, Instant::now());
    }

    fn next(queue: &mut Queue) -> Option<String> {
        queue.next(Instant::now()).map(|key| key.name.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_important_comes_first_and_then_who_came_first() {
        let mut queue = queue();
        for (name, priority) in [("b", 0), ("a", 0), ("c", 5)] {
            put(&mut queue, name, priority);
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(order, ["c", "b", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest_and_only_what_helps_wakes() {
        let mut queue = queue();
        put(&mut queue, "a", 0);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(next(&mut queue).as_deref(), Some("a"));
            let plugins = BTreeSet::from([Plugin::NodePorts]);
            queue.wait(&key("a"), plugins, Instant::now());
            let helps = |_, plugins: &BTreeSet<Plugin>| plugins.contains(&Plugin::NodeAffinity);
            queue.wake_if(helps, Instant::now());
            assert_eq!(queue.due(), Some(Instant::now() + FORGOTTEN));
            queue.wake_if(
                |_, plugins| plugins.contains(&Plugin::NodePorts),
                Instant::now(),
            );
            let pause = queue.due().unwrap() - Instant::now();
            pauses.push(pause.as_secs());
            tokio::time::advance(pause).await;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_is_tried_again() {
        let mut queue = queue();
        put(&mut queue, "a", 0);
        next(&mut queue);
        queue.wait(&key("a"), BTreeSet::new(), Instant::now());
        tokio::time::advance(FORGOTTEN - Duration::from_secs(1)).await;
        assert_eq!(next(&mut queue), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(next(&mut queue).as_deref(), Some("a"));
        queue.remove(&key("a"));
        assert!(queue.is_idle() && queue.due().is_none() && queue.pods.is_empty());
    }
}
