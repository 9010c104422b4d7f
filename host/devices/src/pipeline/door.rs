//! What is asked about single pipelines beside their status: their letters, what passes, and that
//! something be sent again. An HTTP service that the host puts behind its node's API, so that who may
//! use it is the API server's business.
//!
//! | request | |
//! |---|---|
//! | `GET NAMESPACE/NAME/letters?after=ID&limit=N` | what never was delivered, oldest first |
//! | `GET NAMESPACE/NAME/tail` | a line of JSON for each item that is delivered or set aside from now on |
//! | `POST NAMESPACE/NAME/push?destination=TEXT&device=NAME` | a payload for the pipeline, as its body and `Content-Type` say; answered when it is safe. The source must say `push: true` |
//! | `POST NAMESPACE/NAME/replay` | `{"letters": true}`, or `{"since": TIME, "until": TIME}`: the stored events of that time, once more through the whole pipeline |

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use eyot_api::{Device, Pipeline};
use eyot_http::{Request, Response, from_stream, json, text};
use eyot_runtime::{
    guest::{Item, Payload},
    reading::Event,
};
use eyot_store::{Filter, Letter, Page, Readings, SpoolChange};
use http::{Method, StatusCode, header::CONTENT_TYPE};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::broadcast;
use tower::Service;

use super::{
    codec,
    config::{self, Plan},
    depot::Depot,
    stock::Stock,
};
use crate::{bus::stored_name, catalog::Cache, edgex, encode};

/// Where the host puts this service behind its node.
pub const PREFIX: &str = "pipelines";
/// Letters in one answer at most.
const LETTERS: usize = 1000;
/// Events read from the store at once for a replay, and replayed by one request at most.
const PAGE: usize = 500;
const REPLAYED: usize = 1_000_000;
/// Bytes of a payload, as the contract says.
const PAYLOAD: usize = 1 << 20;
/// How long who pushes an item waits until it is safe.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's body.
const BODY: usize = 64 * 1024;

type Refusal = (StatusCode, String);

/// Cheap to clone.
#[derive(Clone)]
pub struct PipelineDoor {
    pub(crate) depot: Arc<Depot>,
    pub(crate) pipelines: Cache<Pipeline>,
    pub(crate) devices: Cache<Device>,
    pub(crate) readings: Readings,
    /// The namespace whose devices' events are stored under their bare names.
    pub(crate) namespace: String,
}

/// What a replay is to send again.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Replay {
    letters: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl PipelineDoor {
    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().trim_matches('/').to_owned();
        let path = path.strip_prefix(PREFIX).unwrap_or(&path);
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let [namespace, name, what] = parts.as_slice() else {
            return text(
                StatusCode::NOT_FOUND,
                "give pipelines/NAMESPACE/NAME/PART\n",
            );
        };
        let Some(pipeline) = self.pipelines.get(namespace, name) else {
            let said = format!("there is no pipeline {namespace}/{name}\n");
            return text(StatusCode::NOT_FOUND, said);
        };
        let answered = match (*what, request.method()) {
            ("letters", &Method::GET) => self.letters(&pipeline, request.uri().query()).await,
            ("tail", &Method::GET) => self.tail(&pipeline),
            ("replay", &Method::POST) => self.replay(&pipeline, request).await,
            ("push", &Method::POST) => self.push(&pipeline, request).await,
            ("letters" | "tail" | "replay" | "push", _) => {
                Err((StatusCode::METHOD_NOT_ALLOWED, "not so".to_owned()))
            }
            _ => Err((StatusCode::NOT_FOUND, format!("a pipeline has no {what}"))),
        };
        answered.unwrap_or_else(|(status, said)| text(status, said + "\n"))
    }

    fn stock(&self, pipeline: &Pipeline) -> Result<Arc<Stock>, Refusal> {
        let known = self.depot.known(&pipeline.uid().unwrap_or_default());
        known.ok_or_else(|| {
            let said = "the pipeline does not run here (yet)".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, said)
        })
    }

    async fn letters(&self, pipeline: &Pipeline, query: Option<&str>) -> Result<Response, Refusal> {
        let number = |wanted: &str| {
            let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
            pairs.find_map(|(name, value)| (name == wanted).then(|| value.parse::<i64>().ok())?)
        };
        let limit = number("limit").and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(LETTERS).min(LETTERS);
        let after = number("after").unwrap_or(0);
        let letters = self.stored(pipeline, after, limit).await?;
        let letters: Vec<Json> = letters.iter().map(shown).collect();
        Ok(json(StatusCode::OK, &json!({ "letters": letters })))
    }

    async fn stored(
        &self,
        pipeline: &Pipeline,
        after: i64,
        most: usize,
    ) -> Result<Vec<Letter>, Refusal> {
        let uid = pipeline.uid().unwrap_or_default();
        let letters = self.depot.spool().letters(&uid, after, most).await;
        letters.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    fn tail(&self, pipeline: &Pipeline) -> Result<Response, Refusal> {
        let passing = self.stock(pipeline)?.watch();
        let lines = futures::stream::unfold(passing, |mut passing| async move {
            let line = match passing.recv().await {
                Ok(line) => line,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    json!({ "missed": missed }).to_string().into()
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            let line = Bytes::from(format!("{line}\n"));
            Some((Ok::<_, Infallible>(line), passing))
        });
        Ok(Response::new(from_stream(lines)))
    }

    async fn push(&self, pipeline: &Pipeline, request: Request) -> Result<Response, Refusal> {
        if !pipeline.spec.source.push {
            let said = "the pipeline takes nothing here: set spec.source.push";
            return Err((StatusCode::FORBIDDEN, said.to_owned()));
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let setting = |wanted: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            let found = pairs.find(|(name, _)| name == wanted);
            found
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default()
        };
        let media_type = request.headers().get(CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or("application/octet-stream").to_owned();
        let body = eyot_http::collect(request.into_body(), PAYLOAD).await;
        let body = body.map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
        let payload = Payload {
            media_type,
            destination: setting("destination"),
            data: body.into(),
            device: setting("device"),
        };
        let stock = self.stock(pipeline)?;
        let item = Item::Payload(Arc::new(payload));
        let taken = tokio::time::timeout(PATIENCE, stock.take(&[item])).await;
        taken.map_err(|_| {
            let said = stock.fault().map_or_else(
                || "the pipeline has no room; try again later".to_owned(),
                |fault| format!("the item cannot be kept: {fault}"),
            );
            (StatusCode::SERVICE_UNAVAILABLE, said)
        })?;
        Ok(text(StatusCode::OK, ""))
    }

    async fn replay(&self, pipeline: &Pipeline, request: Request) -> Result<Response, Refusal> {
        let bad = |said: String| (StatusCode::BAD_REQUEST, said);
        let body = eyot_http::collect(request.into_body(), BODY).await;
        let body = body.map_err(|error| bad(error.to_string()))?;
        let replay: Replay =
            serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
        let stock = self.stock(pipeline)?;
        let count = match (replay.letters, replay.since) {
            (true, None) => self.replay_letters(pipeline, &stock).await?,
            (false, Some(since)) => {
                let until = replay.until.unwrap_or_else(Timestamp::now);
                self.replay_events(pipeline, &stock, since, until).await?
            }
            _ => return Err(bad("give either letters or since".to_owned())),
        };
        Ok(json(StatusCode::OK, &json!({ "replayed": count })))
    }

    /// Letters go to the first step again; they are letters no more once they are safe there.
    async fn replay_letters(
        &self,
        pipeline: &Pipeline,
        stock: &Arc<Stock>,
    ) -> Result<usize, Refusal> {
        let mut replayed = 0;
        let mut after = 0;
        // Those that are set aside meanwhile, perhaps the same ones, are for the next replay.
        let last = self.stored(pipeline, 0, usize::MAX).await?;
        let last = last.last().map_or(0, |letter| letter.id);
        while after < last {
            let letters = self.stored(pipeline, after, PAGE).await?;
            let letters: Vec<_> = letters.into_iter().filter(|l| l.id <= last).collect();
            let Some(end) = letters.last() else { break };
            after = end.id;
            for letter in &letters {
                let entries = codec::decode(&letter.body).unwrap_or_default();
                for entry in entries {
                    stock.take_in(&entry.item).await;
                    replayed += 1;
                }
            }
            stock.safe(stock.version()).await;
            let forget = SpoolChange::Forget {
                pipeline: pipeline.uid().unwrap_or_default(),
                letters: letters.iter().map(|letter| letter.id).collect(),
            };
            let forgotten = self.depot.spool().commit(&[forget]).await;
            forgotten.map_err(|error| (StatusCode::INSUFFICIENT_STORAGE, error.to_string()))?;
        }
        Ok(replayed)
    }

    async fn replay_events(
        &self,
        pipeline: &Pipeline,
        stock: &Arc<Stock>,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<usize, Refusal> {
        let plan =
            config::check(&pipeline.spec).map_err(|problem| (StatusCode::CONFLICT, problem))?;
        let namespace = pipeline.namespace().unwrap_or_default();
        let mut replayed = 0;
        let instant = |time: Timestamp| u64::try_from(time.as_nanosecond()).unwrap_or(0);
        let all = Filter {
            start: Some(instant(since)),
            end: Some(instant(until)),
            ..Filter::default()
        };
        for filter in self.of_namespace(&namespace, all) {
            replayed += self.replay_found(&namespace, &plan, stock, &filter).await?;
        }
        stock.safe(stock.version()).await;
        Ok(replayed)
    }

    /// Stored events do not say which namespace they are of: where there are several, they are asked
    /// for device by device. Order is per device in any case.
    fn of_namespace(&self, namespace: &str, all: Filter) -> Vec<Filter> {
        let devices = self.devices.all();
        let of_others = devices
            .iter()
            .any(|device| device.namespace().as_deref() != Some(namespace));
        if namespace == self.namespace && !of_others {
            return vec![all];
        }
        let own = self.devices.all_in(namespace);
        own.iter()
            .map(|device| {
                let name: Arc<str> = device.edgex_name().into();
                Filter {
                    device: Some(stored_name(&self.namespace, namespace, &name).to_string()),
                    ..all.clone()
                }
            })
            .collect()
    }

    async fn replay_found(
        &self,
        namespace: &str,
        plan: &Plan,
        stock: &Arc<Stock>,
        filter: &Filter,
    ) -> Result<usize, Refusal> {
        let failed = |error: eyot_store::ReadingsError| {
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        };
        let counting = Page {
            offset: 0,
            limit: 0,
        };
        let found = self.readings.events(filter, counting).await;
        let mut left = found.map_err(failed)?.total.min(REPLAYED);
        let mut replayed = 0;
        // The store answers the newest first: the last page has the oldest.
        while left > 0 {
            let limit = left.min(PAGE);
            left -= limit;
            let page = Page {
                offset: left,
                limit,
            };
            let found = self.readings.events(filter, page).await.map_err(failed)?;
            for body in found.bodies.iter().rev() {
                let Some(event) = self.event(namespace, body) else {
                    continue;
                };
                if let Some(event) = plan.selector.select(&Arc::new(event)) {
                    stock.take_in(&Item::Event(event)).await;
                    replayed += 1;
                }
            }
        }
        Ok(replayed)
    }

    /// A stored event, with the device service that its device has now.
    fn event(&self, namespace: &str, body: &[u8]) -> Option<Event> {
        let event = edgex::stored_event(body)?;
        let devices = self.devices.all_in(namespace);
        let device = devices
            .iter()
            .find(|device| *device.edgex_name() == *event.device);
        let service = device.map_or("", |device| device.spec.service_name.as_str());
        Some(Event {
            service: service.into(),
            ..event
        })
    }
}

fn shown(letter: &Letter) -> Json {
    let items = codec::decode(&letter.body).unwrap_or_default();
    let at = i64::try_from(letter.at).ok();
    let at = at.and_then(|at| Timestamp::from_millisecond(at).ok());
    json!({
        "id": letter.id,
        "stage": letter.stage,
        "at": at,
        "reason": letter.reason,
        "item": items.first().map(|entry| item(&entry.item)),
    })
}

/// An item for people and programs to read.
pub(super) fn item(item: &Item) -> Json {
    match item {
        Item::Event(event) => {
            let body = encode::event(event.clone()).body;
            json!({ "event": serde_json::from_slice::<Json>(&body).unwrap_or_default() })
        }
        Item::Payload(payload) => {
            let data = match std::str::from_utf8(&payload.data) {
                Ok(text) => json!({ "text": text }),
                Err(_) => json!({ "base64": STANDARD.encode(&payload.data) }),
            };
            json!({ "payload": {
                "mediaType": payload.media_type,
                "destination": payload.destination,
                "device": payload.device,
                "data": data,
            } })
        }
    }
}

impl Service<Request> for PipelineDoor {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { Ok(door.answer(request).await) })
    }
}
