//! Where changes are kept: a database that is a log.
//!
//! `changes` holds one row a write. A row is superfluous when a later row has the same key and the
//! resource's horizon (`horizons`) has passed that later row; the row of a deletion is superfluous
//! once the horizon has passed itself. Everything newer than the horizon is the watch log.
//! `reserved` says up to which revision renewals of a resource may have gone unwritten.
//!
//! The writer hands over batches; a backend stores each wholly or not at all. What the backends
//! share is what a row is: see [`row`].

pub(crate) mod keys;
#[cfg(feature = "postgres")]
mod postgres;
pub(crate) mod row;
pub(crate) mod salvage;
pub(crate) mod sqlite;
pub(crate) mod transfer;

use std::{collections::BTreeMap, path::Path, sync::Arc};

pub(crate) use row::{Found, Loaded, Loader};
use tokio::sync::Notify;

#[cfg(feature = "postgres")]
use self::postgres::Postgres;
use self::sqlite::Sqlite;
use crate::{Change, Codec, Extract, OpenError, WriteError, state::Trimmed};

/// What goes to the disk in one transaction.
pub(crate) struct Batch<'a> {
    /// The revision on which it was decided, which must still be the last one.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "SQLite has one writer")
    )]
    pub(crate) known: u64,
    pub(crate) changes: Vec<&'a Change>,
    /// Rows to delete, and the horizons that made them superfluous.
    pub(crate) compact: Option<&'a Trimmed>,
    /// Revisions to set aside for renewals, by resource.
    pub(crate) reserve: &'a BTreeMap<Arc<str>, u64>,
}

impl Batch<'_> {
    /// Rows to delete.
    pub(crate) fn compacted(&self) -> usize {
        self.compact.map_or(0, |compact| compact.revisions.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.compact.is_none() && self.reserve.is_empty()
    }
}

/// Why a batch was not stored. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("the disk is full: {0}")]
    Full(String),
    /// Another server wrote since: catch up, decide again, try again.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "SQLite has one writer")
    )]
    #[error("another server was faster")]
    Behind,
    /// The connection broke before the answer: it may have been stored, after all.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "SQLite always answers")
    )]
    #[error("the connection to the database broke: {0}")]
    Unknown(String),
    #[error("{0}")]
    Failed(String),
}

impl From<String> for AppendError {
    fn from(reason: String) -> Self {
        AppendError::Failed(reason)
    }
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Full(reason) => WriteError::Full(reason.into()),
            other => WriteError::Storage(other.to_string().into()),
        }
    }
}

/// What other servers wrote.
pub(crate) enum News {
    Changes(Vec<Found>),
    /// Too much to tell one by one: this is how things are now.
    #[cfg_attr(
        not(feature = "postgres"),
        expect(dead_code, reason = "SQLite has one writer")
    )]
    Everything(Box<Loaded>),
}

pub(crate) enum Journal {
    File(Sqlite),
    #[cfg(feature = "postgres")]
    Server(Box<Postgres>),
    /// A store in memory only.
    Nowhere,
}

impl Journal {
    /// Open the database file and read everything in it.
    pub(crate) async fn open(
        path: &Path,
        extract: Extract,
        codec: Arc<dyn Codec>,
    ) -> Result<(Self, Loaded), OpenError> {
        let (file, loaded) = Sqlite::open(path, extract, codec).await?;
        Ok((Self::File(file), loaded))
    }

    /// Connect to the database server at a URL and read everything in it.
    #[cfg(feature = "postgres")]
    pub(crate) async fn connect(
        url: &str,
        extract: Extract,
        codec: Arc<dyn Codec>,
    ) -> Result<(Self, Loaded), OpenError> {
        let (server, loaded) = Postgres::open(url, extract, codec).await?;
        Ok((Self::Server(Box::new(server)), loaded))
    }

    /// Store a batch, all or nothing. When this returns, it survives a power cut.
    pub(crate) async fn append(&mut self, batch: &Batch<'_>) -> Result<(), AppendError> {
        match self {
            Self::File(file) => file.append(batch).await,
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.append(batch).await,
            Self::Nowhere => Ok(()),
        }
    }

    /// Whether renewals may be shown before they are stored: only where nobody else reads the
    /// database.
    pub(crate) fn may_lag(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// What others wrote after the revision `known`.
    pub(crate) async fn catch_up(&mut self, known: u64) -> Result<News, AppendError> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.catch_up(known).await,
            _ => {
                let _ = known;
                Ok(News::Changes(Vec::new()))
            }
        }
    }

    /// Told when others have written; `None` where there are no others.
    pub(crate) fn news(&self) -> Option<Arc<Notify>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Server(server) => Some(server.news()),
            _ => None,
        }
    }

    /// Give space back to the file system if there is much.
    pub(crate) async fn tidy(&mut self) {
        match self {
            Self::File(file) => {
                file.tidy().await;
            }
            #[cfg(feature = "postgres")]
            Self::Server(_) => {}
            Self::Nowhere => {}
        }
    }

    #[cfg(test)]
    pub(crate) async fn limit_pages(&mut self, pages: u32) {
        match self {
            Self::File(file) => file.limit_pages(pages).await,
            #[cfg(feature = "postgres")]
            Self::Server(_) => {}
            Self::Nowhere => {}
        }
    }

    pub(crate) async fn close(self) {
        match self {
            Self::File(file) => file.close().await,
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.close().await,
            Self::Nowhere => {}
        }
    }
}
