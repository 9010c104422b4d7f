//! A PostgreSQL database as the beginning or the end of a move.

use std::{collections::BTreeMap, sync::Arc};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row as _, postgres::PgConnectOptions,
};

use super::{Heads, Line, ROWS};
use crate::{
    OpenError,
    journal::postgres::{CHANNEL, head, options, prepare, read, unusable},
};

pub(super) struct Server {
    connection: PgConnection,
    options: PgConnectOptions,
}

impl Server {
    /// Read a database as it is now. Nothing of it is changed: hosts may be running on it.
    pub(super) async fn read(url: &str) -> Result<Self, OpenError> {
        let mut server = Self::connect(url).await?;
        // Refuses what is newer, and makes the tables of an empty one.
        prepare(&mut server.connection, &server.options).await?;
        server
            .run("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await?;
        Ok(server)
    }

    /// Begin to write a database; `None` if there is something in it.
    pub(super) async fn make(url: &str) -> Result<Option<Self>, OpenError> {
        let mut server = Self::connect(url).await?;
        prepare(&mut server.connection, &server.options).await?;
        server.run("BEGIN").await?;
        // Whoever wants to write waits, then finds that it is behind.
        server.run("SELECT 1 FROM eyot_store FOR UPDATE").await?;
        let sql = "SELECT revision + (SELECT count(*) FROM eyot_changes) FROM eyot_store";
        let used = sqlx::query(sql).fetch_one(&mut server.connection).await;
        let used: i64 = used
            .and_then(|row| row.try_get(0))
            .map_err(|error| unusable(&server.options, &error))?;
        Ok((used == 0).then_some(server))
    }

    async fn connect(url: &str) -> Result<Self, OpenError> {
        let options = options(url)?;
        let connection = options.connect().await;
        Ok(Self {
            connection: connection.map_err(|error| unusable(&options, &error))?,
            options,
        })
    }

    async fn run(&mut self, sql: &'static str) -> Result<(), OpenError> {
        let done = sqlx::raw_sql(sql).execute(&mut self.connection).await;
        done.map(drop)
            .map_err(|error| unusable(&self.options, &error))
    }

    pub(super) async fn heads(&mut self) -> Result<Heads, OpenError> {
        let failed = |error| unusable(&self.options, &error);
        let mut heads = Heads {
            revision: head(&mut self.connection).await.map_err(failed)?,
            ..Heads::default()
        };
        let rows = sqlx::query("SELECT resource, revision FROM eyot_horizons")
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        for row in rows {
            let resource: String = row.try_get(0).map_err(failed)?;
            let revision: i64 = row.try_get(1).map_err(failed)?;
            heads
                .horizons
                .insert(resource.into(), revision.cast_unsigned());
        }
        Ok(heads)
    }

    pub(super) async fn page(&mut self, after: u64) -> Result<Vec<Line>, OpenError> {
        let failed = |error| unusable(&self.options, &error);
        let sql = format!(
            "SELECT revision, kind, resource, namespace, name, json, sum FROM eyot_changes \
             WHERE revision > $1 ORDER BY revision LIMIT {ROWS}"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(after.cast_signed())
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed)?;
        let lines = rows.iter().map(|row| read(row).map(Line::of));
        lines.collect::<Result<_, _>>().map_err(failed)
    }

    pub(super) async fn put(&mut self, lines: &[Line]) -> Result<(), OpenError> {
        let text = |of: fn(&Line) -> &str| lines.iter().map(of).collect::<Vec<_>>();
        let sql = "INSERT INTO eyot_changes SELECT * FROM unnest($1::bigint[], $2::bigint[], \
                   $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[])";
        let numbers = |of: fn(&Line) -> i64| lines.iter().map(of).collect::<Vec<_>>();
        sqlx::query(sql)
            .bind(numbers(|line| line.revision.cast_signed()))
            .bind(numbers(|line| line.kind))
            .bind(text(|line| &line.resource))
            .bind(text(|line| &line.namespace))
            .bind(text(|line| &line.name))
            .bind(
                lines
                    .iter()
                    .map(|line| &line.stored[..])
                    .collect::<Vec<_>>(),
            )
            .bind(lines.iter().map(|line| line.sum).collect::<Vec<_>>())
            .execute(&mut self.connection)
            .await
            .map(drop)
            .map_err(|error| unusable(&self.options, &error))
    }

    pub(super) async fn finish(
        mut self,
        horizons: &BTreeMap<Arc<str>, u64>,
        head: u64,
    ) -> Result<(), OpenError> {
        let failed = |error| unusable(&self.options, &error);
        for (resource, revision) in horizons {
            sqlx::query("INSERT INTO eyot_horizons VALUES ($1, $2)")
                .bind(&**resource)
                .bind(revision.cast_signed())
                .execute(&mut self.connection)
                .await
                .map_err(failed)?;
        }
        sqlx::query("UPDATE eyot_store SET revision = $1")
            .bind(head.cast_signed())
            .execute(&mut self.connection)
            .await
            .map_err(failed)?;
        self.run("COMMIT").await?;
        self.close().await;
        Ok(())
    }

    pub(super) async fn close(self) {
        let _ = self.connection.close().await;
    }
}

/// How many hosts listen for changes of a database.
pub(super) async fn listeners(url: &str) -> Result<i64, OpenError> {
    let mut server = Server::connect(url).await?;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%' AND query LIKE $1";
    let count = sqlx::query(sql)
        .bind(format!("%{CHANNEL}%"))
        .fetch_one(&mut server.connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| unusable(&server.options, &error))?;
    server.close().await;
    Ok(count)
}
