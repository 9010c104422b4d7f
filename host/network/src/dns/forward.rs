//! What the zone does not have is asked of the name servers that the host itself uses, and kept for as
//! long as they say.
//!
//! Answers are believed only from the server that was asked, at a port and under an identifier chosen
//! at random, with the question repeated.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    message::{Foreign, Request},
    server::{read_framed, write_framed},
};

/// Time for one server to answer, as resolvers usually have it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the servers are asked in turn.
const ROUNDS: usize = 2;
/// Servers of one file that are used, as in the C library.
const SERVERS: usize = 3;
/// Answers that are kept.
const KEPT: usize = 4096;
/// The largest that is kept, in bytes; larger ones are rare.
const KEPT_BYTES: usize = 4096;
/// Longest time that an answer is kept, in seconds.
const LONGEST: u32 = 3600;
/// The same for the news that there is nothing: a new name should work soon.
const LONGEST_NOTHING: u32 = 300;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    name: String,
    kind: u16,
    dnssec: bool,
    unchecked: bool,
}

#[derive(Clone)]
struct Kept {
    reply: Arc<Foreign>,
    since: Instant,
    until: Instant,
}

#[derive(Default)]
struct Cache {
    kept: HashMap<Question, Kept>,
    /// Oldest first.
    order: VecDeque<Question>,
}

pub(crate) struct Forwarder {
    resolv_conf: PathBuf,
    /// Our own address: asking it would go round in circles.
    own: Option<IpAddr>,
    port: u16,
    cache: Mutex<Cache>,
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: PathBuf, own: Option<IpAddr>) -> Self {
        Self {
            resolv_conf,
            own,
            port: 53,
            cache: Mutex::default(),
        }
    }

    /// Servers at another port, for tests.
    #[cfg(test)]
    pub(crate) fn at_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The answer of those who know, and how many seconds ago they gave it; `None` if nobody does.
    /// `streamed`: it may be large.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        streamed: bool,
    ) -> Option<(Arc<Foreign>, u32)> {
        let question = Question {
            name: request.name.to_lowercase(),
            kind: request.kind,
            dnssec: request.dnssec(),
            unchecked: request.unchecked(),
        };
        if let Some(kept) = self.cached(&question) {
            let age = kept.since.elapsed().as_secs();
            return Some((kept.reply, u32::try_from(age).unwrap_or(u32::MAX)));
        }
        let reply = Arc::new(self.ask_servers(request, streamed).await?);
        self.keep(question, &reply);
        Some((reply, 0))
    }

    async fn ask_servers(&self, request: &Request, streamed: bool) -> Option<Foreign> {
        let mut failed = None;
        let servers = self.servers().await;
        for _ in 0..ROUNDS {
            for server in &servers {
                let asked = timeout(PATIENCE, exchange(*server, request, streamed)).await;
                match asked.map_err(|_| io::ErrorKind::TimedOut.into()).flatten() {
                    Ok(reply) if reply.is_failure() => failed = Some(reply),
                    Ok(reply) => return Some(reply),
                    Err(error) => tracing::debug!(%server, %error, "a name server did not answer"),
                }
            }
        }
        failed
    }

    /// Read anew each time: the file is short, and changes when the network does.
    async fn servers(&self) -> Vec<SocketAddr> {
        let text = tokio::fs::read_to_string(&self.resolv_conf).await;
        let text = text.unwrap_or_default();
        servers(&text)
            .into_iter()
            .filter(|server| Some(*server) != self.own)
            .map(|server| SocketAddr::new(server, self.port))
            .take(SERVERS)
            .collect()
    }

    fn cached(&self, question: &Question) -> Option<Kept> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = cache.kept.get(question)?;
        (Instant::now() < kept.until).then(|| kept.clone())
    }

    fn keep(&self, question: Question, reply: &Arc<Foreign>) {
        let longest = match reply.answers {
            0 => LONGEST_NOTHING,
            _ => LONGEST,
        };
        let Some(seconds) = reply.keep.filter(|_| reply.len() <= KEPT_BYTES) else {
            return;
        };
        let since = Instant::now();
        let kept = Kept {
            reply: Arc::clone(reply),
            since,
            until: since + Duration::from_secs(u64::from(seconds.min(longest))),
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.kept.insert(question.clone(), kept).is_none() {
            cache.order.push_back(question);
        }
        while cache.kept.len() > KEPT {
            let Some(oldest) = cache.order.pop_front() else {
                break;
            };
            cache.kept.remove(&oldest);
        }
    }
}

/// The name servers of a `resolv.conf`.
fn servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            if words.next()? != "nameserver" {
                return None;
            }
            // An interface may follow: `fe80::1%eth0`.
            words.next()?.split('%').next()?.parse().ok()
        })
        .collect()
}

async fn exchange(server: SocketAddr, request: &Request, streamed: bool) -> io::Result<Foreign> {
    let id = rand::random();
    let Some(bytes) = request.question_for(id) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if streamed {
        let mut stream = TcpStream::connect(server).await?;
        write_framed(&mut stream, &bytes).await?;
        let reply = read_framed(&mut stream).await?;
        return reply
            .and_then(|reply| Foreign::parse(&reply, request, id))
            .ok_or_else(|| io::ErrorKind::InvalidData.into());
    }
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let read = socket.recv(&mut buffer).await?;
        let bytes = buffer.get(..read).unwrap_or_default();
        // Anything else is somebody's guess: wait for the real one.
        if let Some(reply) = Foreign::parse(bytes, request, id) {
            return Ok(reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::message::kind, *};
    use crate::dns::message::{Data, Record, Reply};

    fn request(name: &str) -> Request {
        let bytes = Request::made(name, kind::A).question_for(7).unwrap();
        Request::parse(&bytes).unwrap()
    }

    fn reply(request: &Request, ttl: u32) -> Arc<Foreign> {
        let record = Record {
            name: request.name.clone(),
            ttl,
            data: Data::Address(IpAddr::from([192, 0, 2, 1])),
        };
        let reply = Reply {
            answers: vec![record],
            ..Reply::default()
        };
        let bytes = reply.write(request, true);
        Arc::new(Foreign::parse(&bytes, request, request.id).unwrap())
    }

    #[test]
    fn the_cache_is_bounded_and_forgets_the_oldest() {
        let forwarder = Forwarder::new("/nonexistent".into(), None);
        let question = |number: usize| Question {
            name: format!("n{number}"),
            kind: kind::A,
            dnssec: false,
            unchecked: false,
        };
        let request = request("example.org");
        forwarder.keep(question(0), &reply(&request, 0));
        assert!(
            forwarder.cached(&question(0)).is_none(),
            "it is not to be kept"
        );
        for number in 0..=KEPT {
            forwarder.keep(question(number), &reply(&request, 60));
        }
        assert!(forwarder.cached(&question(0)).is_none());
        assert!(forwarder.cached(&question(KEPT)).is_some());
        assert_eq!(forwarder.cache.lock().unwrap().order.len(), KEPT);
    }

    #[test]
    fn servers_are_read_from_the_file() {
        let text = "# x\nnameserver 192.0.2.1\n nameserver fe80::1%eth0\nsearch a\nnameserver\nnameserver x\n";
        let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1", "fe80::1"]);
    }
}
