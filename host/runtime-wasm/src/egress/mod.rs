//! What a guest may reach over the network, as the annotation `eyot.dev/egress` of its pod grants it.
//!
//! The annotation is a list of `WHERE:PORT` with commas between. `WHERE` is an address, a network
//! (`10.96.0.0/16`, `[fd00::]/8`), a host name, a name with all below it (`*.example.com`), or `*`;
//! `PORT` a number or `*`. Without it nothing is granted. It holds for outgoing HTTP, where `WHERE`
//! is what the guest names in the request, and for [`sockets`](crate::sockets), where it is an
//! address, or the name by which the guest found it.
//!
//! Connections come from the pod's own address, and carry a mark where they are made in the host's
//! network namespace, so NetworkPolicies hold for them as for those of any pod.
//!
//! A driver reaches the addresses of its devices, by HTTP and by sockets, from the host; an exporter
//! what its configuration names.

mod http;
mod resolve;

use std::{net::IpAddr, sync::Arc};

use eyot_runtime::{ContainerError, ContainerSpec, Sandbox};

pub(crate) use self::{http::Outgoing, resolve::Resolver};

/// The annotation of a pod that says what its guests may reach.
pub(crate) const ANNOTATION: &str = "eyot.dev/egress";
/// Grants that one pod may have.
const MAX_GRANTS: usize = 256;

/// What one container may reach, and from where.
#[derive(Debug)]
pub(crate) struct Egress {
    grants: Vec<Grant>,
    sandbox: Sandbox,
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    place: Place,
    /// `None` is any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Any,
    /// The first bits of an address.
    Network(IpAddr, u8),
    Name(String),
    Below(String),
}

impl Egress {
    pub(crate) fn of(spec: &ContainerSpec) -> Result<Arc<Self>, ContainerError> {
        let text = spec.annotations.get(ANNOTATION).map_or("", String::as_str);
        let grants = parse(text).map_err(|reason| ContainerError::Config {
            field: format!("metadata.annotations[{ANNOTATION}]"),
            reason,
        })?;
        Ok(Arc::new(Self {
            grants,
            sandbox: spec.sandbox.clone(),
            namespace: spec.pod.namespace.clone(),
        }))
    }

    #[cfg(test)]
    pub(crate) fn granting(text: &str, sandbox: Sandbox) -> Self {
        Self {
            grants: parse(text).unwrap_or_default(),
            sandbox,
            namespace: "default".into(),
        }
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether a name may be looked up: whether some port of it may be reached.
    pub(crate) fn allows_name(&self, name: &str) -> bool {
        self.grants
            .iter()
            .any(|grant| self.allows_host(name, grant.port.unwrap_or_default()))
    }

    /// What a driver or an exporter reaches: the places that the host's objects name. What makes no
    /// sense grants nothing.
    pub(crate) fn of_driver(places: &[String]) -> Arc<Self> {
        let places = places.iter().take(MAX_GRANTS);
        Arc::new(Self {
            grants: places.filter_map(|place| grant(place).ok()).collect(),
            sandbox: Sandbox {
                ip: None,
                netns: None,
                hostname: String::new(),
            },
            namespace: String::new(),
        })
    }

    /// Whether a request may go to this host, a name or an address, and port.
    pub(crate) fn allows_host(&self, host: &str, port: u16) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return self.allows(address, port);
        }
        let host = bare.trim_end_matches('.').to_ascii_lowercase();
        self.grants.iter().any(|grant| {
            grant.port.is_none_or(|granted| granted == port)
                && match &grant.place {
                    Place::Any => true,
                    Place::Name(name) => *name == host,
                    Place::Below(name) => host
                        .strip_suffix(name.as_str())
                        .is_some_and(|rest| rest.ends_with('.')),
                    Place::Network(..) => false,
                }
        })
    }

    /// Whether a connection may go to this address and port.
    pub(crate) fn allows(&self, address: IpAddr, port: u16) -> bool {
        self.grants.iter().any(|grant| {
            grant.port.is_none_or(|granted| granted == port)
                && match grant.place {
                    Place::Any => true,
                    Place::Network(network, bits) => is_in(address.to_canonical(), network, bits),
                    Place::Name(_) | Place::Below(_) => false,
                }
        })
    }

    /// Whether the pod is on the host's network, or on its loopback where there is no pod network.
    pub(crate) fn is_local(&self) -> bool {
        self.sandbox.ip.is_none_or(|own| own.is_loopback())
    }

    /// The host's loopback is not the pod's, whatever name leads there. In a namespace of the pod's
    /// own it is.
    pub(crate) fn may_reach(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let has_own = self.is_local() || self.sandbox.netns.is_some();
        has_own || !(address.is_loopback() || address.is_unspecified())
    }
}

fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let shifted =
        |address: u128, width: u8| address.checked_shr((width - bits).into()).unwrap_or(0);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            shifted(u32::from(a).into(), 32) == shifted(u32::from(n).into(), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => shifted(a.into(), 128) == shifted(n.into(), 128),
        _ => false,
    }
}

fn parse(text: &str) -> Result<Vec<Grant>, String> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let grants: Vec<Grant> = words.map(grant).collect::<Result<_, _>>()?;
    match grants.len() > MAX_GRANTS {
        true => Err(format!("more than {MAX_GRANTS} places")),
        false => Ok(grants),
    }
}

fn grant(word: &str) -> Result<Grant, String> {
    let wrong =
        |why: &str| format!("{word:?}: {why}; write HOST:PORT, ADDRESS/BITS:PORT or *:PORT");
    let (place, port) = word.rsplit_once(':').ok_or_else(|| wrong("no port"))?;
    let port = match port {
        "*" => None,
        number => Some(number.parse().map_err(|_| wrong("not a port"))?),
    };
    let place = match place {
        "*" => Place::Any,
        place => named(place).ok_or_else(|| wrong("not a place"))?,
    };
    Ok(Grant { place, port })
}

fn named(place: &str) -> Option<Place> {
    let (address, bits) = match place.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (place, None),
    };
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        return (bits <= width).then_some(Place::Network(address, bits));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name = place.to_ascii_lowercase();
    let (below, name) = match name.strip_prefix("*.") {
        Some(name) => (true, name.to_owned()),
        None => (false, name),
    };
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) || bits.is_some() {
        return None;
    }
    Some(if below {
        Place::Below(name)
    } else {
        Place::Name(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(text: &str) -> Egress {
        let sandbox = Sandbox {
            ip: None,
            netns: None,
            hostname: String::new(),
        };
        Egress::granting(text, sandbox)
    }

    #[test]
    fn only_what_is_written_is_granted() {
        let none = egress("");
        assert!(!none.allows_host("example.com", 80));
        let some =
            egress("10.96.0.0/16:80, api.example.com:*,*.svc.cluster.local:8080, [fd00::]/8:1");
        for (host, port, allowed) in [
            ("10.96.3.4", 80, true),
            ("10.96.3.4", 81, false),
            ("10.97.0.1", 80, false),
            ("API.example.com", 443, true),
            ("example.com", 443, false),
            ("x.api.example.com", 443, false),
            ("web.default.svc.cluster.local", 8080, true),
            ("svc.cluster.local", 8080, false),
            ("evilsvc.cluster.local", 8080, false),
            ("[fd12::1]", 1, true),
            ("[fe80::1]", 1, false),
            ("::ffff:10.96.0.1", 80, true),
        ] {
            assert_eq!(some.allows_host(host, port), allowed, "{host}:{port}");
        }
        assert!(egress("*:53").allows_host("anything", 53));
        assert!(!egress("*:53").allows_host("anything", 54));
        let mut pod = egress("*:*");
        pod.sandbox.ip = Some([10, 244, 0, 2].into());
        assert!(pod.may_reach([10, 96, 0, 1].into()));
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0"] {
            assert!(!pod.may_reach(own.parse().unwrap()), "{own}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_word() {
        for wrong in [
            "host",
            "host:port",
            "10.0.0.0/33:1",
            "a/b:1",
            "ho st:1",
            ":1",
        ] {
            let error = parse(&format!("ok:1, {wrong}")).unwrap_err();
            assert!(error.starts_with(&format!("{wrong:?}: ")), "{error}");
        }
    }
}
