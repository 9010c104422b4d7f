//! The one connection to the server: HTTP/2 over TLS, made anew whenever it breaks.
//!
//! An [`Uplink`] is a `tower::Service` that `kube::Client` is built over: all requests and watches of a
//! node are streams of one connection, and so is its tunnel. [`Uplink::run`] keeps the connection;
//! everybody else waits for it. A request that finds none waits for a while and then fails with what
//! stands in the way, so whoever asked decides whether to go on without an answer.
//!
//! ```text
//!   Down ──dial──► Up ──the connection ends──► Down
//!    └─ failed: a pause that grows, of random length
//! ```
//!
//! Pauses are drawn anew for each attempt between zero and a bound that doubles: a thousand nodes
//! that lost the same server at the same instant come back spread over seconds, not all at once.
//!
//! What an idle node sends is mostly watches that say nothing: each is asked for anew every five minutes
//! by `kube`, and told every minute by the server how far it has come. On this connection, which
//! notices by itself when it breaks, both are done far less often.
//!
//! A node that renewed its certificate dials again and then lets go of the old connection, which ends
//! when the last of its streams does.

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use eyot_http::{Body, BoxError};
use http::{HeaderValue, Uri, header, uri};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::Timestamp;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{
    CertificateError, ClientConfig,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// For a connection to come about, TLS included.
const DIAL: Duration = Duration::from_secs(15);
/// For a server to say what it can do.
const SETTINGS: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);
/// Bytes that the server may send on one stream before they are read. The connection takes so many of
/// them that sessions which nobody reads leave room for watches.
const STREAM_WINDOW: u32 = 256 * 1024;
/// How long a request waits for a connection before it fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// The bound of the first pause; a server that was restarted is back by then.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
/// The bound of the longest pause: how long a link that is back may go unnoticed.
const PAUSE_LONGEST: Duration = Duration::from_secs(30);
/// How long what was sent may go without being acknowledged until the connection is given up. The
/// tunnel's beats see to it that something is sent.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// A connection that lasted so long counts as a good one: the next pauses begin anew.
const GOOD: Duration = Duration::from_secs(30);
/// How long a watch lasts, by how kube asks for it and on this connection.
const USUAL: &str = "timeoutSeconds=290";
const WATCH: Duration = Duration::from_secs(2400);
/// How often a watch wants to be told how far it has come: often enough for what came last to be known
/// still when it is asked for anew.
const BOOKMARKS: Duration = Duration::from_secs(900);
/// Says so to a server of Eyot, in seconds; others do as they like.
pub const BOOKMARKS_HEADER: &str = "eyot-bookmark-seconds";
/// Before a request that did not leave is sent by the next connection.
const UNSENT: Duration = Duration::from_millis(20);
/// How often a failure that goes on is told again.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// Where a server is: `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

/// Why a text is no address of a server.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no address of a server: write https://HOST:PORT")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if uri.scheme() != Some(&uri::Scheme::HTTPS) || !bare || authority.as_str().contains('@') {
            return Err(wrong());
        }
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(6443),
        })
    }
}

impl Address {
    /// `HOST:PORT`
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    fn name(&self) -> Result<ServerName<'static>, InvalidDnsNameError> {
        match self.host.parse::<IpAddr>() {
            Ok(address) => Ok(ServerName::IpAddress(address.into())),
            Err(_) => ServerName::try_from(self.host.clone()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

/// How a client says who it is.
#[derive(Clone)]
pub struct Credential {
    /// Whom it believes, and its certificate if it has one.
    pub tls: Arc<ClientConfig>,
    /// A token, in place of a certificate.
    pub bearer: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{0} is not reached: {1}")]
    Unreachable(Address, #[source] io::Error),
    #[error("{0} does not answer within {DIAL:?}")]
    Slow(Address),
    #[error("{0:?} is no name of a host")]
    Name(String),
    /// The authority is another one than was pinned, or than this node was given.
    #[error(
        "{0} shows a certificate of another authority than the one that this machine trusts: either this is not your server, or it was set up anew and needs new tokens"
    )]
    Stranger(Address),
    #[error(
        "the certificate of {server} {validity}, but the clock of this machine says {now}: set the clock"
    )]
    Clock {
        server: Address,
        validity: String,
        now: Timestamp,
    },
    #[error(
        "{0} has a certificate for other names: join by one of the names or addresses that it was started with"
    )]
    OtherName(Address),
    #[error("TLS with {0} failed: {1}")]
    Tls(Address, #[source] io::Error),
    #[error("{0} does not speak HTTP/2: is it an Eyot server?")]
    NotHttp2(Address),
    #[error("{0} has no tunnels for nodes: is it an Eyot server?")]
    NoTunnels(Address),
    #[error("{0} broke off: {1}")]
    Http(Address, #[source] hyper::Error),
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    #[error("not connected to {server}: {why}")]
    Down { server: Address, why: String },
    #[error("the connection to {server} broke off")]
    Broken {
        server: Address,
        #[source]
        source: hyper::Error,
    },
    #[error("the request cannot be sent: {0}")]
    Request(#[from] http::Error),
}

/// A connection that is up; `number` tells it from those before.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) sender: http2::SendRequest<Body>,
}

/// The way to a server. Clones are one.
#[derive(Clone)]
pub struct Uplink(Arc<Inner>);

struct Inner {
    server: Address,
    credential: Mutex<Credential>,
    /// Bumped with each new credential.
    renewed: watch::Sender<u64>,
    link: watch::Sender<Option<Link>>,
    /// What stands in the way.
    why: Mutex<String>,
    number: AtomicU64,
}

impl Uplink {
    /// Nothing is dialled before [`Uplink::run`].
    pub fn new(server: Address, credential: Credential) -> Self {
        Self(Arc::new(Inner {
            server,
            credential: Mutex::new(credential),
            renewed: watch::channel(0).0,
            link: watch::channel(None).0,
            why: Mutex::new("it was not dialled yet".to_owned()),
            number: AtomicU64::new(0),
        }))
    }

    /// A client of the server's API.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    pub fn server(&self) -> &Address {
        &self.0.server
    }

    /// Go by another certificate from now on.
    pub fn renew(&self, credential: Credential) {
        *lock(&self.0.credential) = credential;
        self.0.renewed.send_modify(|count| *count += 1);
    }

    /// Dial once, and answer why not.
    pub async fn try_once(&self) -> Result<(), DialError> {
        let connection = self.dial().await?;
        tokio::spawn(connection);
        Ok(())
    }

    /// Keep a connection until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let kept = self.keep();
        stop.run_until_cancelled(kept).await;
        self.0.link.send_replace(None);
    }

    async fn keep(&self) {
        let mut bound = PAUSE_FIRST;
        let mut told = Told::default();
        let mut renewed = self.0.renewed.subscribe();
        loop {
            renewed.mark_unchanged();
            match self.dial().await {
                Ok(connection) => {
                    told = Told::default();
                    tracing::info!(server = %self.0.server, "connected");
                    let since = tokio::time::Instant::now();
                    let mut connection = tokio::spawn(connection);
                    tokio::select! {
                        ended = &mut connection => {
                            let why = match ended {
                                Ok(Err(error)) => chain(&error),
                                _ => "the server closed the connection".to_owned(),
                            };
                            tracing::warn!(server = %self.0.server, why, "the connection ended");
                            *lock(&self.0.why) = why;
                            self.0.link.send_replace(None);
                        }
                        // The old one ends when its last stream does.
                        _ = renewed.changed() => continue,
                    }
                    if since.elapsed() >= GOOD {
                        bound = PAUSE_FIRST;
                    }
                }
                Err(error) => {
                    let why = chain(&error);
                    told.tell(&why);
                    *lock(&self.0.why) = why;
                }
            }
            tokio::time::sleep(bound.mul_f64(rand::random::<f64>())).await;
            bound = PAUSE_LONGEST.min(bound * 2);
        }
    }

    /// Connect, and let everybody use it.
    async fn dial(
        &self,
    ) -> Result<impl Future<Output = hyper::Result<()>> + Send + 'static, DialError> {
        let server = &self.0.server;
        let tls = lock(&self.0.credential).tls.clone();
        let dialled = timeout(DIAL, connect(server, tls)).await;
        let stream = dialled.map_err(|_| DialError::Slow(server.clone()))??;
        let broken = |source| DialError::Http(server.clone(), source);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(256 * STREAM_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // What the server can do is known with its settings, which come first; nobody is woken by them.
        let end = tokio::time::Instant::now() + SETTINGS;
        while !connection.is_extended_connect_protocol_enabled() {
            if tokio::time::Instant::now() >= end {
                return Err(DialError::NoTunnels(server.clone()));
            }
            tokio::time::sleep(LOOK).await;
        }
        let number = self.0.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.link.send_replace(Some(Link { number, sender }));
        Ok(connection)
    }

    /// The connection, once there is one with another number than `not`.
    pub(crate) async fn link(&self, not: u64) -> Link {
        let mut link = self.0.link.subscribe();
        let found = link
            .wait_for(|link| {
                let is_good = |link: &Link| link.number != not && !link.sender.is_closed();
                link.as_ref().is_some_and(is_good)
            })
            .await
            .ok()
            .and_then(|link| link.clone());
        match found {
            Some(link) => link,
            // The sender lives as long as this.
            None => std::future::pending().await,
        }
    }

    /// Resolves when there is no connection.
    pub async fn ended(&self) {
        let mut link = self.0.link.subscribe();
        // The sender lives as long as this.
        let _ = link.wait_for(Option::is_none).await;
    }

    async fn wait(&self) -> Result<Link, UplinkError> {
        let waited = timeout(PATIENCE, self.link(0)).await;
        waited.map_err(|_| UplinkError::Down {
            server: self.0.server.clone(),
            why: lock(&self.0.why).clone(),
        })
    }

    /// Send a request that names only a path.
    pub async fn send(
        &self,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, UplinkError> {
        self.address(&mut request)?;
        if let Some(patient) = patient(request.uri()) {
            *request.uri_mut() = patient;
            let every = HeaderValue::from(BOOKMARKS.as_secs());
            request.headers_mut().insert(BOOKMARKS_HEADER, every);
        }
        loop {
            let mut link = self.wait().await?;
            let mut sent = match link.sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match sent.take_message() {
                // It never left: the next connection takes it.
                Some(unsent) => request = unsent,
                None => {
                    return Err(UplinkError::Broken {
                        server: self.0.server.clone(),
                        source: sent.into_error(),
                    });
                }
            }
            tokio::time::sleep(UNSENT).await;
        }
    }

    /// Make it a request to the server, from us.
    pub(crate) fn address<B>(&self, request: &mut http::Request<B>) -> Result<(), http::Error> {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::builder()
            .scheme(uri::Scheme::HTTPS)
            .authority(self.0.server.authority())
            .path_and_query(path.unwrap_or(uri::PathAndQuery::from_static("/")))
            .build()?;
        if let Some(token) = &lock(&self.0.credential).bearer {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(())
    }
}

/// A watch for the usual time, asked for longer; `None` for anything else.
fn patient(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    let is = |wanted: &str| query.split('&').any(|pair| pair == wanted);
    if !is("watch=true") || !is(USUAL) {
        return None;
    }
    // Not all at the same time.
    let seconds = WATCH.mul_f64(0.75 + 0.5 * rand::random::<f64>()).as_secs();
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair {
            USUAL => format!("timeoutSeconds={seconds}"),
            pair => pair.to_owned(),
        })
        .collect();
    let mut parts = uri.clone().into_parts();
    let path = format!("{}?{}", uri.path(), pairs.join("&"));
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

impl Service<http::Request<kube::client::Body>> for Uplink {
    type Response = http::Response<Incoming>;
    type Error = UplinkError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, UplinkError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), UplinkError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<kube::client::Body>) -> Self::Future {
        let uplink = self.clone();
        let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
        Box::pin(async move { uplink.send(request).await })
    }
}

/// Says a failure when it is new, and again from time to time.
#[derive(Default)]
struct Told(Option<(String, tokio::time::Instant)>);

impl Told {
    fn tell(&mut self, why: &str) {
        let known = self.0.as_ref();
        if known.is_some_and(|(told, at)| told == why && at.elapsed() < TELL_AGAIN) {
            return;
        }
        tracing::warn!(why, "the server is not reached; trying again until it is");
        self.0 = Some((why.to_owned(), tokio::time::Instant::now()));
    }
}

async fn connect(
    server: &Address,
    tls: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let unreachable = |error| DialError::Unreachable(server.clone(), error);
    let name = server
        .name()
        .map_err(|_| DialError::Name(server.host.clone()))?;
    let stream = TcpStream::connect((server.host.as_str(), server.port))
        .await
        .map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let millis = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&stream, sockopt::TcpUserTimeout, &millis)
        .map_err(|errno| unreachable(errno.into()))?;
    let stream = TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .map_err(|error| judge(server, error))?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(stream),
        _ => Err(DialError::NotHttp2(server.clone())),
    }
}

/// What a handshake that failed means to who reads of it.
fn judge(server: &Address, error: io::Error) -> DialError {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(why)) = inner else {
        return DialError::Tls(server.clone(), error);
    };
    let time = |time: &rustls::pki_types::UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    };
    let clock = |validity: String, now| DialError::Clock {
        server: server.clone(),
        validity,
        now: time(now),
    };
    match why {
        CertificateError::NotValidYetContext {
            time: now,
            not_before,
        } => clock(format!("is good from {} on", time(not_before)), now),
        CertificateError::ExpiredContext {
            time: now,
            not_after,
        } => clock(format!("ended on {}", time(not_after)), now),
        CertificateError::UnknownIssuer => DialError::Stranger(server.clone()),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            DialError::OtherName(server.clone())
        }
        _ => DialError::Tls(server.clone(), error),
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_asked_for_longer_and_nothing_else_is_touched() {
        let of = |text: &str| patient(&text.parse().unwrap());
        let long = of("https://a:1/api/v1/pods?watch=true&timeoutSeconds=290&resourceVersion=7");
        let long = long.unwrap().to_string();
        let (before, rest) = long.split_once("timeoutSeconds=").unwrap();
        assert_eq!(before, "https://a:1/api/v1/pods?watch=true&");
        let (seconds, rest) = rest.split_once('&').unwrap();
        assert!((1800..=3000).contains(&seconds.parse::<u64>().unwrap()));
        assert_eq!(rest, "resourceVersion=7");
        for other in ["/api?watch=true", "/api?timeoutSeconds=290", "/api"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn addresses_are_read_and_refused() {
        let of = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        assert_eq!(of("https://10.0.0.1").unwrap(), "https://10.0.0.1:6443");
        assert_eq!(of("https://a.example:7/").unwrap(), "https://a.example:7");
        assert_eq!(of("https://[fd00::1]:7").unwrap(), "https://[fd00::1]:7");
        for wrong in [
            "",
            "10.0.0.1:6443",
            "http://a:1",
            "https://a/b",
            "https://u@a",
        ] {
            assert!(
                of(wrong)
                    .unwrap_err()
                    .to_string()
                    .contains("https://HOST:PORT"),
                "{wrong}"
            );
        }
    }
}
