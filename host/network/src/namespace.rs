//! Network namespaces without a process in them.
//!
//! A thread belongs to a network namespace, so whatever enters or makes one happens on a thread
//! made for it, which ends afterwards: on a pooled thread, later work would run in the wrong one.

use std::{
    fs::{self, File},
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, packet_route::route::RouteScope};

use crate::{NetworkError, bridge::index_of};

/// The name of a pod's interface inside.
pub(crate) const INTERFACE: &str = "eth0";

/// Make a namespace that `path` keeps alive.
pub(crate) async fn create(path: PathBuf) -> Result<(), NetworkError> {
    let act = "making a network namespace";
    on_own_thread(move || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        remove(&path)?;
        File::create(&path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let this = Some("/proc/thread-self/ns/net");
        mount(this, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
    .await
    .map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => NetworkError::Unprivileged,
        _ => NetworkError::Io { act, source },
    })
}

/// Whether a namespace is mounted at `path`.
pub(crate) fn is_there(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    nix::sys::statfs::statfs(path).is_ok_and(|on| on.filesystem_type().0 == NSFS_MAGIC)
}

/// Connect to a port on the loopback of a namespace, where programs listen that want no other
/// company: over IPv4, then over IPv6.
pub async fn dial_loopback(path: &Path, port: u16) -> io::Result<tokio::net::TcpStream> {
    /// Loopback answers or refuses at once; only a full queue of a busy program takes longer.
    const PATIENCE: Duration = Duration::from_secs(10);
    let path = path.to_owned();
    let stream = on_own_thread(move || {
        setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
        let mut refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let loopbacks = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        for (index, address) in loopbacks.into_iter().enumerate() {
            match TcpStream::connect_timeout(&(address, port).into(), PATIENCE) {
                Ok(stream) => return Ok(stream),
                // What IPv4 says is what most users know.
                Err(error) if index == 0 => refused = error,
                Err(_) => {}
            }
        }
        Err(refused)
    })
    .await?;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

/// Release a namespace; the kernel removes it and the veth pair that leads there when its last
/// process is gone too. No error if there is none.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Mounted more than once, if an earlier host was killed at the wrong instant.
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Bring up a pod's interfaces from inside: loopback, address, default route.
pub(crate) async fn configure(
    path: PathBuf,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    let act = "entering a pod's network namespace";
    let configured = on_own_thread(move || {
        setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(with_netlink(|netlink| bring_up(netlink, address, gateway))))
    });
    configured
        .await
        .map_err(|source| NetworkError::Io { act, source })?
}

/// The address stands alone and the gateway is the only neighbour: what goes to another pod of the
/// node passes the host, which translates, filters and sees the answers.
async fn bring_up(
    netlink: Handle,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    let failed = |act| move |source| NetworkError::Netlink { act, source };
    let missing = |act| NetworkError::Io {
        act,
        source: io::ErrorKind::NotFound.into(),
    };
    let loopback = index_of(&netlink, "lo")
        .await?
        .ok_or(missing("a pod's loopback"))?;
    let eth = index_of(&netlink, INTERFACE)
        .await?
        .ok_or(missing("a pod's interface"))?;
    netlink
        .link()
        .set(LinkUnspec::new_with_index(loopback).up().build())
        .execute()
        .await
        .map_err(failed("a pod's loopback"))?;
    netlink
        .address()
        .add(eth, IpAddr::V4(address), 32)
        .execute()
        .await
        .map_err(failed("a pod's address"))?;
    netlink
        .link()
        .set(LinkUnspec::new_with_index(eth).up().build())
        .execute()
        .await
        .map_err(failed("a pod's interface"))?;
    netlink
        .route()
        .add(
            RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(gateway, 32)
                .output_interface(eth)
                .scope(RouteScope::Link)
                .build(),
        )
        .execute()
        .await
        .map_err(failed("a pod's way to the host"))?;
    netlink
        .route()
        .add(
            RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(gateway)
                .output_interface(eth)
                .build(),
        )
        .execute()
        .await
        .map_err(failed("a pod's default route"))
}

/// Run `work` with a netlink connection of the current thread's namespace.
async fn with_netlink<W>(work: impl FnOnce(Handle) -> W) -> Result<(), NetworkError>
where
    W: Future<Output = Result<(), NetworkError>>,
{
    let (connection, netlink, _) =
        rtnetlink::new_connection().map_err(|source| NetworkError::Io {
            act: "netlink",
            source,
        })?;
    let connection = tokio::spawn(connection);
    let result = work(netlink).await;
    connection.abort();
    result
}

async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let _ = done.send(work());
        })?;
    result
        .await
        .map_err(|_| io::Error::other("the thread panicked"))?
}
