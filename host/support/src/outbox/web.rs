//! Requests to other people's servers, over HTTP and HTTPS.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use eyot_api::Channel;
use eyot_http::trust::{Trust, trusting};
use http::{Method, Request, Uri, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::{Letter, NOTED};

/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);
/// How long a server may take to accept a connection.
const CONNECTING: Duration = Duration::from_secs(10);

type Plain = Client<HttpConnector, Full<Bytes>>;
type Secure = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The two clients, each made when it is needed first: the authorities that the machine trusts take
/// memory.
#[derive(Default)]
pub(crate) struct Web {
    plain: OnceLock<Plain>,
    secure: OnceLock<Result<Secure, String>>,
}

impl Web {
    pub(super) async fn post(&self, channel: &Channel, letter: &Letter) -> Result<String, String> {
        let scheme = channel.scheme.as_deref().unwrap_or_default();
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "" | "http" => "http",
            "https" => "https",
            other => return Err(format!("scheme {other:?}: http or https is possible")),
        };
        let host = channel.host.as_deref().unwrap_or_default();
        let path = channel.path.as_deref().unwrap_or_default();
        let path = path.trim_start_matches('/');
        let port = channel.port.unwrap_or_default();
        let address = format!("{scheme}://{host}:{port}/{path}");
        let method = channel.http_method.as_deref().unwrap_or("POST");
        let content_type = match letter.content_type.as_str() {
            "" => "text/plain",
            given => given,
        };
        let content = Bytes::from(letter.content.clone());
        self.request(method, &address, content_type, content).await
    }

    /// Make a request; the answer's body if it is a success, else why it is none.
    pub(crate) async fn request(
        &self,
        method: &str,
        address: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<String, String> {
        let uri: Uri = address
            .parse()
            .map_err(|error| format!("{address:?} is no address: {error}"))?;
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("{method:?} is no method of HTTP"))?;
        if method == Method::CONNECT {
            return Err("CONNECT asks for a tunnel, which delivers nothing".to_owned());
        }
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{address:?} must begin with http:// or https://")),
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = match secure {
            false => self.plain.get_or_init(plain).request(request).await,
            true => {
                let client = self.secure.get_or_init(secure_client).as_ref();
                client?.request(request).await
            }
        };
        let answer = answer.map_err(|error| reason(&error))?;
        let status = answer.status();
        let body = first(answer.into_body()).await;
        match status.is_success() {
            true => Ok(body),
            false => Err(format!(
                "request failed, status code: {}, err: {body}",
                status.as_u16()
            )),
        }
    }
}

/// As much of an answer as is noted.
async fn first(body: hyper::body::Incoming) -> String {
    use http_body_util::BodyExt;
    let mut body = body;
    let mut held = Vec::new();
    while held.len() <= NOTED {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    held.extend_from_slice(&data[..data.len().min(NOTED + 1)]);
                }
            }
            Some(Err(_)) | None => break,
        }
    }
    String::from_utf8_lossy(&held).into_owned()
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECTING));
    connector.enforce_http(false);
    connector
}

fn plain() -> Plain {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1)
        .build(connector())
}

fn secure_client() -> Result<Secure, String> {
    let tls = trusting(Trust::Authorities(&[]))?.with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .wrap_connector(connector());
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1)
        .build(connector))
}

/// An error and what it comes from, in one line.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
