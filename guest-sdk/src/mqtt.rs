//! MQTT, as the host provides it: connections and reconnecting are the host's.

use std::collections::VecDeque;

use crate::bindings::driver::eyot::mqtt::{client, subscriber};
pub use crate::bindings::driver::eyot::mqtt::{
    client::{Error, Message, Qos},
    subscriber::Received,
};

/// The broker of the host.
pub const LOCAL: &str = "mqtt://local";

/// An MQTT client: [`Host`] in a component, [`Recorded`] in tests.
pub trait Publisher {
    /// Publish the messages in order to `mqtt://HOST:PORT` or [`LOCAL`]. On an error nothing is
    /// known about the messages of this call.
    fn publish(&mut self, broker: &str, messages: &[Message]) -> Result<(), Error>;
}

/// Receiving, for drivers: [`Host`] in a component, [`Recorded`] in tests.
pub trait Subscriber {
    /// Subscribe to topic filters; returns at once. Messages of before a connection do not come.
    fn subscribe(&mut self, broker: &str, filters: &[String], qos: Qos) -> Result<(), Error>;

    /// Take the messages that wait. An error if none waits and the broker is not connected.
    fn take(&mut self) -> Result<Vec<Received>, Error>;
}

impl Subscriber for Host {
    fn subscribe(&mut self, broker: &str, filters: &[String], qos: Qos) -> Result<(), Error> {
        subscriber::subscribe(broker, filters, qos)
    }

    fn take(&mut self) -> Result<Vec<Received>, Error> {
        subscriber::take()
    }
}

/// The host's MQTT client. Calling it outside of a component panics: use [`Recorded`] in tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Publisher for Host {
    fn publish(&mut self, broker: &str, messages: &[Message]) -> Result<(), Error> {
        client::publish(broker, messages)
    }
}

/// Keeps what is published, and hands out what a test has put there.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// Broker and message, in order.
    pub messages: Vec<(String, Message)>,
    /// Broker and filter of each subscription, in order.
    pub filters: Vec<(String, String)>,
    /// What the next calls of [`Subscriber::take`] give, one after the other.
    pub waiting: VecDeque<Vec<Received>>,
    /// Answer everything with this error instead.
    pub failure: Option<Error>,
}

impl Publisher for Recorded {
    fn publish(&mut self, broker: &str, messages: &[Message]) -> Result<(), Error> {
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        self.messages.extend(
            messages
                .iter()
                .map(|message| (broker.to_owned(), message.clone())),
        );
        Ok(())
    }
}

impl Subscriber for Recorded {
    fn subscribe(&mut self, broker: &str, filters: &[String], _: Qos) -> Result<(), Error> {
        let pair = |filter: &String| (broker.to_owned(), filter.clone());
        self.filters.extend(filters.iter().map(pair));
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<Received>, Error> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => Ok(self.waiting.pop_front().unwrap_or_default()),
        }
    }
}

/// What the host should think of the device: one whose broker is away cannot be reached.
impl From<Error> for crate::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(text) | Error::BadBroker(text) => Self::invalid("protocols", text),
            Error::Unreachable(text) | Error::Refused(text) => Self::Unreachable(text),
            Error::Invalid(text) => Self::Other(text),
        }
    }
}

/// What a pipeline should do about it: a broker that is away may come back, a wrong address not.
impl From<Error> for crate::PipelineError {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(text) | Error::BadBroker(text) => Self::Config(text),
            Error::Unreachable(text) | Error::Refused(text) => Self::Retry(text),
            Error::Invalid(text) => Self::Rejected(text),
        }
    }
}
