//! Connections to backends, kept for the next request.
//!
//! An HTTP/1.1 connection serves one request at a time and waits here between two; an HTTP/2
//! connection serves all of a backend at once. Both are closed when nobody used them for a while. A
//! backend may close one at the very moment at which it is used again: who gets a used one must be
//! ready for that ([`Lent::is_used`]).

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eyot_http::Body;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::identity::Identity;

/// An unused connection is closed after that long, as in nginx.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// Unused HTTP/1.1 connections to one backend; more are closed at once.
const SPARE: usize = 256;
/// The same to all backends: each takes a file descriptor and some kilobytes.
const SPARE_IN_ALL: usize = 1024;
/// A silent HTTP/2 backend is asked after this long whether it still lives, so that a request does not
/// wait for a machine that lost its power.
const PROBE: Duration = Duration::from_secs(20);
/// Bytes of one answer over HTTP/2 that wait here while its client does not read.
const WINDOW: u32 = 256 << 10;
/// The same of all answers of one connection.
const WINDOW_IN_ALL: u32 = 4 << 20;
/// Bytes of the headers of an answer over HTTP/2; on HTTP/1.1 there may be 100 headers.
const HEADERS: u32 = 64 << 10;

type Outgoing = http::Request<Body>;
type Sent = Result<http::Response<Incoming>, TrySendError<Outgoing>>;

/// Where a connection leads, and how it is spoken on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub at: SocketAddr,
    pub http2: bool,
    /// `None`: without TLS.
    pub identity: Option<Identity>,
}

#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The one used last is at the end.
    idle: HashMap<Place, Vec<Idle>>,
    /// How many there are.
    count: usize,
    shared: HashMap<Place, Arc<Shared>>,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

/// The HTTP/2 connection to a backend, made by the first who needs it while others wait.
struct Shared {
    sender: tokio::sync::Mutex<Option<http2::SendRequest<Body>>>,
    used: Mutex<Instant>,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Many(http2::SendRequest<Body>),
}

/// A connection, for one request.
pub(crate) struct Lent {
    sender: Sender,
    place: Place,
    is_used: bool,
}

impl Lent {
    /// Whether it was used before, so that the backend may have closed it meanwhile.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Send a request. The error has it again if nothing of it was sent.
    pub(crate) async fn send(&mut self, request: Outgoing) -> Sent {
        match &mut self.sender {
            Sender::One(sender) => sender.try_send_request(request).await,
            Sender::Many(sender) => sender.try_send_request(request).await,
        }
    }
}

impl Pool {
    /// A connection to a place, within `patience`; with `fresh` none that waited here.
    pub(crate) async fn lend(
        &self,
        place: &Place,
        fresh: bool,
        patience: Duration,
    ) -> io::Result<Lent> {
        let lending = async {
            let (sender, is_used) = match place.http2 {
                true => self.many(place).await?,
                false => self.one(place, fresh).await?,
            };
            Ok(Lent {
                sender,
                place: place.clone(),
                is_used,
            })
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        timeout(patience, lending).await.map_err(|_| late())?
    }

    async fn one(&self, place: &Place, fresh: bool) -> io::Result<(Sender, bool)> {
        while !fresh && let Some(mut sender) = self.take(place) {
            // Also lets its task see that it was closed.
            if sender.ready().await.is_ok() {
                return Ok((Sender::One(sender), true));
            }
        }
        let stream = connect(place).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        Ok((Sender::One(sender), false))
    }

    async fn many(&self, place: &Place) -> io::Result<(Sender, bool)> {
        let shared = {
            let mut state = self.lock();
            let new = || {
                Arc::new(Shared {
                    sender: tokio::sync::Mutex::default(),
                    used: Mutex::new(Instant::now()),
                })
            };
            let shared = state.shared.entry(place.clone()).or_insert_with(new);
            *lock(&shared.used) = Instant::now();
            shared.clone()
        };
        let mut held = shared.sender.lock().await;
        if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((Sender::Many(sender.clone()), true));
        }
        let stream = connect(place).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW_IN_ALL)
            .max_header_list_size(HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        *held = Some(sender.clone());
        Ok((Sender::Many(sender), false))
    }

    /// Keep a connection whose exchange is over.
    pub(crate) fn give_back(&self, lent: Lent) {
        let Sender::One(sender) = lent.sender else {
            return;
        };
        if sender.is_closed() {
            return;
        }
        let mut state = self.lock();
        if state.count >= SPARE_IN_ALL {
            return;
        }
        let idle = state.idle.entry(lent.place).or_default();
        if idle.len() < SPARE {
            let since = Instant::now();
            idle.push(Idle { sender, since });
            state.count += 1;
        }
    }

    /// The one of a place that was used last: the others may become old.
    fn take(&self, place: &Place) -> Option<http1::SendRequest<Body>> {
        let mut state = self.lock();
        let Idle { sender, since } = state.idle.get_mut(place)?.pop()?;
        state.count -= 1;
        (since.elapsed() < IDLE).then_some(sender)
    }

    /// Close what nobody used for a while.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        let mut count = 0;
        state.idle.retain(|_, idle| {
            idle.retain(|one| one.since.elapsed() < IDLE && !one.sender.is_closed());
            count += idle.len();
            !idle.is_empty()
        });
        state.count = count;
        // An answer that is still on its way keeps its connection by itself.
        let is_young = |shared: &Arc<Shared>| lock(&shared.used).elapsed() < IDLE;
        state.shared.retain(|_, shared| is_young(shared));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(place: &Place) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(place.at).await?;
    let _ = stream.set_nodelay(true);
    let Some(identity) = &place.identity else {
        return Ok(Box::new(stream));
    };
    let connector = TlsConnector::from(identity.config());
    let secured = connector.connect(identity.name(), stream).await?;
    if place.http2 && secured.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("the backend does not speak HTTP/2"));
    }
    Ok(Box::new(secured))
}
