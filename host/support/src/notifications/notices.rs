//! Notifications over REST.

use std::sync::Arc;

use eyot_edgex::{
    Failure, Parsed, Reply,
    body::{self, Fields},
    reply::{Done, outcome},
};
use eyot_store::records::{Interest, Notification, NotificationFilter};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::part;
use crate::{Inner, rest};

pub(crate) const NEW: &str = "NEW";
pub(crate) const PROCESSED: &str = "PROCESSED";
pub(crate) const ESCALATED: &str = "ESCALATED";
pub(crate) const CRITICAL: &str = "CRITICAL";
const SEVERITIES: [&str; 3] = ["MINOR", "NORMAL", CRITICAL];
const STATUSES: [&str; 3] = [NEW, PROCESSED, ESCALATED];

/// What of a notification is not searched for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Body {
    pub content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub sender: String,
    pub severity: String,
}

/// A notification that somebody raises.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Notice {
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub id: String,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub category: String,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub labels: Vec<String>,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub status: String,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub content: String,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub content_type: String,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub description: String,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub sender: String,
    #[serde(deserialize_with = "eyot_api::lenient::nullable")]
    pub severity: String,
}

impl Notice {
    /// Store it, to be distributed; its identifier.
    pub(crate) async fn raise(self, inner: &Inner) -> Result<String, Failure> {
        let row = self.row(inner.clock.now())?;
        let stored = inner.records.notify(&row).await;
        stored.map_err(rest::refused)?;
        inner.work.notify_one();
        Ok(row.id)
    }

    fn row(self, now: i64) -> Result<Notification, Failure> {
        let or = |text: String, other: &dyn Fn() -> String| match text.is_empty() {
            true => other(),
            false => text,
        };
        let body = Body {
            content: self.content,
            content_type: self.content_type,
            description: self.description,
            sender: self.sender,
            severity: self.severity,
        };
        Ok(Notification {
            id: or(self.id, &|| Uuid::new_v4().to_string()),
            created: now,
            modified: now,
            category: self.category,
            labels: self.labels,
            status: or(self.status, &|| NEW.to_owned()),
            acknowledged: false,
            body: serde_json::to_string(&body).map_err(body::undecodable)?,
        })
    }
}

/// A notification as EdgeX shows it.
pub(crate) fn dto(row: &Notification) -> Json {
    let mut json: Json = serde_json::from_str(&row.body).unwrap_or_else(|_| json!({}));
    json["id"] = row.id.as_str().into();
    json["created"] = row.created.into();
    json["modified"] = row.modified.into();
    json["status"] = row.status.as_str().into();
    json["acknowledged"] = row.acknowledged.into();
    if !row.category.is_empty() {
        json["category"] = row.category.as_str().into();
    }
    if !row.labels.is_empty() {
        json["labels"] = json!(row.labels);
    }
    json
}

pub(super) async fn add(inner: &Arc<Inner>, request: &Parsed) -> Result<Reply, Failure> {
    let called = "AddNotificationRequest";
    let items = body::items(request, called, "notification", |check, fields| {
        check.uuid(fields, "id");
        let category = check.text(fields, "category").unwrap_or_default();
        let category = !category.is_empty();
        if category {
            check.unreserved(fields, "category");
        }
        let labels = check.unreserved_list(fields, "labels");
        if !category && labels == 0 {
            for (field, other) in [("category", "Labels"), ("labels", "Category")] {
                let path = check.path(field);
                check.say(format!(
                    "{path} field is required if the {other} is not present"
                ));
            }
        }
        check.required(fields, "content");
        check.text(fields, "contentType");
        check.text(fields, "description");
        check.required(fields, "sender");
        check.unreserved(fields, "sender");
        check.one_of(fields, "severity", &SEVERITIES, true);
        let status = check.text(fields, "status").unwrap_or_default();
        if !status.is_empty() {
            check.one_of(fields, "status", &STATUSES, false);
        }
    })?;
    let read = items.into_iter().map(|mut item| {
        let notice = body::read::<Notice>(std::mem::take(&mut item.content))?;
        Ok((item, notice))
    });
    let read: Vec<_> = read.collect::<Result<_, Failure>>()?;
    let mut outcomes = Vec::new();
    for (item, notice) in read {
        let done = notice.raise(inner).await.map(Done::Created);
        outcomes.push(outcome(&item.request_id, done));
    }
    Ok(Reply::many(outcomes))
}

fn valid(id: &str) -> Result<(), Failure> {
    match Uuid::parse_str(id) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::bad_request("ID is not a valid UUID")),
    }
}

fn missing(id: &str) -> Failure {
    Failure::not_found(format!("failed to query notification by id {id}"))
}

pub(super) async fn one(inner: &Inner, id: &str) -> Result<Reply, Failure> {
    valid(id)?;
    let found = inner.records.notification(id).await;
    let found = found.map_err(rest::refused)?.ok_or_else(|| missing(id))?;
    Ok(Reply::ok(json!({ "notification": dto(&found) })))
}

pub(super) async fn remove(inner: &Inner, id: &str) -> Result<Reply, Failure> {
    valid(id)?;
    let gone = inner.records.delete_notifications(&[id]).await;
    match gone.map_err(rest::refused)? {
        0 => Err(missing(id)),
        _ => Ok(Reply::ok(json!({}))),
    }
}

fn listed(ids: &str) -> Result<Vec<&str>, Failure> {
    let ids: Vec<&str> = ids.split(',').collect();
    ids.iter().try_for_each(|id| valid(id))?;
    Ok(ids)
}

pub(super) async fn remove_all(inner: &Inner, ids: &str) -> Result<Reply, Failure> {
    let ids = listed(ids)?;
    let gone = inner.records.delete_notifications(&ids).await;
    gone.map_err(rest::refused)?;
    Ok(Reply::ok(json!({})))
}

pub(super) async fn acknowledge(
    inner: &Inner,
    ids: &str,
    acknowledged: bool,
) -> Result<Reply, Failure> {
    let ids = listed(ids)?;
    let records = &inner.records;
    let done = records
        .acknowledge(&ids, acknowledged, inner.clock.now())
        .await;
    done.map_err(rest::refused)?;
    Ok(Reply::ok(json!({})))
}

pub(super) async fn of_category(
    inner: &Inner,
    request: &Parsed,
    category: &str,
) -> Result<Reply, Failure> {
    let interest = Interest {
        categories: vec![category.to_owned()],
        labels: Vec::new(),
    };
    interested(inner, request, interest).await
}

pub(super) async fn of_label(
    inner: &Inner,
    request: &Parsed,
    label: &str,
) -> Result<Reply, Failure> {
    let interest = Interest {
        categories: Vec::new(),
        labels: vec![label.to_owned()],
    };
    interested(inner, request, interest).await
}

pub(super) async fn of_subscription(
    inner: &Inner,
    request: &Parsed,
    name: &str,
) -> Result<Reply, Failure> {
    let subscription = inner.subscriptions().named(name)?;
    let interest = Interest {
        categories: subscription.spec.categories.clone(),
        labels: subscription.spec.labels.clone(),
    };
    interested(inner, request, interest).await
}

async fn interested(inner: &Inner, request: &Parsed, interest: Interest) -> Result<Reply, Failure> {
    let filter = NotificationFilter {
        interest: Some(interest),
        ..NotificationFilter::default()
    };
    list(inner, request, filter).await
}

pub(super) async fn of_status(
    inner: &Inner,
    request: &Parsed,
    status: &str,
) -> Result<Reply, Failure> {
    let filter = NotificationFilter {
        status: Some(status.to_owned()),
        ..NotificationFilter::default()
    };
    list(inner, request, filter).await
}

pub(super) async fn of_time(
    inner: &Inner,
    request: &Parsed,
    range: (i64, i64),
) -> Result<Reply, Failure> {
    let filter = NotificationFilter {
        created: Some(range),
        ..NotificationFilter::default()
    };
    list(inner, request, filter).await
}

/// By the conditions in the request's body. A range that ends before it begins has no end, as in
/// EdgeX, whose times are those of creation.
pub(super) async fn query(inner: &Inner, request: &Parsed) -> Result<Reply, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Condition {
        #[serde(deserialize_with = "eyot_api::lenient::nullable")]
        category: Vec<String>,
        start: i64,
        end: i64,
    }
    let mut envelope: Fields = body::object(request)?;
    body::envelope_id(&envelope, "GetNotificationRequest")?;
    let condition = match envelope.remove("queryCondition") {
        None | Some(Json::Null) => Condition::default(),
        Some(Json::Object(condition)) => body::read(condition)?,
        Some(_) => return Err(body::undecodable("queryCondition must be an object")),
    };
    let end = if condition.end <= condition.start {
        i64::MAX
    } else {
        condition.end
    };
    let interest = (!condition.category.is_empty()).then_some(Interest {
        categories: condition.category,
        labels: Vec::new(),
    });
    let filter = NotificationFilter {
        interest,
        created: Some((condition.start, end)),
        ..NotificationFilter::default()
    };
    list(inner, request, filter).await
}

async fn list(
    inner: &Inner,
    request: &Parsed,
    mut filter: NotificationFilter,
) -> Result<Reply, Failure> {
    let (page, part) = part(request)?;
    filter.acknowledged = match request.query.get("ack").map(String::as_str) {
        None | Some("") => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err(Failure::bad_request("invalid ack value")),
    };
    let found = inner.records.notifications(&filter, part).await;
    let (total, rows) = found.map_err(rest::refused)?;
    page.check(total)?;
    let rows: Vec<Json> = rows.iter().map(dto).collect();
    Ok(Reply::ok(
        json!({ "totalCount": total, "notifications": rows }),
    ))
}

/// Delete those that are so many milliseconds old.
pub(super) async fn clean_up(
    inner: &Inner,
    age: Result<i64, Failure>,
    status: Option<&str>,
) -> Result<Reply, Failure> {
    let until = inner.clock.now().saturating_sub(age?);
    let records = &inner.records;
    let gone = records.delete_notifications_until(until, status).await;
    gone.map_err(rest::refused)?;
    Ok(rest::accepted())
}
