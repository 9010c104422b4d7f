//! The names of a cluster, as version 1.1.0 of Kubernetes' DNS specification has them. Pure.
//!
//! | name, below `cluster.local` | leads to |
//! |---|---|
//! | `SERVICE.NS.svc` | the cluster addresses, the ready endpoints of a headless one, or another name |
//! | `HOST.SERVICE.NS.svc` | one endpoint; without a host name its address with dashes |
//! | `_PORT._PROTOCOL.SERVICE.NS.svc` | the places (SRV) of a named port |
//! | `1-2-3-4.NS.pod` | that address |
//! | reverse names of cluster addresses and endpoints | the names above |

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};

/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";

/// The records of one moment.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    services: HashMap<(String, String), Named>,
    namespaces: HashSet<String>,
    reverse: HashMap<IpAddr, Vec<String>>,
    /// The address of the server itself.
    server: Option<IpAddr>,
}

#[derive(Debug)]
enum Named {
    /// Another name.
    Alias(String),
    Addresses {
        addresses: Vec<IpAddr>,
        ports: Vec<Place>,
        endpoints: BTreeMap<String, Endpoint>,
    },
    Headless {
        endpoints: BTreeMap<String, Endpoint>,
    },
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Endpoint {
    addresses: Vec<IpAddr>,
    ports: Vec<Place>,
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    /// `tcp`, `udp` or `sctp`.
    protocol: String,
    number: u16,
}

/// One record's content; names are below no domain but the root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Address(IpAddr),
    /// Port, and the target's full name.
    Service(u16, String),
    Name(String),
    /// The full name of another, and where the search goes on.
    Alias(String),
    Text(String),
    Start,
    Server(String),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    V4,
    V6,
    Service,
    Pointer,
    Text,
    Start,
    Server,
    Any,
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With further records, each of a name, that the client will ask for next.
    Records(Vec<Content>, Vec<(String, IpAddr)>),
    /// The name is there and has nothing of the kind.
    Empty,
    /// There is no such name.
    NoName,
    /// Not this zone's business.
    NotOurs,
}

impl Zone {
    pub(crate) fn new(
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        namespaces: &[Arc<Namespace>],
        server: Option<IpAddr>,
    ) -> Self {
        let namespaces = namespaces.iter().filter_map(|n| n.metadata.name.clone());
        let mut zone = Self {
            namespaces: namespaces.collect(),
            server,
            ..Self::default()
        };
        let mut endpoints = endpoints(slices);
        for service in services {
            let (meta, Some(spec)) = (&service.metadata, &service.spec) else {
                continue;
            };
            let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else {
                continue;
            };
            let key = (namespace.clone(), name.clone());
            let full = format!("{name}.{namespace}.svc.{DOMAIN}.");
            if spec.type_.as_deref() == Some("ExternalName") {
                let target = spec.external_name.as_deref().unwrap_or_default();
                let target = target.trim_end_matches('.').to_lowercase();
                if !target.is_empty() {
                    zone.services
                        .insert(key, Named::Alias(format!("{target}.")));
                }
                continue;
            }
            let endpoints = endpoints.remove(&key).unwrap_or_default();
            for (host, endpoint) in &endpoints {
                for address in &endpoint.addresses {
                    let names = zone.reverse.entry(*address).or_default();
                    names.push(format!("{host}.{full}"));
                }
            }
            let listed = spec.cluster_ips.as_deref().filter(|all| !all.is_empty());
            let addresses: Vec<IpAddr> = listed
                .unwrap_or(spec.cluster_ip.as_slice())
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect();
            let named = if addresses.is_empty() {
                Named::Headless { endpoints }
            } else {
                for address in &addresses {
                    zone.reverse.insert(*address, vec![full.clone()]);
                }
                let ports = spec.ports.iter().flatten();
                let ports = ports.filter_map(|port| {
                    place(port.name.as_deref(), port.protocol.as_deref(), port.port)
                });
                Named::Addresses {
                    addresses,
                    ports: ports.collect(),
                    endpoints,
                }
            };
            zone.services.insert(key, named);
        }
        zone
    }

    /// Answer for a full name without its last dot, in lower case.
    pub(crate) fn answer(&self, name: &str, kind: Kind) -> Answer {
        if let Some(address) = reverse_name(name) {
            return match self.reverse.get(&address) {
                None => Answer::NotOurs,
                Some(names) if matches!(kind, Kind::Pointer | Kind::Any) => {
                    let mut names = names.clone();
                    names.sort_unstable();
                    Answer::Records(names.into_iter().map(Content::Name).collect(), Vec::new())
                }
                Some(_) => Answer::Empty,
            };
        }
        let Some(rest) = name.strip_suffix(DOMAIN) else {
            return Answer::NotOurs;
        };
        let rest = match rest.strip_suffix('.') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return Answer::NotOurs,
        };
        // From the right: the zone's own parts first.
        let labels: Vec<&str> = rest.rsplit('.').filter(|label| !label.is_empty()).collect();
        match labels.as_slice() {
            [] => self.apex(kind),
            ["svc" | "pod" | "dns"] => Answer::Empty,
            ["dns-version"] => match kind {
                Kind::Text | Kind::Any => {
                    Answer::Records(vec![Content::Text("1.1.0".to_owned())], Vec::new())
                }
                _ => Answer::Empty,
            },
            ["dns", "ns"] => of_kind(kind, self.server.as_slice()),
            ["svc" | "pod", namespace] => match self.namespaces.contains(*namespace) {
                true => Answer::Empty,
                false => Answer::NoName,
            },
            ["pod", namespace, dashed] => match dashed_address(dashed) {
                Some(address) if self.namespaces.contains(*namespace) => of_kind(kind, &[address]),
                _ => Answer::NoName,
            },
            ["svc", namespace, service, below @ ..] => {
                self.service(namespace, service, below, kind)
            }
            _ => Answer::NoName,
        }
    }

    fn apex(&self, kind: Kind) -> Answer {
        let server = format!("ns.dns.{DOMAIN}.");
        match kind {
            Kind::Start => Answer::Records(vec![Content::Start], Vec::new()),
            Kind::Server | Kind::Any => {
                let glue = self.server.map(|address| (server.clone(), address));
                Answer::Records(vec![Content::Server(server)], glue.into_iter().collect())
            }
            _ => Answer::Empty,
        }
    }

    fn service(&self, namespace: &str, service: &str, below: &[&str], kind: Kind) -> Answer {
        let key = (namespace.to_owned(), service.to_owned());
        let full = format!("{service}.{namespace}.svc.{DOMAIN}.");
        let Some(named) = self.services.get(&key) else {
            return Answer::NoName;
        };
        match (named, below) {
            (Named::Alias(target), []) => {
                Answer::Records(vec![Content::Alias(target.clone())], Vec::new())
            }
            (
                Named::Addresses {
                    addresses, ports, ..
                },
                [],
            ) => match kind {
                Kind::Service => places(ports.iter(), &full, addresses),
                kind => of_kind(kind, addresses),
            },
            // Without one ready endpoint the name is not there.
            (Named::Headless { endpoints }, []) if endpoints.is_empty() => Answer::NoName,
            (Named::Headless { endpoints }, []) => match kind {
                Kind::Service => endpoint_places(endpoints, &full, |_| true),
                kind => {
                    let all = endpoints.values().flat_map(|e| e.addresses.iter().copied());
                    let all: Vec<IpAddr> = all.collect();
                    of_kind(kind, &all)
                }
            },
            (
                Named::Addresses {
                    addresses, ports, ..
                },
                [protocol, port],
            ) if protocol.starts_with('_') && port.starts_with('_') => {
                let wanted = |place: &&Place| is_port(place, port, protocol);
                srv(kind, places(ports.iter().filter(wanted), &full, addresses))
            }
            (Named::Headless { endpoints }, [protocol, port])
                if protocol.starts_with('_') && port.starts_with('_') =>
            {
                let wanted = |place: &Place| is_port(place, port, protocol);
                srv(kind, endpoint_places(endpoints, &full, wanted))
            }
            // The name between a port's and its service's.
            (Named::Addresses { ports, .. }, [protocol]) if protocol.starts_with('_') => {
                let known = ports
                    .iter()
                    .any(|p| Some(&*p.protocol) == protocol.strip_prefix('_'));
                if known { Answer::Empty } else { Answer::NoName }
            }
            (Named::Addresses { endpoints, .. } | Named::Headless { endpoints }, [host]) => {
                match endpoints.get(*host) {
                    Some(endpoint) => of_kind(kind, &endpoint.addresses),
                    None => Answer::NoName,
                }
            }
            _ => Answer::NoName,
        }
    }
}

/// A service's own place for each port.
fn places<'a>(ports: impl Iterator<Item = &'a Place>, full: &str, addresses: &[IpAddr]) -> Answer {
    let records: Vec<Content> = ports
        .map(|port| Content::Service(port.number, full.to_owned()))
        .collect();
    let further = addresses.iter().map(|address| (full.to_owned(), *address));
    some(records, further.collect())
}

fn endpoint_places(
    endpoints: &BTreeMap<String, Endpoint>,
    full: &str,
    wanted: impl Fn(&Place) -> bool,
) -> Answer {
    let (mut records, mut further) = (Vec::new(), Vec::new());
    for (host, endpoint) in endpoints {
        let target = format!("{host}.{full}");
        let before = records.len();
        for port in endpoint.ports.iter().filter(|port| wanted(port)) {
            records.push(Content::Service(port.number, target.clone()));
        }
        if records.len() > before {
            further.extend(endpoint.addresses.iter().map(|a| (target.clone(), *a)));
        }
    }
    some(records, further)
}

fn some(records: Vec<Content>, further: Vec<(String, IpAddr)>) -> Answer {
    match records.is_empty() {
        true => Answer::NoName,
        false => Answer::Records(records, further),
    }
}

/// A port's name holds places only.
fn srv(kind: Kind, places: Answer) -> Answer {
    match (&places, kind) {
        (Answer::Records(..), Kind::Service | Kind::Any) | (Answer::NoName, _) => places,
        _ => Answer::Empty,
    }
}

fn is_port(place: &Place, port: &str, protocol: &str) -> bool {
    port.strip_prefix('_') == Some(&place.name)
        && protocol.strip_prefix('_') == Some(&place.protocol)
}

fn of_kind(kind: Kind, addresses: &[IpAddr]) -> Answer {
    let wanted = |address: &&IpAddr| match kind {
        Kind::V4 => address.is_ipv4(),
        Kind::V6 => address.is_ipv6(),
        Kind::Any => true,
        _ => false,
    };
    let found: Vec<Content> = addresses
        .iter()
        .filter(wanted)
        .map(|address| Content::Address(*address))
        .collect();
    match found.is_empty() {
        true => Answer::Empty,
        false => Answer::Records(found, Vec::new()),
    }
}

/// The ready endpoints of each service by their host names.
fn endpoints(
    slices: &[Arc<EndpointSlice>],
) -> HashMap<(String, String), BTreeMap<String, Endpoint>> {
    let mut all: HashMap<(String, String), BTreeMap<String, Endpoint>> = HashMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        let (Some(service), Some(namespace)) = (
            labels.and_then(|labels| labels.get("kubernetes.io/service-name")),
            &slice.metadata.namespace,
        ) else {
            continue;
        };
        let ports: Vec<Place> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| place(port.name.as_deref(), port.protocol.as_deref(), port.port?))
            .collect();
        let own = all.entry((namespace.clone(), service.clone())).or_default();
        for endpoint in slice.endpoints.iter().flatten() {
            if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                continue;
            }
            let addresses: Vec<IpAddr> = endpoint
                .addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect();
            let Some(first) = addresses.first() else {
                continue;
            };
            let host = match endpoint.hostname.as_deref().filter(|name| !name.is_empty()) {
                Some(name) => name.to_lowercase(),
                None => first.to_string().replace(['.', ':'], "-"),
            };
            let known = own.entry(host).or_default();
            for address in addresses {
                if !known.addresses.contains(&address) {
                    known.addresses.push(address);
                }
            }
            for port in &ports {
                if !known.ports.contains(port) {
                    known.ports.push(port.clone());
                }
            }
        }
    }
    all
}

fn place(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Place> {
    Some(Place {
        name: name.unwrap_or_default().to_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_lowercase(),
        number: u16::try_from(number).ok()?,
    })
}

/// `1-2-3-4` or an IPv6 address with dashes for its colons.
fn dashed_address(text: &str) -> Option<IpAddr> {
    let v4 = || {
        text.replace('-', ".")
            .parse::<Ipv4Addr>()
            .ok()
            .map(IpAddr::V4)
    };
    let v6 = || {
        text.replace('-', ":")
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6)
    };
    v4().or_else(v6)
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`.
fn reverse_name(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = labels.rsplit('.').collect();
        return octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let mut value: u128 = 0;
    let mut count = 0;
    for label in labels.rsplit('.') {
        if label.len() != 1 || count == 32 {
            return None;
        }
        value = value << 4 | u128::from(u8::from_str_radix(label, 16).ok()?);
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(Ipv6Addr::from(value)))
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
