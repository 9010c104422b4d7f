//! Sockets in the network namespace of a pod.
//!
//! A socket stays in the namespace in which it was made: so it is made on a thread that enters the
//! pod's and ends afterwards.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt},
};
use tokio::{net::TcpSocket, runtime::Handle};

/// By this the packet filter tells a guest's connections from the host's own.
const GUEST_MARK: u32 = 0x2000;

/// Have NetworkPolicies hold for what a socket of the host's own namespace sends.
pub(crate) fn mark(socket: &TcpSocket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Mark, &GUEST_MARK)?)
}

/// Listen on `address` in the namespace.
pub(crate) async fn listen(netns: &Path, address: SocketAddr) -> io::Result<TcpListener> {
    within(netns, move || TcpListener::bind(address)).await
}

/// A socket to connect with, in the namespace or in the host's own.
pub(crate) async fn tcp_socket(netns: Option<&Path>, v4: bool) -> io::Result<TcpSocket> {
    let Some(netns) = netns else {
        return match v4 {
            true => TcpSocket::new_v4(),
            false => TcpSocket::new_v6(),
        };
    };
    let family = match v4 {
        true => AddressFamily::Inet,
        false => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = within(netns, move || {
        Ok(socket(family, SockType::Stream, flags, None)?)
    });
    Ok(TcpSocket::from_std_stream(TcpStream::from(made.await?)))
}

/// Do something in the namespace while the caller waits.
pub(crate) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let (namespace, runtime) = (File::open(netns)?, Handle::try_current());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into());
        let thread = thread.spawn_scoped(scope, || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            let _runtime = runtime.as_ref().map(Handle::enter);
            io::Result::Ok(work())
        })?;
        let ended = thread.join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread failed")))
    })
}

async fn within<T: Send + 'static>(
    netns: &Path,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = File::open(netns)?;
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let made = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| make());
            let _ = send.send(made);
        })?;
    receive.await.map_err(io::Error::other)?
}
