//! Why opening or writing failed, in words that say what to do.

use std::{path::PathBuf, sync::Arc};

use crate::Object;

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "data directory {dir}: {source}; it must exist or be creatable, and be readable and writable by this user"
    )]
    Directory {
        dir: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "data directory {dir} is in use by another process{holder}; end that, or choose another data directory"
    )]
    InUse { dir: PathBuf, holder: String },
    #[error("{path} is not a database of Eyot; move it away, or choose another data directory")]
    Foreign { path: PathBuf },
    #[error(
        "{path} was written by a newer Eyot (format {found}, this one knows {known}); use that version or a later one"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error(
        "{path} was written by an older Eyot (format {found}, this one knows {known}); start this one on it once"
    )]
    Older {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error(
        "{path} is damaged: {reason}; restore it from a backup, or keep what can still be read: eyot salvage {path}"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("{server}: {reason}; check that the server runs, and the credentials are right")]
    Server { server: String, reason: String },
    #[error(
        "this Eyot was built without PostgreSQL; build it with the feature `postgres`, or give a path"
    )]
    NoServers,
    #[error("opening {path}: {reason}; check that the disk is not full and the file is writable")]
    Database { path: PathBuf, reason: String },
}

/// Why a write did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// Create: there is one already.
    #[error("{} exists already", .0.key)]
    Exists(Arc<Object>),
    /// Update or delete: there is none.
    #[error("it does not exist")]
    NotFound,
    /// Update or delete: the object was written since the expected revision.
    #[error("{} was changed at revision {}", current.key, current.revision)]
    Conflict { current: Arc<Object> },
    /// The value is no JSON object, or its `metadata` is none.
    #[error("the value must be a JSON object with metadata")]
    Malformed,
    #[error("the object is {size} bytes long, {limit} are the limit; split it")]
    TooLarge { size: usize, limit: usize },
    /// The disk is full. Nothing has changed, reads go on, and once there is room so do writes.
    #[error("the write could not be stored: {0}; free some disk space, then try again")]
    Full(Arc<str>),
    /// The disk failed. Nothing has changed; the same write may be tried again.
    #[error("the write could not be stored: {0}; repair the disk, then try again")]
    Storage(Arc<str>),
    /// The store was closed.
    #[error("the store is closed: the host is stopping")]
    Closed,
}

/// The changes after the asked revision are not (or no longer) known: list again, and watch from
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} (oldest: {oldest})")]
pub struct Expired {
    pub asked: u64,
    /// The oldest revision that a watch may start after.
    pub oldest: u64,
}

/// Why readings could not be kept or found.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadingsError {
    #[error("readings could not be stored or read: {0}; free disk space or repair the disk")]
    Storage(Arc<str>),
    #[error("a reading's range lies outside its event's body ({0})")]
    Range(String),
    #[error("the store is closed: the host is stopping")]
    Closed,
}
