//! The map: which node has which range, and where it is reached. A ConfigMap with a line for each node,
//! `NODE: "ADDRESS RANGE"`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eyot_client::Cache;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::Notify;

use super::plan::Peer;
use crate::cluster::wake;

pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "eyot-node-network";
/// Who writes it.
const MANAGER: &str = "eyot-node-network";
/// Nodes that come together are written together.
const GATHER: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_secs(5);

/// The nodes in a map, by name. Lines that make no sense are left out, and said once.
pub(super) fn read(map: &ConfigMap) -> Vec<Peer> {
    let lines = map.data.iter().flatten();
    lines
        .filter_map(|(node, line)| {
            let (address, range) = line.split_once(' ')?;
            Some(Peer {
                node: node.clone(),
                address: address.parse().ok()?,
                range: range.parse().ok()?,
            })
        })
        .collect()
}

/// The lines for these Nodes.
fn written<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeMap<String, String> {
    nodes.filter_map(line).collect()
}

fn line(node: &Node) -> Option<(String, String)> {
    let name = node.metadata.name.clone()?;
    let ranges = node.spec.as_ref()?.pod_cidrs.iter().flatten();
    let mut ranges = ranges.chain(&node.spec.as_ref()?.pod_cidr);
    let range = ranges.find(|range| !range.contains(':'))?;
    let addresses = node.status.as_ref()?.addresses.as_deref()?.iter();
    let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
    let address = internal.find(|address| !address.address.contains(':'))?;
    Some((name, format!("{} {range}", address.address)))
}

/// Write the map whenever a Node changes it.
pub(super) async fn keep(client: Client, nodes: Cache<Node>) {
    let changed = Arc::new(Notify::new());
    wake(&nodes, &changed);
    nodes.synced().await;
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut known = None;
    loop {
        let nodes = nodes.list();
        let lines = written(nodes.iter().map(AsRef::as_ref));
        if known.as_ref() != Some(&lines) {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": NAME, "namespace": NAMESPACE }, "data": lines,
            });
            let params = PatchParams::apply(MANAGER).force();
            match api.patch(NAME, &params, &Patch::Apply(map)).await {
                Ok(_) => known = Some(lines),
                Err(error) => {
                    tracing::debug!(%error, "the map of the nodes' networks was not written; trying again");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
        }
        changed.notified().await;
        tokio::time::sleep(GATHER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_in_the_map_once_it_has_a_range_and_an_address() {
        let node = |spec, status| -> Node {
            serde_json::from_value(
                json!({ "metadata": { "name": "one" }, "spec": spec, "status": status }),
            )
            .unwrap()
        };
        let addresses = json!({ "addresses": [
            { "type": "Hostname", "address": "one" },
            { "type": "InternalIP", "address": "fd00::1" },
            { "type": "InternalIP", "address": "192.168.7.2" },
        ] });
        let whole = node(
            json!({ "podCIDR": "fd01::/64", "podCIDRs": ["fd01::/64", "10.244.1.0/24"] }),
            addresses.clone(),
        );
        let rangeless = node(json!({}), addresses);
        let nowhere = node(json!({ "podCIDR": "10.244.1.0/24" }), json!({}));
        assert!(written([&rangeless, &nowhere].into_iter()).is_empty());
        let data = written([&whole].into_iter());
        assert_eq!(data["one"], "192.168.7.2 10.244.1.0/24");
        let mut map = ConfigMap {
            data: Some(data),
            ..ConfigMap::default()
        };
        let lines = map.data.get_or_insert_default();
        lines.insert("two".into(), "nonsense".into());
        lines.insert("three".into(), "192.168.7.3 10.244.0.0/33".into());
        let peers = read(&map);
        assert_eq!(peers.len(), 1, "{peers:?}");
        assert_eq!(peers[0].address.to_string(), "192.168.7.2");
        assert_eq!(peers[0].range.to_string(), "10.244.1.0/24");
    }
}
