//! Connection tracking remembers where a UDP flow was led, for as long as packets come. When that
//! backend is gone its entries must go too, or a busy client never reaches another one.
//!
//! Spoken over netlink (`NFNL_SUBSYS_CTNETLINK`) in the few messages that are needed: list, delete.

use std::{io, net::Ipv4Addr};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv,
        send, setsockopt, socket, sockopt,
    },
    time::TimeVal,
};
use std::os::fd::{AsRawFd, OwnedFd};

use super::plan::{Backends, Datagrams};

const LIST: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const HEADER: usize = 16;
/// Header of netfilter's messages: family, version, resource.
const PREFIX: [u8; 4] = [2, 0, 0, 0];
const UDP: u8 = 17;
/// The kernel answers at once; a lost answer must not hold a thread.
const PATIENCE: i64 = 5;
/// The kernel fills buffers of 16 KiB in a dump; with room to spare.
const BUFFER: usize = 64 * 1024;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tuple {
    source: Option<(Ipv4Addr, u16)>,
    destination: Option<(Ipv4Addr, u16)>,
    protocol: u8,
}

/// Forget the flows to these fronts that were led to what is no backend of theirs any more.
/// Answers how many there were.
pub(crate) fn forget(fronts: &Datagrams) -> io::Result<usize> {
    let socket = open()?;
    let mut stale = Vec::new();
    request(&socket, LIST, REQUEST | DUMP, &[])?;
    answers(&socket, |body| {
        let Some(original) = attribute(body, 1) else {
            return;
        };
        let reply = attribute(body, 2).map(tuple).unwrap_or_default();
        if is_stale(fronts, tuple(original), reply) {
            stale.push(original.to_vec());
        }
    })?;
    for original in &stale {
        let mut attributes = Vec::with_capacity(original.len() + 4);
        // Nested: the kernel asks for the flag.
        put(&mut attributes, 1 | 0x8000, original);
        request(&socket, DELETE, REQUEST | ACK, &attributes)?;
        match answers(&socket, |_| {}) {
            // It ended by itself meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(stale.len())
}

fn is_stale(fronts: &Datagrams, original: Tuple, reply: Tuple) -> bool {
    let (Some(front), Some(led_to)) = (original.destination, reply.source) else {
        return false;
    };
    if original.protocol != UDP {
        return false;
    }
    let gone = |backends: &Backends| !backends.contains(&led_to);
    match fronts.addresses.get(&front) {
        Some(backends) => gone(backends),
        // Only what was translated: others send to this port number, too.
        None => front != led_to && fronts.node_ports.get(&front.1).is_some_and(gone),
    }
}

fn open() -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(fd)
}

fn request(socket: &OwnedFd, kind: u16, flags: u16, attributes: &[u8]) -> io::Result<()> {
    let length = HEADER + PREFIX.len() + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(
        u32::try_from(length)
            .map_err(io::Error::other)?
            .to_ne_bytes(),
    );
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(PREFIX);
    message.extend(attributes);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    Ok(())
}

/// Read answers until the end is said; each one's attributes go to `each`.
fn answers(socket: &OwnedFd, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..read).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((kind, body, next)) = message(rest) {
            rest = next;
            match kind {
                DONE => return Ok(()),
                ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
                _ => each(body.get(PREFIX.len()..).unwrap_or_default()),
            }
        }
    }
}

/// The first message's type and body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The content of the first attribute of a type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let content = bytes.get(4..length)?;
        if kind == wanted {
            return Some(content);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn put(out: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let length = u16::try_from(content.len() + 4).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn tuple(bytes: &[u8]) -> Tuple {
    let ip = attribute(bytes, 1).unwrap_or_default();
    let ports = attribute(bytes, 2).unwrap_or_default();
    let address = |kind| {
        attribute(ip, kind)
            .and_then(|bytes| bytes.first_chunk::<4>())
            .map(|octets| Ipv4Addr::from(*octets))
    };
    let port = |kind| {
        attribute(ports, kind)
            .and_then(|bytes| bytes.first_chunk())
            .map(|bytes| u16::from_be_bytes(*bytes))
    };
    Tuple {
        source: address(1).zip(port(2)),
        destination: address(2).zip(port(3)),
        protocol: attribute(ports, 1)
            .and_then(|bytes| bytes.first().copied())
            .unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_led_to_a_backend_that_went_is_stale() {
        let to = |text: &str| -> Option<(Ipv4Addr, u16)> {
            let (address, port) = text.split_once(':')?;
            Some((address.parse().ok()?, port.parse().ok()?))
        };
        let mut fronts = Datagrams::default();
        let backends = Backends::from([to("10.0.0.1:53").unwrap()]);
        fronts
            .addresses
            .insert(to("10.96.0.10:53").unwrap(), backends.clone());
        fronts.node_ports.insert(30053, backends);
        let check = |front: &str, led: &str, protocol| {
            let original = Tuple {
                destination: to(front),
                protocol,
                ..Tuple::default()
            };
            let reply = Tuple {
                source: to(led),
                protocol,
                ..Tuple::default()
            };
            is_stale(&fronts, original, reply)
        };
        assert!(check("10.96.0.10:53", "10.0.0.2:53", UDP));
        assert!(
            check("10.96.0.10:53", "10.96.0.10:53", UDP),
            "before it had any backend"
        );
        assert!(!check("10.96.0.10:53", "10.0.0.1:53", UDP));
        assert!(!check("10.96.0.10:53", "10.0.0.2:53", 6));
        assert!(check("192.0.2.1:30053", "10.0.0.2:53", UDP));
        assert!(
            !check("192.0.2.1:30053", "192.0.2.1:30053", UDP),
            "somebody else's"
        );
        assert!(!check("192.0.2.1:53", "10.0.0.2:53", UDP));
    }

    #[test]
    fn damaged_messages_are_read_to_their_end() {
        for length in 0..40 {
            let bytes = vec![0xff; length];
            assert!(message(&bytes).is_none());
            assert!(attribute(&bytes, 1).is_none());
            assert_eq!(tuple(&bytes), Tuple::default());
        }
        // An attribute that says it is shorter than its own head.
        assert!(attribute(&[1, 0, 9, 0, 0, 0, 0, 0], 1).is_none());
    }
}
