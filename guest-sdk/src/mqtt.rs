//! Publishing to an MQTT broker, as the host provides it: connections and reconnecting are the
//! host's.

use crate::bindings::driver::eyot::mqtt::client;
pub use crate::bindings::driver::eyot::mqtt::client::{Error, Message, Qos};

/// The broker of the host.
pub const LOCAL: &str = "mqtt://local";

/// An MQTT client: [`Host`] in a component, [`Recorded`] in tests.
pub trait Publisher {
    /// Publish the messages in order to `mqtt://HOST:PORT` or [`LOCAL`]. On an error nothing is
    /// known about the messages of this call.
    fn publish(&mut self, broker: &str, messages: &[Message]) -> Result<(), Error>;
}

/// The host's MQTT client. Calling it outside of a component panics: use [`Recorded`] in tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Publisher for Host {
    fn publish(&mut self, broker: &str, messages: &[Message]) -> Result<(), Error> {
        client::publish(broker, messages)
    }
}

/// Keeps what is published, for the tests of exporters.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// Broker and message, in order.
    pub messages: Vec<(String, Message)>,
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
