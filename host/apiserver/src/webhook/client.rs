//! Asking a webhook over HTTPS: connections are kept and used again, answers are bounded, and what
//! goes wrong is told in the words that users of Kubernetes know.

use std::{
    collections::HashMap,
    error::Error,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use eyot_store::Store;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{CertificateError, ClientConfig};

use super::{
    dial::{self, Dialer, Where, Wire},
    target::{Service, Target},
    tls::{self, Trust},
};

/// Webhooks with connections of their own. Past this all connections are given up, which costs the
/// next calls a handshake.
const TARGETS: usize = 256;
/// Unused connections kept for one webhook.
const IDLE: usize = 16;
const IDLE_TIME: Duration = Duration::from_secs(90);
/// For a connection to come about.
const DIAL: Duration = Duration::from_secs(30);
/// Of an error answer, what is shown to the client.
const SHOWN: usize = 2048;

/// Sends requests with bodies of this type, each over a connection that it keeps afterwards.
pub(crate) type Http<B> = legacy::Client<HttpsConnector<Connect>, B>;

/// Asks webhooks. Clones share their connections.
#[derive(Clone)]
pub(crate) struct Client {
    store: Store,
    dialer: Arc<dyn Dialer>,
    clients: Arc<Mutex<HashMap<Target, Http<Full<Bytes>>>>>,
}

/// Why a webhook gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection can be attempted at all.
    #[error("{0}")]
    Configuration(String),
    #[error("Post {url:?}: {why}")]
    Unreachable { url: String, why: String },
    /// It answered with an error status.
    #[error("{message}")]
    Status { code: StatusCode, message: String },
}

impl Client {
    pub(crate) fn new(store: &Store, dialer: Arc<dyn Dialer>) -> Client {
        Client {
            store: store.clone(),
            dialer,
            clients: Arc::default(),
        }
    }

    /// Post JSON, and answer the JSON that comes back, of at most `limit` bytes, within `timeout`.
    pub(crate) async fn post(
        &self,
        target: &Target,
        body: Bytes,
        timeout: Duration,
        limit: usize,
    ) -> Result<Bytes, CallError> {
        let joint = if target.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{joint}timeout={}s", target.url, timeout.as_secs());
        let fails = |why: String| CallError::Unreachable {
            url: url.clone(),
            why,
        };
        let client = self.client(target)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(&url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body))
            .map_err(|error| CallError::Configuration(error.to_string()))?;
        let exchange = async {
            let response = client
                .request(request)
                .await
                .map_err(|error| fails(root(&error)))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, limit)
                .collect()
                .await
                .map_err(|error| fails(root(&*error)))?;
            Ok((parts.status, body.to_bytes()))
        };
        let (code, body) = tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(fails("context deadline exceeded".to_owned())))?;
        if code.is_success() {
            return Ok(body);
        }
        let message = spoken(code, &body);
        Err(CallError::Status { code, message })
    }

    fn client(&self, target: &Target) -> Result<Http<Full<Bytes>>, CallError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(target) {
            return Ok(client.clone());
        }
        let client = self.connect(target).map_err(CallError::Configuration)?;
        if clients.len() >= TARGETS {
            clients.clear();
        }
        clients.insert(target.clone(), client.clone());
        Ok(client)
    }

    fn connect(&self, target: &Target) -> Result<Http<Full<Bytes>>, String> {
        let config = tls::config(Trust::Authorities(&target.authority), None)?;
        let service = target.service.clone();
        Ok(connections(
            config,
            &self.store,
            self.dialer.clone(),
            service,
        ))
    }
}

/// A client that keeps its connections: to a Service, whatever host its requests name, or to that
/// host.
pub(crate) fn connections<B>(
    config: ClientConfig,
    store: &Store,
    dialer: Arc<dyn Dialer>,
    service: Option<Service>,
) -> Http<B>
where
    B: http_body::Body + Send + 'static + Unpin,
    B::Data: Send,
{
    let connect = Connect {
        store: store.clone(),
        dialer,
        service,
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .wrap_connector(connect);
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIME)
        .pool_max_idle_per_host(IDLE)
        .build(connector)
}

/// What lies at the bottom of an error, which is what tells the user something.
pub(crate) fn root(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    loop {
        if let Some(rustls::Error::InvalidCertificate(why)) = deepest.downcast_ref() {
            return certificate(why);
        }
        // An I/O error made of another one does not name it as its source.
        let inner = deepest
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn Error + 'static));
        match inner.or_else(|| deepest.source()) {
            Some(next) => deepest = next,
            None => return deepest.to_string(),
        }
    }
}

fn certificate(why: &CertificateError) -> String {
    let why = match why {
        // An authority of the same name that did not sign it is as unknown as any other.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        other => format!("x509: {other}"),
    };
    format!("tls: failed to verify certificate: {why}")
}

/// What a Kubernetes client makes of an error status.
fn spoken(code: StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    let text = &text[..text.floor_char_boundary(SHOWN)];
    let said = match code.as_u16() {
        401 => "the server has asked for the client to provide credentials",
        403 if !text.is_empty() => text,
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        409 => "the server reported a conflict",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be \
             processing the request"
        }
        500.. => {
            return format!(
                "an error on the server ({text:?}) has prevented the request from succeeding"
            );
        }
        code => {
            return format!(
                "the server responded with the status code {code} but did not return more \
                 information"
            );
        }
    };
    said.to_owned()
}

/// Makes connections to one target.
#[derive(Clone)]
pub(crate) struct Connect {
    store: Store,
    dialer: Arc<dyn Dialer>,
    service: Option<Service>,
}

impl tower::Service<Uri> for Connect {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let to = match &self.service {
            Some(service) => dial::resolve(&self.store, service).map_err(io::Error::other),
            None => {
                let host = uri.host().unwrap_or_default().to_owned();
                Ok(Where::Host(host, uri.port_u16().unwrap_or(443)))
            }
        };
        let dialer = self.dialer.clone();
        Box::pin(async move {
            let dialled = tokio::time::timeout(DIAL, dialer.dial(to?)).await;
            let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "dial tcp: i/o timeout");
            dialled.unwrap_or_else(|_| Err(timed_out())).map(Wire::new)
        })
    }
}
