//! Making a usable database of a damaged one: every row that can still be read and whose checksum is
//! right goes into a new file, which takes the place of the old.
//!
//! A page that cannot be read hides the rows on it. They are stepped over: forwards by more and more
//! until something can be read again, then backwards from there to the page. What is lost may have
//! been the latest state of an object, so that the one before it comes back; and it may have been
//! the latest revision of all, so that the new file goes on far beyond what was seen, and all
//! watches begin anew.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use futures::TryStreamExt;
use sqlx::{
    AssertSqlSafe, Connection, Row as _, SqliteConnection,
    sqlite::{SqliteRow, SqliteSynchronous},
};

use super::sqlite::{COLUMNS, connect, number, prepare, read, set_horizons, unusable};
use crate::{OpenError, lock::DirLock};

/// Rows read at a time.
const ROWS: i64 = 256;
/// Revisions that the lost end of a database may have held.
const BEYOND: u64 = 1_000_000;
/// Lost rows that are named; more are only counted.
const NAMED: usize = 100;

/// What became of a damaged database.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Changes that are in the new file.
    pub kept: usize,
    /// Changes that were readable, but not what had been written.
    pub wrong: usize,
    /// Stretches of revisions in which something could not be read, and the first wrong changes.
    pub lost: Vec<String>,
    /// Where the damaged file is now.
    pub damaged: PathBuf,
}

/// Put what can be read of the database at `path` in its place, and keep the damaged file beside it.
/// No host may be running on it.
pub async fn salvage(path: &Path) -> Result<Salvaged, OpenError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let failed = |source| OpenError::Directory {
        dir: dir.to_owned(),
        source,
    };
    let _lock = DirLock::take(dir)?;
    std::fs::metadata(path).map_err(failed)?;
    let fresh = with_suffix(path, ".salvaged");
    let _ = std::fs::remove_file(&fresh);
    let mut old = connect(path, SqliteSynchronous::Full).await?;
    let mut new = connect(&fresh, SqliteSynchronous::Full).await?;
    prepare(&mut new, &fresh).await?;
    let mut salvaged = Salvage {
        new: &mut new,
        horizons: BTreeMap::new(),
        last: 0,
        result: Salvaged::default(),
    };
    let copied = salvaged.copy(&mut old).await;
    copied.map_err(|error| unusable(&fresh, error))?;
    let Salvage {
        result, horizons, ..
    } = salvaged;
    let set = set_horizons(&mut new, &horizons).await;
    set.and(new.close().await)
        .map_err(|error| unusable(&fresh, error))?;
    // It cannot be closed cleanly, as it may be: nothing in it is needed any more.
    let _ = old.close().await;
    let damaged = free_name(path);
    std::fs::rename(path, &damaged).map_err(failed)?;
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::rename(with_suffix(path, suffix), with_suffix(&damaged, suffix));
    }
    std::fs::rename(&fresh, path).map_err(failed)?;
    Ok(Salvaged { damaged, ..result })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn free_name(path: &Path) -> PathBuf {
    let numbered = |number: usize| with_suffix(path, &format!(".damaged-{number}"));
    (1..)
        .map(numbered)
        .find(|name| !name.exists())
        .unwrap_or_else(|| numbered(0))
}

struct Salvage<'a> {
    new: &'a mut SqliteConnection,
    /// The resources that were seen; their horizons are set to what comes after everything.
    horizons: BTreeMap<std::sync::Arc<str>, u64>,
    /// The last revision that was looked at.
    last: i64,
    result: Salvaged,
}

impl Salvage<'_> {
    async fn copy(&mut self, old: &mut SqliteConnection) -> sqlx::Result<()> {
        let mut highest = self.old_horizons(old).await;
        loop {
            let (rows, broken) = stretch(old, self.last, i64::MAX, Order::Up(ROWS)).await;
            let done = rows.is_empty() && !broken;
            self.keep(&rows).await?;
            if done {
                break;
            }
            if broken && !self.step_over(old).await? {
                break;
            }
        }
        highest = highest.max(self.last.cast_unsigned());
        let beyond = highest + BEYOND;
        self.horizons
            .values_mut()
            .for_each(|horizon| *horizon = beyond);
        // A database of which nothing is left still must not give a revision twice.
        self.horizons.entry("namespaces".into()).or_insert(beyond);
        Ok(())
    }

    /// The highest revision that is mentioned beside the changes.
    async fn old_horizons(&mut self, old: &mut SqliteConnection) -> u64 {
        let mut highest = 0;
        for sql in [
            "SELECT coalesce(max(revision), 0) FROM horizons",
            "SELECT coalesce(max(revision), 0) FROM reserved",
        ] {
            let found = number(old, sql, |error| error).await.unwrap_or_default();
            highest = highest.max(found.cast_unsigned());
        }
        highest
    }

    /// Go on behind what cannot be read; false if there is nothing.
    async fn step_over(&mut self, old: &mut SqliteConnection) -> sqlx::Result<bool> {
        let (broken, mut step) = (self.last, 1_i64);
        let found = loop {
            let Some(from) = broken.checked_add(step) else {
                self.note(format!("everything after revision {broken}"));
                return Ok(false);
            };
            let (rows, _) = stretch(old, from, i64::MAX, Order::Up(1)).await;
            if let Some(row) = rows.first() {
                break row.try_get::<i64, _>(0)?;
            }
            step = step.saturating_mul(2);
        };
        // Backwards from there, as far as it can be read.
        let mut until = found + 1;
        loop {
            let (rows, broken_again) = stretch(old, broken, until, Order::Down).await;
            self.keep(&rows).await?;
            match rows.last() {
                Some(row) => until = row.try_get(0)?,
                None => break,
            }
            if broken_again {
                break;
            }
        }
        self.note(format!("between the revisions {broken} and {until}"));
        self.last = found;
        Ok(true)
    }

    async fn keep(&mut self, rows: &[SqliteRow]) -> sqlx::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut transaction = self.new.begin().await?;
        let mut wrong = Vec::new();
        for row in rows {
            self.last = self.last.max(row.try_get(0)?);
            let Ok((row, sum)) = read(row) else {
                wrong.push("a row that makes no sense".to_owned());
                continue;
            };
            if sum.is_some_and(|sum| sum != row.sum()) {
                wrong.push(format!(
                    "revision {}: {} {}/{}",
                    row.revision, row.resource, row.namespace, row.name
                ));
                continue;
            }
            self.horizons.entry(row.resource.into()).or_default();
            sqlx::query("INSERT OR IGNORE INTO changes VALUES (?,?,?,?,?,?,?)")
                .bind(row.revision.cast_signed())
                .bind(row.kind)
                .bind(row.resource)
                .bind(row.namespace)
                .bind(row.name)
                .bind(row.stored)
                .bind(sum)
                .execute(&mut *transaction)
                .await?;
            self.result.kept += 1;
        }
        transaction.commit().await?;
        self.result.wrong += wrong.len();
        wrong.into_iter().for_each(|lost| self.note(lost));
        Ok(())
    }

    fn note(&mut self, lost: String) {
        if self.result.lost.len() < NAMED {
            self.result.lost.push(lost);
        }
    }
}

/// From which end rows are read, and how many at most.
#[derive(Clone, Copy)]
enum Order {
    Up(i64),
    Down,
}

/// The rows between two revisions, as many as there are up to a limit or to the first that cannot
/// be read; whether that was met.
async fn stretch(
    connection: &mut SqliteConnection,
    after: i64,
    before: i64,
    order: Order,
) -> (Vec<SqliteRow>, bool) {
    let (order, limit) = match order {
        Order::Up(limit) => ("ASC", limit),
        Order::Down => ("DESC", ROWS),
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM changes WHERE revision > ? AND revision < ? \
         ORDER BY revision {order} LIMIT {limit}"
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql))
        .bind(after)
        .bind(before)
        .fetch(connection);
    let mut found = Vec::new();
    loop {
        match rows.try_next().await {
            Ok(Some(row)) => found.push(row),
            Ok(None) => return (found, false),
            Err(_) => return (found, true),
        }
    }
}
