//! Waking those who wait for changes.
//!
//! To wake a watcher costs a microsecond or two of somebody's time. Where few wait, the writer does
//! it itself, at once. Where many wait, it hands that to a task of its own, which then rests in
//! proportion to how many it woke: the changes of the pause are told together. So a thousand
//! watchers of a busy resource take a share of the processor, not all of it, and never the writer's
//! time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

/// Up to so many watchers are woken by the writer.
const FEW: usize = 16;
/// Messages to the herald that wait; beyond, the writer helps itself.
const QUEUE: usize = 1024;
/// Pause for each watcher that was woken, which costs about that much to serve...
const REST: Duration = Duration::from_micros(3);
/// ...but nobody waits longer than this.
const REST_AT_MOST: Duration = Duration::from_millis(5);

/// A resource with its waker and the revision up to which there is news.
type News = (Arc<str>, watch::Sender<u64>, u64);

pub(crate) struct Herald(mpsc::Sender<News>);

impl Herald {
    pub(crate) fn start() -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(queue));
        Self(sender)
    }

    /// Wake the watchers of a resource, now or very soon.
    pub(crate) fn wake(&self, resource: Arc<str>, waker: watch::Sender<u64>, revision: u64) {
        let news = match waker.receiver_count() {
            0 => return,
            1..=FEW => (resource, waker, revision),
            _ => match self.0.try_send((resource, waker, revision)) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(news)) => news,
                Err(mpsc::error::TrySendError::Closed(news)) => news,
            },
        };
        news.1.send_replace(news.2);
    }
}

async fn run(mut queue: mpsc::Receiver<News>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, QUEUE).await > 0 {
        let mut latest = BTreeMap::new();
        for (resource, waker, revision) in waiting.drain(..) {
            latest.insert(resource, (waker, revision));
        }
        let mut woken = 0;
        for (waker, revision) in latest.into_values() {
            woken += waker.receiver_count();
            waker.send_replace(revision);
        }
        let woken = u32::try_from(woken).unwrap_or(u32::MAX);
        tokio::time::sleep(REST.saturating_mul(woken).min(REST_AT_MOST)).await;
    }
}
