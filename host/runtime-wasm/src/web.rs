//! Web services: components that export `wasi:http/incoming-handler`.
//!
//! The host listens on the pod's port and makes a fresh instance for each request: no request
//! sees what another left behind, and a trap costs one answer. Bodies stream both ways.

mod listen;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use eyot_http::{Request, Response};
use eyot_runtime::{ContainerError, ContainerSpec, Exit, LogStream};
use futures::FutureExt;
use http::{StatusCode, header::HOST};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{
    Error as HttpError, WasiHttpView,
    p2::{
        bindings::{ProxyPre, http::types::Scheme},
        body::HyperOutgoingBody,
    },
};

use crate::{
    capability::Capabilities,
    clock::Clock,
    container::{Resources, Signals},
    engine::WasmEngine,
    failure,
    memory::Draw,
    program::{InstancePre, Program},
    state::{self, State},
};

/// The port of a pod that names none.
const PORT: u16 = 8080;
/// Requests that one container works on at once; more wait. Each takes a slot of the host's pool.
const CONCURRENT: usize = 128;
/// Time for a request to get its turn and the guest to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Time for all of an answer: a stream of events may be long, but a forgotten one ends.
const STREAM: Duration = Duration::from_secs(3600);
/// Processor time for one request.
const COMPUTING: Duration = Duration::from_secs(30);

/// Listen for `spec`; the future serves until it is told to stop.
pub(crate) async fn web(
    engine: Arc<WasmEngine>,
    program: Arc<Program>,
    pre: InstancePre,
    spec: ContainerSpec,
    signals: &Signals,
    resources: &Resources,
) -> Result<impl Future<Output = Exit> + Send + 'static, ContainerError> {
    // What is wrong with the mounts shows now, not at the first request.
    state::container_wasi(&spec, &[])?;
    let port = spec.ports.first().copied().unwrap_or(PORT);
    let listener = listen::listen(engine.workload.handle(), &spec.sandbox, port).await?;
    let pre = ProxyPre::new(pre).map_err(|error| ContainerError::Image {
        image: spec.image.reference.clone(),
        reason: format!("{error:#}"),
    })?;
    let resources = resources.clone();
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let web = Arc::new(Web {
        engine,
        _program: program,
        pre,
        spec,
        resources,
        places,
    });
    let service = tower::service_fn(move |request| {
        let web = web.clone();
        async move { Ok::<_, Infallible>(web.answer(request).await) }
    });
    let terminate = signals.terminate.clone();
    Ok(async move {
        eyot_http::serve(listener, None, service, terminate).await;
        Exit::from_code(0)
    })
}

struct Web {
    engine: Arc<WasmEngine>,
    _program: Arc<Program>,
    pre: ProxyPre<State>,
    spec: ContainerSpec,
    resources: Resources,
    places: Arc<Semaphore>,
}

impl Web {
    async fn answer(self: Arc<Self>, request: Request) -> Response {
        let line = format!("{} {}", request.method(), request.uri().path());
        match tokio::time::timeout(ANSWER, self.clone().ask(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(Failed { status, reason })) => {
                self.log(&format!("{line}: {reason}"));
                eyot_http::text(status, format!("{status}\n"))
            }
            Err(_) => {
                self.log(&format!("{line}: no answer within {ANSWER:?}"));
                eyot_http::text(
                    StatusCode::GATEWAY_TIMEOUT,
                    "the guest did not answer in time\n",
                )
            }
        }
    }

    /// Give the request to a fresh instance; it goes on in a task of its own after the answer has
    /// begun. Dropping this future before that (the client left, the time is over) ends the task.
    async fn ask(self: Arc<Self>, request: Request) -> Result<Response, Failed> {
        let place = self
            .places
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| internal("closed"))?;
        if let Some(debt) = self.resources.cpu.debt() {
            tokio::time::sleep(debt).await;
        }
        let wasi = state::container_wasi(&self.spec, &[]).map_err(|e| internal(e.to_string()))?;
        let clock = Clock::new(self.engine.ticker.clone(), self.resources.cpu.clone());
        let draw = Draw::new(self.resources.memory.clone());
        let state = State::new(
            { wasi }.build(),
            draw,
            Capabilities::none(&self.engine.shared),
        );
        let mut store = state.into_store(&self.engine.engine, &clock);
        let (sender, receiver) = oneshot::channel();
        let request = self
            .with_host(request)
            .map(|body| body.map_err(|_| HttpError::ConnectionTerminated));
        let http = &mut store.data_mut().http();
        let request = http
            .new_incoming_request(Scheme::Http, request)
            .map_err(|error| Failed {
                status: StatusCode::BAD_REQUEST,
                reason: error.to_string(),
            })?;
        let answer = http
            .new_response_outparam(sender)
            .map_err(|e| internal(e.to_string()))?;
        let web = self.clone();
        let failed = Arc::new(AtomicBool::new(false));
        let tell = failed.clone();
        let work = tokio::spawn(async move {
            let _place = place;
            let call = async {
                let proxy = web.pre.instantiate_async(&mut store).await?;
                proxy
                    .wasi_http_incoming_handler()
                    .call_handle(&mut store, request, answer)
                    .await
            };
            let end = match tokio::time::timeout(STREAM, clock.measure(Some(COMPUTING), call)).await
            {
                Ok(result) => result.map_err(|error| failure::describe(&error)),
                Err(_) => Err(format!("was still at work after {STREAM:?}")),
            };
            // Before the store is dropped and the body with it ends.
            tell.store(end.is_err(), Ordering::SeqCst);
            drop(store);
            end
        });
        let work = AbortOnDropHandle::new(work);
        match receiver.await {
            Ok(Ok(response)) => {
                self.follow(work);
                Ok(
                    response
                        .map(|body| Guarded { body, failed }.map_err(Into::into).boxed_unsync()),
                )
            }
            Ok(Err(code)) => Err(internal(format!(
                "the guest answered with an error: {code:?}"
            ))),
            Err(_) => Err(match work.await {
                Ok(Ok(())) => internal("the guest returned without an answer"),
                Ok(Err(reason)) => internal(reason),
                Err(error) => internal(format!("the host failed: {error}")),
            }),
        }
    }

    /// The answer has begun: let the guest finish, and log it if it fails.
    fn follow(self: Arc<Self>, mut work: AbortOnDropHandle<Result<(), String>>) {
        let end = (&mut work).now_or_never();
        let log = move |end| {
            if let Ok(Err(reason)) = end {
                self.log(&format!("failed after its answer had begun: {reason}"));
            }
        };
        match end {
            // Short answers are complete by now, which saves a task.
            Some(end) => log(end),
            None => drop(tokio::spawn(async move { log(work.await) })),
        }
    }

    /// HTTP/1.0 clients need not name a host, guests must be told one.
    fn with_host(&self, mut request: Request) -> Request {
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            let ip = self
                .spec
                .sandbox
                .ip
                .map_or_else(|| "localhost".into(), |ip| ip.to_string());
            if let Ok(host) = ip.parse() {
                request.headers_mut().insert(HOST, host);
            }
        }
        request
    }

    fn log(&self, line: &str) {
        self.spec
            .log
            .write(LogStream::Stderr, format!("{line}\n").as_bytes());
    }
}

/// A guest's body that ends with an error if the guest failed: half of an answer must not look
/// like a whole one.
struct Guarded {
    body: HyperOutgoingBody,
    failed: Arc<AtomicBool>,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(None) if self.failed.load(Ordering::SeqCst) => {
                Poll::Ready(Some(Err(HttpError::HttpProtocolError)))
            }
            frame => frame,
        }
    }
}

/// A request without an answer of the guest: what the client gets, and what the log says.
struct Failed {
    status: StatusCode,
    reason: String,
}

fn internal(reason: impl Into<String>) -> Failed {
    Failed {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        reason: reason.into(),
    }
}
