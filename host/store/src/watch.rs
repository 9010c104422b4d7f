//! Following the changes of a resource.
//!
//! A watcher owns a position, not a queue: changes stay in the one log that all watchers share and
//! are read from there in small portions. A watcher that does not read costs nothing, and if it
//! stays away longer than the log reaches back it is told so instead of missing something.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;

use crate::{Change, Expired, store::Shared};

/// Changes taken from the log at a time: enough to make taking the lock cheap, few enough that
/// thousands of slow watchers do not keep old states alive.
const PORTION: usize = 64;

/// The changes of one resource (and namespace), in order, each exactly once.
pub struct Watch {
    shared: Arc<Shared>,
    resource: Arc<str>,
    namespace: Option<Box<str>>,
    /// Ready when something changed; false if nothing ever will. Made when first waited for: who
    /// only looks now and then needs none.
    wake: Option<ReusableBoxFuture<'static, (bool, watch::Receiver<u64>)>>,
    /// Everything up to here was taken from the log.
    taken: u64,
    /// Everything up to here was given to the reader.
    given: u64,
    portion: VecDeque<Change>,
}

impl Watch {
    pub(crate) fn new(
        shared: Arc<Shared>,
        resource: Arc<str>,
        namespace: Option<&str>,
        after: u64,
    ) -> Self {
        Self {
            shared,
            resource,
            namespace: namespace.map(Box::from),
            wake: None,
            taken: after,
            given: after,
            portion: VecDeque::new(),
        }
    }

    /// The next change; waits for it. Cancel-safe: a dropped call loses nothing.
    pub async fn next(&mut self) -> Result<Change, Expired> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next change; if there is none yet the task is woken when there is.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Change, Expired>> {
        loop {
            if let Some(change) = self.try_next()? {
                return Poll::Ready(Ok(change));
            }
            let Some(wake) = &mut self.wake else {
                let receiver = self.shared.write().subscribe(&self.resource);
                self.wake = Some(ReusableBoxFuture::new(changed(receiver)));
                // What changed before the subscription does not wake: look once more.
                continue;
            };
            // What changed after the look is still unseen by the receiver, so that this is ready.
            let (alive, receiver) = ready!(wake.poll(context));
            if !alive {
                // The store is gone, and no change will come.
                wake.set(std::future::pending());
                return Poll::Pending;
            }
            wake.set(changed(receiver));
        }
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Change>, Expired> {
        if self.portion.is_empty() {
            self.take()?;
        }
        let change = self.portion.pop_front();
        self.given = change
            .as_ref()
            .map_or(self.taken, |change| change.object.revision);
        Ok(change)
    }

    /// The revision up to which [`Watch::next`] has given everything: what a bookmark says, and
    /// where another watch may resume.
    pub fn reached(&mut self) -> u64 {
        if self.portion.is_empty() {
            // An expired watch tells on the next call; until then it stays where it is.
            let _ = self.take();
            if self.portion.is_empty() {
                self.given = self.taken;
            }
        }
        self.given
    }

    fn take(&mut self) -> Result<(), Expired> {
        let (namespace, portion) = (self.namespace.as_deref(), &mut self.portion);
        let state = self.shared.read();
        let taken = state.changes(&self.resource, namespace, self.taken, PORTION, portion);
        drop(state);
        let counters = &self.shared.counters;
        match taken {
            Ok((taken, behind)) => {
                self.taken = taken;
                counters.lagged(behind);
                Ok(())
            }
            Err(expired) => {
                counters.expired();
                Err(expired)
            }
        }
    }
}

async fn changed(mut receiver: watch::Receiver<u64>) -> (bool, watch::Receiver<u64>) {
    let alive = receiver.changed().await.is_ok();
    (alive, receiver)
}
