use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use eyot_sdk::{Protocol, ValueType, net::Datagram};

use super::*;
use crate::message::{Data, GET_BULK, GET_NEXT, SET, TRAP_OID, UPTIME};

/// An agent that has variables, and what it was asked.
#[derive(Default)]
struct Agent {
    variables: BTreeMap<Vec<u32>, Data>,
    answers: Vec<Vec<u8>>,
    questions: Vec<Pdu>,
    /// Answers with an older question's number first.
    late: bool,
    silent: bool,
    status: i64,
    /// More variables than that are too big.
    most: Option<usize>,
}

impl Agent {
    fn answer(&mut self, pdu: &Pdu) -> Pdu {
        let mut answer = Pdu {
            kind: RESPONSE,
            status: self.status,
            index: 0,
            ..pdu.clone()
        };
        if self.most.is_some_and(|most| pdu.bindings.len() > most) {
            answer.status = 1;
            return answer;
        }
        let next = |oid: &[u32]| {
            let after = (
                std::ops::Bound::Excluded(oid.to_vec()),
                std::ops::Bound::Unbounded,
            );
            let found = self.variables.range(after).next();
            found.map_or((oid.to_vec(), Data::EndOfView), |(oid, data)| {
                (oid.clone(), data.clone())
            })
        };
        match pdu.kind {
            SET => self.variables.extend(pdu.bindings.iter().cloned()),
            GET_NEXT => {
                answer.bindings = vec![next(&pdu.bindings[0].0)];
                if answer.bindings[0].1 == Data::EndOfView {
                    answer.status = 2;
                }
            }
            GET_BULK => {
                let mut oid = pdu.bindings[0].0.clone();
                answer.bindings.clear();
                for _ in 0..pdu.index {
                    let row = next(&oid);
                    oid = row.0.clone();
                    answer.bindings.push(row);
                }
            }
            _ => {
                for (oid, data) in &mut answer.bindings {
                    let found = self.variables.get(oid).cloned();
                    *data = found.unwrap_or(Data::NoSuchInstance);
                }
            }
        }
        answer
    }
}

impl Datagrams for Agent {
    fn send(&mut self, to: &str, data: &[u8]) -> Result<(), Error> {
        assert_eq!(to, "10.0.0.7:161");
        let (version, community, pdu) = message::read(data).unwrap();
        let answer = self.answer(&pdu);
        self.questions.push(pdu);
        if self.late {
            let late = Pdu {
                request: answer.request - 1,
                ..answer.clone()
            };
            self.answers.push(message::write(version, community, &late));
        }
        if !self.silent {
            self.answers
                .push(message::write(version, community, &answer));
        }
        Ok(())
    }

    fn receive(&mut self, _: Instant) -> Result<Option<Datagram>, Error> {
        if self.answers.is_empty() {
            return Ok(None);
        }
        let data = self.answers.remove(0);
        Ok(Some(Datagram {
            from: agent(),
            data,
        }))
    }
}

fn agent() -> SocketAddr {
    "10.0.0.7:161".parse().unwrap()
}

#[derive(Default)]
struct Port {
    came: Vec<Vec<u8>>,
    answers: Vec<Vec<u8>>,
    listens: Vec<u16>,
}

impl Notices for Port {
    fn listen(&mut self, port: u16) -> Result<(), Error> {
        self.listens.push(port);
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<Datagram>, Error> {
        let came = self.came.drain(..);
        let datagrams = came.map(|data| Datagram {
            from: agent(),
            data,
        });
        Ok(datagrams.collect())
    }

    fn answer(&mut self, _: u16, to: SocketAddr, data: &[u8]) -> Result<(), Error> {
        assert_eq!(to, agent());
        self.answers.push(data.to_vec());
        Ok(())
    }
}

fn open(properties: &str) -> Result<Snmp<Agent, Port>, Error> {
    let protocol = Protocol {
        name: "SNMP".into(),
        properties: properties.into(),
    };
    Snmp::open(&Device {
        name: "switch".into(),
        profile: "p".into(),
        protocols: vec![protocol],
    })
}

fn switch() -> Snmp<Agent, Port> {
    let mut switch = open(r#"{"Address":"10.0.0.7","TrapPort":"162"}"#).unwrap();
    let variables = [
        ("1.3.6.1.2.1.1.1.0", Data::Octets(b"a switch".to_vec())),
        ("1.3.6.1.2.1.1.3.0", Data::Ticks(4711)),
        ("1.3.6.1.2.1.2.2.1.2.1", Data::Octets(b"lo".to_vec())),
        ("1.3.6.1.2.1.2.2.1.2.2", Data::Octets(b"eth0".to_vec())),
        (
            "1.3.6.1.2.1.2.2.1.6.2",
            Data::Octets(vec![0, 27, 33, 1, 2, 255]),
        ),
        ("1.3.6.1.2.1.2.2.1.10.1", Data::Counter32(7)),
        ("1.3.6.1.2.1.2.2.1.10.2", Data::Counter32(8)),
        ("1.3.6.1.4.1.9.1", Data::Counter64(u64::MAX)),
        ("1.3.6.1.4.1.9.2", Data::Octets(b"21.5".to_vec())),
    ];
    let variables = variables.map(|(oid, data)| (message::parse_oid(oid).unwrap(), data));
    switch.client.transport.variables = variables.into();
    switch
}

fn attributes(json: &str) -> Attributes {
    serde_json::from_str(json).unwrap()
}

fn at(oid: &str) -> Attributes {
    attributes(&format!(
        r#"{{"oid":"{oid}","community":"private","size":"4"}}"#
    ))
}

fn read(
    switch: &mut Snmp<Agent, Port>,
    of: &[(&Attributes, ValueType)],
) -> Result<Vec<Value>, Error> {
    let request = |(attributes, value_type): &(_, _)| ReadRequest {
        resource: "R",
        value_type: *value_type,
        attributes: *attributes,
    };
    let requests: Vec<_> = of.iter().map(request).collect();
    let readings = switch.read(&requests)?;
    Ok(readings.into_iter().map(|reading| reading.value).collect())
}

#[test]
fn variables_are_read_together_and_in_their_types() {
    let mut switch = switch();
    let wanted = [
        (at("1.3.6.1.2.1.1.1.0"), ValueType::String),
        (at(".1.3.6.1.2.1.1.3.0"), ValueType::Uint64),
        (at("1.3.6.1.2.1.2.2.1.6.2"), ValueType::String),
        (at("1.3.6.1.4.1.9.1"), ValueType::Uint64),
        (at("1.3.6.1.4.1.9.2"), ValueType::Float32),
    ];
    let wanted: Vec<_> = wanted.iter().map(|(a, v)| (a, *v)).collect();
    let expected = vec![
        Value::Text("a switch".into()),
        Value::Uint64(4711),
        Value::Text("00:1b:21:01:02:ff".into()),
        Value::Uint64(u64::MAX),
        Value::Float32(21.5),
    ];
    assert_eq!(read(&mut switch, &wanted), Ok(expected.clone()));
    assert_eq!(switch.client.transport.questions.len(), 1);
    switch.client.transport.most = Some(2);
    assert_eq!(read(&mut switch, &wanted), Ok(expected), "in smaller parts");
}

#[test]
fn what_is_below_a_variable_is_an_array_or_an_object() {
    for version in ["v1", "v2c"] {
        let mut switch = switch();
        if version == "v1" {
            switch.client.speech = Speech::Community(Version::V1);
        }
        let names = at("1.3.6.1.2.1.2.2.1.2");
        let octets = at("1.3.6.1.2.1.2.2.1.10");
        let values = read(
            &mut switch,
            &[
                (&names, ValueType::StringArray),
                (&octets, ValueType::Uint32Array),
                (&names, ValueType::Object),
                (&at("1.3.6.1.4.1.9"), ValueType::StringArray),
            ],
        );
        let expected = vec![
            Value::Texts(vec!["lo".into(), "eth0".into()]),
            Value::Uint32s(vec![7, 8]),
            Value::Object(r#"{"1":"lo","2":"eth0"}"#.into()),
            Value::Texts(vec![u64::MAX.to_string(), "21.5".into()]),
        ];
        assert_eq!(values, Ok(expected), "{version}");
    }
}

#[test]
fn variables_are_set_together_in_the_type_that_they_have() {
    let mut switch = switch();
    let plain = at("1.3.6.1.4.1.1");
    let gauge = attributes(r#"{"oid":"1.3.6.1.4.1.2","community":"private","type":"Gauge32"}"#);
    let address = attributes(r#"{"oid":"1.3.6.1.4.1.3","community":"private","type":"IpAddress"}"#);
    let values = [
        Value::Int32(-5),
        Value::Int32(7),
        Value::Text("10.1.2.3".into()),
    ];
    let all = [&plain, &gauge, &address];
    let requests = all
        .iter()
        .zip(&values)
        .map(|(attributes, value)| WriteRequest {
            resource: "R",
            value,
            attributes: *attributes,
        });
    switch.write(&requests.collect::<Vec<_>>()).unwrap();
    let agent = &mut switch.client.transport;
    assert_eq!(agent.questions.len(), 1);
    let set = |oid: &str| agent.variables[&message::parse_oid(oid).unwrap()].clone();
    assert_eq!(set("1.3.6.1.4.1.1"), Data::Integer(-5));
    assert_eq!(set("1.3.6.1.4.1.2"), Data::Gauge32(7));
    assert_eq!(set("1.3.6.1.4.1.3"), Data::Address([10, 1, 2, 3].into()));

    let wrong = WriteRequest {
        resource: "R",
        value: &Value::Text("warm".into()),
        attributes: &gauge,
    };
    let Err(Error::Invalid(invalid)) = switch.write(&[wrong]) else {
        panic!()
    };
    assert_eq!(invalid.field, "deviceResources[R].attributes.type");
    switch.client.transport.status = 17;
    let refused = switch.write(&[WriteRequest {
        resource: "R",
        value: &Value::Int32(1),
        attributes: &plain,
    }]);
    assert!(
        matches!(&refused, Err(Error::Protocol(e)) if e.code == 17),
        "{refused:?}"
    );
}

#[test]
fn what_is_not_there_is_the_agents_error_and_silence_is_none() {
    let mut switch = switch();
    let nothing = at("1.3.6.1.9.9");
    let error = read(&mut switch, &[(&nothing, ValueType::Int32)]);
    assert!(
        matches!(&error, Err(Error::Protocol(e)) if e.code == 0x81),
        "{error:?}"
    );
    let error = read(&mut switch, &[(&at("1.3.6.1.2.1.1.1.0"), ValueType::Int32)]);
    assert!(matches!(&error, Err(Error::Invalid(_))), "{error:?}");
    switch.client.transport.silent = true;
    let error = read(&mut switch, &[(&nothing, ValueType::Int32)]);
    assert!(matches!(&error, Err(Error::Timeout(_))), "{error:?}");
    let asked = switch.client.transport.questions.len();
    assert_eq!(asked, 2 + 3, "it is asked three times");
}

#[test]
fn an_answer_that_comes_late_is_never_that_of_the_next_question() {
    let mut switch = switch();
    switch.client.transport.late = true;
    let uptime = at("1.3.6.1.2.1.1.3.0");
    for _ in 0..3 {
        let values = read(&mut switch, &[(&uptime, ValueType::Uint32)]);
        assert_eq!(values, Ok(vec![Value::Uint32(4711)]));
    }
    switch.client.transport.silent = true;
    let error = read(&mut switch, &[(&uptime, ValueType::Uint32)]);
    assert!(matches!(error, Err(Error::Garbled(_))), "{error:?}");
}

fn trap(kind: u8) -> Pdu {
    let parse = |oid: &str| message::parse_oid(oid).unwrap();
    Pdu::new(
        kind,
        vec![
            (UPTIME.to_vec(), Data::Ticks(5)),
            (TRAP_OID.to_vec(), Data::Oid(parse("1.3.6.1.6.3.1.1.5.3"))),
            (parse("1.3.6.1.2.1.2.2.1.1.3"), Data::Integer(3)),
        ],
    )
}

#[test]
fn traps_are_readings_of_what_they_are_about() {
    let mut switch = switch();
    let resource = |name: &str, value_type, json: &str| Resource {
        name: name.to_owned(),
        value_type,
        attributes: attributes(json),
    };
    let resources = vec![
        resource(
            "Index",
            ValueType::Int32,
            r#"{"oid":"1.3.6.1.2.1.2.2.1.1.3"}"#,
        ),
        resource(
            "Down",
            ValueType::Object,
            r#"{"trap":"1.3.6.1.6.3.1.1.5.3"}"#,
        ),
        resource("Up", ValueType::Object, r#"{"trap":"1.3.6.1.6.3.1.1.5.4"}"#),
    ];
    switch.subscribe(resources).unwrap();
    assert_eq!(switch.notices.listens, [162]);
    for (community, pdu) in [
        ("public", trap(TRAP)),
        ("other", trap(TRAP)),
        ("public", trap(INFORM)),
    ] {
        let message = message::write(Version::V2c, community.as_bytes(), &pdu);
        switch.notices.came.push(message);
    }
    switch.notices.came.push(b"nonsense".to_vec());
    assert_eq!(switch.poll(), Ok(None));
    let published = eyot_sdk::publisher::take();
    let names: Vec<&str> = published.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Index", "Down", "Index", "Down"]);
    assert_eq!(published[0].1[0].value, Value::Int32(3));
    let object = &published[1].1[0].value;
    let expected = r#"{"trap":"1.3.6.1.6.3.1.1.5.3","variables":{"1.3.6.1.2.1.1.3.0":5,"1.3.6.1.2.1.2.2.1.1.3":3}}"#;
    assert_eq!(*object, Value::Object(expected.into()));
    let answers = &switch.notices.answers;
    assert_eq!(
        answers.len(),
        1,
        "who informs wants to know that it was heard"
    );
    assert_eq!(message::read(&answers[0]).unwrap().2.kind, RESPONSE);
}

#[test]
fn a_device_is_opened_by_its_properties_and_its_credentials() {
    let secure = r#"{"Address":"10.0.0.7","Version":"v3","AuthProtocol":"SHA-256","PrivProtocol":"AES",
        "Credentials":{"User":"operator","AuthPassword":"12345678","PrivPassword":"abcdefgh"}}"#;
    let opened = open(secure).unwrap();
    let user = opened.user.unwrap();
    assert_eq!(user.name, "operator");
    assert_eq!(user.auth, Some((Auth::Sha256, "12345678".into())));
    assert_eq!(user.privacy, Some((Privacy::Aes128, "abcdefgh".into())));
    for (properties, field) in [
        (r#"{"Port":161}"#, "Address"),
        (r#"{"Address":"h","Version":"v4"}"#, "Version"),
        (r#"{"Address":"h","Version":"v3"}"#, "User"),
        (
            r#"{"Address":"h","Version":3,"User":"u","AuthProtocol":"MD5"}"#,
            "AuthPassword",
        ),
        (
            r#"{"Address":"h","Version":3,"User":"u","AuthProtocol":"MD5","AuthPassword":"short"}"#,
            "AuthPassword",
        ),
        (
            r#"{"Address":"h","Version":3,"User":"u","PrivProtocol":"DES","PrivPassword":"12345678"}"#,
            "AuthProtocol",
        ),
        (r#"{"Address":"h","Timeout":100}"#, "Timeout"),
        (r#"{"Address":"h","Timeout":10,"Retries":9}"#, "Retries"),
    ] {
        let Err(Error::Invalid(invalid)) = open(properties) else {
            panic!("{properties}")
        };
        assert_eq!(
            invalid.field,
            format!("protocols.SNMP.{field}"),
            "{properties}"
        );
    }
}
