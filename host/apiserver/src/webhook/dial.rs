//! Connecting to where a webhook listens.
//!
//! Behind a Service are the ready addresses of its EndpointSlices (or Endpoints), or where nobody
//! keeps those, the ready pods that it selects; a Service without any is tried under its own address,
//! for whoever balances that.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use eyot_store::{Key, Store};
use futures::future::BoxFuture;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rand::seq::SliceRandom;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::target::Service;
use crate::object::{at, text};

/// Addresses tried for one connection: more are no likelier to answer before the time is up.
const ADDRESSES: usize = 8;

const SLICES: &str = "endpointslices.discovery.k8s.io";
/// The label by which a slice says whose it is.
const OF_SERVICE: &str = "kubernetes.io/service-name";

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// A name or address of the network outside, and a port.
    Host(String, u16),
    /// What answers for a Service right now: pods, or the Service's own address.
    Service {
        namespace: String,
        name: String,
        addresses: Vec<SocketAddr>,
    },
}

/// A connection of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to webhooks. TLS is the caller's business.
pub trait Dialer: Send + Sync {
    fn dial(&self, to: Where) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// Connects through the machine's own network.
#[derive(Debug, Clone, Copy)]
pub struct TcpDialer;

impl Dialer for TcpDialer {
    fn dial(&self, to: Where) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = match to {
                Where::Host(host, port) => {
                    let host = host.trim_matches(['[', ']']).to_owned();
                    let connected = TcpStream::connect((host.as_str(), port)).await;
                    connected.map_err(|error| named(&format!("{host}:{port}"), &error))?
                }
                Where::Service { addresses, .. } => first(&addresses).await?,
            };
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

async fn first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::other("no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = named(&address.to_string(), &error),
        }
    }
    Err(last)
}

/// In the words that users of Kubernetes know.
fn named(address: &str, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("dial tcp {address}: {why}"))
}

/// Whom to dial for a Service, as things stand.
pub(super) fn resolve(store: &Store, service: &Service) -> Result<Where, String> {
    let Service {
        namespace,
        name,
        port,
    } = service;
    let key = Key::new("services", namespace.as_str(), name.as_str());
    let stored = store
        .get(&key)
        .ok_or_else(|| format!("service {name:?} not found"))?;
    let spec: Value = serde_json::from_slice(&stored.json).map_err(|error| error.to_string())?;
    let spec = spec.get("spec").cloned().unwrap_or_default();
    if text(&spec, &["type"]) == "ExternalName" {
        let host = text(&spec, &["externalName"]).to_owned();
        return Ok(Where::Host(host, *port));
    }
    let found = port_of(&spec, *port)
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let mut addresses = behind(store, service, &spec, found);
    if addresses.is_empty()
        && let Ok(address) = text(&spec, &["clusterIP"]).parse::<IpAddr>()
    {
        addresses.push(SocketAddr::new(address, *port));
    }
    if addresses.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    addresses.shuffle(&mut rand::rng());
    addresses.truncate(ADDRESSES);
    Ok(Where::Service {
        namespace: namespace.clone(),
        name: name.clone(),
        addresses,
    })
}

/// The port of this number in the spec of a Service.
pub(crate) fn port_of(spec: &Value, number: u16) -> Option<&Value> {
    let mut ports = spec.get("ports")?.as_array()?.iter();
    ports.find(|one| one.get("port").and_then(Value::as_u64) == Some(number.into()))
}

/// The addresses that answer for a port of a Service.
fn behind(store: &Store, service: &Service, spec: &Value, port: &Value) -> Vec<SocketAddr> {
    let (namespace, name) = (&service.namespace, &service.name);
    let port_name = text(port, &["name"]);
    let mut addresses = slices(store, namespace, name, port_name);
    if addresses.is_empty() {
        addresses = endpoints(store, namespace, name, port_name);
    }
    if addresses.is_empty() {
        addresses = selected(store, namespace, spec, port);
    }
    addresses
}

/// What stands behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Something that answers, at these addresses in their order.
    Ready(Vec<SocketAddr>),
    /// Something, but nothing that answers.
    Unready,
    Nothing,
}

/// What stands behind a port of a Service of this spec.
pub(crate) fn backing(store: &Store, service: &Service, spec: &Value, port: &Value) -> Backing {
    let mut addresses = behind(store, service, spec, port);
    if !addresses.is_empty() {
        addresses.sort_unstable();
        return Backing::Ready(addresses);
    }
    let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
    let slices = store.list(SLICES, Some(namespace));
    let mut slices = slices.objects.iter();
    let is_sliced = slices.any(|slice| slice.labels.get(OF_SERVICE) == Some(name));
    match is_sliced || store.get(&Key::new("endpoints", namespace, name)).is_some() {
        true => Backing::Unready,
        false => Backing::Nothing,
    }
}

fn slices(store: &Store, namespace: &str, name: &str, port: &str) -> Vec<SocketAddr> {
    let all = store.list(SLICES, Some(namespace));
    let ours = all
        .objects
        .iter()
        .filter(|slice| slice.labels.get(OF_SERVICE) == Some(name));
    let parsed = ours.filter_map(|slice| serde_json::from_slice::<Value>(&slice.json).ok());
    let addresses = parsed.flat_map(|slice| {
        let number = number(slice.get("ports"), port);
        let endpoints = slice.get("endpoints").and_then(Value::as_array).cloned();
        let ready = endpoints.into_iter().flatten().filter(|endpoint| {
            at(endpoint, &["conditions", "ready"]).and_then(Value::as_bool) != Some(false)
        });
        let addresses = ready.flat_map(|endpoint| {
            let list = endpoint.get("addresses").and_then(Value::as_array).cloned();
            list.into_iter().flatten()
        });
        let addresses: Vec<Value> = addresses.collect();
        together(addresses.iter().filter_map(Value::as_str), number)
    });
    addresses.collect()
}

fn endpoints(store: &Store, namespace: &str, name: &str, port: &str) -> Vec<SocketAddr> {
    let stored = store.get(&Key::new("endpoints", namespace, name));
    let parsed = stored.and_then(|stored| serde_json::from_slice::<Value>(&stored.json).ok());
    let subsets = parsed.as_ref().and_then(|e| e.get("subsets"));
    let subsets = subsets.and_then(Value::as_array).into_iter().flatten();
    let addresses = subsets.flat_map(|subset| {
        let list = subset.get("addresses").and_then(Value::as_array);
        let addresses = list.into_iter().flatten().map(|one| text(one, &["ip"]));
        together(addresses, number(subset.get("ports"), port))
    });
    addresses.collect()
}

/// The ready pods that a Service selects.
fn selected(store: &Store, namespace: &str, spec: &Value, port: &Value) -> Vec<SocketAddr> {
    let Some(selector) = spec.get("selector").and_then(Value::as_object) else {
        return Vec::new();
    };
    let pods = store.list("pods", Some(namespace));
    let selected = pods.objects.iter().filter(|pod| {
        let has = |(key, value): (&String, &Value)| pod.labels.get(key) == value.as_str();
        !selector.is_empty() && selector.iter().all(has)
    });
    let addresses = selected.filter_map(|stored| {
        let pod: Value = serde_json::from_slice(&stored.json).ok()?;
        let number = match port.get("targetPort") {
            Some(Value::String(name)) => container_port(&pod, name)?,
            Some(number) => u16::try_from(number.as_u64()?).ok()?,
            None => u16::try_from(port.get("port")?.as_u64()?).ok()?,
        };
        let address = text(&pod, &["status", "podIP"]).parse().ok()?;
        is_ready(&pod).then_some(SocketAddr::new(address, number))
    });
    addresses.collect()
}

fn container_port(pod: &Value, name: &str) -> Option<u16> {
    let containers = at(pod, &["spec", "containers"])?.as_array()?;
    let ports = containers
        .iter()
        .filter_map(|one| one.get("ports")?.as_array());
    let mut named = ports.flatten().filter(|port| text(port, &["name"]) == name);
    u16::try_from(named.next()?.get("containerPort")?.as_u64()?).ok()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = at(pod, &["status", "conditions"]).and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| text(one, &["type"]) == "Ready" && text(one, &["status"]) == "True")
}

/// The number of the port of this name.
fn number(ports: Option<&Value>, name: &str) -> Option<u16> {
    let ports = ports.and_then(Value::as_array).into_iter().flatten();
    let found = ports
        .into_iter()
        .find(|port| text(port, &["name"]) == name)?;
    u16::try_from(found.get("port")?.as_u64()?).ok()
}

fn together<'a>(addresses: impl Iterator<Item = &'a str>, port: Option<u16>) -> Vec<SocketAddr> {
    let Some(port) = port else {
        return Vec::new();
    };
    addresses
        .filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, port)))
        .collect()
}

/// A dialled connection as hyper takes it.
pub(crate) struct Wire(Box<dyn Stream>);

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>) -> TokioIo<Wire> {
        TokioIo::new(Wire(stream))
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
