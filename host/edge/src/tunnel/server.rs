//! The server's end: knows which nodes have a line, and calls them.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eyot_http::{Connection, Request, Response, Upgrade, relay::relay, text};
use futures::future::BoxFuture;
use http::{HeaderValue, Method, StatusCode, header};
use hyper::{client::conn::http1, ext::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::{service_fn, util::BoxCloneSyncService};

use super::{PROTOCOL, SILENT};
use crate::uplink::chain;

/// Where lines and calls are opened.
pub const PREFIX: &str = "/tunnel/v1/";
/// How long a node may take to open the stream of a call.
const ANSWER: Duration = Duration::from_secs(15);
/// Calls that wait to be sent to one node.
const CALLS: usize = 64;
/// Beats that wait for whoever counts them. Of those that do not fit, the next ones tell.
const BEATS: usize = 4096;

type Kubelet = BoxCloneSyncService<Request, Response, Infallible>;

/// The nodes that have a line to this server. Clones are one.
#[derive(Clone)]
pub struct Tunnels(Arc<Inner>);

struct Inner {
    lines: Mutex<HashMap<String, Arc<Line>>>,
    number: AtomicU64,
    beats: mpsc::Sender<String>,
    stop: CancellationToken,
}

struct Line {
    calls: mpsc::Sender<u64>,
    /// Who waits for the stream of that number.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Connection>>>,
    end: CancellationToken,
}

impl Tunnels {
    /// No node has a line yet. The names of nodes that beat come out of the receiver.
    pub fn new(stop: CancellationToken) -> (Self, mpsc::Receiver<String>) {
        let (beats, heard) = mpsc::channel(BEATS);
        let inner = Inner {
            lines: Mutex::default(),
            number: AtomicU64::new(1),
            beats,
            stop,
        };
        (Self(Arc::new(inner)), heard)
    }

    /// Whether a request is for [`Tunnels::answer`].
    pub fn is_asked(request: &Request) -> bool {
        let protocol = request.extensions().get::<Protocol>();
        request.method() == Method::CONNECT
            && protocol.is_some_and(|protocol| protocol.as_str() == PROTOCOL)
    }

    /// Open what a node asks for. That it is this node has been shown.
    pub fn answer(&self, node: &str, mut request: Request) -> Response {
        let Some(upgrade) = Upgrade::take(request.extensions_mut()) else {
            return text(StatusCode::BAD_REQUEST, "this is for HTTP/2 alone\n");
        };
        let path = request.uri().path().strip_prefix(PREFIX);
        let (tunnels, node) = (self.clone(), node.to_owned());
        match path.map(|path| path.split_once('/').unwrap_or((path, ""))) {
            Some(("line", "")) => {
                tokio::spawn(async move {
                    if let Ok(connection) = upgrade.connection().await {
                        tunnels.hold(node, connection).await;
                    }
                });
            }
            Some(("calls", number)) => {
                let waits = number.parse().ok().and_then(|number| {
                    let line = self.line(&node)?;
                    lock(&line.waiting).remove(&number)
                });
                let Some(waits) = waits else {
                    return text(StatusCode::NOT_FOUND, "nobody waits for this call\n");
                };
                tokio::spawn(async move {
                    if let Ok(connection) = upgrade.connection().await {
                        let _ = waits.send(connection);
                    }
                });
            }
            _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
        http::Response::new(eyot_http::empty())
    }

    /// The kubelet of a node that has a line.
    pub fn kubelet(&self, node: &str) -> Option<Kubelet> {
        let (line, tunnels) = (self.line(node)?, self.clone());
        let name: Arc<str> = node.into();
        Some(BoxCloneSyncService::new(service_fn(move |request| {
            let (line, tunnels, name) = (line.clone(), tunnels.clone(), name.clone());
            let answer: BoxFuture<'static, Result<Response, Infallible>> = Box::pin(async move {
                let answer = tunnels.call(&line, request).await;
                Ok(answer.unwrap_or_else(|why| {
                    let words = format!("node {name:?} does not answer: {why}\n");
                    text(StatusCode::SERVICE_UNAVAILABLE, words)
                }))
            });
            answer
        })))
    }

    /// How many nodes have a line.
    pub fn count(&self) -> usize {
        lock(&self.0.lines).len()
    }

    /// End the line of a node that does not belong here any more.
    pub fn close(&self, node: &str) {
        if let Some(line) = lock(&self.0.lines).remove(node) {
            line.end.cancel();
        }
    }

    fn line(&self, node: &str) -> Option<Arc<Line>> {
        lock(&self.0.lines).get(node).cloned()
    }

    /// Until the line breaks, or its node opens another.
    async fn hold(self, node: String, connection: Connection) {
        let (calls, mut called) = mpsc::channel(CALLS);
        let line = Arc::new(Line {
            calls,
            waiting: Mutex::default(),
            end: CancellationToken::new(),
        });
        let before = lock(&self.0.lines).insert(node.clone(), line.clone());
        if let Some(before) = before {
            before.end.cancel();
        }
        tracing::info!(node, "a node is connected");
        let (mut hears, mut says) = tokio::io::split(connection);
        let listening = async {
            let mut beats = [0; 16];
            while let Ok(Ok(1..)) = timeout(SILENT, hears.read(&mut beats)).await {
                let _ = self.0.beats.try_send(node.clone());
            }
        };
        let calling = async {
            while let Some(number) = called.recv().await {
                if says.write_u64(number).await.is_err() || says.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = calling => {}
            () = line.end.cancelled() => {}
            () = self.0.stop.cancelled() => {}
        }
        // In this order: who comes after the second sees the first.
        line.end.cancel();
        lock(&line.waiting).clear();
        let mut lines = lock(&self.0.lines);
        if lines
            .get(&node)
            .is_some_and(|held| Arc::ptr_eq(held, &line))
        {
            lines.remove(&node);
            drop(lines);
            tracing::info!(node, "a node is not connected any more");
        }
    }

    /// Have a node answer one request.
    async fn call(&self, line: &Line, mut request: Request) -> Result<Response, String> {
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let (send, opened) = oneshot::channel();
        lock(&line.waiting).insert(number, send);
        let stream = async {
            if line.end.is_cancelled() || line.calls.try_send(number).is_err() {
                return Err("too many requests wait for it, or it has just gone".to_owned());
            }
            match timeout(ANSWER, opened).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(_)) => Err("its connection broke off".to_owned()),
                Err(_) => Err(format!("no answer within {ANSWER:?}")),
            }
        }
        .await;
        lock(&line.waiting).remove(&number);
        let (mut sender, connection) = http1::handshake(stream?.into_inner())
            .await
            .map_err(|error| chain(&error))?;
        tokio::spawn(connection.with_upgrades());
        let upgrade = Upgrade::take(request.extensions_mut());
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static("node"));
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| chain(&error))?;
        Ok(relay(response, upgrade))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
