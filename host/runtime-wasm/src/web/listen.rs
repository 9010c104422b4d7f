//! Binding a pod's port, in the network namespace that the pod's address is in.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use eyot_runtime::{ContainerError, Sandbox};
use nix::sched::{CloneFlags, setns};
use tokio::{net::TcpListener, runtime::Handle};

/// Listen on the pod's address and `port`; the listener belongs to the runtime `on`.
pub(super) async fn listen(
    on: &Handle,
    sandbox: &Sandbox,
    port: u16,
) -> Result<TcpListener, ContainerError> {
    // A pod on the host's network has all of the host's addresses.
    let address = SocketAddr::new(
        sandbox.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port,
    );
    let netns = sandbox.netns.clone();
    let bound = on.spawn(async move {
        match netns {
            None => TcpListener::bind(address).await,
            Some(path) => within(&path, address).await,
        }
    });
    let bound = bound
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    bound.map_err(|error| ContainerError::Config {
        field: "ports[0].containerPort".into(),
        reason: match error.kind() {
            io::ErrorKind::AddrInUse => format!("{address} is in use by another container"),
            io::ErrorKind::PermissionDenied => format!("{address}: this host may not bind that"),
            _ => format!("listening on {address}: {error}"),
        },
    })
}

/// A socket stays in the network namespace in which it was made: make it on a thread that enters
/// the pod's and ends afterwards.
async fn within(netns: &Path, address: SocketAddr) -> io::Result<TcpListener> {
    let namespace = File::open(netns)?;
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let bound = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| std::net::TcpListener::bind(address));
            let _ = send.send(bound);
        })?;
    let listener = receive.await.map_err(io::Error::other)??;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
