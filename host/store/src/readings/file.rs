//! The file of the readings: one appended row an event, and the latest readings that outlived
//! their events.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow, SqliteSynchronous},
};

use super::{
    Latest, ReadingEvent, ReadingSlice,
    index::{Saved, Superfluous},
};
use crate::{OpenError, ReadingsError, journal::sqlite as journal};

/// Rows in one statement: more make it no faster.
const ROWS: usize = 64;
/// 2: with the source of each event.
const FORMAT: i64 = 2;
/// "EYRD" in the file's header.
const APPLICATION: i64 = 0x4559_5244;

/// What is asked of the table: always rows by their numbers, which the index in memory finds.
pub(super) const ROWS_OF: &str =
    "SELECT * FROM events WHERE seq IN (SELECT value FROM json_each(?))";
pub(super) const DELETE_BEFORE: &str = "DELETE FROM events WHERE seq < ?";
pub(super) const DELETE_ROWS: &str =
    "DELETE FROM events WHERE seq IN (SELECT value FROM json_each(?))";

/// An event as it is stored.
pub(super) struct Row {
    pub(super) seq: u64,
    pub(super) origin: u64,
    pub(super) id: String,
    pub(super) device: Arc<str>,
    pub(super) source: Arc<str>,
    pub(super) readings: Vec<ReadingSlice>,
    pub(super) body: Bytes,
}

impl Row {
    pub(super) fn reading(&self, at: usize) -> Option<Bytes> {
        let range = self.readings.get(at)?.range.clone();
        self.body.get(range.clone())?;
        Some(self.body.slice(range))
    }
}

pub(super) struct File {
    connection: Connected,
    next: u64,
}

enum Connected {
    Yes(SqliteConnection),
    /// In memory, made on the first use.
    NotYet,
    Closed,
}

impl File {
    pub(super) fn in_memory() -> Self {
        Self {
            connection: Connected::NotYet,
            next: 1,
        }
    }

    pub(super) async fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |error| journal::unusable(path, error);
        let mut connection = journal::connect(path, SqliteSynchronous::Normal).await?;
        let tables = "SELECT count(*) FROM sqlite_schema";
        if journal::number(&mut connection, tables, failed).await? == 0 {
            create(&mut connection).await.map_err(failed)?;
        }
        let found = journal::format(&mut connection, path, APPLICATION, FORMAT).await?;
        if found < 2 {
            upgrade(&mut connection).await.map_err(failed)?;
        }
        let last = "SELECT coalesce(max(seq), 0) FROM events";
        let last = journal::number(&mut connection, last, failed).await?;
        Ok(Self {
            connection: Connected::Yes(connection),
            next: last.cast_unsigned() + 1,
        })
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, ReadingsError> {
        if let Connected::NotYet = self.connection {
            let options = SqliteConnectOptions::from_str("sqlite::memory:").map_err(failed)?;
            let options = options.disable_statement_logging();
            let mut connection = options.connect().await.map_err(failed)?;
            create(&mut connection).await.map_err(failed)?;
            self.connection = Connected::Yes(connection);
        }
        match &mut self.connection {
            Connected::Yes(connection) => Ok(connection),
            _ => Err(ReadingsError::Closed),
        }
    }

    /// Hand over everything: the latest readings saved apart, then the events one by one in the
    /// order of their numbers.
    pub(super) async fn load(
        &mut self,
        mut latest: impl FnMut(Saved),
        mut event: impl FnMut(Row),
    ) -> Result<(), ReadingsError> {
        let connection = self.connection().await?;
        let rows = sqlx::query("SELECT device, resource, origin, body FROM latest");
        for row in rows.fetch_all(&mut *connection).await.map_err(failed)? {
            let device: Arc<str> = Arc::from(row.try_get::<&str, _>(0).map_err(failed)?);
            let resource: Arc<str> = Arc::from(row.try_get::<&str, _>(1).map_err(failed)?);
            let origin = row.try_get::<i64, _>(2).map_err(failed)?.cast_unsigned();
            let body = Bytes::copy_from_slice(row.try_get::<&[u8], _>(3).map_err(failed)?);
            latest((device, resource, Latest { origin, body }));
        }
        let mut rows = sqlx::query("SELECT * FROM events ORDER BY seq").fetch(connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            event(read(&row)?);
        }
        Ok(())
    }

    /// Store events, all or none; answers the number of the first.
    pub(super) async fn append(&mut self, events: &[ReadingEvent]) -> Result<u64, ReadingsError> {
        let first = self.next;
        let connection = self.connection().await?;
        match events.len() {
            // One statement is a transaction by itself, in a third of the steps.
            ..=ROWS => insert(connection, first, events).await.map_err(failed)?,
            _ => {
                let mut transaction = connection.begin().await.map_err(failed)?;
                let mut seq = first;
                for chunk in events.chunks(ROWS) {
                    insert(&mut transaction, seq, chunk).await.map_err(failed)?;
                    seq += chunk.len() as u64;
                }
                transaction.commit().await.map_err(failed)?;
            }
        }
        self.next = first + events.len() as u64;
        Ok(first)
    }

    /// The rows with these numbers.
    pub(super) async fn rows(
        &mut self,
        wanted: impl Iterator<Item = u64>,
    ) -> Result<HashMap<u64, Row>, ReadingsError> {
        rows(self.connection().await?, wanted).await
    }

    /// The one row among the candidates with this id.
    pub(super) async fn find(
        &mut self,
        candidates: &[u64],
        id: &str,
    ) -> Result<Option<(u64, Bytes)>, ReadingsError> {
        if candidates.is_empty() {
            return Ok(None);
        }
        Ok(with_id(self.rows(candidates.iter().copied()).await?, id))
    }

    /// Delete what is superfluous, saving readings that are in it.
    pub(super) async fn trim(&mut self, superfluous: &Superfluous) -> Result<(), ReadingsError> {
        let before = i64::try_from(superfluous.before).unwrap_or(i64::MAX);
        let connection = self.connection().await?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        save(&mut transaction, &superfluous.latest)
            .await
            .map_err(failed)?;
        if before > 0 {
            sqlx::query(DELETE_BEFORE)
                .bind(before)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        if !superfluous.rows.is_empty() {
            delete(&mut transaction, &superfluous.rows)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        journal::shrink(connection).await.map(drop).map_err(failed)
    }

    /// Delete these rows, saving readings that are in them.
    pub(super) async fn remove(
        &mut self,
        gone: &[u64],
        saved: &[Saved],
    ) -> Result<(), ReadingsError> {
        let connection = self.connection().await?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        save(&mut transaction, saved).await.map_err(failed)?;
        delete(&mut transaction, gone).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        journal::shrink(connection).await.map(drop).map_err(failed)
    }

    pub(super) async fn close(&mut self) {
        let connection = std::mem::replace(&mut self.connection, Connected::Closed);
        let Connected::Yes(mut connection) = connection else {
            return;
        };
        let fold = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut connection)
            .await;
        if let Err(error) = fold.and(connection.close().await) {
            tracing::warn!(%error, "the readings were not closed cleanly");
        }
    }
}

/// Reads beside the one connection that writes, so that a long answer holds up no event. What is in
/// memory only has one connection: its file reads itself.
pub(super) struct Reader {
    path: Option<PathBuf>,
    connection: Option<SqliteConnection>,
}

impl Reader {
    pub(super) fn new(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            connection: None,
        }
    }

    /// Its connection, made on the first use. `None` if the file is to be asked.
    pub(super) async fn connection(
        &mut self,
    ) -> Result<Option<&mut SqliteConnection>, ReadingsError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        if self.connection.is_none() {
            let connection = journal::connect(path, SqliteSynchronous::Normal).await;
            let connection =
                connection.map_err(|error| ReadingsError::Storage(error.to_string().into()))?;
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut())
    }

    /// To be called before the file is closed.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the readings were not closed cleanly");
        }
    }
}

/// The rows with these numbers.
pub(super) async fn rows(
    connection: &mut SqliteConnection,
    wanted: impl Iterator<Item = u64>,
) -> Result<HashMap<u64, Row>, ReadingsError> {
    let wanted = serde_json::Value::from_iter(wanted).to_string();
    let rows = sqlx::query(ROWS_OF)
        .bind(wanted)
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    let rows = rows.iter().map(|row| read(row).map(|row| (row.seq, row)));
    rows.collect()
}

/// The number and the body of the one row with this id.
pub(super) fn with_id(rows: HashMap<u64, Row>, id: &str) -> Option<(u64, Bytes)> {
    let mut rows = rows.into_values();
    rows.find(|row| row.id == id).map(|row| (row.seq, row.body))
}

/// Add a few rows, numbered from this.
async fn insert(
    connection: &mut SqliteConnection,
    first: u64,
    events: &[ReadingEvent],
) -> sqlx::Result<()> {
    let rows = vec!["(?,?,?,?,?,?,?)"; events.len()].join(",");
    let sql = format!("INSERT INTO events VALUES {rows}");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for (seq, event) in (first..).zip(events) {
        query = query
            .bind(seq.cast_signed())
            .bind(event.origin.cast_signed())
            .bind(&*event.id)
            .bind(event.device.clone())
            .bind(slices(&event.readings))
            .bind(&event.body[..])
            .bind(event.source.clone());
    }
    query.execute(connection).await.map(drop)
}

async fn create(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let sql = format!(
        "BEGIN;
         CREATE TABLE events (
             seq INTEGER PRIMARY KEY, origin INTEGER NOT NULL, id TEXT NOT NULL,
             device TEXT NOT NULL, slices TEXT NOT NULL, body BLOB NOT NULL,
             source TEXT NOT NULL DEFAULT '');
         CREATE TABLE latest (
             device TEXT NOT NULL, resource TEXT NOT NULL, origin INTEGER NOT NULL,
             body BLOB NOT NULL, PRIMARY KEY (device, resource)) WITHOUT ROWID;
         PRAGMA application_id = {APPLICATION};
         PRAGMA user_version = {FORMAT};
         COMMIT"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

/// Bring a file of format 1 up to date. Its events have no known source; they go with time.
async fn upgrade(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let sql = "BEGIN;
         ALTER TABLE events ADD COLUMN source TEXT NOT NULL DEFAULT '';
         PRAGMA user_version = 2;
         COMMIT";
    sqlx::raw_sql(sql).execute(connection).await.map(drop)
}

async fn delete(connection: &mut SqliteConnection, rows: &[u64]) -> sqlx::Result<()> {
    sqlx::query(DELETE_ROWS)
        .bind(serde_json::json!(rows).to_string())
        .execute(connection)
        .await
        .map(drop)
}

async fn save(connection: &mut SqliteConnection, saved: &[Saved]) -> sqlx::Result<()> {
    for (device, resource, latest) in saved {
        sqlx::query("INSERT OR REPLACE INTO latest VALUES (?,?,?,?)")
            .bind(device.clone())
            .bind(resource.clone())
            .bind(latest.origin.cast_signed())
            .bind(&latest.body[..])
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn read(row: &SqliteRow) -> Result<Row, ReadingsError> {
    let number = |column: usize| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
    let text = |column: usize| row.try_get::<String, _>(column);
    let slices = row.try_get::<&str, _>(4).map_err(failed)?;
    let slices: Vec<(Arc<str>, usize, usize)> = serde_json::from_str(slices)
        .map_err(|error| ReadingsError::Storage(format!("damaged row: {error}").into()))?;
    let slices = slices.into_iter();
    let slices = slices.map(|(resource, from, to)| ReadingSlice {
        resource,
        range: from..to,
    });
    Ok(Row {
        seq: number(0).map_err(failed)?,
        origin: number(1).map_err(failed)?,
        id: text(2).map_err(failed)?,
        device: text(3).map_err(failed)?.into(),
        readings: slices.collect(),
        body: Bytes::copy_from_slice(row.try_get::<&[u8], _>(5).map_err(failed)?),
        source: text(6).map_err(failed)?.into(),
    })
}

/// `[["Temperature",12,90],…]`
fn slices(readings: &[ReadingSlice]) -> String {
    let slices = readings.iter();
    let slices = slices.map(|slice| (&*slice.resource, slice.range.start, slice.range.end));
    serde_json::json!(slices.collect::<Vec<_>>()).to_string()
}

fn failed(error: sqlx::Error) -> ReadingsError {
    ReadingsError::Storage(error.to_string().into())
}
