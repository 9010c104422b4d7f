//! What other servers say when something is not right, in one line for people.

use std::{error::Error, time::Duration};

use http::Response;
use hyper::body::Incoming;

/// Largest error body that is read for its message.
const ERROR_LIMIT: usize = 64 * 1024;
/// How long an error body is waited for.
const ERROR_TIME: Duration = Duration::from_secs(5);
/// Of a message, what is shown.
const SHOWN: usize = 1024;

/// Status, code and message of an answer that is an error.
pub(crate) async fn refusal(response: Response<Incoming>) -> String {
    let status = response.status();
    let body = eyot_http::collect(response.into_body(), ERROR_LIMIT);
    let body = tokio::time::timeout(ERROR_TIME, body).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let error = parsed.as_ref().and_then(|value| value["errors"].get(0));
    let mut said = match error {
        Some(error) => {
            let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
            format!("{status}, {}: {}", text("code"), text("message"))
        }
        None => status.to_string(),
    };
    said.truncate(said.floor_char_boundary(SHOWN));
    said
}

/// The innermost reasons are the telling ones: "connection refused".
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
