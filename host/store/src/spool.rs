//! What pipelines have yet to deliver, in a SQLite file of its own.
//!
//! A queue is a sequence of numbered items, of which the first ones are done with. It lies in the file
//! as *parts*, each the items that were saved together: a row is some hundred items, so that a burst
//! costs a flash disk few pages, and taking from the front is a deletion by key. What an item is, is
//! its owner's business: the file has bytes.
//!
//! [`Spool::commit`] is one transaction with one fsync (`synchronous=FULL`): items, how far the queues
//! are, the states of steps and dead letters of all pipelines change together or not at all. When it
//! returns, they survive `kill -9` and power loss.
//!
//! ```text
//! queues:  id, pipeline, name, first            one row a queue
//! parts:   key = id << 44 | number of the first item, count, bytes, newest, body
//! states:  pipeline, stage, key, body
//! letters: id, pipeline, stage, at, reason, body
//! ```

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sqlx::{
    AssertSqlSafe, Connection, Row as _, SqliteConnection,
    sqlite::{SqliteRow, SqliteSynchronous},
};
use tokio::sync::{Mutex, MutexGuard};

use crate::{OpenError, journal::sqlite as journal};

const FORMAT: i64 = 1;
/// "EYSP" in the file's header.
const APPLICATION: i64 = 0x4559_5350;
/// Bits of a part's key that number its first item: at 100,000 a second enough for five years of
/// uninterrupted backlog, and the queue's own number has 19.
const NUMBER_BITS: u32 = 44;
const NUMBERS: i64 = (1 << NUMBER_BITS) - 1;
/// Letters that are kept of one pipeline: the oldest go first.
const LETTERS: i64 = 10_000;
/// Commits between two looks at how many pages are free.
const TIDY: u32 = 64;

/// The file. One per host.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connection: Option<SqliteConnection>,
    commits: u32,
}

/// Why something was not saved, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    #[error("the disk is full: {0}")]
    Full(String),
    #[error("{0}")]
    Failed(String),
}

/// A queue as it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub id: i64,
    pub name: String,
    /// Number of the first item that is not done with.
    pub first: u64,
    /// In order, without gaps unless items were discarded.
    pub parts: Vec<Part>,
}

/// Items that were saved together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Number of its first item.
    pub first: u64,
    pub count: u32,
    /// Of the body.
    pub bytes: u32,
    /// When its newest item came, in milliseconds since 1970.
    pub newest: u64,
}

/// A part to save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPart {
    pub part: Part,
    pub body: Bytes,
}

/// An item that never was delivered, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLetter {
    pub pipeline: String,
    pub stage: String,
    /// Milliseconds since 1970.
    pub at: u64,
    pub reason: String,
    pub body: Bytes,
}

/// A kept letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Grows with each letter.
    pub id: i64,
    pub stage: String,
    pub at: u64,
    pub reason: String,
    pub body: Bytes,
}

/// One of the things that a commit does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolChange {
    /// Items are added.
    Add {
        queue: i64,
        part: NewPart,
    },
    /// The items before `first` are done with.
    Done {
        queue: i64,
        first: u64,
    },
    /// A queue goes with all that is in it.
    Remove {
        queue: i64,
    },
    /// What a step remembers under a key; nothing any more if the body is empty.
    State {
        pipeline: String,
        stage: String,
        key: String,
        body: Bytes,
    },
    Letter(NewLetter),
    /// Letters that were taken care of.
    Forget {
        pipeline: String,
        letters: Vec<i64>,
    },
}

impl Spool {
    /// Keep items in the file at `path`, which is made when there is something to keep.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            open: Mutex::default(),
        }
    }

    /// Fold everything into the file and let go of it; the next call opens it again.
    pub async fn close(&self) {
        let Some(mut connection) = self.open.lock().await.connection.take() else {
            return;
        };
        let fold = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut connection)
            .await;
        if let Err(error) = fold.and(connection.close().await) {
            tracing::warn!(%error, "the pipelines' file was not closed cleanly; nothing is lost");
        }
    }

    /// The queues of a pipeline that have ever had something saved.
    pub async fn queues(&self, pipeline: &str) -> Result<Vec<Queue>, SpoolError> {
        if !self.exists().await {
            return Ok(Vec::new());
        }
        let mut open = self.open().await?;
        let connection = open.connection()?;
        let rows = sqlx::query("SELECT id, name, first FROM queues WHERE pipeline = ? ORDER BY id")
            .bind(pipeline)
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        let mut queues = Vec::with_capacity(rows.len());
        for row in rows {
            let id: i64 = row.try_get(0).map_err(failed)?;
            let sql = "SELECT key, count, bytes, newest FROM parts WHERE key BETWEEN ? AND ? ORDER BY key";
            let parts = sqlx::query(sql)
                .bind(id << NUMBER_BITS)
                .bind(id << NUMBER_BITS | NUMBERS)
                .fetch_all(&mut *connection)
                .await
                .map_err(failed)?;
            let parts = parts.iter().map(part).collect::<Result<_, _>>();
            queues.push(Queue {
                id,
                name: row.try_get(1).map_err(failed)?,
                first: row.try_get::<i64, _>(2).map_err(failed)?.cast_unsigned(),
                parts: parts.map_err(failed)?,
            });
        }
        Ok(queues)
    }

    /// Make a queue, or find the one that is there; answers its number.
    pub async fn queue(&self, pipeline: &str, name: &str) -> Result<i64, SpoolError> {
        let mut open = self.open().await?;
        let connection = open.connection()?;
        let sql = "INSERT INTO queues (pipeline, name, first) VALUES (?, ?, 0)
                   ON CONFLICT (pipeline, name) DO UPDATE SET first = first RETURNING id";
        let row = sqlx::query(sql)
            .bind(pipeline)
            .bind(name)
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        row.try_get(0).map_err(failed)
    }

    /// The body of a part; `None` if it is not there any more.
    pub async fn body(&self, queue: i64, first: u64) -> Result<Option<Bytes>, SpoolError> {
        let mut open = self.open().await?;
        let row = sqlx::query("SELECT body FROM parts WHERE key = ?")
            .bind(key(queue, first))
            .fetch_optional(open.connection()?)
            .await
            .map_err(failed)?;
        let body = row.map(|row| row.try_get::<&[u8], _>(0).map(Bytes::copy_from_slice));
        body.transpose().map_err(failed)
    }

    /// Do all of it, or nothing. When this returns, it survives a power cut.
    pub async fn commit(&self, changes: &[SpoolChange]) -> Result<(), SpoolError> {
        let mut open = self.open().await?;
        let connection = open.connection()?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        for change in changes {
            apply(&mut transaction, change).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        open.0.commits = open.0.commits.wrapping_add(1);
        if open.0.commits % TIDY == 0 {
            // What cannot be made smaller now can be later.
            let shrunk = journal::shrink(open.connection()?).await;
            shrunk.map(drop).unwrap_or_else(
                |error| tracing::debug!(%error, "the pipelines' file was not made smaller"),
            );
        }
        Ok(())
    }

    /// What the steps of a pipeline remember, by stage and key.
    pub async fn states(
        &self,
        pipeline: &str,
    ) -> Result<Vec<((String, String), Bytes)>, SpoolError> {
        if !self.exists().await {
            return Ok(Vec::new());
        }
        let mut open = self.open().await?;
        let rows = sqlx::query("SELECT stage, key, body FROM states WHERE pipeline = ?")
            .bind(pipeline)
            .fetch_all(open.connection()?)
            .await
            .map_err(failed)?;
        let state = |row: &SqliteRow| {
            let body = Bytes::copy_from_slice(row.try_get::<&[u8], _>(2)?);
            Ok(((row.try_get(0)?, row.try_get(1)?), body))
        };
        rows.iter()
            .map(state)
            .collect::<sqlx::Result<_>>()
            .map_err(failed)
    }

    /// Letters of a pipeline after the one with the number `after`, oldest first.
    pub async fn letters(
        &self,
        pipeline: &str,
        after: i64,
        most: usize,
    ) -> Result<Vec<Letter>, SpoolError> {
        if !self.exists().await {
            return Ok(Vec::new());
        }
        let mut open = self.open().await?;
        let sql = "SELECT id, stage, at, reason, body FROM letters
                   WHERE pipeline = ? AND id > ? ORDER BY id LIMIT ?";
        let rows = sqlx::query(sql)
            .bind(pipeline)
            .bind(after)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(open.connection()?)
            .await
            .map_err(failed)?;
        let letter = |row: &SqliteRow| {
            Ok(Letter {
                id: row.try_get(0)?,
                stage: row.try_get(1)?,
                at: row.try_get::<i64, _>(2)?.cast_unsigned(),
                reason: row.try_get(3)?,
                body: Bytes::copy_from_slice(row.try_get::<&[u8], _>(4)?),
            })
        };
        rows.iter()
            .map(letter)
            .collect::<sqlx::Result<_>>()
            .map_err(failed)
    }

    /// Forget the pipelines that are gone; answers how many items of theirs were not delivered, by
    /// pipeline.
    pub async fn forget(
        &self,
        is_gone: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, u64)>, SpoolError> {
        if !self.exists().await {
            return Ok(Vec::new());
        }
        let known = {
            let mut open = self.open().await?;
            let sql = "SELECT pipeline FROM queues UNION SELECT pipeline FROM states
                       UNION SELECT pipeline FROM letters";
            let rows = sqlx::query(sql).fetch_all(open.connection()?).await;
            let names = rows.map_err(failed)?;
            let names = names.iter().map(|row| row.try_get::<String, _>(0));
            names.collect::<sqlx::Result<Vec<_>>>().map_err(failed)?
        };
        let mut gone = Vec::new();
        for pipeline in known {
            if !is_gone(&pipeline) {
                continue;
            }
            let mut left = 0;
            let queues = self.queues(&pipeline).await?;
            for queue in &queues {
                let waiting = queue.parts.iter().map(|part| {
                    let end = part.first + u64::from(part.count);
                    end.saturating_sub(part.first.max(queue.first))
                });
                left += waiting.sum::<u64>();
            }
            let changes: Vec<SpoolChange> = queues
                .iter()
                .map(|queue| SpoolChange::Remove { queue: queue.id })
                .collect();
            self.commit(&changes).await?;
            let mut open = self.open().await?;
            for sql in [
                "DELETE FROM states WHERE pipeline = ?",
                "DELETE FROM letters WHERE pipeline = ?",
            ] {
                let deleting = sqlx::query(sql).bind(&pipeline);
                deleting.execute(open.connection()?).await.map_err(failed)?;
            }
            gone.push((pipeline, left));
        }
        Ok(gone)
    }

    async fn exists(&self) -> bool {
        tokio::fs::try_exists(&self.path).await.unwrap_or(true)
    }

    async fn open(&self) -> Result<Opened<'_>, SpoolError> {
        let mut open = self.open.lock().await;
        if open.connection.is_none() {
            let opened = connect(&self.path).await;
            open.connection = Some(opened.map_err(|error| SpoolError::Failed(error.to_string()))?);
        }
        Ok(Opened(open))
    }

    /// Let the file grow to so many pages only, as a full disk would.
    #[cfg(test)]
    async fn limit_pages(&self, pages: u32) {
        let mut open = self.open().await.unwrap();
        let sql = format!("PRAGMA max_page_count = {pages}");
        let limiting = sqlx::query(AssertSqlSafe(sql));
        limiting.execute(open.connection().unwrap()).await.unwrap();
    }
}

struct Opened<'a>(MutexGuard<'a, Open>);

impl Opened<'_> {
    fn connection(&mut self) -> Result<&mut SqliteConnection, SpoolError> {
        let closed = || SpoolError::Failed("the host is stopping".into());
        self.0.connection.as_mut().ok_or_else(closed)
    }
}

async fn connect(path: &Path) -> Result<SqliteConnection, OpenError> {
    let failed = |error| journal::unusable(path, error);
    let mut connection = journal::connect(path, SqliteSynchronous::Full).await?;
    let tables = "SELECT count(*) FROM sqlite_schema";
    if journal::number(&mut connection, tables, failed).await? == 0 {
        let sql = format!(
            "BEGIN;
             CREATE TABLE queues (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline TEXT NOT NULL, name TEXT NOT NULL,
                 first INTEGER NOT NULL, UNIQUE (pipeline, name));
             CREATE TABLE parts (
                 key INTEGER PRIMARY KEY, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
                 newest INTEGER NOT NULL, body BLOB NOT NULL);
             CREATE TABLE states (
                 pipeline TEXT NOT NULL, stage TEXT NOT NULL, key TEXT NOT NULL,
                 body BLOB NOT NULL, PRIMARY KEY (pipeline, stage, key));
             CREATE TABLE letters (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline TEXT NOT NULL, stage TEXT NOT NULL,
                 at INTEGER NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL);
             CREATE INDEX letters_of ON letters (pipeline, id);
             PRAGMA application_id = {APPLICATION};
             PRAGMA user_version = {FORMAT};
             COMMIT"
        );
        let made = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection);
        made.await.map_err(failed)?;
    }
    journal::format(&mut connection, path, APPLICATION, FORMAT).await?;
    Ok(connection)
}

fn key(queue: i64, number: u64) -> i64 {
    queue << NUMBER_BITS | number.cast_signed() & NUMBERS
}

fn part(row: &SqliteRow) -> sqlx::Result<Part> {
    let number = |column: usize| row.try_get::<i64, _>(column);
    let small = |column: usize| number(column).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    Ok(Part {
        first: (number(0)? & NUMBERS).cast_unsigned(),
        count: small(1)?,
        bytes: small(2)?,
        newest: number(3)?.cast_unsigned(),
    })
}

async fn apply(connection: &mut SqliteConnection, change: &SpoolChange) -> sqlx::Result<()> {
    match change {
        SpoolChange::Add { queue, part } => {
            sqlx::query("INSERT INTO parts VALUES (?, ?, ?, ?, ?)")
                .bind(key(*queue, part.part.first))
                .bind(i64::from(part.part.count))
                .bind(i64::from(part.part.bytes))
                .bind(part.part.newest.cast_signed())
                .bind(&part.body[..])
                .execute(&mut *connection)
                .await?;
        }
        SpoolChange::Done { queue, first } => {
            sqlx::query("UPDATE queues SET first = ? WHERE id = ?")
                .bind(first.cast_signed())
                .bind(queue)
                .execute(&mut *connection)
                .await?;
            // A part that reaches beyond stays as it is: the queue's own row says where it begins.
            sqlx::query("DELETE FROM parts WHERE key BETWEEN ? AND ? AND key + count <= ?")
                .bind(queue << NUMBER_BITS)
                .bind(key(*queue, *first))
                .bind(key(*queue, *first))
                .execute(&mut *connection)
                .await?;
        }
        SpoolChange::Remove { queue } => {
            sqlx::query("DELETE FROM parts WHERE key BETWEEN ? AND ?")
                .bind(queue << NUMBER_BITS)
                .bind(queue << NUMBER_BITS | NUMBERS)
                .execute(&mut *connection)
                .await?;
            sqlx::query("DELETE FROM queues WHERE id = ?")
                .bind(queue)
                .execute(&mut *connection)
                .await?;
        }
        SpoolChange::State {
            pipeline,
            stage,
            key,
            body,
        } => {
            let sql = match body.is_empty() {
                true => "DELETE FROM states WHERE pipeline = ? AND stage = ? AND key = ?",
                false => "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)",
            };
            let query = sqlx::query(sql).bind(pipeline).bind(stage).bind(key);
            let query = match body.is_empty() {
                true => query,
                false => query.bind(&body[..]),
            };
            query.execute(&mut *connection).await?;
        }
        SpoolChange::Letter(letter) => write_letter(connection, letter).await?,
        SpoolChange::Forget { pipeline, letters } => {
            let sql = "DELETE FROM letters
                       WHERE pipeline = ? AND id IN (SELECT value FROM json_each(?))";
            sqlx::query(sql)
                .bind(pipeline)
                .bind(serde_json::json!(letters).to_string())
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

async fn write_letter(connection: &mut SqliteConnection, letter: &NewLetter) -> sqlx::Result<()> {
    let sql = "INSERT INTO letters (pipeline, stage, at, reason, body) VALUES (?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(&letter.pipeline)
        .bind(&letter.stage)
        .bind(letter.at.cast_signed())
        .bind(&letter.reason)
        .bind(&letter.body[..])
        .execute(&mut *connection)
        .await?;
    let sql = "DELETE FROM letters WHERE pipeline = ?1 AND id <= (
                   SELECT id FROM letters WHERE pipeline = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    sqlx::query(sql)
        .bind(&letter.pipeline)
        .bind(LETTERS)
        .execute(&mut *connection)
        .await
        .map(drop)
}

fn failed(error: sqlx::Error) -> SpoolError {
    match journal::is_full(&error) {
        true => SpoolError::Full(error.to_string()),
        false => SpoolError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
