//! Binding a pod's port, in the network namespace that the pod's address is in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use eyot_runtime::{ContainerError, Sandbox};
use tokio::{net::TcpListener, runtime::Handle};

use crate::netns;

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
            Some(path) => {
                let listener = netns::listen(&path, address).await?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            }
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
