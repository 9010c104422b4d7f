//! The database file of the objects: opening and checking it, reading it all at start, appending
//! changes, deleting what was compacted.
//!
//! `changes` holds one row a write. A row is superfluous when a later row has the same key and the
//! resource's horizon (`horizons`) has passed that later row; the row of a deletion is superfluous
//! once the horizon has passed itself. Everything newer than the horizon is the watch log.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use futures::TryStreamExt;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection,
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{
    Change, ChangeKind, Codec, Extract, Key, Object, OpenError,
    state::{State, Trimmed},
    writer,
};

/// The format of the file: raised when an older Eyot could not read it.
const FORMAT: i64 = 1;
/// "EYOT", in the file's header, so that nobody else's database is taken for ours.
const APPLICATION: i64 = 0x4559_4f54;
/// The write-ahead log file is cut to this after each checkpoint; SQLite makes one every 4 MiB.
const WAL_BYTES: &str = "4194304";
/// Free pages (of 4 KiB) that may stay in the file; what is beyond goes back to the file system.
const FREE_PAGES: i64 = 1024;
/// Rows that are written anew in one transaction.
const RESEAL_ROWS: usize = 256;

/// Where changes go.
pub(crate) enum Journal {
    File(SqliteConnection, Arc<dyn Codec>),
    /// A store in memory only.
    Nowhere,
}

impl Journal {
    /// Open the file and read everything in it.
    pub(crate) async fn open(
        path: &Path,
        extract: Extract,
        codec: Arc<dyn Codec>,
    ) -> Result<(Self, State), OpenError> {
        let mut connection = connect(path, SqliteSynchronous::Full).await?;
        prepare(&mut connection, path).await?;
        let (state, stale) = load(&mut connection, path, extract, &*codec).await?;
        reseal(&mut connection, path, &stale, &*codec).await?;
        Ok((Self::File(connection, codec), state))
    }

    /// Store all changes, or none. When this returns, they survive a power cut.
    pub(crate) async fn append(&mut self, changes: &[Change]) -> Result<(), String> {
        let Self::File(connection, codec) = self else {
            return Ok(());
        };
        if changes.is_empty() {
            return Ok(());
        }
        let encode = |change: &Change| codec.encode(&change.object.key, &change.object.json);
        let stored: Vec<Bytes> = changes.iter().map(encode).collect::<Result<_, _>>()?;
        // One statement is one transaction. There is one text per number of rows, and the
        // statement cache holds them all.
        let rows = vec!["(?,?,?,?,?,?)"; changes.len()].join(",");
        let sql = format!("INSERT INTO changes VALUES {rows}");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (Change { kind, object, .. }, stored) in changes.iter().zip(&stored) {
            query = query
                .bind(object.revision.cast_signed())
                .bind(kind_number(*kind))
                .bind(object.key.resource.clone())
                .bind(object.key.namespace.clone())
                .bind(object.key.name.clone())
                .bind(&stored[..]);
        }
        query
            .execute(connection)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Delete what is superfluous, and give space back to the file system if there is much.
    pub(crate) async fn compact(&mut self, trimmed: &Trimmed) -> Result<(), String> {
        let Self::File(connection, _) = self else {
            return Ok(());
        };
        compact(connection, trimmed)
            .await
            .map_err(|error| error.to_string())
    }

    /// Fold the write-ahead log into the file.
    pub(crate) async fn close(self) {
        let Self::File(mut connection, _) = self else {
            return;
        };
        let fold = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut connection)
            .await;
        if let Err(error) = fold.and(connection.close().await) {
            tracing::warn!(%error, "the database was not closed cleanly; nothing is lost");
        }
    }

    #[cfg(test)]
    pub(crate) async fn limit_pages(&mut self, pages: u32) {
        let Self::File(connection, _) = self else {
            return;
        };
        let sql = format!("PRAGMA max_page_count = {pages}");
        sqlx::query(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .unwrap();
    }
}

/// Connect to a file of ours, with the settings that all of them share.
pub(crate) async fn connect(
    path: &Path,
    synchronous: SqliteSynchronous,
) -> Result<SqliteConnection, OpenError> {
    let options = SqliteConnectOptions::from_str("sqlite:")
        .map_err(|error| unusable(path, error))?
        .filename(path)
        .create_if_missing(true)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .pragma("journal_size_limit", WAL_BYTES)
        .pragma("cache_size", "-512")
        .thread_name(|_| "store".to_owned())
        .disable_statement_logging();
    options
        .connect()
        .await
        .map_err(|error| unusable(path, error))
}

/// `SQLITE_NOTADB`: a file that is something else.
const NOT_A_DATABASE: &str = "26";

pub(crate) fn unusable(path: &Path, error: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == NOT_A_DATABASE => OpenError::Foreign { path },
        _ => OpenError::Database {
            path,
            reason: error.to_string(),
        },
    }
}

/// Check whose file it is, and make the tables in a new one.
async fn prepare(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let failed = |error| unusable(path, error);
    let tables: i64 = number(connection, "SELECT count(*) FROM sqlite_schema", failed).await?;
    if tables == 0 {
        // One transaction: a start that is killed here leaves an empty file, not half a schema.
        let sql = format!(
            "BEGIN;
             CREATE TABLE changes (
                 revision INTEGER PRIMARY KEY, kind INTEGER NOT NULL, resource TEXT NOT NULL,
                 namespace TEXT NOT NULL, name TEXT NOT NULL, json BLOB NOT NULL);
             CREATE TABLE horizons (
                 resource TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
             PRAGMA application_id = {APPLICATION};
             PRAGMA user_version = {FORMAT};
             COMMIT"
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map_err(failed)?;
        return Ok(());
    }
    if number(connection, "PRAGMA application_id", failed).await? != APPLICATION {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
        });
    }
    let found = number(connection, "PRAGMA user_version", failed).await?;
    if found > FORMAT {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: FORMAT,
        });
    }
    Ok(())
}

pub(crate) async fn number<E>(
    connection: &mut SqliteConnection,
    sql: &'static str,
    failed: impl Fn(sqlx::Error) -> E,
) -> Result<i64, E> {
    let row = sqlx::query(sql)
        .fetch_one(connection)
        .await
        .map_err(&failed)?;
    row.try_get(0).map_err(&failed)
}

/// Read all rows in the order of their revisions. Answers also which of them are stale.
async fn load(
    connection: &mut SqliteConnection,
    path: &Path,
    extract: Extract,
    codec: &dyn Codec,
) -> Result<(State, Vec<u64>), OpenError> {
    let mut stale = Vec::new();
    let failed = |error| unusable(path, error);
    let mut state = State::new(0);
    let mut horizons: HashMap<Arc<str>, u64> = HashMap::new();
    let rows = sqlx::query("SELECT resource, revision FROM horizons");
    for row in rows.fetch_all(&mut *connection).await.map_err(failed)? {
        let resource: Arc<str> = Arc::from(row.try_get::<&str, _>(0).map_err(failed)?);
        let revision = row.try_get::<i64, _>(1).map_err(failed)?.cast_unsigned();
        state.set_horizon(&resource, revision);
        horizons.insert(resource, revision);
    }
    let now = Instant::now();
    let rows = sqlx::query(
        "SELECT revision, kind, resource, namespace, name, json FROM changes ORDER BY revision",
    );
    let mut rows = rows.fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let (kind, object, is_stale) = read_row(&row, path, &state, extract, codec)?;
        if is_stale {
            stale.push(object.revision);
        }
        let object = Arc::new(object);
        if horizons
            .get(&object.key.resource)
            .is_some_and(|horizon| object.revision <= *horizon)
        {
            // A deletion here is a row whose own deletion is still outstanding.
            if kind != ChangeKind::Deleted {
                state.settle(object);
            }
            continue;
        }
        let previous = state.get(&object.key).cloned();
        state.apply(
            Change {
                kind,
                object,
                previous,
            },
            now,
        );
    }
    Ok((state, stale))
}

/// Write stale rows anew, so that nothing of them stays behind in the file.
async fn reseal(
    connection: &mut SqliteConnection,
    path: &Path,
    stale: &[u64],
    codec: &dyn Codec,
) -> Result<(), OpenError> {
    if stale.is_empty() {
        return Ok(());
    }
    tracing::info!(
        rows = stale.len(),
        "writing stored objects under the current key"
    );
    let failed = |error| unusable(path, error);
    let pragma = |sql: &'static str| sqlx::raw_sql(sql);
    // What is overwritten is wiped, not only unlinked.
    pragma("PRAGMA secure_delete = ON")
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    for revisions in stale.chunks(RESEAL_ROWS) {
        let mut transaction = connection.begin().await.map_err(failed)?;
        for revision in revisions {
            let bound = revision.cast_signed();
            let row = sqlx::query(
                "SELECT resource, namespace, name, json FROM changes WHERE revision = ?",
            )
            .bind(bound)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
            let text = |column: usize| row.try_get::<&str, _>(column).map_err(failed);
            let key = Key::new(text(0)?, text(1)?, text(2)?);
            let held = row.try_get::<&[u8], _>(3).map_err(failed)?;
            let stored = codec
                .decode(&key, held)
                .and_then(|decoded| codec.encode(&key, &decoded.json))
                .map_err(|reason| OpenError::Damaged {
                    path: path.to_owned(),
                    revision: *revision,
                    reason: format!("{key}: {reason}"),
                })?;
            sqlx::query("UPDATE changes SET json = ? WHERE revision = ?")
                .bind(&stored[..])
                .bind(bound)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
    }
    pragma(
        "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA secure_delete = OFF",
    )
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    Ok(())
}

fn read_row(
    row: &sqlx::sqlite::SqliteRow,
    path: &Path,
    state: &State,
    extract: Extract,
    codec: &dyn Codec,
) -> Result<(ChangeKind, Object, bool), OpenError> {
    let failed = |error| unusable(path, error);
    let revision = row.try_get::<i64, _>(0).map_err(failed)?.cast_unsigned();
    let damaged = |reason: String| {
        let path: PathBuf = path.to_owned();
        OpenError::Damaged {
            path,
            revision,
            reason,
        }
    };
    let kind = match row.try_get::<i64, _>(1).map_err(failed)? {
        0 => ChangeKind::Added,
        1 => ChangeKind::Modified,
        2 => ChangeKind::Deleted,
        other => return Err(damaged(format!("unknown kind of change {other}"))),
    };
    let text = |column: usize| row.try_get::<&str, _>(column).map_err(failed);
    let mut key = Key::new(text(2)?, text(3)?, text(4)?);
    key.resource = state.intern(&key.resource);
    let stored = row.try_get::<&[u8], _>(5).map_err(failed)?;
    let decoded = codec
        .decode(&key, stored)
        .map_err(|reason| damaged(format!("{key}: {reason}")))?;
    let value: Value = serde_json::from_slice(&decoded.json)
        .map_err(|error| damaged(format!("{key}: {error}")))?;
    let object = writer::object(key, revision, decoded.json, &value, extract);
    Ok((kind, object, decoded.stale))
}

async fn compact(connection: &mut SqliteConnection, trimmed: &Trimmed) -> sqlx::Result<()> {
    // Passed as JSON: SQLite's own list type, of any length.
    let revisions = serde_json::json!(trimmed.revisions).to_string();
    let horizons = serde_json::json!(trimmed.horizons).to_string();
    let mut transaction = connection.begin().await?;
    sqlx::query("INSERT OR REPLACE INTO horizons SELECT key, value FROM json_each(?)")
        .bind(horizons)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("DELETE FROM changes WHERE revision IN (SELECT value FROM json_each(?))")
        .bind(revisions)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    shrink(connection).await
}

/// Give free pages back to the file system once there are many.
pub(crate) async fn shrink(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    if number(connection, "PRAGMA freelist_count", |error| error).await? > FREE_PAGES {
        sqlx::query("PRAGMA incremental_vacuum")
            .execute(connection)
            .await?;
    }
    Ok(())
}

fn kind_number(kind: ChangeKind) -> i64 {
    match kind {
        ChangeKind::Added => 0,
        ChangeKind::Modified => 1,
        ChangeKind::Deleted => 2,
    }
}
