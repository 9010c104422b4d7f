use std::collections::VecDeque;

use eyot_sdk::{Protocol, mqtt, publisher};

use super::*;

/// A broker with a device behind it that keeps what is set, and answers.
#[derive(Default)]
struct Broker {
    values: HashMap<String, Json>,
    filters: Vec<String>,
    waiting: VecDeque<Received>,
    silent: bool,
    /// Sent before each answer: an answer to an older command.
    late: Option<Json>,
    bare: bool,
    failure: Option<mqtt::Error>,
}

fn received(topic: &str, payload: &str) -> Received {
    Received {
        topic: topic.into(),
        payload: payload.into(),
        retained: false,
    }
}

impl Publisher for Broker {
    fn publish(&mut self, broker: &str, messages: &[Message]) -> Result<(), mqtt::Error> {
        assert_eq!(broker, LOCAL);
        for message in messages {
            let level: Vec<_> = message.topic.split('/').collect();
            let ["cmd", resource, method, id] = level[..] else {
                panic!("{}", message.topic)
            };
            if method == "set" {
                let json: Json = serde_json::from_slice(&message.payload).unwrap();
                self.values.insert(resource.into(), json[resource].clone());
            }
            if let Some(late) = &self.late {
                let older = received("command/response/older", &late.to_string());
                self.waiting.push_back(older);
            }
            let value = self.values[resource].clone();
            let answer = match self.bare {
                true => value,
                false => json!({ resource: value }),
            };
            let topic = format!("command/response/{id}");
            if !self.silent {
                self.waiting
                    .push_back(received(&topic, &answer.to_string()));
            }
        }
        Ok(())
    }
}

impl Subscriber for Broker {
    fn subscribe(&mut self, _: &str, filters: &[String], _: Qos) -> Result<(), mqtt::Error> {
        self.filters.extend_from_slice(filters);
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<Received>, mqtt::Error> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => Ok(self.waiting.drain(..).collect()),
        }
    }
}

fn device(properties: &str) -> Device {
    Device {
        name: "sensor".into(),
        profile: "p".into(),
        protocols: vec![Protocol {
            name: "mqtt".into(),
            properties: properties.into(),
        }],
    }
}

fn opened() -> Mqtt<Broker> {
    let properties = r#"{"CommandTopic":"cmd","Timeout":"0.05"}"#;
    let mut driver = Mqtt::<Broker>::open(&device(properties)).unwrap();
    let resource = |(name, value_type): (&str, ValueType)| Resource {
        name: name.into(),
        value_type,
        attributes: Attributes {},
    };
    let resources = [("Heat", ValueType::Float32), ("Mode", ValueType::String)];
    driver.subscribe(resources.map(resource).into()).unwrap();
    driver
}

fn read(driver: &mut Mqtt<Broker>, resource: &str, value_type: ValueType) -> Result<Value, Error> {
    let request = ReadRequest {
        resource,
        value_type,
        attributes: &Attributes {},
    };
    Ok(driver.read(&[request])?.remove(0).value)
}

#[test]
fn commands_are_asked_and_answered_on_edgex_topics() {
    let mut driver = opened();
    let filters = &driver.transport.filters;
    assert_eq!(filters, &["incoming/data/sensor/+", "command/response/+"]);
    let written = Value::Float32(21.5);
    let request = WriteRequest {
        resource: "Heat",
        value: &written,
        attributes: &Attributes {},
    };
    driver.write(&[request]).unwrap();
    assert_eq!(
        read(&mut driver, "Heat", ValueType::Float32),
        Ok(written.clone())
    );
    driver.transport.bare = true;
    assert_eq!(read(&mut driver, "Heat", ValueType::Float32), Ok(written));
}

#[test]
fn a_late_answer_is_not_taken_for_the_one_that_is_asked_for() {
    let mut driver = opened();
    driver.transport.values.insert("Heat".into(), json!(2));
    driver.transport.late = Some(json!({ "Heat": 1 }));
    assert_eq!(
        read(&mut driver, "Heat", ValueType::Float32),
        Ok(Value::Float32(2.0))
    );
    driver.transport.silent = true;
    let silence = read(&mut driver, "Heat", ValueType::Float32);
    assert!(
        matches!(&silence, Err(Error::Timeout(text)) if text.contains("Heat")),
        "{silence:?}"
    );
    driver.transport.silent = false;
    driver.transport.values.insert("Heat".into(), json!("hot"));
    let garbled = read(&mut driver, "Heat", ValueType::Float32);
    assert!(
        matches!(&garbled, Err(Error::Garbled(text)) if text.contains("hot")),
        "{garbled:?}"
    );
}

#[test]
fn what_comes_by_itself_is_published_and_nonsense_is_not() {
    let mut driver = opened();
    let put = |driver: &mut Mqtt<Broker>, topic: &str, payload: &str| {
        driver.transport.waiting.push_back(received(topic, payload));
    };
    put(&mut driver, "incoming/data/sensor/Heat", "21.5");
    put(&mut driver, "incoming/data/sensor/Mode", "plain text");
    put(
        &mut driver,
        "incoming/data/sensor/All",
        r#"{"Heat":"3","Mode":"auto"}"#,
    );
    put(&mut driver, "incoming/data/sensor/All", r#"{"Nope":1}"#);
    put(&mut driver, "incoming/data/sensor/All", "17");
    put(&mut driver, "incoming/data/sensor/Heat", "\u{0}{");
    put(&mut driver, "incoming/data/other/Heat", "1");
    put(&mut driver, "command/response/unknown", "1");
    assert_eq!(driver.poll(), Ok(None));
    let published = publisher::take();
    let sources: Vec<_> = published
        .iter()
        .map(|(source, _)| source.as_str())
        .collect();
    assert_eq!(sources, ["Heat", "Mode", "All"]);
    assert_eq!(published[0].1[0].value, Value::Float32(21.5));
    assert_eq!(published[1].1[0].value, Value::Text("plain text".into()));
    assert_eq!(published[2].1.len(), 2);

    // Also while a command waits for its answer.
    put(&mut driver, "incoming/data/sensor/Heat", "5");
    driver.transport.values.insert("Mode".into(), json!("auto"));
    read(&mut driver, "Mode", ValueType::String).unwrap();
    assert_eq!(publisher::take().len(), 1);

    driver.transport.failure = Some(mqtt::Error::Unreachable("away".into()));
    assert_eq!(driver.poll(), Err(Error::Unreachable("away".into())));
}

#[test]
fn wrong_settings_name_the_property() {
    for (properties, field) in [
        ("{}", "protocols.mqtt.CommandTopic"),
        (r#"{"CommandTopic":"a/#"}"#, "protocols.mqtt.CommandTopic"),
        (r#"{"CommandTopic":"a","Qos":3}"#, "protocols.mqtt.Qos"),
        (
            r#"{"CommandTopic":"a","Timeout":60}"#,
            "protocols.mqtt.Timeout",
        ),
        (
            r#"{"CommandTopic":"a","Timeout":"nan"}"#,
            "protocols.mqtt.Timeout",
        ),
    ] {
        let outcome = Mqtt::<Broker>::validate(&device(properties));
        let Err(Error::Invalid(invalid)) = outcome else {
            panic!("{properties}: {outcome:?}")
        };
        assert_eq!(invalid.field, field);
    }
    let mut wild = device(r#"{"CommandTopic":"a"}"#);
    wild.name = "a/+".into();
    assert!(matches!(
        Mqtt::<Broker>::validate(&wild),
        Err(Error::Invalid(_))
    ));
}

#[test]
fn credentials_log_in_where_the_broker_names_nobody() {
    let broker = |properties: &str| check(&device(properties)).unwrap().broker;
    let with = |broker: &str| {
        format!(
            r#"{{"CommandTopic":"a","Broker":"{broker}","Credentials":{{"username":"u","password":"a:b@c"}}}}"#
        )
    };
    assert_eq!(broker(&with("mqtts://h:8883")), "mqtts://u:a:b@c@h:8883");
    assert_eq!(broker(&with("mqtt://me:own@h")), "mqtt://me:own@h");
}

#[test]
fn identifiers_are_uuids_and_differ() {
    let (one, two) = (unique(), unique());
    assert_ne!(one, two);
    assert_eq!(one.len(), 36);
    assert_eq!(one.as_bytes()[14], b'4');
}
