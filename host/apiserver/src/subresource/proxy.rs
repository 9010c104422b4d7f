//! `pods/proxy`, `services/proxy`, `nodes/proxy`: HTTP to what runs in the cluster, through the API
//! server's door and its credentials.
//!
//! The name may carry a scheme and a port: `https:web:8443`. For a pod the port is a number or the
//! name of one of its ports, its first one if nothing is said; for a Service it is a port of the
//! Service. A node without a port, or with that of its kubelet, is the node's own API, to which this
//! server has a connection; any other port is dialled at the node's address.

mod links;
mod page;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use eyot_http::{Body, Request, Response, Upgrade, relay};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use self::links::Links;
use super::{connect, kubelet};
use crate::{
    api::Api,
    call::Call,
    failure::Failure,
    object,
    translate::AsItIs,
    webhook::{self, Stream, Trust, Where},
};

/// A server behind this one that takes longer to agree on TLS is taken for stuck.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where kubelets listen, for nodes that do not say.
const KUBELET: u64 = 10250;

/// A request that is passed on.
pub(crate) struct Passed {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) upgrade: Option<Upgrade>,
    pub(crate) body: Body,
}

impl Passed {
    /// A whole request that is passed on, and its head.
    pub(crate) fn split(request: Request, uri: &Uri) -> (Parts, Passed) {
        let (mut parts, body) = request.into_parts();
        let passed = Passed {
            method: parts.method.clone(),
            uri: uri.clone(),
            upgrade: Upgrade::take(&mut parts.extensions),
            body,
        };
        (parts, passed)
    }
}

/// Whether a resource has a `proxy`.
pub(crate) fn has_one(call: &Call) -> bool {
    ["pods", "services", "nodes"]
        .iter()
        .any(|plural| call.resource.is("", plural))
}

pub(crate) async fn proxy(
    api: &Arc<Api>,
    mut call: Call,
    passed: Passed,
) -> Result<Response, Failure> {
    let rest = rest(&passed.uri);
    connect::admit(api, &call, "proxy", options(&call, &rest)).await?;
    let is_read = [Method::GET, Method::HEAD].contains(&passed.method);
    if rest.is_empty() && is_read && !call.headers.contains_key(header::UPGRADE) {
        return redirect(&passed.uri);
    }
    let (scheme, name, port) = split(&call.name, &call.resource.singular)?;
    let (scheme, name, port) = (scheme.to_owned(), name.to_owned(), port.to_owned());
    call.name = name;
    let stored = api
        .store
        .get(&call.key())
        .ok_or_else(|| call.resource.not_found(&call.name))?;
    let object = call.resource.value(&stored)?;
    let target = format!(
        "{}{}",
        if rest.is_empty() { "/" } else { &rest },
        query(&passed.uri)
    );
    let to = match call.resource.plural.as_str() {
        "nodes" if is_kubelet(&object, &port) => return node(api, &call, passed, &target).await,
        "nodes" => address(&object, &call.name, &port)?,
        "pods" => pod(&object, &call.name, &port)?,
        _ => service(api, &call, &object, &port)?,
    };
    let prefix = passed.uri.path().strip_suffix(rest.as_str());
    let behind = authorities(&to);
    let links = Links {
        prefix: prefix.unwrap_or_default().to_owned(),
        asked: host(&call.headers, &passed.uri).unwrap_or_default(),
        behind,
    };
    let stream = api.options.dialer.dial(to).await;
    let mut stream = stream.map_err(|error| unreachable(&error))?;
    if scheme == "https" {
        stream = tls(stream).await?;
    }
    pass(stream, call.headers, passed, &target, links).await
}

/// Whom the client asked: over HTTP/2 that is not a header.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let header = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = header.or_else(|| Some(uri.authority()?.as_str()))?;
    Some(host.to_owned())
}

/// The servers behind as links may name them.
fn authorities(to: &Where) -> Vec<String> {
    match to {
        Where::Host(host, port) if host.contains(':') => vec![format!("[{host}]:{port}")],
        Where::Host(host, port) => vec![format!("{host}:{port}")],
        Where::Service { addresses, .. } => addresses.iter().map(ToString::to_string).collect(),
    }
}

/// The request as the object that admission judges.
fn options(call: &Call, rest: &str) -> Value {
    let kind = format!("{}ProxyOptions", call.resource.kind);
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if !rest.is_empty() {
        options["path"] = json!(rest);
    }
    options
}

/// What follows `/proxy`, as it was sent.
fn rest(uri: &Uri) -> String {
    let path = uri.path();
    let namespaced = path.starts_with("/api/v1/namespaces/");
    let depth = if namespaced { 7 } else { 5 };
    let mut slashes = path.match_indices('/').skip(depth);
    slashes.next().map_or_else(String::new, |(at, _)| {
        path.get(at..).unwrap_or_default().to_owned()
    })
}

fn query(uri: &Uri) -> String {
    uri.query()
        .map_or_else(String::new, |query| format!("?{query}"))
}

/// Links of a page are relative to a directory.
fn redirect(uri: &Uri) -> Result<Response, Failure> {
    let location = format!("{}/{}", uri.path(), query(uri));
    let mut response = http::Response::new(eyot_http::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = HeaderValue::from_str(&location).map_err(Failure::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Scheme, name and port of `name`, `name:port` or `scheme:name:port`.
fn split<'a>(id: &'a str, what: &str) -> Result<(&'a str, &'a str, &'a str), Failure> {
    let parts: Vec<&str> = id.split(':').collect();
    match parts.as_slice() {
        [name] => Ok(("", name, "")),
        [name, port] => Ok(("", name, port)),
        [scheme @ ("" | "http" | "https"), name, port] => Ok((scheme, name, port)),
        _ => Err(Failure::bad_request(format!(
            "invalid {what} request {id:?}"
        ))),
    }
}

fn pod(pod: &Value, name: &str, port: &str) -> Result<Where, Failure> {
    let ip = object::text(pod, &["status", "podIP"]);
    if ip.is_empty() {
        return Err(Failure::bad_request(format!(
            "pod {name:?} has no address yet: try again when it runs"
        )));
    }
    let number = match port {
        "" => named_port(pod, None).unwrap_or(80),
        text => match text.parse() {
            Ok(number) => number,
            Err(_) => named_port(pod, Some(text)).ok_or_else(|| {
                Failure::bad_request(format!("pod {name:?} has no port named {text:?}"))
            })?,
        },
    };
    Ok(Where::Host(ip.to_owned(), number))
}

/// A container port by its name, or the first of all.
fn named_port(pod: &Value, name: Option<&str>) -> Option<u16> {
    let containers = object::at(pod, &["spec", "containers"]).and_then(Value::as_array)?;
    let mut ports = containers
        .iter()
        .filter_map(|container| container.get("ports")?.as_array())
        .flatten()
        .filter(|port| name.is_none_or(|name| object::text(port, &["name"]) == name));
    u16::try_from(ports.next()?.get("containerPort")?.as_u64()?).ok()
}

fn service(api: &Api, call: &Call, service: &Value, port: &str) -> Result<Where, Failure> {
    let ports = object::at(service, &["spec", "ports"]).and_then(Value::as_array);
    let ports = ports.map(Vec::as_slice).unwrap_or_default();
    let found = match port {
        "" => ports.first(),
        text => ports.iter().find(|p| {
            object::text(p, &["name"]) == text
                || p.get("port").and_then(Value::as_u64) == text.parse().ok()
        }),
    };
    let number = found.and_then(|port| u16::try_from(port.get("port")?.as_u64()?).ok());
    let number = number.ok_or_else(|| {
        Failure::unavailable(format!(
            "no port {port:?} found for service {:?}",
            call.name
        ))
    })?;
    webhook::resolve(&api.store, &call.namespace, &call.name, number).map_err(Failure::unavailable)
}

/// Whether a port of a node means its own API.
fn is_kubelet(node: &Value, port: &str) -> bool {
    let endpoint = ["status", "daemonEndpoints", "kubeletEndpoint", "Port"];
    let own = object::at(node, &endpoint).and_then(Value::as_u64);
    let own = own.filter(|own| *own != 0).unwrap_or(KUBELET);
    port.is_empty() || port.parse() == Ok(own)
}

/// Some other port of a node.
fn address(node: &Value, name: &str, port: &str) -> Result<Where, Failure> {
    let port = port.parse().map_err(|_| {
        Failure::bad_request(format!(
            "node {name:?} has no port named {port:?}: give a number"
        ))
    })?;
    let addresses = object::at(node, &["status", "addresses"]).and_then(Value::as_array);
    let mut addresses = addresses.into_iter().flatten();
    let own = addresses.find(|one| object::text(one, &["type"]) == "InternalIP");
    let own = own.map(|one| object::text(one, &["address"]).to_owned());
    let own = own.ok_or_else(|| {
        Failure::unavailable(format!(
            "no preferred addresses found; known addresses of {name:?}: []"
        ))
    })?;
    Ok(Where::Host(own, port))
}

/// The node's own API.
async fn node(
    api: &Arc<Api>,
    call: &Call,
    passed: Passed,
    target: &str,
) -> Result<Response, Failure> {
    let kubelet =
        api.options.nodes.kubelet(&call.name).ok_or_else(|| {
            Failure::unavailable(format!("node {:?} is not connected", call.name))
        })?;
    let mut request = http::Request::builder()
        .method(passed.method)
        .uri(target)
        .body(passed.body)
        .map_err(Failure::internal)?;
    *request.headers_mut() = forwarded(&call.headers);
    Ok(kubelet::ask(kubelet, request).await)
}

/// What the client said, without what it said to this server alone.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    relay::strip(&mut headers);
    // The client's credentials are for this server.
    headers.remove(header::AUTHORIZATION);
    headers
}

/// The same connection with TLS on it. Nobody can know what certificate a pod should have, so any
/// will do, as in Kubernetes; and as there, whoever is reached by an address is not told a name.
async fn tls(stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, Failure> {
    let config = webhook::tls_config(Trust::Anybody, None).map_err(Failure::internal)?;
    let nobody = ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let secured = TlsConnector::from(Arc::new(config)).connect(nobody, stream);
    let secured = tokio::time::timeout(HANDSHAKE, secured)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("net/http: TLS handshake timeout")));
    Ok(Box::new(secured.map_err(|error| unreachable(&error))?))
}

async fn pass(
    stream: Box<dyn Stream>,
    headers: HeaderMap,
    passed: Passed,
    target: &str,
    links: Links,
) -> Result<Response, Failure> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| unreachable(&error))?;
    tokio::spawn(connection.with_upgrades());
    let upgrade = passed.upgrade.clone();
    let has_body = passed.method != Method::HEAD;
    let mut request = outgoing(headers, passed, target)?;
    tell_the_way(request.headers_mut(), target, &links);
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| unreachable(&error))?;
    Ok(links.answer(relay(response, upgrade), has_body))
}

/// Whom the client asked and where: HTTP/1.1 has no request without `Host`, and who writes absolute
/// links itself needs the path.
fn tell_the_way(headers: &mut HeaderMap, target: &str, links: &Links) {
    let host = match links.asked.as_str() {
        "" => links.behind.first().map_or("", String::as_str),
        asked => asked,
    };
    let path = target.split('?').next().unwrap_or_default();
    let way = format!("{}{path}", links.prefix);
    let forwarded = HeaderName::from_static("x-forwarded-uri");
    for (name, value) in [(header::HOST, host), (forwarded, &way)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

/// The request as the next server gets it.
pub(crate) fn outgoing(
    headers: HeaderMap,
    passed: Passed,
    target: &str,
) -> Result<http::Request<Body>, Failure> {
    let mut sent = forwarded(&headers);
    if let Some(protocol) = headers.get(header::UPGRADE) {
        sent.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        sent.insert(header::UPGRADE, protocol.clone());
    }
    let mut request = http::Request::builder()
        .method(passed.method)
        .uri(target)
        .body(passed.body)
        .map_err(Failure::internal)?;
    *request.headers_mut() = sent;
    Ok(request)
}

/// The next server's answer as the client gets it.
pub(crate) fn relay(
    response: http::Response<hyper::body::Incoming>,
    upgrade: Option<Upgrade>,
) -> Response {
    let mut response = relay::relay(response, upgrade);
    response.extensions_mut().insert(AsItIs);
    response
}

fn unreachable(error: &dyn std::error::Error) -> Failure {
    let mut why = error.to_string();
    if let Some(source) = error.source() {
        why = format!("{why}: {source}");
    }
    Failure::unavailable(format!("error trying to reach service: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_proxy_is_passed_on_as_it_was_sent() {
        for (path, expected) in [
            ("/api/v1/namespaces/d/pods/a/proxy", ""),
            ("/api/v1/namespaces/d/pods/a/proxy/", "/"),
            ("/api/v1/namespaces/d/pods/a:80/proxy/x%2Fy/z", "/x%2Fy/z"),
            ("/api/v1/nodes/n/proxy/healthz", "/healthz"),
        ] {
            assert_eq!(rest(&path.parse().unwrap()), expected, "{path}");
        }
    }

    #[test]
    fn a_name_may_carry_scheme_and_port() {
        let check = |id, expected| assert_eq!(split(id, "pod").ok(), expected, "{id}");
        check("a", Some(("", "a", "")));
        check("a:http", Some(("", "a", "http")));
        check("http:a:80", Some(("http", "a", "80")));
        check("https:a:", Some(("https", "a", "")));
        check("ftp:a:80", None);
        check("a:b:c:d", None);
    }
}
