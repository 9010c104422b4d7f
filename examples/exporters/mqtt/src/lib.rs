//! Publishes to an MQTT broker.
//!
//! | setting | |
//! |---|---|
//! | `broker` | `mqtt://HOST:PORT`, or `mqtts://HOST:PORT` for TLS (with the certificates of the stage's `tlsSecret`); by default `mqtt://local`, the host's own |
//! | `username`, `password` | to log in with |
//! | `topic` | `{device}` and `{destination}` stand for the payload's; with `{resource}` each reading of an event is a message of its own. By default the payload's destination, else `eyot/{device}` |
//! | `qos` | 0, 1 (the default) or 2 |
//! | `retain` | whether the broker keeps the last message of each topic |
//!
//! Payloads are published as they are, events as EdgeX JSON, single readings as their value.

use eyot_sdk::{
    Event, Exporter, Item, Payload, PipelineError,
    mqtt::{self, Host, Message, Publisher, Qos},
};
use serde::Deserialize;

pub struct Mqtt<P> {
    publisher: P,
    broker: String,
    topic: String,
    qos: Qos,
    retain: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Config {
    broker: Option<String>,
    username: Option<String>,
    password: Option<String>,
    topic: String,
    qos: Option<u8>,
    retain: bool,
}

impl<P: Publisher + Default> Exporter for Mqtt<P> {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, PipelineError> {
        let qos = match config.qos {
            Some(0) => Qos::AtMostOnce,
            None | Some(1) => Qos::AtLeastOnce,
            Some(2) => Qos::ExactlyOnce,
            Some(qos) => return Err(wrong(format!("setting \"qos\" is 0, 1 or 2, not {qos}"))),
        };
        let broker = config.broker.as_deref().unwrap_or(mqtt::LOCAL);
        let broker = address(broker, config.username, config.password)?;
        let names = ["{device}", "{resource}", "{destination}"];
        let bare = names
            .iter()
            .fold(config.topic.clone(), |topic, name| topic.replace(name, ""));
        if bare.contains(['{', '}', '+', '#']) {
            let known = names.join(", ");
            let message = format!(
                "setting \"topic\": only {known} are filled in, and + and # are for subscribers"
            );
            return Err(wrong(message));
        }
        let publisher = P::default();
        Ok(Self {
            publisher,
            broker,
            topic: config.topic,
            qos,
            retain: config.retain,
        })
    }

    fn deliver(&mut self, batch: Vec<Item>) -> Result<(), PipelineError> {
        let mut messages = Vec::with_capacity(batch.len());
        for item in batch {
            match item {
                Item::Payload(payload) => messages.push(self.payload(payload)),
                Item::Event(event) => self.event(&event, &mut messages),
            }
        }
        Ok(self.publisher.publish(&self.broker, &messages)?)
    }
}

impl<P> Mqtt<P> {
    fn payload(&self, payload: Payload) -> Message {
        let topic = match (self.topic.as_str(), payload.destination.as_str()) {
            ("", "") => format!("eyot/{}", level(&payload.device)),
            ("", destination) => destination.to_owned(),
            (topic, destination) => topic
                .replace("{device}", &level(&payload.device))
                .replace("{destination}", destination)
                .replace("{resource}", "all"),
        };
        self.message(topic, payload.data)
    }

    fn event(&self, event: &Event, messages: &mut Vec<Message>) {
        let topic = if self.topic.is_empty() {
            "eyot/{device}"
        } else {
            &self.topic
        };
        let topic = topic.replace("{device}", &level(&event.device));
        let topic = topic.replace("{destination}", &level(&event.source));
        if !topic.contains("{resource}") {
            return messages.push(self.message(topic, event.to_edgex_json().to_string().into()));
        }
        for reading in &event.readings {
            let topic = topic.replace("{resource}", &level(&reading.resource));
            messages.push(self.message(topic, reading.value.to_text().into()));
        }
    }

    fn message(&self, topic: String, payload: Vec<u8>) -> Message {
        Message {
            topic,
            payload,
            qos: self.qos,
            retain: self.retain,
        }
    }
}

/// Where the broker is, with the login where there is one.
fn address(
    broker: &str,
    username: Option<String>,
    password: Option<String>,
) -> Result<String, PipelineError> {
    let known = |scheme: &&str| matches!(*scheme, "mqtt" | "mqtts");
    let parts = broker.split_once("://").filter(|(scheme, _)| known(scheme));
    let Some((scheme, place)) = parts else {
        // A password may be in it.
        let shown = broker.rsplit_once('@').map_or(broker, |(_, place)| place);
        let message = "is neither mqtt://HOST:PORT nor mqtts://HOST:PORT";
        return Err(wrong(format!("setting \"broker\": {shown:?} {message}")));
    };
    match (username, password.unwrap_or_default()) {
        (None, password) if password.is_empty() => Ok(broker.to_owned()),
        (None, _) => Err(wrong(
            "setting \"username\": a password needs one".to_owned(),
        )),
        (Some(_), _) if place.contains('@') => {
            let message = "setting \"username\": the broker's address has a login already";
            Err(wrong(message.to_owned()))
        }
        (Some(user), _) if user.contains(':') => Err(wrong(
            "setting \"username\": must not have a colon".to_owned(),
        )),
        (Some(user), password) => Ok(format!("{scheme}://{user}:{password}@{place}")),
    }
}

/// A name as one level of a topic: what has a meaning there is escaped as in a URL.
fn level(name: &str) -> String {
    let escape = |c: char| match c {
        '/' | '+' | '#' | '%' => format!("%{:02X}", u32::from(c)),
        c => c.to_string(),
    };
    name.chars().map(escape).collect()
}

fn wrong(message: String) -> PipelineError {
    PipelineError::Config(message)
}

eyot_sdk::export_exporter!(Mqtt<Host>);

#[cfg(test)]
mod tests {
    use eyot_sdk::{Reading, Value, mqtt::Recorded};

    use super::*;

    fn configure(
        topic: &str,
        broker: Option<&str>,
        qos: Option<u8>,
    ) -> Result<Mqtt<Recorded>, String> {
        let broker = broker.map(str::to_owned);
        Mqtt::configure(Config {
            broker,
            topic: topic.to_owned(),
            qos,
            ..Config::default()
        })
        .map_err(|error| format!("{error:?}"))
    }

    fn payload(destination: &str) -> Item {
        Item::Payload(Payload {
            media_type: "application/json".into(),
            destination: destination.into(),
            data: b"{}".to_vec(),
            device: "plc/1".into(),
        })
    }

    fn event() -> Item {
        let reading = |resource: &str, value| Reading {
            resource: resource.into(),
            value,
            origin: 1,
            units: String::new(),
            tags: vec![],
        };
        Item::Event(Event {
            id: "1".into(),
            device: "plc".into(),
            profile: "p".into(),
            source: "all".into(),
            origin: 1,
            readings: vec![
                reading("t", Value::Float32(21.5)),
                reading("on", Value::Boolean(true)),
            ],
            tags: vec![],
        })
    }

    #[track_caller]
    fn check(topic: &str, item: Item, expected: &[(&str, &str)]) {
        let mut mqtt = configure(topic, None, None).unwrap();
        mqtt.deliver(vec![item]).unwrap();
        let seen: Vec<(String, String)> = mqtt
            .publisher
            .messages
            .iter()
            .map(|(broker, message)| {
                assert_eq!(
                    (broker.as_str(), message.qos),
                    (mqtt::LOCAL, Qos::AtLeastOnce)
                );
                (
                    message.topic.clone(),
                    String::from_utf8(message.payload.clone()).unwrap(),
                )
            })
            .collect();
        let seen: Vec<(&str, &str)> = seen.iter().map(|(t, p)| (t.as_str(), p.as_str())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn topics_come_from_the_setting_the_payload_or_the_device() {
        check("", payload(""), &[("eyot/plc%2F1", "{}")]);
        check("", payload("a/b"), &[("a/b", "{}")]);
        check(
            "x/{device}/{destination}",
            payload("a/b"),
            &[("x/plc%2F1/a/b", "{}")],
        );
        check(
            "x/{device}/{resource}",
            event(),
            &[("x/plc/t", "21.5"), ("x/plc/on", "true")],
        );
    }

    #[test]
    fn wrong_settings_are_named() {
        for (topic, broker, qos, word) in [
            ("", None, Some(3), "qos"),
            ("", Some("http://x"), None, "broker"),
            ("{color}", None, None, "topic"),
            ("a/#", None, None, "topic"),
        ] {
            let error = configure(topic, broker, qos).err().unwrap();
            assert!(error.contains("Config") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_login_becomes_part_of_the_brokers_address() {
        let with = |broker: &str, user: Option<&str>, password: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            address(broker, own(user), own(password)).map_err(|error| format!("{error:?}"))
        };
        assert_eq!(
            with("mqtts://h:8883", None, None).unwrap(),
            "mqtts://h:8883"
        );
        let login = with("mqtts://h:8883", Some("u"), Some("a:b@c"));
        assert_eq!(login.unwrap(), "mqtts://u:a:b@c@h:8883");
        assert_eq!(with("mqtt://h", Some("u"), None).unwrap(), "mqtt://u:@h");
        for (broker, user, password, word) in [
            ("http://u:secret@h", None, None, "broker"),
            ("mqtt://h", None, Some("p"), "username"),
            ("mqtt://me@h", Some("u"), Some("p"), "username"),
            ("mqtt://h", Some("a:b"), Some("p"), "username"),
        ] {
            let error = with(broker, user, password).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_broker_that_is_away_is_tried_again() {
        let mut mqtt = configure("", None, None).unwrap();
        mqtt.publisher.failure = Some(mqtt::Error::Unreachable("refused".into()));
        assert!(matches!(
            mqtt.deliver(vec![event()]),
            Err(PipelineError::Retry(_))
        ));
    }
}
