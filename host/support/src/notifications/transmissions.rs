//! Transmissions over REST: what was tried to deliver, and what came of it.

use eyot_edgex::{
    Failure, Parsed, Reply, no_such_method,
    request::{number, range},
};
use eyot_store::records::{Transmission, TransmissionFilter};
use http::Method;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::part;
use crate::{Inner, rest};

pub(super) const SENT: &str = "SENT";
pub(super) const FAILED: &str = "FAILED";
pub(super) const RESENDING: &str = "RESENDING";
pub(super) const ESCALATED: &str = "ESCALATED";
/// Those that nothing more comes of, but for the failed ones, which EdgeX keeps.
const PROCESSED: [&str; 3] = [SENT, "ACKNOWLEDGED", ESCALATED];

/// Answer for a path below `transmission`.
pub(super) async fn route(
    inner: &Inner,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    let get = request.method == Method::GET;
    let mut filter = TransmissionFilter::default();
    match path {
        ["age", age] if !get => return Some(clean_up(inner, age).await),
        ["id", id] if get => return Some(one(inner, id).await),
        ["all"] => {}
        ["subscription", "name", name] => filter.subscription = Some((*name).to_owned()),
        ["status", status] => filter.status = Some((*status).to_owned()),
        ["notification", "id", id] => filter.notification = Some((*id).to_owned()),
        ["start", start, "end", end] => match range(start, end) {
            Ok(range) => filter.created = Some(range),
            Err(failure) => return Some(Err(failure)),
        },
        ["age" | "id", _] => return Some(Err(no_such_method(request))),
        _ => return None,
    }
    Some(match get {
        true => list(inner, request, &filter).await,
        false => Err(no_such_method(request)),
    })
}

/// A transmission as EdgeX shows it.
fn dto(row: &Transmission) -> Json {
    let parsed = |text: &str| serde_json::from_str::<Json>(text).unwrap_or_default();
    let mut json = json!({
        "id": row.id,
        "created": row.created,
        "notificationId": row.notification,
        "subscriptionName": row.subscription,
        "channel": parsed(&row.channel),
        "records": parsed(&row.records),
        "status": row.status,
    });
    if row.resends > 0 {
        json["resendCount"] = row.resends.into();
    }
    json
}

async fn one(inner: &Inner, id: &str) -> Result<Reply, Failure> {
    if Uuid::parse_str(id).is_err() {
        return Err(Failure::bad_request("ID is not a valid UUID"));
    }
    let found = inner.records.transmission(id).await;
    let found = found
        .map_err(rest::refused)?
        .ok_or_else(|| Failure::not_found(format!("failed to query transmission by id {id}")))?;
    Ok(Reply::ok(json!({ "transmission": dto(&found) })))
}

async fn list(
    inner: &Inner,
    request: &Parsed,
    filter: &TransmissionFilter,
) -> Result<Reply, Failure> {
    let (page, part) = part(request)?;
    let found = inner.records.transmissions(filter, part).await;
    let (total, rows) = found.map_err(rest::refused)?;
    page.check(total)?;
    let rows: Vec<Json> = rows.iter().map(dto).collect();
    Ok(Reply::ok(
        json!({ "totalCount": total, "transmissions": rows }),
    ))
}

async fn clean_up(inner: &Inner, age: &str) -> Result<Reply, Failure> {
    let until = inner.clock.now().saturating_sub(number("age", age)?);
    let records = &inner.records;
    let gone = records.delete_transmissions_until(until, &PROCESSED).await;
    gone.map_err(rest::refused)?;
    Ok(rest::accepted())
}
