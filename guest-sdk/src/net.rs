//! Datagrams and streams, for protocols that the host does not speak itself.
//!
//! The sockets are the component's own; the host lets them reach the addresses that the device's
//! protocols name, and nothing else. A driver is generic over [`Datagrams`] or [`Stream`], [`Udp`] and
//! [`Tcp`] in the component, and something scripted in its tests. Both work natively, too.
//!
//! [`Notices`] are datagrams that come without being asked for, at a port of the host: many devices
//! send to the same one, so the host listens and gives each instance what is from its device.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use crate::{Error, bindings::driver::eyot::datagrams::receiver};

/// Sockets of a component have no time limits: they are asked again, ever later up to this.
const LOOK: Duration = Duration::from_millis(8);
/// Largest datagram there can be.
const DATAGRAM: usize = 65_507;

/// A datagram that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// What it says.
    pub data: Vec<u8>,
}

/// Datagrams to a device and from it.
pub trait Datagrams {
    /// Send one to `HOST:PORT`. That it was sent does not mean that somebody is there.
    fn send(&mut self, to: &str, data: &[u8]) -> Result<(), Error>;

    /// The next that has come or comes until then, if any.
    fn receive(&mut self, until: Instant) -> Result<Option<Datagram>, Error>;
}

/// A connection to a device.
pub trait Stream {
    /// Connect to `HOST:PORT`, and let go of what was connected before.
    fn connect(&mut self, to: &str, until: Instant) -> Result<(), Error>;

    /// Whether it is connected, as far as is known.
    fn is_connected(&self) -> bool;

    /// Send all of it.
    fn send(&mut self, data: &[u8], until: Instant) -> Result<(), Error>;

    /// Some of what has come or comes until then, at least one byte. `None` if nothing comes.
    fn receive(&mut self, until: Instant) -> Result<Option<Vec<u8>>, Error>;

    /// Let go.
    fn close(&mut self);
}

/// Datagrams that come to a port of the host from the addresses of the device.
pub trait Notices {
    /// Ask for those that come to this port. The device service's property `listen` must grant it.
    fn listen(&mut self, port: u16) -> Result<(), Error>;

    /// Those that have come, oldest first. The driver's `poll` is called when there are some.
    fn take(&mut self) -> Result<Vec<Datagram>, Error>;

    /// Send from that port to who sent something there.
    fn answer(&mut self, port: u16, to: SocketAddr, data: &[u8]) -> Result<(), Error>;
}

/// Addresses by the `HOST:PORT` that they were found by.
#[derive(Debug, Default)]
struct Found(HashMap<String, SocketAddr>);

impl Found {
    fn address(&mut self, place: &str) -> Result<SocketAddr, Error> {
        if let Some(known) = self.0.get(place) {
            return Ok(*known);
        }
        let mut found = place.to_socket_addrs().map_err(|e| failed(place, &e))?;
        let address = found.next();
        let address = address
            .ok_or_else(|| Error::Unreachable(format!("{place}: the name has no address")))?;
        self.0.insert(place.to_owned(), address);
        Ok(address)
    }
}

/// What an error of a socket says of the device.
fn failed(place: &str, error: &io::Error) -> Error {
    let text = format!("{place}: {error}");
    match error.kind() {
        ErrorKind::TimedOut => Error::Timeout(text),
        ErrorKind::PermissionDenied => {
            Error::Other(format!("{text}: the device's protocols do not name it"))
        }
        ErrorKind::InvalidInput => Error::invalid("protocols", text),
        _ => Error::Unreachable(text),
    }
}

/// Try until something comes of it; `None` when the time is over.
#[expect(
    clippy::disallowed_methods,
    reason = "a component has no other way to wait: nothing else runs in it"
)]
fn until<T>(end: Instant, mut act: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    let mut pause = Duration::from_millis(1);
    loop {
        match act() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => return outcome.map(Some),
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LOOK);
    }
}

/// UDP, from a port that the system chooses.
#[derive(Debug, Default)]
pub struct Udp {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    found: Found,
}

impl Udp {
    fn socket(&mut self, to: SocketAddr) -> io::Result<&UdpSocket> {
        let (slot, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (&mut self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&mut self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let socket = match slot.take() {
            Some(socket) => socket,
            None => {
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_nonblocking(true)?;
                socket
            }
        };
        Ok(slot.insert(socket))
    }
}

impl Datagrams for Udp {
    fn send(&mut self, to: &str, data: &[u8]) -> Result<(), Error> {
        let address = self.found.address(to)?;
        let socket = self.socket(address).map_err(|e| failed(to, &e))?;
        let end = Instant::now() + Duration::from_secs(1);
        match until(end, || socket.send_to(data, address)) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::Unreachable(format!("{to}: nothing can be sent"))),
            Err(error) => Err(failed(to, &error)),
        }
    }

    fn receive(&mut self, end: Instant) -> Result<Option<Datagram>, Error> {
        let mut buffer = vec![0; DATAGRAM];
        let sockets = [self.v4.as_ref(), self.v6.as_ref()];
        let received = until(end, || {
            for socket in sockets.into_iter().flatten() {
                match socket.recv_from(&mut buffer) {
                    // What was sent before found nobody; this is about the one asked for.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    outcome => return outcome,
                }
            }
            Err(ErrorKind::WouldBlock.into())
        });
        match received {
            Ok(Some((length, from))) => {
                buffer.truncate(length);
                Ok(Some(Datagram { from, data: buffer }))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(failed("the device", &error)),
        }
    }
}

/// TCP.
#[derive(Debug, Default)]
pub struct Tcp {
    stream: Option<TcpStream>,
    place: String,
    found: Found,
}

impl Tcp {
    /// Do something with the connection; one that is broken is let go.
    fn with<T>(
        &mut self,
        end: Instant,
        mut act: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> Result<Option<T>, Error> {
        let place = &self.place;
        let Some(stream) = self.stream.as_mut() else {
            return Err(Error::Unreachable(format!("{place}: not connected")));
        };
        let outcome = until(end, || act(stream)).map_err(|error| failed(place, &error));
        if outcome.is_err() {
            self.stream = None;
        }
        outcome
    }
}

impl Stream for Tcp {
    fn connect(&mut self, to: &str, end: Instant) -> Result<(), Error> {
        self.stream = None;
        to.clone_into(&mut self.place);
        let address = self.found.address(to)?;
        let left = end.saturating_duration_since(Instant::now());
        let stream = TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1)));
        let stream = stream.map_err(|error| match error.kind() {
            // Nobody took the connection: the device is not there, rather than slow.
            ErrorKind::TimedOut => Error::Unreachable(format!("{to}: {error}")),
            _ => failed(to, &error),
        })?;
        let _ = stream.set_nodelay(true);
        stream.set_nonblocking(true).map_err(|e| failed(to, &e))?;
        self.stream = Some(stream);
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    fn send(&mut self, data: &[u8], end: Instant) -> Result<(), Error> {
        let mut rest = data;
        while !rest.is_empty() {
            match self.with(end, |stream| stream.write(rest))? {
                Some(0) | None => {
                    self.stream = None;
                    let place = &self.place;
                    return Err(Error::Timeout(format!("{place} takes no more")));
                }
                Some(count) => rest = &rest[count..],
            }
        }
        Ok(())
    }

    fn receive(&mut self, end: Instant) -> Result<Option<Vec<u8>>, Error> {
        let mut buffer = vec![0; 16 << 10];
        match self.with(end, |stream| stream.read(&mut buffer))? {
            None => Ok(None),
            Some(0) => {
                self.stream = None;
                let place = &self.place;
                Err(Error::Unreachable(format!("{place} closed the connection")))
            }
            Some(count) => {
                buffer.truncate(count);
                Ok(Some(buffer))
            }
        }
    }

    fn close(&mut self) {
        self.stream = None;
    }
}

/// What the host listens to. Calling it outside of a component panics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Notices for Host {
    fn listen(&mut self, port: u16) -> Result<(), Error> {
        Ok(receiver::listen(port)?)
    }

    fn take(&mut self) -> Result<Vec<Datagram>, Error> {
        let taken = receiver::take()?;
        let readable = taken.into_iter().filter_map(|datagram| {
            let from = datagram.sender.parse().ok()?;
            let data = datagram.data;
            Some(Datagram { from, data })
        });
        Ok(readable.collect())
    }

    fn answer(&mut self, port: u16, to: SocketAddr, data: &[u8]) -> Result<(), Error> {
        Ok(receiver::answer(port, &to.to_string(), data)?)
    }
}

impl From<receiver::Error> for Error {
    fn from(error: receiver::Error) -> Self {
        match error {
            // Only an edit of the device or its service helps.
            receiver::Error::Denied(text) => Self::invalid("protocols", text),
            receiver::Error::Unavailable(text) => Self::Other(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn datagrams_go_there_and_come_back_or_not() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let place = peer.local_addr().unwrap().to_string();
        let mut udp = Udp::default();
        udp.send(&place, b"hello").unwrap();
        let mut heard = [0; 9];
        let (length, from) = peer.recv_from(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"hello");
        assert_eq!(udp.receive(Instant::now()), Ok(None));
        peer.send_to(b"welcome", from).unwrap();
        let answer = udp.receive(soon()).unwrap().unwrap();
        assert_eq!(
            (answer.data.as_slice(), answer.from),
            (&b"welcome"[..], peer.local_addr().unwrap())
        );
        assert!(udp.send("127.0.0.1", b"").is_err(), "no port");
    }

    #[test]
    fn a_connection_that_breaks_is_let_go_and_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let mut tcp = Tcp::default();
        assert!(matches!(tcp.send(b"x", soon()), Err(Error::Unreachable(_))));
        tcp.connect(&place, soon()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        tcp.send(b"ping", soon()).unwrap();
        let mut heard = [0; 4];
        peer.read_exact(&mut heard).unwrap();
        assert_eq!(tcp.receive(Instant::now()), Ok(None));
        peer.write_all(b"pong").unwrap();
        assert_eq!(tcp.receive(soon()), Ok(Some(b"pong".to_vec())));
        drop(peer);
        assert!(matches!(tcp.receive(soon()), Err(Error::Unreachable(_))));
        assert!(!tcp.is_connected());
        drop(listener);
        assert!(matches!(
            tcp.connect(&place, soon()),
            Err(Error::Unreachable(_))
        ));
    }
}
