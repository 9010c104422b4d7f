//! What a job does: a request, a message on EdgeX's bus, or a command for a device.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use eyot_api::{ActionType, ScheduleAction};
use eyot_edgex::{bus, names};
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use http::{Method, Request, header::CONTENT_TYPE};
use serde_json::Value as Json;
use tower::ServiceExt;

use crate::{Commands, Inner};

/// How long one action may take; a device that is asked may have to be waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer of core-command that are read.
const ANSWER: usize = 64 * 1024;
const JSON: &str = "application/json";

/// Carry out an action; why it failed, if it did.
pub(super) async fn carry_out(inner: Arc<Inner>, action: ScheduleAction) -> Result<(), String> {
    let payload = STANDARD.decode(action.payload.as_deref().unwrap_or_default());
    let payload = payload.map_err(|error| format!("the payload is no base64: {error}"))?;
    let content_type = action
        .content_type
        .as_deref()
        .filter(|given| !given.is_empty());
    let content_type = content_type.unwrap_or(JSON);
    let doing = async {
        match action.kind {
            ActionType::Rest => {
                let method = action.method.as_deref().unwrap_or_default();
                let address = action.address.as_deref().unwrap_or_default();
                let web = &inner.outbox.web;
                let asked = web.request(method, address, content_type, payload.into());
                asked.await.map(drop)
            }
            ActionType::MessageBus => publish(&inner, &action, content_type, payload),
            ActionType::DeviceControl => command(inner.commands.clone(), &action, payload).await,
        }
    };
    match tokio::time::timeout(PATIENCE, doing).await {
        Ok(done) => done,
        Err(_) => Err(format!("not done in {} seconds", PATIENCE.as_secs())),
    }
}

fn publish(
    inner: &Inner,
    action: &ScheduleAction,
    content_type: &str,
    payload: Vec<u8>,
) -> Result<(), String> {
    let topic = action.topic.clone().unwrap_or_default();
    if topic.is_empty() || topic.contains(['+', '#', '\0']) {
        return Err(format!("{topic:?} is no topic to publish to"));
    }
    let message: Bytes = if action.use_raw_payload.unwrap_or_default() {
        payload.into()
    } else {
        let json = match content_type.starts_with(JSON) {
            true => serde_json::from_slice(&payload).ok(),
            false => None,
        };
        // As EdgeX writes bytes.
        let json = json.unwrap_or_else(|| Json::String(STANDARD.encode(&payload)));
        bus::enveloped(json, content_type)
    };
    match (inner.publish)(topic, message) {
        true => Ok(()),
        false => Err("the broker is behind; the message is lost".to_owned()),
    }
}

/// Write to a device, as a client of core-command would. (A combinator: the compiler cannot prove an
/// async block over `dyn Error` to be `Send`.)
fn command(
    commands: Commands,
    action: &ScheduleAction,
    payload: Vec<u8>,
) -> BoxFuture<'static, Result<(), String>> {
    let device = action.device_name.as_deref().unwrap_or_default();
    let source = action.source_name.as_deref().unwrap_or_default();
    let (device, source) = (names::name(device), names::name(source));
    let path = format!("/api/v3/device/name/{device}/{source}");
    let request = Request::builder()
        .method(Method::PUT)
        .uri(path)
        .header(CONTENT_TYPE, JSON)
        .body(eyot_http::full(payload));
    match request {
        Ok(request) => Box::pin(commands.oneshot(request).then(read)),
        Err(error) => Box::pin(ready(Err(error.to_string()))),
    }
}

/// What core-command said to it.
async fn read(answer: Result<eyot_http::Response, Infallible>) -> Result<(), String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let body = eyot_http::collect(answer.into_body(), ANSWER).await;
    let body: Json = body
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let message = body["message"].as_str().unwrap_or_default();
    Err(format!("{}: {message}", status.as_u16()))
}
