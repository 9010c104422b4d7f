//! A SQLite file as the beginning or the end of a move.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection, sqlite::SqliteSynchronous};

use super::{Heads, Line, ROWS};
use crate::{
    OpenError,
    journal::sqlite::{self, COLUMNS, connect, number, prepare, read, run, set_horizons, unusable},
};

pub(super) struct File {
    connection: SqliteConnection,
    path: PathBuf,
}

impl File {
    /// Read a file as it is now. Nothing of it is changed: its host may be running.
    pub(super) async fn read(path: &Path) -> Result<Self, OpenError> {
        let mut connection = connect(path, SqliteSynchronous::Full).await?;
        let found = sqlite::found_format(&mut connection, path).await?;
        if found != sqlite::FORMAT {
            return Err(OpenError::Older {
                path: path.to_owned(),
                found,
                known: sqlite::FORMAT,
            });
        }
        let failed = |error| unusable(path, error);
        // The first read that follows fixes the moment.
        run(&mut connection, "BEGIN".to_owned())
            .await
            .map_err(failed)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
        })
    }

    /// Begin to write a file; `None` if there is something in it.
    pub(super) async fn make(path: &Path) -> Result<Option<Self>, OpenError> {
        let mut connection = connect(path, SqliteSynchronous::Full).await?;
        prepare(&mut connection, path).await?;
        let failed = |error| unusable(path, error);
        let sql = "SELECT (SELECT count(*) FROM changes) + (SELECT count(*) FROM horizons)";
        if number(&mut connection, sql, failed).await? > 0 {
            return Ok(None);
        }
        run(&mut connection, "BEGIN IMMEDIATE".to_owned())
            .await
            .map_err(failed)?;
        Ok(Some(Self {
            connection,
            path: path.to_owned(),
        }))
    }

    pub(super) async fn heads(&mut self) -> Result<Heads, OpenError> {
        let mut heads = Heads::default();
        for (sql, into) in [
            (
                "SELECT resource, revision FROM horizons",
                &mut heads.horizons,
            ),
            (
                "SELECT resource, revision FROM reserved",
                &mut heads.reserved,
            ),
        ] {
            let failed = |error| unusable(&self.path, error);
            let rows = sqlx::query(sql).fetch_all(&mut self.connection);
            for row in rows.await.map_err(failed)? {
                let resource: String = row.try_get(0).map_err(failed)?;
                let revision: i64 = row.try_get(1).map_err(failed)?;
                into.insert(resource.into(), revision.cast_unsigned());
            }
        }
        Ok(heads)
    }

    pub(super) async fn page(&mut self, after: u64) -> Result<Vec<Line>, OpenError> {
        let failed = |error| unusable(&self.path, error);
        let sql = format!(
            "SELECT {COLUMNS} FROM changes WHERE revision > ? ORDER BY revision LIMIT {ROWS}"
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
        for line in lines {
            sqlx::query("INSERT INTO changes VALUES (?,?,?,?,?,?,?)")
                .bind(line.revision.cast_signed())
                .bind(line.kind)
                .bind(&line.resource)
                .bind(&line.namespace)
                .bind(&line.name)
                .bind(&line.stored)
                .bind(line.sum)
                .execute(&mut self.connection)
                .await
                .map_err(|error| unusable(&self.path, error))?;
        }
        Ok(())
    }

    pub(super) async fn finish(
        mut self,
        horizons: &BTreeMap<Arc<str>, u64>,
    ) -> Result<(), OpenError> {
        let failed = |error| unusable(&self.path, error);
        set_horizons(&mut self.connection, horizons)
            .await
            .map_err(failed)?;
        let end = "COMMIT; PRAGMA wal_checkpoint(TRUNCATE)".to_owned();
        run(&mut self.connection, end).await.map_err(failed)?;
        self.connection.close().await.map_err(failed)
    }

    pub(super) async fn close(self) {
        // It was only read.
        let _ = self.connection.close().await;
    }
}

/// A copy of a SQLite file as of one moment, in one file that nobody else has.
pub(super) async fn vacuum_into(from: &Path, to: &Path) -> Result<(), OpenError> {
    let failed = |error| unusable(from, error);
    let mut connection = connect(from, SqliteSynchronous::Full).await?;
    sqlx::query("VACUUM INTO ?")
        .bind(to.to_string_lossy().into_owned())
        .execute(&mut connection)
        .await
        .map_err(failed)?;
    connection.close().await.map_err(failed)
}
