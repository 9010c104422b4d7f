//! The endpoints that a Service should have. Pure.

use std::sync::Arc;

use eyot_client::view::Pod;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone},
};

use super::pack::Group;
use crate::{pod, service};

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// One group for each address family and each set of ports: pods of one Service may lend the same
/// port name to different numbers.
pub(super) fn desired(
    service: &Service,
    pods: &[Arc<Pod>],
    node: &dyn Fn(&str) -> Option<Arc<Node>>,
) -> Vec<Group> {
    let families = service::families(service);
    let mut groups: Vec<Group> = families.iter().map(|family| Group::empty(family)).collect();
    for pod in pods {
        if !service::selects(service, &pod.metadata) || pod::has_ended(pod) {
            continue;
        }
        let place = pod::node(pod).and_then(node);
        // A pod of a node that is gone is on its way out; who wants all pods gets it nevertheless.
        let lost = pod::node(pod).is_some() && place.is_none();
        if lost && !service::publishes_not_ready(service) {
            continue;
        }
        for family in &families {
            let endpoint = endpoint(service, pod, family, place.as_deref());
            let Some(endpoint) = endpoint else { continue };
            let ports = ports(service, pod);
            let same = |group: &&mut Group| group.family == *family && group.ports == ports;
            match groups.iter_mut().find(same) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    family: (*family).to_owned(),
                    ports,
                    endpoints: vec![endpoint],
                }),
            }
        }
    }
    groups
}

fn endpoint(service: &Service, pod: &Pod, family: &str, node: Option<&Node>) -> Option<Endpoint> {
    let addresses = service::addresses(pod).into_iter();
    let addresses: Vec<String> = addresses
        .filter(|address| service::family(address) == Some(family))
        .map(str::to_owned)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = pod::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = service::publishes_not_ready(service) || (serving && !terminating);
    let zone = node
        .and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned())
        .filter(|zone| !zone.is_empty());
    let node_name = pod::node(pod).map(str::to_owned);
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(service, ready, zone.as_deref(), node_name.as_deref()),
        hostname: service::host_name(service, pod),
        node_name,
        target_ref: Some(service::pod_ref(pod)),
        zone,
        deprecated_topology: None,
    })
}

/// For whom an endpoint is near, if the Service prefers near ones.
fn hints(
    service: &Service,
    ready: bool,
    zone: Option<&str>,
    node: Option<&str>,
) -> Option<EndpointHints> {
    let prefers = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_node = match prefers {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    if !ready {
        return None;
    }
    let zone = zone.map(|name| {
        vec![ForZone {
            name: name.to_owned(),
        }]
    });
    let node = node.filter(|_| for_node).map(|name| {
        vec![ForNode {
            name: name.to_owned(),
        }]
    });
    (zone.is_some() || node.is_some()).then_some(EndpointHints {
        for_nodes: node,
        for_zones: zone,
    })
}

/// The Service's ports as this pod has them. One that the pod does not have is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service::ports(service).iter();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(service::target(pod, port)?),
                protocol: Some(service::protocol(&port.protocol).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}
