//! From NetworkPolicies, pods and namespaces to rules. Pure.
//!
//! | chain or set | of | what it holds |
//! |---|---|---|
//! | `in-ADDRESS`, `out-ADDRESS` | a selected pod | the rules of its policies, then a drop |
//! | `p-…` | one rule of one policy | the addresses of its peers |
//!
//! A rule without peers concerns everybody, one without ports everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use eyot_client::view::{Container, Pod};
use k8s_openapi::{
    api::{
        core::v1::Namespace,
        networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::{
    Cidr,
    keep::Complaint,
    service::network,
    table::{OwnSet, Ruleset},
};

type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub rules: Ruleset,
    pub complaints: Vec<Complaint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

impl Direction {
    /// The packet's field that names the peer.
    fn peer(self) -> &'static str {
        match self {
            Self::In => "saddr",
            Self::Out => "daddr",
        }
    }

    fn own(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    fn map(self) -> &'static str {
        match self {
            Self::In => "isolated-ingress",
            Self::Out => "isolated-egress",
        }
    }
}

/// A pod that has an address of its own.
struct Placed<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    address: Ipv4Addr,
    pod: Option<&'a Pod>,
}

/// One rule of a policy in one direction.
struct Rule<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

/// `gateway` is where the cluster's DNS is: it stands for the pods that it has elsewhere.
pub(crate) fn plan(
    policies: &[Arc<NetworkPolicy>],
    pods: &[Arc<Pod>],
    namespaces: &[Arc<Namespace>],
    network: Cidr,
    gateway: Option<Ipv4Addr>,
) -> Planned {
    static NONE: Labels = Labels::new();
    let dns: Labels = [("k8s-app".to_owned(), "kube-dns".to_owned())].into();
    let mut placed: Vec<Placed<'_>> = pods
        .iter()
        .filter_map(|pod| {
            let meta = &pod.metadata;
            Some(Placed {
                namespace: meta.namespace.as_deref()?,
                labels: meta.labels.as_ref().unwrap_or(&NONE),
                address: own_address(pod)?,
                pod: Some(pod),
            })
        })
        .collect();
    placed.extend(gateway.map(|address| Placed {
        namespace: "kube-system",
        labels: &dns,
        address,
        pod: None,
    }));
    let namespaces: BTreeMap<&str, &Labels> = namespaces
        .iter()
        .filter_map(|namespace| {
            let meta = &namespace.metadata;
            Some((meta.name.as_deref()?, meta.labels.as_ref().unwrap_or(&NONE)))
        })
        .collect();
    let mut planner = Planner {
        placed: &placed,
        namespaces: &namespaces,
        network,
        planned: Planned::default(),
    };
    for policy in policies {
        planner.policy(policy);
    }
    planner.finish()
}

struct Planner<'a> {
    placed: &'a [Placed<'a>],
    namespaces: &'a BTreeMap<&'a str, &'a Labels>,
    network: Cidr,
    planned: Planned,
}

impl Planner<'_> {
    fn policy(&mut self, policy: &NetworkPolicy) {
        let (meta, Some(spec)) = (&policy.metadata, &policy.spec) else {
            return;
        };
        let (Some(namespace), Some(name)) = (meta.namespace.as_deref(), meta.name.as_deref())
        else {
            return;
        };
        let all = LabelSelector::default();
        let selector = spec.pod_selector.as_ref().unwrap_or(&all);
        let selected: Vec<&Placed<'_>> = self
            .placed
            .iter()
            .filter(|placed| {
                placed.pod.is_some()
                    && placed.namespace == namespace
                    && self.network.contains(placed.address)
                    && matches(selector, placed.labels)
            })
            .collect();
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let has = |kind: &str| types.iter().any(|one| one == kind);
        // Without types: what comes in, and what goes out if there are rules for that.
        let incoming = has("Ingress") || types.is_empty();
        let outgoing = has("Egress") || types.is_empty() && spec.egress.is_some();
        if incoming {
            let rules = spec.ingress.iter().flatten().map(|rule| Rule {
                peers: rule.from.as_deref().unwrap_or_default(),
                ports: rule.ports.as_deref().unwrap_or_default(),
            });
            self.direction(Direction::In, namespace, name, &selected, rules.collect());
        }
        if outgoing {
            let rules = spec.egress.iter().flatten().map(|rule| Rule {
                peers: rule.to.as_deref().unwrap_or_default(),
                ports: rule.ports.as_deref().unwrap_or_default(),
            });
            self.direction(Direction::Out, namespace, name, &selected, rules.collect());
        }
    }

    fn direction(
        &mut self,
        direction: Direction,
        namespace: &str,
        name: &str,
        selected: &[&Placed<'_>],
        rules: Vec<Rule<'_>>,
    ) {
        for pod in selected {
            // Also without rules: then nothing passes.
            self.chain(direction, pod.address);
        }
        for (index, rule) in rules.iter().enumerate() {
            if selected.is_empty() {
                continue;
            }
            let id = format!("p-{}-{namespace}/{name}-{index}", direction.own());
            let (addresses, blocks) = self.peers(namespace, rule.peers);
            let mut heads = Vec::new();
            if rule.peers.is_empty() {
                heads.push(String::new());
            }
            if !addresses.is_empty() {
                let elements = addresses.iter().map(ToString::to_string).collect();
                let set = short(&id);
                let definition = "type ipv4_addr".to_owned();
                self.planned.rules.sets.insert(
                    set.clone(),
                    OwnSet {
                        definition,
                        elements,
                    },
                );
                heads.push(format!("ip {} @{set} ", direction.peer()));
            }
            for block in blocks {
                match range(block, direction.peer()) {
                    Some(head) => heads.push(head),
                    None => self.planned.complaints.push(Complaint {
                        namespace: namespace.to_owned(),
                        name: name.to_owned(),
                        message: format!("ipBlock {}: only IPv4 networks are enforced", block.cidr),
                    }),
                }
            }
            for pod in selected {
                for head in &heads {
                    for line in self.ports(direction, rule, head, pod) {
                        self.chain(direction, pod.address).insert(line);
                    }
                }
            }
        }
    }

    /// The chain's rules so far. Each returns; their order does not matter.
    fn chain(&mut self, direction: Direction, address: Ipv4Addr) -> Lines<'_> {
        let chain = format!("{}-{address}", direction.own());
        let elements = self
            .planned
            .rules
            .elements
            .entry(direction.map())
            .or_default();
        elements.insert(address.to_string(), format!("jump {chain}"));
        Lines(self.planned.rules.chains.entry(chain).or_default())
    }

    /// The addresses of peers that are pods, and the blocks.
    fn peers<'p>(
        &self,
        namespace: &str,
        peers: &'p [NetworkPolicyPeer],
    ) -> (BTreeSet<Ipv4Addr>, Vec<&'p IPBlock>) {
        let (mut addresses, mut blocks) = (BTreeSet::new(), Vec::new());
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                blocks.push(block);
                continue;
            }
            let found = self.placed.iter().filter(|placed| {
                let at_home = match &peer.namespace_selector {
                    None => placed.namespace == namespace,
                    Some(selector) => self
                        .namespaces
                        .get(placed.namespace)
                        .is_some_and(|labels| matches(selector, labels)),
                };
                let wanted = peer.pod_selector.as_ref();
                at_home && wanted.is_none_or(|selector| matches(selector, placed.labels))
            });
            addresses.extend(found.map(|placed| placed.address));
        }
        (addresses, blocks)
    }

    /// The lines of one rule for one pod and one kind of peer.
    fn ports(
        &self,
        direction: Direction,
        rule: &Rule<'_>,
        head: &str,
        pod: &Placed<'_>,
    ) -> Vec<String> {
        if rule.ports.is_empty() {
            return vec![format!("{head}return")];
        }
        let mut lines = Vec::new();
        for port in rule.ports {
            let Some(protocol) = protocol_number(port.protocol.as_deref()) else {
                continue;
            };
            match &port.port {
                None => lines.push(format!("{head}meta l4proto {protocol} return")),
                Some(IntOrString::Int(first)) => {
                    let last = port.end_port.unwrap_or(*first);
                    let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) else {
                        continue;
                    };
                    let which = match first == last {
                        true => first.to_string(),
                        false if first < last => format!("{first}-{last}"),
                        false => continue,
                    };
                    lines.push(format!(
                        "{head}meta l4proto {protocol} th dport {which} return"
                    ));
                }
                // A name means what the pod that is reached says it means.
                Some(IntOrString::String(name)) => match direction {
                    Direction::In => {
                        let numbers = pod
                            .pod
                            .into_iter()
                            .flat_map(|pod| named(pod, name, protocol));
                        lines.extend(numbers.map(|number| {
                            format!("{head}meta l4proto {protocol} th dport {number} return")
                        }));
                    }
                    Direction::Out => lines.extend(self.named_elsewhere(head, name, protocol)),
                },
            }
        }
        lines
    }

    /// Egress to a named port: for each pod that has one of that name. What is no pod has no names.
    fn named_elsewhere(&self, head: &str, name: &str, protocol: u8) -> Vec<String> {
        let mut lines = Vec::new();
        for placed in self.placed {
            for number in placed
                .pod
                .into_iter()
                .flat_map(|pod| named(pod, name, protocol))
            {
                let address = placed.address;
                lines.push(format!(
                    "{head}ip daddr {address} meta l4proto {protocol} th dport {number} return"
                ));
            }
        }
        lines
    }

    fn finish(mut self) -> Planned {
        for (chain, rules) in &mut self.planned.rules.chains {
            // A pod always reaches itself.
            if let Some((direction, address)) = chain.split_once('-') {
                let peer = if direction == "in" { "saddr" } else { "daddr" };
                rules.insert(0, format!("ip {peer} {address} return"));
            }
            rules.push("drop".to_owned());
        }
        self.planned
    }
}

/// Rules of a chain, each once.
struct Lines<'a>(&'a mut Vec<String>);

impl Lines<'_> {
    fn insert(self, line: String) {
        if !self.0.contains(&line) {
            self.0.push(line);
        }
    }
}

/// The address of a pod that has one of its own and has not ended.
pub(super) fn own_address(pod: &Pod) -> Option<Ipv4Addr> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if spec.host_network == Some(true) || ended {
        return None;
    }
    status.pod_ip.as_deref()?.parse().ok()
}

/// The containers that run as long as the pod does.
pub(super) fn serving(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    })
}

/// The numbers of a pod's ports of a name.
fn named<'a>(pod: &'a Pod, name: &'a str, protocol: u8) -> impl Iterator<Item = i32> + 'a {
    serving(pod)
        .flat_map(|container| container.ports.iter().flatten())
        .filter(move |port| {
            port.name.as_deref() == Some(name)
                && protocol_number(port.protocol.as_deref()) == Some(protocol)
        })
        .map(|port| port.container_port)
}

pub(super) fn protocol_number(name: Option<&str>) -> Option<u8> {
    match name {
        None | Some("" | "TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("SCTP") => Some(132),
        Some(_) => None,
    }
}

/// The beginning of a rule about a block and what is not of it.
fn range(block: &IPBlock, peer: &str) -> Option<String> {
    let (base, prefix) = network(&block.cidr)?;
    let mut head = match prefix {
        0 => String::new(),
        _ => format!("ip {peer} {base}/{prefix} "),
    };
    for except in block.except.iter().flatten() {
        // One that is of another family excepts nothing.
        if let Some((base, prefix)) = network(except) {
            head.push_str(&format!("ip {peer} != {base}/{prefix} "));
        }
    }
    Some(head)
}

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    equal
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|one| {
            let values = one.values.as_deref().unwrap_or_default();
            let value = labels.get(&one.key);
            match one.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                // What cannot be understood selects nothing.
                _ => false,
            }
        })
}

/// A set's name within the kernel's bounds.
fn short(id: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    if id.len() <= 100 {
        return id.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let start: String = id.chars().take(80).collect();
    format!("{start}-{:016x}", hasher.finish())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
