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
    Change, ChangeKind, Extract, Key, Object, OpenError,
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

/// Where changes go.
pub(crate) enum Journal {
    File(SqliteConnection),
    /// A store in memory only.
    Nowhere,
}

impl Journal {
    /// Open the file and read everything in it.
    pub(crate) async fn open(path: &Path, extract: Extract) -> Result<(Self, State), OpenError> {
        let mut connection = connect(path, SqliteSynchronous::Full).await?;
        prepare(&mut connection, path).await?;
        let state = load(&mut connection, path, extract).await?;
        Ok((Self::File(connection), state))
    }

    /// Store all changes, or none. When this returns, they survive a power cut.
    pub(crate) async fn append(&mut self, changes: &[Change]) -> Result<(), String> {
        let Self::File(connection) = self else {
            return Ok(());
        };
        if changes.is_empty() {
            return Ok(());
        }
        // One statement is one transaction. There is one text per number of rows, and the
        // statement cache holds them all.
        let rows = vec!["(?,?,?,?,?,?)"; changes.len()].join(",");
        let sql = format!("INSERT INTO changes VALUES {rows}");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for Change { kind, object, .. } in changes {
            query = query
                .bind(object.revision.cast_signed())
                .bind(kind_number(*kind))
                .bind(object.key.resource.clone())
                .bind(object.key.namespace.clone())
                .bind(object.key.name.clone())
                .bind(&object.json[..]);
        }
        query
            .execute(connection)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Delete what is superfluous, and give space back to the file system if there is much.
    pub(crate) async fn compact(&mut self, trimmed: &Trimmed) -> Result<(), String> {
        let Self::File(connection) = self else {
            return Ok(());
        };
        compact(connection, trimmed)
            .await
            .map_err(|error| error.to_string())
    }

    /// Fold the write-ahead log into the file.
    pub(crate) async fn close(self) {
        let Self::File(mut connection) = self else {
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
        let Self::File(connection) = self else { return };
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

/// Read all rows in the order of their revisions.
async fn load(
    connection: &mut SqliteConnection,
    path: &Path,
    extract: Extract,
) -> Result<State, OpenError> {
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
        let (kind, object) = read_row(&row, path, &state, extract)?;
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
    Ok(state)
}

fn read_row(
    row: &sqlx::sqlite::SqliteRow,
    path: &Path,
    state: &State,
    extract: Extract,
) -> Result<(ChangeKind, Object), OpenError> {
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
    let json = Bytes::copy_from_slice(row.try_get::<&[u8], _>(5).map_err(failed)?);
    let value: Value =
        serde_json::from_slice(&json).map_err(|error| damaged(format!("{key}: {error}")))?;
    Ok((kind, writer::object(key, revision, json, &value, extract)))
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
