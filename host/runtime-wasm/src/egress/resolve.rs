//! Names as a pod's guests see them: those of the cluster by its DNS, with the search list that
//! containers of the pod would have in `/etc/resolv.conf`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::UdpSocket;

/// The domain of the cluster.
const CLUSTER: &str = "cluster.local";
/// A name with fewer dots is looked for in the search list first, as Kubernetes sets it.
const NDOTS: usize = 5;
/// A server of this host; a query that is lost is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 3;
/// What an answer over UDP may have.
const ANSWER: usize = 4096;
/// Addresses that are tried for one name.
const ADDRESSES: usize = 8;

const A: u16 = 1;
const AAAA: u16 = 28;

/// Asks the cluster's DNS; without one the resolver of the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolver {
    server: Option<SocketAddr>,
}

impl Resolver {
    pub(crate) fn new(server: Option<SocketAddr>) -> Self {
        Self { server }
    }

    /// The addresses of `host`, as a pod of `namespace` would find them; never an empty list.
    pub(crate) async fn addresses(&self, namespace: &str, host: &str) -> io::Result<Vec<IpAddr>> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        let Some(server) = self.server else {
            let found = tokio::net::lookup_host((bare, 0)).await?;
            return some(found.map(|address| address.ip()).take(ADDRESSES).collect());
        };
        for name in candidates(namespace, bare) {
            let mut found = ask(server, &name, A).await?;
            if found.is_empty() {
                found = ask(server, &name, AAAA).await?;
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        some(Vec::new())
    }
}

fn some(found: Vec<IpAddr>) -> io::Result<Vec<IpAddr>> {
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
        false => Ok(found),
    }
}

/// The full names that `host` may stand for, in the order in which they are asked for.
fn candidates(namespace: &str, host: &str) -> Vec<String> {
    if let Some(full) = host.strip_suffix('.') {
        return vec![full.to_owned()];
    }
    let searched = [
        format!("{host}.{namespace}.svc.{CLUSTER}"),
        format!("{host}.svc.{CLUSTER}"),
        format!("{host}.{CLUSTER}"),
    ];
    let as_it_is = [host.to_owned()];
    match host.matches('.').count() < NDOTS {
        true => searched.into_iter().chain(as_it_is).collect(),
        false => as_it_is.into_iter().chain(searched).collect(),
    }
}

async fn ask(server: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let mut answer = vec![0; ANSWER];
    for _ in 0..TRIES {
        // The port is random, and the socket connected: whoever forges an answer must guess both.
        let id = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), name) as u16;
        let Some(query) = query(id, name, kind) else {
            return Ok(Vec::new());
        };
        socket.send(&query).await?;
        match tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await {
            Ok(received) => {
                let message = answer.get(..received?).unwrap_or_default();
                if let Some(found) = parse(id, kind, message) {
                    return Ok(found);
                }
            }
            Err(_elapsed) => {}
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{server} did not answer"),
    ))
}

/// RFC 1035, 4.1: header, one question. `None` if the name has no form on the wire.
fn query(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        out.push(length);
        out.extend(label.bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    (name.len() <= 253).then_some(out)
}

/// The addresses of an answer, whatever names they are of: it is the answer to one question. `None`
/// if it is no answer to it.
fn parse(id: u16, kind: u16, message: &[u8]) -> Option<Vec<IpAddr>> {
    let word = |at: usize| {
        let bytes = message.get(at..at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    // The answer bit, and any code: without answers it means that there is no such name.
    if word(0)? != id || word(2)? & 0x8000 == 0 {
        return None;
    }
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..word(6)? {
        at = skip_name(message, at)?;
        let (of, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        if of != kind || found.len() >= ADDRESSES {
            continue;
        }
        let v4 = <[u8; 4]>::try_from(data).map(IpAddr::from);
        let v6 = <[u8; 16]>::try_from(data).map(IpAddr::from);
        found.extend(if of == A { v4.ok() } else { v6.ok() });
    }
    Some(found)
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match message.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends the name.
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(*length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_searched_as_in_a_container() {
        let first = |host: &str| candidates("shop", host).remove(0);
        assert_eq!(first("web"), "web.shop.svc.cluster.local");
        assert_eq!(first("a.b.c.d.e.f"), "a.b.c.d.e.f");
        assert_eq!(first("web."), "web");
        assert_eq!(candidates("shop", "web.other").pop().unwrap(), "web.other");
    }

    #[tokio::test]
    async fn a_server_is_asked_and_its_answer_read() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::new(Some(server.local_addr().unwrap()));
        let answering = async {
            let mut message = [0; 512];
            loop {
                let (length, from) = server.recv_from(&mut message).await.unwrap();
                let mut reply = message[..length].to_vec();
                reply[2] |= 0x80;
                let known = reply.windows(5).any(|w| w == b"\x04shop");
                if known && reply[length - 3] == A as u8 {
                    reply[7] = 2;
                    // An alias, and the address of what it leads to.
                    reply.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
                    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 7]);
                }
                server.send_to(&reply, from).await.unwrap();
            }
        };
        let asking = async {
            let found = resolver.addresses("shop", "web").await.unwrap();
            assert_eq!(found, [IpAddr::from([10, 0, 0, 7])]);
            let error = resolver.addresses("x", "no.such.name").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        };
        tokio::select! {
            () = answering => {}
            () = asking => {}
        }
    }

    #[test]
    fn damaged_answers_are_no_answers() {
        let query = query(7, "a.b", A).unwrap();
        assert_eq!(parse(7, A, &query), None);
        let mut answer = query;
        answer[2] |= 0x80;
        answer[7] = 1;
        for length in 0..answer.len() {
            assert_eq!(parse(7, A, &answer[..length]), None, "{length}");
        }
        assert_eq!(parse(8, A, &answer), None);
    }
}
