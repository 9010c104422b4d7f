//! Notifications, and their transmissions to the channels of subscriptions.
//!
//! A notification waits until it is distributed: that makes one transmission for each channel and
//! takes the mark away, in one transaction. A transmission is due until it was delivered or given up;
//! each attempt is noted with what follows from it, in one transaction. So whatever was accepted is
//! either waiting, due or done at every instant, and who is killed finds his work again. A kill
//! between a delivery and its note repeats the delivery.

use serde_json::json;
use sqlx::{Connection, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{Conditions, Found, Part, Records, RecordsError, failed, shrink};

/// A notification as it is kept.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Notification {
    pub id: String,
    pub created: i64,
    pub modified: i64,
    pub category: String,
    pub labels: Vec<String>,
    pub status: String,
    pub acknowledged: bool,
    /// What is not searched for.
    pub body: String,
}

/// Which notifications.
#[derive(Debug, Clone, Default)]
pub struct NotificationFilter {
    pub interest: Option<Interest>,
    pub status: Option<String>,
    pub acknowledged: Option<bool>,
    /// First and last time of creation.
    pub created: Option<(i64, i64)>,
}

/// One of these categories, or one of these labels.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    pub categories: Vec<String>,
    pub labels: Vec<String>,
}

/// A delivery to be tried from now on.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTransmission {
    pub id: String,
    pub subscription: String,
    pub channel: String,
    /// How often it is tried again after the first failure, and how many milliseconds later each.
    pub resends: i64,
    pub pause: i64,
}

/// A delivery that was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Transmission {
    pub id: String,
    pub notification: String,
    pub subscription: String,
    pub status: String,
    pub created: i64,
    /// How often it was tried again.
    pub resends: i64,
    pub channel: String,
    /// What came of each attempt, as text.
    pub records: String,
}

/// Which transmissions, of those that were tried at all.
#[derive(Debug, Clone, Default)]
pub struct TransmissionFilter {
    pub subscription: Option<String>,
    pub notification: Option<String>,
    pub status: Option<String>,
    pub created: Option<(i64, i64)>,
}

/// A delivery that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    pub transmission: Transmission,
    pub notification: Notification,
    /// How often it may still be tried after this time.
    pub remaining: i64,
    pub pause: i64,
}

/// What an attempt came to.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: String,
    pub status: String,
    pub resends: i64,
    pub records: String,
    /// When to try again; `None` if it is done.
    pub due: Option<i64>,
    pub escalation: Option<Escalation>,
}

/// A notification that tells of one that could not be delivered.
#[derive(Debug, Clone)]
pub struct Escalation {
    pub notification: Notification,
    pub transmissions: Vec<NewTransmission>,
}

const NOTIFICATION: &str = "id, created, modified, category, labels, status, acknowledged, body";
const TRANSMISSION: &str =
    "id, notification, subscription, status, created, resends, channel, records";

fn notification(row: &SqliteRow) -> sqlx::Result<Notification> {
    notification_at(row, 0)
}

fn notification_at(row: &SqliteRow, at: usize) -> sqlx::Result<Notification> {
    let labels: &str = row.try_get(at + 4)?;
    Ok(Notification {
        id: row.try_get(at)?,
        created: row.try_get(at + 1)?,
        modified: row.try_get(at + 2)?,
        category: row.try_get(at + 3)?,
        labels: serde_json::from_str(labels).map_err(|error| sqlx::Error::Decode(error.into()))?,
        status: row.try_get(at + 5)?,
        acknowledged: row.try_get(at + 6)?,
        body: row.try_get(at + 7)?,
    })
}

fn transmission(row: &SqliteRow) -> sqlx::Result<Transmission> {
    Ok(Transmission {
        id: row.try_get(0)?,
        notification: row.try_get(1)?,
        subscription: row.try_get(2)?,
        status: row.try_get(3)?,
        created: row.try_get(4)?,
        resends: row.try_get(5)?,
        channel: row.try_get(6)?,
        records: row.try_get(7)?,
    })
}

impl NotificationFilter {
    fn conditions(&self) -> Conditions {
        let mut conditions = Conditions::default();
        if let Some(Interest { categories, labels }) = &self.interest {
            conditions.add(
                "(category IN (SELECT value FROM json_each(?)) OR EXISTS (
                     SELECT 1 FROM json_each(labels) AS label
                     WHERE label.value IN (SELECT value FROM json_each(?))))",
                [json!(categories), json!(labels)],
            );
        }
        if let Some(status) = &self.status {
            conditions.add("status = ?", [json!(status)]);
        }
        if let Some(acknowledged) = self.acknowledged {
            conditions.add("acknowledged = ?", [json!(acknowledged)]);
        }
        if let Some((first, last)) = self.created {
            conditions.add("created BETWEEN ? AND ?", [json!(first), json!(last)]);
        }
        conditions
    }
}

impl TransmissionFilter {
    fn conditions(&self) -> Conditions {
        let mut conditions = Conditions::default();
        conditions.add("status != ''", []);
        for (sql, wanted) in [
            ("subscription = ?", &self.subscription),
            ("notification = ?", &self.notification),
            ("status = ?", &self.status),
        ] {
            if let Some(wanted) = wanted {
                conditions.add(sql, [json!(wanted)]);
            }
        }
        if let Some((first, last)) = self.created {
            conditions.add("created BETWEEN ? AND ?", [json!(first), json!(last)]);
        }
        conditions
    }
}

impl Records {
    /// Keep a notification, to be distributed.
    pub async fn notify(&self, notification: &Notification) -> Result<(), RecordsError> {
        let mut open = self.open().await?;
        insert(&mut open, notification, true).await
    }

    /// How many notifications are of this kind, and a part of them, the oldest first.
    pub async fn notifications(
        &self,
        filter: &NotificationFilter,
        part: Part,
    ) -> Result<Found<Notification>, RecordsError> {
        let mut open = self.open().await?;
        let conditions = filter.conditions();
        conditions
            .find(&mut open, NOTIFICATION, "notifications", part, notification)
            .await
    }

    pub async fn notification(&self, id: &str) -> Result<Option<Notification>, RecordsError> {
        let mut open = self.open().await?;
        let sql = "SELECT id, created, modified, category, labels, status, acknowledged, body
                   FROM notifications WHERE id = ?";
        let row = sqlx::query(sql).bind(id).fetch_optional(&mut *open).await;
        let row = row.map_err(failed)?;
        row.as_ref().map(notification).transpose().map_err(failed)
    }

    /// Mark notifications as acknowledged, or not; all of them or none.
    pub async fn acknowledge(
        &self,
        ids: &[&str],
        acknowledged: bool,
        now: i64,
    ) -> Result<(), RecordsError> {
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        for id in ids {
            let sql = "UPDATE notifications SET acknowledged = ?, modified = ? WHERE id = ?";
            let done = sqlx::query(sql).bind(acknowledged).bind(now).bind(*id);
            let done = done.execute(&mut *transaction).await.map_err(failed)?;
            if done.rows_affected() == 0 {
                return Err(RecordsError::NotFound(format!("notification {id}")));
            }
        }
        transaction.commit().await.map_err(failed)
    }

    /// Delete notifications and all that was sent of them; how many there were.
    pub async fn delete_notifications(&self, ids: &[&str]) -> Result<u64, RecordsError> {
        self.remove("id IN (SELECT value FROM json_each(?))", json!(ids))
            .await
    }

    /// The same with those made up to this time, of one status if one is named.
    pub async fn delete_notifications_until(
        &self,
        until: i64,
        status: Option<&str>,
    ) -> Result<u64, RecordsError> {
        match status {
            None => self.remove("created <= ?", json!(until)).await,
            Some(status) => {
                let these = "created <= json_extract(?1, '$[0]')
                             AND status = json_extract(?1, '$[1]')";
                self.remove(these, json!([until, status])).await
            }
        }
    }

    async fn remove(
        &self,
        these: &'static str,
        argument: serde_json::Value,
    ) -> Result<u64, RecordsError> {
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        let count = remove(&mut transaction, these, &argument).await?;
        transaction.commit().await.map_err(failed)?;
        shrink(&mut open).await?;
        Ok(count)
    }

    /// Delete transmissions that are done with one of these statuses, made up to this time.
    pub async fn delete_transmissions_until(
        &self,
        until: i64,
        statuses: &[&str],
    ) -> Result<(), RecordsError> {
        let mut open = self.open().await?;
        let sql = "DELETE FROM transmissions WHERE created <= ? AND due IS NULL
                   AND status IN (SELECT value FROM json_each(?))";
        sqlx::query(sql)
            .bind(until)
            .bind(json!(statuses).to_string())
            .execute(&mut *open)
            .await
            .map_err(failed)?;
        shrink(&mut open).await
    }

    pub async fn transmissions(
        &self,
        filter: &TransmissionFilter,
        part: Part,
    ) -> Result<Found<Transmission>, RecordsError> {
        let mut open = self.open().await?;
        let conditions = filter.conditions();
        conditions
            .find(&mut open, TRANSMISSION, "transmissions", part, transmission)
            .await
    }

    pub async fn transmission(&self, id: &str) -> Result<Option<Transmission>, RecordsError> {
        let mut open = self.open().await?;
        let sql =
            "SELECT id, notification, subscription, status, created, resends, channel, records
                   FROM transmissions WHERE id = ? AND status != ''";
        let row = sqlx::query(sql).bind(id).fetch_optional(&mut *open).await;
        let row = row.map_err(failed)?;
        row.as_ref().map(transmission).transpose().map_err(failed)
    }

    /// The next notification that waits to be distributed.
    pub async fn waiting(&self) -> Result<Option<Notification>, RecordsError> {
        let mut open = self.open().await?;
        let sql = "SELECT id, created, modified, category, labels, status, acknowledged, body
                   FROM notifications WHERE waiting ORDER BY seq LIMIT 1";
        let row = sqlx::query(sql).fetch_optional(&mut *open).await;
        let row = row.map_err(failed)?;
        row.as_ref().map(notification).transpose().map_err(failed)
    }

    /// A notification goes to these channels, and has `status` from now on.
    pub async fn distribute(
        &self,
        id: &str,
        status: &str,
        to: &[NewTransmission],
        now: i64,
    ) -> Result<(), RecordsError> {
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        let sql = "UPDATE notifications SET waiting = 0, status = ?, modified = ? WHERE id = ?";
        let update = sqlx::query(sql).bind(status).bind(now).bind(id);
        let done = update.execute(&mut *transaction).await.map_err(failed)?;
        // It may have been deleted meanwhile.
        if done.rows_affected() > 0 {
            begin(&mut transaction, id, to, now).await?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// Deliveries that are due, the longest ones first, each with its subscription; and when the next
    /// one will be. A clock that was set back makes none wait longer than its pause.
    pub async fn due(
        &self,
        now: i64,
        limit: i64,
    ) -> Result<(Vec<(String, String)>, Option<i64>), RecordsError> {
        let mut open = self.open().await?;
        let sql = "SELECT id, subscription FROM transmissions
                   WHERE due IS NOT NULL AND (due <= ?1 OR due - pause > ?1)
                   ORDER BY due, seq LIMIT ?2";
        let rows = sqlx::query(sql).bind(now).bind(limit);
        let rows = rows.fetch_all(&mut *open).await.map_err(failed)?;
        let read = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        let due: sqlx::Result<Vec<_>> = rows.iter().map(read).collect();
        let sql = "SELECT min(due) FROM transmissions WHERE due IS NOT NULL";
        let next = sqlx::query(sql).fetch_one(&mut *open).await;
        let next = next.and_then(|row| row.try_get(0)).map_err(failed)?;
        Ok((due.map_err(failed)?, next))
    }

    /// A delivery that is due, with what is to be delivered; `None` if it is not there any more.
    pub async fn pending(&self, id: &str) -> Result<Option<Pending>, RecordsError> {
        let mut open = self.open().await?;
        let sql = "SELECT t.id, t.notification, t.subscription, t.status, t.created, t.resends,
                          t.channel, t.records, t.remaining, t.pause,
                          n.id, n.created, n.modified, n.category, n.labels, n.status,
                          n.acknowledged, n.body
                   FROM transmissions AS t JOIN notifications AS n ON n.id = t.notification
                   WHERE t.id = ? AND t.due IS NOT NULL";
        let row = sqlx::query(sql).bind(id).fetch_optional(&mut *open).await;
        let read = |row: &SqliteRow| {
            Ok(Pending {
                transmission: transmission(row)?,
                remaining: row.try_get(8)?,
                pause: row.try_get(9)?,
                notification: notification_at(row, 10)?,
            })
        };
        let row = row.map_err(failed)?;
        row.as_ref().map(read).transpose().map_err(failed)
    }

    /// Note what an attempt came to, and begin what follows from it.
    pub async fn attempted(&self, attempt: &Attempt, now: i64) -> Result<(), RecordsError> {
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        let sql = "UPDATE transmissions
                   SET status = ?, resends = ?, records = ?, due = ?,
                       remaining = remaining - (? IS NOT NULL)
                   WHERE id = ?";
        let done = sqlx::query(sql)
            .bind(&attempt.status)
            .bind(attempt.resends)
            .bind(&attempt.records)
            .bind(attempt.due)
            .bind(attempt.due)
            .bind(&attempt.id)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        if let Some(escalation) = &attempt.escalation
            && done.rows_affected() > 0
        {
            insert(&mut transaction, &escalation.notification, false).await?;
            let id = &escalation.notification.id;
            begin(&mut transaction, id, &escalation.transmissions, now).await?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// If there are more notifications than `most`, or they have more than `bytes`, delete the oldest
    /// that are neither waiting nor being sent until `few` are left, or half of the bytes. How many
    /// went.
    pub async fn trim_notifications(
        &self,
        most: i64,
        few: i64,
        bytes: i64,
    ) -> Result<u64, RecordsError> {
        let mut open = self.open().await?;
        let mut transaction = open.begin().await.map_err(failed)?;
        let sql = "SELECT count(*), coalesce(sum(octet_length(body)), 0) FROM notifications";
        let row = sqlx::query(sql).fetch_one(&mut *transaction).await;
        let row = row.map_err(failed)?;
        let (count, held): (i64, i64) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
        );
        if count <= most && held <= bytes {
            return Ok(0);
        }
        let keep = if held > bytes {
            few.min(count / 2)
        } else {
            few
        };
        let these = "seq IN (SELECT seq FROM notifications ORDER BY seq LIMIT ?) AND NOT waiting
                     AND NOT EXISTS (SELECT 1 FROM transmissions AS t
                                     WHERE t.notification = notifications.id AND t.due IS NOT NULL)";
        let gone = remove(&mut transaction, these, &json!((count - keep).max(0))).await?;
        transaction.commit().await.map_err(failed)?;
        shrink(&mut open).await?;
        Ok(gone)
    }
}

async fn insert(
    connection: &mut SqliteConnection,
    new: &Notification,
    waiting: bool,
) -> Result<(), RecordsError> {
    let sql = "INSERT INTO notifications
                   (id, created, modified, category, labels, status, acknowledged, waiting, body)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";
    let done = sqlx::query(sql)
        .bind(&new.id)
        .bind(new.created)
        .bind(new.modified)
        .bind(&new.category)
        .bind(json!(new.labels).to_string())
        .bind(&new.status)
        .bind(new.acknowledged)
        .bind(waiting)
        .bind(&new.body)
        .execute(connection)
        .await
        .map_err(failed)?;
    match done.rows_affected() {
        0 => Err(RecordsError::Exists(format!("notification id {}", new.id))),
        _ => Ok(()),
    }
}

async fn begin(
    connection: &mut SqliteConnection,
    notification: &str,
    to: &[NewTransmission],
    now: i64,
) -> Result<(), RecordsError> {
    for one in to {
        let sql = "INSERT INTO transmissions
                       (id, notification, subscription, status, created, resends, remaining, pause,
                        due, channel, records)
                   VALUES (?, ?, ?, '', ?, 0, ?, ?, ?, ?, '[]')";
        sqlx::query(sql)
            .bind(&one.id)
            .bind(notification)
            .bind(&one.subscription)
            .bind(now)
            .bind(one.resends)
            .bind(one.pause)
            .bind(now)
            .bind(&one.channel)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Delete notifications and their transmissions.
async fn remove(
    connection: &mut SqliteConnection,
    these: &'static str,
    argument: &serde_json::Value,
) -> Result<u64, RecordsError> {
    let mut conditions = Conditions::default();
    conditions.add(these, [argument.clone()]);
    let ids = conditions.of("id FROM notifications", "");
    let rows = conditions.bound(sqlx::query(ids));
    let rows = rows.fetch_all(&mut *connection).await.map_err(failed)?;
    let ids: sqlx::Result<Vec<String>> = rows.iter().map(|row| row.try_get(0)).collect();
    let ids = json!(ids.map_err(failed)?).to_string();
    for sql in [
        "DELETE FROM transmissions WHERE notification IN (SELECT value FROM json_each(?))",
        "DELETE FROM notifications WHERE id IN (SELECT value FROM json_each(?))",
    ] {
        let delete = sqlx::query(sql).bind(&ids);
        delete.execute(&mut *connection).await.map_err(failed)?;
    }
    Ok(rows.len() as u64)
}
