use std::{collections::VecDeque, time::Instant};

use eyot_sdk::Protocol;

use super::*;

/// A server that answers with what a test has put there.
#[derive(Default)]
struct Peer {
    answers: VecDeque<Vec<u8>>,
    connected: bool,
}

impl Stream for Peer {
    fn connect(&mut self, _: &str, _: Instant) -> Result<(), Error> {
        self.connected = true;
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn send(&mut self, _: &[u8], _: Instant) -> Result<(), Error> {
        Ok(())
    }

    fn receive(&mut self, _: Instant) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.answers.pop_front())
    }

    fn close(&mut self) {
        self.connected = false;
    }
}

fn open(properties: &str) -> Result<OpcUa<Peer>, Error> {
    let protocol = Protocol {
        name: PROTOCOL.into(),
        properties: properties.into(),
    };
    OpcUa::open(&Device {
        name: "d".into(),
        profile: "p".into(),
        protocols: vec![protocol],
    })
}

fn read(server: &mut OpcUa<Peer>) -> Result<Vec<Reading>, Error> {
    let attributes: Attributes = serde_json::from_str(r#"{"nodeId":"ns=2;s=Heat"}"#).unwrap();
    server.read(&[ReadRequest {
        resource: "R",
        value_type: ValueType::Float64,
        attributes: &attributes,
    }])
}

#[test]
fn what_does_not_speak_opc_ua_is_told_apart_from_what_is_silent() {
    let properties = r#"{"Endpoint":"opc.tcp://plc/x","Timeout":"0.01"}"#;
    let mut silent = open(properties).unwrap();
    assert!(matches!(read(&mut silent), Err(Error::Timeout(_))));
    assert!(
        !silent.session.channel.stream.connected,
        "the next try begins anew"
    );

    let mut web = open(properties).unwrap();
    web.session.channel.stream.answers = [b"HTTP/1.1 400 Bad Request\r\n".to_vec()].into();
    assert!(matches!(read(&mut web), Err(Error::Garbled(_))));

    // Connection refused with a reason, in two pieces.
    let mut refusing = open(properties).unwrap();
    let mut error = b"ERRF".to_vec();
    error.extend(20_u32.to_le_bytes());
    error.extend(0x8083_0000_u32.to_le_bytes());
    error.extend(4_u32.to_le_bytes());
    error.extend(b"busy");
    let late = error.split_off(10);
    refusing.session.channel.stream.answers = [error, late].into();
    let outcome = read(&mut refusing);
    assert!(
        matches!(&outcome, Err(Error::Unreachable(text)) if text.contains("busy")),
        "{outcome:?}"
    );
}

#[test]
fn a_device_is_opened_by_its_properties() {
    open(r#"{"Endpoint":"opc.tcp://plc"}"#).unwrap();
    for (properties, field) in [
        ("{}", "Endpoint"),
        (r#"{"Endpoint":"http://plc"}"#, "Endpoint"),
        (r#"{"Endpoint":"opc.tcp:///x"}"#, "Endpoint"),
        (r#"{"Endpoint":"opc.tcp://h","Timeout":60}"#, "Timeout"),
        (r#"{"Endpoint":"opc.tcp://h","Interval":"0"}"#, "Interval"),
    ] {
        let Err(Error::Invalid(invalid)) = open(properties) else {
            panic!("{properties}")
        };
        assert_eq!(invalid.field, format!("protocols.{PROTOCOL}.{field}"));
    }
}
