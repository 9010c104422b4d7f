//! The device tier as a whole: real objects through the API server in process, a real broker and
//! client, native stand-ins for the guests.

mod edgex;
pub mod host;
mod twins;

use std::sync::Arc;

use eyot_api::{Device, Pipeline};
use eyot_runtime::{
    guest::{DriverError, Item},
    reading::{Event, Value},
};
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use self::host::{DEADLINE, host, serve, subscribe, until};
use crate::{EdgexService, fakes::Site};

#[tokio::test(flavor = "multi_thread")]
async fn readings_reach_mqtt_status_rest_and_the_pipeline() {
    let host = host().await;
    let mut mqtt = subscribe(&host.broker, "edgex/events/device/#").await;
    host.pipeline(
        "out",
        json!({
            "source": { "devices": ["press-.*"], "resources": ["Heat"] },
            "steps": [{ "name": "filter", "image": "demo/drop:v1", "config": { "keep": "all" } }],
            "exporters": [{ "name": "mqtt", "image": "demo/out:v1" }],
        }),
    )
    .await;
    host.pipeline_until("out", "the pipeline is ready", |pipeline| {
        let status = pipeline.status.as_ref();
        status.is_some_and(|status| status.conditions.iter().any(|c| c.status == "True"))
    })
    .await;
    host.create(
        "press-1",
        json!([{ "interval": "50ms", "sourceName": "All" }]),
    )
    .await;

    let (topic, message) = tokio::time::timeout(DEADLINE, mqtt.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(topic, "edgex/events/device/modbus/press/press-1/All");
    let event = &message["payload"]["event"];
    assert_eq!(event["deviceName"], "press-1");
    assert_eq!(event["readings"][0]["value"], "2.34e+01");
    assert_eq!(event["readings"][0]["units"], "°C");

    let status = host
        .device_until("press-1", "readings in the status", |s| {
            s["last"].as_str().is_some_and(|last| last.contains("Mode"))
        })
        .await;
    assert_eq!(status["operatingState"], "UP");
    assert_eq!(status["last"], "Heat=23.4 °C, Mode=1");
    assert_eq!(status["conditions"][0]["status"], "True");

    let delivered = until("the pipeline delivers", || async {
        host.components.delivered.lock().unwrap().first().cloned()
    })
    .await;
    let Item::Event(event) = delivered else {
        panic!("{delivered:?}")
    };
    let resources: Vec<_> = event.readings.iter().map(|r| r.resource.as_str()).collect();
    assert_eq!(resources, ["Heat"]);
    host.pipeline_until("out", "deliveries are counted", |pipeline| {
        pipeline
            .status
            .as_ref()
            .is_some_and(|s| s.delivered > 0 && s.received >= s.delivered)
    })
    .await;

    let host = &host;
    let answer = until("events are stored", || async move {
        let path = "/api/v3/event/device/name/press-1?limit=2";
        let (status, answer) = host.http(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK);
        (answer["totalCount"].as_u64().unwrap() >= 2).then_some(answer)
    })
    .await;
    assert_eq!(answer["events"].as_array().unwrap().len(), 2);
    assert_eq!(answer["events"][0]["sourceName"], "All");
    let path = "/api/v3/reading/device/name/press-1/resourceName/Heat?limit=1";
    let (_, answer) = host.http(Method::GET, path, "").await;
    assert_eq!(answer["readings"][0]["resourceName"], "Heat");
    let (_, answer) = host
        .http(
            Method::GET,
            "/api/v3/reading/device/name/press-1/latest",
            "",
        )
        .await;
    assert_eq!(answer["readings"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_over_http_read_and_write_and_say_what_is_wrong() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let get = async |path: &str| host.http(Method::GET, path, "").await;
    let put = async |path: &str, body: &str| host.http(Method::PUT, path, body).await;

    let (status, answer) = get("/api/v3/device/name/press-1/All").await;
    assert_eq!(
        (status, &answer["event"]["readings"][0]["value"]),
        (StatusCode::OK, &json!("2.34e+01"))
    );
    let (_, answer) = get("/api/v3/device/name/press-1/All?ds-returnevent=false").await;
    assert_eq!(answer.get("event"), None);

    let (status, answer) = put("/api/v3/device/name/press-1/Heat", r#"{"Heat":"42.5"}"#).await;
    assert_eq!(
        (status, &answer["statusCode"]),
        (StatusCode::OK, &json!(200))
    );
    assert_eq!(host.site.value("press-1", "Heat"), Some(Value::Int16(425)));

    let fails = async |method: Method, path: &str, body: &str, status: u16, said: &str| {
        let (code, answer) = host.http(method, path, body).await;
        assert_eq!(code.as_u16(), status, "{answer}");
        assert_eq!(answer["statusCode"], status);
        assert_eq!(answer["apiVersion"], "v3");
        assert!(
            answer["message"].as_str().unwrap().contains(said),
            "{answer}"
        );
    };
    let heat = "/api/v3/device/name/press-1/Heat";
    fails(
        Method::PUT,
        heat,
        r#"{"Heat":"91"}"#,
        400,
        "above the maximum of 90",
    )
    .await;
    fails(
        Method::PUT,
        heat,
        r#"{"Heat":"warm"}"#,
        400,
        "\"warm\" is not a value",
    )
    .await;
    fails(Method::PUT, heat, "[]", 400, "must be a JSON object").await;
    fails(
        Method::PUT,
        "/api/v3/device/name/press-1/Mode",
        r#"{"Mode":"1"}"#,
        405,
        "readWrite",
    )
    .await;
    fails(
        Method::GET,
        "/api/v3/device/name/press-1/Nope",
        "",
        404,
        "Nope",
    )
    .await;
    fails(
        Method::GET,
        "/api/v3/device/name/pr%C3%A8s%2F1/Heat",
        "",
        404,
        "près/1",
    )
    .await;
    fails(Method::DELETE, heat, "", 405, "DELETE").await;
    fails(Method::GET, "/api/v3/nothing", "", 404, "/api/v3/nothing").await;
    fails(
        Method::GET,
        "/api/v3/event/all?limit=5000",
        "",
        400,
        "limit",
    )
    .await;

    host.site.fail(
        "press-1",
        Some(DriverError::Unreachable("connection refused".into())),
    );
    fails(Method::GET, heat, "", 500, "connection refused").await;
    fails(Method::GET, heat, "", 423, "connection refused").await;
    host.driver.cancel();
    let (host, heat) = (&host, &heat);
    until("the driver's end is noticed", || async move {
        let (status, answer) = host.http(Method::GET, heat, "").await;
        let said = answer["message"]
            .as_str()
            .unwrap()
            .contains("no driver serves modbus");
        (status == StatusCode::SERVICE_UNAVAILABLE && said).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edgex_clients_find_devices_profiles_and_commands() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let get = async |service, path: &str| {
        let (status, answer) = host.http_of(service, Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let ping = get(EdgexService::CoreCommand, "/api/v3/ping").await;
    assert_eq!(ping["serviceName"], "core-command");
    let device = get(EdgexService::CoreMetadata, "/api/v3/device/name/press-1").await;
    assert_eq!(device["device"]["profileName"], "press");
    assert_eq!(device["device"]["protocols"]["modbus-tcp"]["Port"], "502");
    assert_eq!(device["device"]["adminState"], "UNLOCKED");
    let profile = get(
        EdgexService::CoreMetadata,
        "/api/v3/deviceprofile/name/press",
    )
    .await;
    assert_eq!(
        profile["profile"]["deviceResources"][0]["properties"]["scale"],
        0.1
    );
    let services = get(EdgexService::CoreMetadata, "/api/v3/deviceservice/all").await;
    assert_eq!(services["services"][0]["name"], "modbus");
    let commands = get(EdgexService::CoreCommand, "/api/v3/device/name/press-1").await;
    let commands = commands["deviceCoreCommand"]["coreCommands"]
        .as_array()
        .unwrap();
    let heat = commands
        .iter()
        .find(|command| command["name"] == "Heat")
        .unwrap();
    assert_eq!((&heat["get"], &heat["set"]), (&json!(true), &json!(true)));
    assert_eq!(heat["path"], "/api/v3/device/name/press-1/Heat");
    let both = get(EdgexService::All, "/api/v3/device/all").await;
    assert_eq!(both["totalCount"], 1);
    assert!(both["devices"].is_array() && both["deviceCoreCommands"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_in_status_and_events_and_stays_with_its_device() {
    let host = host().await;
    let beat = json!([{ "interval": "50ms", "sourceName": "Mode" }]);
    host.create("press-1", beat.clone()).await;
    host.create("press-2", beat).await;
    host.up("press-1").await;
    host.up("press-2").await;
    host.site
        .fail("press-2", Some(DriverError::Timeout("5s".into())));
    let status = host
        .device_until("press-2", "it is down", |status| {
            status["operatingState"] == "DOWN"
        })
        .await;
    assert!(
        status["lastError"].as_str().unwrap().contains("5s"),
        "{status}"
    );
    let before = host.site.reads("press-1");
    let host = &host;
    until("the other device is read on", || async move {
        (host.site.reads("press-1") > before + 5).then_some(())
    })
    .await;
    let events: Api<core::Event> = Api::default_namespaced(host.client.clone());
    let events = &events;
    until("there is an event", || async move {
        let all = events.list(&Default::default()).await.unwrap();
        let found = all.items.into_iter().find(|event| {
            event.reason.as_deref() == Some("DeviceDown")
                && event.involved_object.name.as_deref() == Some("press-2")
        });
        found.map(|event| assert!(event.message.unwrap().contains("5s")))
    })
    .await;
    host.site.fail("press-2", None);
    let status = host
        .device_until("press-2", "it is up again", |status| {
            status["operatingState"] == "UP"
        })
        .await;
    assert_eq!(status.get("lastError"), None);

    let devices: Api<Device> = Api::default_namespaced(host.client.clone());
    devices
        .delete("press-2", &DeleteParams::default())
        .await
        .unwrap();
    until("a deleted device is gone", || async move {
        let (status, _) = host
            .http(Method::GET, "/api/v3/device/name/press-2/Mode", "")
            .await;
        (status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_says_what_is_wrong_and_recovers_by_an_edit() {
    let host = host().await;
    let out = json!([{ "name": "mqtt", "image": "demo/out:v1" }]);
    host.pipeline(
        "image",
        json!({ "exporters": [{ "name": "x", "image": "demo/missing:v1" }] }),
    )
    .await;
    host.pipeline(
        "config",
        json!({
            "steps": [{ "name": "s", "image": "demo/drop:v1", "config": { "kep": "1" } }],
            "exporters": out,
        }),
    )
    .await;
    host.pipeline(
        "regex",
        json!({ "source": { "devices": ["("] }, "exporters": out }),
    )
    .await;
    let said = |reason: &'static str, text: &'static str| {
        move |pipeline: &Pipeline| {
            let status = pipeline.status.clone().unwrap_or_default();
            status
                .conditions
                .iter()
                .any(|c| c.status == "False" && c.reason == reason)
                && status.last_error.unwrap_or_default().contains(text)
        }
    };
    host.pipeline_until(
        "image",
        "the missing image is named",
        said("ImageError", "push it first"),
    )
    .await;
    host.pipeline_until(
        "config",
        "the setting is named",
        said("ConfigError", "\"kep\""),
    )
    .await;
    host.pipeline_until(
        "regex",
        "the pattern is named",
        said("InvalidSpec", "devices[0]"),
    )
    .await;

    let pipelines: Api<Pipeline> = Api::default_namespaced(host.client.clone());
    let edit = json!({ "spec": {
        "steps": [{ "name": "s", "image": "demo/drop:v1", "config": { "keep": "1" } }],
    }});
    pipelines
        .patch("config", &PatchParams::default(), &Patch::Merge(edit))
        .await
        .unwrap();
    host.pipeline_until("config", "the edit helps", |pipeline| {
        let status = pipeline.status.clone().unwrap_or_default();
        status.conditions.iter().any(|c| c.status == "True") && status.last_error.is_none()
    })
    .await;
}

fn event(source: &str, number: u64) -> Arc<Event> {
    Arc::new(Event {
        id: number.to_string(),
        service: "s".into(),
        device: "d".into(),
        profile: "p".into(),
        source: source.into(),
        origin: number,
        readings: vec![eyot_runtime::reading::Reading {
            resource: "R".into(),
            value: Value::Uint64(number),
            origin: number,
            units: String::new(),
            tags: vec![],
        }],
        tags: vec![],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_item_is_set_aside_and_the_rest_arrives_in_order_after_an_outage() {
    let host = host().await;
    host.pipeline(
        "out",
        json!({
            "steps": [{ "name": "trap", "image": "demo/trap:v1" }],
            "exporters": [{ "name": "mqtt", "image": "demo/out:v1" }],
        }),
    )
    .await;
    host.pipeline_until("out", "the pipeline is ready", |pipeline| {
        let status = pipeline.status.clone().unwrap_or_default();
        status.conditions.iter().any(|c| c.status == "True")
    })
    .await;
    *host.components.away.lock().unwrap() = true;
    for number in 0..20 {
        let source = if number == 7 { "poison" } else { "good" };
        host.devices
            .publish_for_test("default", event(source, number))
            .await;
    }
    host.pipeline_until("out", "the outage is told", |pipeline| {
        let status = pipeline.status.clone().unwrap_or_default();
        status
            .last_error
            .unwrap_or_default()
            .contains("connection refused")
    })
    .await;
    *host.components.away.lock().unwrap() = false;
    until("all but the poison arrive", || async {
        (host.components.delivered.lock().unwrap().len() >= 19).then_some(())
    })
    .await;
    let delivered = host.components.delivered.lock().unwrap().clone();
    let numbers: Vec<u64> = delivered
        .iter()
        .map(|item| {
            if let Item::Event(event) = item {
                event.origin
            } else {
                u64::MAX
            }
        })
        .collect();
    let expected: Vec<u64> = (0..20).filter(|number| *number != 7).collect();
    assert_eq!(numbers, expected);
    host.pipeline_until("out", "the poison is counted", |pipeline| {
        let status = pipeline.status.clone().unwrap_or_default();
        status.failed == 1 && status.delivered == 19 && status.received == 20
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_driver_takes_over_the_devices_of_the_old() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let other = Site::default();
    other.set("press-1", "Mode", Value::Uint8(9));
    let _new = serve(&host.devices, &other);
    let host = &host;
    until("the new driver answers", || async move {
        let (_, answer) = host
            .http(Method::GET, "/api/v3/device/name/press-1/Mode", "")
            .await;
        (answer["event"]["readings"][0]["value"] == "9").then_some(())
    })
    .await;
    let devices: Api<Device> = Api::default_namespaced(host.client.clone());
    assert_eq!(devices.get("press-1").await.unwrap().name_any(), "press-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_asked_to_check_find_and_describe_devices() {
    use crate::ScanError;

    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let devices = &host.devices;
    let found = eyot_runtime::guest::DiscoveredDevice {
        name: "press-2".into(),
        ..Default::default()
    };
    host.site.find(found.clone());
    assert_eq!(
        devices.discover("default", "modbus", "now").await,
        Ok(vec![found])
    );
    assert!(host.site.grants("modbus?now").unwrap().sockets.is_empty());
    let nobody = devices.discover("default", "nobody", "").await;
    assert_eq!(nobody, Err(ScanError::NotServed("nobody".into())));

    let device = Device::new("press-1", host::device("press-1", json!([])).spec);
    assert_eq!(devices.validate("default", &device).await, Ok(()));
    let profile = devices
        .profile_scan("default", &device, "scanned", "all")
        .await;
    assert_eq!(
        profile,
        Ok(json!({ "name": "scanned", "description": "all" }))
    );
    assert_eq!(host.site.grants("scan").unwrap().modbus, ["10.0.0.7:502"]);
    let broken = devices.profile_scan("default", &device, "x", "\"").await;
    assert!(matches!(broken, Err(ScanError::Profile(_))), "{broken:?}");
    let error = DriverError::Invalid {
        field: "protocols".into(),
        message: "no Port".into(),
    };
    host.site.fail("press-1", Some(error.clone()));
    let refused = devices.validate("default", &device).await;
    assert_eq!(refused, Err(ScanError::Driver(error)));

    let services: Api<eyot_api::DeviceService> = Api::namespaced(host.client.clone(), "default");
    let patch = json!({ "spec": { "adminState": "LOCKED", "properties": { "discovery": "10.0.0.0/8:161" } } });
    services
        .patch("modbus", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    until("the service is locked", || async {
        let answer = devices.discover("default", "modbus", "").await;
        (answer == Err(ScanError::Locked("modbus".into()))).then_some(())
    })
    .await;
    let patch = json!({ "spec": { "adminState": "UNLOCKED" } });
    services
        .patch("modbus", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    until("a search reaches what the service says", || async {
        devices.discover("default", "modbus", "wide").await.ok()?;
        (host.site.grants("modbus?wide")?.sockets == ["10.0.0.0/8:161"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_stored_whole_and_a_source_keeps_what_it_is_to_keep() {
    let host = host().await;
    const BURST: u64 = 30_000;
    for number in 0..BURST {
        host.devices
            .publish_for_test("default", event("burst", number))
            .await;
    }
    let count = async |device: &str| {
        let path = format!("/api/v3/event/count/device/name/{device}");
        let (_, answer) = host.http(Method::GET, &path, "").await;
        answer["count"].as_u64().unwrap()
    };
    until("all are stored", || async {
        (count("d").await == BURST).then_some(())
    })
    .await;
    assert_eq!(host.devices.lost().0, 0);

    host.create(
        "press-1",
        json!([
            { "interval": "1ms", "sourceName": "Mode", "retention": { "maxCap": 6, "minCap": 3 } },
            { "interval": "1ms", "sourceName": "Heat", "retention": { "duration": "soon" } },
        ]),
    )
    .await;
    let status = host
        .device_until("press-1", "what is wrong is told", |status| {
            status["lastError"].is_string()
        })
        .await;
    let told = status["lastError"].as_str().unwrap();
    assert!(told.contains("autoEvents[1]: retention.duration"), "{told}");
    let path = "/api/v3/reading/device/name/press-1/resourceName";
    let of = async |resource: &str| {
        let path = format!("{path}/{resource}");
        let (_, answer) = host.http(Method::GET, &path, "").await;
        answer["totalCount"].as_u64().unwrap()
    };
    until("the other source has many", || async {
        (of("Heat").await > 20).then_some(())
    })
    .await;
    until("the source has some", || async {
        (of("Mode").await >= 3).then_some(())
    })
    .await;
    assert!(of("Mode").await <= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_value_is_brought_about_when_the_device_returns() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let away = DriverError::Timeout("5s".into());
    host.site.fail("press-1", Some(away));
    let devices: Api<Device> = Api::default_namespaced(host.client.clone());
    let desire = async |desired: serde_json::Value| {
        let patch = json!({ "spec": { "desired": desired } });
        devices
            .patch("press-1", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    };
    desire(json!({ "Heat": 30.5, "Gone": "1" })).await;
    host.device_until("press-1", "it is away", |status| {
        status["operatingState"] == "DOWN"
    })
    .await;
    assert_eq!(host.site.value("press-1", "Heat"), Some(Value::Int16(234)));
    let opened = host.site.opened("press-1");
    host.site.fail("press-1", None);
    let twin = |status: &serde_json::Value, name: &str| {
        let twins = status["twins"].as_array().cloned().unwrap_or_default();
        let found = twins.into_iter().find(|twin| twin["propertyName"] == name);
        found.unwrap_or_default()
    };
    let status = host
        .device_until("press-1", "the twin is told of", |status| {
            twin(status, "Heat")["observedDesired"]["value"] == "30.5"
                && twin(status, "Gone")["error"].is_string()
        })
        .await;
    assert_eq!(host.site.value("press-1", "Heat"), Some(Value::Int16(305)));
    assert_eq!(twin(&status, "Heat")["reported"]["value"], "30.5");
    assert!(twin(&status, "Heat").get("error").is_none(), "{status}");

    // A change is brought about in the session that there is; EdgeX's clients see none of it.
    desire(json!({ "Heat": "31", "Gone": null })).await;
    host.device_until("press-1", "the change is brought about", |status| {
        twin(status, "Heat")["reported"]["value"] == "31"
    })
    .await;
    assert_eq!(host.site.opened("press-1"), opened);
    let (_, answer) = host
        .http(Method::GET, "/api/v3/device/name/press-1", "")
        .await;
    assert_eq!(answer["device"].get("desired"), None, "{answer}");
}
