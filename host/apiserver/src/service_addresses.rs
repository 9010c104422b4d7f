//! The addresses and node ports of services: who has which, and which are free.
//!
//! Addresses come from the ranges of the ServiceCIDRs that are ready, node ports from the
//! configuration. What is given out is what the stored services say; the IPAddress objects that show
//! it are made after them (see [`records`]), and only those that somebody else made take an address
//! away. A view of all that in memory follows the store. Between the choice of an address and the write of the service,
//! which may still be refused, a [`Reservation`] keeps others away from it; dropping it gives back.
//! View and reservations are read under one lock, and a reservation ends only after its write was
//! acknowledged, so no address is ever seen as free that is about to be taken.
//!
//! The lower part of each range is left to those who ask for a certain address, as long as there is
//! something else to choose from.

mod held;
pub(crate) mod records;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::{Arc, Mutex, PoisonError},
};

use eyot_store::Store;
use rand::RngExt;
use serde_json::{Value, json};

use self::held::Held;
use crate::{
    auth::Follower,
    failure::Failure,
    field_error::FieldError,
    kinds::{
        ip::{self, Range},
        service::{families, has_node_ports, needs_health_check},
    },
    object,
    resource::Resource,
};

/// What a trial run answers in place of a port that would be chosen: the real server's own guess.
const IMAGINED_PORT: u16 = 32_768;
/// Fewest usable addresses of a range.
const FEWEST: u128 = 2;

/// Where addresses and node ports of services are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRanges {
    /// One, or one of each family; the first is the default.
    ranges: Vec<Range>,
    ports: RangeInclusive<u16>,
}

/// Why ranges cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceRangeError {
    #[error("{0:?} is no range of addresses, which looks as 10.96.0.0/12 does")]
    NoRange(String),
    #[error("{0:?} has bits set beyond its prefix length")]
    NotFirst(String),
    #[error("{0} is too small: take a shorter prefix")]
    TooSmall(String),
    #[error("give one range, or one of IPv4 and one of IPv6")]
    Families,
    #[error("the range of node ports must begin above 0 and hold at least one port")]
    Ports,
}

impl ServiceRanges {
    /// Kubernetes' own.
    pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

    /// `10.96.0.0/12`, or two ranges with a comma between them; and the range of node ports.
    pub fn parse(
        ranges: &str,
        ports: RangeInclusive<u16>,
    ) -> Result<ServiceRanges, ServiceRangeError> {
        let mut all = Vec::new();
        for text in ranges.split(',').map(str::trim) {
            let (written, range) =
                ip::parse_range(text).ok_or_else(|| ServiceRangeError::NoRange(text.to_owned()))?;
            if written != range.first {
                return Err(ServiceRangeError::NotFirst(text.to_owned()));
            }
            if usable(&range) < FEWEST {
                return Err(ServiceRangeError::TooSmall(text.to_owned()));
            }
            all.push(range);
        }
        let families: HashSet<bool> = all.iter().map(Range::is_ipv4).collect();
        if families.len() != all.len() {
            return Err(ServiceRangeError::Families);
        }
        if *ports.start() == 0 || ports.is_empty() {
            return Err(ServiceRangeError::Ports);
        }
        Ok(ServiceRanges { ranges: all, ports })
    }

    /// `IPv4`, `IPv6` or both, the default first.
    fn families(&self) -> Vec<&'static str> {
        self.ranges.iter().map(family).collect()
    }

    fn of(&self, family_name: &str) -> Option<&Range> {
        self.ranges
            .iter()
            .find(|range| family(range) == family_name)
    }

    /// The ranges as text.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.ranges.iter().map(Range::to_string).collect()
    }

    /// The address of the Service `kubernetes`.
    pub fn own_address(&self) -> Option<IpAddr> {
        self.own().map(|(_, address)| address)
    }

    /// The address that clients expect the cluster's DNS at: the tenth of the default range. None if
    /// the range is too small to have it.
    pub fn dns_address(&self) -> Option<IpAddr> {
        let range = self.ranges.first()?;
        let address = nth(range, 10);
        range.contains(address).then_some(address)
    }

    /// The IPv4 range: its first address and the length of its prefix.
    pub fn v4(&self) -> Option<(Ipv4Addr, u8)> {
        self.ranges.iter().find_map(|range| match range.first {
            IpAddr::V4(first) => Some((first, range.bits)),
            IpAddr::V6(_) => None,
        })
    }

    /// The first address of the default family: that of the API itself.
    pub(crate) fn own(&self) -> Option<(&'static str, IpAddr)> {
        let range = self.ranges.first()?;
        Some((family(range), nth(range, 1)))
    }
}

impl Default for ServiceRanges {
    /// Kubernetes' own: `10.96.0.0/12`.
    fn default() -> ServiceRanges {
        let first = Ipv4Addr::new(10, 96, 0, 0).into();
        ServiceRanges {
            ranges: vec![Range { first, bits: 12 }],
            ports: ServiceRanges::NODE_PORTS,
        }
    }
}

fn family(range: &Range) -> &'static str {
    if range.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// How many addresses can be given out: not the first, and of IPv4 not the last.
fn usable(range: &Range) -> u128 {
    let bits = ip::width(range.first) - range.bits;
    let all = 1u128.checked_shl(bits.into()).unwrap_or(u128::MAX);
    all.saturating_sub(if range.is_ipv4() { 2 } else { 1 })
}

fn nth(range: &Range, index: u128) -> IpAddr {
    match range.first {
        IpAddr::V4(first) => {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(first).saturating_add(index)).into()
        }
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).saturating_add(index)).into(),
    }
}

/// What one service has, or one write is about to take.
#[derive(Default, Clone)]
struct Taken {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

/// What writes under way are about to take.
#[derive(Default)]
struct Reserved {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

/// Keeps others away from what a write is about to take, until it is dropped.
pub(crate) struct Reservation {
    of: Arc<Mutex<Reserved>>,
    taken: Taken,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        for address in &self.taken.addresses {
            reserved.addresses.remove(address);
        }
        for port in &self.taken.ports {
            reserved.ports.remove(port);
        }
    }
}

/// Gives out addresses and ports.
pub(crate) struct ServiceAddresses {
    ranges: ServiceRanges,
    held: Follower<Held>,
    reserved: Arc<Mutex<Reserved>>,
    /// One at a time writes IPAddresses.
    records: tokio::sync::Mutex<()>,
}

/// Why there is none.
enum Refusal {
    /// A field asks for what it cannot have.
    Field(FieldError),
    /// Nothing is left.
    Internal(String),
}

impl ServiceAddresses {
    pub(crate) fn new(store: &Store, ranges: ServiceRanges) -> ServiceAddresses {
        ServiceAddresses {
            ranges,
            held: Follower::new(store.clone()),
            reserved: Arc::default(),
            records: tokio::sync::Mutex::default(),
        }
    }

    /// Complete a service that is about to be written: what it left open is chosen, what it asks
    /// for is reserved. An update has the stored service too.
    pub(crate) fn complete(
        &self,
        resource: &Resource,
        service: &mut Value,
        old: Option<&Value>,
        trial: bool,
    ) -> Result<Option<Reservation>, Failure> {
        if !resource.is("", "services") {
            return Ok(None);
        }
        match old {
            None => families::normalise_new(service),
            Some(old) => families::normalise_changed(service, old),
        }
        let errors = families::decide(service, old, &self.ranges.families());
        if !errors.is_empty() {
            return Err(resource.invalid(object::name(service), &errors));
        }
        // Locked before the view is read: what is not reserved any more is in the view by then.
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.held.read(|held| {
            let mut choice = Choice {
                ranges: &self.ranges,
                held,
                reserved: &reserved,
                trial,
                taken: Taken::default(),
            };
            choice.addresses(service, old)?;
            choice.ports(service, old)?;
            Ok(choice.taken)
        });
        let taken = taken.map_err(|refusal| match refusal {
            Refusal::Field(error) => resource.invalid(object::name(service), &[error]),
            Refusal::Internal(why) => Failure::internal(why),
        })?;
        if !trial {
            reserved.addresses.extend(&taken.addresses);
            reserved.ports.extend(&taken.ports);
        }
        drop(reserved);
        if let Some(old) = old {
            families::drop_inapplicable(service, old);
        }
        Ok((!trial).then(|| Reservation {
            of: self.reserved.clone(),
            taken,
        }))
    }
}

/// The choices for one write.
struct Choice<'a> {
    ranges: &'a ServiceRanges,
    held: &'a Held,
    reserved: &'a Reserved,
    trial: bool,
    taken: Taken,
}

impl Choice<'_> {
    fn addresses(&mut self, service: &mut Value, old: Option<&Value>) -> Result<(), Refusal> {
        let spec = object::member(service, "spec");
        let families: Vec<String> = texts(spec.get("ipFamilies"));
        let mut addresses: Vec<String> = texts(spec.get("clusterIPs"));
        if let Some(before) = old.and_then(|old| old.get("spec")) {
            let kept = texts(before.get("clusterIPs"));
            let now = Value::Object(spec.clone());
            let was_named = before
                .get("type")
                .is_some_and(|kind| kind == "ExternalName");
            let added = texts(before.get("ipFamilies")).len() == 1 && families.len() == 2;
            if families::stays_as_preferred(&now, before)
                || (!was_named && (kept.first().is_some_and(|one| one == "None") || !added))
            {
                return Ok(());
            }
            if !was_named {
                // The second address alone.
                addresses.resize(2, String::new());
                return self.choose(spec, &families, addresses, 1);
            }
        }
        if !families::wants_addresses(&Value::Object(spec.clone())) {
            return Ok(());
        }
        if addresses.len() < families.len() {
            addresses.resize(families.len(), String::new());
        }
        self.choose(spec, &families, addresses, 0)
    }

    /// One address for each family from `first` on.
    fn choose(
        &mut self,
        spec: &mut serde_json::Map<String, Value>,
        families: &[String],
        mut addresses: Vec<String>,
        first: usize,
    ) -> Result<(), Refusal> {
        for index in first..families.len().min(addresses.len()) {
            let asked = addresses.get(index).cloned().unwrap_or_default();
            let Some(name) = families.get(index) else {
                continue;
            };
            let Some(configured) = self.ranges.of(name) else {
                continue;
            };
            let ranges = self.held.ranges(configured);
            let given = match ip::parse(&asked) {
                Some(address) => match self.ask(&ranges, address) {
                    Ok(()) => asked,
                    Err(why) => {
                        let detail = format!("failed to allocate IP {asked}: {why}");
                        let shown = json!(addresses);
                        let error = FieldError::invalid("spec.clusterIPs", &shown, &detail);
                        return Err(Refusal::Field(error));
                    }
                },
                None => {
                    let found = ranges.iter().find_map(|range| self.next_address(range));
                    let next = found.ok_or_else(|| {
                        let why = "failed to allocate a serviceIP: range is full";
                        Refusal::Internal(why.to_owned())
                    })?;
                    next.to_string()
                }
            };
            if let Some(slot) = addresses.get_mut(index) {
                *slot = given;
            }
        }
        if let Some(first) = addresses.first() {
            spec.insert("clusterIP".to_owned(), json!(first));
        }
        spec.insert("clusterIPs".to_owned(), json!(addresses));
        Ok(())
    }

    /// Take a certain address, or say why not.
    fn ask(&mut self, ranges: &[Range], address: IpAddr) -> Result<(), String> {
        let around = ranges.iter().find(|range| range.contains(address));
        // A trial run looks at one range only.
        let range = match (around, ranges.first()) {
            (Some(around), _) => around,
            (None, Some(first)) if self.trial => first,
            (None, _) => {
                return Err("the provided network does not match the current range".to_owned());
            }
        };
        let last = nth(range, usable(range));
        let outside = !range.contains(address) || address <= range.first || address > last;
        if outside {
            return Err(format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is \
                 {range}"
            ));
        }
        if self.trial {
            return Ok(());
        }
        if !self.is_free(address) {
            return Err("provided IP is already allocated".to_owned());
        }
        self.taken.addresses.push(address);
        Ok(())
    }

    fn next_address(&mut self, range: &Range) -> Option<IpAddr> {
        if self.trial {
            return Some(range.first);
        }
        let usable = usable(range);
        if usable == 0 {
            return None;
        }
        let static_part = (usable / 16).clamp(16, 256);
        let static_part = if usable <= static_part {
            0
        } else {
            static_part
        };
        let start = rand::rng().random_range(static_part..usable);
        let found = (start..usable)
            .chain(static_part..start)
            .chain(0..static_part)
            .map(|index| nth(range, index + 1))
            .find(|address| self.is_free(*address))?;
        self.taken.addresses.push(found);
        Some(found)
    }

    fn is_free(&self, address: IpAddr) -> bool {
        !self.held.has(address)
            && !self.reserved.addresses.contains(&address)
            && !self.taken.addresses.contains(&address)
    }

    fn ports(&mut self, service: &mut Value, old: Option<&Value>) -> Result<(), Refusal> {
        let spec = service.get("spec").cloned().unwrap_or_default();
        let before = old.and_then(|old| old.get("spec"));
        if has_node_ports(&spec) {
            match before {
                None => self.new_ports(service)?,
                Some(before) => self.changed_ports(service, before)?,
            }
        }
        if needs_health_check(&spec) && !before.is_some_and(needs_health_check) {
            self.health_port(object::member(service, "spec"))?;
        }
        Ok(())
    }

    /// Ports of a new service; those of the same number share a node port.
    fn new_ports(&mut self, service: &mut Value) -> Result<(), Refusal> {
        let all = chooses_ports(service);
        let mut ports = ports_of(service);
        let mut given: HashMap<i64, i64> = HashMap::new();
        for index in 0..ports.len() {
            let Some(&(number, asked)) = ports.get(index) else {
                continue;
            };
            if asked == 0 && !all {
                continue;
            }
            let node = match given.get(&number) {
                None => {
                    let wanted = ports.iter().find(|(n, asked)| *n == number && *asked != 0);
                    let node = match wanted {
                        Some(&(_, wanted)) => self.ask_port(wanted, index).map(|()| wanted)?,
                        None => self.next_port_or_fail("a nodePort")?,
                    };
                    given.insert(number, node);
                    node
                }
                Some(&node) if asked == 0 || asked == node => node,
                Some(_) => self.ask_port(asked, index).map(|()| asked)?,
            };
            if let Some(port) = ports.get_mut(index) {
                port.1 = node;
            }
        }
        set_ports(service, &ports);
        Ok(())
    }

    /// Ports of a service that had some, maybe.
    fn changed_ports(&mut self, service: &mut Value, before: &Value) -> Result<(), Refusal> {
        let all = chooses_ports(service);
        let had = families::node_ports(before);
        let mut ports = ports_of(service);
        let mut given: HashSet<i64> = HashSet::new();
        for (index, port) in ports.iter_mut().enumerate() {
            if port.1 == 0 {
                if all {
                    port.1 = self.next_port_or_fail("a nodePort")?;
                }
            } else if !had.contains(&port.1) && given.insert(port.1) {
                self.ask_port(port.1, index)?;
            }
        }
        set_ports(service, &ports);
        Ok(())
    }

    fn health_port(&mut self, spec: &mut serde_json::Map<String, Value>) -> Result<(), Refusal> {
        let asked = spec.get("healthCheckNodePort").and_then(Value::as_i64);
        let port = match asked.filter(|port| *port != 0) {
            Some(port) => {
                self.take_port(port).map_err(|why| {
                    Refusal::Internal(format!(
                        "failed to allocate requested HealthCheck NodePort {port}: {why}"
                    ))
                })?;
                port
            }
            None => self.next_port_or_fail("a HealthCheck NodePort 0")?,
        };
        spec.insert("healthCheckNodePort".to_owned(), port.into());
        Ok(())
    }

    fn ask_port(&mut self, port: i64, index: usize) -> Result<(), Refusal> {
        self.take_port(port).map_err(|why| {
            let field = format!("spec.ports[{index}].nodePort");
            Refusal::Field(FieldError::invalid(field, &port.into(), &why))
        })
    }

    fn take_port(&mut self, port: i64) -> Result<(), String> {
        let known = u16::try_from(port).ok();
        let inside = known.filter(|port| self.ranges.ports.contains(port));
        // A trial run takes any port that nobody has.
        let port = match (inside, known, self.trial) {
            (Some(port), _, _) | (None, Some(port), true) => port,
            (None, None, true) => return Ok(()),
            (None, _, false) => {
                let (first, last) = (self.ranges.ports.start(), self.ranges.ports.end());
                return Err(format!(
                    "provided port is not in the valid range. The range of valid ports is \
                     {first}-{last}"
                ));
            }
        };
        if !self.is_free_port(port) {
            return Err("provided port is already allocated".to_owned());
        }
        self.taken.ports.push(port);
        Ok(())
    }

    fn next_port_or_fail(&mut self, what: &str) -> Result<i64, Refusal> {
        self.next_port()
            .map(i64::from)
            .ok_or_else(|| Refusal::Internal(format!("failed to allocate {what}: range is full")))
    }

    fn next_port(&mut self) -> Option<u16> {
        let found = if self.trial {
            let last = self.taken.ports.iter().max();
            last.copied().unwrap_or(IMAGINED_PORT).checked_add(1)?
        } else {
            let (first, last) = (*self.ranges.ports.start(), *self.ranges.ports.end());
            let count = u32::from(last - first) + 1;
            let static_part = (count / 32).clamp(16, 128);
            let static_part = if count <= static_part { 0 } else { static_part };
            let start = rand::rng().random_range(static_part..count);
            (start..count)
                .chain(static_part..start)
                .chain(0..static_part)
                .filter_map(|index| u16::try_from(u32::from(first) + index).ok())
                .find(|port| self.is_free_port(*port))?
        };
        self.taken.ports.push(found);
        Some(found)
    }

    fn is_free_port(&self, port: u16) -> bool {
        !self.held.has_port(port)
            && !self.reserved.ports.contains(&port)
            && !self.taken.ports.contains(&port)
    }
}

/// Whether ports that name no node port get one.
fn chooses_ports(service: &Value) -> bool {
    let spec = |name: &str| service.pointer(&format!("/spec/{name}"));
    match spec("type").and_then(Value::as_str) {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec("allocateLoadBalancerNodePorts") != Some(&json!(false)),
        _ => false,
    }
}

/// Port and node port of each.
fn ports_of(service: &Value) -> Vec<(i64, i64)> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let number = |port: &Value, name: &str| port.get(name).and_then(Value::as_i64);
    ports
        .into_iter()
        .flatten()
        .map(|port| {
            let node = number(port, "nodePort").unwrap_or_default();
            (number(port, "port").unwrap_or_default(), node)
        })
        .collect()
}

fn set_ports(service: &mut Value, given: &[(i64, i64)]) {
    let ports = service
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut);
    for (port, (_, node)) in ports.into_iter().flatten().zip(given) {
        if let Value::Object(port) = port
            && *node != 0
        {
            port.insert("nodePort".to_owned(), (*node).into());
        }
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let all = value.and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
