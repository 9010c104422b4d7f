//! Devices that speak MQTT, with the topics of EdgeX.
//!
//! | topic | who sends | payload |
//! |---|---|---|
//! | `incoming/data/DEVICE/SOURCE` | the device, at any time | an object with a member for each resource, or the value alone if `SOURCE` is a resource |
//! | `COMMANDTOPIC/RESOURCE/get/ID` | the driver | none |
//! | `COMMANDTOPIC/RESOURCE/set/ID` | the driver | `{"RESOURCE": value}` |
//! | `command/response/ID` | the device, in answer | `{"RESOURCE": value}`, or the value alone |
//!
//! The protocol `mqtt` of a device has `CommandTopic`, and may have `Broker` (`mqtt://HOST:PORT`,
//! or `mqtts://HOST:PORT` for TLS, otherwise the host's own), `IncomingTopic`, `ResponseTopic`, `Qos`,
//! `Timeout` in seconds and `CredentialsName`: a Secret with `username` and `password`, and with
//! `cacert`, `clientcert` and `clientkey` for TLS.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use eyot_sdk::{
    Device, Driver, Error, ReadRequest, Reading, Resource, Value, ValueType, WriteRequest, lenient,
    log,
    mqtt::{Host, LOCAL, Message, Publisher, Qos, Received, Subscriber},
    publish,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// How long the transport is left alone between two looks for an answer.
const LOOK: Duration = Duration::from_millis(2);
/// Longest time for an answer: the host gives a call 30 seconds.
const LONGEST: f64 = 20.0;

pub struct Mqtt<T> {
    transport: T,
    settings: Properties,
    /// Where the device's own messages come, without the source.
    incoming: String,
    resources: HashMap<String, Resource<Attributes>>,
}

/// `protocols.mqtt` of a device.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    command_topic: String,
    #[serde(default = "local")]
    broker: String,
    #[serde(default = "incoming")]
    incoming_topic: String,
    #[serde(default = "response")]
    response_topic: String,
    #[serde(default, deserialize_with = "lenient::optional")]
    qos: Option<u8>,
    #[serde(default, deserialize_with = "lenient::optional")]
    timeout: Option<f64>,
    #[serde(default)]
    credentials: Credentials,
}

/// Who logs in at the broker. What TLS needs stays with the host.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Credentials {
    username: Option<String>,
    password: String,
}

fn local() -> String {
    LOCAL.to_owned()
}

fn incoming() -> String {
    "incoming/data".to_owned()
}

fn response() -> String {
    "command/response".to_owned()
}

impl Properties {
    fn qos(&self) -> Qos {
        match self.qos {
            Some(2) => Qos::ExactlyOnce,
            Some(1) => Qos::AtLeastOnce,
            _ => Qos::AtMostOnce,
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout.unwrap_or(5.0))
    }
}

/// Resources need nothing beside their names.
#[derive(Deserialize)]
pub struct Attributes {}

impl<T: Publisher + Subscriber + Default> Driver for Mqtt<T> {
    type Attributes = Attributes;

    fn open(device: &Device) -> Result<Self, Error> {
        let settings = check(device)?;
        let incoming = format!("{}/{}/", settings.incoming_topic, device.name);
        Ok(Self {
            transport: T::default(),
            settings,
            incoming,
            resources: HashMap::new(),
        })
    }

    fn validate(device: &Device) -> Result<(), Error> {
        check(device).map(drop)
    }

    fn subscribe(&mut self, resources: Vec<Resource<Attributes>>) -> Result<(), Error> {
        let filters = [
            format!("{}+", self.incoming),
            format!("{}/+", self.settings.response_topic),
        ];
        let qos = self.settings.qos();
        self.transport
            .subscribe(&self.settings.broker, &filters, qos)?;
        let named = resources.into_iter().map(|r| (r.name.clone(), r));
        self.resources = named.collect();
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<Duration>, Error> {
        for message in self.transport.take()? {
            self.heard(&message);
        }
        Ok(None)
    }

    fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
        let questions = requests.iter().map(|request| Question {
            resource: request.resource,
            method: "get",
            payload: Vec::new(),
        });
        let answers = self.ask(questions.collect())?;
        let answer = |(request, json): (&ReadRequest<'_, Attributes>, Json)| {
            let value = named(&json, request.resource, request.value_type)
                .map_err(|text| Error::Garbled(format!("{}: {text}", request.resource)))?;
            Ok(request.answer(value))
        };
        requests.iter().zip(answers).map(answer).collect()
    }

    fn write(&mut self, requests: &[WriteRequest<'_, Attributes>]) -> Result<(), Error> {
        for request in requests {
            let payload = json!({ request.resource: request.value.to_json() }).to_string();
            self.ask(vec![Question {
                resource: request.resource,
                method: "set",
                payload: payload.into_bytes(),
            }])?;
        }
        Ok(())
    }
}

fn check(device: &Device) -> Result<Properties, Error> {
    let mut settings: Properties = device.protocol("mqtt")?;
    let wrong = |property: &str, message: &str| {
        Err(Error::invalid(
            format!("protocols.mqtt.{property}"),
            message,
        ))
    };
    if let Some(user) = &settings.credentials.username
        && let Some((scheme, address)) = settings.broker.split_once("://")
        && !address.contains('@')
    {
        let password = &settings.credentials.password;
        settings.broker = format!("{scheme}://{user}:{password}@{address}");
    }
    if device.name.contains(['+', '#', '/']) {
        return Err(Error::invalid(
            "name",
            "a topic has the name as one level: no +, # and /",
        ));
    }
    for (property, topic) in [
        ("CommandTopic", &settings.command_topic),
        ("IncomingTopic", &settings.incoming_topic),
        ("ResponseTopic", &settings.response_topic),
    ] {
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            return wrong(property, "must be a topic without wildcards");
        }
    }
    if settings.qos.is_some_and(|qos| qos > 2) {
        return wrong("Qos", "must be 0, 1 or 2");
    }
    match settings.timeout {
        Some(timeout) if !(0.001..=LONGEST).contains(&timeout) => {
            wrong("Timeout", "must be 0.001 to 20 seconds")
        }
        _ => Ok(settings),
    }
}

/// One command to the device.
struct Question<'a> {
    resource: &'a str,
    method: &'static str,
    payload: Vec<u8>,
}

impl<T: Publisher + Subscriber> Mqtt<T> {
    /// Send the commands and wait for all answers. What the device says by itself meanwhile is
    /// published.
    fn ask(&mut self, questions: Vec<Question<'_>>) -> Result<Vec<Json>, Error> {
        let mut open: HashMap<String, usize> = HashMap::new();
        let mut messages = Vec::with_capacity(questions.len());
        for (index, question) in questions.iter().enumerate() {
            let id = unique();
            let Question {
                resource, method, ..
            } = question;
            messages.push(Message {
                topic: format!("{}/{resource}/{method}/{id}", self.settings.command_topic),
                payload: question.payload.clone(),
                qos: self.settings.qos(),
                retain: false,
            });
            open.insert(format!("{}/{id}", self.settings.response_topic), index);
        }
        let timeout = self.settings.timeout();
        let until = Instant::now() + timeout;
        self.transport.publish(&self.settings.broker, &messages)?;
        let mut answers = vec![None; questions.len()];
        loop {
            for message in self.transport.take()? {
                // Answers to what was asked before and given up have other identifiers.
                match open.remove(&message.topic) {
                    Some(index) => answers[index] = Some(parse(&message.payload)),
                    None => self.heard(&message),
                }
            }
            if open.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            if Instant::now() >= until {
                let silent = open
                    .into_values()
                    .min()
                    .map(|index| questions[index].resource);
                let topic = &self.settings.command_topic;
                return Err(Error::Timeout(format!(
                    "no answer about {} within {timeout:?} of the command at {topic}",
                    silent.unwrap_or_default(),
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Publish what the device says by itself.
    fn heard(&self, message: &Received) {
        let Some(source) = message.topic.strip_prefix(&self.incoming) else {
            return;
        };
        let outcome = self
            .readings(source, &parse(&message.payload))
            .and_then(|readings| publish(source, readings).map_err(|error| format!("{error:?}")));
        if let Err(reason) = outcome {
            log::warn(format!("{}: {reason}", message.topic));
        }
    }

    fn readings(&self, source: &str, json: &Json) -> Result<Vec<Reading>, String> {
        if let Some(resource) = self.resources.get(source) {
            return Ok(vec![resource.reading(named(
                json,
                source,
                resource.value_type,
            )?)]);
        }
        let Json::Object(members) = json else {
            return Err(format!(
                "{source} is no resource, and the payload is no object"
            ));
        };
        let mut readings = Vec::with_capacity(members.len());
        for (name, json) in members {
            let resource = self.resources.get(name);
            let resource = resource.ok_or_else(|| format!("{name} is no resource"))?;
            readings.push(resource.reading(Value::from_json(json, resource.value_type)?));
        }
        Ok(readings)
    }
}

/// The value of a resource: a member of an object, or the whole.
fn named(json: &Json, resource: &str, value_type: ValueType) -> Result<Value, String> {
    Value::from_json(json.get(resource).unwrap_or(json), value_type)
}

/// What is no JSON is a text.
fn parse(payload: &[u8]) -> Json {
    serde_json::from_slice(payload)
        .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(payload).into_owned()))
}

/// A UUID, version 4.
fn unique() -> String {
    let half = || RandomState::new().hash_one("command");
    let (high, low) = (half(), half());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        (low >> 48) & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff,
    )
}

eyot_sdk::export_driver!(Mqtt<Host>);
