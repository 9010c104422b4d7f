//! Ports of the host that lead to a container's: `hostPort`. Pure.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use eyot_client::view::Pod;
use k8s_openapi::api::core::v1::ContainerPort;

use super::plan::{own_address, protocol_number, serving};
use crate::table::Ruleset;

/// The rules for the pods of `node`. Of two that want one port the first by name has it: the scheduler
/// does not let that happen.
pub(crate) fn host_ports(pods: &[Arc<Pod>], node: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    let mut taken = BTreeSet::new();
    for pod in pods {
        let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        let (true, Some(address)) = (here, own_address(pod)) else {
            continue;
        };
        for port in serving(pod).flat_map(|container| container.ports.iter().flatten()) {
            add(&mut rules, &mut taken, port, address);
        }
    }
    rules
}

fn add(
    rules: &mut Ruleset,
    taken: &mut BTreeSet<String>,
    port: &ContainerPort,
    address: Ipv4Addr,
) -> Option<()> {
    let outside = u16::try_from(port.host_port?)
        .ok()
        .filter(|port| *port > 0)?;
    let inside = u16::try_from(port.container_port)
        .ok()
        .filter(|port| *port > 0)?;
    let protocol = protocol_number(port.protocol.as_deref())?;
    let ip = port
        .host_ip
        .as_deref()
        .filter(|ip| !matches!(*ip, "" | "0.0.0.0" | "::"));
    let (map, key, chain) = match ip {
        None => (
            "host-ports",
            format!("{protocol} . {outside}"),
            format!("h-{protocol}-{outside}"),
        ),
        Some(ip) => {
            // Pods have no IPv6 addresses to lead to.
            let ip: Ipv4Addr = ip.parse().ok()?;
            (
                "host-port-ips",
                format!("{ip} . {protocol} . {outside}"),
                format!("h-{protocol}-{outside}-{ip}"),
            )
        }
    };
    if !taken.insert(format!("{map} {key}")) {
        return None;
    }
    let elements = rules.elements.entry(map).or_default();
    elements.insert(key, format!("goto {chain}"));
    rules.chains.insert(
        chain,
        vec![
            // The pod itself, and the host by its loopback, must see an answer from outside.
            format!("ip saddr {{ {address}, 127.0.0.0/8 }} jump masquerade-it"),
            format!("meta l4proto {protocol} dnat to {address}:{inside}"),
        ],
    );
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_of_pods_of_this_node_lead_to_them() {
        let pod = |name: &str, node: &str, ports: serde_json::Value| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"namespace": "d", "name": name},
                    "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
                    "status": {"phase": "Running", "podIP": "10.244.0.2"},
                }))
                .unwrap(),
            )
        };
        let pods = [
            pod(
                "a",
                "here",
                json!([
                    {"containerPort": 80, "hostPort": 8080},
                    {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
                    {"containerPort": 81},
                    {"containerPort": 82, "hostPort": 70_000},
                ]),
            ),
            pod(
                "b",
                "here",
                json!([{"containerPort": 90, "hostPort": 8080}]),
            ),
            pod(
                "c",
                "there",
                json!([{"containerPort": 90, "hostPort": 8081}]),
            ),
        ];
        let rules = host_ports(&pods, "here");
        assert_eq!(rules.elements["host-ports"].len(), 1);
        assert_eq!(
            rules.elements["host-port-ips"]["127.0.0.1 . 17 . 53"],
            "goto h-17-53-127.0.0.1"
        );
        assert_eq!(
            rules.chains["h-6-8080"],
            [
                "ip saddr { 10.244.0.2, 127.0.0.0/8 } jump masquerade-it",
                "meta l4proto 6 dnat to 10.244.0.2:80",
            ]
        );
    }
}
