//! Serving a service on a listener.

use std::{
    any::Any,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{Request, Response};

type BoxService = BoxCloneSyncService<Request, Response, Infallible>;

/// Connections open at once on one listener; more wait in the kernel's queue.
const CONNECTIONS: usize = 10_000;
/// A client that does not finish its TLS hello or its headers by then is dropped.
const HELLO: Duration = Duration::from_secs(10);
/// Bytes of the headers of one request on HTTP/2; HTTP/1 has about as much by its own limits.
const HEADERS: u32 = 64 * 1024;
/// Streams of an HTTP/2 connection that the client opened and took back before they were looked at
/// (rapid reset), or that broke its rules: beyond this the connection is closed.
const RESETS: usize = 50;
/// How long running requests may take to end once `stop` is cancelled. Watches never end by
/// themselves, so this is also how long an orderly stop may last at most.
const DRAIN: Duration = Duration::from_secs(2);

/// Who is at the other end; found in the extensions of each request.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client's certificate, verified against the listener's client CA, if it showed one.
    pub certificate: Option<CertificateDer<'static>>,
    pub memo: Memo,
}

/// What the service worked out about a connection and need not work out again for its next request:
/// one value, kept as long as the connection.
#[derive(Clone, Default)]
pub struct Memo(Arc<OnceLock<Arc<dyn Any + Send + Sync>>>);

impl Memo {
    /// The value; `None` if another type was kept before.
    pub fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Arc<T>) -> Option<&T> {
        self.0.get_or_init(|| make()).downcast_ref()
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memo")
    }
}

/// Bind a listener; the error names the port and what to do.
pub async fn bind(purpose: &str, address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program has it; end that or set another port",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need root",
            std::io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "",
        };
        std::io::Error::new(
            error.kind(),
            format!("{purpose} on {address}: {error} ({remedy})"),
        )
    })
}

/// Serve `service` on `listener` until `stop` is cancelled, then let running requests end.
///
/// HTTP/1.1 and HTTP/2, both with and without TLS. Upgrades are passed through.
pub async fn serve<S>(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    service: S,
    stop: CancellationToken,
) where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let service = BoxCloneSyncService::new(service);
    let acceptor = tls.map(TlsAcceptor::from);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            break;
        };
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: let some connections end first.
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let (acceptor, service, watcher) = (acceptor.clone(), service.clone(), graceful.watcher());
        tokio::spawn(async move {
            connection(stream, address, acceptor, service, watcher).await;
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    service: BoxService,
    watcher: Watcher,
) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return converse(
            stream,
            Peer {
                address,
                certificate: None,
                memo: Memo::default(),
            },
            true,
            service,
            watcher,
        )
        .await;
    };
    match tokio::time::timeout(HELLO, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates
                .and_then(|chain| chain.first())
                .map(|c| c.clone().into_owned());
            converse(
                stream,
                Peer {
                    address,
                    certificate,
                    memo: Memo::default(),
                },
                false,
                service,
                watcher,
            )
            .await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "TLS handshake timed out"),
    }
}

/// `half_close`: go on answering a client that has ended its sending half, as `nc` does with its last
/// byte. Over TLS such an end means that the client is gone, and a watch must notice it.
async fn converse<I>(io: I, peer: Peer, half_close: bool, service: BoxService, watcher: Watcher)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = Answer { service, peer };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .half_close(half_close)
        .timer(TokioTimer::new())
        .header_read_timeout(HELLO);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_concurrent_streams(1000);
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(io), answer)
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended early");
    }
}

/// The service of one connection: adds the peer to each request.
struct Answer {
    service: BoxService,
    peer: Peer,
}

impl hyper::service::Service<http::Request<Incoming>> for Answer {
    type Response = Response;
    type Error = Infallible;
    // Named, because the compiler cannot prove an anonymous future over `dyn Error` to be `Send`.
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        request.extensions_mut().insert(self.peer.clone());
        Box::pin(self.service.clone().oneshot(request))
    }
}
