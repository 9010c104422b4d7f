//! The pod network of one node: an address for each pod, and a network namespace for the pods
//! that hold containers or open sockets.
//!
//! All pods of a node share a bridge. A pod with containers gets a namespace of its own, joined to
//! the bridge by a veth pair; so does one whose Wasm guests use `wasi:sockets`. Other pods of Wasm
//! guests have none, since the host opens their sockets: the pod's address is simply added to the bridge, so that a socket of the host can be bound to it, and
//! everybody reaches both kinds of pods in the same way.
//!
//! ```text
//!   host ── eyot0 (bridge) 10.244.0.1/24, and 10.244.0.3/32 for each Wasm pod
//!             ├─ veth ── eth0 10.244.0.2/32 in STATE/netns/<uid>, default route 10.244.0.1
//!             └─ …       Services, policies, masquerading: one nftables table (`table`)
//! ```
//!
//! A namespace is kept alive by a bind mount of its file instead of a pause process. All state is
//! in the kernel, with a note of each pod's address ([`places`]): the next life of the host finds
//! the places of pods as they were, [`PodNetwork::sweep`] removes what was half made, and
//! [`PodNetwork::retain`] what belongs to pods that are no longer there. Nothing that works is taken
//! down for a moment: also the rules of the table stay until the new ones are known.
//!
//! Without the privilege to make a bridge, pods of Wasm guests get loopback addresses out of
//! 127.244.0.0/16, which need no set-up, and pods with containers are refused.

mod bridge;
mod cluster;
mod dns;
mod ingress;
mod keep;
mod mesh;
mod namespace;
mod nft;
mod places;
mod policy;
mod pool;
mod service;
mod table;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use eyot_runtime::{PodRef, Sandbox};

use crate::{
    bridge::Bridge,
    places::{Place, Places},
    pool::Pool,
};

pub use cluster::Cluster;
pub use dns::{DOMAIN, Dns};
pub use ingress::{Doors, IngressRouter};
pub use mesh::{MAP, Mesh, NAMESPACE as MAP_NAMESPACE, keep_map};
pub use namespace::dial_loopback;
pub use policy::Guard;
pub use pool::Cidr;
pub use service::Balancer;

/// Where addresses come from when there is no bridge; the part of 127.0.0.0/8 that looks most
/// like the usual pod network.
const LOOPBACK: Cidr = Cidr::new_unchecked(Ipv4Addr::new(127, 244, 0, 0), 16);

/// The kernel's limit on a host name.
const MAX_HOSTNAME: usize = 63;

/// How the pod network is laid out. Two hosts on one machine need different values of all.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the bridge and of the nftables table; at most 15 characters.
    pub bridge: String,
    /// Addresses of pods; the first is the bridge's own.
    pub cidr: Cidr,
    /// Where the files of network namespaces are kept; on a tmpfs, usually below `/run`.
    pub netns_dir: PathBuf,
    /// The IPv4 network of the addresses of Services; `None` if there are none.
    pub services: Option<(Ipv4Addr, u8)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bridge: "eyot0".into(),
            cidr: Cidr::new_unchecked(Ipv4Addr::new(10, 244, 0, 0), 24),
            netns_dir: "/run/eyot/netns".into(),
            services: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("pod network {text:?}: {reason}")]
    Cidr { text: String, reason: &'static str },
    #[error("bridge name {0:?} must be 1 to 15 letters, digits or -")]
    BridgeName(String),
    /// Another interface already has an address in the pod network.
    #[error("pod network {cidr} is in use: interface {interface} has {address}; choose another")]
    Overlap {
        cidr: Cidr,
        interface: String,
        address: Ipv4Addr,
    },
    #[error("all {count} addresses of the pod network {cidr} are in use; stop pods or widen it")]
    Exhausted { cidr: Cidr, count: u32 },
    #[error(
        "pods with containers, and Wasm guests with sockets, need a network namespace, which this \
         process may not make: run eyot as root, or use hostNetwork or other Wasm images"
    )]
    Unprivileged,
    #[error("{act}: {source}")]
    Netlink {
        act: &'static str,
        source: rtnetlink::Error,
    },
    #[error("{act}: {source}")]
    Io {
        act: &'static str,
        source: io::Error,
    },
}

/// The pod network. All methods are idempotent.
pub struct PodNetwork {
    cidr: Cidr,
    /// `None`: loopback addresses only.
    bridge: Option<Bridge>,
    places: Places,
    pods: Mutex<Pods>,
    /// One change of the kernel's state at a time; netlink serialises anyway.
    changing: tokio::sync::Mutex<()>,
}

struct Pods {
    pool: Pool,
    /// By uid.
    attached: HashMap<String, Place>,
}

impl PodNetwork {
    /// Make or take over the bridge. Must be called in the host's network namespace.
    pub async fn open(options: Options) -> Result<Self, NetworkError> {
        let bridge = match Bridge::open(&options).await {
            Ok(bridge) => Some(bridge),
            Err(NetworkError::Unprivileged) => {
                tracing::warn!(
                    "no privilege to make a bridge: Wasm pods get loopback addresses, pods with \
                     containers cannot run"
                );
                None
            }
            Err(error) => return Err(error),
        };
        let cidr = if bridge.is_some() {
            options.cidr
        } else {
            LOOPBACK
        };
        let mut pods = Pods {
            pool: Pool::new(cidr),
            attached: HashMap::new(),
        };
        let places = Places::new(&options.netns_dir, &options.bridge);
        if let Some(bridge) = &bridge {
            take_over(bridge, &places, &mut pods).await?;
        }
        Ok(Self {
            cidr,
            bridge,
            places,
            pods: Mutex::new(pods),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// The network that pods are in.
    pub fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// The host's address on the bridge, by which every pod reaches it.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.bridge.as_ref().map(|_| self.cidr.gateway())
    }

    /// Whether pods with containers can be attached.
    pub fn has_namespaces(&self) -> bool {
        self.bridge.is_some()
    }

    /// Give a pod its address and, with `netns`, a network namespace. A pod that is attached
    /// already, be it by an earlier life of the host, gets the same again.
    pub async fn attach(&self, pod: &PodRef, netns: bool) -> Result<Sandbox, NetworkError> {
        let _changing = self.changing.lock().await;
        let known = self.lock().attached.get(&pod.uid).cloned();
        if let Some(place) = known
            && (place.netns || !netns)
        {
            return self.sandbox(pod, &place);
        }
        self.detach_locked(&pod.uid).await?;
        if netns && self.bridge.is_none() {
            return Err(NetworkError::Unprivileged);
        }
        let address = self.lock().pool.take().ok_or(NetworkError::Exhausted {
            cidr: self.cidr,
            count: self.cidr.hosts(),
        })?;
        let place = Place { address, netns };
        match self.make(&pod.uid, &place).await {
            Ok(()) => {
                self.lock().attached.insert(pod.uid.clone(), place.clone());
                self.sandbox(pod, &place)
            }
            Err(error) => {
                if let Some(bridge) = &self.bridge
                    && let Err(error) = bridge.leave(&pod.uid, address, netns).await
                {
                    tracing::warn!(%pod, %error, "cannot undo a failed attachment");
                }
                self.lock().pool.give_back(address);
                Err(error)
            }
        }
    }

    async fn make(&self, uid: &str, place: &Place) -> Result<(), NetworkError> {
        let Some(bridge) = &self.bridge else {
            return Ok(());
        };
        // Also refuses what cannot be the name of a file.
        bridge.netns_path(uid)?;
        match place.netns {
            true => bridge.join(uid, place.address).await?,
            false => bridge.add_address(place.address).await?,
        }
        self.places
            .write(uid, place)
            .map_err(|source| NetworkError::Io {
                act: "noting a pod's address",
                source,
            })
    }

    fn sandbox(&self, pod: &PodRef, place: &Place) -> Result<Sandbox, NetworkError> {
        let mut hostname = pod.name.clone();
        hostname.truncate(MAX_HOSTNAME);
        let bridge = self.bridge.as_ref().filter(|_| place.netns);
        Ok(Sandbox {
            ip: Some(IpAddr::V4(place.address)),
            netns: bridge.map(|b| b.netns_path(&pod.uid)).transpose()?,
            hostname,
        })
    }

    /// Take the address and the namespace back. No error if the pod is not attached.
    pub async fn detach(&self, pod: &PodRef) -> Result<(), NetworkError> {
        let _changing = self.changing.lock().await;
        self.detach_locked(&pod.uid).await
    }

    async fn detach_locked(&self, uid: &str) -> Result<(), NetworkError> {
        let Some(place) = self.lock().attached.get(uid).cloned() else {
            return Ok(());
        };
        if let Some(bridge) = &self.bridge {
            // First, so that half of a place is never taken for a whole one.
            self.places.remove(uid).map_err(|source| NetworkError::Io {
                act: "removing the note of a pod's address",
                source,
            })?;
            bridge.leave(uid, place.address, place.netns).await?;
        }
        let mut pods = self.lock();
        pods.attached.remove(uid);
        pods.pool.give_back(place.address);
        Ok(())
    }

    /// Detach all pods but those whose uid `keep` knows: once it is known which pods there are.
    pub async fn retain(&self, keep: impl Fn(&str) -> bool + Sync) -> Result<(), NetworkError> {
        let _changing = self.changing.lock().await;
        let all: Vec<String> = self.lock().attached.keys().cloned().collect();
        for uid in all.iter().filter(|uid| !keep(uid)) {
            self.detach_locked(uid).await?;
        }
        Ok(())
    }

    /// Remove what an earlier host had half made or half removed: namespaces, links and addresses of
    /// pods that are not attached. Called once, before pods are started.
    pub async fn sweep(&self) -> Result<(), NetworkError> {
        let _changing = self.changing.lock().await;
        let Some(bridge) = &self.bridge else {
            return Ok(());
        };
        let attached = self.lock().attached.clone();
        bridge
            .sweep(
                &|uid| attached.get(uid).is_some_and(|place| place.netns),
                &|address| attached.values().any(|place| place.address == address),
            )
            .await
    }

    /// Remove everything, the bridge included. For the end of a host that leaves nothing behind.
    pub async fn close(&self) -> Result<(), NetworkError> {
        self.retain(|_| false).await?;
        let _changing = self.changing.lock().await;
        self.places.close();
        match &self.bridge {
            Some(bridge) => bridge.close().await,
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Find the places that an earlier host gave, as far as they are whole. What is not is left to
/// [`PodNetwork::sweep`].
async fn take_over(bridge: &Bridge, places: &Places, pods: &mut Pods) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Io {
        act: "reading the notes of pods' addresses",
        source,
    };
    for (uid, place) in places.read().map_err(failed)? {
        let whole = bridge.has(&uid, &place).await?;
        let claimed = pods.pool.claim(place.address);
        if whole && claimed {
            pods.attached.insert(uid, place);
            continue;
        }
        places.remove(&uid).map_err(failed)?;
        if claimed {
            // Handed out last: the pod must see that its place is another one.
            pods.pool.give_back(place.address);
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
