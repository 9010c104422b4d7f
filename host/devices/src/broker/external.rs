//! A broker of the site's own in place of the embedded one.
//!
//! The host is one of its clients. What it publishes (events, system events, answers, twins) goes out
//! with quality of service 1 and in order. While the broker is away, messages wait in a queue that is
//! bounded by number and by bytes; what finds it full is refused, and whoever publishes counts it. What
//! was under way when a connection broke is sent again over the next one.
//!
//! Events of device services that are no guests of this host come from the broker like from the
//! embedded one's door: each is acknowledged once it is stored. The host is given its own events, too,
//! since MQTT 3.1.1 cannot leave them out; the intake knows them.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use eyot_http::trust::{Trust, trusting};
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, MqttOptions, Outgoing, Publish, QoS, Request,
    Subscribe, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Intake, Message, PACKET, PUBLISHED, RECEIVED,
    front::{EVENTS, hidden, shown},
};
use crate::backoff::Backoff;

/// Where the events of device services are published.
const FILTER: &str = "edgex/events/device/#";
/// Bytes of messages that wait for the broker at most.
const WAITING: usize = 32 * 1024 * 1024;
/// Messages without an acknowledgement at a time, and those at hand for the connection.
const UNACKNOWLEDGED: u16 = 200;
const AT_HAND: usize = 32;
/// Largest packet that is taken: more than any that is understood, since one that is not taken ends
/// the connection, and comes again.
const INCOMING: usize = 16 * 1024 * 1024;
/// Events stored together.
const TOGETHER: usize = 200;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long it is between tries to store what could not be stored.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it is between tries to connect, at first and at most.
const FIRST: Duration = Duration::from_millis(200);
const MOST: Duration = Duration::from_secs(15);
/// How long what still waits at the end may take.
const LAST: Duration = Duration::from_secs(2);

/// Where a broker is, and who the host is to it.
pub struct Address {
    options: MqttOptions,
    /// For people.
    text: String,
}

impl Address {
    /// `mqtt[s]://[user@]host[:port]`. `authorities` (PEM) are those that may vouch for the broker;
    /// none means those that the machine trusts.
    pub fn new(
        url: &str,
        client: &str,
        password: Option<String>,
        authorities: &[u8],
    ) -> Result<Self, String> {
        let wrong = || format!("{url:?} is not mqtt://[USER@]HOST[:PORT] or mqtts://…");
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (is_tls, port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(wrong()),
        };
        let rest = rest.trim_end_matches('/');
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("the password belongs into a file of its own, not into the URL".to_owned());
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (place, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '?', '#']) || user == Some("") {
            return Err(wrong());
        }
        if password.is_some() && user.is_none() {
            return Err("a password without a user: give mqtt://USER@HOST".to_owned());
        }
        let mut options = MqttOptions::new(client, host, port);
        options
            .set_keep_alive(KEEP_ALIVE)
            // The broker keeps the events that others publish while this host is away.
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_inflight(UNACKNOWLEDGED)
            .set_max_packet_size(INCOMING, PACKET);
        if let Some(user) = user {
            options.set_credentials(user, password.unwrap_or_default());
        }
        if is_tls {
            let tls = trusting(Trust::Authorities(authorities))?.with_no_client_auth();
            let tls = TlsConfiguration::Rustls(Arc::new(tls));
            options.set_transport(Transport::tls_with_config(tls));
        }
        let text = format!("{scheme}://{host}:{port}");
        Ok(Self { options, text })
    }
}

/// Where to connect, and what is to be sent there.
type Waiting = (Address, mpsc::Receiver<Message>);

/// The way to the broker. Cheap to clone.
#[derive(Clone)]
pub struct External {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    waiting: Arc<Mutex<Option<Waiting>>>,
    closing: CancellationToken,
    ended: CancellationToken,
}

impl External {
    /// Nothing happens before [`Self::open`], but messages may be published already.
    pub fn new(address: Address) -> Self {
        let (queue, waiting) = mpsc::channel(PUBLISHED);
        Self {
            queue,
            room: Arc::new(Semaphore::new(WAITING)),
            waiting: Arc::new(Mutex::new(Some((address, waiting)))),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Publish without waiting; false if so much waits already that the message is lost.
    pub fn publish(&self, message: Message) -> bool {
        let Ok(room) = self.room.try_acquire_many(bytes(&message)) else {
            return false;
        };
        let is_taken = self.queue.try_send(message).is_ok();
        if is_taken {
            room.forget();
        }
        is_taken
    }

    /// Connect, and stay connected. Events that others publish go to `intake`, what comes on
    /// `filters` to whom this returns. Possible once; `None` afterwards. Call it in a Tokio runtime.
    pub(super) fn open(
        &self,
        filters: &[&str],
        intake: Arc<dyn Intake>,
    ) -> Option<mpsc::Receiver<Message>> {
        let waiting = self.waiting.lock();
        let (address, queue) = waiting.unwrap_or_else(PoisonError::into_inner).take()?;
        let mut subscribed = vec![SubscribeFilter::new(FILTER.to_owned(), QoS::AtLeastOnce)];
        for filter in filters {
            // A command that waited for the host would surprise whoever gave it up.
            subscribed.push(SubscribeFilter::new(shown(filter), QoS::AtMostOnce));
        }
        let (client, events) = AsyncClient::new(address.options, AT_HAND);
        let (open, is_open) = watch::channel(false);
        let (heard, receiver) = mpsc::channel(RECEIVED);
        let pump = Pump {
            queue,
            room: self.room.clone(),
            client: client.clone(),
            is_open,
            closing: self.closing.clone(),
        };
        tokio::spawn(pump.run());
        let session = Session {
            broker: address.text,
            subscribed,
            open,
            heard,
            intake,
            client,
            events,
            unsent: Vec::new(),
            is_away: false,
            closing: self.closing.clone(),
        };
        let ended = self.ended.clone();
        tokio::spawn(async move {
            session.run().await;
            ended.cancel();
        });
        Some(receiver)
    }

    /// Send what waits, and end; what takes longer than a moment is lost.
    pub(super) async fn close(&self) {
        let is_closed = {
            let waiting = self.waiting.lock();
            waiting.unwrap_or_else(PoisonError::into_inner).is_some()
        };
        self.closing.cancel();
        if is_closed {
            return;
        }
        if tokio::time::timeout(LAST, self.ended.cancelled())
            .await
            .is_err()
        {
            let left = self.queue.max_capacity() - self.queue.capacity();
            tracing::warn!(left, "the MQTT broker did not take what waited for it");
        }
    }
}

fn bytes(message: &Message) -> u32 {
    let bytes = message.topic.len() + message.payload.len();
    u32::try_from(bytes.min(WAITING)).unwrap_or(u32::MAX)
}

/// Hands messages to the connection as long as there is one.
struct Pump {
    queue: mpsc::Receiver<Message>,
    room: Arc<Semaphore>,
    client: AsyncClient,
    is_open: watch::Receiver<bool>,
    closing: CancellationToken,
}

impl Pump {
    async fn run(mut self) {
        loop {
            // Without a connection nothing is to leave the queue: it alone is bounded in bytes.
            if self.is_open.wait_for(|open| *open).await.is_err() {
                return;
            }
            let message = tokio::select! {
                biased;
                message = self.queue.recv() => message,
                () = self.closing.cancelled() => None,
            };
            let Some(message) = message else {
                // Behind all that was published.
                let _ = self.client.disconnect().await;
                return;
            };
            let size = bytes(&message);
            let topic = shown(&String::from_utf8_lossy(&message.topic));
            let sent = self
                .client
                .publish_bytes(topic, QoS::AtLeastOnce, false, message.payload)
                .await;
            self.room.add_permits(size as usize);
            if let Err(error) = sent {
                tracing::warn!(%error, "a message cannot be published");
            }
        }
    }
}

struct Session {
    broker: String,
    subscribed: Vec<SubscribeFilter>,
    open: watch::Sender<bool>,
    heard: mpsc::Sender<Message>,
    intake: Arc<dyn Intake>,
    client: AsyncClient,
    events: EventLoop,
    /// What was under way when the connection broke.
    unsent: Vec<Request>,
    /// The log says that there is no connection.
    is_away: bool,
    closing: CancellationToken,
}

impl Session {
    async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST, MOST);
        let mut taken = Vec::new();
        loop {
            match self.events.poll().await {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    backoff.reset();
                    self.connected();
                }
                Ok(Event::Incoming(Incoming::SubAck(answer))) => {
                    let answers = answer.return_codes.iter().zip(&self.subscribed);
                    for (_, filter) in answers.filter(|(a, _)| **a == SubscribeReasonCode::Failure)
                    {
                        tracing::error!(broker = %self.broker, topic = filter.path,
                            "the MQTT broker lets the host not subscribe: allow it that topic");
                    }
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    if publish.topic.as_bytes().starts_with(EVENTS) {
                        taken.push(publish);
                    } else {
                        self.hear(&publish);
                    }
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(error) => {
                    self.lost(&error.to_string());
                    // Without an acknowledgement they come again.
                    taken.clear();
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next()) => {}
                        () = self.closing.cancelled() => return,
                    }
                    continue;
                }
            }
            if taken.len() >= TOGETHER || self.events.state.events.is_empty() {
                self.store(&mut taken).await;
            }
            let is_ready = self.events.network.is_some() && self.events.pending.is_empty();
            self.open.send_if_modified(|open| {
                let is_new = *open != is_ready;
                *open = is_ready;
                is_new
            });
        }
    }

    fn connected(&mut self) {
        tracing::info!(broker = %self.broker, "connected to the MQTT broker");
        self.is_away = false;
        // rumqttc forgets what was under way if the broker has forgotten the session.
        let sent = mem::take(&mut self.unsent);
        let subscribe = Subscribe::new_many(self.subscribed.clone());
        let pending = &mut self.events.pending;
        pending.clear();
        pending.push_back(Request::Subscribe(subscribe));
        pending.extend(sent);
    }

    fn lost(&mut self, why: &str) {
        self.open.send_replace(false);
        let under_way = self.events.pending.drain(..);
        let publishes = under_way.filter(|request| matches!(request, Request::Publish(_)));
        self.unsent.extend(publishes);
        if !mem::replace(&mut self.is_away, true) {
            tracing::warn!(broker = %self.broker, why, "no connection to the MQTT broker");
        }
    }

    /// Give the host what is none of the events.
    fn hear(&self, publish: &Publish) {
        let message = Message {
            topic: hidden(&publish.topic).into(),
            payload: publish.payload.clone(),
        };
        if self.heard.try_send(message).is_err() {
            tracing::warn!(
                topic = publish.topic,
                "busy: a request over MQTT was dropped"
            );
        }
    }

    /// Store events, and acknowledge them.
    async fn store(&mut self, taken: &mut Vec<Publish>) {
        if taken.is_empty() {
            return;
        }
        let message = |publish: &Publish| Message {
            topic: Bytes::copy_from_slice(publish.topic.as_bytes()),
            payload: publish.payload.clone(),
        };
        let messages: Vec<_> = taken.iter().map(message).collect();
        while let Err(why) = self.intake.take(messages.clone()).await {
            tracing::warn!(why, "events from the MQTT broker are not stored yet");
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.closing.cancelled() => return,
            }
        }
        for publish in taken.drain(..) {
            // No room for it means that there is much to send; then it goes first.
            if publish.qos == QoS::AtLeastOnce && self.client.try_ack(&publish).is_err() {
                let answer = Request::PubAck(rumqttc::PubAck::new(publish.pkid));
                self.events.pending.push_back(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str, password: Option<&str>) -> Result<Address, String> {
        Address::new(url, "eyot-test", password.map(str::to_owned), b"")
    }

    #[test]
    fn an_address_says_where_and_who() {
        let plain = address("mqtt://broker.plant", None).unwrap();
        assert_eq!(
            plain.options.broker_address(),
            ("broker.plant".to_owned(), 1883)
        );
        assert!(plain.options.credentials().is_none());
        let known = address("mqtts://eyot@[fd00::1]:8884/", Some("a:b@c")).unwrap();
        assert_eq!(known.options.broker_address(), ("fd00::1".to_owned(), 8884));
        let login = known.options.credentials().unwrap();
        assert_eq!((&*login.username, &*login.password), ("eyot", "a:b@c"));
        assert!(matches!(known.options.transport(), Transport::Tls(_)));
        for (url, password) in [
            ("broker:1883", None),
            ("http://broker", None),
            ("mqtt://", None),
            ("mqtt://@broker", None),
            ("mqtt://broker:port", None),
            ("mqtt://broker/path", None),
            ("mqtt://user:secret@broker", None),
            ("mqtt://broker", Some("secret")),
        ] {
            assert!(address(url, password).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn what_waits_for_a_broker_that_is_away_is_bounded() {
        let external = External::new(address("mqtt://127.0.0.1:1", None).unwrap());
        let message = |size: usize| Message {
            topic: Bytes::from_static(b"t"),
            payload: vec![0; size].into(),
        };
        let large = (0..100).filter(|_| external.publish(message(1024 * 1024)));
        assert_eq!(large.count(), 31);
        let small = (0..2 * PUBLISHED).filter(|_| external.publish(message(1)));
        assert_eq!(small.count(), PUBLISHED - 31);
    }
}
