//! The door of the embedded broker: every client's connection goes through here.
//!
//! The broker itself (rumqttd) listens on a port of loopback that only this door has the password
//! for. The door passes packets on as they are, and adds what the broker has no hooks for:
//!
//! - **TLS and passwords.** A client that begins with a TLS handshake gets one. Who comes from another
//!   machine must, if that is set, and must show a user name and password; who comes from this machine
//!   need not.
//! - **Events that others publish** on `edgex/events/device/…` (device services that are no guests of
//!   this host) are stored as EdgeX's core-data stores them, and only then passed to the broker. So
//!   the acknowledgement of QoS 1 and 2 means *stored*, and a client that publishes faster than the
//!   disk writes is held up by TCP. What cannot be stored closes the connection: the client sends it
//!   again.
//! - **Topics of KubeEdge** (`$hw/…`, `$ke/…`). The broker lets nobody use topics with a `$`; inside it
//!   they begin with `~` instead. As MQTT has it, a filter that begins with a wildcard does not match
//!   them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    CONNECTIONS, Message, PACKET,
    frame::{self, Connect, Malformed, PUBLISH, Packet, Publish, SUBSCRIBE, UNSUBSCRIBE},
};

/// How long a client may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// How long a wrong password is thought about: who guesses has few tries.
const REFUSAL: Duration = Duration::from_millis(500);
/// Longest CONNECT packet: a name, a password and a small will.
const GREETING: usize = 64 * 1024;
/// Bytes read in one go. What a burst needed of the buffer is given back when it is over.
const CHUNK: usize = 32 * 1024;
/// Where what core-data stores is published.
pub(super) const EVENTS: &[u8] = b"edgex/events/device/";
/// First levels of topics that the broker must see with a `~`.
const HIDDEN: [&[u8; 4]; 2] = [b"$hw/", b"$ke/"];

/// Who may connect from other machines, and how.
#[derive(Clone, Default)]
pub struct Access {
    /// Lets clients speak TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Others than those of this machine must.
    pub tls_required: bool,
    /// User names and passwords; `None` asks nobody.
    pub users: Option<Arc<Users>>,
}

/// User names with their passwords.
#[derive(Default)]
pub struct Users(Vec<(String, String)>);

impl Users {
    /// One `name:password` a line; empty lines and those with `#` in front are passed over. An error
    /// names the line.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut users = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                    users.push((name.to_owned(), password.to_owned()));
                }
                _ => return Err(format!("line {}: must be NAME:PASSWORD", index + 1)),
            }
        }
        Ok(Self(users))
    }

    fn know(&self, user: &[u8], password: &[u8]) -> bool {
        let mut known = false;
        for (name, wanted) in &self.0 {
            // As long for a wrong one as for the right one.
            let same = name.as_bytes() == user && wanted.len() == password.len();
            let differing = wanted
                .bytes()
                .zip(password)
                .fold(0, |d, (a, b)| d | (a ^ b));
            known |= same && differing == 0;
        }
        known
    }
}

/// Takes events that clients publish.
#[async_trait]
pub(crate) trait Intake: Send + Sync {
    /// Keep what of these is an event; the others are told in the log. An error says that they may
    /// not have been kept, and are to be sent again.
    async fn take(&self, messages: Vec<Message>) -> Result<(), String>;
}

/// What the door needs.
pub(super) struct Front {
    pub backend: SocketAddr,
    pub user: String,
    pub password: String,
    pub access: Access,
    pub intake: Arc<dyn Intake>,
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it did not say who it is in {HELLO:?}")]
    Silent,
    #[error("it must use TLS")]
    Plain,
    #[error("its user name or password is wrong")]
    Stranger,
    #[error("it speaks another version of MQTT than 3.1.1")]
    Version,
    #[error("its events were not stored: {0}")]
    Unstored(String),
}

impl Front {
    /// Serve the listener until `stop` is cancelled.
    pub(super) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let this = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut clients = JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = clients.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let this = this.clone();
                    clients.spawn(async move {
                        if let Err(error) = this.welcome(stream, peer).await {
                            tracing::debug!(%peer, %error, "an MQTT client's connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Too many open files, mostly: it passes.
                    tracing::warn!(%error, "no MQTT client could be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn welcome(&self, stream: TcpStream, peer: SocketAddr) -> Result<(), Ended> {
        stream.set_nodelay(true)?;
        let own = own(peer.ip(), stream.local_addr()?.ip());
        let mut first = [0];
        let hello = tokio::time::timeout(HELLO, stream.peek(&mut first));
        if hello.await.map_err(|_| Ended::Silent)?? == 0 {
            return Ok(());
        }
        // A TLS record with a handshake; the first byte of MQTT is another.
        match (&self.access.tls, first) {
            (Some(tls), [0x16]) => {
                let hello = TlsAcceptor::from(tls.clone()).accept(stream);
                let stream = tokio::time::timeout(HELLO, hello).await;
                self.connected(stream.map_err(|_| Ended::Silent)??, own)
                    .await
            }
            _ if self.access.tls_required && !own => Err(Ended::Plain),
            _ => self.connected(stream, own).await,
        }
    }

    async fn connected<S>(&self, stream: S, own: bool) -> Result<(), Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut from, mut to) = tokio::io::split(stream);
        let mut buffer = BytesMut::new();
        let greeting = async {
            loop {
                if let Some(packet) = frame::first(&buffer, GREETING)? {
                    return Ok::<_, Ended>(packet);
                }
                if from.read_buf(&mut buffer).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        };
        let greeting = tokio::time::timeout(HELLO, greeting).await;
        let at = greeting.map_err(|_| Ended::Silent)??;
        let greeting = buffer.split_to(at.end);
        let connect = Connect::read(&greeting, at)?;
        if connect.level != 4 {
            // In each version's own words.
            let refusal: &[u8] = match connect.level {
                5 => &[0x20, 3, 0, 0x84, 0],
                _ => &[0x20, 2, 0, 1],
            };
            to.write_all(refusal).await?;
            return Err(Ended::Version);
        }
        if let Some(users) = &self.access.users
            && !own
        {
            let (user, password) = (connect.user, connect.password);
            if !users.know(user.unwrap_or_default(), password.unwrap_or_default()) {
                tokio::time::sleep(REFUSAL).await;
                to.write_all(&[0x20, 2, 0, 5]).await?;
                return Err(Ended::Stranger);
            }
        }
        let greeting = connect.with(&self.user, &self.password, |topic| {
            let mut topic = topic.to_vec();
            hide(&mut topic);
            topic
        });
        let mut backend = TcpStream::connect(self.backend).await?;
        backend.set_nodelay(true)?;
        backend.write_all(&greeting).await?;
        let (back, forth) = backend.into_split();
        let forth = Mutex::new(forth);
        let hidden = AtomicBool::new(false);
        let inbound = self.inbound(&mut from, buffer, &forth, &hidden);
        let outbound = outbound(back, &mut to, &forth, &hidden);
        let mut outbound = std::pin::pin!(outbound);
        tokio::select! {
            ended = &mut outbound => return ended,
            ended = inbound => ended?,
        }
        // The client has said all there was. Were both ways closed at once, the kernel would take
        // from the broker what it has not read yet.
        forth.lock().await.shutdown().await?;
        let _ = tokio::time::timeout(HELLO, outbound).await;
        Ok(())
    }

    /// From the client to the broker.
    async fn inbound(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        mut buffer: BytesMut,
        forth: &Mutex<impl AsyncWrite + Unpin>,
        hidden: &AtomicBool,
    ) -> Result<(), Ended> {
        loop {
            let (mut whole, mut events) = (0, Vec::new());
            while let Some(rest) = buffer.get_mut(whole..)
                && let Some(at) = frame::first(rest, PACKET)?
            {
                let packet = rest.get_mut(..at.end).unwrap_or_default();
                events.extend(look(packet, at, hidden)?);
                whole += at.end;
            }
            let packets = buffer.split_to(whole);
            if !events.is_empty() {
                let stored = self.intake.take(events).await;
                stored.map_err(Ended::Unstored)?;
            }
            if !packets.is_empty() {
                forth.lock().await.write_all(&packets).await?;
            }
            drop(packets);
            if buffer.is_empty() && buffer.capacity() > 2 * CHUNK {
                buffer = BytesMut::new();
            }
            buffer.reserve(CHUNK / 8);
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// Whether a client is on this machine: it comes from loopback, or from the very address that it
/// goes to.
fn own(peer: IpAddr, local: IpAddr) -> bool {
    let (peer, local) = (peer.to_canonical(), local.to_canonical());
    peer.is_loopback() || peer == local
}

/// Change a packet of a client as the broker must have it; an event that is to be stored first.
fn look(packet: &mut [u8], at: Packet, hidden: &AtomicBool) -> Result<Option<Message>, Malformed> {
    match at.kind {
        PUBLISH => {
            let publish = Publish::read(packet, at)?;
            let topic = packet.get_mut(publish.topic.clone()).unwrap_or_default();
            hide(topic);
            let bytes =
                |range: Range<usize>| Bytes::copy_from_slice(packet.get(range).unwrap_or_default());
            if !packet
                .get(publish.topic.clone())
                .unwrap_or_default()
                .starts_with(EVENTS)
            {
                return Ok(None);
            }
            Ok(Some(Message {
                topic: bytes(publish.topic),
                payload: bytes(publish.payload),
            }))
        }
        SUBSCRIBE | UNSUBSCRIBE => {
            for filter in frame::filters(packet, at)? {
                let filter = packet.get_mut(filter).unwrap_or_default();
                if hide(filter) && at.kind == SUBSCRIBE {
                    hidden.store(true, Ordering::Relaxed);
                }
            }
            Ok(None)
        }
        frame::CONNECT => Err(Malformed::Bytes),
        _ => Ok(None),
    }
}

/// Give a topic or filter with a `$` the name that it has in the broker; whether it was one.
fn hide(topic: &mut [u8]) -> bool {
    let is = HIDDEN.iter().any(|hidden| topic.starts_with(*hidden));
    if is && let Some(first) = topic.first_mut() {
        *first = b'~';
    }
    is
}

/// Give the topic of a packet to a client its `$` back; whether it had one.
fn show(packet: &mut [u8], at: Packet) -> Result<bool, Malformed> {
    let topic = Publish::read(packet, at)?.topic;
    let topic = packet.get_mut(topic).unwrap_or_default();
    let [b'~', rest @ ..] = topic else {
        return Ok(false);
    };
    let is = HIDDEN
        .iter()
        .any(|[_, hidden @ ..]| rest.starts_with(hidden));
    if is && let Some(first) = topic.first_mut() {
        *first = b'$';
    }
    Ok(is)
}

/// Where in the broker a topic is that clients know with a `$`.
pub(crate) fn hidden(topic: &str) -> String {
    let mut bytes = topic.as_bytes().to_vec();
    hide(&mut bytes);
    String::from_utf8(bytes).unwrap_or_default()
}

/// As what clients know a topic or filter of the broker.
pub(super) fn shown(topic: &str) -> String {
    match topic.strip_prefix('~') {
        Some(rest)
            if HIDDEN
                .iter()
                .any(|[_, hidden @ ..]| rest.as_bytes().starts_with(hidden)) =>
        {
            format!("${rest}")
        }
        _ => topic.to_owned(),
    }
}

/// From the broker to the client.
async fn outbound(
    mut back: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    forth: &Mutex<impl AsyncWrite + Unpin>,
    hidden: &AtomicBool,
) -> Result<(), Ended> {
    let mut buffer = BytesMut::new();
    loop {
        let mut whole = 0;
        while let Some(rest) = buffer.get_mut(whole..)
            && let Some(at) = frame::first(rest, PACKET)?
        {
            let packet = rest.get_mut(..at.end).unwrap_or_default();
            let is_shown = at.kind == PUBLISH && show(packet, at)?;
            // A filter with a wildcard in front has matched it. With QoS 2 the client has it all the
            // same: it would take two more packets to leave that out, and nobody publishes so.
            if is_shown && !hidden.load(Ordering::Relaxed) && at.flags & 0b0100 == 0 {
                if let Some(number) = Publish::read(packet, at)?.number
                    && let Some(&[high, low]) = packet.get(number)
                {
                    let taken = [0x40, 2, high, low];
                    forth.lock().await.write_all(&taken).await?;
                }
                let before = buffer.split_to(whole);
                to.write_all(&before).await?;
                let _left_out = buffer.split_to(at.end);
                whole = 0;
                continue;
            }
            whole += at.end;
        }
        let packets = buffer.split_to(whole);
        if !packets.is_empty() {
            to.write_all(&packets).await?;
            to.flush().await?;
        }
        drop(packets);
        if buffer.is_empty() && buffer.capacity() > 2 * CHUNK {
            buffer = BytesMut::new();
        }
        buffer.reserve(CHUNK / 8);
        if back.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name_and_password() {
        let users = Users::read("# those of the site\n\nplant:s3:cret\n").unwrap();
        assert!(users.know(b"plant", b"s3:cret"));
        for (user, password) in [
            ("plant", "s3:creT"),
            ("plant", ""),
            ("", ""),
            ("other", "s3:cret"),
        ] {
            assert!(!users.know(user.as_bytes(), password.as_bytes()), "{user}");
        }
        let wrong = Users::read("a:b\nnobody\n").err().unwrap();
        assert!(wrong.contains("line 2"), "{wrong}");
    }

    #[test]
    fn who_is_on_this_machine_is_seen_from_the_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(own(ip("127.0.0.1"), ip("127.0.0.1")));
        assert!(own(ip("::ffff:127.0.0.1"), ip("::ffff:127.0.0.1")));
        assert!(own(ip("192.168.1.5"), ip("192.168.1.5")));
        assert!(!own(ip("192.168.1.6"), ip("192.168.1.5")));
    }
}
