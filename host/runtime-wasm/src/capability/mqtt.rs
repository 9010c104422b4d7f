//! `eyot:mqtt`: publishing to brokers, over one connection per broker for the whole host, and
//! subscribing, over another.

mod broker;
mod connection;
mod hub;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use eyot_runtime::guest::{Grants, Tls};
use rumqttc::QoS;
use tokio::sync::Notify;

use self::{
    broker::Broker,
    connection::Connection,
    hub::{Hub, Inbox},
};
use crate::bindings::{
    mqtt::{Error, Host, Message, Qos},
    subscriber,
};

/// Largest payload, as the contract says.
const PAYLOAD: usize = 1 << 20;
/// Longest topic that the protocol can carry.
const TOPIC: usize = u16::MAX as usize;

/// The connections of the host, by broker; one is closed when its last user is gone.
pub(crate) struct Pool {
    local: SocketAddr,
    connections: Mutex<HashMap<Broker, Weak<Connection>>>,
    hubs: Mutex<HashMap<Broker, Weak<Hub>>>,
}

impl Pool {
    pub(crate) fn new(local: SocketAddr) -> Self {
        Self {
            local,
            connections: Mutex::default(),
            hubs: Mutex::default(),
        }
    }

    fn hub(&self, broker: &Broker) -> Result<Arc<Hub>, Error> {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = hubs.get(broker).and_then(Weak::upgrade)
            && !open.is_over()
        {
            return Ok(open);
        }
        hubs.retain(|_, hub| hub.strong_count() > 0);
        let hub = Hub::open(broker, self.local);
        let hub = hub.map_err(|why| Error::BadBroker(format!("{broker}: {why}")))?;
        hubs.insert(broker.clone(), Arc::downgrade(&hub));
        Ok(hub)
    }

    fn connection(&self, broker: &Broker) -> Arc<Connection> {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = connections.get(broker).and_then(Weak::upgrade)
            && !open.is_over()
        {
            return open;
        }
        connections.retain(|_, connection| connection.strong_count() > 0);
        let connection = Arc::new(Connection::open(broker.clone(), self.local));
        connections.insert(broker.clone(), Arc::downgrade(&connection));
        connection
    }
}

/// MQTT for one instance: the brokers that it may talk to, and those that it does talk to.
pub(crate) struct Client {
    pool: Arc<Pool>,
    granted: Vec<Broker>,
    tls: Arc<Tls>,
    used: HashMap<String, Arc<Connection>>,
    inboxes: HashMap<Broker, Arc<Inbox>>,
    alarm: Arc<Notify>,
}

impl Client {
    /// `alarm` is told when a message waits.
    pub(crate) fn new(pool: Arc<Pool>, grants: &Grants, alarm: Arc<Notify>) -> Self {
        // A grant that cannot be parsed grants nothing.
        let granted = grants
            .mqtt
            .iter()
            .filter_map(|url| Broker::parse(url).ok())
            .collect();
        Self {
            pool,
            granted,
            tls: grants.tls.clone().unwrap_or_default(),
            used: HashMap::new(),
            inboxes: HashMap::new(),
            alarm,
        }
    }

    /// The broker that a URL names, if it is granted.
    fn broker(&self, url: &str) -> Result<Broker, Error> {
        let mut broker = Broker::parse(url).map_err(Error::BadBroker)?;
        if broker.tls.is_some() {
            broker.tls = Some(self.tls.clone());
        }
        if self
            .granted
            .iter()
            .any(|granted| granted.same_server(&broker))
        {
            return Ok(broker);
        }
        let granted: Vec<_> = self.granted.iter().map(ToString::to_string).collect();
        Err(Error::Denied(format!(
            "{broker} is not among the brokers of this component's configuration ({})",
            if granted.is_empty() {
                "none".into()
            } else {
                granted.join(", ")
            }
        )))
    }

    fn connection(&mut self, url: String) -> Result<Arc<Connection>, Error> {
        if let Some(connection) = self.used.get(&url)
            && !connection.is_over()
        {
            return Ok(connection.clone());
        }
        let broker = self.broker(&url)?;
        let connection = self.pool.connection(&broker);
        self.used.insert(url, connection.clone());
        Ok(connection)
    }
}

impl Host for Client {
    async fn publish(
        &mut self,
        broker: String,
        messages: Vec<Message>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let connection = match self.connection(broker) {
            Ok(connection) => connection,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(error) = messages.iter().find_map(|message| check(message).err()) {
            return Ok(Err(error));
        }
        if messages.is_empty() {
            return Ok(Ok(()));
        }
        Ok(connection.publish(messages).await)
    }
}

impl subscriber::Host for Client {
    async fn subscribe(
        &mut self,
        broker: String,
        filters: Vec<String>,
        qos: Qos,
    ) -> wasmtime::Result<Result<(), Error>> {
        let broker = match self.broker(&broker) {
            Ok(broker) => broker,
            Err(error) => return Ok(Err(error)),
        };
        let qos = match qos {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce => QoS::AtLeastOnce,
            Qos::ExactlyOnce => QoS::ExactlyOnce,
        };
        if !self.inboxes.contains_key(&broker) {
            let hub = match self.pool.hub(&broker) {
                Ok(hub) => hub,
                Err(error) => return Ok(Err(error)),
            };
            let inbox = hub.inbox(self.alarm.clone());
            self.inboxes.insert(broker.clone(), inbox);
        }
        let inbox = self.inboxes.get(&broker);
        Ok(inbox.map_or(Ok(()), |inbox| inbox.subscribe(filters, qos)))
    }

    async fn take(&mut self) -> wasmtime::Result<Result<Vec<subscriber::Received>, Error>> {
        let mut all = Vec::new();
        for inbox in self.inboxes.values() {
            match inbox.take() {
                Ok(taken) => all.extend(taken),
                // What has come is handed over first.
                Err(error) if all.is_empty() => return Ok(Err(error)),
                Err(_) => {}
            }
        }
        Ok(Ok(all))
    }
}

fn check(message: &Message) -> Result<(), Error> {
    let topic = &message.topic;
    if topic.is_empty() || topic.len() > TOPIC || topic.contains(['+', '#', '\0']) {
        return Err(Error::Invalid(format!(
            "topic {:?}: a topic has 1 to {TOPIC} bytes without '+', '#' and NUL",
            topic.chars().take(100).collect::<String>()
        )));
    }
    if message.payload.len() > PAYLOAD {
        let size = message.payload.len();
        return Err(Error::Invalid(format!(
            "payload of {size} bytes: at most {PAYLOAD} pass"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
