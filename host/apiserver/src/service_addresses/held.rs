//! What is stored about addresses: who has which, what somebody keeps away, and where from they are
//! taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use eyot_store::{Key, Object};
use serde::Deserialize;

use super::Taken;
use crate::{
    auth::Index,
    kinds::ip::{self, Range},
};

/// The store's names of what is followed.
pub(super) const SERVICES: &str = "services";
pub(super) const RECORDS: &str = "ipaddresses.networking.k8s.io";
const RANGES: &str = "servicecidrs.networking.k8s.io";
/// Says of an IPAddress who made it.
pub(super) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Who makes those of services.
pub(super) const MANAGER: &str = "ipallocator.k8s.io";
/// Shortest prefix of a range of IPv6 that Kubernetes takes addresses from.
const SHORTEST_IPV6: u8 = 64;

#[derive(Default)]
pub(super) struct Held {
    of: HashMap<Key, Taken>,
    /// How many services have each of them.
    addresses: HashMap<IpAddr, u32>,
    ports: HashMap<u16, u32>,
    /// The IPAddresses there are.
    records: BTreeMap<IpAddr, Record>,
    /// The ranges of each ServiceCIDR; none where it is not ready.
    ranges: BTreeMap<Key, Vec<Range>>,
}

/// What an IPAddress says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Made for a service by the server.
    pub(super) managed: bool,
    /// Namespace and name of the service.
    pub(super) parent: (String, String),
}

#[derive(Deserialize, Default)]
struct Service {
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "clusterIPs")]
    addresses: Vec<String>,
    ports: Vec<Port>,
    health_check_node_port: i64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    node_port: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Address {
    spec: AddressSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AddressSpec {
    parent_ref: Parent,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Parent {
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ServiceCidr {
    metadata: Metadata,
    spec: Cidrs,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cidrs {
    cidrs: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl ServiceCidr {
    /// One that nobody has judged is ready, so that it works without the controller.
    fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter();
        let ready = conditions.find(|one| one.kind == "Ready");
        self.metadata.deletion_timestamp.is_none() && ready.is_none_or(|one| one.status == "True")
    }
}

impl Held {
    /// Whether the address cannot be given out.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        // One that was made for a service which no longer has it is about to go.
        let foreign = self.records.get(&address).is_some_and(|one| !one.managed);
        foreign || self.addresses.contains_key(&address)
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    /// Where addresses of the family of the configured range come from. The configured one itself
    /// stands in until it is stored, at the first start.
    pub(super) fn ranges(&self, configured: &Range) -> Vec<Range> {
        if self.ranges.is_empty() {
            return vec![*configured];
        }
        let mut all = Vec::new();
        for range in self.ranges.values().flatten() {
            if range.is_ipv4() == configured.is_ipv4() && !all.contains(range) {
                all.push(*range);
            }
        }
        all
    }

    /// The keys of all services.
    pub(super) fn services(&self) -> impl Iterator<Item = Key> {
        self.of.keys().cloned()
    }

    /// The services that have an address.
    pub(super) fn holders(&self, address: IpAddr) -> Vec<Key> {
        let of = self.of.iter();
        let holders = of.filter(|(_, taken)| taken.addresses.contains(&address));
        holders.map(|(key, _)| key.clone()).collect()
    }

    /// The services that IPAddresses were made for, whether there are such or not.
    pub(super) fn parents(&self) -> BTreeSet<(String, String)> {
        let managed = self.records.values().filter(|one| one.managed);
        managed.map(|one| one.parent.clone()).collect()
    }

    /// The IPAddresses that a service lacks, and those that are in the way or of no more use.
    pub(super) fn differences(&self, service: &Key) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let parent = (service.namespace.to_string(), service.name.to_string());
        let taken = self.of.get(service);
        let wanted = taken.map_or(&[][..], |taken| &taken.addresses);
        let is_own = |one: &Record| one.managed && one.parent == parent;
        let lacking: Vec<IpAddr> = wanted
            .iter()
            .filter(|address| match self.records.get(address) {
                None => true,
                Some(one) => one.managed && !is_own(one),
            })
            .copied()
            .collect();
        let stale = self.records.iter().filter(|(address, one)| {
            lacking.contains(address) || (is_own(one) && !wanted.contains(address))
        });
        let stale = stale.map(|(address, _)| *address).collect();
        (lacking, stale)
    }

    fn put_service(&mut self, object: &Object) {
        let Service { spec } = serde_json::from_slice(&object.json).unwrap_or_default();
        let addresses = spec.addresses.iter();
        let ports = spec.ports.iter().map(|port| port.node_port);
        let ports = ports.chain([spec.health_check_node_port]);
        let mut ports: Vec<u16> = ports.filter_map(|port| port.try_into().ok()).collect();
        ports.retain(|port| *port != 0);
        ports.sort_unstable();
        ports.dedup();
        let taken = Taken {
            addresses: addresses.filter_map(|text| ip::parse(text)).collect(),
            ports,
        };
        for address in &taken.addresses {
            *self.addresses.entry(*address).or_default() += 1;
        }
        for port in &taken.ports {
            *self.ports.entry(*port).or_default() += 1;
        }
        self.of.insert(object.key.clone(), taken);
    }

    fn put_record(&mut self, object: &Object) {
        let Some(address) = ip::parse(&object.key.name) else {
            return;
        };
        let Address { spec } = serde_json::from_slice(&object.json).unwrap_or_default();
        let record = Record {
            managed: object.labels.get(MANAGED_BY) == Some(MANAGER),
            parent: (spec.parent_ref.namespace, spec.parent_ref.name),
        };
        self.records.insert(address, record);
    }

    fn put_range(&mut self, object: &Object) {
        let range: ServiceCidr = serde_json::from_slice(&object.json).unwrap_or_default();
        let given = if range.is_ready() {
            range.spec.cidrs.as_slice()
        } else {
            &[]
        };
        let given = given.iter().filter_map(|text| ip::parse_range(text));
        let usable = given
            .map(|(_, range)| range)
            .filter(|range| range.is_ipv4() || range.bits >= SHORTEST_IPV6);
        self.ranges.insert(object.key.clone(), usable.collect());
    }
}

impl Index for Held {
    const RESOURCES: &'static [&'static str] = &[SERVICES, RECORDS, RANGES];

    fn put(&mut self, resource: &str, object: &Object) {
        self.remove(resource, &object.key);
        match resource {
            SERVICES => self.put_service(object),
            RECORDS => self.put_record(object),
            _ => self.put_range(object),
        }
    }

    fn remove(&mut self, resource: &str, key: &Key) {
        match resource {
            RECORDS => {
                if let Some(address) = ip::parse(&key.name) {
                    self.records.remove(&address);
                }
            }
            RANGES => {
                self.ranges.remove(key);
            }
            _ => {
                let Some(taken) = self.of.remove(key) else {
                    return;
                };
                for address in &taken.addresses {
                    give_back(&mut self.addresses, address);
                }
                for port in &taken.ports {
                    give_back(&mut self.ports, port);
                }
            }
        }
    }
}

fn give_back<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
