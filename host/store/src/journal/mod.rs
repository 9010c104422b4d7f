//! Where changes are kept: a database that is a log.
//!
//! `changes` holds one row a write. A row is superfluous when a later row has the same key and the
//! resource's horizon (`horizons`) has passed that later row; the row of a deletion is superfluous
//! once the horizon has passed itself. Everything newer than the horizon is the watch log.
//! `reserved` says up to which revision renewals of a resource may have gone unwritten.
//!
//! The writer hands over batches; a backend stores each wholly or not at all. What the backends
//! share is what a row is: see [`row`].

pub(crate) mod row;
pub(crate) mod sqlite;

use std::{collections::BTreeMap, path::Path, sync::Arc};

pub(crate) use row::{Loaded, Loader};

use self::sqlite::Sqlite;
use crate::{Change, Codec, Extract, OpenError, WriteError, state::Trimmed};

/// What goes to the disk in one transaction.
pub(crate) struct Batch<'a> {
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
            AppendError::Failed(reason) => WriteError::Storage(reason.into()),
        }
    }
}

pub(crate) enum Journal {
    File(Sqlite),
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

    /// Store a batch, all or nothing. When this returns, it survives a power cut.
    pub(crate) async fn append(&mut self, batch: &Batch<'_>) -> Result<(), AppendError> {
        match self {
            Self::File(file) => file.append(batch).await,
            Self::Nowhere => Ok(()),
        }
    }

    /// Whether renewals may be shown before they are stored: only where nobody else reads the
    /// database.
    pub(crate) fn may_lag(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Give space back to the file system if there is much.
    pub(crate) async fn tidy(&mut self) {
        match self {
            Self::File(file) => drop(file.tidy().await),
            Self::Nowhere => {}
        }
    }

    #[cfg(test)]
    pub(crate) async fn limit_pages(&mut self, pages: u32) {
        match self {
            Self::File(file) => file.limit_pages(pages).await,
            Self::Nowhere => {}
        }
    }

    pub(crate) async fn close(self) {
        match self {
            Self::File(file) => file.close().await,
            Self::Nowhere => {}
        }
    }
}
