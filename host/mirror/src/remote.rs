//! The cloud's API as the mirror needs it: objects as JSON, answers sorted by what is to be done about
//! them.

use std::{pin::Pin, time::Duration};

use futures::{AsyncBufReadExt, Stream, StreamExt};
use http::{HeaderValue, Method, Request, header::CONTENT_TYPE};
use kube::Client;
use serde_json::Value;

use crate::kind::Kind;

/// How long an answer may take before the link counts as cut: where packets of one direction are lost,
/// nothing else ends a request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects asked for at a time.
const PAGE: usize = 500;
/// Pages of one list: fifty thousand objects of a kind, far beyond what a node is for.
const PAGES: usize = 100;
/// How long one watch goes on before it is begun anew, in seconds: what `kube` asks for, by which the
/// connection to the cloud knows a watch that it may have go on for longer.
const WATCH_SECONDS: u32 = 290;

/// Why the cloud did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RemoteError {
    /// It cannot be reached, or cannot answer now: try again later.
    #[error("the cloud cannot be reached: {0}")]
    Unreachable(String),
    /// Begin the list anew.
    #[error("the revision is no longer known there")]
    Expired,
    #[error("it does not exist there")]
    Missing,
    #[error("it exists there")]
    Exists,
    #[error("it is another one there, or was changed: {0}")]
    Conflict(String),
    /// It will not be done, however often it is asked for.
    #[error("the cloud refused it: {0}")]
    Refused(String),
}

pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<(String, Value), RemoteError>> + Send>>;

#[derive(Clone)]
pub(crate) struct Remote(Client);

impl Remote {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// All objects that a field selector selects, and the revision of the list.
    pub(crate) async fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        fields: &str,
    ) -> Result<(Vec<Value>, String), RemoteError> {
        let (mut all, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES {
            let query = query(&[
                ("fieldSelector", fields),
                ("limit", &PAGE.to_string()),
                ("continue", &token),
            ]);
            let path = format!("{}?{query}", kind.path(namespace));
            let mut list = self.call(Method::GET, &path, None).await?;
            if let Value::Array(items) = list["items"].take() {
                // Items of a list do not say what they are.
                all.extend(items.into_iter().map(|mut item| {
                    item["apiVersion"] = kind.api_version().into();
                    item["kind"] = kind.name.into();
                    item
                }));
            }
            let text = |name: &str| list["metadata"][name].as_str().unwrap_or_default();
            token = text("continue").to_owned();
            if token.is_empty() {
                return Ok((all, text("resourceVersion").to_owned()));
            }
        }
        Err(RemoteError::Refused(format!(
            "more than {} {}: too many for a node",
            PAGE * PAGES,
            kind.plural
        )))
    }

    /// The changes after a revision: their types and objects.
    pub(crate) async fn watch(
        &self,
        kind: &Kind,
        namespace: &str,
        fields: &str,
        after: &str,
    ) -> Result<Events, RemoteError> {
        let query = query(&[
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("fieldSelector", fields),
            ("resourceVersion", after),
            ("timeoutSeconds", &WATCH_SECONDS.to_string()),
        ]);
        let path = format!("{}?{query}", kind.path(namespace));
        let request = request(Method::GET, &path, None)?;
        let begun = tokio::time::timeout(PATIENCE, self.0.request_stream(request)).await;
        let begun = begun.map_err(|_| RemoteError::Unreachable("no answer".to_owned()))?;
        let lines = begun.map_err(sorted)?.lines();
        Ok(Box::pin(
            lines.map(|line| event(&line.map_err(unreachable)?)),
        ))
    }

    /// Do one thing; answers the object.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, RemoteError> {
        self.answer(request(method, path, body)?).await
    }

    async fn answer(&self, request: Request<Vec<u8>>) -> Result<Value, RemoteError> {
        let answer = tokio::time::timeout(PATIENCE, self.0.request::<Value>(request)).await;
        let answer = answer.map_err(|_| RemoteError::Unreachable("no answer".to_owned()))?;
        answer.map_err(sorted)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, RemoteError> {
        self.call(Method::GET, path, None).await
    }

    /// A JSON merge patch.
    pub(crate) async fn patch(&self, path: &str, patch: &Value) -> Result<Value, RemoteError> {
        self.call(Method::PATCH, path, Some(patch)).await
    }

    /// A strategic merge patch, which only built-in kinds know.
    pub(crate) async fn strategic(&self, path: &str, patch: &Value) -> Result<Value, RemoteError> {
        let mut request = request(Method::PATCH, path, Some(patch))?;
        let content = HeaderValue::from_static("application/strategic-merge-patch+json");
        request.headers_mut().insert(CONTENT_TYPE, content);
        self.answer(request).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, RemoteError> {
        self.call(Method::POST, path, Some(object)).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value, RemoteError> {
        self.call(Method::DELETE, path, Some(options)).await
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
    query.finish()
}

fn request(
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Request<Vec<u8>>, RemoteError> {
    let content = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
    Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, content)
        .body(body)
        .map_err(|error| RemoteError::Refused(error.to_string()))
}

fn event(line: &str) -> Result<(String, Value), RemoteError> {
    let mut event: Value = serde_json::from_str(line).map_err(unreachable)?;
    let object = event["object"].take();
    let kind = event["type"].as_str().unwrap_or_default().to_owned();
    if kind != "ERROR" {
        return Ok((kind, object));
    }
    Err(match object["code"].as_u64() {
        Some(410) => RemoteError::Expired,
        _ => RemoteError::Unreachable(object["message"].to_string()),
    })
}

fn unreachable(error: impl std::fmt::Display) -> RemoteError {
    RemoteError::Unreachable(error.to_string())
}

fn sorted(error: kube::Error) -> RemoteError {
    let kube::Error::Api(status) = error else {
        return unreachable(error);
    };
    let said = status.message.clone();
    match (status.code, &*status.reason) {
        (404, _) => RemoteError::Missing,
        (409, "AlreadyExists") => RemoteError::Exists,
        (409, _) => RemoteError::Conflict(said),
        (410, _) => RemoteError::Expired,
        // 401: the certificate is being renewed, or the clocks differ; neither lasts.
        (401 | 408 | 429 | 500.., _) => RemoteError::Unreachable(said),
        _ => RemoteError::Refused(said),
    }
}
