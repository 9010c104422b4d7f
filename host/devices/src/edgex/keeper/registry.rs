//! Services that register themselves, and whether they answer; and those of this host, which are there
//! without having registered and are nobody's to change.

use std::{collections::HashMap, time::Duration};

use eyot_api::parse_duration;
use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Edgex,
        body::{self, Check},
        reply::{Failure, Reply},
        request::Parsed,
    },
    shelf::Shelf,
};
use crate::clock;

const SHELF: &str = "registry";
/// How long a service may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Services are asked no more and no less often than this, whatever they say.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(24 * 3600);
/// When to look again if the register could not be read.
const LATER: Duration = Duration::from_secs(5);
const UP: &str = "UP";
const DOWN: &str = "DOWN";
const HALT: &str = "HALT";

/// A registration as EdgeX writes it; times in milliseconds since 1970.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    service_id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    host: String,
    port: u16,
    health_check: HealthCheck,
    #[serde(default)]
    last_connected: u64,
    #[serde(default)]
    created: u64,
    #[serde(default)]
    modified: u64,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct HealthCheck {
    #[serde(default)]
    interval: String,
    #[serde(default)]
    path: String,
    #[serde(default, rename = "type")]
    kind: String,
}

fn now() -> u64 {
    clock::nanoseconds() / 1_000_000
}

fn read(request: &Parsed, called: &str) -> Result<Registration, Failure> {
    let mut content = body::object(request)?;
    body::envelope_id(&content, called)?;
    let Some(Json::Object(registration)) = content.remove("registration") else {
        return Err(Failure::bad_request(format!(
            "{called}.Registration field is required"
        )));
    };
    let mut check = Check::new(format!("{called}.Registration"));
    check.required(&registration, "serviceId");
    check.required(&registration, "host");
    check.one_of(&registration, "status", &[UP, DOWN, "UNKNOWN", HALT], false);
    check.inside(&registration, "healthCheck", |check, health| {
        for field in ["interval", "path", "type"] {
            check.required(health, field);
        }
        check.duration(health, "interval");
    });
    check.done()?;
    let mut registration: Registration = body::read(registration)?;
    if registration.status.is_empty() {
        registration.status = "UNKNOWN".to_owned();
    }
    Ok(registration)
}

/// The services of this host.
fn own(edgex: &Edgex) -> impl Iterator<Item = Registration> {
    let begun = edgex.inner.begun / 1_000_000;
    let services = edgex.inner.services_of_host.iter();
    services.map(move |service| Registration {
        service_id: service.id.clone(),
        status: UP.to_owned(),
        host: service.host.clone(),
        port: service.port,
        health_check: HealthCheck {
            interval: "10s".to_owned(),
            path: "/api/v3/ping".to_owned(),
            kind: "http".to_owned(),
        },
        last_connected: begun,
        created: begun,
        modified: begun,
    })
}

fn not_own(edgex: &Edgex, id: &str) -> Result<(), Failure> {
    match own(edgex).any(|service| service.service_id == id) {
        true => Err(Failure::conflict(format!("{id} is a service of this host"))),
        false => Ok(()),
    }
}

fn parsed(text: &str) -> Option<Registration> {
    serde_json::from_str(text).ok()
}

async fn keep(mut shelf: Shelf, registration: &Registration) -> Result<(), Failure> {
    let text = serde_json::to_string(registration).map_err(body::undecodable)?;
    shelf.entries.insert(registration.service_id.clone(), text);
    shelf.store().await
}

pub(super) async fn add(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let mut registration = read(request, "AddRegistrationRequest")?;
    not_own(edgex, &registration.service_id)?;
    let _writing = edgex.writing().await;
    let shelf = Shelf::open(edgex, SHELF).await?;
    let id = &registration.service_id;
    let known = shelf.entries.get(id).and_then(|text| parsed(text));
    if known.is_some_and(|known| known.status != HALT) {
        return Err(Failure::conflict(format!(
            "registration {id} already exists"
        )));
    }
    registration.created = now();
    registration.modified = registration.created;
    keep(shelf, &registration).await?;
    edgex.inner.registered.notify_one();
    Ok(Reply::with(StatusCode::CREATED, json!({})))
}

pub(super) async fn update(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let mut registration = read(request, "UpdateRegistrationRequest")?;
    not_own(edgex, &registration.service_id)?;
    let _writing = edgex.writing().await;
    let shelf = Shelf::open(edgex, SHELF).await?;
    let known = shelf.entries.get(&registration.service_id);
    let Some(known) = known.and_then(|text| parsed(text)) else {
        return Err(missing(&registration.service_id));
    };
    registration.created = known.created;
    registration.last_connected = known.last_connected;
    registration.modified = now();
    keep(shelf, &registration).await?;
    edgex.inner.registered.notify_one();
    Ok(Reply::empty())
}

pub(super) async fn all(edgex: &Edgex, request: &Parsed) -> Result<Reply, Failure> {
    let gone_too = request.flag("deregistered", false)?;
    let shelf = Shelf::open(edgex, SHELF).await?;
    let registered = shelf.entries.values().filter_map(|text| parsed(text));
    let found: Vec<Registration> = own(edgex)
        .chain(registered)
        .filter(|registration| gone_too || registration.status != HALT)
        .collect();
    Ok(Reply::ok(
        json!({ "totalCount": found.len(), "registrations": found }),
    ))
}

pub(super) async fn one(edgex: &Edgex, id: &str) -> Result<Reply, Failure> {
    let shelf = Shelf::open(edgex, SHELF).await?;
    let registered = || shelf.entries.get(id).and_then(|text| parsed(text));
    let found = own(edgex).find(|service| service.service_id == id);
    let found = found.or_else(registered);
    let found = found.ok_or_else(|| missing(id))?;
    Ok(Reply::ok(json!({ "registration": found })))
}

pub(super) async fn remove(edgex: &Edgex, id: &str) -> Result<Reply, Failure> {
    not_own(edgex, id)?;
    let _writing = edgex.writing().await;
    let mut shelf = Shelf::open(edgex, SHELF).await?;
    if shelf.entries.remove(id).is_none() {
        return Err(missing(id));
    }
    shelf.store().await?;
    Ok(Reply::empty())
}

fn missing(id: &str) -> Failure {
    Failure::not_found(format!("registration not found by serviceId {id}"))
}

/// Ask the registered services whether they are well, each as often as it wants, until `stop`. Only
/// a change of the answer is written, and nothing is done while nobody is registered.
pub(crate) async fn watch_over(edgex: Edgex, stop: CancellationToken) {
    let watching = async {
        let mut asked: HashMap<String, Instant> = HashMap::new();
        loop {
            let registered = edgex.inner.registered.notified();
            let next = look(&edgex, &mut asked).await;
            match next {
                Some(next) => {
                    // Whichever is first.
                    let _ = tokio::time::timeout_at(next, registered).await;
                }
                None => registered.await,
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// Ask those whose time has come, and answer when the next one's comes.
async fn look(edgex: &Edgex, asked: &mut HashMap<String, Instant>) -> Option<Instant> {
    let Ok(shelf) = Shelf::open(edgex, SHELF).await else {
        return Some(Instant::now() + LATER);
    };
    let all = shelf.entries.values().filter_map(|text| parsed(text));
    let live: Vec<_> = all.filter(|one| one.status != HALT).collect();
    asked.retain(|id, _| live.iter().any(|one| one.service_id == *id));
    let mut next: Option<Instant> = None;
    for one in &live {
        let every = parse_duration(&one.health_check.interval).unwrap_or(LEAST);
        // Twice as often until it is well.
        let every = if one.status == UP { every } else { every / 2 };
        let every = every.clamp(LEAST, MOST);
        let due = asked
            .get(&one.service_id)
            .map_or_else(Instant::now, |last| *last + every);
        let now = Instant::now();
        if due > now {
            next = Some(next.map_or(due, |next| next.min(due)));
            continue;
        }
        asked.insert(one.service_id.clone(), now);
        next = Some(next.map_or(now + every, |next| next.min(now + every)));
        let status = if answers(one).await { UP } else { DOWN };
        if status != one.status {
            note(edgex, &one.service_id, status).await;
        }
    }
    next
}

async fn note(edgex: &Edgex, id: &str, status: &str) {
    let _writing = edgex.writing().await;
    let Ok(shelf) = Shelf::open(edgex, SHELF).await else {
        return;
    };
    let Some(mut registration) = shelf.entries.get(id).and_then(|text| parsed(text)) else {
        return;
    };
    // Somebody may have put it to rest meanwhile.
    if registration.status == HALT {
        return;
    }
    status.clone_into(&mut registration.status);
    if status == UP {
        registration.last_connected = now();
    }
    if let Err(failure) = keep(shelf, &registration).await {
        tracing::warn!(
            id,
            message = failure.message,
            "a registration was not updated"
        );
    }
}

/// Whether the service answers its health check with success, over plain HTTP.
async fn answers(registration: &Registration) -> bool {
    let health = &registration.health_check;
    if !health.kind.eq_ignore_ascii_case("http") {
        return false;
    }
    let asked = tokio::time::timeout(ANSWER, ask(registration)).await;
    matches!(asked, Ok(Ok(status)) if status.is_success())
}

async fn ask(registration: &Registration) -> anyhow::Result<StatusCode> {
    let (host, port) = (registration.host.as_str(), registration.port);
    let stream = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = registration.health_check.path.trim_start_matches('/');
    let request = Request::builder()
        .uri(format!("/{path}"))
        .header("host", format!("{host}:{port}"))
        .body(eyot_http::empty())?;
    tokio::select! {
        answer = sender.send_request(request) => Ok(answer?.status()),
        ended = connection => {
            ended?;
            anyhow::bail!("the service closed the connection")
        }
    }
}
