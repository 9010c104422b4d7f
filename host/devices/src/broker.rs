//! The embedded MQTT broker: rumqttd behind a door of our own, kept small.
//!
//! It exists so that a site has a bus without installing one; who has one already gives its address
//! ([`External`]), and the host is a client of that one instead. Messages are held in memory only, per subscribed filter and up to a few megabytes: a
//! subscriber that stays behind longer loses the oldest. The host itself publishes through a link
//! inside the process, not through a socket. Clients come in through [`front`].
//!
//! The broker keeps three threads of its own and cannot be stopped: it ends with the process.

mod external;
mod frame;
mod front;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rumqttd::{ConnectionSettings, Notification, RouterConfig, ServerSettings, local};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::front::Front;
pub(crate) use self::front::{Intake, hidden};
pub use self::{
    external::{Address, External},
    front::{Access, Users},
};

/// Clients at once.
const CONNECTIONS: usize = 1000;
/// Largest message: what the contract lets an exporter publish, and its topic.
const PAYLOAD: usize = 1024 * 1024 + 4096;
/// The same with its topic, from a client.
const PACKET: usize = PAYLOAD + 64 * 1024;
/// As whom the door connects to the broker.
const DOOR: &str = "door";
/// Bytes of one segment of a filter's log, and how many are kept: 4 MiB a filter.
const SEGMENT: usize = 512 * 1024;
const SEGMENTS: usize = 8;
/// Messages on their way to one subscriber.
const OUTGOING: u64 = 500;
/// Messages that the host has published and the broker has not yet taken.
const PUBLISHED: usize = 16 * 1024;
/// Messages from clients that wait for the host at most. Behind them the broker keeps some more, and
/// then forgets the oldest.
const RECEIVED: usize = 1024;
/// Messages handed to the broker in one go.
const BURST: usize = 256;
/// How long the listener may take to come up.
const START: Duration = Duration::from_secs(5);

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error(
        "MQTT broker on {address}: {source} (end the program that has the port, or set another address)"
    )]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("MQTT broker on {address} does not answer")]
    Silent { address: SocketAddr },
    #[error("MQTT broker: {0}")]
    Link(String),
}

/// The broker that the host's messages go to. Cheap to clone.
#[derive(Clone)]
pub enum Mqtt {
    Embedded(Broker),
    External(External),
}

impl From<Broker> for Mqtt {
    fn from(broker: Broker) -> Self {
        Self::Embedded(broker)
    }
}

impl Mqtt {
    /// Publish without waiting; false if the broker is so far behind that the message is lost.
    pub fn publish(&self, message: Message) -> bool {
        match self {
            Self::Embedded(broker) => broker.publish(message),
            Self::External(broker) => broker.publish(message),
        }
    }

    /// Whether what the host publishes comes back to it as if others had.
    pub(crate) fn echoes(&self) -> bool {
        matches!(self, Self::External(_))
    }

    /// Begin: events that others publish go to `intake` first, what is published on `filters` is
    /// returned. The embedded broker lets clients in until `stop`.
    pub(crate) fn open(
        &self,
        filters: &[&str],
        intake: Arc<dyn Intake>,
        stop: CancellationToken,
    ) -> Option<mpsc::Receiver<Message>> {
        match self {
            Self::Embedded(broker) => {
                broker.open(intake, stop);
                broker.receive(filters)
            }
            Self::External(broker) => broker.open(filters, intake),
        }
    }

    /// Send what is still to be sent. The embedded broker ends with the process.
    pub(crate) async fn close(&self) {
        if let Self::External(broker) = self {
            broker.close().await;
        }
    }
}

/// The running broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    address: SocketAddr,
    published: mpsc::Sender<Message>,
    ears: Arc<Mutex<Option<Ears>>>,
    door: Arc<Mutex<Option<Door>>>,
}

/// The door as long as it is closed: clients wait in the kernel's queue.
struct Door {
    listener: TcpListener,
    backend: SocketAddr,
    password: String,
    access: Access,
}

/// The host's own subscription.
struct Ears {
    /// Asks for filters; held open, or the broker takes the link for closed.
    asking: local::LinkTx,
    heard: local::LinkRx,
}

/// A message that the host publishes with quality of service 0, or receives.
#[derive(Debug, Clone)]
pub struct Message {
    pub topic: Bytes,
    pub payload: Bytes,
}

/// Start the broker. Port 0 takes a free one.
pub fn start(address: SocketAddr, access: Access) -> Result<Broker, BrokerError> {
    let bind = |source| BrokerError::Bind { address, source };
    let listener = TcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let inside = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let backend = probe(inside).map_err(|source| BrokerError::Bind {
        address: inside,
        source,
    })?;
    // For this process alone, and forgotten with it.
    let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let mut broker = rumqttd::Broker::new(config(backend, &password));
    let (link, answers) = broker
        .link("eyot")
        .map_err(|error| BrokerError::Link(error.to_string()))?;
    let (asking, heard) = broker
        .link("eyot-listener")
        .map_err(|error| BrokerError::Link(error.to_string()))?;
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("mqtt-start")
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the MQTT broker ended");
            }
        })
        .map_err(bind)?;
    let (published, queue) = mpsc::channel(PUBLISHED);
    thread("mqtt-publish")
        .spawn(move || publish(queue, link, answers))
        .map_err(bind)?;
    answering(backend)?;
    let door = Door {
        listener,
        backend,
        password,
        access,
    };
    Ok(Broker {
        address,
        published,
        ears: Arc::new(Mutex::new(Some(Ears { asking, heard }))),
        door: Arc::new(Mutex::new(Some(door))),
    })
}

impl Broker {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Publish without waiting; false if the broker is so far behind that the message is lost.
    pub fn publish(&self, message: Message) -> bool {
        self.published.try_send(message).is_ok()
    }

    /// Let clients in until `stop` is cancelled; what they publish as events goes to `intake` first.
    /// Possible once. Call it in a Tokio runtime.
    pub(crate) fn open(&self, intake: Arc<dyn Intake>, stop: CancellationToken) {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(door) = door.take() else {
            return;
        };
        let listener = match tokio::net::TcpListener::from_std(door.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the MQTT broker takes no clients");
                return;
            }
        };
        let front = Front {
            backend: door.backend,
            user: DOOR.to_owned(),
            password: door.password,
            access: door.access,
            intake,
        };
        tokio::spawn(front.serve(listener, stop));
    }

    /// Messages that are published to these filters from now on, in order. Possible once; `None`
    /// afterwards. Call it in a Tokio runtime.
    pub(crate) fn receive(&self, filters: &[&str]) -> Option<mpsc::Receiver<Message>> {
        let mut ears = self
            .ears
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        for filter in filters {
            if let Err(error) = ears.asking.subscribe(*filter) {
                tracing::error!(%error, filter, "the MQTT broker took no subscription of the host");
                return None;
            }
        }
        let (sender, receiver) = mpsc::channel(RECEIVED);
        tokio::spawn(hear(ears, sender));
        Some(receiver)
    }
}

/// Pass on what the broker has for the host, until nobody wants it.
async fn hear(mut ears: Ears, to: mpsc::Sender<Message>) {
    loop {
        let notification = tokio::select! {
            notification = ears.heard.next() => notification,
            () = to.closed() => return,
        };
        match notification {
            Ok(Some(Notification::Forward(forward))) => {
                let message = Message {
                    topic: forward.publish.topic,
                    payload: forward.publish.payload,
                };
                if to.send(message).await.is_err() {
                    return;
                }
            }
            // The broker waits until what it has handed over so far is taken.
            Ok(Some(Notification::Unschedule)) => {
                if ears.heard.wake().await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the MQTT broker is gone; commands over MQTT are not heard");
                return;
            }
        }
    }
}

/// Find a free port: the broker itself would only log that one is not.
fn probe(address: SocketAddr) -> std::io::Result<SocketAddr> {
    TcpListener::bind(address)?.local_addr()
}

fn answering(address: SocketAddr) -> Result<(), BrokerError> {
    let deadline = Instant::now() + START;
    while Instant::now() < deadline {
        match TcpStream::connect_timeout(&address, START) {
            Ok(_) => return Ok(()),
            // Refused at once as long as nobody listens: let the other thread come up.
            Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
    Err(BrokerError::Silent { address })
}

fn config(address: SocketAddr, password: &str) -> rumqttd::Config {
    let server = ServerSettings {
        name: "mqtt".to_owned(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: PAYLOAD,
            max_inflight_count: 100,
            auth: Some(HashMap::from([(DOOR.to_owned(), password.to_owned())])),
            external_auth: None,
            dynamic_filters: true,
        },
    };
    rumqttd::Config {
        router: RouterConfig {
            max_connections: CONNECTIONS,
            max_outgoing_packet_count: OUTGOING,
            max_segment_size: SEGMENT,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v4: Some([("mqtt".to_owned(), server)].into()),
        ..rumqttd::Config::default()
    }
}

/// Hand messages to the broker. A thread, not a task: the broker's channel blocks when it is behind.
fn publish(
    mut queue: mpsc::Receiver<Message>,
    mut link: local::LinkTx,
    // Held open: the broker takes a link whose other half is gone for closed.
    _answers: local::LinkRx,
) {
    let mut burst = Vec::with_capacity(BURST);
    while queue.blocking_recv_many(&mut burst, BURST) > 0 {
        for message in burst.drain(..) {
            if let Err(error) = link.publish(message.topic, message.payload) {
                tracing::error!(%error, "the MQTT broker is gone; events are no longer published");
                return;
            }
        }
    }
}

/// Shared by those that publish and may have no broker, as in tests.
pub(crate) type Publisher = Arc<dyn Fn(Message) -> bool + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_an_error_that_names_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let error = start(address, Access::default()).err().unwrap().to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("in use"),
            "{error}"
        );
    }
}
