//! core-data: events that are sent, and queries for events and readings, newest first.

use bytes::Bytes;
use eyot_store::{Filter, Page};
use http::{Method, StatusCode};
use serde_json::json;

use super::{
    Edgex, aggregate, events, no_such_method, numeric,
    reply::{Failure, Reply},
    request::Parsed,
};
use crate::clock;

enum Query {
    Events(Filter),
    Readings(Filter),
    EventCount(Filter),
    ReadingCount(Filter),
    Event(String),
    Latest(String),
}

pub(super) async fn route(
    edgex: &Edgex,
    request: &Parsed,
    path: &[&str],
) -> Option<Result<Reply, Failure>> {
    if let Some(answer) = write(edgex, request, path).await {
        return Some(answer);
    }
    let query = match query(path)? {
        Ok(query) => query,
        Err(failure) => return Some(Err(failure)),
    };
    if request.method != Method::GET {
        return Some(Err(no_such_method(request)));
    }
    Some(answer(edgex, request, query).await)
}

/// What changes something.
async fn write(edgex: &Edgex, request: &Parsed, path: &[&str]) -> Option<Result<Reply, Failure>> {
    let readings = &edgex.inner.readings;
    let delete = request.method == Method::DELETE;
    Some(match path {
        ["event", service, profile, device, source] if request.method == Method::POST => {
            let path = events::Path {
                service,
                profile,
                device,
                source,
            };
            events::add(edgex, request, &path).await
        }
        ["event", "id", id] if delete => {
            if let Err(failure) = uuid(id) {
                return Some(Err(failure));
            }
            match readings.delete_event(id).await {
                Ok(true) => Ok(Reply::ok(json!({}))),
                Ok(false) => Err(no_event(id)),
                Err(error) => Err(Failure::internal(error.to_string())),
            }
        }
        ["event", "device", "name", name] if delete => {
            let filter = Filter {
                device: Some((*name).to_owned()),
                ..Filter::default()
            };
            delete_events(edgex, &filter).await
        }
        ["event", "age", age] if delete => match age.parse::<u64>() {
            Ok(age) => {
                let filter = Filter {
                    end: Some(clock::nanoseconds().saturating_sub(age)),
                    ..Filter::default()
                };
                delete_events(edgex, &filter).await
            }
            Err(_) => Err(Failure::bad_request(format!(
                "age format parsing failed: {age:?} is no number of nanoseconds"
            ))),
        },
        ["event", "age", _] => Err(no_such_method(request)),
        ["event", _, _, _, _] if request.method != Method::GET => Err(no_such_method(request)),
        _ => return None,
    })
}

async fn delete_events(edgex: &Edgex, filter: &Filter) -> Result<Reply, Failure> {
    let deleted = edgex.inner.readings.delete(filter).await;
    deleted.map_err(|error| Failure::internal(error.to_string()))?;
    Ok(Reply::with(StatusCode::ACCEPTED, json!({})))
}

fn uuid(id: &str) -> Result<(), Failure> {
    uuid::Uuid::parse_str(id)
        .map(drop)
        .map_err(|_| Failure::bad_request(format!("fail to parse id as an UUID: {id:?}")))
}

fn no_event(id: &str) -> Failure {
    Failure::not_found(format!("event {id} is not there (any more)"))
}

fn query(path: &[&str]) -> Option<Result<Query, Failure>> {
    let device = |name: &str| Filter {
        device: Some(name.to_owned()),
        ..Filter::default()
    };
    let resource = |name: &str| Filter {
        resources: vec![name.to_owned()],
        ..Filter::default()
    };
    let both = |name: &str, of: &str| Filter {
        resources: vec![of.to_owned()],
        ..device(name)
    };
    Some(Ok(match path {
        ["event", "all"] => Query::Events(Filter::default()),
        ["event", "count"] => Query::EventCount(Filter::default()),
        ["event", "count", "device", "name", name] => Query::EventCount(device(name)),
        ["event", "device", "name", name] => Query::Events(device(name)),
        ["event", "id", id] => Query::Event((*id).to_owned()),
        ["event", "start", start, "end", end] => {
            return Some(between(Filter::default(), start, end).map(Query::Events));
        }
        ["reading", "all"] => Query::Readings(Filter::default()),
        ["reading", "count"] => Query::ReadingCount(Filter::default()),
        ["reading", "count", "device", "name", name] => Query::ReadingCount(device(name)),
        ["reading", "device", "name", name] => Query::Readings(device(name)),
        ["reading", "device", "name", name, "latest"] => Query::Latest((*name).to_owned()),
        ["reading", "resourceName", of] => Query::Readings(resource(of)),
        ["reading", "device", "name", name, "resourceName", of] => Query::Readings(both(name, of)),
        ["reading", rest @ .., "start", start, "end", end] => {
            let filter = match rest {
                [] => Filter::default(),
                ["resourceName", of] => resource(of),
                ["device", "name", name] => device(name),
                ["device", "name", name, "resourceName", of] => both(name, of),
                _ => return None,
            };
            return Some(between(filter, start, end).map(Query::Readings));
        }
        _ => return None,
    }))
}

fn between(filter: Filter, start: &str, end: &str) -> Result<Filter, Failure> {
    let number = |name: &str, text: &str| {
        text.parse::<u64>().map_err(|_| {
            Failure::bad_request(format!(
                "{name}: {text:?} is no number of nanoseconds since 1970"
            ))
        })
    };
    let (start, end) = (number("start", start)?, number("end", end)?);
    if end < start {
        return Err(Failure::bad_request(format!(
            "end {end} is before start {start}"
        )));
    }
    Ok(Filter {
        start: Some(start),
        end: Some(end),
        ..filter
    })
}

async fn answer(edgex: &Edgex, request: &Parsed, query: Query) -> Result<Reply, Failure> {
    let readings = &edgex.inner.readings;
    let broken = |error: eyot_store::ReadingsError| Failure::internal(error.to_string());
    let count = Page {
        offset: 0,
        limit: 0,
    };
    match query {
        Query::Event(id) if uuid(&id).is_err() => Err(no_event(&id)),
        Query::Event(id) => match readings.event(&id).await.map_err(broken)? {
            Some(body) => Ok(written(&[("event", text(&body))], None)),
            None => Err(no_event(&id)),
        },
        Query::EventCount(filter) => {
            let found = readings.events(&filter, count).await.map_err(broken)?;
            Ok(Reply::ok(
                json!({ "Count": found.total, "count": found.total }),
            ))
        }
        Query::ReadingCount(filter) => {
            let found = readings.readings(&filter, count).await.map_err(broken)?;
            Ok(Reply::ok(
                json!({ "Count": found.total, "count": found.total }),
            ))
        }
        Query::Events(filter) => {
            let page = request.page()?;
            let wanted = Page {
                offset: page.offset,
                limit: page.limit,
            };
            let found = readings.events(&filter, wanted).await.map_err(broken)?;
            page.check(found.total)?;
            let bodies = numeric::events(request, found.bodies)?;
            Ok(written(&[("events", array(&bodies))], Some(found.total)))
        }
        Query::Readings(filter) => {
            if let Some(function) = aggregate::wanted(request)? {
                return aggregate::answer(edgex, &filter, function).await;
            }
            let page = request.page()?;
            let wanted = Page {
                offset: page.offset,
                limit: page.limit,
            };
            let found = readings.readings(&filter, wanted).await.map_err(broken)?;
            page.check(found.total)?;
            let bodies = numeric::readings(request, found.bodies)?;
            Ok(written(&[("readings", array(&bodies))], Some(found.total)))
        }
        Query::Latest(name) => {
            edgex.device(&name)?;
            let latest = readings.latest_of(&name);
            let total = latest.len();
            let bodies = latest.into_iter().map(|(_, latest)| latest.body).collect();
            let bodies = numeric::readings(request, bodies)?;
            Ok(written(&[("readings", array(&bodies))], Some(total)))
        }
    }
}

/// Stored bodies are JSON already: put them together as they are.
fn written(fields: &[(&str, String)], total: Option<usize>) -> Reply {
    let mut body = String::from("{\"apiVersion\":\"v3\",\"statusCode\":200");
    if let Some(total) = total {
        body.push_str(&format!(",\"totalCount\":{total}"));
    }
    for (name, json) in fields {
        body.push_str(&format!(",\"{name}\":"));
        body.push_str(json);
    }
    body.push('}');
    Reply::written(body)
}

fn array(bodies: &[Bytes]) -> String {
    let bodies: Vec<_> = bodies.iter().map(|body| text(body)).collect();
    format!("[{}]", bodies.join(","))
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}
