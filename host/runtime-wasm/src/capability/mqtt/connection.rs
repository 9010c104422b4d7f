//! One connection to a broker: MQTT 3.1.1, publishing only.
//!
//! The packets are rumqttc's; its event loop is not used, because it does not tell which publish
//! an acknowledgement is for, and takes one message at a time. Here a batch is written in one go
//! and is done when its last acknowledgement is in.
//!
//! The connection is made when there is something to publish. When it breaks, every batch on it
//! fails: the callers keep their data and try again, so nothing is sent twice behind their back.
//! After a failed attempt further ones fail at once for a while that doubles.

use std::{
    collections::{HashMap, VecDeque},
    future, io,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::{
    Error as PacketError, QoS,
    v4::{
        ConnAck, Connect, ConnectReturnCode, Disconnect, Login, Packet, PingReq, PubRel, Publish,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::Instant,
};

use tokio_rustls::TlsConnector;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::broker::{Broker, Server};
use crate::{
    bindings::mqtt::{Error, Message, Qos},
    tls,
};

/// Batches waiting for their turn; more make their callers wait.
const WAITING: usize = 64;
/// Messages sent and not yet acknowledged. Brokers bound this themselves, far lower ones by
/// refusing to read on.
const IN_FLIGHT: usize = 1000;
/// Bytes encoded and not yet sent; past this no further message is encoded.
const UNSENT: usize = 256 << 10;
/// What a broker may send us: acknowledgements only, since nothing is subscribed.
const PACKET: usize = 4 << 10;
/// Time for connecting, and for the broker's answer to that.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for the acknowledgement of a message.
const ACKNOWLEDGE: Duration = Duration::from_secs(15);
/// A ping is sent after this long; without any answer for twice as long the connection is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// First and longest pause after a failed attempt.
pub(super) const BACK_OFF: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_secs(30));

/// The handle; the connection's task ends when the last one is dropped.
pub(super) struct Connection {
    batches: mpsc::Sender<Batch>,
}

struct Batch {
    messages: Vec<Message>,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Connection {
    pub(super) fn open(broker: Broker, local: SocketAddr) -> Self {
        let (batches, receiver) = mpsc::channel(WAITING);
        tokio::spawn(serve(broker, local, receiver));
        Self { batches }
    }

    /// Whether its task is gone, as when the runtime that it was on ended.
    pub(super) fn is_over(&self) -> bool {
        self.batches.is_closed()
    }

    pub(super) async fn publish(&self, messages: Vec<Message>) -> Result<(), Error> {
        let over = || Error::Unreachable("the connection to the broker ended".into());
        let (done, answer) = oneshot::channel();
        self.batches
            .send(Batch { messages, done })
            .await
            .map_err(|_| over())?;
        answer.await.map_err(|_| over())?
    }
}

async fn serve(broker: Broker, local: SocketAddr, mut batches: mpsc::Receiver<Batch>) {
    let mut pause = BACK_OFF.0;
    while let Some(first) = batches.recv().await {
        let stream = match connect(&broker, local).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%broker, error = text(&error), "MQTT connection failed");
                let _ = first.done.send(Err(error.clone()));
                refuse(&mut batches, &error, pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
                continue;
            }
        };
        pause = BACK_OFF.0;
        tracing::debug!(%broker, "MQTT connected");
        let mut session = Session::new(stream);
        session.take(first);
        if let Err(error) = session.run(&mut batches).await {
            tracing::warn!(%broker, %error, "MQTT connection lost");
            session.fail(&Error::Unreachable(format!("{broker}: {error}")));
        }
    }
}

/// Answer everything with `error` for as long as `pause`.
async fn refuse(batches: &mut mpsc::Receiver<Batch>, error: &Error, pause: Duration) {
    let until = Instant::now() + pause;
    while let Ok(Some(batch)) = tokio::time::timeout_at(until, batches.recv()).await {
        let _ = batch.done.send(Err(error.clone()));
    }
}

fn text(error: &Error) -> &str {
    match error {
        Error::Denied(text)
        | Error::BadBroker(text)
        | Error::Unreachable(text)
        | Error::Refused(text)
        | Error::Invalid(text) => text,
    }
}

async fn connect(broker: &Broker, local: SocketAddr) -> Result<Box<dyn Link>, Error> {
    let unreachable = |why: String| Error::Unreachable(format!("{broker}: {why}"));
    let attempt = async {
        let stream = match &broker.server {
            Server::Local => TcpStream::connect(local).await,
            Server::Remote { host, port } => {
                // The resolver wants an IPv6 address without its brackets.
                let host = host.trim_matches(['[', ']']);
                TcpStream::connect((host, *port)).await
            }
        };
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let secured = encrypt(broker, stream).await;
        let mut stream = secured.map_err(|error| unreachable(format!("TLS: {error}")))?;
        match greet(&mut stream, broker).await {
            Ok(ConnAck {
                code: ConnectReturnCode::Success,
                ..
            }) => Ok(stream),
            Ok(ConnAck {
                code: ConnectReturnCode::ServiceUnavailable,
                ..
            }) => Err(unreachable("the broker says that it is unavailable".into())),
            Ok(ConnAck { code, .. }) => Err(Error::Refused(format!(
                "{broker} refused the connection: {code:?}"
            ))),
            Err(error) => Err(unreachable(error.to_string())),
        }
    };
    let late = |_| unreachable(format!("no connection within {CONNECT:?}"));
    tokio::time::timeout(CONNECT, attempt).await.map_err(late)?
}

/// Unique per connection: a broker ends the older of two with the same name.
pub(super) fn client_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("eyot-{}-{number}", std::process::id())
}

async fn encrypt(broker: &Broker, stream: TcpStream) -> io::Result<Box<dyn Link>> {
    let (Some(settings), Server::Remote { host, .. }) = (&broker.tls, &broker.server) else {
        return Ok(Box::new(stream));
    };
    let config = tls::client(Some(settings)).map_err(io::Error::other)?;
    let bare = host.trim_matches(['[', ']']).to_owned();
    let name = bare.try_into().map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Box::new(stream))
}

async fn greet(stream: &mut Box<dyn Link>, broker: &Broker) -> io::Result<ConnAck> {
    let mut hello = Connect::new(client_id());
    hello.keep_alive = u16::try_from(KEEP_ALIVE.as_secs() * 2).unwrap_or(u16::MAX);
    hello.login = broker
        .login
        .as_ref()
        .map(|(user, password)| Login::new(user, password));
    let mut out = BytesMut::new();
    hello.write(&mut out).map_err(invalid)?;
    stream.write_all(&out).await?;
    stream.flush().await?;
    let mut input = BytesMut::new();
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Err(closed());
        }
        match Packet::read(&mut input, PACKET) {
            Ok(Packet::ConnAck(answer)) => return Ok(answer),
            Ok(_) => return Err(io::Error::other("the answer is not MQTT's")),
            Err(PacketError::InsufficientBytes(_)) => {}
            Err(error) => return Err(invalid(error)),
        }
    }
}

fn invalid(error: PacketError) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("out of protocol: {error}"),
    )
}

fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the broker closed the connection",
    )
}

/// A connection, encrypted or not.
trait Link: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Link for S {}

/// What happened on a connection.
enum Moved {
    /// So many bytes came.
    In(usize),
    Out,
}

/// A connection that stands, and what is under way on it.
struct Session {
    stream: Box<dyn Link>,
    input: BytesMut,
    output: BytesMut,
    /// Whether all that was written is on its way.
    flushed: bool,
    /// In the order in which they came; the messages of one go out before those of the next.
    active: VecDeque<Active>,
    /// Packet identifiers in use, and the batch that each belongs to.
    pending: HashMap<u16, u64>,
    next_packet: u16,
    next_batch: u64,
    heard: Instant,
}

struct Active {
    number: u64,
    unsent: std::vec::IntoIter<Message>,
    unacknowledged: usize,
    /// When something last came of it.
    progress: Instant,
    done: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Session {
    fn new(stream: Box<dyn Link>) -> Self {
        Self {
            stream,
            input: BytesMut::with_capacity(PACKET),
            output: BytesMut::new(),
            flushed: true,
            active: VecDeque::new(),
            pending: HashMap::new(),
            next_packet: 1,
            next_batch: 0,
            heard: Instant::now(),
        }
    }

    /// Until the last user is gone (`Ok`) or the connection breaks.
    async fn run(&mut self, batches: &mut mpsc::Receiver<Batch>) -> io::Result<()> {
        let mut ping = tokio::time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        let mut watch = tokio::time::interval(ACKNOWLEDGE / 4);
        loop {
            self.encode()?;
            tokio::select! {
                moved = future::poll_fn(|context| self.poll_move(context)) => match moved? {
                    Moved::In(0) => return Err(closed()),
                    Moved::In(_) => {
                        self.heard = Instant::now();
                        self.acknowledge()?;
                    }
                    Moved::Out => {}
                },
                batch = batches.recv(), if self.active.len() < WAITING => match batch {
                    Some(batch) => self.take(batch),
                    None => return self.end().await,
                },
                _ = ping.tick() => {
                    if self.heard.elapsed() > KEEP_ALIVE * 2 {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "the broker is silent"));
                    }
                    PingReq.write(&mut self.output).map_err(invalid)?;
                }
                _ = watch.tick(), if !self.active.is_empty() => self.expect_progress()?,
            }
        }
    }

    /// Read what has come, else write what waits.
    fn poll_move(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Moved>> {
        let Self {
            stream,
            input,
            output,
            flushed,
            ..
        } = self;
        let mut stream = Pin::new(stream);
        if let Poll::Ready(read) = poll_read_buf(stream.as_mut(), context, input) {
            return Poll::Ready(read.map(Moved::In));
        }
        if !output.is_empty() {
            ready!(poll_write_buf(stream, context, output))?;
            *flushed = false;
            return Poll::Ready(Ok(Moved::Out));
        }
        if !*flushed {
            ready!(stream.poll_flush(context))?;
            *flushed = true;
        }
        Poll::Pending
    }

    fn take(&mut self, batch: Batch) {
        self.active.push_back(Active {
            number: self.next_batch,
            unsent: batch.messages.into_iter(),
            unacknowledged: 0,
            progress: Instant::now(),
            done: Some(batch.done),
        });
        self.next_batch += 1;
    }

    /// Encode as many messages as the bounds allow.
    fn encode(&mut self) -> io::Result<()> {
        let Self {
            active,
            output,
            pending,
            next_packet,
            ..
        } = self;
        for batch in active.iter_mut() {
            while output.len() < UNSENT && pending.len() < IN_FLIGHT {
                let Some(message) = batch.unsent.next() else {
                    break;
                };
                let qos = match message.qos {
                    Qos::AtMostOnce => QoS::AtMostOnce,
                    Qos::AtLeastOnce => QoS::AtLeastOnce,
                    Qos::ExactlyOnce => QoS::ExactlyOnce,
                };
                let payload = Bytes::from(message.payload);
                let mut publish = Publish::from_bytes(message.topic, qos, payload);
                publish.retain = message.retain;
                if qos != QoS::AtMostOnce {
                    publish.pkid = free_packet(next_packet, pending);
                    pending.insert(publish.pkid, batch.number);
                    batch.unacknowledged += 1;
                }
                publish.write(output).map_err(invalid)?;
                batch.progress = Instant::now();
            }
            if batch.unsent.len() > 0 {
                break;
            }
            if batch.unacknowledged == 0
                && let Some(done) = batch.done.take()
            {
                let _ = done.send(Ok(()));
            }
        }
        while active.front().is_some_and(|batch| batch.done.is_none()) {
            active.pop_front();
        }
        Ok(())
    }

    /// Take in what the broker sent.
    fn acknowledge(&mut self) -> io::Result<()> {
        loop {
            match Packet::read(&mut self.input, PACKET) {
                Ok(Packet::PubAck(ack)) => self.finish(ack.pkid),
                Ok(Packet::PubComp(ack)) => self.finish(ack.pkid),
                Ok(Packet::PubRec(ack)) => {
                    PubRel::new(ack.pkid)
                        .write(&mut self.output)
                        .map_err(invalid)?;
                }
                // Answers to pings, and what a confused broker may send: nothing is subscribed.
                Ok(_) => {}
                Err(PacketError::InsufficientBytes(_)) => return Ok(()),
                Err(error) => return Err(invalid(error)),
            }
        }
    }

    fn finish(&mut self, packet: u16) {
        let Some(number) = self.pending.remove(&packet) else {
            return;
        };
        let first = self.active.front().map_or(0, |batch| batch.number);
        let place = usize::try_from(number.wrapping_sub(first)).unwrap_or(usize::MAX);
        if let Some(batch) = self.active.get_mut(place) {
            batch.unacknowledged -= 1;
            batch.progress = Instant::now();
        }
    }

    fn expect_progress(&self) -> io::Result<()> {
        let stuck = self
            .active
            .front()
            .is_some_and(|b| b.progress.elapsed() > ACKNOWLEDGE);
        if stuck {
            let message = format!("no acknowledgement within {ACKNOWLEDGE:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        Ok(())
    }

    async fn end(&mut self) -> io::Result<()> {
        Disconnect.write(&mut self.output).map_err(invalid)?;
        while self.output.has_remaining() {
            if self.stream.write_buf(&mut self.output).await? == 0 {
                break;
            }
        }
        self.stream.shutdown().await
    }

    fn fail(&mut self, error: &Error) {
        for batch in self.active.drain(..) {
            if let Some(done) = batch.done {
                let _ = done.send(Err(error.clone()));
            }
        }
    }
}

/// The next identifier that is not in use; there always is one, since far fewer may be in flight.
fn free_packet(next: &mut u16, pending: &HashMap<u16, u64>) -> u16 {
    loop {
        let packet = *next;
        *next = next.checked_add(1).unwrap_or(1);
        if !pending.contains_key(&packet) {
            return packet;
        }
    }
}
