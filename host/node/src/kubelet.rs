//! The kubelet's HTTP API as a service: what the API server asks a node for.
//!
//! `GET /containerLogs/{namespace}/{pod}/{container}`, `GET /pods`, `GET /healthz`,
//! `GET /stats/summary`, `GET /metrics/resource`, and the
//! sessions `/exec/…`, `/attach/…` (as logs) and `/portForward/{namespace}/{pod}`. Errors are
//! plain text in the kubelet's words, because `kubectl` shows them as they are.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use eyot_http::{Request, Response, from_stream, json, text};
use eyot_runtime::{Container, ExecSpec};
use http::{Method, StatusCode, header::CONTENT_TYPE};
use jiff::Timestamp;
use serde_json::json;
use tower::Service;

use crate::{
    context::{Context, View},
    log::{Log, Options, Reader},
    pod::{Life, Unit, containers},
    stream::{self, Job, Wanted},
    usage,
};

/// Why a request is not served, as it is answered.
type Refusal = (StatusCode, String);

/// Cheap to clone.
#[derive(Clone)]
pub struct Kubelet {
    context: Arc<Context>,
}

impl Kubelet {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().trim_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        match (parts.as_slice(), request.method()) {
            (["exec", namespace, pod, container], &Method::GET | &Method::POST) => {
                return self.command(namespace, pod, container, request, false);
            }
            (["attach", namespace, pod, container], &Method::GET | &Method::POST) => {
                return self.command(namespace, pod, container, request, true);
            }
            (["portForward", namespace, pod], &Method::GET | &Method::POST) => {
                return self.port_forward(namespace, pod, request);
            }
            (_, &Method::GET) => {}
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n"),
        }
        match parts.as_slice() {
            ["healthz"] => text(StatusCode::OK, "ok"),
            ["pods"] => self.pods(),
            ["stats", "summary"] => json(StatusCode::OK, &usage::summary(&self.context).await),
            ["metrics", "resource"] => {
                text(StatusCode::OK, usage::resource_metrics(&self.context).await)
            }
            ["containerLogs", namespace, pod, container] => {
                let query = request.uri().query().unwrap_or_default();
                match self.logs(namespace, pod, container, query) {
                    Ok(reader) => log_body(reader),
                    Err((status, message)) => text(status, message + "\n"),
                }
            }
            ["containerLogs", _, _] => text(StatusCode::BAD_REQUEST, "Missing container name.\n"),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pods(&self) -> Response {
        let views = self.context.all();
        let items: Vec<_> = views.iter().map(|view| &view.object).collect();
        json(
            StatusCode::OK,
            &json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }),
        )
    }

    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
    ) -> Result<Reader, Refusal> {
        let options = Options::parse(query, Timestamp::now())
            .map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
        let view = self
            .context
            .find(namespace, pod)
            .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found")))?;
        let unit = view
            .state
            .units
            .iter()
            .find(|unit| unit.name == container)
            .ok_or_else(|| {
                let message = format!("container \"{container}\" not found in pod \"{pod}\"");
                (StatusCode::NOT_FOUND, message)
            })?;
        let log = self
            .log(&view, unit, options.previous)
            .map_err(|message| (StatusCode::BAD_REQUEST, message))?;
        Reader::open(log, options).map_err(|error| {
            let message = format!("failed to open log of container \"{container}\": {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    }

    fn command(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        request: Request,
        attach: bool,
    ) -> Response {
        let wanted = match Wanted::parse(request.uri().query().unwrap_or_default()) {
            Ok(wanted) => wanted,
            Err(why) => return text(StatusCode::BAD_REQUEST, why),
        };
        let job = match attach {
            true => self.attaching(namespace, pod, container),
            false => self.executing(namespace, pod, container, &wanted),
        };
        match job {
            Ok(job) => stream::command(request, wanted, job, self.context.stop.clone()),
            Err((status, why)) => text(status, why),
        }
    }

    fn executing(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        wanted: &Wanted,
    ) -> Result<Job, Refusal> {
        let (_, running) = self.running(namespace, pod, container)?;
        if wanted.command.is_empty() {
            let why = "you must specify at least one command for the container";
            return Err((StatusCode::BAD_REQUEST, why.to_owned()));
        }
        let spec = ExecSpec {
            command: wanted.command.clone(),
            tty: wanted.tty,
            stdin: wanted.stdin,
        };
        Ok(Job::Exec(running, spec))
    }

    fn attaching(&self, namespace: &str, pod: &str, container: &str) -> Result<Job, Refusal> {
        let (view, running) = self.running(namespace, pod, container)?;
        let unit = view.state.units.iter().find(|unit| unit.name == container);
        let attempt = unit.map_or(0, |unit| unit.restarts);
        let log = self.context.logs.find(&view.reference, container, attempt);
        let log = log.ok_or_else(|| not_running(pod, container))?;
        let once =
            containers(&view.object).any(|c| c.name == container && c.stdin_once == Some(true));
        Ok(Job::Attach {
            container: running,
            log,
            once,
        })
    }

    fn port_forward(&self, namespace: &str, pod: &str, request: Request) -> Response {
        let found = self.context.find(namespace, pod);
        let sandbox = found.and_then(|view| self.context.live.sandbox(&view.reference.uid));
        match sandbox {
            Some(sandbox) => stream::port_forward(request, sandbox, self.context.stop.clone()),
            None => text(
                StatusCode::NOT_FOUND,
                format!("pod \"{pod}\" does not run on this node\n"),
            ),
        }
    }

    fn running(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<(Arc<View>, Arc<dyn Container>), Refusal> {
        let view = self.context.find(namespace, pod);
        let view =
            view.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found")))?;
        let running = self.context.live.container(&view.reference.uid, container);
        let running = running.ok_or_else(|| not_running(pod, container))?;
        Ok((view, running))
    }

    /// The log of the attempt that is meant, or why there is none.
    fn log(&self, view: &View, unit: &Unit, previous: bool) -> Result<Arc<Log>, String> {
        let (container, pod) = (&unit.name, &view.reference.name);
        let find = |attempt: u32| self.context.logs.find(&view.reference, container, attempt);
        let earlier = || find(unit.restarts.checked_sub(1)?);
        if previous {
            let found = match unit.life {
                _ if unit.last.is_none() => None,
                Life::BackingOff { .. } => find(unit.restarts),
                _ => earlier(),
            };
            return found.ok_or_else(|| {
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
            });
        }
        let begun = unit.last.is_some() || unit.running().is_some() || unit.ended().is_some();
        if begun && let Some(log) = find(unit.restarts).or_else(earlier) {
            return Ok(log);
        }
        let waits = |why: &str| {
            Err(format!(
                "container \"{container}\" in pod \"{pod}\" is waiting to start: {why}"
            ))
        };
        match &unit.life {
            Life::Creating { shown: Some(why) } | Life::Blocked { why, .. } => match why.reason {
                "ErrImagePull" => waits("image can't be pulled"),
                "ImagePullBackOff" => waits("trying and failing to pull image"),
                reason => waits(reason),
            },
            Life::Waiting if view.state.inits().next().is_some() => waits("PodInitializing"),
            Life::Waiting | Life::Creating { shown: None } => waits("ContainerCreating"),
            _ => Err(format!(
                "container \"{container}\" in pod \"{pod}\" is not available"
            )),
        }
    }
}

fn not_running(pod: &str, container: &str) -> Refusal {
    let why = format!("container \"{container}\" of pod \"{pod}\" is not running");
    (StatusCode::NOT_FOUND, why)
}

fn log_body(reader: Reader) -> Response {
    let mut response = Response::new(from_stream(reader.into_stream()));
    let plain = http::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

impl Service<Request> for Kubelet {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let kubelet = self.clone();
        Box::pin(async move { Ok(kubelet.answer(request).await) })
    }
}
