//! Commands over MQTT.

use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::super::host::{DEADLINE, Host, host, subscribe};

const ID: &str = "e6e8a2f4-eb14-4649-9e2b-175247911369";

struct Asker {
    client: AsyncClient,
    answers: mpsc::Receiver<(String, Json)>,
}

impl Asker {
    async fn of(host: &Host, answers: &str) -> Self {
        let address = host.broker.address();
        let options = MqttOptions::new("asker", address.ip().to_string(), address.port());
        let (client, mut events) = AsyncClient::new(options, 16);
        tokio::spawn(async move { while events.poll().await.is_ok() {} });
        Self {
            client,
            answers: subscribe(&host.broker, answers).await,
        }
    }

    async fn ask(&mut self, topic: &str, payload: Json, query: Json) -> (String, Json) {
        let envelope = json!({
            "apiVersion": "v3", "requestID": ID, "correlationID": "", "errorCode": 0,
            "contentType": "application/json", "payload": payload, "queryParams": query,
        });
        self.client
            .publish(topic, QoS::AtLeastOnce, false, envelope.to_string())
            .await
            .unwrap();
        tokio::time::timeout(DEADLINE, self.answers.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_over_mqtt_are_carried_out_and_answered() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let mut inside = Asker::of(&host, "edgex/response/#").await;

    // Requests that cannot be answered hurt nobody.
    for (topic, payload) in [
        ("edgex/core/command/request/x", "{}"),
        ("edgex/core/command/request/press-1/Mode/get", "no json"),
        (
            "edgex/core/command/request/press-1/Mode/get",
            "{\"requestID\":\"x\"}",
        ),
    ] {
        inside
            .client
            .publish(topic, QoS::AtMostOnce, false, payload)
            .await
            .unwrap();
    }

    let get = "edgex/core/command/request/press-1/Heat/get";
    let (topic, answer) = inside.ask(get, Json::Null, Json::Null).await;
    assert_eq!(topic, format!("edgex/response/core-command/{ID}"));
    assert_eq!(
        (&answer["errorCode"], &answer["requestID"]),
        (&json!(0), &json!(ID))
    );
    let event = &answer["payload"]["event"];
    assert_eq!(event["readings"][0]["value"], "2.34e+01", "{answer}");

    let set = "edgex/device/command/request/modbus/press-1/Heat/set";
    let (topic, answer) = inside.ask(set, json!({ "Heat": "30.5" }), json!({})).await;
    assert_eq!(topic, format!("edgex/response/modbus/{ID}"));
    assert_eq!(answer["errorCode"], 0, "{answer}");
    let query = json!({ "ds-returnevent": "false" });
    let (_, answer) = inside.ask(get, Json::Null, query).await;
    assert_eq!(answer["payload"], Json::Null);
    let (_, answer) = inside.ask(get, Json::Null, Json::Null).await;
    assert_eq!(
        answer["payload"]["event"]["readings"][0]["value"],
        "3.05e+01"
    );

    for (topic, payload) in [
        ("edgex/core/command/request/nobody/Heat/get", Json::Null),
        (
            "edgex/core/command/request/press-1/Mode/set",
            json!({ "Mode": 1 }),
        ),
        ("edgex/core/command/request/press-1/Heat/set", json!("x")),
        (
            "edgex/device/command/request/other/press-1/Heat/get",
            Json::Null,
        ),
    ] {
        let (_, answer) = inside.ask(topic, payload, Json::Null).await;
        assert_eq!(answer["errorCode"], 1, "{topic}: {answer}");
        assert!(answer["payload"].is_string(), "{topic}: {answer}");
    }

    let query = "edgex/core/commandquery/request";
    let (_, answer) = inside
        .ask(&format!("{query}/press-1"), Json::Null, Json::Null)
        .await;
    let commands = &answer["payload"]["deviceCoreCommand"]["coreCommands"];
    assert_eq!(commands[0]["name"], "All", "{answer}");
    let page = json!({ "offset": "0", "limit": "1" });
    let (_, answer) = inside.ask(&format!("{query}/all"), Json::Null, page).await;
    assert_eq!(answer["payload"]["totalCount"], 1, "{answer}");
    let page = json!({ "offset": "far" });
    let (_, answer) = inside.ask(&format!("{query}/all"), Json::Null, page).await;
    assert_eq!(answer["errorCode"], 1, "{answer}");

    // The topics of EdgeX's external broker.
    let mut outside = Asker::of(&host, "edgex/command/response/#").await;
    let get = "edgex/command/request/press-1/Mode/get";
    let (topic, answer) = outside.ask(get, Json::Null, Json::Null).await;
    assert_eq!(topic, "edgex/command/response/press-1/Mode/get");
    assert_eq!(answer["payload"]["event"]["readings"][0]["value"], "1");
    let mut outside = Asker::of(&host, "edgex/commandquery/response").await;
    let (_, answer) = outside
        .ask("edgex/commandquery/request/press-1", Json::Null, Json::Null)
        .await;
    assert_eq!(
        answer["payload"]["deviceCoreCommand"]["deviceName"],
        "press-1"
    );
}
