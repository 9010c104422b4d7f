//! Subscriptions over REST: made, changed, found and deleted as objects of the Kubernetes API.

use std::sync::Arc;

use eyot_api::{Subscription, SubscriptionSpec};
use eyot_edgex::{
    Failure, Parsed, Reply,
    body::{self, Check, Fields},
    each,
    objects::{created, new_name, shown, updated},
    reply::Done,
};
use serde_json::{Value as Json, json};

use crate::{Inner, outbox::smtp::Address};

/// How a channel of EdgeX's may deliver; the last of them is not possible here.
const TYPES: [&str; 4] = ["REST", "MQTT", "EMAIL", "ZeroMQ"];
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT",
];
const STATES: [&str; 2] = ["LOCKED", "UNLOCKED"];
/// What an update may change.
const CHANGEABLE: [&str; 8] = [
    "channels",
    "receiver",
    "categories",
    "labels",
    "description",
    "resendLimit",
    "resendInterval",
    "adminState",
];

/// A subscription as EdgeX shows it.
fn dto(subscription: &Subscription) -> Json {
    let name = subscription.edgex_name();
    shown(&subscription.spec, &name, &subscription.metadata)
}

pub(super) fn list(
    inner: &Inner,
    request: &Parsed,
    wanted: impl Fn(&SubscriptionSpec) -> bool,
) -> Result<Reply, Failure> {
    let mut all = inner.subscriptions().all();
    all.retain(|one| wanted(&one.spec));
    let (total, page) = request.page()?.of(all)?;
    let page: Vec<Json> = page.iter().map(|one| dto(one)).collect();
    Ok(Reply::ok(
        json!({ "totalCount": total, "subscriptions": page }),
    ))
}

pub(super) fn one(inner: &Inner, name: &str) -> Result<Reply, Failure> {
    let found = inner.subscriptions().named(name)?;
    Ok(Reply::ok(json!({ "subscription": dto(&found) })))
}

pub(super) async fn remove(inner: &Inner, name: &str) -> Result<Reply, Failure> {
    let _writing = inner.writing.lock().await;
    let found = inner.subscriptions().named(name)?;
    inner.subscriptions().remove(&*found).await?;
    Ok(Reply::ok(json!({})))
}

pub(super) async fn add(inner: &Arc<Inner>, request: &Parsed) -> Result<Reply, Failure> {
    let called = "AddSubscriptionRequest";
    let items = body::items(request, called, "subscription", |check, fields| {
        check.uuid(fields, "id");
        check.required(fields, "name");
        check.unreserved(fields, "name");
        check.required(fields, "receiver");
        check.unreserved(fields, "receiver");
        channels(check, fields, true);
        let categories = check.unreserved_list(fields, "categories");
        let labels = check.unreserved_list(fields, "labels");
        if categories + labels == 0 {
            for (field, other) in [("categories", "Labels"), ("labels", "Categories")] {
                let path = check.path(field);
                check.say(format!(
                    "{path} field is required if the {other} is not present"
                ));
            }
        }
        details(check, fields);
        check.one_of(fields, "adminState", &STATES, true);
    })?;
    // What cannot be read refuses the whole request.
    let read = items.into_iter().map(|mut item| {
        let name = new_name(&mut item.content);
        let spec = body::read::<SubscriptionSpec>(std::mem::take(&mut item.content))?;
        Ok((item, name, spec))
    });
    let read: Vec<_> = read.collect::<Result<_, Failure>>()?;
    let _writing = inner.writing.lock().await;
    let mut outcomes = Vec::new();
    for (item, name, spec) in read {
        let subscription = Subscription::new("", spec);
        let added = inner.subscriptions().add(&name, subscription).await;
        let done = added.map(|stored| created(&stored));
        outcomes.push(eyot_edgex::reply::outcome(&item.request_id, done));
    }
    Ok(Reply::many(outcomes))
}

pub(super) async fn update(inner: &Arc<Inner>, request: &Parsed) -> Result<Reply, Failure> {
    let called = "UpdateSubscriptionRequest";
    let items = body::items(request, called, "subscription", |check, fields| {
        check.identity(fields);
        check.unreserved(fields, "receiver");
        channels(check, fields, false);
        let categories = check.unreserved_list(fields, "categories");
        let labels = check.unreserved_list(fields, "labels");
        let named = |name: &str| fields.get(name).is_some_and(Json::is_array);
        if named("categories") && named("labels") && categories + labels == 0 {
            check.say("categories and labels can not be both empty".to_owned());
        }
        details(check, fields);
        check.one_of(fields, "adminState", &STATES, false);
    })?;
    let _writing = inner.writing.lock().await;
    each!(items, item => {
        let objects = inner.subscriptions();
        let known = updated(&objects, &item.content)?;
        objects
            .change(&known, |now| {
                body::patch(&mut now.spec, &item.content, &CHANGEABLE)?;
                if now.spec.categories.is_empty() && now.spec.labels.is_empty() {
                    return Err(Failure::bad_request(
                        "subscription categories and labels can not be both empty",
                    ));
                }
                Ok(())
            })
            .await?;
        Ok(Done::Changed)
    })
}

fn details(check: &mut Check, fields: &Fields) {
    check.text(fields, "description");
    if check
        .whole(fields, "resendLimit")
        .is_some_and(|limit| !(0..=1_000_000).contains(&limit))
    {
        let path = check.path("resendLimit");
        check.say(format!("{path} field should be 0 to 1000000"));
    }
    check.duration(fields, "resendInterval");
}

fn channels(check: &mut Check, fields: &Fields, needed: bool) {
    let given = fields.get("channels").filter(|value| !value.is_null());
    let path = check.path("channels");
    match given {
        None if needed => check.say(format!("{path} field is required")),
        Some(Json::Array(all)) if all.is_empty() => {
            check.say(format!("{path} field should greater than 0"));
        }
        Some(Json::Array(all)) if all.len() > 64 => {
            check.say(format!("{path} field has more than 64 channels"));
        }
        _ => {}
    }
    check.each(fields, "channels", channel);
}

fn channel(check: &mut Check, fields: &Fields) {
    check.one_of(fields, "type", &TYPES, true);
    let kind = fields
        .get("type")
        .and_then(Json::as_str)
        .unwrap_or_default();
    if kind != "EMAIL" && TYPES.contains(&kind) {
        check.required(fields, "host");
        match check.whole(fields, "port") {
            Some(1..=65535) => {}
            Some(0) | None => {
                let path = check.path("port");
                check.say(format!("{path} field is required"));
            }
            Some(_) => {
                let path = check.path("port");
                check.say(format!("{path} field should be 1 to 65535"));
            }
        }
    }
    match kind {
        "REST" => check.one_of(fields, "httpMethod", &METHODS, true),
        "MQTT" => {
            check.required(fields, "publisher");
            check.required(fields, "topic");
            let topic = fields.get("topic").and_then(Json::as_str);
            if topic.is_some_and(|topic| topic.contains(['+', '#', '\0'])) {
                let path = check.path("topic");
                check.say(format!("{path} field must not have wildcards"));
            }
            if check
                .whole(fields, "qos")
                .is_some_and(|qos| !(0..=2).contains(&qos))
            {
                let path = check.path("qos");
                check.say(format!("{path} field should be one of '0' '1' '2'"));
            }
        }
        "EMAIL" => recipients(check, fields),
        "ZeroMQ" => check.say("ZeroMQ is not valid type for Channel".to_owned()),
        _ => {}
    }
}

fn recipients(check: &mut Check, fields: &Fields) {
    let path = check.path("recipients");
    let all = fields.get("recipients").and_then(Json::as_array);
    let Some(all) = all.filter(|all| !all.is_empty()) else {
        return check.say(format!("{path} field should greater than 0"));
    };
    for (index, one) in all.iter().enumerate() {
        let address = one.as_str().map(str::parse::<Address>);
        if !matches!(address, Some(Ok(_))) {
            check.say(format!(
                "{path}[{index}] field validation failed on the email tag"
            ));
        }
    }
}
