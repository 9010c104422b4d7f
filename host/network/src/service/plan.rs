//! From Services and EndpointSlices to rules. Pure.
//!
//! Every front of a Service's port (cluster address, external address, load balancer's address, node
//! port) is one element of a map that leads to one of the port's chains:
//!
//! | chain | for | leads to |
//! |---|---|---|
//! | `c-…` | traffic of the cluster's inside, and what policy `Cluster` lets in | any backend |
//! | `l-…` | what policy `Local` keeps on the node | a backend of this node |
//! | `x-…` | what comes from outside | masquerading and `c-…`, or `l-…` |
//! | `f-…` | a load balancer's address with source ranges | `x-…` |
//! | `e-…` | one backend of a port with session affinity | – |
//!
//! Backends are chosen, and policies understood, as kube-proxy does.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::EndpointSlice,
};

use crate::{
    Cidr,
    keep::Complaint,
    table::{OwnSet, Ruleset},
};

/// Backends of one port beyond which no more are used.
pub(crate) const MAX_BACKENDS: usize = 5_000;
/// How long a client stays with its backend unless the Service says so, in seconds.
const AFFINITY: i32 = 10_800;
/// Longest name of a chain or set is 127; prefixes and an address take some of it.
const MAX_NAME: usize = 90;
/// A Service with this label is somebody else's to balance.
const FOREIGN: &str = "service.kubernetes.io/service-proxy-name";
pub(crate) const OF_SERVICE: &str = "kubernetes.io/service-name";

/// What is the same for all Services.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub node: String,
    pub zone: Option<String>,
    pub pods: Cidr,
}

/// What is to be.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub rules: Ruleset,
    /// UDP fronts and where they may lead; for the entries of connection tracking that must go.
    pub udp: Datagrams,
    pub complaints: Vec<Complaint>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Datagrams {
    pub addresses: BTreeMap<(Ipv4Addr, u16), Backends>,
    pub node_ports: BTreeMap<u16, Backends>,
}

pub(crate) type Backends = BTreeSet<(Ipv4Addr, u16)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// By number: the program's names come from a file that may be missing.
    fn number(self) -> u8 {
        self as u8
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    address: Ipv4Addr,
    port: u16,
    local: bool,
    ready: bool,
    /// Serving while it ends: used when nothing else is left.
    lingering: bool,
    /// Whether this node is one of those that it is meant for, if it is meant for some...
    for_node: Option<bool>,
    /// ...and the same of this node's zone.
    for_zone: Option<bool>,
}

pub(crate) fn plan(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    facts: &Facts,
) -> Planned {
    let mut of_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(OF_SERVICE)) {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            of_service
                .entry((namespace, service))
                .or_default()
                .push(slice);
        }
    }
    // Who was there first keeps what two ask for.
    let mut services: Vec<&Arc<Service>> = services.iter().collect();
    services.sort_by_key(|service| {
        let meta = &service.metadata;
        (
            meta.creation_timestamp.clone(),
            meta.namespace.clone(),
            meta.name.clone(),
        )
    });
    let mut planner = Planner {
        facts,
        planned: Planned::default(),
        fronts: BTreeMap::new(),
    };
    for service in services {
        let meta = &service.metadata;
        let (namespace, name) = (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        let slices = of_service.get(&(namespace, name));
        planner.service(service, namespace, name, slices.map_or(&[], Vec::as_slice));
    }
    planner.planned
}

struct Planner<'a> {
    facts: &'a Facts,
    planned: Planned,
    /// Who has which front.
    fronts: BTreeMap<Front, (&'a str, &'a str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Front {
    Address(Ipv4Addr, Protocol, u16),
    Node(Protocol, u16),
}

impl Front {
    fn key(self) -> String {
        match self {
            Self::Address(address, protocol, port) => {
                format!("{address} . {} . {port}", protocol.number())
            }
            Self::Node(protocol, port) => format!("{} . {port}", protocol.number()),
        }
    }
}

/// One port of one Service.
struct Port<'a> {
    namespace: &'a str,
    name: &'a str,
    spec: &'a ServiceSpec,
    protocol: Protocol,
    number: u16,
    node_port: Option<u16>,
    /// From the status: who wrote it knows which addresses lead here.
    balancer: Vec<Ipv4Addr>,
    /// The part of its chains' names that is its own.
    id: String,
    /// For policy `Cluster`.
    all: Vec<Backend>,
    /// For policy `Local`.
    local: Vec<Backend>,
}

impl<'a> Planner<'a> {
    fn service(
        &mut self,
        service: &'a Service,
        namespace: &'a str,
        name: &'a str,
        slices: &[&EndpointSlice],
    ) {
        let Some(spec) = service.spec.as_ref() else {
            return;
        };
        let foreign = service.metadata.labels.as_ref();
        if spec.type_.as_deref() == Some("ExternalName")
            || foreign.is_some_and(|labels| labels.contains_key(FOREIGN))
            || matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
        {
            return;
        }
        for address in cluster_addresses(spec) {
            let set = self.planned.rules.elements.entry("cluster-ips");
            set.or_default().insert(address.to_string(), String::new());
        }
        for port in spec.ports.iter().flatten() {
            let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
                continue;
            };
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            let (node, zone) = (&self.facts.node, self.facts.zone.as_deref());
            let mut backends = backends(slices, port, node, zone);
            if backends.len() > MAX_BACKENDS {
                self.complain(
                    namespace,
                    name,
                    format!(
                        "port {number} has {} endpoints: only {MAX_BACKENDS} are used",
                        backends.len()
                    ),
                );
                backends.truncate(MAX_BACKENDS);
            }
            let local: Vec<Backend> = backends.iter().filter(|b| b.local).cloned().collect();
            self.port(&Port {
                namespace,
                name,
                spec,
                protocol,
                number,
                node_port: port
                    .node_port
                    .and_then(|port| u16::try_from(port).ok())
                    .filter(|port| *port > 0),
                balancer: balancer_addresses(service),
                id: id(namespace, name, protocol, number),
                all: usable(near(backends)),
                local: usable(local),
            });
        }
    }

    fn port(&mut self, port: &Port<'a>) {
        let spec = port.spec;
        let local_inside = spec.internal_traffic_policy.as_deref() == Some("Local");
        let local_outside = spec.external_traffic_policy.as_deref() == Some("Local");
        let (cluster, local) = (format!("c-{}", port.id), format!("l-{}", port.id));
        let outside = format!("x-{}", port.id);

        // From inside.
        let (inside, inside_backends) = match local_inside {
            true => (&local, &port.local),
            false => (&cluster, &port.all),
        };
        let (mut use_cluster, mut use_local) = (false, false);
        for address in cluster_addresses(spec) {
            let front = Front::Address(address, port.protocol, port.number);
            if !self.claim(front, port) {
                continue;
            }
            if inside_backends.is_empty() {
                // A backend elsewhere may come back here: the client tries again.
                self.lead_nowhere(front, !port.all.is_empty());
            } else {
                self.lead(front, inside, inside_backends);
                use_local |= local_inside;
                use_cluster |= !local_inside;
            }
        }

        // From outside.
        let mut fronts: Vec<(Front, &str)> = Vec::new();
        let guarded = self.source_ranges(port);
        let guard = format!("f-{}", port.id);
        for address in v4(spec.external_ips.iter().flatten()) {
            fronts.push((
                Front::Address(address, port.protocol, port.number),
                &outside,
            ));
        }
        for &address in &port.balancer {
            let chain = if guarded.is_some() { &guard } else { &outside };
            fronts.push((Front::Address(address, port.protocol, port.number), chain));
        }
        if let Some(number) = port.node_port {
            fronts.push((Front::Node(port.protocol, number), &outside));
        }
        let outside_backends = if local_outside {
            &port.local
        } else {
            &port.all
        };
        let mut use_outside = false;
        for (front, chain) in fronts {
            if !self.claim(front, port) {
                continue;
            }
            if !port.all.is_empty() {
                self.lead(front, chain, &port.all);
                use_outside = true;
            }
            if outside_backends.is_empty() {
                self.lead_nowhere(front, !port.all.is_empty());
            }
        }
        if use_outside {
            use_cluster = true;
            use_local |= local_outside && !port.local.is_empty();
            self.outside_chain(port, &outside, &cluster, local_outside.then_some(&*local));
            if let Some(ranges) = guarded {
                let rules = vec![ranges, format!("goto {outside}")];
                self.planned.rules.chains.insert(guard, rules);
            }
        }
        if use_cluster {
            let inside = cluster_addresses(spec).map(|address| {
                let pods = self.facts.pods;
                format!("ip daddr {address} ip saddr != {pods} jump masquerade-it")
            });
            let inside = inside.collect();
            self.balance(cluster, inside, &port.all, port);
        }
        if use_local {
            self.balance(local, Vec::new(), &port.local, port);
        }
    }

    /// The rule that holds a load balancer's address to its source ranges.
    fn source_ranges(&self, port: &Port<'_>) -> Option<String> {
        let ranges: Vec<&String> = port
            .spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .collect();
        if ranges.is_empty() {
            return None;
        }
        let good: Vec<String> = ranges
            .into_iter()
            .filter_map(|range| network(range))
            .map(|(base, prefix)| format!("{base}/{prefix}"))
            .collect();
        if good.is_empty() {
            return Some("drop".to_owned());
        }
        let all = good.iter().any(|range| range.ends_with("/0"));
        // Everything may come: a rule that does nothing.
        Some(if all {
            "meta mark set meta mark".to_owned()
        } else {
            // Overlapping intervals are refused in one anonymous set.
            let mut rule = String::new();
            for range in disjoint(good) {
                if !rule.is_empty() {
                    rule.push_str(", ");
                }
                rule.push_str(&range);
            }
            format!("ip saddr != {{ {rule} }} drop")
        })
    }

    fn outside_chain(&mut self, port: &Port<'_>, chain: &str, cluster: &str, local: Option<&str>) {
        let pods = self.facts.pods;
        let rules = match local {
            None => vec!["jump masquerade-it".to_owned(), format!("goto {cluster}")],
            Some(local) => {
                // The cluster itself has no need to be kept to one node.
                let mut rules = vec![
                    format!("ip saddr {pods} goto {cluster}"),
                    "fib saddr type local jump masquerade-it".to_owned(),
                    format!("fib saddr type local goto {cluster}"),
                ];
                if !port.local.is_empty() {
                    rules.push(format!("goto {local}"));
                }
                rules
            }
        };
        self.planned.rules.chains.insert(chain.to_owned(), rules);
    }

    /// The chain that chooses one of `backends`.
    fn balance(
        &mut self,
        chain: String,
        mut rules: Vec<String>,
        backends: &[Backend],
        port: &Port<'_>,
    ) {
        let protocol = port.protocol.number();
        let of = |number: usize, text: String| format!("{number} : {text}");
        let count = backends.len();
        if port.spec.session_affinity.as_deref() == Some("ClientIP") {
            let config = port.spec.session_affinity_config.as_ref();
            let seconds = config
                .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
                .unwrap_or(AFFINITY)
                .max(1);
            let mut choices = Vec::new();
            for (number, backend) in backends.iter().enumerate() {
                let target = format!("{}-{}-{}", backend.address, backend.port, port.id);
                let (set, jump) = (
                    format!("a-{seconds}-{target}"),
                    format!("e-{seconds}-{target}"),
                );
                let definition = format!(
                    "type ipv4_addr; flags dynamic,timeout; size 65535; timeout {seconds}s"
                );
                let own = OwnSet {
                    definition,
                    elements: BTreeSet::new(),
                };
                rules.push(format!("ip saddr @{set} goto {jump}"));
                self.planned.rules.chains.insert(
                    jump.clone(),
                    vec![
                        format!("update @{set} {{ ip saddr }}"),
                        format!(
                            "meta l4proto {protocol} dnat to {}:{}",
                            backend.address, backend.port
                        ),
                    ],
                );
                self.planned.rules.sets.insert(set, own);
                choices.push(of(number, format!("goto {jump}")));
            }
            rules.push(format!(
                "numgen random mod {count} vmap {{ {} }}",
                choices.join(", ")
            ));
        } else if let [backend] = backends {
            rules.push(format!(
                "meta l4proto {protocol} dnat to {}:{}",
                backend.address, backend.port
            ));
        } else {
            let choices: Vec<String> = backends
                .iter()
                .enumerate()
                .map(|(number, b)| of(number, format!("{} . {}", b.address, b.port)))
                .collect();
            rules.push(format!(
                "meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {} }}",
                choices.join(", ")
            ));
        }
        for backend in backends {
            let pair = format!("{0} . {0}", backend.address);
            let set = self.planned.rules.elements.entry("hairpin");
            set.or_default().insert(pair, String::new());
        }
        self.planned.rules.chains.insert(chain, rules);
    }

    /// Whether the port may have this front.
    fn claim(&mut self, front: Front, port: &Port<'a>) -> bool {
        let owner = *self
            .fronts
            .entry(front)
            .or_insert((port.namespace, port.name));
        if owner == (port.namespace, port.name) {
            return true;
        }
        let what = match front {
            Front::Address(address, ..) => format!("address {address} with port {}", port.number),
            Front::Node(_, number) => format!("node port {number}"),
        };
        let message = format!(
            "{what} belongs to service {}/{} already: not balanced",
            owner.0, owner.1
        );
        self.complain(port.namespace, port.name, message);
        false
    }

    fn lead(&mut self, front: Front, chain: &str, backends: &[Backend]) {
        let map = match front {
            Front::Address(..) => "service-ips",
            Front::Node(..) => "service-nodeports",
        };
        let elements = self.planned.rules.elements.entry(map).or_default();
        elements.insert(front.key(), format!("goto {chain}"));
        let to = || backends.iter().map(|b| (b.address, b.port)).collect();
        match front {
            Front::Address(address, Protocol::Udp, port) => {
                self.planned.udp.addresses.insert((address, port), to());
            }
            Front::Node(Protocol::Udp, port) => {
                self.planned.udp.node_ports.insert(port, to());
            }
            _ => {}
        }
    }

    fn lead_nowhere(&mut self, front: Front, silently: bool) {
        let map = match front {
            Front::Address(..) => "no-endpoints",
            Front::Node(..) => "no-endpoint-nodeports",
        };
        let verdict = if silently {
            "goto drop-it"
        } else {
            "goto refuse-it"
        };
        let elements = self.planned.rules.elements.entry(map).or_default();
        elements.insert(front.key(), verdict.to_owned());
    }

    fn complain(&mut self, namespace: &str, name: &str, message: String) {
        self.planned.complaints.push(Complaint {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            message,
        });
    }
}

fn cluster_addresses(spec: &ServiceSpec) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let listed = spec.cluster_ips.as_deref().filter(|all| !all.is_empty());
    v4(listed.unwrap_or(spec.cluster_ip.as_slice()).iter())
}

/// The addresses of a load balancer that delivers to them; one that is a proxy is left to itself.
fn balancer_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let status = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let all = status.and_then(|balancer| balancer.ingress.as_deref());
    let all = all.unwrap_or_default().iter();
    v4(all
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()))
    .collect()
}

/// The IPv4 addresses among these: pods have no others.
fn v4<'a>(texts: impl Iterator<Item = &'a String>) -> impl Iterator<Item = Ipv4Addr> {
    texts.filter_map(|text| match text.parse() {
        Ok(IpAddr::V4(address)) => Some(address),
        _ => None,
    })
}

/// As they are for a node in a zone.
fn backends(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    node: &str,
    zone: Option<&str>,
) -> Vec<Backend> {
    let wanted = port.name.as_deref().unwrap_or_default();
    let mut found: BTreeMap<(Ipv4Addr, u16), Backend> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let numbers = ports
            .filter(|port| port.name.as_deref().unwrap_or_default() == wanted)
            .filter_map(|port| u16::try_from(port.port?).ok())
            .filter(|port| *port > 0);
        for port in numbers {
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
                let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
                let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
                // All addresses of one endpoint are the same; the first is used.
                let address = v4(endpoint.addresses.iter().take(1)).next();
                let Some(address) = address.filter(|address| is_unicast(*address)) else {
                    continue;
                };
                let hints = endpoint.hints.as_ref();
                let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
                let zones = hints.and_then(|hints| hints.for_zones.as_ref());
                let nodes = nodes.filter(|nodes| !nodes.is_empty());
                let zones = zones.filter(|zones| !zones.is_empty());
                let backend = Backend {
                    for_node: nodes.map(|nodes| nodes.iter().any(|one| one.name == node)),
                    for_zone: zones.map(|zones| {
                        let mut zones = zones.iter();
                        zones.any(|one| Some(&*one.name) == zone)
                    }),
                    address,
                    port,
                    local: endpoint.node_name.as_deref() == Some(node),
                    ready,
                    lingering: serving && terminating,
                };
                // In two slices for a moment while it moves from one to the other.
                let known = found.entry((address, port)).or_insert(backend.clone());
                if backend.ready && !known.ready {
                    *known = backend;
                }
            }
        }
    }
    found.into_values().collect()
}

/// Where the ready endpoints of a Service's port are, or those that end if none is ready.
pub(crate) fn ready_backends(slices: &[&EndpointSlice], port: &ServicePort) -> Vec<SocketAddr> {
    let found = usable(backends(slices, port, "", None));
    let places = found.iter().map(|b| SocketAddr::from((b.address, b.port)));
    places.take(MAX_BACKENDS).collect()
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_link_local())
}

/// Those that are meant for this node, else those for its zone: if each that is ready is meant for some,
/// and one of them for it. Else all.
fn near(mut backends: Vec<Backend>) -> Vec<Backend> {
    let hints: [fn(&Backend) -> Option<bool>; 2] = [|b| b.for_node, |b| b.for_zone];
    for hint in hints {
        let mut ready = backends.iter().filter(|b| b.ready).map(hint);
        let all = ready.clone().all(|meant| meant.is_some());
        if all && ready.any(|meant| meant == Some(true)) {
            backends.retain(|b| b.ready && hint(b) == Some(true));
            break;
        }
    }
    backends
}

/// The ready ones, or those that linger if none is.
fn usable(backends: Vec<Backend>) -> Vec<Backend> {
    let (ready, rest): (Vec<_>, Vec<_>) = backends.into_iter().partition(|b| b.ready);
    match ready.is_empty() {
        true => rest.into_iter().filter(|b| b.lingering).collect(),
        false => ready,
    }
}

fn id(namespace: &str, name: &str, protocol: Protocol, port: u16) -> String {
    let full = format!("{namespace}/{name}/{}-{port}", protocol.number());
    if full.len() <= MAX_NAME {
        return full;
    }
    let mut hasher = DefaultHasher::new();
    full.hash(&mut hasher);
    // Names of objects are ASCII; were they not, nothing would be cut within a character.
    let start: String = full.chars().take(MAX_NAME - 17).collect();
    format!("{start}-{:016x}", hasher.finish())
}

/// An IPv4 network in its canonical form.
pub(crate) fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (base, prefix) = text.trim().split_once('/')?;
    let (base, prefix): (Ipv4Addr, u8) = (base.parse().ok()?, prefix.parse().ok()?);
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    (prefix <= 32).then(|| (Ipv4Addr::from(u32::from(base) & mask), prefix))
}

/// Networks of which none is within another.
fn disjoint(texts: Vec<String>) -> Vec<String> {
    let mut networks: Vec<(Ipv4Addr, u8)> = texts.iter().filter_map(|text| network(text)).collect();
    networks.sort_unstable_by_key(|(base, prefix)| (*prefix, *base));
    let mut kept: Vec<(Ipv4Addr, u8)> = Vec::new();
    for (base, prefix) in networks {
        let within = kept.iter().any(|(outer, bits)| {
            network(&format!("{base}/{bits}")).is_some_and(|(masked, _)| masked == *outer)
        });
        if !within {
            kept.push((base, prefix));
        }
    }
    kept.into_iter()
        .map(|(base, prefix)| format!("{base}/{prefix}"))
        .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
