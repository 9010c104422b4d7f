//! Passing a request on to one of its backends.
//!
//! A backend that does not accept is passed over for the next. A request that was sent is sent again
//! only where that can do no harm: if its connection had been used before, so that the backend may have
//! closed it before it read anything, and the request is one that may be done twice and has no body. A
//! backend that is a guest of this process is called without a socket.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use eyot_http::{Body, Local, Locals, Request, Response, Upgrade, relay};
use http::{HeaderValue, StatusCode, header, request::Parts};
use http_body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    flow::{Answered, Flow, TOO_LARGE},
    forward::{self, Door},
    pool::{Lent, Place, Pool},
    route::Routes,
    target::Target,
};

/// Requests that are passed on at once, of all listeners; HTTP/2 would let a few clients have a
/// million.
const AT_ONCE: usize = 20_000;

/// The router: a service for one listener. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Router {
    shared: Arc<Shared>,
    door: Door,
}

struct Shared {
    /// Replaced as a whole; requests that are being passed on keep what they found.
    routes: RwLock<Arc<Routes>>,
    turn: AtomicUsize,
    pool: Pool,
    locals: Locals,
    places: Arc<Semaphore>,
}

/// What the client gets instead of a backend's answer.
type Said = (StatusCode, &'static str);

impl Router {
    /// `locals` are the services of this process.
    pub(crate) fn new(locals: Locals, door: Door) -> Self {
        let shared = Shared {
            routes: RwLock::default(),
            turn: AtomicUsize::new(0),
            pool: Pool::default(),
            locals,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        };
        Self {
            shared: Arc::new(shared),
            door,
        }
    }

    /// The same routes for another door.
    pub(crate) fn with_door(&self, door: Door) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            door,
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

    /// Close connections that nobody used for a while.
    pub(crate) fn sweep(&self) {
        self.shared.pool.sweep();
    }

    fn find(&self, host: &str, path: &str) -> Option<Arc<Target>> {
        let routes = &self.shared.routes;
        let routes = Arc::clone(&routes.read().unwrap_or_else(PoisonError::into_inner));
        routes.find(host, path)
    }

    async fn route(self, request: Request) -> Result<Response, Said> {
        let host = forward::host(&request);
        let host = host.ok_or((StatusCode::BAD_REQUEST, "the request names several hosts"))?;
        let host = host.to_owned();
        let target = self
            .find(&host, request.uri().path())
            .ok_or((StatusCode::NOT_FOUND, "no Ingress leads from here"))?;
        if let Some(why) = target.refusal {
            return Err((StatusCode::SERVICE_UNAVAILABLE, why));
        }
        let settings = &target.settings;
        let declared = request.body().size_hint().lower();
        if settings.body.is_some_and(|limit| declared > limit) {
            return Err(TOO_LARGE);
        }
        let place = self.shared.places.clone().try_acquire_owned();
        let place = place.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "too many requests"))?;
        let (parts, body, upgrade) = forward::forwarded(request, &host, self.door);
        let (flow, body) = Flow::begin(settings, body);
        let mut passing = Passing {
            shared: &self.shared,
            target: &target,
            parts,
            body,
            upgrade,
            flow,
            place,
        };
        let count = target.backends.len();
        let first = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..count.min(settings.tries) {
            let Some(at) = target.backends.get(first.wrapping_add(offset) % count) else {
                break;
            };
            let local = match target.identity {
                None => self.shared.locals.find(at),
                Some(_) => None,
            };
            if let Some(local) = local {
                return passing.call(local).await;
            }
            let place = Place {
                at: *at,
                http2: target.http2,
                identity: target.identity.clone(),
            };
            passing = match passing.send(place).await {
                Outcome::Answer(answer) => return *answer,
                Outcome::NotSent(passing) => *passing,
            };
        }
        Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "no endpoint of the service answers",
        ))
    }
}

/// A request that is being passed on.
struct Passing<'a> {
    shared: &'a Arc<Shared>,
    target: &'a Target,
    parts: Parts,
    body: Body,
    upgrade: Option<Upgrade>,
    flow: Arc<Flow>,
    place: OwnedSemaphorePermit,
}

enum Outcome<'a> {
    Answer(Box<Result<Response, Said>>),
    /// The backend is not there, and nothing was sent.
    NotSent(Box<Passing<'a>>),
}

/// What is kept until an answer has come whole.
struct Kept {
    shared: Arc<Shared>,
    lent: Lent,
    flow: Arc<Flow>,
    _place: OwnedSemaphorePermit,
}

impl Kept {
    fn done(self) {
        // Else the backend answered before it had all, and the rest would come as the next request.
        if self.flow.is_sent() {
            self.shared.pool.give_back(self.lent);
        }
    }
}

impl<'a> Passing<'a> {
    /// Ask a guest of this process.
    async fn call(self, local: Local) -> Result<Response, Said> {
        let mut request = Request::from_parts(self.parts, self.body);
        // Nobody could take anything over.
        request.headers_mut().remove(header::CONNECTION);
        request.headers_mut().remove(header::UPGRADE);
        let mut response = self.flow.in_time(local.ask(request)).await?;
        relay::strip(response.headers_mut());
        let (flow, place) = (self.flow, self.place);
        Ok(response.map(|body| Answered::body(body, flow, place, drop)))
    }

    /// Send it to a backend.
    async fn send(mut self, place: Place) -> Outcome<'a> {
        let target = self.target;
        if place.http2 {
            forward::for_http2(
                &mut self.parts,
                target.identity.is_some(),
                &place.at.to_string(),
            );
        }
        // RFC 9110, section 9.2.2.
        let can_be_repeated = self.parts.method.is_idempotent()
            && self.body.is_end_stream()
            && self.upgrade.is_none();
        let mut again = false;
        loop {
            let lending = self
                .shared
                .pool
                .lend(&place, again, target.settings.connect);
            let mut lent = match lending.await {
                Ok(lent) => lent,
                Err(error) => {
                    tracing::debug!(at = %place.at, %error, "a backend cannot be connected to");
                    return Outcome::NotSent(Box::new(self));
                }
            };
            // Once: a connection that nobody used before is no reason.
            let may_repeat = lent.is_used() && !again;
            let spare = (may_repeat && can_be_repeated).then(|| self.parts.clone());
            let request = Request::from_parts(self.parts, self.body);
            let sent = self.flow.in_time(lent.send(request)).await;
            let mut error = match sent {
                Err(late) => return Outcome::Answer(Box::new(Err(late))),
                Ok(Ok(response)) => {
                    let kept = Kept {
                        shared: self.shared.clone(),
                        lent,
                        flow: self.flow.clone(),
                        _place: self.place,
                    };
                    let flow = self.flow;
                    let wrap = |body| Answered::body(body, flow, kept, Kept::done);
                    let answer = relay::relay_with(response, self.upgrade, wrap);
                    return Outcome::Answer(Box::new(Ok(answer)));
                }
                Ok(Err(error)) => error,
            };
            (self.parts, self.body) = match (error.take_message(), spare) {
                (Some(request), _) => request.into_parts(),
                (None, Some(parts)) => (parts, eyot_http::empty()),
                (None, None) => {
                    let fault = self.flow.fault_of_the_client();
                    tracing::debug!(at = %place.at, error = %error.error(), "a backend broke off");
                    let broke = (StatusCode::BAD_GATEWAY, "the service broke off");
                    return Outcome::Answer(Box::new(Err(fault.unwrap_or(broke))));
                }
            };
            if !may_repeat {
                return Outcome::NotSent(Box::new(self));
            }
            again = true;
        }
    }
}

fn said((status, text): Said) -> Response {
    let mut response = eyot_http::text(status, format!("{text}\n"));
    if status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::PAYLOAD_TOO_LARGE {
        // The rest of the request would be taken for the next one.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
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
        Box::pin(async move { Ok(router.route(request).await.unwrap_or_else(said)) })
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
