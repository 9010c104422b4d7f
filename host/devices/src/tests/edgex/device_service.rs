//! The REST API of device services.

use eyot_api::{Device, DeviceService};
use eyot_runtime::{
    guest::{DiscoveredDevice, DriverError},
    reading::Value,
};
use http::Method;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::{
    super::host::{DEADLINE, DEVICE_SERVICES, host, subscribe, until},
    Client,
    schema::documents,
};
use crate::{EdgexService, fakes::Searches};

const ID: &str = "9dae40d3-902f-49e5-b532-1b20d36d1f05";

fn found(name: &str, address: &str) -> DiscoveredDevice {
    let properties = json!({ "Address": address, "Port": 502 });
    DiscoveredDevice {
        name: name.into(),
        protocols: vec![("modbus-tcp".into(), properties.to_string())],
        description: "by the wall".into(),
        labels: vec!["found".into()],
    }
}

/// The next news of a search: its progress, and all of it.
async fn progress(bus: &mut mpsc::Receiver<(String, Json)>) -> (i64, Json) {
    let (topic, message) = tokio::time::timeout(DEADLINE, bus.recv())
        .await
        .unwrap()
        .unwrap();
    let payload = &message["payload"];
    let action = payload["action"].as_str().unwrap();
    assert_eq!(
        topic,
        format!("edgex/system-events/modbus/device/{action}/modbus")
    );
    let details = payload["details"].clone();
    (details["progress"].as_i64().unwrap(), details)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_driver_finds_becomes_a_device_if_a_watcher_lets_it_in() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let service = Client {
        host: &host,
        service: EdgexService::DeviceServices,
        documents: None,
    };
    let meta = Client {
        service: EdgexService::CoreMetadata,
        ..service
    };
    let watcher = json!([{ "apiVersion": "v3", "provisionwatcher": {
        "name": "hall", "serviceName": "modbus", "adminState": "UNLOCKED",
        "identifiers": { "Address": "^10\\.0\\." }, "blockingIdentifiers": { "Address": ["10.0.0.9"] },
        "discoveredDevice": {
            "profileName": "press", "adminState": "LOCKED", "properties": { "hall": 3 },
            "autoEvents": [{ "interval": "1h", "sourceName": "All" }],
        },
    }}]);
    meta.many(Method::POST, "/provisionwatcher", watcher, &[201])
        .await;
    for one in [
        found("press-2", "10.0.0.2"),
        found("blocked", "10.0.0.9"),
        found("elsewhere", "192.168.0.2"),
        found("press-1", "10.0.0.1"),
        found("", "10.0.0.3"),
    ] {
        host.site.find(one);
    }
    let mut bus = subscribe(&host.broker, "edgex/system-events/modbus/#").await;
    let answer = service
        .ask(Method::POST, "/discovery", Json::Null, 202)
        .await;
    let id = answer["requestId"].as_str().unwrap().to_owned();
    let (begin, details) = progress(&mut bus).await;
    assert_eq!((begin, &details["requestId"]), (0, &json!(id)));
    let (end, details) = progress(&mut bus).await;
    assert_eq!(
        (end, &details["discoveredDeviceCount"]),
        (100, &json!(5)),
        "{details}"
    );
    assert!(
        details["message"].as_str().unwrap().contains("1 to 253"),
        "{details}"
    );
    let device = &meta.get("/device/name/press-2").await["device"];
    for (field, value) in [
        ("adminState", json!("LOCKED")),
        ("profileName", json!("press")),
        ("serviceName", json!("modbus")),
        ("description", json!("by the wall")),
        ("labels", json!(["found"])),
        ("properties", json!({ "hall": 3 })),
        (
            "autoEvents",
            json!([{ "interval": "1h", "sourceName": "All" }]),
        ),
        (
            "protocols",
            json!({ "modbus-tcp": { "Address": "10.0.0.2", "Port": 502 } }),
        ),
    ] {
        assert_eq!(device[field], value, "{device}");
    }
    assert_eq!(meta.get("/device/all").await["totalCount"], 2);
    let devices: Api<Device> = Api::default_namespaced(host.client.clone());
    let made = devices.get("press-2").await.unwrap();
    assert_eq!(made.labels()["eyot.dev/provision-watcher"], "hall");

    // One search at a time, and it can be broken off.
    host.site.searches(Searches::GoOn);
    let answer = service
        .ask(Method::POST, "/discovery", Json::Null, 202)
        .await;
    let id = answer["requestId"].as_str().unwrap().to_owned();
    assert_eq!(progress(&mut bus).await.0, 0);
    let other = service
        .ask(Method::POST, "/discovery", Json::Null, 202)
        .await;
    assert!(
        other["message"].as_str().unwrap().contains("already"),
        "{other}"
    );
    service
        .ask(
            Method::DELETE,
            &format!("/discovery/requestId/{ID}"),
            Json::Null,
            404,
        )
        .await;
    service
        .ask(
            Method::DELETE,
            &format!("/discovery/requestId/{id}"),
            Json::Null,
            200,
        )
        .await;
    let (progress, details) = progress(&mut bus).await;
    assert_eq!(progress, -1, "{details}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_searches_by_itself_at_the_interval_of_its_service() {
    let host = host().await;
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let meta = Client {
        host: &host,
        service: EdgexService::CoreMetadata,
        documents: None,
    };
    let watcher = json!([{ "apiVersion": "v3", "provisionwatcher": {
        "name": "hall", "serviceName": "modbus", "adminState": "UNLOCKED",
        "identifiers": { "Address": "^10\\.0\\." },
        "discoveredDevice": { "profileName": "press", "adminState": "UNLOCKED" },
    }}]);
    meta.many(Method::POST, "/provisionwatcher", watcher, &[201])
        .await;
    let mut bus = subscribe(&host.broker, "edgex/system-events/modbus/#").await;
    let services: Api<DeviceService> = Api::default_namespaced(host.client.clone());
    let patch = json!({ "spec": { "properties": { "discoveryInterval": "1s" } } });
    services
        .patch("modbus", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    assert_eq!(progress(&mut bus).await.0, 0);
    assert_eq!(progress(&mut bus).await.0, 100);
    // What comes later is found by a later search.
    host.site.find(found("press-2", "10.0.0.2"));
    let meta = &meta;
    until("the new device is found", || async move {
        let all = meta.get("/device/all").await;
        (all["totalCount"] == 2).then_some(())
    })
    .await;
    assert_eq!(progress(&mut bus).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanned_device_gets_the_profile_that_its_driver_makes() {
    let host = host().await;
    let service = Client {
        host: &host,
        service: EdgexService::DeviceServices,
        documents: None,
    };
    let meta = Client {
        service: EdgexService::CoreMetadata,
        ..service
    };
    let bare = json!([{ "apiVersion": "v3", "device": {
        "name": "press-9", "serviceName": "modbus", "adminState": "UNLOCKED", "operatingState": "UP",
        "protocols": { "modbus-tcp": { "Address": "10.0.0.7", "Port": 502 } },
    }}]);
    until("the driver has announced itself", || async {
        let path = "/api/v3/deviceservice/name/modbus";
        let (status, _) = host.http_of(meta.service, Method::GET, path, "").await;
        (status.as_u16() == 200).then_some(())
    })
    .await;
    meta.many(Method::POST, "/device", bare, &[201]).await;
    // The driver checks what clients add, unless they want it unchecked.
    let refused = DriverError::Invalid {
        field: "protocols".into(),
        message: "no Port".into(),
    };
    host.site.fail("press-8", Some(refused));
    let odd = json!([{ "apiVersion": "v3", "device": {
        "name": "press-8", "serviceName": "modbus", "adminState": "UNLOCKED", "operatingState": "UP",
        "protocols": { "modbus-tcp": { "Address": "10.0.0.8" } },
    }}]);
    let (post, patch) = (Method::POST, Method::PATCH);
    let answer = meta
        .many(post.clone(), "/device", odd.clone(), &[400])
        .await;
    let message = answer[0]["message"].as_str().unwrap();
    assert!(message.contains("no Port"), "{message}");
    let unchecked = "/device?bypassValidation=true";
    meta.many(post, unchecked, odd, &[201]).await;
    let edit = json!([{ "apiVersion": "v3", "device": { "name": "press-8", "protocols": {} } }]);
    meta.many(patch, "/device", edit, &[400]).await;

    let mut bus = subscribe(&host.broker, "edgex/system-events/modbus/#").await;
    let scan = |name: &str| {
        json!({
            "apiVersion": "v3", "requestId": ID, "deviceName": "press-9", "profileName": name,
            "options": { "deep": true },
        })
    };

    host.site.describe("{\"name\":\"other\"}".into());
    service
        .ask(Method::POST, "/profilescan", scan("found"), 202)
        .await;
    assert_eq!(progress(&mut bus).await.0, 0);
    let (end, details) = progress(&mut bus).await;
    assert_eq!((end, &details["requestId"]), (-1, &json!(ID)), "{details}");

    let profile = json!({ "name": "NAME", "deviceResources": [
        { "name": "Mode", "properties": { "valueType": "Uint8", "readWrite": "R" } },
    ]});
    host.site.describe(profile.to_string());
    host.site.set("press-9", "Mode", Value::Uint8(3));
    let scanned = async || {
        // The search before may still be ending.
        let path = "/modbus/api/v3/profilescan";
        let body = scan("found").to_string();
        let (status, _) = host
            .http_of(service.service, Method::POST, path, &body)
            .await;
        (status.as_u16() == 202).then_some(())
    };
    until("the scan begins", scanned).await;
    assert_eq!(progress(&mut bus).await.0, 0);
    let (end, details) = progress(&mut bus).await;
    assert_eq!(end, 100, "{details}");
    let device = meta.get("/device/name/press-9").await;
    assert_eq!(device["device"]["profileName"], "found");
    until("the device is read by it", || async {
        let path = "/modbus/api/v3/device/name/press-9/Mode";
        let (_, answer) = host.http_of(service.service, Method::GET, path, "").await;
        (answer["event"]["readings"][0]["value"] == "3").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_answers_as_a_device_service_below_its_name() {
    let host = host().await;
    let documents = documents();
    host.create("press-1", json!([])).await;
    host.up("press-1").await;
    let service = Client {
        host: &host,
        service: EdgexService::DeviceServices,
        documents: documents.as_ref(),
    };
    for path in ["/ping", "/version", "/config"] {
        assert_eq!(service.get(path).await["serviceName"], "modbus", "{path}");
    }
    let secret = json!({ "apiVersion": "v3", "secretName": "plc", "secretData": [{ "key": "user", "value": "u" }] });
    service.ask(Method::POST, "/secret", secret, 201).await;

    // The address that the driver has announced is where all this is.
    let meta = Client {
        service: EdgexService::CoreMetadata,
        ..service
    };
    let path = "/deviceservice/name/modbus";
    until("the driver has announced itself", || async {
        let full = format!("/api/v3{path}");
        let (_, answer) = host
            .http_of(EdgexService::CoreMetadata, Method::GET, &full, "")
            .await;
        let address = format!("{DEVICE_SERVICES}/modbus");
        (answer["service"]["baseAddress"] == address.as_str()).then_some(())
    })
    .await;
    assert_eq!(meta.get(path).await["service"]["adminState"], "UNLOCKED");

    let resources = |answer: &Json| {
        let readings = answer["event"]["readings"].as_array().unwrap();
        readings
            .iter()
            .map(|reading| reading["resourceName"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let answer = service
        .get("/device/name/press-1/Mode?ds-pushevent=true")
        .await;
    assert_eq!(resources(&answer), ["Mode"]);
    // A name that is neither command nor resource is a pattern, unless told otherwise.
    let answer = service.get("/device/name/press-1/.*").await;
    assert_eq!(resources(&answer), ["Heat", "Mode"]);
    assert_eq!(answer["event"]["sourceName"], ".*");
    let get = Method::GET;
    let plain = "/device/name/press-1/.*?ds-regexcmd=false";
    service.ask(get.clone(), plain, Json::Null, 404).await;
    service
        .ask(get.clone(), "/device/name/press-1/(", Json::Null, 404)
        .await;
    service
        .ask(get.clone(), "/device/name/nobody/Mode", Json::Null, 404)
        .await;
    let silent = service
        .get("/device/name/press-1/Mode?ds-returnevent=false")
        .await;
    assert_eq!(silent.get("event"), None);
    let put = Method::PUT;
    let heat = "/device/name/press-1/Heat";
    service
        .ask(put.clone(), heat, json!({ "Heat": "30.5" }), 200)
        .await;
    assert_eq!(
        service.get(heat).await["event"]["readings"][0]["value"],
        "3.05e+01"
    );
    service
        .ask(put.clone(), heat, json!({ "Heat": "900" }), 400)
        .await;
    service.raw(put.clone(), heat, "[", 400).await;
    service
        .ask(
            put.clone(),
            "/device/name/press-1/Mode",
            json!({ "Mode": "1" }),
            405,
        )
        .await;
    service
        .ask(put, "/device/name/nobody/Mode", json!({}), 404)
        .await;

    // What the driver is asked carries the rest of the query.
    service
        .get("/device/name/press-1/Mode?jsonObject=e30&ds-pushevent=false")
        .await;
    let attributes = host.site.attributes("press-1");
    assert!(
        attributes.contains("\"urlRawQuery\":\"jsonObject=e30\""),
        "{attributes}"
    );

    // A driver that can neither search nor scan says so.
    let (post, delete) = (Method::POST, Method::DELETE);
    host.site.searches(Searches::NotSupported);
    let scan = json!({ "apiVersion": "v3", "deviceName": "press-1" });
    service
        .ask(post.clone(), "/discovery", Json::Null, 501)
        .await;
    service
        .ask(post.clone(), "/profilescan", scan.clone(), 501)
        .await;
    for path in ["/discovery", "/profilescan/device/name/press-1"] {
        service.ask(delete.clone(), path, Json::Null, 200).await;
    }
    let of_request = format!("/discovery/requestId/{ID}");
    service
        .ask(delete.clone(), &of_request, Json::Null, 404)
        .await;
    service
        .ask(
            post.clone(),
            "/profilescan",
            json!({ "apiVersion": "v3" }),
            400,
        )
        .await;
    let nobody = json!({ "apiVersion": "v3", "deviceName": "nobody" });
    service.ask(post.clone(), "/profilescan", nobody, 404).await;
    let taken = json!({ "apiVersion": "v3", "deviceName": "press-1", "profileName": "press" });
    service.ask(post.clone(), "/profilescan", taken, 409).await;
    service
        .ask(delete, "/profilescan/device/name/nobody", Json::Null, 404)
        .await;
    if let Some(documents) = &documents {
        let left = documents.unasked(EdgexService::DeviceServices);
        assert!(left.is_empty(), "operations that were not asked: {left:?}");
    }

    // A locked service does nothing.
    let lock = |state: &str| json!([{ "apiVersion": "v3", "service": { "name": "modbus", "adminState": state } }]);
    meta.many(Method::PATCH, "/deviceservice", lock("LOCKED"), &[200])
        .await;
    until("the device knows", || async {
        let path = "/modbus/api/v3/device/name/press-1/Mode";
        let (status, _) = host.http_of(service.service, Method::GET, path, "").await;
        (status.as_u16() == 423).then_some(())
    })
    .await;

    service
        .ask(post.clone(), "/discovery", Json::Null, 423)
        .await;
    service.ask(post, "/profilescan", scan, 423).await;

    // Without a name the only driver is meant; another name is nobody's.
    let bare = host
        .http_of(service.service, Method::GET, "/api/v3/ping", "")
        .await;
    assert_eq!(bare.1["serviceName"], "modbus");
    let other = host
        .http_of(service.service, Method::GET, "/other/api/v3/ping", "")
        .await;
    assert_eq!(other.0.as_u16(), 404);
    let odd = host
        .http_of(service.service, Method::GET, "/modbus/api/v2/ping", "")
        .await;
    assert_eq!(odd.0.as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_services_count_is_told_if_their_settings_say_so() {
    let host = host().await;
    let events = json!([{ "interval": "50ms", "sourceName": "All" }]);
    host.create("press-1", events).await;
    let keeper = Client {
        host: &host,
        service: EdgexService::CoreKeeper,
        documents: None,
    };
    let mut bus = subscribe(&host.broker, "edgex/telemetry/#").await;
    for (service, metrics) in [
        (
            "modbus",
            json!({ "ReadingsSent": "true", "LastConnected": "true", "EventsSent": "false" }),
        ),
        ("core-data", json!({ "EventsPersisted": "true" })),
    ] {
        let telemetry =
            json!({ "Interval": "1s", "Metrics": metrics, "Tags": { "site": "north" } });
        let settings = json!({ "value": { "Writable": { "Telemetry": telemetry } } });
        let path = format!("/kvs/key/edgex/v4/{service}?flatten=true");
        keeper.ask(Method::PUT, &path, settings, 200).await;
    }
    let mut last = std::collections::BTreeMap::new();
    while last.len() < 3 || last.values().any(|value| *value == 0) {
        let (topic, message) = tokio::time::timeout(DEADLINE, bus.recv())
            .await
            .unwrap()
            .unwrap();
        let metric = &message["payload"];
        let name = metric["name"].as_str().unwrap().to_owned();
        assert!(topic.starts_with("edgex/telemetry/"), "{topic}");
        assert_eq!(
            metric["tags"][0],
            json!({ "name": "site", "value": "north" })
        );
        last.insert(topic, metric["fields"][0]["value"].as_u64().unwrap());
        assert_ne!(name, "EventsSent");
    }
    let topics: Vec<_> = last.keys().map(String::as_str).collect();
    let expected = [
        "edgex/telemetry/core-data/EventsPersisted",
        "edgex/telemetry/modbus/LastConnected-press-1",
        "edgex/telemetry/modbus/ReadingsSent",
    ];
    assert_eq!(topics, expected);
    // Nanoseconds, of this century.
    assert!(last["edgex/telemetry/modbus/LastConnected-press-1"] > 1_600_000_000_000_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_a_devices_state_lasts() {
    let host = host().await;
    let beat = json!([{ "interval": "50ms", "sourceName": "Heat" }]);
    host.create("press-1", beat).await;
    host.up("press-1").await;
    let service = Client {
        host: &host,
        service: EdgexService::DeviceServices,
        documents: None,
    };
    let meta = Client {
        service: EdgexService::CoreMetadata,
        ..service
    };
    let state = async || {
        let answer = meta.get("/device/name/press-1").await;
        answer["device"]["operatingState"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let say = async |word: &str| {
        let device = json!({ "name": "press-1", "operatingState": word });
        let request = json!([{ "apiVersion": "v3", "device": device }]);
        meta.many(Method::PATCH, "/device", request, &[200]).await;
        assert_eq!(state().await, word, "it reads what it has written");
    };
    let mode = "/device/name/press-1/Mode";
    service.get(mode).await;
    say("DOWN").await;
    host.device_until("press-1", "the host says why", |status| {
        status["conditions"][0]["reason"] == "SaidDown"
    })
    .await;
    service.ask(Method::GET, mode, Json::Null, 423).await;
    let heat = json!({ "Heat": "30.5" });
    let path = "/device/name/press-1/Heat";
    service.ask(Method::PUT, path, heat, 423).await;
    let reads = host.site.reads("press-1");
    // Neither time nor an edit of something else lifts it; nor does saying it again.
    let edit = json!([{ "apiVersion": "v3", "device": {
        "name": "press-1", "description": "by the wall", "operatingState": "DOWN",
    } }]);
    meta.many(Method::PATCH, "/device", edit, &[200]).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(host.site.reads("press-1"), reads, "auto events are paused");
    assert_eq!(state().await, "DOWN");
    service.ask(Method::GET, mode, Json::Null, 423).await;

    say("UP").await;
    host.up("press-1").await;
    until("auto events go on", || async {
        (host.site.reads("press-1") > reads + 2).then_some(())
    })
    .await;
    service.get(mode).await;

    // A silent device is shown as it is, though somebody says that it is up.
    host.site
        .fail("press-1", Some(DriverError::Timeout("5s".into())));
    let down = |status: &Json| status["operatingState"] == "DOWN";
    host.device_until("press-1", "it is down", down).await;
    let device = json!({ "name": "press-1", "operatingState": "UP" });
    let request = json!([{ "apiVersion": "v3", "device": device }]);
    meta.many(Method::PATCH, "/device", request, &[200]).await;
    host.device_until("press-1", "it is down still", down).await;
    host.site.fail("press-1", None);
    host.up("press-1").await;

    // One that is made as DOWN is not even opened.
    let device = json!({
        "name": "press-2", "serviceName": "modbus", "profileName": "press", "operatingState": "DOWN",
        "adminState": "UNLOCKED", "protocols": { "modbus-tcp": { "Address": "10.0.0.8" } },
        "autoEvents": [{ "interval": "50ms", "sourceName": "Heat" }],
    });
    let request = json!([{ "apiVersion": "v3", "device": device }]);
    meta.many(Method::POST, "/device", request, &[201]).await;
    host.device_until("press-2", "it is left alone", down).await;
    service
        .ask(Method::GET, "/device/name/press-2/Mode", Json::Null, 423)
        .await;
    assert_eq!(host.site.reads("press-2"), 0);
}
