//! `eyot:datagrams`: UDP ports of the host at which devices speak without being asked.
//!
//! Many devices send to one port, so it is the host's: one socket for all instances that listen
//! there, and an inbox for each. An inbox takes what comes from the addresses of its device; what
//! comes from anybody else is dropped. A port is given back when its last listener is gone.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{net::UdpSocket, sync::Notify};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    bindings::datagrams::{Datagram, Error, Host},
    egress::Resolver,
};

/// What one instance may have waiting.
const DATAGRAMS: usize = 1024;
const BYTES: usize = 1 << 20;
/// Datagrams in one call.
const TAKEN: usize = 1024;
/// Largest datagram there can be.
const LARGEST: usize = 65_507;

/// The ports that the host listens on.
#[derive(Default)]
pub(crate) struct Pool(Mutex<HashMap<u16, Weak<Port>>>);

struct Port {
    socket: Arc<UdpSocket>,
    inboxes: Arc<Mutex<Vec<Weak<Inbox>>>>,
    task: AbortOnDropHandle<()>,
}

/// What waits for one instance at one port.
struct Inbox {
    hosts: Vec<IpAddr>,
    alarm: Arc<Notify>,
    waiting: Mutex<VecDeque<(SocketAddr, Vec<u8>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    async fn port(&self, number: u16) -> io::Result<Arc<Port>> {
        let open = |ports: &HashMap<u16, Weak<Port>>| {
            let port = ports.get(&number).and_then(Weak::upgrade);
            port.filter(|port| !port.task.is_finished())
        };
        if let Some(port) = open(&lock(&self.0)) {
            return Ok(port);
        }
        let socket = bind(number).await;
        let mut ports = lock(&self.0);
        // Another instance may have come first.
        if let Some(port) = open(&ports) {
            return Ok(port);
        }
        let socket = Arc::new(socket?);
        ports.retain(|_, port| port.strong_count() > 0);
        let inboxes = Arc::default();
        let port = Arc::new(Port {
            task: AbortOnDropHandle::new(tokio::spawn(serve(socket.clone(), Arc::clone(&inboxes)))),
            socket,
            inboxes,
        });
        ports.insert(number, Arc::downgrade(&port));
        Ok(port)
    }
}

/// Both families where there are both.
async fn bind(number: u16) -> io::Result<UdpSocket> {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, number)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, number)).await
        }
        bound => bound,
    }
}

async fn serve(socket: Arc<UdpSocket>, inboxes: Arc<Mutex<Vec<Weak<Inbox>>>>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Nobody was there for what was sent before; or the machine is out of memory.
                tracing::debug!(%error, "a datagram was not received");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let mut inboxes = lock(&inboxes);
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        for inbox in inboxes.iter().filter_map(Weak::upgrade) {
            inbox.put(from, &buffer[..length]);
        }
    }
}

impl Inbox {
    fn put(&self, from: SocketAddr, data: &[u8]) {
        if !self.hosts.contains(&from.ip()) {
            return;
        }
        let mut waiting = lock(&self.waiting);
        waiting.push_back((from, data.to_vec()));
        let mut bytes: usize = waiting.iter().map(|(_, data)| data.len()).sum();
        while waiting.len() > DATAGRAMS || bytes > BYTES {
            bytes -= waiting.pop_front().map_or(0, |(_, data)| data.len());
        }
        self.alarm.notify_one();
    }
}

/// Datagrams for one instance: the ports that it may listen on, and whom it hears there.
pub(crate) struct Client {
    pool: Arc<Pool>,
    ports: Vec<u16>,
    /// Names and addresses of the device.
    hosts: Vec<String>,
    listening: HashMap<u16, (Arc<Port>, Arc<Inbox>)>,
    alarm: Arc<Notify>,
}

impl Client {
    /// `places` are those that may be reached, `HOST:PORT`; `alarm` is told when something comes.
    pub(crate) fn new(
        pool: Arc<Pool>,
        ports: &[u16],
        places: &[String],
        alarm: Arc<Notify>,
    ) -> Self {
        let hosts = places.iter().filter_map(|place| place.rsplit_once(':'));
        Self {
            pool,
            ports: ports.to_vec(),
            hosts: hosts.map(|(host, _)| host.to_owned()).collect(),
            listening: HashMap::new(),
            alarm,
        }
    }

    async fn open(&mut self, number: u16) -> Result<(), Error> {
        if self.listening.contains_key(&number) {
            return Ok(());
        }
        if !self.ports.contains(&number) {
            return Err(Error::Denied(format!(
                "UDP port {number} is not granted: set listen: \"udp:{number}\" among the \
                 properties of the DeviceService"
            )));
        }
        let mut hosts = Vec::new();
        for host in &self.hosts {
            let found = Resolver::default().addresses("", host).await;
            let found = found.map_err(|error| Error::Unavailable(format!("{host}: {error}")))?;
            hosts.extend(found.into_iter().map(|address| address.to_canonical()));
        }
        if hosts.is_empty() {
            return Err(Error::Denied("the device names no address".into()));
        }
        let port = self.pool.port(number).await;
        let port =
            port.map_err(|error| Error::Unavailable(format!("UDP port {number}: {error}")))?;
        let inbox = Arc::new(Inbox {
            hosts,
            alarm: self.alarm.clone(),
            waiting: Mutex::default(),
        });
        lock(&port.inboxes).push(Arc::downgrade(&inbox));
        self.listening.insert(number, (port, inbox));
        Ok(())
    }
}

impl Host for Client {
    async fn listen(&mut self, port: u16) -> wasmtime::Result<Result<(), Error>> {
        Ok(self.open(port).await)
    }

    async fn take(&mut self) -> wasmtime::Result<Result<Vec<Datagram>, Error>> {
        let mut taken = Vec::new();
        for (_, inbox) in self.listening.values() {
            let mut waiting = lock(&inbox.waiting);
            let count = waiting.len().min(TAKEN - taken.len());
            taken.extend(waiting.drain(..count).map(|(from, data)| Datagram {
                sender: from.to_string(),
                data,
            }));
            if !waiting.is_empty() {
                self.alarm.notify_one();
            }
        }
        Ok(Ok(taken))
    }

    async fn answer(
        &mut self,
        port: u16,
        to: String,
        data: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let Some((open, inbox)) = self.listening.get(&port) else {
            return Ok(Err(Error::Denied(format!(
                "port {port} is not listened on"
            ))));
        };
        let address = to.parse().ok();
        let known = |address: &SocketAddr| inbox.hosts.contains(&address.ip().to_canonical());
        let Some(address) = address.filter(known) else {
            return Ok(Err(Error::Denied(format!(
                "{to} is no address of the device"
            ))));
        };
        // A socket of both families takes an IPv4 address as one that is mapped.
        let is_v6 = open.socket.local_addr().is_ok_and(|own| own.is_ipv6());
        let address = match address.ip() {
            IpAddr::V4(v4) if is_v6 => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            _ => address,
        };
        let sent = open.socket.send_to(&data, address).await;
        Ok(sent
            .map(drop)
            .map_err(|error| Error::Unavailable(format!("{to}: {error}"))))
    }
}

#[cfg(test)]
mod tests;
