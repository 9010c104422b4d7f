//! EdgeX's REST API of the support services.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use eyot_edgex::{
    Failure, Parsed, Reply, basics, no_such_path,
    reply::reply,
    request::{correlation, parse},
};
use eyot_store::RecordsError;
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value as Json, json};
use tower::Service;

use crate::{Inner, notifications, scheduler};

/// Which of the services answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupportService {
    Notifications,
    Scheduler,
}

impl SupportService {
    /// As EdgeX calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notifications => "support-notifications",
            Self::Scheduler => "support-scheduler",
        }
    }
}

/// The REST API of one service. Cheap to clone.
#[derive(Clone)]
pub struct Rest {
    inner: Arc<Inner>,
    service: SupportService,
}

impl Service<eyot_http::Request> for Rest {
    type Response = eyot_http::Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<eyot_http::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: eyot_http::Request) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let correlation = correlation(&request);
            let outcome = match parse(request, &correlation).await {
                Ok(request) => this.route(&request).await,
                Err(failure) => Err(failure),
            };
            Ok(reply(outcome, &correlation))
        })
    }
}

impl Rest {
    pub(crate) fn new(inner: Arc<Inner>, service: SupportService) -> Self {
        Self { inner, service }
    }

    async fn route(&self, request: &Parsed) -> Result<Reply, Failure> {
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let ["api", "v3", path @ ..] = path.as_slice() else {
            return Err(no_such_path(request));
        };
        let settings = self.settings();
        let basics = basics::Service {
            name: self.service.name(),
            client: &self.inner.client,
            namespace: &self.inner.namespace,
            settings: &settings,
        };
        if let Some(answer) = basics::route(basics, request, path).await {
            return answer;
        }
        let answer = match self.service {
            SupportService::Notifications => notifications::route(&self.inner, request, path).await,
            SupportService::Scheduler => scheduler::route(&self.inner, request, path).await,
        };
        answer.unwrap_or_else(|| Err(no_such_path(request)))
    }

    fn settings(&self) -> Json {
        match self.service {
            SupportService::Notifications => notifications::settings(&self.inner),
            SupportService::Scheduler => scheduler::settings(),
        }
    }
}

/// What EdgeX would answer where the records refused.
pub(crate) fn refused(error: RecordsError) -> Failure {
    let message = error.to_string();
    match error {
        RecordsError::Exists(_) => Failure::conflict(message),
        RecordsError::NotFound(_) => Failure::not_found(message),
        RecordsError::Storage(_) => Failure {
            status: StatusCode::INSUFFICIENT_STORAGE,
            message,
        },
    }
}

/// Nothing but that it was accepted: 202.
pub(crate) fn accepted() -> Reply {
    Reply::with(StatusCode::ACCEPTED, json!({}))
}
