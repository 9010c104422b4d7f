//! Outgoing HTTP/1.1 of guests: to what is granted, from the pod's own address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ::http::{Request, Response, Uri, uri::Scheme};
use eyot_runtime::guest::Tls;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::{Egress, Resolver};
use crate::{netns, tls};

/// What a guest may ask for at most, and gets if it asks for nothing.
const CONNECT: Duration = Duration::from_secs(30);
const FIRST_BYTE: Duration = Duration::from_secs(60);
const BETWEEN_BYTES: Duration = Duration::from_secs(60);

/// The outgoing requests of one instance. Without [`Egress`] all are denied.
#[derive(Clone, Default)]
pub(crate) struct Outgoing {
    egress: Option<Arc<Egress>>,
    resolver: Resolver,
    tls: Option<Arc<Tls>>,
}

type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Rest), Error>;

impl Outgoing {
    pub(crate) fn new(egress: Arc<Egress>, resolver: Resolver) -> Self {
        Self {
            egress: Some(egress),
            resolver,
            tls: None,
        }
    }

    /// The same with other settings for TLS than the usual.
    pub(crate) fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    async fn send(self, mut request: Request<WasiBody>, options: Limits) -> Sent {
        let uri = request.uri();
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?.to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let egress = self.egress.as_ref();
        let granted = egress.filter(|egress| egress.allows_host(&host, port));
        let egress = granted.ok_or(Error::HttpRequestDenied)?;
        let connecting = async {
            let found = self.resolver.addresses(&egress.namespace, &host).await;
            let addresses = found.map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => Error::DnsTimeout,
                _ => Error::DnsError {
                    rcode: Some("NXDOMAIN".into()),
                    info_code: None,
                },
            })?;
            if !addresses.iter().all(|address| egress.may_reach(*address)) {
                return Err(Error::DestinationIpProhibited);
            }
            let stream = connect(egress, &addresses, port).await?;
            stream.set_nodelay(true).map_err(Error::Connect)?;
            match secure {
                true => {
                    let tls = self.tls.as_deref();
                    handshake(encrypt(&host, stream, tls).await?).await
                }
                false => handshake(stream).await,
            }
        };
        let connected = tokio::time::timeout(options.connect, connecting).await;
        let (mut sender, connection) = connected.map_err(|_| Error::ConnectionTimeout)??;
        // The scheme and the authority are for proxies only.
        let path = request.uri().path_and_query().cloned();
        let path = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        *request.uri_mut() = path;
        let connection = tokio::spawn(connection);
        let connection = tokio_util::task::AbortOnDropHandle::new(connection);
        let answer = tokio::time::timeout(options.first_byte, sender.send_request(request)).await;
        let answer = answer.map_err(|_| Error::ConnectionReadTimeout)??;
        let between = options.between_bytes;
        let answer = answer.map(|body| {
            // The sender and the connection live as long as the body is read.
            let state = (body, sender, connection);
            let frames = futures::stream::unfold(state, move |mut state| async move {
                let frame = match tokio::time::timeout(between, state.0.frame()).await {
                    Ok(frame) => frame?.map_err(Error::from),
                    Err(_) => Err(Error::ConnectionReadTimeout),
                };
                Some((frame, state))
            });
            StreamBody::new(UntilError::new(frames)).boxed_unsync()
        });
        Ok((answer, Box::new(std::future::ready(Ok(())))))
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Rest,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let limits = Limits::of(options.as_ref());
        Box::new(self.clone().send(request, limits))
    }
}

struct Limits {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Limits {
    fn of(options: Option<&RequestOptions>) -> Self {
        let least = |of: fn(&RequestOptions) -> Option<Duration>, most: Duration| {
            options.and_then(of).unwrap_or(most).min(most)
        };
        Self {
            connect: least(|o| o.connect_timeout, CONNECT),
            first_byte: least(|o| o.first_byte_timeout, FIRST_BYTE),
            between_bytes: least(|o| o.between_bytes_timeout, BETWEEN_BYTES),
        }
    }
}

/// Connect to the first address that accepts, from the pod's own.
async fn connect(egress: &Egress, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Error> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let to = SocketAddr::new(*address, port);
        let from = egress
            .sandbox
            .ip
            .filter(|own| own.is_ipv4() == to.is_ipv4());
        let connecting = async {
            let socket = netns::tcp_socket(egress.sandbox.netns.as_deref(), to.is_ipv4()).await?;
            if !egress.is_local() {
                netns::mark(&socket)?;
            }
            if let Some(own) = from {
                // Ports of connections that have ended are used again.
                socket.set_reuseaddr(true)?;
                socket.bind(SocketAddr::new(own, 0))?;
            }
            socket.connect(to).await
        };
        match connecting.await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(match last.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            Error::DestinationIpUnroutable
        }
        _ => Error::Connect(last),
    })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Connection = (
    hyper::client::conn::http1::SendRequest<WasiBody>,
    futures::future::BoxFuture<'static, ()>,
);

async fn handshake(stream: impl Stream + 'static) -> Result<Connection, Error> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    Ok((
        sender,
        Box::pin(async move {
            // Whoever waits for the answer hears of it.
            let _ = connection.await;
        }),
    ))
}

async fn encrypt(
    host: &str,
    stream: TcpStream,
    settings: Option<&Tls>,
) -> Result<impl Stream + 'static, Error> {
    let config = tls::client(settings).map_err(|why| Error::Tls(io::Error::other(why)))?;
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name =
        rustls::pki_types::ServerName::try_from(bare).map_err(|_| Error::HttpRequestUriInvalid)?;
    let connector = TlsConnector::from(config);
    connector.connect(name, stream).await.map_err(Error::Tls)
}

/// Ends after the first error.
struct UntilError<S> {
    frames: std::pin::Pin<Box<S>>,
    ended: bool,
}

impl<S> UntilError<S> {
    fn new(frames: S) -> Self {
        Self {
            frames: Box::pin(frames),
            ended: false,
        }
    }
}

impl<S, D> futures::Stream for UntilError<S>
where
    S: futures::Stream<Item = Result<Frame<D>, Error>>,
{
    type Item = Result<Frame<D>, Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if self.ended {
            return std::task::Poll::Ready(None);
        }
        let next = self.frames.as_mut().poll_next(context);
        if let std::task::Poll::Ready(Some(Err(_))) = next {
            self.ended = true;
        }
        next
    }
}
