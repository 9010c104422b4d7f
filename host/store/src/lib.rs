//! Revisioned objects, readings, what pipelines have yet to deliver, the values of guests and the
//! records of the support services, in SQLite or PostgreSQL. The only crate that knows SQL.
//!
//! The database is a log: one table of changes, in which the row with the highest revision of a key
//! is the object. A write is one appended row, without any index to keep, which is as little as a
//! flash disk can be asked to do; [`Store::watch`] resumes from the same rows after a restart; and
//! compaction deletes rows that were superseded and fell out of the log.
//!
//! Who reads reads from memory. Who writes hands over to one writer task, which checks conditions
//! against memory in the order of arrival, stores all writes that wait in one transaction with one
//! fsync, and only then shows them to anybody: what was acknowledged, listed or watched is on the
//! disk.
//!
//! Of Kubernetes' shape the store knows `metadata.labels`, `metadata.resourceVersion` and the line
//! in which a watch tells of an object; all else is the API server's business.

mod codec;
mod draft;
mod error;
mod group;
mod herald;
mod index;
mod journal;
mod keyvalues;
mod lean;
mod lock;
mod log;
mod object;
mod on_use;
mod readings;
pub mod records;
mod spool;
mod state;
mod stats;
mod store;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

/// Copies of whole stores.
pub mod transfer {
    pub use crate::journal::transfer::{Revisions, Side, copy, copy_file, hold, tally};
}

pub use codec::{Codec, Decoded, Plain};
pub use error::{Expired, OpenError, ReadingsError, WriteError};
pub use index::{IntoObjects, Objects, Snapshot};
pub use journal::{
    keys::{SharedKeys, share_keys, shared_keys},
    salvage::{Salvaged, salvage},
    transfer::{Place, Tally, TransferError},
};
pub use keyvalues::KeyValues;
pub use object::{Change, ChangeKind, Extract, Key, Object, Pairs};
pub use readings::{
    EVENTS_AT_MOST, Filter, Found, Latest, PAGE, Page, ReadingEvent, ReadingSlice, Readings,
    Retention, SourceRetention,
};
pub use records::{Records, RecordsError};
pub use spool::{Letter, NewLetter, NewPart, Part, Queue, Spool, SpoolChange, SpoolError};
pub use state::Mark;
pub use stats::{Histogram, ResourceStats, Stats};
pub use store::Store;
pub use watch::Watch;
