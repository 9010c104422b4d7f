//! A SQLite file that is opened on its first use, for what many hosts never keep.

use std::path::PathBuf;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteSynchronous};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use crate::{OpenError, journal::sqlite as journal};

/// Whose file it is, and what is in a new one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// In the file's header, so that nobody else's file is taken for it.
    pub application: i64,
    pub format: i64,
    /// Whether what was written survives a power cut, at the price of a wait for the disk.
    pub durable: bool,
    /// Statements that make the tables.
    pub tables: &'static str,
}

#[derive(Debug)]
pub(crate) struct OnUse {
    path: PathBuf,
    layout: Layout,
    connection: Mutex<Option<SqliteConnection>>,
}

/// The file, for one user at a time.
pub(crate) type Open<'a> = MappedMutexGuard<'a, SqliteConnection>;

impl OnUse {
    pub(crate) fn new(path: PathBuf, layout: Layout) -> Self {
        Self {
            path,
            layout,
            connection: Mutex::default(),
        }
    }

    /// Whether anything was ever kept.
    pub(crate) async fn exists(&self) -> bool {
        tokio::fs::try_exists(&self.path).await.unwrap_or(true)
    }

    pub(crate) async fn open(&self) -> Result<Open<'_>, OpenError> {
        let held = self.connection.lock().await;
        let held = match MutexGuard::try_map(held, Option::as_mut) {
            Ok(open) => return Ok(open),
            Err(held) => held,
        };
        let connection = self.connect().await?;
        Ok(MutexGuard::map(held, |held| held.insert(connection)))
    }

    /// Fold everything into the file and let go of it; the next use opens it again.
    pub(crate) async fn close(&self) -> sqlx::Result<()> {
        let Some(mut connection) = self.connection.lock().await.take() else {
            return Ok(());
        };
        let fold = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut connection)
            .await;
        fold.and(connection.close().await)
    }

    async fn connect(&self) -> Result<SqliteConnection, OpenError> {
        let Layout {
            application,
            format,
            durable,
            tables,
        } = self.layout;
        let path = &self.path;
        let failed = |error| journal::unusable(path, error);
        let synchronous = match durable {
            true => SqliteSynchronous::Full,
            false => SqliteSynchronous::Normal,
        };
        let mut connection = journal::connect(path, synchronous).await?;
        let known = "SELECT count(*) FROM sqlite_schema";
        if journal::number(&mut connection, known, failed).await? == 0 {
            let sql = format!(
                "BEGIN;
                 {tables}
                 PRAGMA application_id = {application};
                 PRAGMA user_version = {format};
                 COMMIT"
            );
            let made = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection);
            made.await.map_err(failed)?;
        }
        journal::format(&mut connection, path, application, format).await?;
        Ok(connection)
    }
}
