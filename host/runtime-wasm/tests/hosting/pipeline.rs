//! Steps and exporters.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use eyot_runtime::{
    guest::{Grants, Item, Payload, Processed, StepError, StepLoader, Wake},
    reading::{Event, Reading, Value},
};
use rumqttc::mqttbytes::{
    QoS,
    v4::{ConnAck, ConnectReturnCode, Packet, PubAck, PubComp, PubRec},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::support::{DEADLINE, engine, guest};

fn event(id: &str, source: &str, values: Vec<Value>) -> Item {
    let reading = |value| Reading {
        resource: "r".into(),
        value,
        origin: 1,
        units: "°C".into(),
        tags: vec![("a".into(), "b".into())],
    };
    Item::Event(Arc::new(Event {
        id: id.into(),
        service: format!("service-of-{id}").into(),
        device: "device".into(),
        profile: "profile".into(),
        source: source.into(),
        origin: 2,
        readings: values.into_iter().map(reading).collect(),
        tags: vec![("c".into(), "d".into())],
    }))
}

fn payload(topic: &str, data: &[u8]) -> Item {
    Item::Payload(Arc::new(Payload {
        media_type: "text/plain".into(),
        destination: topic.into(),
        data: data.into(),
        device: "device".into(),
    }))
}

/// One of each case.
fn every_value() -> Vec<Value> {
    vec![
        Value::Bool(true),
        Value::String("text".into()),
        Value::Uint8(u8::MAX),
        Value::Uint16(u16::MAX),
        Value::Uint32(u32::MAX),
        Value::Uint64(u64::MAX),
        Value::Int8(i8::MIN),
        Value::Int16(i16::MIN),
        Value::Int32(i32::MIN),
        Value::Int64(i64::MIN),
        Value::Float32(f32::INFINITY),
        Value::Float64(f64::MIN_POSITIVE),
        Value::BoolArray(vec![true, false]),
        Value::StringArray(vec!["a".into(), String::new()]),
        Value::Uint8Array(vec![0, 255]),
        Value::Uint16Array(vec![1]),
        Value::Uint32Array(vec![2]),
        Value::Uint64Array(vec![3]),
        Value::Int8Array(vec![-1]),
        Value::Int16Array(vec![-2]),
        Value::Int32Array(vec![-3]),
        Value::Int64Array(vec![-4]),
        Value::Float32Array(vec![0.5]),
        Value::Float64Array(vec![]),
        Value::Binary {
            data: vec![1, 2, 3],
            media_type: "image/jpeg".into(),
        },
        Value::Object("{}".into()),
        Value::ObjectArray("[]".into()),
        Value::Null("Float32".into()),
    ]
}

fn settings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

#[tokio::test]
async fn every_value_passes_a_step_unchanged() {
    let Some(image) = guest("step", "step") else {
        return;
    };
    let mut step = engine()
        .step(&image, &settings(&[("mark", "false")]), &[])
        .await
        .unwrap();
    let batch = [
        event("1", "s", every_value()),
        payload("t", b"\0\xff"),
        event("2", "s", vec![]),
    ];
    // Also the service, which the contract does not carry.
    assert_eq!(step.process(&batch).await.unwrap().items, batch);
}

#[tokio::test]
async fn a_step_changes_and_drops_items() {
    let Some(image) = guest("step", "step") else {
        return;
    };
    let mut step = engine().step(&image, &[], &[]).await.unwrap();
    let batch = [
        event("1", "drop", vec![]),
        event("2", "s", vec![]),
        event("3", "s", vec![]),
    ];
    let passed = step.process(&batch).await.unwrap().items;
    let ids = passed.iter().map(|item| match item {
        Item::Event(event) => (
            event.id.as_str(),
            &*event.service,
            event.tags.last().unwrap().0.as_str(),
        ),
        Item::Payload(_) => panic!("{item:?}"),
    });
    assert_eq!(
        ids.collect::<Vec<_>>(),
        [("2", "service-of-2", "seen"), ("3", "service-of-3", "seen")]
    );
}

#[tokio::test]
async fn the_errors_of_a_step_keep_their_case() {
    let Some(image) = guest("step", "step") else {
        return;
    };
    let refused = engine()
        .step(&image, &settings(&[("colour", "red")]), &[])
        .await
        .err();
    assert_eq!(
        refused,
        Some(StepError::Config("unknown setting colour".into()))
    );
    let mut step = engine().step(&image, &[], &[]).await.unwrap();
    let rejected = step.process(&[event("1", "reject", vec![])]).await;
    assert_eq!(rejected, Err(StepError::Rejected("as told".into())));
    for (source, reason) in [("panic", "unreachable"), ("spin", "computed for more than")] {
        let mut step = engine().step(&image, &[], &[]).await.unwrap();
        let trapped = step
            .process(&[event("1", source, vec![])])
            .await
            .unwrap_err();
        assert!(
            matches!(&trapped, StepError::Trapped(text) if text.contains(reason)),
            "{trapped}"
        );
        let again = step.process(&[]).await.unwrap_err();
        assert!(matches!(again, StepError::Trapped(_)), "{again}");
    }
}

#[tokio::test]
async fn a_step_remembers_what_its_successful_calls_set_and_asks_for_its_time() {
    let Some(image) = guest("window", "window") else {
        return;
    };
    let memory = [("sum".to_owned(), bytes::Bytes::from_static(b"5"))];
    let mut step = engine().step(&image, &[], &memory).await.unwrap();
    let done = step.process(&[payload("t", b"123")]).await.unwrap();
    assert_eq!(
        done.memory,
        [("sum".into(), bytes::Bytes::from_static(b"8"))]
    );
    assert_eq!(done.wake, Wake::After(Duration::from_millis(20)));
    // Of a call that fails nothing stays.
    let rejected = step.process(&[payload("reject", b"1234")]).await;
    assert_eq!(rejected, Err(StepError::Rejected("as told".into())));
    let told = step.tick().await.unwrap();
    assert_eq!(told.memory, [("sum".into(), bytes::Bytes::new())]);
    assert_eq!(told.wake, Wake::AsBefore);
    let Item::Payload(said) = &told.items[0] else {
        panic!("{told:?}")
    };
    assert_eq!((&*said.destination, &said.data[..]), ("sum", &b"8"[..]));
    assert!(step.tick().await.unwrap().items.is_empty());
    // Other steps have nothing to do with time.
    let image = guest("step", "step").unwrap();
    let mut step = engine().step(&image, &[], &[]).await.unwrap();
    assert_eq!(step.tick().await.unwrap(), Processed::default());
}

#[tokio::test]
async fn a_step_is_no_exporter() {
    let Some(image) = guest("step", "step") else {
        return;
    };
    let error = engine()
        .exporter(&image, &[], Grants::default())
        .await
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.contains("exports eyot:pipeline/step@0.1.1, not eyot:pipeline/exporter"),
        "{text}"
    );
    let exports = engine().exports(&image).await.unwrap();
    assert_eq!(exports, ["eyot:pipeline/step@0.1.1"]);
}

/// A broker that acknowledges and hands on what is published.
async fn broker(
    code: ConnectReturnCode,
) -> (String, mpsc::UnboundedReceiver<(String, Vec<u8>, QoS)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let (send, receive) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let send = send.clone();
            tokio::spawn(async move {
                let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
                while stream.read_buf(&mut input).await.is_ok_and(|read| read > 0) {
                    while let Ok(packet) = Packet::read(&mut input, 2 << 20) {
                        match packet {
                            Packet::Connect(_) => ConnAck::new(code, false).write(&mut output),
                            Packet::Publish(publish) => {
                                let (id, qos) = (publish.pkid, publish.qos);
                                let _ = send.send((publish.topic, publish.payload.to_vec(), qos));
                                match qos {
                                    QoS::AtMostOnce => Ok(0),
                                    QoS::AtLeastOnce => PubAck::new(id).write(&mut output),
                                    QoS::ExactlyOnce => PubRec::new(id).write(&mut output),
                                }
                            }
                            Packet::PubRel(rel) => PubComp::new(rel.pkid).write(&mut output),
                            _ => Ok(0),
                        }
                        .unwrap();
                    }
                    stream.write_all_buf(&mut output).await.unwrap();
                }
            });
        }
    });
    (url, receive)
}

#[tokio::test]
async fn an_exporter_publishes_in_order_in_every_quality_of_service() {
    let Some(image) = guest("exporter", "exporter") else {
        return;
    };
    let (url, mut published) = broker(ConnectReturnCode::Success).await;
    for (name, qos) in [
        ("0", QoS::AtMostOnce),
        ("1", QoS::AtLeastOnce),
        ("2", QoS::ExactlyOnce),
    ] {
        let grants = Grants {
            mqtt: vec![url.clone()],
            ..Grants::default()
        };
        let settings = settings(&[("broker", &url), ("qos", name)]);
        let mut exporter = engine().exporter(&image, &settings, grants).await.unwrap();
        // More than may be in flight at once.
        let batch: Vec<_> = (0..2500)
            .map(|i| payload(&format!("t/{i}"), b"data"))
            .collect();
        exporter.deliver(&batch).await.unwrap();
        for i in 0..2500 {
            let one = tokio::time::timeout(DEADLINE, published.recv())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(one, (format!("t/{i}"), b"data".to_vec(), qos));
        }
    }
}

#[tokio::test]
async fn brokers_that_are_not_granted_not_there_or_refuse_are_told_apart() {
    let Some(image) = guest("exporter", "exporter") else {
        return;
    };
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let closed = format!("mqtt://{closed}");
    let (strict, _published) = broker(ConnectReturnCode::NotAuthorized).await;
    let error = async |url: &str, granted: &str| {
        let grants = Grants {
            mqtt: vec![granted.into()],
            ..Grants::default()
        };
        let settings = settings(&[("broker", url)]);
        let mut exporter = engine().exporter(&image, &settings, grants).await.unwrap();
        exporter
            .deliver(&[payload("t", b"x")])
            .await
            .unwrap_err()
            .to_string()
    };
    let denied = error("mqtt://10.0.0.1", "mqtt://local").await;
    assert!(
        denied.contains("denied: mqtt://10.0.0.1:1883 is not among"),
        "{denied}"
    );
    let unreachable = error(&closed, &closed).await;
    assert!(
        unreachable.contains(&format!("unreachable: {closed}")),
        "{unreachable}"
    );
    let refused = error(&strict, &strict).await;
    assert!(
        refused.contains("refused") && refused.contains("NotAuthorized"),
        "{refused}"
    );
    let wrong = error("localhost:1883", "mqtt://local").await;
    assert!(wrong.contains("mqtt://HOST:PORT"), "{wrong}");
    let local = error("mqtt://local", "mqtt://local").await;
    assert!(local.contains("unreachable: mqtt://local"), "{local}");
}

#[tokio::test]
async fn a_broker_that_comes_back_is_found_again() {
    let Some(image) = guest("exporter", "exporter") else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    // Takes the connection and drops it at the first packet after the greeting.
    let flaky = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut input = [0; 1024];
        let _ = stream.read(&mut input).await.unwrap();
        let mut output = BytesMut::new();
        ConnAck::new(ConnectReturnCode::Success, false)
            .write(&mut output)
            .unwrap();
        stream.write_all(&output).await.unwrap();
        let _ = stream.read(&mut input).await.unwrap();
        drop(stream);
        // The second connection goes well.
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut input).await.unwrap();
        stream.write_all(&output).await.unwrap();
        let mut input = BytesMut::new();
        loop {
            assert!(stream.read_buf(&mut input).await.unwrap() > 0);
            if let Ok(Packet::Publish(publish)) = Packet::read(&mut input, 1 << 20) {
                let mut output = BytesMut::new();
                PubAck::new(publish.pkid).write(&mut output).unwrap();
                stream.write_all(&output).await.unwrap();
                return publish.topic;
            }
        }
    });
    let grants = Grants {
        mqtt: vec![url.clone()],
        ..Grants::default()
    };
    let mut exporter = engine()
        .exporter(&image, &settings(&[("broker", &url)]), grants)
        .await
        .unwrap();
    let lost = exporter.deliver(&[payload("t/1", b"x")]).await.unwrap_err();
    assert!(
        matches!(&lost, StepError::Retry(text) if text.contains("closed")),
        "{lost}"
    );
    let again = async {
        while exporter.deliver(&[payload("t/1", b"x")]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
    assert_eq!(flaky.await.unwrap(), "t/1");
}

/// Whether a request in HTTP/1.1 is there with all of its body.
fn is_request(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => body.len() >= length.parse().unwrap(),
        None => !head.contains("transfer-encoding: chunked") || body.ends_with("0\r\n\r\n"),
    }
}

/// A server that takes a request, or `enough` bytes if it has no answer, answers, and hands it on. With a
/// certificate, over TLS.
async fn taker(
    enough: usize,
    answer: &'static str,
    tls: Option<tokio_rustls::TlsAcceptor>,
) -> (u16, mpsc::UnboundedReceiver<String>) {
    async fn take(
        mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        enough: usize,
        answer: &str,
        taken: &mpsc::UnboundedSender<String>,
    ) -> std::io::Result<()> {
        let mut all = Vec::new();
        // Who is answered before having said everything may take it for an error.
        let is_whole = |all: &[u8]| match answer {
            "" => all.len() >= enough,
            _ => is_request(&String::from_utf8_lossy(all)),
        };
        while !is_whole(&all) && stream.read_buf(&mut all).await? > 0 {}
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let _ = taken.send(String::from_utf8_lossy(&all).into_owned());
        // What is closed with something unread takes the answer back.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, receive) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, send) = (tls.clone(), send.clone());
            tokio::spawn(async move {
                let _ = match tls {
                    None => take(stream, enough, answer, &send).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => take(stream, enough, answer, &send).await,
                        Err(error) => Err(error),
                    },
                };
            });
        }
    });
    (port, receive)
}

async fn exporter_to(
    setting: (&str, &str),
    grants: Grants,
) -> Option<Box<dyn eyot_runtime::guest::Exporter>> {
    let image = guest("exporter", "exporter")?;
    let settings = settings(&[setting]);
    Some(engine().exporter(&image, &settings, grants).await.unwrap())
}

fn to(place: &str) -> Grants {
    Grants {
        sockets: vec![place.into()],
        ..Grants::default()
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn an_exporter_posts_to_what_it_is_granted_and_to_nothing_else() {
    let (port, mut taken) = taker(60, OK, None).await;
    let place = format!("127.0.0.1:{port}");
    let url = format!("http://{place}");
    let Some(mut exporter) = exporter_to(("url", &url), to(&place)).await else {
        return;
    };
    exporter
        .deliver(&[payload("write", b"t=21.5")])
        .await
        .unwrap();
    let request = taken.recv().await.unwrap();
    assert!(request.starts_with("POST /write HTTP/1.1"), "{request}");
    let mut stranger = exporter_to(("url", &url), to("127.0.0.1:1")).await.unwrap();
    let denied = stranger.deliver(&[payload("write", b"x")]).await;
    let denied = denied.unwrap_err().to_string();
    assert!(denied.contains("HttpRequestDenied"), "{denied}");
    let (port, _taken) = taker(60, BUSY, None).await;
    let place = format!("127.0.0.1:{port}");
    let url = format!("http://{place}");
    let mut exporter = exporter_to(("url", &url), to(&place)).await.unwrap();
    let busy = exporter.deliver(&[payload("write", b"x")]).await;
    assert_eq!(busy, Err(StepError::Retry("503".into())));
}

#[tokio::test]
async fn an_exporter_trusts_the_authority_of_its_secret() {
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(
        issued.signing_key.serialize_der(),
    )
    .unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (port, mut taken) = taker(60, OK, Some(acceptor)).await;
    let place = format!("localhost:{port}");
    let url = format!("https://{place}");
    let trusting = Grants {
        tls: Some(Arc::new(eyot_runtime::guest::Tls {
            authorities: Some(issued.cert.pem()),
            identity: None,
        })),
        ..to(&place)
    };
    let Some(mut exporter) = exporter_to(("url", &url), trusting).await else {
        return;
    };
    exporter.deliver(&[payload("w", b"secret")]).await.unwrap();
    assert!(taken.recv().await.unwrap().starts_with("POST /w"));
    let mut suspicious = exporter_to(("url", &url), to(&place)).await.unwrap();
    let refused = suspicious.deliver(&[payload("w", b"x")]).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("Tls"), "{refused}");
    let image = guest("exporter", "exporter").unwrap();
    let nonsense = Grants {
        tls: Some(Arc::new(eyot_runtime::guest::Tls {
            authorities: Some("nonsense".into()),
            identity: None,
        })),
        ..Grants::default()
    };
    let wrong = engine().exporter(&image, &settings(&[]), nonsense).await;
    let wrong = wrong.err().unwrap().to_string();
    assert!(wrong.contains("TLS secret"), "{wrong}");
}

#[tokio::test]
async fn an_exporter_opens_sockets_to_what_it_is_granted() {
    let (port, mut taken) = taker(5, "", None).await;
    let place = format!("127.0.0.1:{port}");
    let Some(mut exporter) = exporter_to(("tcp", &place), to(&place)).await else {
        return;
    };
    exporter.deliver(&[payload("", b"hello")]).await.unwrap();
    assert_eq!(taken.recv().await.unwrap(), "hello");
    let mut stranger = exporter_to(("tcp", &place), to("127.0.0.1:1"))
        .await
        .unwrap();
    let denied = stranger.deliver(&[payload("", b"hello")]).await;
    assert!(matches!(denied, Err(StepError::Retry(_))), "{denied:?}");
}
