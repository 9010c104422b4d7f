//! Which way leads to which node. Pure.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::Cidr;

/// Another node, as the map has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub node: String,
    /// Where the machine is reached.
    pub address: Ipv4Addr,
    /// Of its pods.
    pub range: Cidr,
}

/// An address of this machine, on a link that leads to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Link {
    fn reaches(&self, address: Ipv4Addr) -> bool {
        let bits = |address: Ipv4Addr| {
            let unused = 32 - u32::from(self.prefix.min(32));
            u32::from(address).checked_shr(unused).unwrap_or(0)
        };
        self.prefix < 32 && bits(self.address) == bits(address)
    }
}

/// This machine.
#[derive(Debug)]
pub(super) struct Own<'a> {
    pub node: &'a str,
    pub range: Cidr,
    pub links: Vec<Link>,
}

/// How packets for the pods of a node travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The node is the next hop on this link.
    Direct { via: Ipv4Addr, link: u32 },
    /// Inside UDP, to this address.
    Tunnel { to: Ipv4Addr },
}

/// The way to each range. A range that two nodes claim belongs to the one whose name comes first; one
/// that holds addresses of this node's own pods to nobody else.
pub(super) fn plan(own: &Own<'_>, peers: &[Peer]) -> BTreeMap<Cidr, Way> {
    let mut ways: BTreeMap<Cidr, Way> = BTreeMap::new();
    for peer in peers {
        let is_here = peer.node == own.node
            || own.links.iter().any(|link| link.address == peer.address)
            || peer.range.overlaps(&own.range);
        if is_here || ways.keys().any(|range| range.overlaps(&peer.range)) {
            continue;
        }
        let link = own.links.iter().find(|link| link.reaches(peer.address));
        let way = match link {
            Some(link) => Way::Direct {
                via: peer.address,
                link: link.index,
            },
            None => Way::Tunnel { to: peer.address },
        };
        ways.insert(peer.range, way);
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: &str, address: [u8; 4], range: &str) -> Peer {
        Peer {
            node: node.to_owned(),
            address: address.into(),
            range: range.parse().unwrap(),
        }
    }

    #[test]
    fn a_shared_link_is_used_and_everything_else_goes_through_the_tunnel() {
        let own = Own {
            node: "here",
            range: "10.244.1.0/24".parse().unwrap(),
            links: vec![
                Link {
                    index: 3,
                    address: [192, 168, 7, 2].into(),
                    prefix: 24,
                },
                Link {
                    index: 4,
                    address: [172, 16, 0, 1].into(),
                    prefix: 32,
                },
            ],
        };
        let peers = [
            peer("here", [192, 168, 7, 2], "10.244.1.0/24"),
            peer("near", [192, 168, 7, 9], "10.244.2.0/24"),
            peer("far", [192, 168, 8, 9], "10.244.3.0/24"),
            // Not believed: pods of this node, and pods of another.
            peer("thief", [192, 168, 7, 8], "10.244.1.0/25"),
            peer("twin", [192, 168, 7, 7], "10.244.2.0/24"),
            peer("same-machine", [172, 16, 0, 1], "10.244.5.0/24"),
        ];
        let direct = Way::Direct {
            via: [192, 168, 7, 9].into(),
            link: 3,
        };
        let tunnel = Way::Tunnel {
            to: [192, 168, 8, 9].into(),
        };
        let expected = [
            ("10.244.2.0/24".parse().unwrap(), direct),
            ("10.244.3.0/24".parse().unwrap(), tunnel),
        ];
        assert_eq!(plan(&own, &peers), expected.into());
    }
}
