//! The one task that drives a reconciler.
//!
//! A reconciler only knows how to bring one object closer to what is wanted. When to look, at what,
//! how many at a time, and what to do when it fails is decided here, the same way for all: keys come
//! from changes in [`Cache`]s, are worked on once however often they were named, at most a few at
//! once and never one twice at a time, and come again after a growing delay if they failed. Retry
//! lives nowhere else.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{Cache, Change, Key, Queue};

/// The first delay after a failure; it doubles with each further one. Most failures are conflicts
/// with another writer, which are over at once.
const FIRST_DELAY: Duration = Duration::from_millis(10);
/// The longest delay: how long a repaired outside cause may go unnoticed.
const LAST_DELAY: Duration = Duration::from_secs(30);
/// Keys worked on at once unless told otherwise.
const CONCURRENCY: usize = 4;

/// Brings the world closer to what one object asks for.
///
/// It takes no input beside the key: it looks at the world, decides and acts. It must bear being
/// run at any time, again after it succeeded, and after it was killed half-way.
pub trait Reconciler: Send + Sync + 'static {
    type Error: std::error::Error + Send + 'static;

    /// For logs and status: `deployment`, `scheduler`.
    fn name(&self) -> &'static str;

    /// Look at one object, which may be gone, and act.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Requeue, Self::Error>> + Send;
}

/// When to look at the object again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// When something changes.
    OnChange,
    /// When something changes, and in any case after this time.
    After(Duration),
}

/// What a controller has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    pub reconciled: u64,
    pub failed: u64,
    /// The objects whose last reconciliation failed.
    pub failing: BTreeMap<Key, Failing>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// In a row.
    pub times: u32,
    /// The last error with its causes.
    pub error: String,
}

type Synced = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A reconciler, what it listens to, and its queue.
pub struct Controller<R> {
    reconciler: Arc<R>,
    queue: Queue,
    concurrency: usize,
    synced: Vec<Synced>,
    status: Arc<Mutex<Status>>,
}

impl<R: Reconciler> Controller<R> {
    pub fn new(reconciler: R) -> Self {
        Self {
            reconciler: Arc::new(reconciler),
            queue: Queue::default(),
            concurrency: CONCURRENCY,
            synced: Vec::new(),
            status: Arc::default(),
        }
    }

    /// Whenever something changes in the cache, look at the keys that `keys` names.
    pub fn on<K, I>(
        mut self,
        cache: &Cache<K>,
        keys: impl Fn(Change<'_, K>) -> I + Send + Sync + 'static,
    ) -> Self
    where
        K: Send + Sync + 'static,
        I: IntoIterator<Item = Key>,
    {
        let queue = self.queue.clone();
        cache.listen(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
        let cache = cache.clone();
        self.synced
            .push(Box::pin(async move { cache.synced().await }));
        self
    }

    /// Look at several objects at once, at most at so many.
    pub fn concurrency(mut self, limit: usize) -> Self {
        self.concurrency = limit.max(1);
        self
    }

    /// Use this queue, to which somebody else may have added keys already.
    pub fn with_queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// To name keys from elsewhere.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// The status, which stays current.
    pub fn status(&self) -> impl Fn() -> Status + Send + Sync + use<R> {
        let status = self.status.clone();
        move || {
            status
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }
    }

    /// Work until `stop` is cancelled, then finish what was begun. Waits for the caches first: a
    /// half-full cache would show objects without their dependents.
    pub async fn run(mut self, stop: CancellationToken) {
        let synced = futures::future::join_all(std::mem::take(&mut self.synced));
        if stop.run_until_cancelled(synced).await.is_none() {
            return;
        }
        let mut running = Running {
            tasks: JoinSet::new(),
            keys: HashMap::new(),
        };
        loop {
            let room = running.tasks.len() < self.concurrency;
            tokio::select! {
                key = self.queue.next(), if room => self.begin(key, &mut running),
                Some(ended) = running.tasks.join_next_with_id() => self.end(ended, &mut running),
                () = stop.cancelled() => break,
            }
        }
        while let Some(ended) = running.tasks.join_next_with_id().await {
            self.end(ended, &mut running);
        }
    }

    fn begin(&self, key: Key, running: &mut Running<R::Error>) {
        let reconciler = self.reconciler.clone();
        let span = tracing::debug_span!("reconcile", controller = reconciler.name(), %key);
        let of_task = key.clone();
        let task = async move {
            let begun = Instant::now();
            let result = reconciler.reconcile(&key).await;
            tracing::trace!(took = ?begun.elapsed(), ok = result.is_ok(), "reconciled");
            result
        };
        let handle = running.tasks.spawn(task.instrument(span));
        running.keys.insert(handle.id(), of_task);
    }

    fn end(&self, ended: Ended<R::Error>, running: &mut Running<R::Error>) {
        let (id, result) = match ended {
            Ok((id, Ok(requeue))) => (id, Ok(requeue)),
            Ok((id, Err(error))) => (id, Err(chain(&error))),
            Err(error) => (error.id(), Err(format!("the reconciler panicked: {error}"))),
        };
        let Some(key) = running.keys.remove(&id) else {
            return;
        };
        if let Some(delay) = self.record(&key, result) {
            self.queue.add_after(key.clone(), delay);
        }
        self.queue.done(&key);
    }

    /// Note the result; answers after which time to look again.
    fn record(&self, key: &Key, result: Result<Requeue, String>) -> Option<Duration> {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.reconciled += 1;
        match result {
            Ok(requeue) => {
                status.failing.remove(key);
                match requeue {
                    Requeue::OnChange => None,
                    Requeue::After(delay) => Some(delay),
                }
            }
            Err(error) => {
                status.failed += 1;
                let times = status.failing.get(key).map_or(0, |failing| failing.times) + 1;
                let delay = delay_after(times);
                let controller = self.reconciler.name();
                // The first few are mostly conflicts, and gone with the next try.
                if times > 3 {
                    tracing::warn!(controller, %key, times, ?delay, error, "reconciling fails");
                } else {
                    tracing::debug!(controller, %key, times, ?delay, error, "reconciling failed");
                }
                status.failing.insert(key.clone(), Failing { times, error });
                Some(delay)
            }
        }
    }
}

struct Running<E> {
    tasks: JoinSet<Result<Requeue, E>>,
    keys: HashMap<Id, Key>,
}

type Ended<E> = Result<(Id, Result<Requeue, E>), JoinError>;

/// The delay after so many failures in a row.
fn delay_after(times: u32) -> Duration {
    FIRST_DELAY
        .saturating_mul(2u32.saturating_pow(times.saturating_sub(1)))
        .min(LAST_DELAY)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors already say their cause.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Fails as often as told, then succeeds; reports each attempt with the time since the start.
    struct Flaky {
        failures: Mutex<u32>,
        start: tokio::time::Instant,
        seen: mpsc::UnboundedSender<(Key, Duration)>,
    }

    impl Reconciler for Flaky {
        type Error = std::io::Error;

        fn name(&self) -> &'static str {
            "flaky"
        }

        async fn reconcile(&self, key: &Key) -> Result<Requeue, Self::Error> {
            self.seen.send((key.clone(), self.start.elapsed())).unwrap();
            let mut left = self.failures.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                return Err(std::io::Error::other("not yet"));
            }
            Ok(Requeue::After(Duration::from_secs(60)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_again_after_doubling_delays_until_one_succeeds() {
        let (seen, mut attempts) = mpsc::unbounded_channel();
        let start = tokio::time::Instant::now();
        let controller = Controller::new(Flaky {
            failures: Mutex::new(3),
            start,
            seen,
        });
        let (queue, status, stop) = (
            controller.queue(),
            controller.status(),
            CancellationToken::new(),
        );
        let task = tokio::spawn(controller.run(stop.clone()));
        let key = Key::new("d", "a");
        queue.add(key.clone());
        let mut times = Vec::new();
        for _ in 0..4 {
            times.push(attempts.recv().await.unwrap().1.as_millis());
        }
        assert_eq!(times, [0, 10, 30, 70]);
        let (_, again) = attempts.recv().await.unwrap();
        assert_eq!(again.as_secs(), 60, "and comes again when it asked to");
        stop.cancel();
        task.await.unwrap();
        let status = status();
        assert_eq!(
            (status.reconciled, status.failed, status.failing.len()),
            (5, 3, 0)
        );
    }

    #[test]
    fn delays_double_up_to_the_limit() {
        assert_eq!(delay_after(1), FIRST_DELAY);
        assert_eq!(delay_after(3), FIRST_DELAY * 4);
        assert_eq!(delay_after(1000), LAST_DELAY);
    }
}
