//! What a pod takes of a node.

use std::collections::{BTreeMap, BTreeSet};

use eyot_client::view::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;

/// Amounts by resource name, in thousandths.
pub(super) type Amounts = BTreeMap<String, i64>;

/// What one pod takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) amounts: Amounts,
    /// Ports of the node: protocol, address (empty for all) and number.
    pub(super) ports: BTreeSet<(String, String, i32)>,
}

impl Demand {
    pub(super) fn of(pod: &Pod) -> Self {
        pod.spec.as_ref().map_or_else(Self::default, Self::of_spec)
    }

    /// The containers together, or what the start needs at its worst, whichever is more.
    fn of_spec(spec: &PodSpec) -> Self {
        let mut amounts = Amounts::new();
        let mut ports = BTreeSet::new();
        for container in &spec.containers {
            add(&mut amounts, &requests(container));
            ports.extend(host_ports(container, spec.host_network == Some(true)));
        }
        // Init containers run one after the other, beside those before them that stay.
        let mut staying = Amounts::new();
        let mut start = Amounts::new();
        for container in spec.init_containers.iter().flatten() {
            let mut now = staying.clone();
            add(&mut now, &requests(container));
            if container.restart_policy.as_deref() == Some("Always") {
                staying.clone_from(&now);
                ports.extend(host_ports(container, spec.host_network == Some(true)));
            }
            most(&mut start, &now);
        }
        add(&mut amounts, &staying);
        most(&mut amounts, &start);
        add(&mut amounts, &read(spec.overhead.as_ref()));
        amounts.retain(|_, amount| *amount > 0);
        Self { amounts, ports }
    }
}

/// Amounts as numbers. The API refuses what is no quantity.
pub(super) fn read(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let quantities = quantities.into_iter().flatten();
    quantities
        .filter_map(|(name, text)| Some((name.clone(), quantity::milli(&text.0)?)))
        .collect()
}

/// What the container asks for; where it names only a limit, that.
fn requests(container: &Container) -> Amounts {
    let Some(resources) = &container.resources else {
        return Amounts::new();
    };
    let mut amounts = read(resources.limits.as_ref());
    amounts.extend(read(resources.requests.as_ref()));
    amounts
}

fn host_ports(
    container: &Container,
    host_network: bool,
) -> impl Iterator<Item = (String, String, i32)> {
    container.ports.iter().flatten().filter_map(move |port| {
        let number = port
            .host_port
            .or(host_network.then_some(port.container_port))?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let address = port
            .host_ip
            .clone()
            .filter(|ip| ip != "0.0.0.0")
            .unwrap_or_default();
        (number > 0).then_some((protocol, address, number))
    })
}

pub(super) fn add(into: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let sum = into.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn most(into: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let most = into.entry(name.clone()).or_default();
        *most = (*most).max(*amount);
    }
}
