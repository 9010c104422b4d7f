//! What schedule jobs have done: one row for each action of each run.

use serde_json::json;
use sqlx::{Connection, Row as _, sqlite::SqliteRow};

use super::{Conditions, Found, Part, Records, RecordsError, failed, shrink};

/// What came of one action at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub id: String,
    pub job: String,
    /// Which of the job's actions it was: the same text for the same action.
    pub step: String,
    /// The action, as text.
    pub action: String,
    pub status: String,
    pub scheduled: i64,
    pub created: i64,
}

/// Which runs.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub job: Option<String>,
    pub status: Option<String>,
    /// First and last time of creation.
    pub created: Option<(i64, i64)>,
}

const COLUMNS: &str = "id, job, step, action, status, scheduled, created";

fn read(row: &SqliteRow) -> sqlx::Result<Run> {
    Ok(Run {
        id: row.try_get(0)?,
        job: row.try_get(1)?,
        step: row.try_get(2)?,
        action: row.try_get(3)?,
        status: row.try_get(4)?,
        scheduled: row.try_get(5)?,
        created: row.try_get(6)?,
    })
}

impl Records {
    /// Keep what was done; all of it or nothing.
    pub async fn add_runs(&self, runs: Vec<Run>) -> Result<(), RecordsError> {
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        for run in runs {
            let sql = "INSERT INTO runs (id, job, step, action, status, scheduled, created)
                       VALUES (?, ?, ?, ?, ?, ?, ?)";
            sqlx::query(sql)
                .bind(run.id)
                .bind(run.job)
                .bind(run.step)
                .bind(run.action)
                .bind(run.status)
                .bind(run.scheduled)
                .bind(run.created)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// How many runs are of this kind, and a part of them, the oldest first.
    pub async fn runs(&self, filter: &RunFilter, part: Part) -> Result<Found<Run>, RecordsError> {
        let mut conditions = Conditions::default();
        for (sql, wanted) in [("job = ?", &filter.job), ("status = ?", &filter.status)] {
            if let Some(wanted) = wanted {
                conditions.add(sql, [json!(wanted)]);
            }
        }
        if let Some((first, last)) = filter.created {
            conditions.add("created BETWEEN ? AND ?", [json!(first), json!(last)]);
        }
        let mut open = self.open().await?;
        conditions
            .find(&mut open, COLUMNS, "runs", part, read)
            .await
    }

    /// The last run of each action of a job, the latest first.
    pub async fn latest_runs(&self, job: &str) -> Result<Vec<Run>, RecordsError> {
        let mut open = self.open().await?;
        let sql = "SELECT id, job, step, action, status, max(scheduled), created FROM runs
                   WHERE job = ? GROUP BY step ORDER BY scheduled DESC";
        let rows = sqlx::query(sql).bind(job).fetch_all(&mut *open);
        let rows = rows.await.map_err(failed)?;
        let runs: sqlx::Result<Vec<Run>> = rows.iter().map(read).collect();
        runs.map_err(failed)
    }

    /// If there are more than `most`, delete the oldest until `few` are left, but none that is the last
    /// of its action.
    pub async fn trim_runs(&self, most: i64, few: i64) -> Result<u64, RecordsError> {
        let mut open = self.open().await?;
        let row = sqlx::query("SELECT count(*) FROM runs").fetch_one(&mut *open);
        let count: i64 = row.await.and_then(|row| row.try_get(0)).map_err(failed)?;
        if count <= most {
            return Ok(0);
        }
        let sql = "DELETE FROM runs
                   WHERE seq IN (SELECT seq FROM runs ORDER BY seq LIMIT ?)
                   AND EXISTS (SELECT 1 FROM runs AS later
                               WHERE later.job = runs.job AND later.step = runs.step
                               AND later.scheduled > runs.scheduled)";
        let deleted = sqlx::query(sql).bind(count - few).execute(&mut *open).await;
        let deleted = deleted.map_err(failed)?.rows_affected();
        shrink(&mut open).await?;
        Ok(deleted)
    }
}
