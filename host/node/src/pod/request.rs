//! An HTTP request of a probe or a lifecycle hook, as the kubelet makes it.
//!
//! Over HTTPS no certificate is checked, as in Kubernetes: a pod's address is in none. Redirections
//! are followed as long as they stay with the same host.

use std::{io, net::IpAddr, sync::Arc, sync::OnceLock};

use bytes::Bytes;
use eyot_http::Credulous;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
    header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT},
    uri::Scheme,
};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// As many redirections are followed as Go's client follows.
const REDIRECTIONS: usize = 10;

/// What is asked, and how.
#[derive(Debug, Clone)]
pub(super) struct Get {
    uri: Uri,
    headers: HeaderMap,
}

impl Get {
    /// The action of a container whose pod has this address. `who` asks: `probe` or `lifecycle`.
    pub(super) fn new(
        action: &HTTPGetAction,
        container: &Container,
        address: IpAddr,
        who: &str,
    ) -> Result<Self, String> {
        let host = action.host.as_deref().filter(|host| !host.is_empty());
        let host = host.map_or_else(|| address.to_string(), str::to_owned);
        let port = port(&action.port, container)?;
        let scheme = action.scheme.as_deref().unwrap_or("http").to_lowercase();
        let path = action.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = path.replace(' ', "%20");
        let uri = format!("{scheme}://{}{slash}{path}", authority(&host, port));
        let uri: Uri = uri
            .parse()
            .map_err(|error| format!("invalid URL {uri:?}: {error}"))?;
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let name = HeaderName::try_from(header.name.as_str());
            let value = HeaderValue::try_from(header.value.as_str());
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(format!("invalid header {:?}", header.name));
            };
            headers.append(name, value);
        }
        let agent = format!("kube-{who}/1.36");
        if let (false, Ok(agent)) = (headers.contains_key(USER_AGENT), agent.try_into()) {
            headers.insert(USER_AGENT, agent);
        }
        if !headers.contains_key(ACCEPT) {
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(Self { uri, headers })
    }

    pub(super) fn url(&self) -> String {
        self.uri.to_string()
    }

    /// The status that the server answers with. The error is in the words of Go's client.
    pub(super) async fn send(&self) -> Result<StatusCode, String> {
        let mut uri = self.uri.clone();
        for _ in 0..=REDIRECTIONS {
            let answer = self
                .once(&uri)
                .await
                .map_err(|error| format!("Get \"{uri}\": {error}"))?;
            let next = answer
                .status()
                .is_redirection()
                .then(|| redirected(&uri, answer.headers().get(LOCATION)?))
                .flatten();
            match next {
                // Somebody else's answer says nothing about this container.
                Some(next) if next.host() == self.uri.host() => uri = next,
                _ => return Ok(answer.status()),
            }
        }
        Err(format!(
            "Get \"{uri}\": stopped after {REDIRECTIONS} redirects"
        ))
    }

    async fn once(&self, uri: &Uri) -> Result<http::Response<hyper::body::Incoming>, String> {
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = dial(bare, port).await?;
        if !secure {
            return self.over(stream, uri).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(credulous()?));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| format!("tls: {error}"))?;
        self.over(stream, uri).await
    }

    async fn over<S>(
        &self,
        stream: S,
        uri: &Uri,
    ) -> Result<http::Response<hyper::body::Incoming>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = http::Request::get(target)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        *request.headers_mut() = self.headers.clone();
        if !self.headers.contains_key(HOST)
            && let Some(authority) = uri.authority()
            && let Ok(host) = HeaderValue::try_from(authority.as_str())
        {
            request.headers_mut().insert(HOST, host);
        }
        // The connection is driven here, so that it ends with the question.
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            biased;
            answer = &mut answer => answer.map_err(|error| error.to_string()),
            ended = &mut connection => match ended {
                Err(error) => Err(error.to_string()),
                Ok(()) => answer.await.map_err(|error| error.to_string()),
            },
        }
    }
}

/// Connect as Go's dialer says it.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("dial tcp {}: {}", authority(host, port), said(&error)))
}

/// The port that a probe or a hook names.
pub(super) fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("invalid port number: {number}")),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let mut named = ports.filter(|port| port.name.as_deref() == Some(name));
            named
                .next()
                .and_then(|port| u16::try_from(port.container_port).ok())
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("couldn't find port: {name}"))
        }
    }
}

fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

fn redirected(from: &Uri, location: &HeaderValue) -> Option<Uri> {
    let location = location.to_str().ok()?;
    if location.starts_with("//") {
        return format!("{}:{location}", from.scheme_str()?).parse().ok();
    }
    if location.starts_with('/') {
        let origin = format!("{}://{}", from.scheme_str()?, from.authority()?);
        return format!("{origin}{location}").parse().ok();
    }
    location
        .parse::<Uri>()
        .ok()
        .filter(|uri| uri.scheme().is_some())
}

fn credulous() -> Result<&'static Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let make = || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous::new(provider)))
            .with_no_client_auth();
        Ok(Arc::new(config))
    };
    CONFIG.get_or_init(make).as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn get(action: serde_json::Value) -> Result<Get, String> {
        let container = json!({ "name": "c", "ports": [{ "name": "web", "containerPort": 8080 }] });
        Get::new(
            &serde_json::from_value(action).unwrap(),
            &serde_json::from_value(container).unwrap(),
            [10, 0, 0, 1].into(),
            "probe",
        )
    }

    #[test]
    fn a_request_says_what_the_action_says() {
        let made = get(json!({ "port": "web", "path": "x?y=a b", "scheme": "HTTPS", "httpHeaders": [
            { "name": "Host", "value": "me" }, { "name": "X", "value": "1" }, { "name": "X", "value": "2" },
        ]}))
        .unwrap();
        assert_eq!(made.url(), "https://10.0.0.1:8080/x?y=a%20b");
        assert_eq!(made.headers[HOST], "me");
        assert_eq!(made.headers[USER_AGENT], "kube-probe/1.36");
        assert_eq!(made.headers.get_all("x").iter().count(), 2);
        let plain = get(json!({ "port": 1, "host": "::1" })).unwrap();
        assert_eq!(plain.url(), "http://[::1]:1/");
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        assert_eq!(
            get(json!({ "port": "no" })).unwrap_err(),
            "couldn't find port: no"
        );
        assert!(get(json!({ "port": 0 })).is_err());
        assert!(get(json!({ "port": 1, "path": "/x\r\nEvil: 1" })).is_err());
        let evil = json!([{ "name": "A", "value": "1\r\nEvil: 1" }]);
        assert!(get(json!({ "port": 1, "httpHeaders": evil })).is_err());
    }

    #[test]
    fn redirections_are_read_relative_to_where_they_come_from() {
        let from: Uri = "http://a:1/x".parse().unwrap();
        let to = |text: &str| {
            redirected(&from, &HeaderValue::try_from(text).unwrap()).map(|uri| uri.to_string())
        };
        assert_eq!(to("/y").as_deref(), Some("http://a:1/y"));
        assert_eq!(to("https://b/").as_deref(), Some("https://b/"));
        assert_eq!(to("//b/z").as_deref(), Some("http://b/z"));
        assert_eq!(to("y"), None);
    }

    #[tokio::test]
    async fn who_does_not_listen_is_told_as_go_tells_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = get(json!({ "host": "127.0.0.1", "port": port }))
            .unwrap()
            .send()
            .await;
        assert_eq!(
            error.unwrap_err(),
            format!(
                "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection \
                 refused"
            )
        );
    }
}
