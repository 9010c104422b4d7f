//! A Service's pods as subsets of addresses that share their ports. Pure.

use std::{collections::BTreeMap, sync::Arc};

use eyot_client::view::Pod;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Service};

use crate::{pod, service};

/// Addresses that one Endpoints object names at most: it is one object, sent whole to all who watch.
pub(super) const CAPACITY: usize = 1000;

/// What identifies an address: whose it is, and what it is.
type Whose = (String, String);
/// Name, protocol, number, application protocol.
type PortKey = (String, String, i32, Option<String>);

/// The subsets in a fixed order, and whether they name all addresses.
pub(super) fn of(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let everyone = service::publishes_not_ready(service);
    let family = service::families(service)
        .first()
        .copied()
        .unwrap_or("IPv4");
    // Addresses by the ports that they have.
    let mut subsets: BTreeMap<Vec<PortKey>, BTreeMap<Whose, (EndpointAddress, bool)>> =
        BTreeMap::new();
    for pod in pods {
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let counts = !pod::has_ended(pod) && (everyone || !leaving);
        if !counts || !service::selects(service, &pod.metadata) {
            continue;
        }
        let addresses = service::addresses(pod);
        let Some(ip) = addresses
            .into_iter()
            .find(|address| service::family(address) == Some(family))
        else {
            continue;
        };
        let given = service::ports(service);
        let ports = ports(service, pod);
        if ports.is_empty() && !given.is_empty() {
            continue;
        }
        let address = EndpointAddress {
            hostname: service::host_name(service, pod),
            ip: ip.to_owned(),
            node_name: pod::node(pod).map(str::to_owned),
            target_ref: Some(service::pod_ref(pod)),
        };
        let whose = (ip.to_owned(), pod.metadata.uid.clone().unwrap_or_default());
        let ready = everyone || pod::is_ready(pod);
        subsets
            .entry(ports)
            .or_default()
            .insert(whose, (address, ready));
    }
    truncate(subsets)
}

fn ports(service: &Service, pod: &Pod) -> Vec<PortKey> {
    let mut ports: Vec<PortKey> = service::ports(service)
        .iter()
        .filter_map(|port| {
            Some((
                port.name.clone().unwrap_or_default(),
                service::protocol(&port.protocol).to_owned(),
                service::target(pod, port)?,
                port.app_protocol.clone(),
            ))
        })
        .collect();
    ports.sort();
    ports
}

/// Ready addresses first: those that are not ready go before any that is.
fn truncate(
    all: BTreeMap<Vec<PortKey>, BTreeMap<Whose, (EndpointAddress, bool)>>,
) -> (Vec<EndpointSubset>, bool) {
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for (ports, addresses) in all {
        let (ready, others): (Vec<_>, Vec<_>) =
            addresses.into_values().partition(|(_, ready)| *ready);
        let only = |addresses: Vec<(EndpointAddress, bool)>| {
            let addresses: Vec<_> = addresses.into_iter().map(|(address, _)| address).collect();
            Some(addresses).filter(|addresses| !addresses.is_empty())
        };
        subsets.push(EndpointSubset {
            addresses: only(ready),
            not_ready_addresses: only(others),
            ports: Some(ports.into_iter().map(port).collect::<Vec<_>>())
                .filter(|ports| !ports.is_empty()),
        });
    }
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let total: usize = subsets
        .iter()
        .map(|s| count(&s.addresses) + count(&s.not_ready_addresses))
        .sum();
    if total <= CAPACITY {
        return (subsets, true);
    }
    let mut room = CAPACITY;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            addresses.truncate(room);
            room -= addresses.len();
        }
        *list = list.take().filter(|addresses| !addresses.is_empty());
    };
    for subset in &mut subsets {
        cut(&mut subset.addresses);
    }
    for subset in &mut subsets {
        cut(&mut subset.not_ready_addresses);
    }
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    (subsets, false)
}

fn port((name, protocol, number, app_protocol): PortKey) -> EndpointPort {
    EndpointPort {
        name: Some(name).filter(|name| !name.is_empty()),
        port: number,
        protocol: Some(protocol),
        app_protocol,
    }
}
