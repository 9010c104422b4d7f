//! Following the changes of a resource.
//!
//! A watcher owns a position, not a queue: changes stay in the one log that all watchers share and
//! are read from there in small portions. A watcher that does not read costs nothing, and if it
//! stays away longer than the log reaches back it is told so instead of missing something.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::watch;

use crate::{Change, Expired, store::Shared};

/// Changes taken from the log at a time: enough to make taking the lock cheap, few enough that
/// thousands of slow watchers do not keep old states alive.
const PORTION: usize = 64;

/// The changes of one resource (and namespace), in order, each exactly once.
pub struct Watch {
    shared: Arc<Shared>,
    resource: Arc<str>,
    namespace: Option<Box<str>>,
    wake: watch::Receiver<u64>,
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
        wake: watch::Receiver<u64>,
        after: u64,
    ) -> Self {
        let namespace = namespace.map(Box::from);
        let portion = VecDeque::new();
        Self {
            shared,
            resource,
            namespace,
            wake,
            taken: after,
            given: after,
            portion,
        }
    }

    /// The next change; waits for it. Cancel-safe: a dropped call loses nothing.
    pub async fn next(&mut self) -> Result<Change, Expired> {
        loop {
            if let Some(change) = self.portion.pop_front() {
                self.given = change.object.revision;
                return Ok(change);
            }
            self.given = self.given.max(self.taken);
            // Mark before looking, so that a change between looking and waiting wakes again.
            self.wake.mark_unchanged();
            self.take()?;
            if self.portion.is_empty() && self.wake.changed().await.is_err() {
                // The store is gone, and no change will come.
                std::future::pending::<()>().await;
            }
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
        let state = self.shared.read();
        let namespace = self.namespace.as_deref();
        self.taken = state.changes(
            &self.resource,
            namespace,
            self.taken,
            PORTION,
            &mut self.portion,
        )?;
        Ok(())
    }
}
