//! What Kubernetes' own signers accept.

use std::collections::BTreeSet;

use super::wish::Wish;

/// The signer of nodes' client certificates.
pub(super) const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODES: &str = "system:nodes";
/// How the users that nodes are begin.
pub(super) const NODE: &str = "system:node:";

/// One of the signers that this host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    /// Of clients of the API.
    Client,
    /// Of nodes as clients of the API.
    NodeClient,
    /// Of the doors of nodes.
    NodeServing,
    /// Of anything, from before there were names.
    Legacy,
}

impl Signer {
    pub(super) fn named(name: &str) -> Option<Signer> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Signer::Client),
            NODE_CLIENT => Some(Signer::NodeClient),
            "kubernetes.io/kubelet-serving" => Some(Signer::NodeServing),
            "kubernetes.io/legacy-unknown" => Some(Signer::Legacy),
            _ => None,
        }
    }

    /// Whether the signer signs such a request for such usages, or why never.
    pub(super) fn accepts(self, wish: &Wish, usages: &[String]) -> Result<(), String> {
        let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
        match self {
            Signer::Legacy => Ok(()),
            Signer::Client => client(&usages),
            Signer::NodeClient => node_client(wish, &usages),
            Signer::NodeServing => node_serving(wish, &usages),
        }
    }
}

fn client(usages: &BTreeSet<&str>) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.contains("client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}

fn node_client(wish: &Wish, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_nodes(wish)?;
    let names = [
        (wish.hosts.is_empty(), "DNS subjectAltNames"),
        (wish.emails.is_empty(), "Email subjectAltNames"),
        (wish.addresses.is_empty(), "IP subjectAltNames"),
        (wish.uris.is_empty(), "URI subjectAltNames"),
    ];
    if let Some((_, names)) = names.iter().find(|(none, _)| !none) {
        return Err(format!("{names} are not allowed"));
    }
    of_a_node(wish)?;
    exactly(usages, "client auth")
}

fn node_serving(wish: &Wish, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_nodes(wish)?;
    if wish.hosts.is_empty() && wish.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    if !wish.emails.is_empty() {
        return Err("Email subjectAltNames are not allowed".to_owned());
    }
    if !wish.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed".to_owned());
    }
    exactly(usages, "server auth")?;
    of_a_node(wish)
}

fn of_nodes(wish: &Wish) -> Result<(), String> {
    match wish.organisations.as_slice() {
        [one] if one == NODES => Ok(()),
        _ => Err(format!("subject organization is not {NODES}")),
    }
}

fn of_a_node(wish: &Wish) -> Result<(), String> {
    if wish.common_name.starts_with(NODE) {
        return Ok(());
    }
    Err(format!("subject common name does not begin with {NODE}"))
}

/// The usages of a key of the purpose; only RSA keys encipher others.
fn exactly(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let most = BTreeSet::from([purpose, "digital signature", "key encipherment"]);
    let least = BTreeSet::from([purpose, "digital signature"]);
    if *usages == most || *usages == least {
        return Ok(());
    }
    let all: Vec<&str> = most.into_iter().collect();
    Err(format!("usages did not match [{}]", all.join(" ")))
}
