//! Web services: components that export `wasi:http/incoming-handler`.
//!
//! The host listens on the pod's port. Each request has a fresh instance unless the pod says
//! otherwise ([`REUSE`]): no request sees what another left behind, and a trap costs one answer.
//! There are as many instances as requests, up to a limit, and none while there are none: one that
//! is reused is dropped when it has been idle for a while. Bodies stream both ways.
//!
//! Who is in the same process (the Ingress) reaches it without a socket, by [`eyot_http::Locals`].
//!
//! One that is told to end answers on until it hears no more requests, so that nobody who still
//! connects to it is turned away while the news spreads.

mod listen;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use eyot_http::{Request, Response};
use eyot_runtime::{ContainerError, ContainerSpec, Exit, LogStream};
use futures::FutureExt;
use http::{
    HeaderValue, StatusCode, Version,
    header::{CONNECTION, HOST},
};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wasmtime::Store;
use wasmtime_wasi_http::{
    Error as HttpError, WasiHttpView,
    p2::{
        bindings::{Proxy, ProxyPre, http::types::Scheme},
        body::HyperOutgoingBody,
    },
};

use crate::{
    capability::{Capabilities, Given},
    clock::Clock,
    container::{Resources, Signals},
    egress::{Egress, Outgoing},
    engine::WasmEngine,
    failure,
    memory::Draw,
    program::{InstancePre, Program},
    sockets::Sockets,
    state::{State, Surroundings},
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

/// The annotation of a pod that says how many requests one instance may serve, one after the other.
const REUSE: &str = "eyot.dev/instance-reuse";
const MAX_REUSE: u32 = 10_000;
/// A reused instance that has been idle for that long is dropped.
const IDLE: Duration = Duration::from_secs(5);
/// Without a request for so long, one that was told to end believes that nobody asks any more:
/// several times what Services take to change.
const QUIET: Duration = Duration::from_millis(400);
/// How long requests that it works on may take after that.
const DRAIN: Duration = Duration::from_secs(2);
/// It ends after that time in any case.
const LINGER: Duration = Duration::from_secs(10);

/// Listen for `spec`; the future serves until it is told to stop.
pub(crate) async fn web(
    engine: Arc<WasmEngine>,
    program: Arc<Program>,
    pre: InstancePre,
    spec: ContainerSpec,
    egress: Arc<Egress>,
    signals: &Signals,
    resources: &Resources,
) -> Result<impl Future<Output = Exit> + Send + 'static, ContainerError> {
    // What is wrong with mounts and annotations shows now, not at the first request.
    let sockets = Sockets::new(&spec, egress.clone(), engine.resolver.clone());
    let surroundings = Arc::new(Surroundings { spec, sockets });
    let spec = &surroundings.spec;
    surroundings.wasi(&[])?;
    let given = Given::of(&engine.shared, spec)?;
    let reuse = reuse(spec)?;
    let port = spec.ports.first().copied().unwrap_or(PORT);
    let listener = listen::listen(engine.workload.handle(), &spec.sandbox, port).await?;
    let pre = ProxyPre::new(pre).map_err(|error| ContainerError::Image {
        image: spec.image.reference.clone(),
        reason: format!("{error:#}"),
    })?;
    let address = listener.local_addr().map_err(|error| {
        let reason = format!("the address that it listens on: {error}");
        ContainerError::Runtime(reason)
    })?;
    let resources = resources.clone();
    let places = Arc::new(Semaphore::new(CONCURRENT));
    let web = Arc::new(Web {
        _program: program,
        pre,
        outgoing: Outgoing::new(egress, engine.resolver.clone()),
        engine,
        surroundings,
        given,
        resources,
        places,
        reuse,
        idle: Mutex::default(),
        ending: AtomicBool::new(false),
        asked: Mutex::new(Instant::now()),
    });
    let ending = web.clone();
    let service = tower::service_fn(move |request| {
        let web = web.clone();
        async move { Ok::<_, Infallible>(web.answer(request).await) }
    });
    let (terminate, close) = (signals.terminate.clone(), CancellationToken::new());
    // A pod on the host's network has more addresses than one, so it is reached by its socket.
    let has_own_address = !address.ip().is_unspecified();
    let registered =
        has_own_address.then(|| ending.engine.locals.register(address, service.clone()));
    let serving = eyot_http::serve(listener, None, service, close.clone());
    Ok(async move {
        let managing = async {
            ending.manage(&terminate).await;
            drop(registered);
            close.cancel();
        };
        tokio::join!(serving, managing);
        // Those that came without a socket, too.
        let all = ending.places.acquire_many(CONCURRENT as u32);
        let _ = tokio::time::timeout(DRAIN, all).await;
        Exit::from_code(0)
    })
}

/// What the pod says about [`REUSE`]; once if it says nothing.
fn reuse(spec: &ContainerSpec) -> Result<u32, ContainerError> {
    let Some(text) = spec.annotations.get(REUSE) else {
        return Ok(1);
    };
    let number = text.parse().ok().filter(|n| (1..=MAX_REUSE).contains(n));
    number.ok_or_else(|| ContainerError::Config {
        field: format!("metadata.annotations[{REUSE}]"),
        reason: format!("{text:?} is not a number from 1 to {MAX_REUSE}"),
    })
}

struct Web {
    engine: Arc<WasmEngine>,
    _program: Arc<Program>,
    pre: ProxyPre<State>,
    surroundings: Arc<Surroundings>,
    outgoing: Outgoing,
    given: Given,
    resources: Resources,
    places: Arc<Semaphore>,
    /// Requests that one instance may serve.
    reuse: u32,
    /// Those that wait for the next, the latest last.
    idle: Mutex<Vec<Idle>>,
    /// It was told to end.
    ending: AtomicBool,
    /// When the last request came.
    asked: Mutex<Instant>,
}

/// One instance, or what is needed to make it.
struct Instance {
    store: Store<State>,
    clock: Clock,
    proxy: Option<Proxy>,
    served: u32,
}

struct Idle {
    instance: Instance,
    since: Instant,
}

impl Web {
    /// Drop what is idle, until nobody needs this service any more after it was told to end.
    async fn manage(&self, terminate: &CancellationToken) {
        let mut tick = tokio::time::interval(IDLE / 2);
        loop {
            tokio::select! {
                () = terminate.cancelled() => break,
                _ = tick.tick(), if self.reuse > 1 => {
                    lock(&self.idle).retain(|idle| idle.since.elapsed() < IDLE);
                }
            }
        }
        self.ending.store(true, Ordering::Relaxed);
        let told = Instant::now();
        loop {
            let last = told.max(*lock(&self.asked));
            let quiet = QUIET.saturating_sub(last.elapsed());
            let left = LINGER.saturating_sub(told.elapsed());
            if quiet.is_zero() || left.is_zero() {
                break;
            }
            tokio::time::sleep(quiet.min(left)).await;
        }
        lock(&self.idle).clear();
    }

    async fn answer(self: Arc<Self>, request: Request) -> Response {
        *lock(&self.asked) = Instant::now();
        let (web, old) = (self.clone(), request.version() <= Version::HTTP_11);
        let mut response = self.reply(request).await;
        if let Some(count) = &web.resources.requests {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if old && web.ending.load(Ordering::Relaxed) {
            // The client's next request finds one that stays.
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn reply(self: Arc<Self>, request: Request) -> Response {
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

    /// An instance that waits, or a fresh one.
    fn instance(&self) -> Instance {
        if let Some(idle) = lock(&self.idle).pop() {
            return idle.instance;
        }
        let clock = Clock::new(self.engine.ticker.clone(), self.resources.cpu.clone());
        let draw = Draw::new(self.resources.memory.clone());
        let capabilities = Capabilities::of(&self.engine.shared, &self.given);
        let sockets = self.surroundings.sockets.clone();
        let state = State::new(self.surroundings.clone(), draw, capabilities)
            .with_network(self.outgoing.clone(), sockets);
        Instance {
            store: state.into_store(&self.engine.engine, &clock),
            clock,
            proxy: None,
            served: 0,
        }
    }

    /// Keep an instance that has served a request well, if it may serve another.
    fn keep(&self, instance: Instance) {
        if instance.served < self.reuse && !self.ending.load(Ordering::Relaxed) {
            let since = Instant::now();
            lock(&self.idle).push(Idle { instance, since });
        }
    }

    /// Give the request to an instance; it goes on in a task of its own after the answer has
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
        let mut instance = self.instance();
        let store = &mut instance.store;
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
        // Who asks may be a task of the host's own.
        let work = self.engine.workload.handle().spawn(async move {
            let _place = place;
            let clock = instance.clock.clone();
            let call = async {
                let proxy = match instance.proxy.take() {
                    Some(proxy) => proxy,
                    None => web.pre.instantiate_async(&mut instance.store).await?,
                };
                let handler = proxy.wasi_http_incoming_handler();
                let called = handler.call_handle(&mut instance.store, request, answer);
                called.await?;
                if let Some(why) = instance.store.data().lacks() {
                    return Err(wasmtime::format_err!("{why}"));
                }
                instance.proxy = Some(proxy);
                Ok(())
            };
            let call = clock.measure(Some(COMPUTING), call);
            let end = match tokio::time::timeout(STREAM, call).await {
                Ok(result) => result.map_err(|error: wasmtime::Error| failure::describe(&error)),
                Err(_) => Err(format!("was still at work after {STREAM:?}")),
            };
            // Before the store is dropped and the body with it ends.
            tell.store(end.is_err(), Ordering::SeqCst);
            if end.is_ok() {
                instance.served += 1;
                web.keep(instance);
            }
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
            let own = self.surroundings.spec.sandbox.ip;
            let ip = own.map_or_else(|| "localhost".into(), |ip| ip.to_string());
            if let Ok(host) = ip.parse() {
                request.headers_mut().insert(HOST, host);
            }
        }
        request
    }

    fn log(&self, line: &str) {
        self.surroundings
            .spec
            .log
            .write(LogStream::Stderr, format!("{line}\n").as_bytes());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
