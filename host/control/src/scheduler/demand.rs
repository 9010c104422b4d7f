//! What a pod takes of a node.

use std::{borrow::Cow, collections::BTreeMap};

use eyot_client::view::{Container, Pod, PodSpec};
use k8s_openapi::{
    api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity,
};

use super::quantity;

/// What scoring takes a container for that asks for no processor time, in thousandths of a core.
const UNASKED_CPU: i64 = 100;
/// What scoring takes a container for that asks for no memory, in bytes.
const UNASKED_MEMORY: i64 = 200 << 20;

/// Amounts of resources: processor time in thousandths of a core, all else in its own unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Amounts {
    pub(super) cpu: i64,
    pub(super) memory: i64,
    pub(super) storage: i64,
    /// Everything else that is counted, by name, in order.
    pub(super) others: Vec<(String, i64)>,
}

impl Amounts {
    /// Amounts as numbers. The API refuses what is no quantity.
    pub(super) fn read(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut amounts = Self::default();
        for (name, text) in quantities.into_iter().flatten() {
            if let Some(milli) = quantity::milli(&text.0) {
                *amounts.entry(name) = if name == "cpu" { milli } else { whole(milli) };
            }
        }
        amounts
    }

    fn entry(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.storage,
            name => {
                let at = self
                    .others
                    .binary_search_by(|(known, _)| (**known).cmp(name));
                let at = at.unwrap_or_else(|at| {
                    self.others.insert(at, (name.to_owned(), 0));
                    at
                });
                &mut self.others[at].1
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.storage,
            name => {
                let at = self
                    .others
                    .binary_search_by(|(known, _)| (**known).cmp(name));
                at.map_or(0, |at| self.others[at].1)
            }
        }
    }

    /// All that is not zero, by name.
    fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let named = [
            ("cpu", self.cpu),
            ("memory", self.memory),
            ("ephemeral-storage", self.storage),
        ];
        let others = self.others.iter().map(|(name, amount)| (&**name, *amount));
        named
            .into_iter()
            .chain(others)
            .filter(|(_, amount)| *amount != 0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    pub(super) fn take(&mut self, other: &Self) {
        self.each(other, i64::saturating_sub);
    }

    fn most(&mut self, other: &Self) {
        self.each(other, i64::max);
    }

    fn each(&mut self, other: &Self, how: impl Fn(i64, i64) -> i64) {
        self.cpu = how(self.cpu, other.cpu);
        self.memory = how(self.memory, other.memory);
        self.storage = how(self.storage, other.storage);
        for (name, amount) in &other.others {
            let mine = self.entry(name);
            *mine = how(*mine, *amount);
        }
    }
}

/// Thousandths as whole ones: a part of a byte still takes a byte.
fn whole(milli: i64) -> i64 {
    if milli > 0 {
        milli.saturating_add(999) / 1000
    } else {
        milli / 1000
    }
}

/// A port of the node that a pod wants for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) number: i32,
    pub(super) protocol: Cow<'static, str>,
    /// Empty for all addresses.
    pub(super) address: String,
}

impl Port {
    /// "All addresses" overlaps with each.
    pub(super) fn collides(&self, other: &Self) -> bool {
        self.number == other.number
            && self.protocol == other.protocol
            && (self.address == other.address
                || self.address.is_empty()
                || other.address.is_empty())
    }
}

/// What one pod takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Demand {
    pub(super) amounts: Amounts,
    /// As `amounts`, with something for containers that do not say: for scoring.
    pub(super) assumed: Amounts,
    pub(super) ports: Vec<Port>,
}

impl Demand {
    pub(super) fn of(pod: &Pod) -> Self {
        pod.spec.as_ref().map_or_else(Self::default, Self::of_spec)
    }

    fn of_spec(spec: &PodSpec) -> Self {
        let mut ports: Vec<Port> = Vec::new();
        let host = spec.host_network == Some(true);
        for container in &spec.containers {
            ports.extend(host_ports(container, host));
        }
        for container in spec.init_containers.iter().flatten().filter(|c| stays(c)) {
            ports.extend(host_ports(container, host));
        }
        ports.sort();
        ports.dedup();
        let mut amounts = together(spec, requests);
        let mut assumed = together(spec, |container| {
            let mut amounts = requests(container);
            let asks = container.resources.as_ref();
            let asked = |name: &str| {
                let lists = [
                    asks.and_then(|r| r.requests.as_ref()),
                    asks.and_then(|r| r.limits.as_ref()),
                ];
                lists
                    .into_iter()
                    .flatten()
                    .any(|list| list.contains_key(name))
            };
            if !asked("cpu") {
                amounts.cpu = UNASKED_CPU;
            }
            if !asked("memory") {
                amounts.memory = UNASKED_MEMORY;
            }
            amounts
        });
        for amounts in [&mut amounts, &mut assumed] {
            whole_pod(amounts, spec.resources.as_ref());
            amounts.add(&Amounts::read(spec.overhead.as_ref()));
            amounts.others.retain(|(_, amount)| *amount != 0);
        }
        Self {
            amounts,
            assumed,
            ports,
        }
    }
}

/// What the pod says for itself takes the place of what its containers add up to.
fn whole_pod(amounts: &mut Amounts, resources: Option<&ResourceRequirements>) {
    let Some(resources) = resources else { return };
    let asked = requirements(resources);
    for (name, amount) in asked.iter() {
        if matches!(name, "cpu" | "memory") || name.starts_with("hugepages-") {
            *amounts.entry(name) = amount;
        }
    }
}

/// The containers together, or what the start needs at its worst, whichever is more. Init
/// containers run one after the other, beside those before them that stay.
fn together(spec: &PodSpec, asks: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut amounts = Amounts::default();
    for container in &spec.containers {
        amounts.add(&asks(container));
    }
    let mut staying = Amounts::default();
    let mut start = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = staying.clone();
        now.add(&asks(container));
        if stays(container) {
            staying.clone_from(&now);
        }
        start.most(&now);
    }
    amounts.add(&staying);
    amounts.most(&start);
    amounts
}

/// It runs beside the others as long as the pod does.
fn stays(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn requests(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    resources.map(requirements).unwrap_or_default()
}

/// Where only a limit is named, that counts.
fn requirements(resources: &ResourceRequirements) -> Amounts {
    let mut both = resources.limits.clone().unwrap_or_default();
    both.extend(resources.requests.clone().unwrap_or_default());
    Amounts::read(Some(&both))
}

fn host_ports(container: &Container, host_network: bool) -> impl Iterator<Item = Port> {
    container.ports.iter().flatten().filter_map(move |port| {
        let number = port
            .host_port
            .or(host_network.then_some(port.container_port))?;
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Cow::Borrowed("TCP"),
            Some("UDP") => Cow::Borrowed("UDP"),
            Some(other) => Cow::Owned(other.to_owned()),
        };
        let address = port
            .host_ip
            .clone()
            .filter(|ip| ip != "0.0.0.0")
            .unwrap_or_default();
        (number > 0).then_some(Port {
            number,
            protocol,
            address,
        })
    })
}
