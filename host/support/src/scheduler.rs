//! support-scheduler: what is done again and again, and what came of it.
//!
//! Jobs are ScheduleJob objects. When one is due is decided in [`timing`], which shares its reading of
//! cron schedules with CronJobs; [`run()`] is the one task that waits for it; [`actions`] does it. What
//! was done is a row of the records for each action, and so is what was missed while the host was off.

mod actions;
mod jobs;
mod run;
mod runs;
mod timing;

use std::sync::Arc;

use eyot_edgex::{Failure, Parsed, Reply, no_such_method};
use http::Method;
use serde_json::{Value as Json, json};

use crate::Inner;

pub(crate) use run::{Triggers, run};

/// Records that are kept at most, and how many stay when the oldest are deleted: EdgeX's own figures.
const MOST: i64 = 10_000;
const FEW: i64 = 8_000;

const GET: &Method = &Method::GET;
const POST: &Method = &Method::POST;
const PATCH: &Method = &Method::PATCH;
const DELETE: &Method = &Method::DELETE;

/// What clients can see the effect of.
pub(crate) fn settings() -> Json {
    json!({ "Retention": { "Enabled": true, "MaxCap": MOST, "MinCap": FEW } })
}

/// Answer a request; `None` if the path is none of the service's own.
pub(crate) async fn route(
    inner: &Arc<Inner>,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let method = &request.method;
    Some(match (path, method) {
        (["job"], POST) => jobs::add(inner, request).await,
        (["job"], PATCH) => jobs::update(inner, request).await,
        (["job", "all"], GET) => jobs::all(inner, request),
        (["job", "name", name], GET) => jobs::one(inner, name),
        (["job", "name", name], DELETE) => jobs::remove(inner, name).await,
        (["job", "trigger", "name", name], POST) => jobs::trigger(inner, name),
        (["scheduleactionrecord", rest @ ..], GET) => {
            return runs::route(inner, request, rest).await;
        }
        (
            ["job"]
            | ["job", "all"]
            | ["job", "name", _]
            | ["job", "trigger", "name", _]
            | ["scheduleactionrecord", ..],
            _,
        ) => Err(no_such_method(request)),
        _ => return None,
    })
}
