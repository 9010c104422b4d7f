//! `pods/log`: what a container wrote, passed through from the node that runs it.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use eyot_http::Response;
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::{api::Api, call::Call, failure::Failure, object};

/// An error text from a kubelet longer than this is cut off.
const ERROR_LIMIT: usize = 64 * 1024;

pub(crate) async fn log(api: &Arc<Api>, call: Call, query: &str) -> Result<Response, Failure> {
    let stored = api
        .store
        .get(&call.key())
        .ok_or_else(|| call.resource.not_found(&call.name))?;
    let pod = call.resource.value(&stored)?;
    let container = container(&pod, &call.name, query)?;
    let node = object::text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        // Nobody runs it yet: it has written nothing.
        return Ok(eyot_http::text(StatusCode::OK, ""));
    }
    let kubelet = api.options.nodes.kubelet(node).ok_or_else(|| {
        Failure::unavailable(format!(
            "node {node:?}, which runs pod {:?}, is not connected: try again when it is Ready",
            call.name
        ))
    })?;
    let rest: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(
            form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "container"),
        )
        .finish();
    let path = format!(
        "/containerLogs/{}/{}/{container}?{rest}",
        call.namespace, call.name
    );
    let request = http::Request::get(path)
        .body(eyot_http::empty())
        .map_err(Failure::internal)?;
    // Named, because the compiler cannot prove an anonymous future over `dyn Error` to be `Send`.
    let answer: BoxFuture<'static, Result<Response, Infallible>> =
        Box::pin(kubelet.oneshot(request));
    let response = match answer.await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let code = response.status();
    if !code.is_success() {
        let text = eyot_http::collect(response.into_body(), ERROR_LIMIT)
            .await
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let text = text.trim();
        return Err(match code {
            StatusCode::BAD_REQUEST => Failure::bad_request(text),
            StatusCode::NOT_FOUND => Failure::bad_request(text),
            _ => Failure::internal(text),
        });
    }
    let stop = api.options.shutdown.clone();
    let chunks = response.into_body().into_data_stream().map_ok(Bytes::from);
    let chunks = chunks.take_until(async move { stop.cancelled().await });
    let mut response = http::Response::new(eyot_http::from_stream(chunks));
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok::<_, Infallible>(response).map_err(|never| match never {})
}

/// The container asked for, or the only one.
fn container(pod: &Value, name: &str, query: &str) -> Result<String, Failure> {
    let names = |key: &str| -> Vec<String> {
        let list = object::at(pod, &["spec", key]).and_then(Value::as_array);
        let names = list
            .into_iter()
            .flatten()
            .map(|c| object::text(c, &["name"]).to_owned());
        names.collect()
    };
    let (init, main) = (names("initContainers"), names("containers"));
    let asked = form_urlencoded::parse(query.as_bytes())
        .find(|(key, value)| key == "container" && !value.is_empty())
        .map(|(_, value)| value.into_owned());
    match (asked, main.as_slice()) {
        (Some(asked), _) if main.contains(&asked) || init.contains(&asked) => Ok(asked),
        (Some(asked), _) => Err(Failure::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        ))),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            main.join(" ")
        ))),
    }
}
