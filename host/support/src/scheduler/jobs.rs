//! Jobs over REST: made, changed, found, deleted and triggered.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use eyot_api::{ScheduleDefinition, ScheduleJob, ScheduleJobSpec};
use eyot_edgex::{
    Failure, Parsed, Reply,
    body::{self, Check, Fields},
    each,
    objects::{created, new_name, page, shown, updated},
    reply::{Done, outcome},
};
use serde_json::{Value as Json, json};

use super::timing::Timing;
use crate::{Inner, rest};

const STATES: [&str; 2] = ["LOCKED", "UNLOCKED"];
/// What an update may change.
const CHANGEABLE: [&str; 6] = [
    "definition",
    "actions",
    "autoTriggerMissedRecords",
    "adminState",
    "labels",
    "properties",
];

/// A job as EdgeX shows it.
fn dto(job: &ScheduleJob) -> Json {
    let mut json = shown(&job.spec, &job.edgex_name(), &job.metadata);
    if json.get("properties").is_none() {
        json["properties"] = json!({});
    }
    json
}

pub(super) fn all(inner: &Inner, request: &Parsed) -> Result<Reply, Failure> {
    page(request, "scheduleJobs", inner.jobs().all(), dto)
}

pub(super) fn one(inner: &Inner, name: &str) -> Result<Reply, Failure> {
    let found = inner.jobs().named(name)?;
    Ok(Reply::ok(json!({ "scheduleJob": dto(&found) })))
}

pub(super) async fn remove(inner: &Inner, name: &str) -> Result<Reply, Failure> {
    let _writing = inner.writing.lock().await;
    let found = inner.jobs().named(name)?;
    inner.jobs().remove(&*found).await?;
    Ok(Reply::ok(json!({})))
}

/// Carry out the actions of a job now. One that is locked has none, as in EdgeX.
pub(super) fn trigger(inner: &Inner, name: &str) -> Result<Reply, Failure> {
    let found = inner.jobs().named(name)?;
    inner.triggers.pull(found)?;
    Ok(rest::accepted())
}

pub(super) async fn add(inner: &Arc<Inner>, request: &Parsed) -> Result<Reply, Failure> {
    let items = body::items(
        request,
        "AddScheduleJobRequest",
        "scheduleJob",
        |check, fields| {
            check.uuid(fields, "id");
            check.required(fields, "name");
            check.inside(fields, "definition", definition);
            actions(check, fields, true);
            if check
                .text(fields, "adminState")
                .is_some_and(|state| !state.is_empty())
            {
                check.one_of(fields, "adminState", &STATES, false);
            }
            check.map(fields, "properties", false);
        },
    )?;
    // What cannot be read refuses the whole request.
    let read = items.into_iter().map(|mut item| {
        let name = new_name(&mut item.content);
        if item
            .content
            .get("adminState")
            .is_some_and(|state| state == "")
        {
            item.content.remove("adminState");
        }
        payloads(&mut item.content);
        let spec = body::read::<ScheduleJobSpec>(std::mem::take(&mut item.content))?;
        Ok((item, name, spec))
    });
    let read: Vec<_> = read.collect::<Result<_, Failure>>()?;
    let _writing = inner.writing.lock().await;
    let mut outcomes = Vec::new();
    for (item, name, spec) in read {
        let added = match possible(&spec.definition) {
            Ok(()) => inner.jobs().add(&name, ScheduleJob::new("", spec)).await,
            Err(failure) => Err(failure),
        };
        outcomes.push(outcome(
            &item.request_id,
            added.map(|stored| created(&stored)),
        ));
    }
    Ok(Reply::many(outcomes))
}

pub(super) async fn update(inner: &Arc<Inner>, request: &Parsed) -> Result<Reply, Failure> {
    let called = "UpdateScheduleJobRequest";
    let mut items = body::items(request, called, "scheduleJob", |check, fields| {
        check.identity(fields);
        if fields
            .get("definition")
            .is_some_and(|value| !value.is_null())
        {
            check.inside(fields, "definition", definition);
        }
        actions(check, fields, false);
        check.one_of(fields, "adminState", &STATES, false);
        check.map(fields, "properties", false);
    })?;
    for item in &mut items {
        payloads(&mut item.content);
    }
    let _writing = inner.writing.lock().await;
    each!(items, item => {
        let objects = inner.jobs();
        let known = updated(&objects, &item.content)?;
        objects
            .change(&known, |now| {
                body::patch(&mut now.spec, &item.content, &CHANGEABLE)?;
                possible(&now.spec.definition)
            })
            .await?;
        Ok(Done::Changed)
    })
}

fn possible(definition: &ScheduleDefinition) -> Result<(), Failure> {
    Timing::of(definition)
        .map(drop)
        .map_err(Failure::bad_request)
}

fn definition(check: &mut Check, fields: &Fields) {
    check.one_of(fields, "type", &["INTERVAL", "CRON"], true);
    match fields.get("type").and_then(Json::as_str) {
        Some("INTERVAL") => {
            check.required(fields, "interval");
            check.duration(fields, "interval");
        }
        Some("CRON") => check.required(fields, "crontab"),
        _ => {}
    }
    let start = check.whole(fields, "startTimestamp").unwrap_or(0);
    let end = check.whole(fields, "endTimestamp").unwrap_or(0);
    if end != 0 && end < start {
        check.say("endTimestamp must be greater than startTimestamp".to_owned());
    }
    if fields
        .get("activeYearlyTimeWindow")
        .is_some_and(|value| !value.is_null())
    {
        check.inside(fields, "activeYearlyTimeWindow", |check, window| {
            for (field, most) in [
                ("startMonth", 12),
                ("startDay", 31),
                ("endMonth", 12),
                ("endDay", 31),
            ] {
                let given = check.whole(window, field).unwrap_or(0);
                let path = check.path(field);
                if given < 1 {
                    check.say(format!("{path} field validation failed on the min tag"));
                } else if given > most {
                    check.say(format!("{path} field validation failed on the max tag"));
                }
            }
        });
    }
}

fn actions(check: &mut Check, fields: &Fields, needed: bool) {
    let path = check.path("actions");
    match fields.get("actions").filter(|value| !value.is_null()) {
        None if needed => check.say(format!("{path} field is required")),
        Some(Json::Array(all)) if all.is_empty() => {
            check.say(format!("{path} field should greater than 0"));
        }
        Some(Json::Array(all)) if all.len() > 64 => {
            check.say(format!("{path} field has more than 64 actions"));
        }
        _ => {}
    }
    check.each(fields, "actions", |check, action| {
        check.one_of(
            action,
            "type",
            &["EDGEXMESSAGEBUS", "REST", "DEVICECONTROL"],
            true,
        );
        let needed: &[&str] = match action.get("type").and_then(Json::as_str) {
            Some("EDGEXMESSAGEBUS") => &["topic"],
            Some("REST") => &["address", "method"],
            Some("DEVICECONTROL") => &["deviceName", "sourceName"],
            _ => &[],
        };
        for field in needed {
            check.required(action, field);
        }
        let payload = action.get("payload");
        if payload.is_some_and(|payload| payload.is_number() || payload.is_boolean()) {
            check.say("Failed to unmarshal ScheduleAction, unsupported payload type".to_owned());
        }
    });
}

/// A payload is bytes in base64; as in EdgeX, what is none is taken for the bytes themselves, and an
/// object or a list for its JSON.
fn payloads(content: &mut Fields) {
    let actions = content.get_mut("actions").and_then(Json::as_array_mut);
    for action in actions.into_iter().flatten() {
        let Some(payload) = action.get_mut("payload") else {
            continue;
        };
        *payload = match payload.take() {
            Json::String(text) if STANDARD.decode(&text).is_ok() => Json::String(text),
            Json::String(text) => STANDARD.encode(text).into(),
            Json::Null => Json::Null,
            other => STANDARD.encode(other.to_string()).into(),
        };
    }
}
