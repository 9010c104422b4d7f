//! support-notifications: who is told what, and what came of it.
//!
//! A notification is stored, answered, and then distributed: to each channel of each subscription that
//! is interested in its category or one of its labels goes one transmission, delivered by
//! [`deliver()`]. A critical one that cannot be delivered is tried again, a limited number of times, and
//! then escalates: the subscription named `ESCALATION` is told of that.

mod deliver;
mod notices;
mod subscriptions;
mod transmissions;

use std::sync::Arc;

use eyot_edgex::{
    Failure, Parsed, Reply, no_such_method,
    request::{Page, number, range},
};
use eyot_store::records::Part;
use http::Method;
use serde_json::{Value as Json, json};

use crate::Inner;

pub(crate) use deliver::deliver;
pub(crate) use notices::Notice;

/// How often, and how many milliseconds later each, a critical notification is sent again, unless its
/// subscription says otherwise: EdgeX's own figures.
const RESENDS: i64 = 2;
const PAUSE: i64 = 5000;
/// Notifications that are kept at most, and how many stay when the oldest are deleted: EdgeX's own
/// figures; and the bytes of their contents.
const MOST: i64 = 5000;
const FEW: i64 = 4000;
const BYTES: i64 = 64 << 20;

const GET: &Method = &Method::GET;
const POST: &Method = &Method::POST;
const PUT: &Method = &Method::PUT;
const PATCH: &Method = &Method::PATCH;
const DELETE: &Method = &Method::DELETE;

/// What clients can see the effect of.
pub(crate) fn settings(inner: &Inner) -> Json {
    json!({
        "Writable": { "ResendLimit": RESENDS, "ResendInterval": format!("{}s", PAUSE / 1000) },
        "Retention": { "Enabled": true, "MaxCap": MOST, "MinCap": FEW },
        "Smtp": inner.outbox.mail_settings(),
    })
}

/// Answer a request; `None` if the path is none of the service's own.
pub(crate) async fn route(
    inner: &Arc<Inner>,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let method = &request.method;
    Some(match (path, method) {
        (["subscription"], POST) => subscriptions::add(inner, request).await,
        (["subscription"], PATCH) => subscriptions::update(inner, request).await,
        (["subscription", "all"], GET) => subscriptions::list(inner, request, |_| true),
        (["subscription", "category", category], GET) => {
            subscriptions::list(inner, request, |spec| has(&spec.categories, category))
        }
        (["subscription", "label", label], GET) => {
            subscriptions::list(inner, request, |spec| has(&spec.labels, label))
        }
        (["subscription", "receiver", receiver], GET) => {
            subscriptions::list(inner, request, |spec| spec.receiver == *receiver)
        }
        (["subscription", "name", name], GET) => subscriptions::one(inner, name),
        (["subscription", "name", name], DELETE) => subscriptions::remove(inner, name).await,

        (["notification"], POST) => notices::add(inner, request).await,
        (["notification"], GET) => notices::query(inner, request).await,
        (["notification", "id", id], GET) => notices::one(inner, id).await,
        (["notification", "id", id], DELETE) => notices::remove(inner, id).await,
        (["notification", "ids", ids], DELETE) => notices::remove_all(inner, ids).await,
        (["notification", "acknowledge", "ids", ids], PUT) => {
            notices::acknowledge(inner, ids, true).await
        }
        (["notification", "unacknowledge", "ids", ids], PUT) => {
            notices::acknowledge(inner, ids, false).await
        }
        (["notification", "category", category], GET) => {
            notices::of_category(inner, request, category).await
        }
        (["notification", "label", label], GET) => notices::of_label(inner, request, label).await,
        (["notification", "status", status], GET) => {
            notices::of_status(inner, request, status).await
        }
        (["notification", "subscription", "name", name], GET) => {
            notices::of_subscription(inner, request, name).await
        }
        (["notification", "start", start, "end", end], GET) => match range(start, end) {
            Ok(range) => notices::of_time(inner, request, range).await,
            Err(failure) => Err(failure),
        },
        (["notification", "age", age], DELETE) => {
            notices::clean_up(inner, number("age", age), Some(notices::PROCESSED)).await
        }
        (["cleanup"], DELETE) => notices::clean_up(inner, Ok(0), None).await,
        (["cleanup", "age", age], DELETE) => {
            notices::clean_up(inner, number("age", age), None).await
        }

        (["transmission", rest @ ..], GET | DELETE) => {
            return transmissions::route(inner, request, rest).await;
        }
        (
            ["subscription" | "notification" | "cleanup"]
            | ["subscription", "all"]
            | [
                "subscription",
                "category" | "label" | "receiver" | "name",
                _,
            ]
            | [
                "notification",
                "id" | "ids" | "category" | "label" | "status" | "age",
                _,
            ]
            | ["notification", "acknowledge" | "unacknowledge", "ids", _]
            | ["notification", "subscription", "name", _]
            | ["notification", "start", _, "end", _]
            | ["cleanup", "age", _]
            | ["transmission", ..],
            _,
        ) => Err(no_such_method(request)),
        _ => return None,
    })
}

fn has(texts: &[String], wanted: &str) -> bool {
    texts.iter().any(|text| text == wanted)
}

/// The part of a list that a request asks for, and what to check it with.
fn part(request: &Parsed) -> Result<(Page, Part), Failure> {
    let page = request.page()?;
    let part = Part {
        offset: page.offset,
        limit: page.limit,
    };
    Ok((page, part))
}
