//! Twins over KubeEdge's topics.

use eyot_runtime::reading::Value;
use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::host::{DEADLINE, host, subscribe, until};

/// The next message whose topic ends so.
async fn next(messages: &mut mpsc::Receiver<(String, Json)>, end: &str) -> Json {
    loop {
        let next = tokio::time::timeout(DEADLINE, messages.recv()).await;
        let (topic, message) = next.unwrap().unwrap();
        if topic.ends_with(end) {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_is_asked_for_and_brought_about_over_mqtt() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let base = "$hw/events/device/default/press-1/twin";
    let mut said = subscribe(&host.broker, &format!("{base}/#")).await;
    let mut members = subscribe(&host.broker, "$hw/events/node/+/membership/get/result").await;
    let address = host.broker.address();
    let options = MqttOptions::new("mapper", address.ip().to_string(), address.port());
    let (client, mut events) = AsyncClient::new(options, 16);
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let publish = async |topic: String, message: Json| {
        let sent = client.publish(topic, QoS::AtLeastOnce, false, message.to_string());
        sent.await.unwrap();
    };

    let wanted =
        json!({ "event_id": "1", "twin": { "Heat": { "expected": { "value": "30.5" } } } });
    publish(format!("{base}/update"), wanted).await;
    // The message itself and three about it, in any order.
    let mut told = std::collections::HashMap::new();
    for _ in 0..4 {
        let next = tokio::time::timeout(DEADLINE, said.recv()).await;
        let (topic, message) = next.unwrap().unwrap();
        told.insert(topic, message);
    }
    let delta = &told[&format!("{base}/update/delta")];
    assert_eq!(delta["delta"], json!({ "Heat": "30.5" }));
    let result = &told[&format!("{base}/update/result")];
    assert_eq!(result["event_id"], "1");
    assert_eq!(result["twin"]["Heat"]["expected"]["value"], "30.5");
    let document = &told[&format!("{base}/update/document")]["twin"]["Heat"];
    assert_eq!(document["last"]["expected"], Json::Null, "{document}");
    assert_eq!(document["current"]["expected"]["value"], "30.5");
    until("the register has it", || async {
        (host.site.value("press-1", "Heat") == Some(Value::Int16(305))).then_some(())
    })
    .await;

    // What a mapper says of what no driver reads, and what is not right.
    let told = json!({ "event_id": "2", "twin": { "Lamp": { "actual": { "value": "on" } } } });
    publish(format!("{base}/update"), told).await;
    let result = next(&mut said, "update/result").await;
    assert_eq!(result["twin"]["Lamp"]["actual"]["value"], "on", "{result}");
    for (wrong, code) in [
        (json!({ "event_id": "3" }), 400),
        (
            json!({ "event_id": "3", "twin": { "Heat": { "expected": { "value": [1] } } } }),
            400,
        ),
    ] {
        publish(format!("{base}/update"), wrong).await;
        let result = next(&mut said, "update/result").await;
        assert_eq!(
            (&result["code"], &result["event_id"]),
            (&json!(code), &json!("3"))
        );
    }
    let twin = until("the twin has both", || async {
        publish(format!("{base}/get"), json!({ "event_id": "4" })).await;
        let mut said = subscribe(&host.broker, &format!("{base}/get/result")).await;
        publish(format!("{base}/get"), json!({ "event_id": "4" })).await;
        let twin = next(&mut said, "get/result").await["twin"].clone();
        (twin["Heat"]["actual"]["value"] == "30.5").then_some(twin)
    })
    .await;
    assert_eq!(twin["Heat"]["metadata"]["type"], "int");
    assert_eq!(twin["Lamp"]["actual"]["value"], "on");
    host.device_until("press-1", "the status has what the mapper said", |status| {
        status["twins"].to_string().contains("Lamp")
    })
    .await;

    let mut nobody = subscribe(&host.broker, "$hw/events/device/default/nobody/twin/#").await;
    publish(
        "$hw/events/device/default/nobody/twin/get".into(),
        json!({}),
    )
    .await;
    assert_eq!(next(&mut nobody, "get/result").await["code"], 404);
    publish("$hw/events/node/island/membership/get".into(), json!({})).await;
    let members = next(&mut members, "result").await;
    assert_eq!(members["devices"][0]["id"], "default/press-1");
}
