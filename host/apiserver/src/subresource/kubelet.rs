//! Asking the node that runs a pod: what logs, sessions and proxies have in common.

use std::convert::Infallible;

use eyot_http::{Request, Response};
use futures::future::BoxFuture;
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    api::{Api, Kubelet},
    call::Call,
    failure::Failure,
    object,
};

/// An error text from a kubelet longer than this is cut off.
const ERROR_LIMIT: usize = 64 * 1024;

/// The kubelet of the node that runs the pod of this call.
pub(super) fn of(api: &Api, call: &Call, node: &str) -> Result<Kubelet, Failure> {
    api.options.nodes.kubelet(node).ok_or_else(|| {
        Failure::unavailable(format!(
            "node {node:?}, which runs pod {:?}, is not connected: try again when it is Ready",
            call.name
        ))
    })
}

pub(crate) async fn ask(kubelet: Kubelet, request: Request) -> Response {
    // Named, because the compiler cannot prove an anonymous future over `dyn Error` to be `Send`.
    let answer: BoxFuture<'static, Result<Response, Infallible>> =
        Box::pin(kubelet.oneshot(request));
    match answer.await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What a kubelet says when it refuses.
pub(super) async fn refusal(response: Response) -> String {
    let text = eyot_http::collect(response.into_body(), ERROR_LIMIT)
        .await
        .unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The container that the query asks for, or the only one. `others` are the lists of containers
/// beside the main ones that may be asked for.
pub(super) fn container(
    pod: &Value,
    name: &str,
    query: &str,
    others: &[&str],
) -> Result<String, Failure> {
    let names = |key: &str| {
        let list = object::at(pod, &["spec", key]).and_then(Value::as_array);
        let list = list.into_iter().flatten();
        list.map(|container| object::text(container, &["name"]).to_owned())
            .collect::<Vec<_>>()
    };
    let main = names("containers");
    let asked = form_urlencoded::parse(query.as_bytes())
        .find(|(key, value)| key == "container" && !value.is_empty())
        .map(|(_, value)| value.into_owned());
    match (asked, main.as_slice()) {
        (Some(asked), _)
            if main.contains(&asked) || others.iter().any(|key| names(key).contains(&asked)) =>
        {
            Ok(asked)
        }
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
