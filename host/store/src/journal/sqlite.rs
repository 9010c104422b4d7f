//! The database as a SQLite file: opening and checking it, reading it all at start, appending
//! batches, keeping it small.
//!
//! The write-ahead log is folded into the file every 4 MiB and cut to that; pages that fall free
//! are used again, and beyond some 4 MiB of them given back to the file system, little by little.

use std::{collections::BTreeMap, path::Path, str::FromStr, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row as _, SqliteConnection,
    sqlite::{
        SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous,
    },
};

use super::{AppendError, Batch, Loaded, Loader, row::Row};
use crate::{Change, Codec, Extract, Key, OpenError};

/// The format of the file: raised when an older Eyot could not read it.
///
/// 1: changes and horizons. 2: a checksum in each row, revisions reserved for renewals.
pub(super) const FORMAT: i64 = 2;
/// "EYOT", in the file's header, so that nobody else's database is taken for ours.
const APPLICATION: i64 = 0x4559_4f54;
/// The write-ahead log file is cut to this after each checkpoint; SQLite makes one every 4 MiB.
const WAL_BYTES: &str = "4194304";
/// Free pages (of 4 KiB) that may stay in the file; what is beyond goes back to the file system...
const FREE_PAGES: i64 = 1024;
/// ...this many at a time, so that no write waits long for it.
const VACUUM_PAGES: i64 = 256;
/// Such steps at most when the store is closed: 256 MiB.
const CLOSING_STEPS: usize = 256;
/// Statements that stay prepared: one for each number of rows that a batch may insert, with and
/// without a deletion.
const STATEMENTS: usize = 160;

/// Rows that are written anew in one transaction.
const RESEAL_ROWS: usize = 256;

/// Tables of format 2 that format 1 does not have.
const RESERVED: &str = "CREATE TABLE reserved (
    resource TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;";

pub(crate) struct Sqlite {
    connection: SqliteConnection,
    codec: Arc<dyn Codec>,
}

impl Sqlite {
    /// Open the file and read everything in it.
    pub(crate) async fn open(
        path: &Path,
        extract: Extract,
        codec: Arc<dyn Codec>,
    ) -> Result<(Self, Loaded), OpenError> {
        let mut connection = connect(path, SqliteSynchronous::Full).await?;
        prepare(&mut connection, path).await?;
        let loader = Loader::new(extract, codec.clone());
        let found = load(&mut connection, path, loader).await?.finish();
        if !found.horizons.is_empty() {
            let set = set_horizons(&mut connection, &found.horizons).await;
            if let Err(error) = set {
                // They hold until the next crash, even so. A start on a full disk matters more.
                tracing::warn!(%error, "what a crash made uncertain could not be noted down");
            }
        }
        reseal(&mut connection, path, &found.stale, &*codec).await?;
        Ok((Self { connection, codec }, found.loaded))
    }

    /// Store a batch, all or nothing. When this returns, it survives a power cut.
    pub(crate) async fn append(&mut self, batch: &Batch<'_>) -> Result<(), AppendError> {
        let encode = |change: &&Change| {
            let object = &change.object;
            self.codec.encode(&object.key, &object.json)
        };
        let encoded: Vec<Bytes> = batch.changes.iter().map(encode).collect::<Result<_, _>>()?;
        let stored = append(&mut self.connection, batch, &encoded).await;
        if stored.is_err() {
            // A statement in the middle may have failed. If none did, there is nothing to roll back.
            let rollback = sqlx::raw_sql("ROLLBACK").execute(&mut self.connection);
            let _ = rollback.await;
        }
        stored.map_err(failure)
    }

    /// Give some free pages back to the file system if there are many. Whether there are still.
    pub(crate) async fn tidy(&mut self) -> bool {
        match shrink(&mut self.connection).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "the database could not be made smaller");
                false
            }
        }
    }

    /// Fold the write-ahead log into the file.
    pub(crate) async fn close(mut self) {
        for _ in 0..CLOSING_STEPS {
            if !self.tidy().await {
                break;
            }
        }
        let fold = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut self.connection)
            .await;
        if let Err(error) = fold.and(self.connection.close().await) {
            tracing::warn!(%error, "the database was not closed cleanly; nothing is lost");
        }
    }

    #[cfg(test)]
    pub(crate) async fn limit_pages(&mut self, pages: u32) {
        let sql = format!("PRAGMA max_page_count = {pages}");
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}

/// Connect to a file of ours, with the settings that all of them share.
pub(crate) async fn connect(
    path: &Path,
    synchronous: SqliteSynchronous,
) -> Result<SqliteConnection, OpenError> {
    let mut options = SqliteConnectOptions::from_str("sqlite:")
        .map_err(|error| unusable(path, error))?
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .pragma("journal_size_limit", WAL_BYTES)
        .pragma("cache_size", "-512")
        .statement_cache_capacity(STATEMENTS)
        .thread_name(|_| "store".to_owned())
        .disable_statement_logging();
    // Said to a file that has it already, SQLite would write that down once more at each start.
    if std::fs::metadata(path).map_or(0, |found| found.len()) == 0 {
        options = options.auto_vacuum(SqliteAutoVacuum::Incremental);
    }
    options
        .connect()
        .await
        .map_err(|error| unusable(path, error))
}

/// `SQLITE_CORRUPT`, `SQLITE_FULL`, `SQLITE_NOTADB`; and the one way in which a full disk shows
/// itself otherwise: the index of the write-ahead log cannot grow (`SQLITE_IOERR_SHMSIZE`).
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const NOT_A_DATABASE: i32 = 26;
const CANNOT_GROW: i32 = 10 | 19 << 8;

/// The extended result code of an error, if it has one.
fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Result codes carry details beyond the first byte.
fn primary(code: i32) -> i32 {
    code & 0xff
}

fn failure(error: sqlx::Error) -> AppendError {
    match is_full(&error) {
        true => AppendError::Full(error.to_string()),
        false => AppendError::Failed(error.to_string()),
    }
}

/// Whether something failed for want of room on the disk.
pub(crate) fn is_full(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| primary(code) == FULL || code == CANNOT_GROW)
}

pub(crate) fn unusable(path: &Path, error: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match code(&error).map(primary) {
        Some(NOT_A_DATABASE) => OpenError::Foreign { path },
        Some(CORRUPT) => OpenError::Damaged {
            path,
            reason: error.to_string(),
        },
        _ => OpenError::Database {
            path,
            reason: error.to_string(),
        },
    }
}

/// Check whose file it is and bring it to the present format; make the tables in a new one.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), OpenError> {
    let failed = |error| unusable(path, error);
    let tables: i64 = number(connection, "SELECT count(*) FROM sqlite_schema", failed).await?;
    if tables == 0 {
        // One transaction: a start that is killed here leaves an empty file, not half a schema.
        let sql = format!(
            "BEGIN;
             CREATE TABLE changes (
                 revision INTEGER PRIMARY KEY, kind INTEGER NOT NULL, resource TEXT NOT NULL,
                 namespace TEXT NOT NULL, name TEXT NOT NULL, json BLOB NOT NULL, sum INTEGER);
             CREATE TABLE horizons (
                 resource TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
             {RESERVED}
             PRAGMA application_id = {APPLICATION};
             PRAGMA user_version = {FORMAT};
             COMMIT"
        );
        return run(connection, sql).await.map_err(failed);
    }
    if number(connection, "PRAGMA application_id", failed).await? != APPLICATION {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
        });
    }
    match number(connection, "PRAGMA user_version", failed).await? {
        FORMAT => Ok(()),
        1 => {
            // Rows without a checksum are believed.
            let sql = format!(
                "BEGIN;
                 ALTER TABLE changes ADD COLUMN sum INTEGER;
                 {RESERVED}
                 PRAGMA user_version = {FORMAT};
                 COMMIT"
            );
            run(connection, sql).await.map_err(failed)
        }
        found => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }),
    }
}

pub(super) async fn run(connection: &mut SqliteConnection, sql: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

/// The format of a file of the store, which must be one and no newer than this Eyot.
pub(super) async fn found_format(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<i64, OpenError> {
    format(connection, path, APPLICATION, FORMAT).await
}

/// The format of a file that has tables: it must be one of `application`, and no newer than `known`.
pub(crate) async fn format(
    connection: &mut SqliteConnection,
    path: &Path,
    application: i64,
    known: i64,
) -> Result<i64, OpenError> {
    let failed = |error| unusable(path, error);
    if number(connection, "PRAGMA application_id", failed).await? != application {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
        });
    }
    let found = number(connection, "PRAGMA user_version", failed).await?;
    if found > known {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(found)
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

/// Read everything.
async fn load(
    connection: &mut SqliteConnection,
    path: &Path,
    mut loader: Loader,
) -> Result<Loader, OpenError> {
    let failed = |error| unusable(path, error);
    for (table, sql) in [
        ("horizons", "SELECT resource, revision FROM horizons"),
        ("reserved", "SELECT resource, revision FROM reserved"),
    ] {
        let rows = sqlx::query(sql).fetch_all(&mut *connection);
        for row in rows.await.map_err(failed)? {
            let resource = row.try_get::<&str, _>(0).map_err(failed)?;
            let revision = row.try_get::<i64, _>(1).map_err(failed)?.cast_unsigned();
            match table {
                "horizons" => loader.horizon(resource, revision),
                _ => loader.reserved(resource, revision),
            }
        }
    }
    let sql = format!("SELECT {COLUMNS} FROM changes ORDER BY revision");
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let (row, sum) = read(&row).map_err(failed)?;
        let taken = loader.row(row, sum);
        taken.map_err(|reason| damaged(path, &row, &reason))?;
    }
    Ok(loader)
}

/// The columns of `changes` in the order in which [`read`] takes them.
pub(super) const COLUMNS: &str = "revision, kind, resource, namespace, name, json, sum";

pub(super) fn read(row: &SqliteRow) -> sqlx::Result<(Row<'_>, Option<i64>)> {
    let text = |column: usize| row.try_get::<&str, _>(column);
    let found = Row {
        revision: row.try_get::<i64, _>(0)?.cast_unsigned(),
        kind: row.try_get(1)?,
        resource: text(2)?,
        namespace: text(3)?,
        name: text(4)?,
        stored: row.try_get(5)?,
    };
    Ok((found, row.try_get(6)?))
}

/// One text, whatever the batch holds: each round trip to the connection's thread costs more than
/// all that SQLite does for a row. There is one text per number of rows, and the cache holds them.
async fn append(
    connection: &mut SqliteConnection,
    batch: &Batch<'_>,
    encoded: &[Bytes],
) -> sqlx::Result<()> {
    let mut statements = Vec::new();
    if !batch.changes.is_empty() {
        let rows = vec!["(?,?,?,?,?,?,?)"; batch.changes.len()].join(",");
        statements.push(format!("INSERT INTO changes VALUES {rows}"));
    }
    if batch.compact.is_some() {
        statements.push(set_sql("horizons"));
        let sql = "DELETE FROM changes WHERE revision IN (SELECT value FROM json_each(?))";
        statements.push(sql.to_owned());
    }
    if !batch.reserve.is_empty() {
        statements.push(set_sql("reserved"));
    }
    // One statement is one transaction by itself.
    let sql = match statements.as_slice() {
        [one] => one.clone(),
        many => format!("BEGIN;{};COMMIT", many.join(";")),
    };
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for (change, encoded) in batch.changes.iter().zip(encoded) {
        let row = Row::new(change, encoded);
        query = query
            .bind(row.revision.cast_signed())
            .bind(row.kind)
            .bind(change.object.key.resource.clone())
            .bind(change.object.key.namespace.clone())
            .bind(change.object.key.name.clone())
            .bind(row.stored)
            .bind(row.sum());
    }
    if let Some(compact) = batch.compact {
        // Passed as JSON: SQLite's own list type, of any length.
        query = query
            .bind(serde_json::json!(compact.horizons).to_string())
            .bind(serde_json::json!(compact.revisions).to_string());
    }
    if !batch.reserve.is_empty() {
        query = query.bind(serde_json::json!(batch.reserve).to_string());
    }
    query.execute(connection).await.map(drop)
}

/// Sets the revision of each resource of a JSON object.
fn set_sql(table: &str) -> String {
    format!("INSERT OR REPLACE INTO {table} SELECT key, value FROM json_each(?)")
}

pub(super) async fn set_horizons(
    connection: &mut SqliteConnection,
    horizons: &BTreeMap<Arc<str>, u64>,
) -> sqlx::Result<()> {
    sqlx::query(AssertSqlSafe(set_sql("horizons")))
        .bind(serde_json::json!(horizons).to_string())
        .execute(connection)
        .await
        .map(drop)
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
    // What is overwritten is wiped, not only unlinked.
    let wipe = "PRAGMA secure_delete = ON".to_owned();
    run(connection, wipe).await.map_err(failed)?;
    for revisions in stale.chunks(RESEAL_ROWS) {
        let mut transaction = connection.begin().await.map_err(failed)?;
        for revision in revisions {
            let sql = format!("SELECT {COLUMNS} FROM changes WHERE revision = ?");
            let found = sqlx::query(AssertSqlSafe(sql))
                .bind(revision.cast_signed())
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed)?;
            let (row, _) = read(&found).map_err(failed)?;
            let key = Key::new(row.resource, row.namespace, row.name);
            let stored = codec
                .decode(&key, row.stored)
                .and_then(|decoded| codec.encode(&key, &decoded.json))
                .map_err(|reason| damaged(path, &row, &reason))?;
            let sum = row.with(&stored).sum();
            sqlx::query("UPDATE changes SET json = ?, sum = ? WHERE revision = ?")
                .bind(&stored[..])
                .bind(sum)
                .bind(revision.cast_signed())
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
    }
    let finish = "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE); \
                  PRAGMA secure_delete = OFF";
    run(connection, finish.to_owned()).await.map_err(failed)
}

fn damaged(path: &Path, row: &Row<'_>, reason: &str) -> OpenError {
    let Row {
        revision,
        resource,
        namespace,
        name,
        ..
    } = row;
    OpenError::Damaged {
        path: path.to_owned(),
        reason: format!("revision {revision} ({resource} {namespace}/{name}): {reason}"),
    }
}

/// Give some pages back to the file system if many are free. Whether there are still.
pub(crate) async fn shrink(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    let free = number(connection, "PRAGMA freelist_count", |error| error).await?;
    if free <= FREE_PAGES {
        return Ok(false);
    }
    // Each row of the answer is a page.
    let sql = format!("PRAGMA incremental_vacuum({VACUUM_PAGES})");
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(free > FREE_PAGES + VACUUM_PAGES)
}
