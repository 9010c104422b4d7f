//! Action records over REST: what was done and what was missed.

use eyot_edgex::{Failure, Parsed, Reply, request::number};
use eyot_store::records::{Part, Run, RunFilter};
use serde_json::{Value as Json, json};

use crate::{Inner, rest};

/// Answer for a path below `scheduleactionrecord`.
pub(super) async fn route(
    inner: &Inner,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let mut filter = RunFilter::default();
    match path {
        ["latest", "job", "name", name] => return Some(latest(inner, name).await),
        ["all"] => {}
        ["status", status] => filter.status = Some((*status).to_owned()),
        ["job", "name", name] => filter.job = Some((*name).to_owned()),
        ["job", "name", name, "status", status] => {
            filter.job = Some((*name).to_owned());
            filter.status = Some((*status).to_owned());
        }
        _ => return None,
    }
    Some(list(inner, request, filter).await)
}

/// A record as EdgeX shows it.
fn dto(run: &Run) -> Json {
    json!({
        "id": run.id,
        "jobName": run.job,
        "action": serde_json::from_str::<Json>(&run.action).unwrap_or_default(),
        "status": run.status,
        "scheduledAt": run.scheduled,
        "created": run.created,
    })
}

async fn latest(inner: &Inner, name: &str) -> Result<Reply, Failure> {
    let job = inner.jobs().named(name)?;
    let found = inner.records.latest_runs(&job.edgex_name()).await;
    answer(&found.map_err(rest::refused)?, None)
}

async fn list(inner: &Inner, request: &Parsed, mut filter: RunFilter) -> Result<Reply, Failure> {
    let time = |name: &str, otherwise: i64| match request.query.get(name).map(String::as_str) {
        None | Some("") => Ok(otherwise),
        Some(text) => number(name, text),
    };
    let (start, end) = (time("start", 0)?, time("end", inner.clock.now())?);
    if end < start {
        return Err(Failure::bad_request(format!(
            "end's value {end} is not allowed to be greater than start's value {start}"
        )));
    }
    filter.created = Some((start, end));
    let page = request.page()?;
    let part = Part {
        offset: page.offset,
        limit: page.limit,
    };
    let found = inner.records.runs(&filter, part).await;
    let (total, runs) = found.map_err(rest::refused)?;
    page.check(total)?;
    answer(&runs, Some(total))
}

fn answer(runs: &[Run], total: Option<usize>) -> Result<Reply, Failure> {
    let records: Vec<Json> = runs.iter().map(dto).collect();
    Ok(Reply::ok(json!({
        "totalCount": total.unwrap_or(records.len()),
        "scheduleActionRecords": records,
    })))
}
