//! Passing a request on to one of its backends.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use eyot_http::{Peer, Request, Response, Upgrade, relay};
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::route::Routes;

/// How long a backend may take to accept a connection; then the next is tried.
const CONNECT: Duration = Duration::from_secs(5);
/// How many backends are tried for one request.
const TRIES: usize = 3;
/// How long a backend may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Largest body of a request.
const BODY: usize = 1 << 30;

/// The router: a service for one listener. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router {
    shared: Arc<Shared>,
    scheme: &'static str,
}

#[derive(Default)]
struct Shared {
    /// Replaced as a whole; requests that are being passed on keep what they found.
    routes: RwLock<Arc<Routes>>,
    turn: AtomicUsize,
}

impl Router {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::default(),
            scheme: "http",
        }
    }

    /// The same routes for another scheme.
    pub(crate) fn with_scheme(&self, scheme: &'static str) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            scheme,
        }
    }

    pub(crate) fn set(&self, routes: Routes) {
        let mut held = self
            .shared
            .routes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(routes);
    }

    async fn route(self, request: Request) -> Response {
        let given = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        // HTTP/2 says it in the address.
        let host = request
            .uri()
            .authority()
            .map(http::uri::Authority::as_str)
            .or(given);
        let host = host.unwrap_or_default().to_owned();
        let routes = Arc::clone(
            &self
                .shared
                .routes
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let Some(backends) = routes.find(&host, request.uri().path()) else {
            return said(StatusCode::NOT_FOUND, "no Ingress leads from here");
        };
        let declared = request.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > BODY) {
            return said(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
        }
        let Some(stream) = self.connect(&backends).await else {
            return said(
                StatusCode::SERVICE_UNAVAILABLE,
                "no endpoint of the service answers",
            );
        };
        match timeout(ANSWER, pass(stream, request, &host, self.scheme)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                tracing::debug!(%error, host, "a backend broke off");
                said(StatusCode::BAD_GATEWAY, "the service broke off")
            }
            Err(_) => said(
                StatusCode::GATEWAY_TIMEOUT,
                "the service does not answer in time",
            ),
        }
    }

    /// A connection to a backend, in turn; one that is not there is passed over.
    async fn connect(&self, backends: &[SocketAddr]) -> Option<TcpStream> {
        let first = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..backends.len().min(TRIES) {
            let at = backends.get(first.wrapping_add(offset) % backends.len())?;
            match timeout(CONNECT, TcpStream::connect(at)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Some(stream);
                }
                _ => tracing::debug!(%at, "a backend cannot be connected to"),
            }
        }
        None
    }
}

async fn pass(
    stream: TcpStream,
    mut request: Request,
    host: &str,
    scheme: &'static str,
) -> Result<Response, hyper::Error> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let upgrade = Upgrade::take(request.extensions_mut());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
    let (mut parts, body) = request.into_parts();
    let protocol = parts.headers.get(header::UPGRADE).cloned();
    relay::strip(&mut parts.headers);
    if let Some(protocol) = protocol {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    // What a client says about where it comes from is worth nothing here.
    parts.headers.remove("forwarded");
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            parts.headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("host", host);
    set("x-forwarded-host", host);
    set("x-forwarded-proto", scheme);
    if let Some(peer) = peer {
        let ip = peer.ip().to_canonical().to_string();
        set("x-forwarded-for", &ip);
        set("x-real-ip", &ip);
    }
    parts.version = Version::HTTP_11;
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    parts.uri = target.parse().unwrap_or_default();
    let body = Limited::new(body, BODY).boxed_unsync();
    let response = sender
        .send_request(http::Request::from_parts(parts, body))
        .await?;
    Ok(relay::relay(response, upgrade))
}

fn said(status: StatusCode, text: &'static str) -> Response {
    let mut response = http::Response::new(eyot_http::full(format!("{text}\n")));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

impl tower::Service<Request> for Router {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let router = self.clone();
        Box::pin(async move { Ok(router.route(request).await) })
    }
}
