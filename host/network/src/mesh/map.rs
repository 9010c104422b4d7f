//! The map: which node has which range, and where it is reached. A ConfigMap with a line for each node,
//! `NODE: "ADDRESS RANGE"`, the number of the cluster's network as an annotation, and the right of all
//! nodes to read it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eyot_client::Cache;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Node},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::plan::Peer;
use crate::cluster::wake;

pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "eyot-node-network";
/// Who writes it.
const MANAGER: &str = "eyot-node-network";
/// The Role to read it, and its binding to all nodes.
const RIGHT: &str = "eyot:node-network";
/// Nodes that come together are written together.
const GATHER: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_secs(5);

/// The number of the cluster's network in the tunnel, so that two clusters whose nodes meet are apart.
const VNI: &str = "eyot.dev/vni";

/// The network's number in a map.
pub(super) fn vni(map: &ConfigMap) -> Option<u32> {
    let number = map.metadata.annotations.as_ref()?.get(VNI)?.parse().ok()?;
    (1..1 << 24).contains(&number).then_some(number)
}

/// Made of what tells this cluster from all others: the uid of a namespace that lasts.
async fn choose(client: &Client) -> Result<u32, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let uid = namespaces.get(NAMESPACE).await?.metadata.uid;
    let uid = uid.unwrap_or_default();
    // The first digits of a random one: 24 bits are what vxlan has.
    let number = u32::from_str_radix(uid.get(..6).unwrap_or_default(), 16);
    Ok(number.unwrap_or_default().max(1))
}

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
    let (mut known, mut is_granted) = (None, false);
    loop {
        let nodes = nodes.list();
        let lines = written(nodes.iter().map(AsRef::as_ref));
        let writing = async {
            if !is_granted {
                grant(&client).await?;
            }
            if known.as_ref() != Some(&lines) {
                let annotations = json!({ VNI: choose(&client).await?.to_string() });
                let map = json!({ "metadata": { "annotations": annotations }, "data": lines });
                apply::<ConfigMap>(&client, NAME, map).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match writing.await {
            Ok(()) => (known, is_granted) = (Some(lines), true),
            Err(error) => {
                tracing::debug!(%error, "the map of the nodes' networks was not written; trying again");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        }
        changed.notified().await;
        tokio::time::sleep(GATHER).await;
    }
}

/// Let nodes read the map.
async fn grant(client: &Client) -> Result<(), kube::Error> {
    let rule = json!({
        "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NAME],
        "verbs": ["get", "list", "watch"],
    });
    apply::<Role>(client, RIGHT, json!({ "rules": [rule] })).await?;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "roleRef": { "apiGroup": group, "kind": "Role", "name": RIGHT },
        "subjects": [{ "apiGroup": group, "kind": "Group", "name": "system:nodes" }],
    });
    apply::<RoleBinding>(client, RIGHT, binding).await
}

/// Have an object of this name with these fields, whatever others put beside them.
async fn apply<K>(client: &Client, name: &str, mut fields: Value) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    fields["apiVersion"] = K::api_version(&()).into();
    fields["kind"] = K::kind(&()).into();
    fields["metadata"]["name"] = name.into();
    fields["metadata"]["namespace"] = NAMESPACE.into();
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(fields))
        .await
        .map(drop)
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
