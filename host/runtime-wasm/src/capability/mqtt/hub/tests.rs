use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    self, ConnAck, ConnectReturnCode, Publish, SubAck, SubscribeReasonCode,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// One connection of a broker: greets, and waits until it is subscribed to so many filters.
async fn accept(listener: &TcpListener, filters: usize) -> (TcpStream, Vec<String>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut input, mut subscribed) = (BytesMut::new(), Vec::new());
    while subscribed.len() < filters {
        let mut output = BytesMut::new();
        match v4::Packet::read(&mut input, PACKET) {
            Ok(v4::Packet::Connect(_)) => {
                let greeting = ConnAck::new(ConnectReturnCode::Success, false);
                greeting.write(&mut output).unwrap();
            }
            Ok(v4::Packet::Subscribe(subscribe)) => {
                subscribed.extend(subscribe.filters.into_iter().map(|filter| filter.path));
                let code = SubscribeReasonCode::Success(QoS::AtLeastOnce);
                SubAck::new(subscribe.pkid, vec![code])
                    .write(&mut output)
                    .unwrap();
            }
            Ok(_) => {}
            Err(_) => assert_ne!(stream.read_buf(&mut input).await.unwrap(), 0),
        }
        stream.write_all(&output).await.unwrap();
    }
    subscribed.sort();
    subscribed.dedup();
    (stream, subscribed)
}

async fn publish(stream: &mut TcpStream, topic: &str, payload: &[u8]) {
    let mut output = BytesMut::new();
    let message = Publish::new(topic, QoS::AtMostOnce, payload);
    message.write(&mut output).unwrap();
    stream.write_all(&output).await.unwrap();
}

async fn next(inbox: &Inbox) -> Result<Vec<Received>, Error> {
    loop {
        inbox.alarm.notified().await;
        match inbox.take() {
            Ok(taken) if taken.is_empty() => {}
            other => return other,
        }
    }
}

fn topics(taken: &[Received]) -> Vec<&str> {
    taken.iter().map(|message| message.topic.as_str()).collect()
}

#[tokio::test]
async fn each_inbox_gets_what_it_asked_for_and_again_after_a_break() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broker = Broker::parse("mqtt://local").unwrap();
    let hub = Hub::open(&broker, listener.local_addr().unwrap()).unwrap();
    let (one, two) = (hub.inbox(Arc::default()), hub.inbox(Arc::default()));
    one.subscribe(vec!["a/+".into()], QoS::AtLeastOnce).unwrap();
    two.subscribe(vec!["b".into(), "a/2".into()], QoS::AtMostOnce)
        .unwrap();
    let (mut stream, filters) = accept(&listener, 3).await;
    assert_eq!(filters, ["a/+", "a/2", "b"]);
    for topic in ["a/1", "c", "b", "a/2"] {
        publish(&mut stream, topic, topic.as_bytes()).await;
    }
    publish(&mut stream, "a/long", &vec![0; PAYLOAD + 1]).await;
    publish(&mut stream, "a/3", b"last").await;
    let mut taken = Vec::new();
    while taken.len() < 3 {
        taken.extend(next(&one).await.unwrap());
    }
    assert_eq!(topics(&taken), ["a/1", "a/2", "a/3"]);
    assert_eq!(taken[2].payload, b"last");
    assert_eq!(topics(&two.take().unwrap()), ["b", "a/2"]);

    drop(stream);
    let lost = next(&one).await;
    assert!(matches!(lost, Err(Error::Unreachable(_))), "{lost:?}");
    drop(two);
    let (mut stream, filters) = accept(&listener, 1).await;
    assert_eq!(filters, ["a/+"]);
    publish(&mut stream, "a/4", b"").await;
    let taken = loop {
        if let Ok(taken) = next(&one).await {
            break taken;
        }
    };
    assert_eq!(topics(&taken), ["a/4"]);
}

#[tokio::test]
async fn what_nobody_takes_is_bounded_and_the_oldest_goes() {
    let broker = Broker::parse("mqtt://local").unwrap();
    let hub = Hub::open(&broker, ([127, 0, 0, 1], 1).into()).unwrap();
    let inbox = hub.inbox(Arc::default());
    inbox.subscribe(vec!["#".into()], QoS::AtMostOnce).unwrap();
    for number in 0..MESSAGES + 10 {
        let topic = number.to_string();
        inbox.put(&Received {
            topic,
            payload: Vec::new(),
            retained: false,
        });
    }
    assert_eq!(inbox.take().unwrap()[0].topic, "10");
    for _ in 0..20 {
        let payload = vec![0; PAYLOAD];
        inbox.put(&Received {
            topic: "x".into(),
            payload,
            retained: true,
        });
    }
    assert!(lock(&inbox.waiting).bytes <= BYTES);
    let many = (0..=FILTERS).map(|number| format!("f/{number}")).collect();
    assert!(matches!(
        inbox.subscribe(many, QoS::AtMostOnce),
        Err(Error::Invalid(_))
    ));
    for wrong in ["", "a/#/b", "a\0"] {
        let refused = inbox.subscribe(vec![wrong.into()], QoS::AtMostOnce);
        assert!(matches!(refused, Err(Error::Invalid(_))), "{wrong:?}");
    }
}
