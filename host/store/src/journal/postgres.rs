//! The database on a PostgreSQL server, which several servers of ours may share.
//!
//! One row holds the revision of the last write. A batch is one statement, and so one transaction:
//! it moves that row from the revision that this server knows to the new one, and everything else
//! in it happens only if that was so. Who finds the row elsewhere is behind: it reads what the others
//! wrote, decides its writes again and tries once more. So revisions are given one after the other
//! across all servers, at the price of a row lock that is held for one round trip to the disk.
//!
//! A notification tells the others that there is something to read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::{
    ConnectOptions, Connection, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgRow},
};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{AppendError, Batch, Found, Loaded, Loader, News, row::Row};
use crate::{Change, Codec, Extract, Key, OpenError, state::State};

/// The format of the tables: raised when an older Eyot could not read them.
///
/// 1: changes and horizons. 2: keys that servers share, and rows that are sealed with them.
const FORMAT: i32 = 2;
/// "EYOT": held while the tables are made, so that two servers that start together do not both.
const LOCK: i64 = 0x4559_4f54;
pub(super) const CHANNEL: &str = "eyot_changes";
/// Pause before a lost connection for notifications is made again.
const AGAIN: Duration = Duration::from_secs(1);

const TABLES: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS eyot_store (
        one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
        format INTEGER NOT NULL, revision BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS eyot_changes (
        revision BIGINT PRIMARY KEY, kind BIGINT NOT NULL, resource TEXT NOT NULL,
        namespace TEXT NOT NULL, name TEXT NOT NULL, json BYTEA NOT NULL, sum BIGINT)",
    "CREATE TABLE IF NOT EXISTS eyot_horizons (
        resource TEXT PRIMARY KEY, revision BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS eyot_keys (
        one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
        version BIGINT NOT NULL, sealed BYTEA NOT NULL)",
    "INSERT INTO eyot_store VALUES (TRUE, 2, 0) ON CONFLICT DO NOTHING",
    "UPDATE eyot_store SET format = 2 WHERE format = 1",
];

const APPEND: &str = "WITH head AS (
        UPDATE eyot_store SET revision = $2 WHERE revision = $1 RETURNING revision
    ), added AS (
        INSERT INTO eyot_changes SELECT row.* FROM head, unnest(
            $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::bytea[],
            $9::bigint[]) AS row
    ), removed AS (
        DELETE FROM eyot_changes USING head WHERE eyot_changes.revision = ANY($10::bigint[])
    ), moved AS (
        INSERT INTO eyot_horizons
            SELECT row.* FROM head, unnest($11::text[], $12::bigint[]) AS row
            ON CONFLICT (resource) DO UPDATE
            SET revision = GREATEST(eyot_horizons.revision, EXCLUDED.revision)
    )
    SELECT pg_notify($13, $14) FROM head";

const CHANGES: &str = "SELECT revision, kind, resource, namespace, name, json, sum \
    FROM eyot_changes WHERE revision > $1 ORDER BY revision";

pub(crate) struct Postgres {
    options: PgConnectOptions,
    /// Made anew when it was lost.
    connection: Option<PgConnection>,
    codec: Arc<dyn Codec>,
    extract: Extract,
    /// Tells this server's notifications from the others'.
    id: String,
    /// Others have written.
    news: Arc<Notify>,
    _listening: DropGuard,
}

impl Postgres {
    /// Connect, make the tables if there are none, and read everything in them.
    pub(crate) async fn open(
        url: &str,
        extract: Extract,
        codec: Arc<dyn Codec>,
    ) -> Result<(Self, Loaded), OpenError> {
        let options = options(url)?;
        let failed = |error| unusable(&options, &error);
        let mut connection = options.connect().await.map_err(failed)?;
        prepare(&mut connection, &options).await?;
        let (news, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let id = identity(&mut connection).await.map_err(failed)?;
        // Listening before reading: what is written in between is read twice, not never.
        tokio::spawn(listen(
            options.clone(),
            id.clone(),
            news.clone(),
            stop.clone(),
        ));
        let loader = Loader::new(extract, codec.clone());
        let loader = load(&mut connection, &options, loader).await?;
        let found = loader.finish();
        let postgres = Self {
            options,
            connection: Some(connection),
            codec,
            extract,
            id,
            news,
            _listening: stop.drop_guard(),
        };
        Ok((postgres.reseal(&found.stale).await?, found.loaded))
    }

    /// Store a batch, all or nothing.
    pub(crate) async fn append(&mut self, batch: &Batch<'_>) -> Result<(), AppendError> {
        let encode = |change: &&Change| {
            let object = &change.object;
            self.codec.encode(&object.key, &object.json)
        };
        let encoded: Vec<Bytes> = batch.changes.iter().map(encode).collect::<Result<_, _>>()?;
        let rows: Vec<Row<'_>> = batch
            .changes
            .iter()
            .zip(&encoded)
            .map(|(change, encoded)| Row::new(change, encoded))
            .collect();
        let last = rows.last().map_or(batch.known, |row| row.revision);
        let column = |text: fn(&Row<'_>) -> String| rows.iter().map(text).collect::<Vec<_>>();
        let number = |of: fn(&Row<'_>) -> i64| rows.iter().map(of).collect::<Vec<_>>();
        let (horizons, superfluous) = match batch.compact {
            Some(compact) => (compact.horizons.clone(), compact.revisions.as_slice()),
            None => Default::default(),
        };
        let resources: Vec<String> = horizons.keys().map(|name| name.to_string()).collect();
        let horizons: Vec<i64> = horizons.values().map(|at| at.cast_signed()).collect();
        let superfluous: Vec<i64> = superfluous.iter().map(|at| at.cast_signed()).collect();
        let query = sqlx::query(APPEND)
            .bind(batch.known.cast_signed())
            .bind(last.cast_signed())
            .bind(number(|row| row.revision.cast_signed()))
            .bind(number(|row| row.kind))
            .bind(column(|row| row.resource.to_owned()))
            .bind(column(|row| row.namespace.to_owned()))
            .bind(column(|row| row.name.to_owned()))
            .bind(encoded.iter().map(|json| &json[..]).collect::<Vec<_>>())
            .bind(number(|row| row.sum()))
            .bind(superfluous)
            .bind(resources)
            .bind(horizons)
            .bind(CHANNEL)
            .bind(&*self.id);
        let connection = connected(&mut self.connection, &self.options).await?;
        match query.fetch_optional(connection).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(AppendError::Behind),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// What others wrote after the revision `known`.
    pub(crate) async fn catch_up(&mut self, known: u64) -> Result<News, AppendError> {
        let connection = connected(&mut self.connection, &self.options).await?;
        let read = read_news(connection, known, self.extract, &*self.codec).await;
        match read {
            Ok(Some(found)) => Ok(News::Changes(found)),
            // The others' logs no longer reach back to what this one knows.
            Ok(None) => {
                let loader = Loader::new(self.extract, self.codec.clone());
                let connection = connected(&mut self.connection, &self.options).await?;
                let loaded = load(connection, &self.options, loader).await;
                let loaded = loaded.map_err(|error| AppendError::Failed(error.to_string()))?;
                Ok(News::Everything(Box::new(loaded.finish().loaded)))
            }
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Resolves when others have written.
    pub(crate) fn news(&self) -> Arc<Notify> {
        self.news.clone()
    }

    pub(crate) async fn close(self) {
        if let Some(connection) = self.connection
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the connection to the database was not closed cleanly");
        }
    }

    /// What a failure means for the batch; after one of the connection, another is made next time.
    fn failure(&mut self, error: sqlx::Error) -> AppendError {
        let Some(told) = error.as_database_error() else {
            self.connection = None;
            return AppendError::Unknown(error.to_string());
        };
        match told.code().as_deref() {
            // `disk_full`
            Some("53100") => AppendError::Full(error.to_string()),
            // `read_only_sql_transaction`: a stand-by.
            Some("25006") => {
                AppendError::Failed("this server is a stand-by and takes no writes".to_owned())
            }
            // Classes 57 and 08: the server is shutting down, or the connection broke.
            Some(code) if code.starts_with("57") || code.starts_with("08") => {
                self.connection = None;
                AppendError::Unknown(error.to_string())
            }
            _ => AppendError::Failed(error.to_string()),
        }
    }

    /// Write rows anew that the codec would write otherwise now.
    async fn reseal(mut self, stale: &[u64]) -> Result<Self, OpenError> {
        if stale.is_empty() {
            return Ok(self);
        }
        tracing::info!(
            rows = stale.len(),
            "writing stored objects under the current key"
        );
        let (options, codec) = (self.options.clone(), self.codec.clone());
        let failed = |error| unusable(&options, &error);
        let Some(connection) = &mut self.connection else {
            return Ok(self);
        };
        for revision in stale {
            let bound = revision.cast_signed();
            let sql = "SELECT revision, kind, resource, namespace, name, json, sum \
                       FROM eyot_changes WHERE revision = $1";
            let found = sqlx::query(sql)
                .bind(bound)
                .fetch_optional(&mut *connection);
            // Another server may have deleted it meanwhile.
            let Some(found) = found.await.map_err(failed)? else {
                continue;
            };
            let (row, _) = read(&found).map_err(failed)?;
            let key = Key::new(row.resource, row.namespace, row.name);
            let stored = codec
                .decode(&key, row.stored)
                .and_then(|decoded| codec.encode(&key, &decoded.json))
                .map_err(|reason| damaged(&options, *revision, &reason))?;
            let sum = row.with(&stored).sum();
            let sql = "UPDATE eyot_changes SET json = $1, sum = $2 WHERE revision = $3";
            sqlx::query(sql)
                .bind(&stored[..])
                .bind(sum)
                .bind(bound)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
        }
        Ok(self)
    }
}

/// The connection, made anew if it was lost.
async fn connected<'a>(
    connection: &'a mut Option<PgConnection>,
    options: &PgConnectOptions,
) -> Result<&'a mut PgConnection, AppendError> {
    if connection.is_none() {
        let made = options.connect().await;
        *connection = Some(made.map_err(|error| AppendError::Failed(error.to_string()))?);
    }
    connection
        .as_mut()
        .ok_or_else(|| AppendError::Failed("no connection".to_owned()))
}

/// What a URL says of a server.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, OpenError> {
    let options: PgConnectOptions =
        url.parse()
            .map_err(|error: sqlx::Error| OpenError::Server {
                server: "the address of the store".to_owned(),
                reason: error.to_string(),
            })?;
    Ok(options.disable_statement_logging())
}

/// Something that no other connection has at the same time.
async fn identity(connection: &mut PgConnection) -> sqlx::Result<String> {
    let sql = "SELECT pg_backend_pid()::text || '-' || txid_current()::text";
    sqlx::query(sql).fetch_one(connection).await?.try_get(0)
}

pub(super) async fn prepare(
    connection: &mut PgConnection,
    options: &PgConnectOptions,
) -> Result<(), OpenError> {
    let failed = |error| unusable(options, &error);
    let mut transaction = connection.begin().await.map_err(failed)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    for sql in TABLES {
        sqlx::raw_sql(sql)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    let format = sqlx::query("SELECT format FROM eyot_store").fetch_one(&mut *transaction);
    let found: i32 = format
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    if found > FORMAT {
        return Err(OpenError::Newer {
            path: name(options).into(),
            found: found.into(),
            known: FORMAT.into(),
        });
    }
    transaction.commit().await.map_err(failed)
}

/// Read everything, as of one moment.
async fn load(
    connection: &mut PgConnection,
    options: &PgConnectOptions,
    mut loader: Loader,
) -> Result<Loader, OpenError> {
    let failed = |error| unusable(options, &error);
    let mut transaction = snapshot(connection).await.map_err(failed)?;
    let rows = sqlx::query("SELECT resource, revision FROM eyot_horizons");
    for row in rows.fetch_all(&mut *transaction).await.map_err(failed)? {
        let revision = row.try_get::<i64, _>(1).map_err(failed)?.cast_unsigned();
        loader.horizon(row.try_get(0).map_err(failed)?, revision);
    }
    {
        let mut rows = sqlx::query(CHANGES).bind(0_i64).fetch(&mut *transaction);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let (row, sum) = read(&row).map_err(failed)?;
            let taken = loader.row(row, sum);
            taken.map_err(|reason| damaged(options, row.revision, &reason))?;
        }
    }
    let head = head(&mut transaction).await.map_err(failed)?;
    loader.reached(head);
    transaction.commit().await.map_err(failed)?;
    Ok(loader)
}

/// The changes after a revision, as of one moment; `None` if some of them may be gone already.
async fn read_news(
    connection: &mut PgConnection,
    known: u64,
    extract: Extract,
    codec: &dyn Codec,
) -> sqlx::Result<Option<Vec<Found>>> {
    let mut transaction = snapshot(connection).await?;
    let beyond = sqlx::query("SELECT 1 FROM eyot_horizons WHERE revision > $1 LIMIT 1")
        .bind(known.cast_signed())
        .fetch_optional(&mut *transaction)
        .await?;
    if beyond.is_some() || head(&mut transaction).await? < known {
        return Ok(None);
    }
    let mut news = Vec::new();
    let rows = sqlx::query(CHANGES).bind(known.cast_signed());
    for row in rows.fetch_all(&mut *transaction).await? {
        let (row, sum) = read(&row)?;
        let found = row.found(sum, &State::default(), extract, codec);
        news.push(
            found
                .map_err(|reason| sqlx::Error::Decode(reason.into()))?
                .0,
        );
    }
    transaction.commit().await?;
    Ok(Some(news))
}

async fn snapshot(
    connection: &mut PgConnection,
) -> sqlx::Result<sqlx::Transaction<'_, sqlx::Postgres>> {
    let mut transaction = connection.begin().await?;
    let sql = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
    sqlx::raw_sql(sql).execute(&mut *transaction).await?;
    Ok(transaction)
}

pub(super) async fn head(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let head = sqlx::query("SELECT revision FROM eyot_store").fetch_one(connection);
    head.await?.try_get::<i64, _>(0).map(i64::cast_unsigned)
}

pub(super) fn read(row: &PgRow) -> sqlx::Result<(Row<'_>, Option<i64>)> {
    let found = Row {
        revision: row.try_get::<i64, _>(0)?.cast_unsigned(),
        kind: row.try_get(1)?,
        resource: row.try_get(2)?,
        namespace: row.try_get(3)?,
        name: row.try_get(4)?,
        stored: row.try_get(5)?,
    };
    Ok((found, row.try_get(6)?))
}

/// Pass on that others have written, until told to stop.
async fn listen(
    options: PgConnectOptions,
    own: String,
    news: Arc<Notify>,
    stop: CancellationToken,
) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options);
    let listening = async {
        loop {
            let error = match PgListener::connect_with(&pool).await {
                Ok(mut listener) => match hear(&mut listener, &own, &news).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::warn!(%error, "notifications of the database were interrupted");
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
    pool.close().await;
}

async fn hear(
    listener: &mut PgListener,
    own: &str,
    news: &Notify,
) -> sqlx::Result<std::convert::Infallible> {
    listener.listen(CHANNEL).await?;
    // Whatever came before is not told.
    news.notify_one();
    loop {
        match listener.try_recv().await? {
            Some(notification) if notification.payload() == own => {}
            // Nothing means that the connection was lost and made again: something may be missed.
            Some(_) | None => news.notify_one(),
        }
    }
}

/// Host and database, without credentials.
fn name(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_default();
    format!("postgres://{}/{database}", options.get_host())
}

pub(super) fn unusable(options: &PgConnectOptions, error: &sqlx::Error) -> OpenError {
    OpenError::Server {
        server: name(options),
        reason: error.to_string(),
    }
}

fn damaged(options: &PgConnectOptions, revision: u64, reason: &str) -> OpenError {
    OpenError::Damaged {
        path: name(options).into(),
        reason: format!("revision {revision}: {reason}"),
    }
}
