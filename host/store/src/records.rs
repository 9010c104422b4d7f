//! What the support services keep: notifications and how each was delivered ([`notices`]), and what
//! schedule jobs have done ([`runs`]); in one SQLite file of their own.
//!
//! What these are is not known here: a row is what is searched for, and the rest as text. Each call is
//! one transaction, and what a call has acknowledged is on the disk. The file is opened on the first
//! use, so a host that notifies nobody has none.

mod notices;
mod runs;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, sqlite::SqliteRow};

use crate::{
    journal::sqlite as journal,
    on_use::{Layout, OnUse, Open},
};

pub use notices::{
    Attempt, Escalation, Interest, NewTransmission, Notification, NotificationFilter, Pending,
    Transmission, TransmissionFilter,
};
pub use runs::{Run, RunFilter};

const LAYOUT: Layout = Layout {
    // "EYRC"
    application: 0x4559_5243,
    format: 1,
    durable: true,
    // `waiting`: not distributed to its subscriptions yet. `due`: when to try (again); null if done.
    tables: "CREATE TABLE notifications (
                 seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
                 modified INTEGER NOT NULL, category TEXT NOT NULL, labels TEXT NOT NULL,
                 status TEXT NOT NULL, acknowledged INTEGER NOT NULL, waiting INTEGER NOT NULL,
                 body TEXT NOT NULL);
             CREATE INDEX waiting ON notifications (seq) WHERE waiting;
             CREATE TABLE transmissions (
                 seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, notification TEXT NOT NULL,
                 subscription TEXT NOT NULL, status TEXT NOT NULL, created INTEGER NOT NULL,
                 resends INTEGER NOT NULL, remaining INTEGER NOT NULL, pause INTEGER NOT NULL,
                 due INTEGER, channel TEXT NOT NULL, records TEXT NOT NULL);
             CREATE INDEX of_notification ON transmissions (notification);
             CREATE INDEX due ON transmissions (due) WHERE due IS NOT NULL;
             CREATE TABLE runs (
                 seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL,
                 step TEXT NOT NULL, action TEXT NOT NULL, status TEXT NOT NULL,
                 scheduled INTEGER NOT NULL, created INTEGER NOT NULL);
             CREATE INDEX of_job ON runs (job, step, scheduled);",
};

/// Why something could not be kept or found.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecordsError {
    /// There is one with this identifier already.
    #[error("{0} exists already")]
    Exists(String),
    /// There is none with this identifier.
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("it could not be stored or read: {0}; free disk space or repair the disk")]
    Storage(String),
}

/// The records of this host. Times are milliseconds since 1970.
#[derive(Debug)]
pub struct Records {
    file: OnUse,
}

/// Which part of what was found.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub offset: usize,
    pub limit: usize,
}

impl Part {
    fn sql(self) -> (i64, i64) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        (number(self.limit), number(self.offset))
    }
}

/// Rows of one kind, which a part of all that were found.
pub type Found<T> = (usize, Vec<T>);

impl Records {
    /// Keep records in the file at `path`, which is made when there is something to keep.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            file: OnUse::new(path.into(), LAYOUT),
        }
    }

    /// Whether anything was ever kept: whoever has work left from an earlier life asks this before
    /// the file is opened for nothing.
    pub async fn any(&self) -> bool {
        self.file.exists().await
    }

    pub async fn close(&self) {
        if let Err(error) = self.file.close().await {
            tracing::warn!(%error, "the records of the support services were not closed cleanly");
        }
    }

    async fn open(&self) -> Result<Open<'_>, RecordsError> {
        let opened = self.file.open().await;
        opened.map_err(|error| RecordsError::Storage(error.to_string()))
    }
}

fn failed(error: sqlx::Error) -> RecordsError {
    RecordsError::Storage(error.to_string())
}

/// `WHERE` of a search: each condition stands or falls with its argument.
#[derive(Default)]
struct Conditions {
    sql: Vec<&'static str>,
    arguments: Vec<Json>,
}

impl Conditions {
    fn add(&mut self, sql: &'static str, arguments: impl IntoIterator<Item = Json>) {
        self.sql.push(sql);
        self.arguments.extend(arguments);
    }

    fn of(&self, what: &str, then: &str) -> AssertSqlSafe<String> {
        let conditions = match self.sql.as_slice() {
            [] => "1".to_owned(),
            all => all.join(" AND "),
        };
        // Only texts of this program; what comes from outside is bound.
        AssertSqlSafe(format!("SELECT {what} WHERE {conditions} {then}"))
    }

    /// How many there are, and those of one part, in the order of their making.
    async fn find<T>(
        &self,
        connection: &mut SqliteConnection,
        columns: &str,
        table: &str,
        part: Part,
        read: fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Found<T>, RecordsError> {
        let count = self.of(&format!("count(*) FROM {table}"), "");
        let count = self.bound(sqlx::query(count));
        let count = count.fetch_one(&mut *connection).await.map_err(failed)?;
        let count: i64 = count.try_get(0).map_err(failed)?;
        let (limit, offset) = part.sql();
        let rows = self.of(
            &format!("{columns} FROM {table}"),
            "ORDER BY created, seq LIMIT ? OFFSET ?",
        );
        let rows = self.bound(sqlx::query(rows)).bind(limit).bind(offset);
        let rows = rows.fetch_all(connection).await.map_err(failed)?;
        let rows: sqlx::Result<Vec<T>> = rows.iter().map(read).collect();
        Ok((usize::try_from(count).unwrap_or(0), rows.map_err(failed)?))
    }

    fn bound<'q>(&self, mut query: Query<'q>) -> Query<'q> {
        for argument in &self.arguments {
            query = match argument {
                Json::Number(number) => query.bind(number.as_i64()),
                Json::Bool(truth) => query.bind(*truth),
                Json::String(text) => query.bind(text.clone()),
                other => query.bind(other.to_string()),
            };
        }
        query
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Give back what a deletion has made free.
async fn shrink(connection: &mut SqliteConnection) -> Result<(), RecordsError> {
    journal::shrink(connection).await.map(drop).map_err(failed)
}
