use eyot_sdk::{Protocol, http::Scripted, publisher};

use super::*;

fn open(protocol: &str, properties: &str) -> Result<Rest<Scripted>, Error> {
    let protocol = Protocol {
        name: protocol.into(),
        properties: properties.into(),
    };
    Rest::open(&Device {
        name: "d".into(),
        profile: "p".into(),
        protocols: vec![protocol],
    })
}

fn device(answers: Vec<Response>) -> Rest<Scripted> {
    let mut rest = open(
        "REST",
        r#"{"Host":"10.0.0.7","Port":"8080","Path":"api/x"}"#,
    )
    .unwrap();
    rest.client.answers = answers.into_iter().map(Ok).collect();
    rest
}

fn attributes(query: &str) -> Attributes {
    Attributes {
        url_raw_query: query.into(),
    }
}

fn read(rest: &mut Rest<Scripted>, of: ValueType, query: &str) -> Result<Value, Error> {
    let readings = rest.read(&[ReadRequest {
        resource: "room temp",
        value_type: of,
        attributes: &attributes(query),
    }])?;
    Ok(readings[0].value.clone())
}

fn write(rest: &mut Rest<Scripted>, value: Value) -> Result<(), Error> {
    rest.write(&[WriteRequest {
        resource: "Set",
        value: &value,
        attributes: &attributes(""),
    }])
}

fn deliver(rest: &mut Rest<Scripted>, of: ValueType, body: &[u8]) -> Result<(), Error> {
    rest.deliver(&Delivery {
        resource: ReadRequest {
            resource: "Pushed",
            value_type: of,
            attributes: &attributes(""),
        },
        media_type: "image/png",
        body,
    })
}

#[test]
fn a_device_is_asked_at_its_address_with_the_commands_own_query() {
    let mut rest = device(vec![Response::new(200, "text/plain", "21.5")]);
    assert_eq!(
        read(&mut rest, ValueType::Float32, "unit=C"),
        Ok(Value::Float32(21.5))
    );
    let request = &rest.client.requests[0];
    assert_eq!(request.url, "http://10.0.0.7:8080/api/x/room%20temp?unit=C");
    assert_eq!(request.method, "GET");
}

#[test]
fn answers_that_are_none_are_told_apart() {
    let mut rest = device(vec![
        Response::new(404, "text/plain", "no such thing"),
        Response::new(200, "text/plain", "warm"),
        Response::new(200, "image/jpeg", vec![0xff, 0xd8]),
    ]);
    let error = read(&mut rest, ValueType::Float32, "");
    assert!(
        matches!(&error, Err(Error::Protocol(e)) if e.code == 404),
        "{error:?}"
    );
    let error = read(&mut rest, ValueType::Float32, "");
    assert!(matches!(&error, Err(Error::Garbled(_))), "{error:?}");
    let picture = read(&mut rest, ValueType::Binary, "");
    let expected = Binary {
        data: vec![0xff, 0xd8],
        media_type: "image/jpeg".into(),
    };
    assert_eq!(picture, Ok(Value::Binary(expected)));
    let error = read(&mut rest, ValueType::Float32, "");
    assert!(matches!(&error, Err(Error::Unreachable(_))), "{error:?}");
}

#[test]
fn values_are_put_as_texts_and_objects_as_json() {
    let mut rest = device(vec![Response::new(204, "", ""); 3]);
    write(&mut rest, Value::Uint64(u64::MAX)).unwrap();
    write(&mut rest, Value::Object(r#"{"a":1}"#.into())).unwrap();
    write(&mut rest, Value::Int8s(vec![1, -2])).unwrap();
    let sent: Vec<_> = rest
        .client
        .requests
        .iter()
        .map(|request| {
            let body = String::from_utf8_lossy(&request.body);
            (request.method.as_str(), request.headers[0].1.as_str(), body)
        })
        .collect();
    assert_eq!(sent[0], ("PUT", "text/plain", u64::MAX.to_string().into()));
    assert_eq!(sent[1], ("PUT", "application/json", r#"{"a":1}"#.into()));
    assert_eq!(sent[2], ("PUT", "application/json", "[1,-2]".into()));
}

#[test]
fn what_a_device_sends_is_published_if_it_is_a_value() {
    let mut rest = open("other", "{}").unwrap();
    deliver(&mut rest, ValueType::Int32, b" 42\n").unwrap();
    deliver(&mut rest, ValueType::Bool, b"true").unwrap();
    deliver(&mut rest, ValueType::String, b"12").unwrap();
    deliver(&mut rest, ValueType::Object, br#"{"a":[1]}"#).unwrap();
    deliver(&mut rest, ValueType::Binary, &[0, 255]).unwrap();
    let values: Vec<Value> = publisher::take()
        .into_iter()
        .map(|(source, readings)| {
            assert_eq!(source, "Pushed");
            readings[0].value.clone()
        })
        .collect();
    assert_eq!(
        values[..3],
        [
            Value::Int32(42),
            Value::Boolean(true),
            Value::Text("12".into())
        ]
    );
    assert_eq!(values[3], Value::Object(r#"{"a":[1]}"#.into()));
    assert!(matches!(&values[4], Value::Binary(b) if b.media_type == "image/png"));
    for (of, body) in [
        (ValueType::Int8, &b"300"[..]),
        (ValueType::Int32, b"warm"),
        (ValueType::Int32, b"null"),
        (ValueType::Object, b"[1]"),
        (ValueType::String, &[0xff]),
    ] {
        let refused = deliver(&mut rest, of, body);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let asked = read(&mut rest, ValueType::Int32, "");
    assert!(matches!(asked, Err(Error::NotSupported(_))), "{asked:?}");
}

#[test]
fn a_device_is_opened_by_its_properties() {
    let rest = open(
        "REST",
        r#"{"Host":"fd00::1","Port":443,"Scheme":"https","Credentials":{"username":"u","password":"p"}}"#,
    );
    let target = rest.unwrap().target.unwrap();
    assert_eq!(target.base, "https://[fd00::1]:443");
    assert_eq!(target.authorization.as_deref(), Some("Basic dTpw"));
    for (properties, field) in [
        (r#"{"Port":1}"#, "Host"),
        (r#"{"Host":"h/x","Port":1}"#, "Host"),
        (r#"{"Host":"h","Port":"x"}"#, "Port"),
        (r#"{"Host":"h","Port":1,"Scheme":"ftp"}"#, "Scheme"),
        (r#"{"Host":"h","Port":1,"Timeout":"99"}"#, "Timeout"),
    ] {
        let Err(Error::Invalid(invalid)) = open("REST", properties) else {
            panic!("{properties}")
        };
        assert_eq!(invalid.field, format!("protocols.REST.{field}"));
    }
}
