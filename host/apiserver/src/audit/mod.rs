//! The audit log: who did what, when, and what became of it, as `audit.k8s.io/v1` events.
//!
//! A [`Policy`] says of which requests how much is recorded; the [`AuditLog`] writes it. What a request
//! leaves behind is gathered by its [`Trail`], which is nothing at all where there is no policy: no
//! request then pays for it. Those whom a request passes (the authorizer, admission, webhooks) add
//! their findings to its [`Notes`](crate::admission::Notes).

mod body;
mod event;
mod file;
mod id;
mod log;
mod policy;
mod trail;

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use self::{
    file::LogOptions,
    log::{AuditLog, LogError},
    policy::{Level, Policy},
};
pub(crate) use self::{
    id::{HEADER as ID_HEADER, of as id_of},
    trail::{Trail, attempted},
};
use crate::metrics::head;

/// What is recorded, and where it goes. Clones share both.
#[derive(Clone)]
pub struct Audit(Arc<Parts>);

struct Parts {
    policy: Policy,
    log: AuditLog,
    /// Requests by level, in the order of [`Level::ALL`].
    levels: [AtomicU64; Level::ALL.len()],
}

impl Audit {
    pub fn new(policy: Policy, log: AuditLog) -> Audit {
        Audit(Arc::new(Parts {
            policy,
            log,
            levels: Default::default(),
        }))
    }

    /// Write what is waiting and end; see [`AuditLog::close`].
    pub fn close(&self) {
        self.0.log.close();
    }

    fn count(&self, level: Level) {
        if let Some(count) = self.0.levels.get(level as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The part of `/metrics` that is about audit.
    pub(crate) fn write_metrics(&self, page: &mut String) -> std::fmt::Result {
        let counts = self.0.log.counts();
        let (events, dropped) = (
            counts.events.load(Ordering::Relaxed),
            counts.dropped.load(Ordering::Relaxed),
        );
        let name = "apiserver_audit_event_total";
        let help = "Counter of audit events generated and sent to the audit backend.";
        head(page, name, "counter", help)?;
        writeln!(page, "{name} {events}")?;
        let name = "apiserver_audit_error_total";
        let help = "Counter of audit events that failed to be audited properly.";
        head(page, name, "counter", help)?;
        writeln!(page, "{name}{{plugin=\"log\"}} {dropped}")?;
        let name = "apiserver_audit_level_total";
        head(
            page,
            name,
            "counter",
            "Counter of policy levels for audit events.",
        )?;
        for (level, count) in Level::ALL.iter().zip(&self.0.levels) {
            let (level, count) = (level.name(), count.load(Ordering::Relaxed));
            writeln!(page, "{name}{{level=\"{level}\"}} {count}")?;
        }
        Ok(())
    }
}
