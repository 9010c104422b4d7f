//! The host's side of the pod network, through netlink.

use std::{
    fs,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressMessage},
        link::LinkAttribute,
        route::RouteScope,
    },
};

use crate::{
    Cidr, NetworkError, Options, mesh, namespace,
    places::Place,
    table::{Frame, Table},
};

pub(crate) struct Bridge {
    netlink: Handle,
    connection: tokio::task::JoinHandle<()>,
    pub(crate) name: String,
    index: u32,
    cidr: Cidr,
    netns_dir: PathBuf,
    /// `None` without nftables.
    table: Option<Arc<Table>>,
}

impl Bridge {
    pub(crate) async fn open(options: &Options) -> Result<Self, NetworkError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !(1..=15).contains(&options.bridge.len()) || !options.bridge.chars().all(plain) {
            return Err(NetworkError::BridgeName(options.bridge.clone()));
        }
        let (connection, netlink, _) =
            rtnetlink::new_connection().map_err(|source| NetworkError::Io {
                act: "netlink",
                source,
            })?;
        let connection = tokio::spawn(connection);
        let name = options.bridge.clone();
        let mut bridge = Self {
            netlink,
            connection,
            name,
            index: 0,
            cidr: options.cidr,
            netns_dir: options.netns_dir.clone(),
            table: None,
        };
        bridge.refuse_overlap().await?;
        bridge.make().await?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").or_else(|source| {
            let on = fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
            match on.is_ok_and(|value| value.trim() == "1") {
                true => Ok(()),
                false => Err(NetworkError::Io {
                    act: "switching on ip_forward",
                    source,
                }),
            }
        })?;
        bridge.tune();
        if let Some((base, prefix)) = options.services {
            bridge.route_services(base, prefix).await?;
        }
        let frame = Frame {
            table: bridge.table_name(),
            bridge: bridge.name.clone(),
            pods: options.cidr,
            services: options.services,
        };
        match Table::install(frame).await {
            Ok(table) => bridge.table = Some(table),
            Err(error) => tracing::warn!(
                %error,
                "no nftables: pods reach this host and each other, but nothing beyond, Services have \
                 no addresses that work and NetworkPolicies are not enforced; install the program \
                 nft, and a kernel with nf_tables"
            ),
        }
        Ok(bridge)
    }

    /// Two networks with the same addresses would take each other's packets.
    async fn refuse_overlap(&self) -> Result<(), NetworkError> {
        let own = index_of(&self.netlink, &self.name).await?;
        for (index, address, _) in self.addresses().await? {
            if Some(index) != own && self.cidr.contains(address) {
                let interface = name_of(&self.netlink, index)
                    .await?
                    .unwrap_or_else(|| format!("#{index}"));
                return Err(NetworkError::Overlap {
                    cidr: self.cidr,
                    interface,
                    address,
                });
            }
        }
        Ok(())
    }

    async fn make(&mut self) -> Result<(), NetworkError> {
        if index_of(&self.netlink, &self.name).await?.is_none() {
            let link = LinkBridge::new(&self.name).up().build();
            self.netlink
                .link()
                .add(link)
                .execute()
                .await
                .map_err(|source| match errno(&source) {
                    Some(libc::EPERM | libc::EACCES) => NetworkError::Unprivileged,
                    _ => NetworkError::Netlink {
                        act: "making the bridge",
                        source,
                    },
                })?;
        }
        let missing = || NetworkError::Io {
            act: "making the bridge",
            source: io::ErrorKind::NotFound.into(),
        };
        self.index = index_of(&self.netlink, &self.name)
            .await?
            .ok_or_else(missing)?;
        let up = LinkUnspec::new_with_index(self.index).up().build();
        self.netlink
            .link()
            .set(up)
            .execute()
            .await
            .map_err(|source| match errno(&source) {
                Some(libc::EPERM | libc::EACCES) => NetworkError::Unprivileged,
                _ => NetworkError::Netlink {
                    act: "bringing the bridge up",
                    source,
                },
            })?;
        self.add(self.cidr.gateway(), self.cidr.prefix()).await
    }

    /// How the kernel treats what pods send. Nothing here is needed for pods to run.
    fn tune(&self) {
        for (interface, key, value) in [
            // What comes from the host's own loopback to a node port leaves by the bridge; the table
            // drops what pods send to loopback addresses.
            (&*self.name, "route_localnet", "1"),
            // Pods reach each other by the host for good: advice against it would only use up what
            // the kernel allows itself to send, and refusals would be late. For all interfaces it is
            // on if it is on for that one or for "all".
            (&*self.name, "send_redirects", "0"),
            ("all", "send_redirects", "0"),
        ] {
            let path = format!("/proc/sys/net/ipv4/conf/{interface}/{key}");
            if let Err(error) = fs::write(&path, value) {
                tracing::warn!(%error, path, value, "a setting of the pod network was not made");
            }
        }
    }

    /// Cluster addresses need a way, or nothing is sent that could be translated: this is the host's
    /// own. Pods send everything to the host anyway.
    async fn route_services(&self, base: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(base, prefix)
            .output_interface(self.index)
            .scope(RouteScope::Link)
            .pref_source(self.cidr.gateway())
            .build();
        let added = self.netlink.route().add(route).replace().execute().await;
        added.map_err(|source| NetworkError::Netlink {
            act: "routing the addresses of services to the bridge",
            source,
        })
    }

    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        self.table.clone()
    }

    async fn add(&self, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
        let added = self
            .netlink
            .address()
            .add(self.index, IpAddr::V4(address), prefix)
            .execute()
            .await;
        match added {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            result => result.map_err(|source| NetworkError::Netlink {
                act: "adding an address to the bridge",
                source,
            }),
        }
    }

    /// The address of a pod without a namespace.
    pub(crate) async fn add_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        self.add(address, 32).await
    }

    /// Make a namespace for a pod and join it to the bridge.
    pub(crate) async fn join(&self, uid: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        let failed = |act| move |source| NetworkError::Netlink { act, source };
        let path = self.netns_path(uid)?;
        namespace::create(path.clone()).await?;
        let file = File::open(&path).map_err(|source| NetworkError::Io {
            act: "opening a network namespace",
            source,
        })?;
        let (outside, inside) = veth_names(address);
        let links = self.netlink.link();
        self.delete_link(&outside).await?;
        links
            .add(LinkVeth::new(&outside, &inside).build())
            .execute()
            .await
            .map_err(failed("making a veth pair"))?;
        let missing = || NetworkError::Io {
            act: "making a veth pair",
            source: io::ErrorKind::NotFound.into(),
        };
        let inside = index_of(&self.netlink, &inside)
            .await?
            .ok_or_else(missing)?;
        let moved = LinkUnspec::new_with_index(inside)
            .name(namespace::INTERFACE)
            .setns_by_fd(file.as_raw_fd())
            .build();
        links
            .set(moved)
            .execute()
            .await
            .map_err(failed("moving a veth into its pod"))?;
        let outside = index_of(&self.netlink, &outside)
            .await?
            .ok_or_else(missing)?;
        let joined = LinkUnspec::new_with_index(outside)
            .controller(self.index)
            .up()
            .build();
        links
            .set(joined)
            .execute()
            .await
            .map_err(failed("joining a veth to the bridge"))?;
        // Pods see only the host, so that every packet comes by the table. Where the kernel filters
        // bridged packets too, it delivers translated ones by the bridge, and they come by anyway;
        // then a pod that is led to itself needs its own port to send back.
        let bridged = filters_bridged();
        let apart = LinkBridgePort::new(outside)
            .isolated(!bridged)
            .hairpin(bridged)
            .build();
        links
            .set_port(apart)
            .execute()
            .await
            .map_err(failed("keeping a pod apart from the others"))?;
        namespace::configure(path, address, self.cidr.gateway()).await
    }

    /// Whether a place that was noted down is there.
    pub(crate) async fn has(&self, uid: &str, place: &Place) -> Result<bool, NetworkError> {
        if !place.netns {
            let all = self.addresses().await?;
            return Ok(all.contains(&(self.index, place.address, 32)));
        }
        let veth = index_of(&self.netlink, &veth_names(place.address).0).await?;
        Ok(veth.is_some() && namespace::is_there(&self.netns_path(uid)?))
    }

    /// Undo [`Self::join`] or [`Self::add_address`], also half of it.
    pub(crate) async fn leave(
        &self,
        uid: &str,
        address: Ipv4Addr,
        netns: bool,
    ) -> Result<(), NetworkError> {
        if !netns {
            return self.delete_address(address).await;
        }
        self.delete_link(&veth_names(address).0).await?;
        namespace::remove(&self.netns_path(uid)?).map_err(|source| NetworkError::Io {
            act: "removing a network namespace",
            source,
        })
    }

    pub(crate) async fn sweep(
        &self,
        keep_uid: &(dyn Fn(&str) -> bool + Sync),
        keep_address: &(dyn Fn(Ipv4Addr) -> bool + Sync),
    ) -> Result<(), NetworkError> {
        let links: Vec<_> = self
            .netlink
            .link()
            .get()
            .execute()
            .try_filter_map(|link| {
                let controlled = link
                    .attributes
                    .contains(&LinkAttribute::Controller(self.index));
                let name = link
                    .attributes
                    .into_iter()
                    .find_map(|attribute| match attribute {
                        LinkAttribute::IfName(name) if controlled => Some(name),
                        _ => None,
                    });
                std::future::ready(Ok(name))
            })
            .try_collect()
            .await
            .map_err(|source| NetworkError::Netlink {
                act: "listing links",
                source,
            })?;
        for link in links {
            if address_of_veth(&link).is_some_and(|address| !keep_address(address)) {
                self.delete_link(&link).await?;
            }
        }
        for (index, address, prefix) in self.addresses().await? {
            if index == self.index && prefix == 32 && !keep_address(address) {
                self.delete_address(address).await?;
            }
        }
        let act = "removing network namespaces of an earlier host";
        let entries = match fs::read_dir(&self.netns_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|source| NetworkError::Io { act, source })?,
        };
        for entry in entries.flatten() {
            if !keep_uid(&entry.file_name().to_string_lossy()) {
                namespace::remove(&entry.path())
                    .map_err(|source| NetworkError::Io { act, source })?;
            }
        }
        Ok(())
    }

    pub(crate) async fn close(&self) -> Result<(), NetworkError> {
        self.sweep(&|_| false, &|_| false).await?;
        mesh::remove(&self.name, self.cidr).await?;
        if let Some(table) = &self.table
            && let Err(error) = table.remove().await
        {
            tracing::warn!(%error, "the nftables table was not removed");
        }
        self.delete_link(&self.name).await
    }

    fn table_name(&self) -> String {
        format!("eyot-{}", self.name)
    }

    /// A pod's uid is part of a path: nothing but what uids are made of.
    pub(crate) fn netns_path(&self, uid: &str) -> Result<PathBuf, NetworkError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if uid.is_empty() || uid.len() > 128 || !uid.chars().all(plain) {
            let source = io::Error::other(format!("uid {uid:?} is not made of letters, digits, -"));
            return Err(NetworkError::Io {
                act: "naming a network namespace",
                source,
            });
        }
        Ok(self.netns_dir.join(uid))
    }

    async fn addresses(&self) -> Result<Vec<(u32, Ipv4Addr, u8)>, NetworkError> {
        ipv4_addresses(&self.netlink).await
    }

    async fn delete_address(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let act = "removing an address from the bridge";
        let all: Vec<AddressMessage> = self
            .netlink
            .address()
            .get()
            .set_link_index_filter(self.index)
            .set_address_filter(IpAddr::V4(address))
            .execute()
            .try_collect()
            .await
            .map_err(|source| NetworkError::Netlink { act, source })?;
        for message in all {
            match self.netlink.address().del(message).execute().await {
                Err(error) if errno(&error) == Some(libc::EADDRNOTAVAIL) => {}
                result => result.map_err(|source| NetworkError::Netlink { act, source })?,
            }
        }
        Ok(())
    }

    async fn delete_link(&self, name: &str) -> Result<(), NetworkError> {
        let Some(index) = index_of(&self.netlink, name).await? else {
            return Ok(());
        };
        match self.netlink.link().del(index).execute().await {
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(()),
            result => result.map_err(|source| NetworkError::Netlink {
                act: "removing a link",
                source,
            }),
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Whether packets that a bridge passes on go through the packet filter (`br_netfilter`).
fn filters_bridged() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|value| value.trim() == "1")
}

/// The index of an interface, if there is one of that name.
pub(crate) async fn index_of(netlink: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    match netlink
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await
    {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(NetworkError::Netlink {
            act: "finding an interface",
            source,
        }),
    }
}

/// Interface, address and prefix length of every IPv4 address of the host.
pub(crate) async fn ipv4_addresses(
    netlink: &Handle,
) -> Result<Vec<(u32, Ipv4Addr, u8)>, NetworkError> {
    let all: Vec<AddressMessage> = netlink
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| NetworkError::Netlink {
            act: "listing addresses",
            source,
        })?;
    Ok(all
        .iter()
        .filter_map(|message| {
            let address = v4(message)?;
            Some((message.header.index, address, message.header.prefix_len))
        })
        .collect())
}

async fn name_of(netlink: &Handle, index: u32) -> Result<Option<String>, NetworkError> {
    let link = netlink
        .link()
        .get()
        .match_index(index)
        .execute()
        .try_next()
        .await
        .map_err(|source| NetworkError::Netlink {
            act: "finding an interface",
            source,
        })?;
    Ok(link.and_then(|link| {
        link.attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
    }))
}

fn v4(message: &AddressMessage) -> Option<Ipv4Addr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })
}

/// Names of a pod's veth pair: outside, and inside until it has moved. Derived from the address,
/// so that what is left over can be told apart.
fn veth_names(address: Ipv4Addr) -> (String, String) {
    let number = u32::from(address);
    (format!("veth{number:08x}"), format!("vpod{number:08x}"))
}

fn address_of_veth(name: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(name.strip_prefix("veth")?, 16)
        .ok()
        .map(Ipv4Addr::from)
}

/// The system's error number in a netlink answer.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}
