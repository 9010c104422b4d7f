//! `wasi:sockets` for the programs of pods: TCP, UDP and names.
//!
//! A pod whose component can make sockets has a network namespace like one with containers
//! ([`WasmRuntime`](crate::WasmRuntime) asks for it). Its sockets are made there, so they have the
//! pod's address and no other, Services and NetworkPolicies hold for them by the same rules of the
//! kernel, and loopback is the pod's own. On top of that:
//!
//! - it listens on the container's declared ports only;
//! - it connects and sends to what the annotation [`egress`](crate::egress) grants, and answers
//!   datagrams of those who sent it one;
//! - names are those of the cluster, found as outgoing HTTP finds them, and only granted ones.
//!
//! A driver's sockets are among the host's: it listens on no port, and exchanges messages with the
//! addresses of its devices only. So are an exporter's, with the addresses of its configuration.
//!
//! The sockets themselves are wasmtime's. Pods on the host's network, and those of a host that may
//! make no network, have theirs among the host's.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use eyot_runtime::ContainerSpec;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::{
    WasiCtxBuilder,
    p2::{
        DynPollable, Network, Pollable, SocketError, SocketResult, TcpSocket, UdpSocket,
        bindings::sockets::{
            network::{self, ErrorCode as SocketErrorCode, IpAddressFamily},
            tcp_create_socket, udp_create_socket,
        },
        subscribe,
    },
    sockets::{SocketAddrUse, WasiSocketsCtxView},
};

use crate::{
    bindings::{
        names,
        network::{ErrorCode, IpAddress},
    },
    egress::{Egress, Resolver},
    netns,
    program::{Program, Role},
    state::State,
};

/// The interfaces by which sockets are made.
const MAKERS: [&str; 2] = [
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp-create-socket",
];
/// Who may be answered by datagram: the latest that sent one.
const PEERS: usize = 1024;
/// Names whose addresses are remembered.
const NAMES: usize = 256;

/// What the sockets of one container may do.
pub(crate) struct Sockets {
    egress: Arc<Egress>,
    resolver: Resolver,
    ports: Vec<u16>,
    /// Whether it hears from everybody and may answer; else only from whom it may send to.
    open: bool,
    /// Names that were looked up, with their addresses.
    found: Mutex<VecDeque<(String, Vec<IpAddr>)>>,
    peers: Mutex<VecDeque<SocketAddr>>,
}

impl Sockets {
    pub(crate) fn new(spec: &ContainerSpec, egress: Arc<Egress>, resolver: Resolver) -> Arc<Self> {
        Arc::new(Self {
            egress,
            resolver,
            ports: spec.ports.clone(),
            open: true,
            found: Mutex::default(),
            peers: Mutex::default(),
        })
    }

    /// Those of a driver or an exporter: to what it is granted, from the host.
    pub(crate) fn of_driver(egress: Arc<Egress>) -> Arc<Self> {
        Arc::new(Self {
            egress,
            // As the host itself finds them.
            resolver: Resolver::default(),
            ports: Vec::new(),
            open: false,
            found: Mutex::default(),
            peers: Mutex::default(),
        })
    }

    /// Whether a component can make any.
    pub(crate) fn are_used(program: &Program, role: Role) -> bool {
        matches!(role, Role::Process | Role::Web) && program.imports(&MAKERS)
    }

    /// Whether sockets of this pod have the pod's address and no other.
    pub(crate) fn have_a_place(egress: &Egress) -> bool {
        egress.sandbox().netns.is_some() || egress.is_local()
    }

    /// Let an instance make sockets that do what is granted.
    pub(crate) fn permit(self: &Arc<Self>, wasi: &mut WasiCtxBuilder) {
        if !Self::have_a_place(&self.egress) {
            return;
        }
        let sockets = self.clone();
        wasi.allow_tcp(true).allow_udp(true);
        wasi.socket_addr_check(move |address, purpose| {
            let allowed = sockets.allows(address, purpose);
            Box::pin(std::future::ready(allowed))
        });
    }

    fn allows(&self, address: SocketAddr, purpose: SocketAddrUse) -> bool {
        match purpose {
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => self.may_bind(address),
            SocketAddrUse::TcpListen => address.port() != 0 && self.may_bind(address),
            SocketAddrUse::TcpConnect => self.may_send(address),
            SocketAddrUse::UdpSend => {
                self.may_send(address) || lock(&self.peers).contains(&address)
            }
            // The packet filter lets in what may come in.
            SocketAddrUse::TcpAccept => true,
            SocketAddrUse::UdpReceive if !self.open => self.may_send(address),
            SocketAddrUse::UdpReceive => {
                remember(&mut lock(&self.peers), address, PEERS);
                true
            }
        }
    }

    fn may_bind(&self, address: SocketAddr) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let sandbox = self.egress.sandbox();
        let is_own = match (&sandbox.netns, sandbox.ip) {
            // All of the namespace, or all of the host, is the pod's.
            (Some(_), _) | (None, None) => true,
            (None, Some(own)) => ip == own || (ip.is_unspecified() && port == 0),
        };
        is_own && (port == 0 || self.ports.contains(&port))
    }

    fn may_send(&self, to: SocketAddr) -> bool {
        let (ip, port) = (to.ip().to_canonical(), to.port());
        let of_a_granted_name = || {
            lock(&self.found)
                .iter()
                .any(|(name, all)| all.contains(&ip) && self.egress.allows_host(name, port))
        };
        self.egress.may_reach(ip) && (self.egress.allows(ip, port) || of_a_granted_name())
    }

    async fn look_up(self: Arc<Self>, name: String) -> Result<Vec<IpAddr>, ErrorCode> {
        let namespace = self.egress.namespace();
        let found = self.resolver.addresses(namespace, &name).await;
        let found = found.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => ErrorCode::TemporaryResolverFailure,
            _ => ErrorCode::NameUnresolvable,
        })?;
        let mut known = lock(&self.found);
        known.retain(|(other, _)| *other != name);
        remember(&mut known, (name, found.clone()), NAMES);
        Ok(found)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember<T: PartialEq>(known: &mut VecDeque<T>, one: T, most: usize) {
    if known.contains(&one) {
        return;
    }
    if known.len() >= most {
        known.pop_front();
    }
    known.push_back(one);
}

/// One instance's way to its sockets.
struct View<'a> {
    inner: WasiSocketsCtxView<'a>,
    sockets: Option<&'a Arc<Sockets>>,
}

fn view(state: &mut State) -> View<'_> {
    let (ctx, table, sockets) = state.socket_parts();
    View {
        inner: WasiSocketsCtxView { ctx, table },
        sockets,
    }
}

impl<'a> View<'a> {
    fn netns(&self) -> Option<&'a Path> {
        self.sockets?.egress.sandbox().netns.as_deref()
    }
}

impl network::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<SocketErrorCode> {
        self.inner.convert_error_code(error)
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<SocketErrorCode>> {
        self.inner.network_error_code(error)
    }
}

impl network::HostNetwork for View<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.inner.drop(network)
    }
}

impl tcp_create_socket::Host for View<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        match self.netns() {
            None => self.inner.create_tcp_socket(family),
            Some(netns) => {
                let made = netns::inside(netns, || self.inner.create_tcp_socket(family));
                made.map_err(SocketErrorCode::from)?
            }
        }
    }
}

impl udp_create_socket::Host for View<'_> {
    async fn create_udp_socket(
        &mut self,
        family: IpAddressFamily,
    ) -> SocketResult<Resource<UdpSocket>> {
        let netns = self.netns();
        let mut making = Box::pin(self.inner.create_udp_socket(family));
        if let Some(netns) = netns {
            // The first step makes the socket, the others wait for it.
            let first = netns::inside(netns, || {
                making
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
            });
            if let Poll::Ready(made) = first.map_err(SocketErrorCode::from)? {
                return made;
            }
        }
        making.await
    }
}

/// The addresses of a name, or what looks for them.
pub enum Answers {
    Asking(AbortOnDropHandle<Result<Vec<IpAddr>, ErrorCode>>),
    Found(std::vec::IntoIter<IpAddr>),
    Failed(ErrorCode),
}

#[async_trait]
impl Pollable for Answers {
    async fn ready(&mut self) {
        if let Self::Asking(task) = self {
            *self = match task.await {
                Ok(Ok(found)) => Self::Found(found.into_iter()),
                Ok(Err(code)) => Self::Failed(code),
                Err(_) => Self::Failed(ErrorCode::Unknown),
            };
        }
    }
}

impl names::Host for View<'_> {
    async fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> wasmtime::Result<Result<Resource<Answers>, ErrorCode>> {
        self.inner.table.get(&network)?;
        let granted = |sockets: &&Arc<Sockets>| sockets.egress.allows_name(&name);
        let Some(sockets) = self.sockets.filter(granted) else {
            return Ok(Err(ErrorCode::AccessDenied));
        };
        let task = tokio::spawn(sockets.clone().look_up(name));
        let answers = Answers::Asking(AbortOnDropHandle::new(task));
        Ok(Ok(self.inner.table.push(answers)?))
    }
}

fn wire(address: IpAddr) -> IpAddress {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddress::Ipv4(v4.octets().into()),
        IpAddr::V6(v6) => IpAddress::Ipv6(v6.segments().into()),
    }
}

impl names::HostResolveAddressStream for View<'_> {
    async fn resolve_next_address(
        &mut self,
        stream: Resource<Answers>,
    ) -> wasmtime::Result<Result<Option<IpAddress>, ErrorCode>> {
        let answers = self.inner.table.get_mut(&stream)?;
        if let Answers::Asking(task) = answers {
            if !task.is_finished() {
                return Ok(Err(ErrorCode::WouldBlock));
            }
            answers.ready().await;
        }
        Ok(match answers {
            Answers::Asking(_) => Err(ErrorCode::WouldBlock),
            Answers::Found(found) => Ok(found.next().map(wire)),
            Answers::Failed(code) => Err(*code),
        })
    }

    async fn subscribe(
        &mut self,
        stream: Resource<Answers>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.inner.table, stream)
    }

    async fn drop(&mut self, stream: Resource<Answers>) -> wasmtime::Result<()> {
        self.inner.table.delete(stream)?;
        Ok(())
    }
}

struct Placed;
impl HasData for Placed {
    type Data<'a> = View<'a>;
}

/// Put these in the place of wasmtime's own.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    tcp_create_socket::add_to_linker::<_, Placed>(linker, view)?;
    udp_create_socket::add_to_linker::<_, Placed>(linker, view)?;
    names::add_to_linker::<_, Placed>(linker, view)?;
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use eyot_runtime::Sandbox;

    use super::*;

    const OWN: &str = "10.244.0.9";

    fn sockets(ip: Option<&str>, netns: bool, grants: &str) -> Sockets {
        let sandbox = Sandbox {
            ip: ip.map(|ip| ip.parse().unwrap()),
            netns: netns.then(|| PathBuf::from("/run/none")),
            hostname: String::new(),
        };
        Sockets {
            egress: Arc::new(Egress::granting(grants, sandbox)),
            resolver: Resolver::default(),
            open: true,
            ports: vec![8080],
            found: Mutex::default(),
            peers: Mutex::default(),
        }
    }

    fn check(sockets: &Sockets, purpose: SocketAddrUse, address: &str) -> bool {
        sockets.allows(address.parse().unwrap(), purpose)
    }

    #[test]
    fn a_pod_listens_on_its_own_address_and_declared_ports_only() {
        use SocketAddrUse::{TcpBind, TcpListen, UdpBind};
        let own = sockets(Some(OWN), true, "*:*");
        for address in [
            "10.244.0.9:8080",
            "0.0.0.0:8080",
            "127.0.0.1:8080",
            "[::]:8080",
        ] {
            assert!(check(&own, TcpBind, address) && check(&own, TcpListen, address));
            assert!(check(&own, UdpBind, address));
        }
        assert!(check(&own, TcpBind, "0.0.0.0:0") && check(&own, UdpBind, "0.0.0.0:0"));
        for address in ["0.0.0.0:0", "10.244.0.9:8081", "0.0.0.0:22"] {
            assert!(!check(&own, TcpListen, address), "{address}");
        }
        // Among the host's sockets an address of its own is all that it has.
        let shared = sockets(Some("127.244.0.3"), false, "*:*");
        assert!(check(&shared, TcpListen, "127.244.0.3:8080"));
        assert!(check(&shared, TcpBind, "0.0.0.0:0"));
        for address in ["0.0.0.0:8080", "127.0.0.1:8080", "127.244.0.4:8080"] {
            assert!(!check(&shared, TcpBind, address), "{address}");
        }
        let of_the_host = sockets(None, false, "");
        assert!(check(&of_the_host, TcpListen, "0.0.0.0:8080"));
        assert!(!check(&of_the_host, TcpListen, "0.0.0.0:6443"));
    }

    #[test]
    fn it_sends_where_it_was_granted_and_answers_who_asked() {
        use SocketAddrUse::{TcpAccept, TcpConnect, UdpReceive, UdpSend};
        let some = sockets(Some(OWN), true, "10.96.0.0/16:80,db.shop:5432");
        for purpose in [TcpConnect, UdpSend] {
            assert!(check(&some, purpose, "10.96.1.2:80"));
            assert!(!check(&some, purpose, "10.96.1.2:81"));
            assert!(!check(&some, purpose, "10.97.1.2:5432"));
            // Who has not found the address by the granted name may not use it.
            assert!(!check(&some, purpose, "10.99.0.7:5432"));
        }
        let found = ("db.shop".to_owned(), vec!["10.99.0.7".parse().unwrap()]);
        remember(&mut lock(&some.found), found, NAMES);
        assert!(check(&some, TcpConnect, "10.99.0.7:5432"));
        assert!(!check(&some, TcpConnect, "10.99.0.7:22"));
        assert!(check(&some, TcpAccept, "10.1.1.1:999"));
        assert!(!check(&some, UdpSend, "10.1.1.1:999"));
        assert!(check(&some, UdpReceive, "10.1.1.1:999"));
        assert!(check(&some, UdpSend, "10.1.1.1:999"));
        for n in 0..PEERS {
            let port = 1000 + n;
            check(&some, UdpReceive, &format!("10.1.1.2:{port}"));
        }
        assert!(!check(&some, UdpSend, "10.1.1.1:999"));
    }

    #[test]
    fn names_are_granted_like_places() {
        let some = sockets(Some(OWN), true, "db.shop:5432,*.example.com:*");
        assert!(some.egress.allows_name("db.shop") && some.egress.allows_name("a.example.com"));
        assert!(!some.egress.allows_name("other.shop"));
        assert!(
            sockets(Some(OWN), true, "*:53")
                .egress
                .allows_name("any.thing")
        );
    }
}
