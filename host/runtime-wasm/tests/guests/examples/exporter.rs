//! An exporter to MQTT.

wit_bindgen::generate!({
    path: ["../../../../wit/reading", "../../../../wit/mqtt", "../../../../wit/pipeline"],
    world: "eyot:pipeline/pipeline-exporter",
    generate_all,
});

use std::cell::RefCell;

use exports::eyot::pipeline::exporter::{Error, Guest, Item, Setting};
use eyot::mqtt::client::{self as mqtt, Message, Qos};

struct Exporter;
export!(Exporter);

struct Config {
    broker: String,
    qos: Qos,
}

thread_local!(static CONFIG: RefCell<Config> =
    const { RefCell::new(Config { broker: String::new(), qos: Qos::AtLeastOnce }) });

impl Guest for Exporter {
    fn configure(settings: Vec<Setting>) -> Result<(), Error> {
        CONFIG.with_borrow_mut(|config| {
            for (name, value) in settings {
                match (name.as_str(), value.as_str()) {
                    ("broker", _) => config.broker = value,
                    ("qos", "0") => config.qos = Qos::AtMostOnce,
                    ("qos", "1") => config.qos = Qos::AtLeastOnce,
                    ("qos", "2") => config.qos = Qos::ExactlyOnce,
                    _ => return Err(Error::Config(format!("{name}={value}"))),
                }
            }
            Ok(())
        })
    }

    fn deliver(batch: Vec<Item>) -> Result<(), Error> {
        CONFIG.with_borrow(|config| {
            let messages: Vec<_> = batch
                .into_iter()
                .filter_map(|item| match item {
                    Item::Payload(payload) => Some(Message {
                        topic: payload.destination,
                        payload: payload.data,
                        qos: config.qos,
                        retain: false,
                    }),
                    Item::Event(_) => None,
                })
                .collect();
            mqtt::publish(&config.broker, &messages).map_err(|error| match error {
                mqtt::Error::Denied(text) => Error::Config(format!("denied: {text}")),
                mqtt::Error::BadBroker(text) => Error::Config(text),
                mqtt::Error::Unreachable(text) => Error::Retry(format!("unreachable: {text}")),
                mqtt::Error::Refused(text) => Error::Retry(format!("refused: {text}")),
                mqtt::Error::Invalid(text) => Error::Rejected(text),
            })
        })
    }
}
