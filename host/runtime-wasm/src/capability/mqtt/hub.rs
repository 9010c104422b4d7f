//! The subscriptions of the host at one broker: one connection, and an inbox for each instance.
//!
//! The connection is rumqttc's event loop. It acknowledges what it has put into the inboxes; nothing
//! is kept at the broker for us, so what is sent while the connection is lost does not come.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport, matches,
    valid_filter,
};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{
    PAYLOAD, TOPIC,
    broker::{Broker, Server},
    connection::{BACK_OFF, client_id},
};
use crate::{
    bindings::{mqtt::Error, subscriber::Received},
    tls,
};

/// What one instance may have: filters, and messages and bytes that wait for it.
const FILTERS: usize = 64;
const MESSAGES: usize = 4096;
const BYTES: usize = 8 << 20;
/// Messages in one call.
const TAKEN: usize = 1024;
/// Requests to the connection that wait; subscriptions of many instances at once.
const REQUESTS: usize = 4096;
/// Largest packet: with more the connection is given up, so that memory stays bounded.
const PACKET: usize = 16 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The subscriptions at one broker.
pub(super) struct Hub {
    client: AsyncClient,
    shared: Arc<Shared>,
    task: AbortOnDropHandle<()>,
}

struct Shared {
    inboxes: Mutex<Vec<Weak<Inbox>>>,
    /// Why there is no connection.
    failure: Mutex<Option<String>>,
}

/// What one instance subscribed to, and what waits for it.
pub(super) struct Inbox {
    hub: Arc<Hub>,
    alarm: Arc<Notify>,
    filters: Mutex<BTreeMap<String, QoS>>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Received>,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// # Errors
    ///
    /// Certificates that cannot be read.
    pub(super) fn open(broker: &Broker, local: SocketAddr) -> Result<Arc<Self>, String> {
        let (host, port) = match &broker.server {
            Server::Local => (local.ip().to_string(), local.port()),
            Server::Remote { host, port } => (host.trim_matches(['[', ']']).to_owned(), *port),
        };
        let mut options = MqttOptions::new(client_id(), host, port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_max_packet_size(PACKET, PACKET);
        if let Some((user, password)) = &broker.login {
            options.set_credentials(user, password);
        }
        if let Some(settings) = &broker.tls {
            let config = TlsConfiguration::Rustls(tls::client(Some(settings))?);
            options.set_transport(Transport::tls_with_config(config));
        }
        let (client, connection) = AsyncClient::new(options, REQUESTS);
        let shared = Arc::new(Shared {
            inboxes: Mutex::default(),
            failure: Mutex::default(),
        });
        let serving = serve(broker.clone(), connection, client.clone(), shared.clone());
        Ok(Arc::new(Self {
            client,
            shared,
            task: AbortOnDropHandle::new(tokio::spawn(serving)),
        }))
    }

    /// Whether its task is gone, as when the runtime that it was on ended.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// An inbox that tells `alarm` when something comes.
    pub(super) fn inbox(self: &Arc<Self>, alarm: Arc<Notify>) -> Arc<Inbox> {
        let inbox = Arc::new(Inbox {
            hub: self.clone(),
            alarm,
            filters: Mutex::default(),
            waiting: Mutex::default(),
        });
        let mut inboxes = lock(&self.shared.inboxes);
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        inboxes.push(Arc::downgrade(&inbox));
        inbox
    }
}

impl Shared {
    fn inboxes(&self) -> Vec<Arc<Inbox>> {
        lock(&self.inboxes)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    fn connected(&self, failure: Option<String>) {
        *lock(&self.failure) = failure;
        self.inboxes()
            .iter()
            .for_each(|inbox| inbox.alarm.notify_one());
    }
}

impl Inbox {
    pub(super) fn subscribe(&self, filters: Vec<String>, qos: QoS) -> Result<(), Error> {
        for filter in filters {
            if !valid_filter(&filter) || filter.len() > TOPIC || filter.contains('\0') {
                let shown: String = filter.chars().take(100).collect();
                return Err(Error::Invalid(format!("{shown:?} is no topic filter")));
            }
            let mut known = lock(&self.filters);
            if known.get(&filter) == Some(&qos) {
                continue;
            }
            if known.len() >= FILTERS {
                return Err(Error::Invalid(format!("more than {FILTERS} topic filters")));
            }
            known.insert(filter.clone(), qos);
            drop(known);
            let asked = self.hub.client.try_subscribe(filter, qos);
            asked.map_err(|_| Error::Unreachable("too many subscriptions wait".into()))?;
        }
        Ok(())
    }

    pub(super) fn take(&self) -> Result<Vec<Received>, Error> {
        let mut waiting = lock(&self.waiting);
        if waiting.messages.is_empty()
            && let Some(failure) = lock(&self.hub.shared.failure).clone()
        {
            return Err(Error::Unreachable(failure));
        }
        let count = waiting.messages.len().min(TAKEN);
        let taken: Vec<Received> = waiting.messages.drain(..count).collect();
        waiting.bytes -= taken.iter().map(size).sum::<usize>();
        if !waiting.messages.is_empty() {
            self.alarm.notify_one();
        }
        Ok(taken)
    }

    fn put(&self, message: &Received) {
        if !lock(&self.filters)
            .keys()
            .any(|filter| matches(&message.topic, filter))
        {
            return;
        }
        let mut waiting = lock(&self.waiting);
        waiting.bytes += size(message);
        waiting.messages.push_back(message.clone());
        let mut dropped = 0;
        while waiting.bytes > BYTES || waiting.messages.len() > MESSAGES {
            let Some(oldest) = waiting.messages.pop_front() else {
                break;
            };
            waiting.bytes -= size(&oldest);
            dropped += 1;
        }
        if dropped > 0 {
            tracing::debug!(dropped, "a driver does not keep up with its MQTT messages");
        }
        self.alarm.notify_one();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let others = self.hub.shared.inboxes();
        for filter in lock(&self.filters).keys() {
            if !others
                .iter()
                .any(|other| lock(&other.filters).contains_key(filter))
            {
                // Without it messages come that nobody takes.
                let _ = self.hub.client.try_unsubscribe(filter);
            }
        }
    }
}

fn size(message: &Received) -> usize {
    message.topic.len() + message.payload.len() + 64
}

async fn serve(
    broker: Broker,
    mut connection: EventLoop,
    client: AsyncClient,
    shared: Arc<Shared>,
) {
    let mut pause = BACK_OFF.0;
    loop {
        match connection.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                pause = BACK_OFF.0;
                tracing::debug!(%broker, "MQTT subscriptions connected");
                let mut filters: BTreeMap<String, QoS> = BTreeMap::new();
                for inbox in shared.inboxes() {
                    for (filter, qos) in lock(&inbox.filters).iter() {
                        let best = filters.entry(filter.clone()).or_insert(*qos);
                        if (*best as u8) < *qos as u8 {
                            *best = *qos;
                        }
                    }
                }
                for (filter, qos) in filters {
                    if client.try_subscribe(filter, qos).is_err() {
                        tracing::warn!(%broker, "too many MQTT subscriptions wait");
                        break;
                    }
                }
                shared.connected(None);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                if publish.payload.len() > PAYLOAD {
                    tracing::debug!(%broker, topic = publish.topic, "a long message is dropped");
                    continue;
                }
                let message = Received {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                    retained: publish.retain,
                };
                shared
                    .inboxes()
                    .iter()
                    .for_each(|inbox| inbox.put(&message));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%broker, %error, "MQTT subscriptions lost");
                shared.connected(Some(format!("{broker}: {error}")));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
