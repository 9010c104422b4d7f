//! `pods/log`: what a container wrote, passed through from the node that runs it.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use eyot_http::Response;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;

use super::kubelet;
use crate::{api::Api, call::Call, failure::Failure, object};

pub(crate) async fn log(api: &Arc<Api>, call: Call, query: &str) -> Result<Response, Failure> {
    let stored = api
        .store
        .get(&call.key())
        .ok_or_else(|| call.resource.not_found(&call.name))?;
    let pod = call.resource.value(&stored)?;
    let others = ["initContainers", "ephemeralContainers"];
    let container = kubelet::container(&pod, &call.name, query, &others)?;
    let node = object::text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        // Nobody runs it yet: it has written nothing.
        return Ok(eyot_http::text(StatusCode::OK, ""));
    }
    let kubelet = kubelet::of(api, &call, node)?;
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
    let response = kubelet::ask(kubelet, request).await;
    let code = response.status();
    if !code.is_success() {
        let text = kubelet::refusal(response).await;
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
