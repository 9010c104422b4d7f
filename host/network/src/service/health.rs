//! Health check node ports: what a load balancer in front of several nodes asks to find those that have
//! endpoints of a Service with `externalTrafficPolicy: Local`. Paths, headers and bodies are kube-proxy's.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use eyot_http::{Request, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::plan::OF_SERVICE;
use crate::keep::Complaint;

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// What is to be served at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub namespace: String,
    pub name: String,
    /// Ready endpoints on this node.
    pub local: usize,
}

/// The checks of all Services, by port. Pure.
pub(crate) fn checks(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: &str,
) -> BTreeMap<u16, Check> {
    let mut checks = BTreeMap::new();
    for service in services {
        let meta = &service.metadata;
        let (Some(port), Some(namespace), Some(name)) =
            (port(service), &meta.namespace, &meta.name)
        else {
            continue;
        };
        let check = Check {
            namespace: namespace.clone(),
            name: name.clone(),
            local: local(namespace, name, slices, node),
        };
        checks.insert(port, check);
    }
    checks
}

fn port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let port = u16::try_from(spec.health_check_node_port?).ok()?;
    (is_local && balanced && port > 0).then_some(port)
}

fn local(namespace: &str, name: &str, slices: &[Arc<EndpointSlice>], node: &str) -> usize {
    let mut addresses = BTreeSet::new();
    for slice in slices {
        let meta = &slice.metadata;
        let of = meta.labels.as_ref().and_then(|l| l.get(OF_SERVICE));
        if meta.namespace.as_deref() != Some(namespace) || of.map(String::as_str) != Some(name) {
            continue;
        }
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready);
            if ready.unwrap_or(true) && endpoint.node_name.as_deref() == Some(node) {
                addresses.extend(endpoint.addresses.first());
            }
        }
    }
    addresses.len()
}

/// The servers.
#[derive(Default)]
pub(crate) struct Checks {
    open: BTreeMap<u16, Open>,
    /// Whether the rules are as the objects say.
    sound: Arc<AtomicBool>,
}

struct Open {
    namespace: String,
    name: String,
    local: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Checks {
    /// Say whether Services are balanced as they should be.
    pub(crate) fn set_sound(&self, sound: bool) {
        self.sound.store(sound, Ordering::Relaxed);
    }

    /// Serve these, and no others. What cannot be served is answered.
    pub(crate) async fn serve(&mut self, wanted: BTreeMap<u16, Check>) -> Vec<Complaint> {
        self.open.retain(|port, open| {
            let check = wanted.get(port);
            check.is_some_and(|check| {
                (&check.namespace, &check.name) == (&open.namespace, &open.name)
            })
        });
        let mut complaints = Vec::new();
        for (port, check) in wanted {
            if let Some(open) = self.open.get(&port) {
                open.local.store(check.local, Ordering::Relaxed);
                continue;
            }
            // As a node port, for everybody who reaches this machine.
            let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            match eyot_http::bind("a health check node port", at).await {
                Ok(listener) => {
                    let open = self.open(listener, check);
                    self.open.insert(port, open);
                }
                Err(error) => complaints.push(Complaint {
                    namespace: check.namespace,
                    name: check.name,
                    message: format!("health checks are not answered: {error}"),
                }),
            }
        }
        complaints
    }

    fn open(&self, listener: tokio::net::TcpListener, check: Check) -> Open {
        let (stop, sound) = (CancellationToken::new(), self.sound.clone());
        let local = Arc::new(AtomicUsize::new(check.local));
        let (counted, of) = (local.clone(), check.clone());
        let service = tower::service_fn(move |_: Request| {
            let now = Check {
                local: counted.load(Ordering::Relaxed),
                ..of.clone()
            };
            let sound = sound.load(Ordering::Relaxed);
            async move { Ok::<_, Infallible>(answer(&now, sound)) }
        });
        tokio::spawn(eyot_http::serve(listener, None, service, stop.clone()));
        Open {
            namespace: check.namespace,
            name: check.name,
            local,
            _stop: stop.drop_guard(),
        }
    }
}

fn answer(check: &Check, sound: bool) -> Response {
    let Check {
        namespace,
        name,
        local,
    } = check;
    // Names of objects need no escapes.
    let text = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
         \"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {sound}\n}}"
    );
    let mut response = Response::new(eyot_http::full(text));
    if *local == 0 || !sound {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    headers.insert(WEIGHT, HeaderValue::from(*local));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, policy: &str, port: u16) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "d", "name": name},
                "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy,
                         "healthCheckNodePort": port},
            }))
            .unwrap(),
        )
    }

    fn slice(name: &str, endpoints: Value) -> Arc<EndpointSlice> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "d", "name": name, "labels": {OF_SERVICE: name}},
                "addressType": "IPv4", "endpoints": endpoints,
            }))
            .unwrap(),
        )
    }

    #[test]
    fn ready_endpoints_of_this_node_are_counted() {
        let endpoint = |address: &str, node: &str, ready: Value| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready}});
        let slices = [
            slice(
                "a",
                json!([
                    endpoint("10.0.0.1", "here", json!(true)),
                    endpoint("10.0.0.1", "here", json!(true)),
                    endpoint("10.0.0.2", "here", json!(null)),
                    endpoint("10.0.0.3", "here", json!(false)),
                    endpoint("10.0.0.4", "there", json!(true)),
                ]),
            ),
            slice("other", json!([endpoint("10.0.0.5", "here", json!(true))])),
        ];
        let services = [service("a", "Local", 30001), service("b", "Cluster", 30002)];
        let found = checks(&services, &slices, "here");
        assert_eq!(found.keys().collect::<Vec<_>>(), [&30001]);
        assert_eq!(found[&30001].local, 2);
    }

    fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_load_balancer_is_told_what_kube_proxy_would_tell_it() {
        let mut servers = Checks::default();
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let wanted = |local| {
            let (namespace, name) = ("d".to_owned(), "a".to_owned());
            let check = Check {
                namespace,
                name,
                local,
            };
            BTreeMap::from([(port, check)])
        };
        let complaints = servers.serve(wanted(2)).await;
        assert!(
            complaints[0]
                .message
                .contains("health checks are not answered")
        );
        drop(taken);
        assert_eq!(servers.serve(wanted(2)).await, []);
        assert!(
            ask(port).unwrap().starts_with("HTTP/1.1 503"),
            "nothing is balanced yet"
        );
        servers.set_sound(true);
        let said = ask(port).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        for line in [
            "content-type: application/json",
            "x-content-type-options: nosniff",
            "x-load-balancing-endpoint-weight: 2",
        ] {
            assert!(head.lines().any(|one| one == line), "{head}");
        }
        let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"d\",\n\t\t\"name\": \"a\"\n\t},\n\t\
                        \"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(body, expected);
        servers.serve(wanted(0)).await;
        assert!(ask(port).unwrap().starts_with("HTTP/1.1 503"));
        servers.serve(BTreeMap::new()).await;
        while ask(port).is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
