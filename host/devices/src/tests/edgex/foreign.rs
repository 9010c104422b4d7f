//! Events of device services that are no guests of this host, and KubeEdge's topics, through the
//! broker's door.

use std::collections::HashSet;

use eyot_runtime::guest::Item;
use http::{Method, StatusCode};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::super::host::{DEADLINE, Host, host, subscribe, until};

const TOPIC: &str = "edgex/events/device/far/press/press%201/Heat";

fn envelope(id: Uuid, value: &str) -> Json {
    let reading = json!({
        "id": Uuid::new_v4().to_string(), "origin": 7, "deviceName": "press 1", "profileName": "press",
        "resourceName": "Heat", "valueType": "Int16", "value": value,
    });
    json!({
        "apiVersion": "v3", "contentType": "application/json", "correlationID": "", "requestID": "",
        "payload": { "apiVersion": "v3", "requestId": Uuid::new_v4().to_string(), "event": {
            "apiVersion": "v3", "id": id.to_string(), "deviceName": "press 1", "profileName": "press",
            "sourceName": "Heat", "origin": 7, "readings": [reading],
        }},
    })
}

/// Publishes, and waits for the acknowledgement of each.
struct Publisher {
    client: AsyncClient,
    acknowledged: tokio::sync::mpsc::Receiver<()>,
}

impl Publisher {
    fn of(host: &Host) -> Self {
        let address = host.broker.address();
        let mut options = MqttOptions::new("far", address.ip().to_string(), address.port());
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 16);
        let (acknowledge, acknowledged) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if matches!(event, Event::Incoming(Packet::PubAck(_))) {
                    let _ = acknowledge.send(()).await;
                }
            }
        });
        Self {
            client,
            acknowledged,
        }
    }

    async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) {
        let sent = self
            .client
            .publish(topic, QoS::AtLeastOnce, false, payload.into());
        sent.await.unwrap();
        tokio::time::timeout(DEADLINE, self.acknowledged.recv())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_others_publish_are_stored_once_and_reach_pipelines_and_subscribers() {
    let host = host().await;
    host.pipeline(
        "out",
        json!({ "exporters": [{ "name": "mqtt", "image": "demo/out:v1" }] }),
    )
    .await;
    host.pipeline_until("out", "the pipeline is ready", |pipeline| {
        let status = pipeline.status.clone().unwrap_or_default();
        status.conditions.iter().any(|c| c.status == "True")
    })
    .await;
    let mut seen = subscribe(&host.broker, "edgex/events/#").await;
    let mut far = Publisher::of(&host);

    // What is no event hurts nobody and is passed on: MQTT itself carries anything.
    far.publish("edgex/events/device/far", "{}").await;
    let wrong = envelope(Uuid::new_v4(), "much");
    far.publish(TOPIC, wrong.to_string()).await;
    let other = envelope(Uuid::new_v4(), "1").to_string();
    far.publish("edgex/events/device/far/press/other/Heat", other)
        .await;

    // JSON, JSON in base64 as EdgeX 3 has it, and CBOR; the second time in vain.
    let ids = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    let plain = envelope(ids[0], "1");
    let mut coded = envelope(ids[1], "2");
    let inner = coded["payload"].to_string();
    coded["payload"] =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, inner).into();
    let mut cbor = Vec::new();
    ciborium::into_writer(&envelope(ids[2], "3"), &mut cbor).unwrap();
    for _ in 0..2 {
        far.publish(TOPIC, plain.to_string()).await;
        far.publish(TOPIC, coded.to_string()).await;
        far.publish(TOPIC, cbor.clone()).await;
    }
    // Acknowledged means stored.
    for (id, value) in ids.iter().zip(["1", "2", "3"]) {
        let path = format!("/api/v3/event/id/{id}");
        let (status, answer) = host.http(Method::GET, &path, "").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["event"]["readings"][0]["value"], value);
    }
    let (_, answer) = host.http(Method::GET, "/api/v3/event/count", "").await;
    assert_eq!(answer["count"], 3);
    // What comes again was not acknowledged, so pipelines are given it once more.
    until("the pipeline has them", || async {
        let delivered = host.components.delivered.lock().unwrap();
        let from = delivered.iter().map(|item| match item {
            Item::Event(event) => (event.id.to_string(), event.service.to_string()),
            other => panic!("{other:?}"),
        });
        let known = ids.map(|id| (id.to_string(), "far".to_owned()));
        let from: HashSet<_> = from.collect();
        (from == HashSet::from(known)).then_some(())
    })
    .await;
    let mut topics = Vec::new();
    while topics.len() < 9 {
        let (topic, _) = tokio::time::timeout(DEADLINE, seen.recv())
            .await
            .unwrap()
            .unwrap();
        topics.push(topic);
    }
    assert_eq!(topics.iter().filter(|topic| *topic == TOPIC).count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_with_a_dollar_are_for_those_who_ask_for_them() {
    let host = host().await;
    let mut everything = subscribe(&host.broker, "#").await;
    let mut hardware = subscribe(&host.broker, "$hw/events/device/+/+/state/update").await;
    let mut kubeedge = subscribe(&host.broker, "$ke/#").await;
    let mut far = Publisher::of(&host);
    far.publish("$hw/events/device/default/press-1/state/update", "{}")
        .await;
    far.publish("$ke/events/default/press-1/device/data/update", "{}")
        .await;
    far.publish("plain", "{}").await;
    let (topic, _) = tokio::time::timeout(DEADLINE, hardware.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(topic, "$hw/events/device/default/press-1/state/update");
    let (topic, _) = tokio::time::timeout(DEADLINE, kubeedge.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(topic, "$ke/events/default/press-1/device/data/update");
    let (topic, _) = tokio::time::timeout(DEADLINE, everything.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        topic, "plain",
        "a wildcard does not match what begins with $"
    );
}
