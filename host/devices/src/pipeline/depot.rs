//! The stocks of all pipelines, and the one task that saves them.
//!
//! The saver looks at all stocks a tick after something has come, and saves what has been there at the
//! look before: a pipeline that keeps up has delivered it by then, so its items never touch the disk.
//! All that is due goes to the disk in one transaction with one fsync. Whoever waits for items to be
//! safe makes it look at once, and those who come meanwhile share the next fsync.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_store::{Spool, SpoolError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    lane::Limits,
    stock::{Bell, Due, Stock},
};

/// Time between two looks.
const TICK: Duration = Duration::from_millis(20);
/// Time between two notes of how far queues are, if there is nothing else to save: a kill in between
/// lets so much be delivered once more.
const PROGRESS: Duration = Duration::from_millis(250);
/// Time until a disk that took nothing is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The stocks, by the UID of their pipeline. They outlive the runs of it.
pub(crate) struct Depot {
    spool: Arc<Spool>,
    bell: Arc<Bell>,
    stocks: Mutex<HashMap<String, Arc<Stock>>>,
}

impl Depot {
    pub(crate) fn new(spool: Arc<Spool>) -> Arc<Self> {
        Arc::new(Self {
            spool,
            bell: Arc::default(),
            stocks: Mutex::default(),
        })
    }

    pub(super) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    fn stocks(&self) -> MutexGuard<'_, HashMap<String, Arc<Stock>>> {
        self.stocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stock of a pipeline, read from the file when it is first asked for.
    pub(super) async fn stock(&self, pipeline: &str, source: Limits) -> Arc<Stock> {
        if let Some(known) = self.stocks().get(pipeline) {
            return known.clone();
        }
        let (spool, bell) = (self.spool.clone(), self.bell.clone());
        let stock = Arc::new(Stock::new(pipeline, source, spool, bell));
        if let Err(error) = stock.open().await {
            tracing::error!(pipeline, %error, "what the pipeline had saved cannot be read; trying again");
        }
        self.stocks().insert(pipeline.to_owned(), stock.clone());
        stock
    }

    /// The stock of a pipeline that runs or has run.
    pub(super) fn known(&self, pipeline: &str) -> Option<Arc<Stock>> {
        self.stocks().get(pipeline).cloned()
    }

    /// The pipelines that are gone take along what they have not delivered.
    pub(super) async fn forget(&self, is_gone: impl Fn(&str) -> bool) {
        self.stocks().retain(|pipeline, _| !is_gone(pipeline));
        match self.spool.forget(is_gone).await {
            Ok(gone) => {
                for (pipeline, items) in gone {
                    tracing::info!(pipeline, items, "a pipeline is gone with what it had saved");
                }
            }
            Err(error) => tracing::warn!(%error, "the remains of pipelines were not removed"),
        }
    }

    /// Save until `stop` is cancelled, and once more then.
    pub(super) async fn save(&self, stop: CancellationToken) {
        let mut noted = Instant::now();
        let mut more = false;
        loop {
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = self.bell.dirty.notified(), if !more => false,
                () = std::future::ready(()), if more => false,
                () = self.bell.urgent.notified() => {
                    // Not lost: asked for again below.
                    self.bell.urgent.notify_one();
                    false
                }
            };
            let urgent = stopped
                || tokio::select! {
                    () = tokio::time::sleep(TICK) => false,
                    () = self.bell.urgent.notified() => true,
                    () = stop.cancelled() => true,
                };
            let slow = noted.elapsed() >= PROGRESS;
            match self.round(urgent, slow || urgent).await {
                Ok((saved, left)) => {
                    more = left;
                    if saved && slow {
                        noted = Instant::now();
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "items of pipelines were not saved; trying again");
                    more = true;
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = stop.cancelled() => {}
                    }
                    if urgent && !stopped {
                        self.bell.urgent.notify_one();
                    }
                }
            }
            if stopped {
                return;
            }
        }
    }

    /// Save what is due. Whether there was anything, and whether there will be more.
    async fn round(&self, all: bool, slow: bool) -> Result<(bool, bool), SpoolError> {
        let stocks: Vec<Arc<Stock>> = self.stocks().values().cloned().collect();
        let (mut drafts, mut more) = (Vec::new(), false);
        for stock in stocks {
            match stock.draft(all, slow) {
                Due::Nothing { more: left } => more |= left,
                Due::Draft(draft) => {
                    // What came meanwhile is seen by the next look.
                    more = true;
                    drafts.push((stock, draft));
                }
            }
        }
        if drafts.is_empty() {
            return Ok((false, more));
        }
        let saving = async {
            let mut changes = Vec::new();
            for (stock, draft) in &mut drafts {
                changes.extend(stock.changes(draft).await?);
            }
            self.spool.commit(&changes).await
        };
        let outcome = saving.await;
        for (stock, draft) in &drafts {
            match &outcome {
                Ok(()) => stock.saved(draft),
                Err(error) => stock.unsaved(error),
            }
        }
        outcome.map(|()| (true, more))
    }
}
