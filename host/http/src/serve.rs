//! Serving a service on a listener.

use std::{
    any::Any,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{TryFutureExt, future::BoxFuture};
use http::StatusCode;
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
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    Request, Response,
    clients::Tls,
    limits::{
        CONNECTION_WINDOW, CONNECTIONS, DRAIN, HEADERS, HELLO, IDLE, PROBE, PROBE_ANSWER, RESETS,
        STREAM_WINDOW, STREAMS, UNSENT,
    },
    patience::{Patient, Progress},
    unread::Lent,
};

type BoxService = BoxCloneSyncService<Request, Response, Infallible>;

/// Who is at the other end; found in the extensions of each request.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client's certificate, if it showed one, or why the listener's client CA does not stand
    /// for it.
    pub certificate: Option<Result<CertificateDer<'static>, rustls::Error>>,
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
pub async fn serve<S>(listener: TcpListener, tls: Option<Tls>, service: S, stop: CancellationToken)
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let service = BoxCloneSyncService::new(service);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        // A full house must not keep the host from stopping.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => match place {
                Ok(place) => place,
                Err(_) => break,
            },
            () = stop.cancelled() => break,
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
        let (tls, service, watcher) = (tls.clone(), service.clone(), graceful.watcher());
        tokio::spawn(async move {
            connection(stream, address, tls, service, watcher).await;
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Tls>,
    service: BoxService,
    watcher: Watcher,
) {
    let _ = stream.set_nodelay(true);
    let probe = socket2::TcpKeepalive::new().with_time(PROBE);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&probe);
    let Some(tls) = tls else {
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
    let acceptor = TlsAcceptor::from(tls.config().clone());
    match tokio::time::timeout(HELLO, secure(stream, &acceptor)).await {
        Ok(Ok(None)) => tracing::debug!(%address, "a client spoke plain HTTP"),
        Ok(Ok(Some(stream))) => {
            let certificate = tls.judge(stream.get_ref().1.peer_certificates());
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

/// The TLS handshake; `None` if the client speaks plain HTTP, which it was told.
async fn secure(
    mut stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> std::io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    // No record of TLS begins with a letter, and every method of HTTP does.
    if !first[0].is_ascii_uppercase() {
        return acceptor.accept(stream).await.map(Some);
    }
    // Closing with something unread would take the answer away from the client.
    let _ = stream.try_read(&mut [0; 16 * 1024]);
    stream.write_all(PLAIN_HTTP).await?;
    stream.shutdown().await?;
    Ok(None)
}

/// Go's words, which its clients and their users know.
const PLAIN_HTTP: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\n\
    Client sent an HTTP request to an HTTPS server.\n";

/// `half_close`: go on answering a client that has ended its sending half, as `nc` does with its last
/// byte. Over TLS such an end means that the client is gone, and a watch must notice it.
async fn converse<I>(io: I, peer: Peer, half_close: bool, service: BoxService, watcher: Watcher)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let progress = Progress::default();
    let io = Patient::new(io, progress.clone());
    let answer = Answer {
        service,
        peer,
        progress,
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .half_close(half_close)
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(UNSENT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // RFC 8441: what is taken over as a stream of its own.
        .enable_connect_protocol()
        .keep_alive_interval(PROBE)
        .keep_alive_timeout(PROBE_ANSWER);
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
    progress: Progress,
}

impl hyper::service::Service<http::Request<Incoming>> for Answer {
    type Response = Response;
    type Error = Infallible;
    // Named, because the compiler cannot prove an anonymous future over `dyn Error` to be `Send`.
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let exchange = self.progress.begin();
        let request = Lent::of(request, exchange.as_ref());
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        request.extensions_mut().insert(self.peer.clone());
        let progress = self.progress.clone();
        let answer = self.service.clone().oneshot(request);
        // A combinator: the compiler cannot prove an async block over `dyn Error` to be `Send`.
        Box::pin(answer.map_ok(move |response| {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                progress.take_over();
            }
            match exchange {
                // It lasts as long as the body of its answer.
                Some(exchange) => response.map(|body| exchange.until_the_end_of(body)),
                None => response,
            }
        }))
    }
}

#[cfg(test)]
mod tests;
