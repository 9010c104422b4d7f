//! The sockets of the cluster's DNS. Every client is bounded: datagrams are answered at once or by one
//! of a few tasks, connections are few and short.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{
    answer::{Decided, decide},
    forward::Forwarder,
    message::{Code, Data, Record, Reply, Request, Unread, unread},
    zone::Zone,
};

/// Queries that wait for other servers at one time; further ones fail, and clients try again.
const WAITING: usize = 256;
/// Connections at one time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    zone: RwLock<Arc<Zone>>,
    forwarder: Forwarder,
    waiting: Arc<Semaphore>,
}

impl Server {
    pub(crate) fn new(forwarder: Forwarder) -> Self {
        Self {
            zone: RwLock::default(),
            forwarder,
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }

    pub(crate) fn set(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answer datagrams for ever.
    pub(crate) async fn datagrams(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let (read, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // A client that is gone: an earlier answer did not arrive.
                Err(error) => {
                    tracing::debug!(%error, "DNS over UDP");
                    continue;
                }
            };
            let request = match Request::parse(buffer.get(..read).unwrap_or_default()) {
                Ok(request) => request,
                Err(Unread::Ignore) => continue,
                Err(Unread::Answer(id, code)) => {
                    let _ = socket.try_send_to(&unread(id, code), from);
                    continue;
                }
            };
            let decided = decide(&self.zone(), &request);
            if let Decided::Reply(reply) = decided {
                // A full buffer drops it, as the network may.
                let _ = socket.try_send_to(&reply.write(&request, false), from);
                continue;
            }
            let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
                let failed = Reply::failure(Code::Failed).write(&request, false);
                let _ = socket.try_send_to(&failed, from);
                continue;
            };
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tokio::spawn(async move {
                let reply = server.finish(&request, decided, false).await;
                let _ = socket.send_to(&reply, from).await;
                drop(permit);
            });
        }
    }

    /// Answer connections for ever.
    pub(crate) async fn connections(self: Arc<Self>, listener: TcpListener) {
        let open = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&open).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _ = server.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "DNS over TCP");
                    // No file descriptors, most likely.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        while let Some(bytes) = timeout(IDLE, read_framed(&mut stream)).await?? {
            let reply = match Request::parse(&bytes) {
                Ok(request) => {
                    let decided = decide(&self.zone(), &request);
                    self.finish(&request, decided, true).await
                }
                Err(Unread::Answer(id, code)) => unread(id, code),
                Err(Unread::Ignore) => return Ok(()),
            };
            timeout(IDLE, write_framed(&mut stream, &reply)).await??;
        }
        Ok(())
    }

    /// The reply in bytes, after asking others if need be.
    async fn finish(&self, request: &Request, decided: Decided, streamed: bool) -> Vec<u8> {
        match decided {
            Decided::Reply(reply) => reply.write(request, streamed),
            Decided::Forward => match self.forwarder.ask(request, streamed).await {
                Some((reply, age)) => reply.write(request, age, streamed),
                None => Reply::failure(Code::Failed).write(request, streamed),
            },
            Decided::Follow(mut reply, target) => {
                let mut of_target = request.clone();
                of_target.name.clone_from(&target);
                if let Some((found, age)) = self.forwarder.ask(&of_target, streamed).await {
                    reply.answers.extend(found.addresses().into_iter().map(
                        |(ttl, address): (u32, IpAddr)| Record {
                            name: target.clone(),
                            ttl: ttl.saturating_sub(age),
                            data: Data::Address(address),
                        },
                    ));
                }
                reply.write(request, streamed)
            }
        }
    }
}

/// One message from a stream; `None` at its end.
pub(crate) async fn read_framed(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

pub(crate) async fn write_framed(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    // In one piece: some clients read no more than one segment.
    let mut framed = Vec::with_capacity(bytes.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(bytes);
    stream.write_all(&framed).await
}
