//! The log: a bounded queue, and the thread that writes what is in it.
//!
//! Requests never wait for the disk. What comes while the queue is full, or cannot be written, is
//! dropped, counted in the metrics, and told in the program's own log when it begins and when it
//! ends.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    event::Event,
    file::{Lines, LogOptions, Unwritten},
};

/// Bytes that waiting events may hold.
const WAITING: usize = 32 * 1024 * 1024;
/// What comes within this time is written together.
const BATCH: Duration = Duration::from_millis(20);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the audit log {path} cannot be opened")]
    File { path: PathBuf, source: io::Error },
    #[error("no thread could be started for the audit log")]
    Thread(#[source] io::Error),
}

/// Takes events and writes them to a file. Ends, with all written, when it is closed or dropped.
pub struct AuditLog {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    counts: Counts,
}

/// What became of events since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// All that were to be written.
    pub(super) events: AtomicU64,
    /// Those that were not.
    pub(super) dropped: AtomicU64,
}

#[derive(Default)]
struct Queue {
    events: Vec<Event>,
    weight: usize,
    is_closed: bool,
    /// Whether the last event found no room.
    is_full: bool,
}

impl AuditLog {
    /// Open the file and start the thread that writes it.
    pub fn open(options: LogOptions) -> Result<AuditLog, LogError> {
        let path = options.path.clone();
        let lines = Lines::open(options).map_err(|source| LogError::File { path, source })?;
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("eyot-audit".to_owned())
            .spawn({
                let shared = shared.clone();
                move || write_all(&shared, lines)
            })
            .map_err(LogError::Thread)?;
        Ok(AuditLog {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Write what is waiting and end. Blocks until that is done; what comes later is dropped.
    pub fn close(&self) {
        self.shared.queue().is_closed = true;
        self.shared.wake.notify_one();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }

    pub(super) fn add(&self, event: Event) {
        let shared = &self.shared;
        shared.counts.events.fetch_add(1, Ordering::Relaxed);
        let weight = event.weight();
        let mut queue = shared.queue();
        if queue.is_closed || queue.weight + weight > WAITING {
            shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
            let begins = !queue.is_closed && !std::mem::replace(&mut queue.is_full, true);
            drop(queue);
            if begins {
                tracing::error!(
                    "audit events come faster than they can be written; some are dropped"
                );
            }
            return;
        }
        let is_first = queue.events.is_empty();
        queue.is_full = false;
        queue.weight += weight;
        queue.events.push(event);
        drop(queue);
        if is_first {
            shared.wake.notify_one();
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; `None` once all is written and the log is closed.
    fn take(&self) -> Option<Vec<Event>> {
        let mut queue = self.queue();
        while queue.events.is_empty() {
            if queue.is_closed {
                return None;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !queue.is_closed {
            let waited = self
                .wake
                .wait_timeout_while(queue, BATCH, |queue| !queue.is_closed);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.weight = 0;
        Some(std::mem::take(&mut queue.events))
    }
}

fn write_all(shared: &Shared, mut file: Lines) {
    let mut is_failing = false;
    while let Some(events) = shared.take() {
        let lines: Vec<Vec<u8>> = events.iter().filter_map(Event::line).collect();
        drop(events);
        match file.write(&lines) {
            Ok(()) if std::mem::replace(&mut is_failing, false) => {
                let dropped = shared.counts.dropped.load(Ordering::Relaxed);
                tracing::warn!(dropped, "the audit log can be written again");
            }
            Ok(()) => {}
            Err(Unwritten { lines, error }) => {
                shared
                    .counts
                    .dropped
                    .fetch_add(lines as u64, Ordering::Relaxed);
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(%error, "the audit log cannot be written; events are dropped");
                }
            }
        }
    }
}
