//! Ways as the kernel has them: routes, and for the tunnel a vxlan link with a neighbour and a
//! forwarding entry for each node behind it.
//!
//! Nothing but the map is needed to know another node's end of the tunnel: the hardware address of a
//! node's link is made of its range ([`mac`]), and its first address stands for it as next hop. Entries
//! are permanent, so nothing is ever asked for or learned.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder,
    packet_route::{
        link::{LinkAttribute, LinkMessage},
        neighbour::NeighbourFlags,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
    },
};

use super::plan::{Link, Way};
use crate::{
    Cidr, NetworkError,
    bridge::{errno, index_of, ipv4_addresses},
};

/// Who made a route, for `ip route`: no program's number in iproute2's list.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x45);
/// What the kernel uses by itself; flannel's, too.
const PORT: u16 = 8472;
/// Of an Ethernet without jumbo frames, less what the tunnel adds.
const MTU: u32 = 1450;

pub(super) struct Kernel {
    netlink: Handle,
    connection: tokio::task::JoinHandle<()>,
    bridge: String,
    range: Cidr,
    /// What is there; `None` until it was looked at.
    ways: Option<BTreeMap<Cidr, Way>>,
}

impl Kernel {
    pub(super) async fn open(bridge: &str, range: Cidr) -> Result<Self, NetworkError> {
        let (connection, netlink, _) =
            rtnetlink::new_connection().map_err(|source| NetworkError::Io {
                act: "netlink",
                source,
            })?;
        Ok(Self {
            netlink,
            connection: tokio::spawn(connection),
            bridge: bridge.to_owned(),
            range,
            ways: None,
        })
    }

    /// Addresses of this machine, but for those of pods and its own.
    pub(super) async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let bridge = index_of(&self.netlink, &self.bridge).await?;
        let all = ipv4_addresses(&self.netlink).await?;
        let links = all
            .into_iter()
            .filter(|(index, address, _)| Some(*index) != bridge && !address.is_loopback());
        let link = |(index, address, prefix)| Link {
            index,
            address,
            prefix,
        };
        Ok(links.map(link).collect())
    }

    /// Have exactly these ways.
    pub(super) async fn set(
        &mut self,
        wanted: &BTreeMap<Cidr, Way>,
        vni: u32,
    ) -> Result<(), NetworkError> {
        if self.ways.as_ref() == Some(wanted) {
            return Ok(());
        }
        // Until all of it is done it is not known what is there.
        let known = self.ways.take();
        let is_kept = |range: &Cidr| {
            known
                .as_ref()
                .is_some_and(|k| k.get(range) == wanted.get(range))
        };
        for (range, way) in wanted.iter().filter(|(range, _)| !is_kept(range)) {
            self.add(*range, *way, vni).await?;
        }
        for route in self.routes().await? {
            let range = destination(&route);
            if range.is_none_or(|range| !wanted.contains_key(&range)) {
                self.delete(route).await?;
            }
        }
        self.ways = Some(wanted.clone());
        Ok(())
    }

    /// Leave nothing.
    pub(super) async fn clear(&mut self) -> Result<(), NetworkError> {
        for route in self.routes().await? {
            self.delete(route).await?;
        }
        self.fill(|_| true).await
    }

    /// The tunnel's ends that a host with this bridge has made: how their names begin.
    fn prefix(&self) -> String {
        format!("vx{:04x}", self.metric() & 0xffff)
    }

    /// Remove ends of tunnels by their names.
    async fn fill(&self, is_superfluous: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let prefix = self.prefix();
        let links: Vec<LinkMessage> = self
            .netlink
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("listing links"))?;
        for link in links {
            let is_ours = link.attributes.iter().any(|attribute| match attribute {
                LinkAttribute::IfName(name) => name.starts_with(&prefix) && is_superfluous(name),
                _ => false,
            });
            if is_ours {
                let deleted = self.netlink.link().del(link.header.index).execute().await;
                deleted.map_err(failed("removing a tunnel to other nodes"))?;
            }
        }
        Ok(())
    }

    /// Make this machine's end of the tunnel.
    async fn dig(&self, vni: u32) -> Result<u32, NetworkError> {
        let name = format!("{}{vni:06x}", self.prefix());
        if let Some(index) = index_of(&self.netlink, &name).await? {
            return Ok(index);
        }
        // What a host of another cluster has left.
        self.fill(|other| other != name).await?;
        let link = LinkVxlan::new(&name, vni)
            .port(PORT)
            .learning(false)
            .address(mac(self.range).to_vec())
            .mtu(MTU)
            .build();
        let made = self.netlink.link().add(link).execute().await;
        made.map_err(failed("making the tunnel to other nodes (vxlan)"))?;
        let missing = || NetworkError::Io {
            act: "making the tunnel to other nodes (vxlan)",
            source: std::io::ErrorKind::NotFound.into(),
        };
        let index = index_of(&self.netlink, &name).await?;
        let index = index.ok_or_else(missing)?;
        let up = LinkUnspec::new_with_index(index).up().build();
        let set = self.netlink.link().set(up).execute().await;
        set.map_err(failed("bringing the tunnel to other nodes up"))?;
        Ok(index)
    }

    async fn add(&self, range: Cidr, way: Way, vni: u32) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.base(), range.prefix())
            .protocol(PROTOCOL)
            .priority(self.metric());
        let route = match way {
            Way::Direct { via, link } => route.gateway(via).output_interface(link),
            Way::Tunnel { to } => {
                let link = self.dig(vni).await?;
                self.point(link, range, to).await?;
                route
                    .gateway(range.gateway())
                    .output_interface(link)
                    .onlink()
            }
        };
        let added = self.netlink.route().add(route.build()).replace().execute();
        added
            .await
            .map_err(failed("making a route to the pods of another node"))
    }

    /// Tell the tunnel where the end with this range is.
    async fn point(&self, link: u32, range: Cidr, to: Ipv4Addr) -> Result<(), NetworkError> {
        let neighbours = self.netlink.neighbours();
        let forwarding = neighbours
            .add_bridge(link, &mac(range))
            .destination(IpAddr::V4(to))
            .flags(NeighbourFlags::Own)
            .replace();
        let act = "pointing the tunnel at another node";
        forwarding.execute().await.map_err(failed(act))?;
        let neighbour = neighbours
            .add(link, IpAddr::V4(range.gateway()))
            .link_layer_address(&mac(range))
            .replace();
        neighbour.execute().await.map_err(failed(act))
    }

    /// The routes that a host with this bridge has made.
    async fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let any = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all: Vec<RouteMessage> = self
            .netlink
            .route()
            .get(any)
            .execute()
            .try_collect()
            .await
            .map_err(failed("listing routes"))?;
        let metric = RouteAttribute::Priority(self.metric());
        let ours = all.into_iter().filter(|route| {
            route.header.protocol == PROTOCOL && route.attributes.contains(&metric)
        });
        Ok(ours.collect())
    }

    /// Tells the routes of two hosts on one machine apart.
    fn metric(&self) -> u32 {
        let bytes = self.bridge.bytes().map(u32::from);
        0x4500_0000
            | (bytes.fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)) & 0xff_ffff)
    }

    async fn delete(&self, route: RouteMessage) -> Result<(), NetworkError> {
        match self.netlink.route().del(route).execute().await {
            // It went with its link.
            Err(error) if errno(&error) == Some(libc::ESRCH) => Ok(()),
            result => result.map_err(failed("removing a route to the pods of another node")),
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn failed(act: &'static str) -> impl Fn(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Netlink { act, source }
}

/// The hardware address of the end of the tunnel of the node with this range: locally administered.
fn mac(range: Cidr) -> [u8; 6] {
    let [a, b, c, d] = range.base().octets();
    [0x0a, 0x45, a, b, c, d]
}

fn destination(route: &RouteMessage) -> Option<Cidr> {
    let base = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(base)) => Some(*base),
            _ => None,
        })?;
    format!("{base}/{}", route.header.destination_prefix_length)
        .parse()
        .ok()
}
