//! Each operation of EdgeX's core services: its status, and its answer against EdgeX's own
//! OpenAPI files where these are.

mod binary;
mod device_service;
mod foreign;
mod messages;
mod schema;

use eyot_api::{DeviceService, ProvisionWatcher};
use http::{Method, StatusCode};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value as Json, json};

use self::schema::{Documents, documents};
use super::host::{DEADLINE, Host, host, subscribe, until};
use crate::EdgexService;

/// A client of one service that checks each answer.
struct Client<'a> {
    host: &'a Host,
    service: EdgexService,
    documents: Option<&'a Documents>,
}

impl Client<'_> {
    /// Ask, expect this status, and hold the answer against the operation's schema.
    async fn ask(&self, method: Method, path: &str, body: Json, status: u16) -> Json {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.raw(method, path, &body, status).await
    }

    async fn raw(&self, method: Method, path: &str, body: &str, status: u16) -> Json {
        let below = match self.service {
            EdgexService::DeviceServices => "/modbus",
            _ => "",
        };
        let full = format!("{below}/api/v3{path}");
        let (code, answer) = (self.host)
            .http_of(self.service, method.clone(), &full, body)
            .await;
        assert_eq!(code.as_u16(), status, "{method} {path} {body}: {answer}");
        if let Some(documents) = self.documents {
            documents.check(self.service, &method, path, status, &answer);
        }
        answer
    }

    async fn get(&self, path: &str) -> Json {
        self.ask(Method::GET, path, Json::Null, 200).await
    }

    /// A bulk request: 207, and these statuses of the items.
    async fn many(&self, method: Method, path: &str, body: Json, statuses: &[u64]) -> Json {
        let answer = self.ask(method, path, body, 207).await;
        let found: Vec<u64> = answer
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["statusCode"].as_u64().unwrap())
            .collect();
        assert_eq!(found, statuses, "{path}: {answer}");
        answer
    }
}

fn request(part: &str, content: Json) -> Json {
    json!({ "apiVersion": "v3", part: content })
}

fn new_device(name: &str) -> Json {
    json!({
        "name": name, "adminState": "UNLOCKED", "operatingState": "UP", "serviceName": "modbus",
        "profileName": "Meter_1", "labels": ["hall"], "protocols": { "modbus-tcp": { "Port": 502 } },
        "autoEvents": [{ "interval": "1h", "sourceName": "Power" }],
    })
}

fn new_profile(name: &str) -> Json {
    json!({
        "name": name, "manufacturer": "Iron", "model": "M1", "labels": ["meter"],
        "deviceResources": [
            { "name": "Power", "properties": { "valueType": "Float32", "readWrite": "RW" } },
            { "name": "Energy", "properties": { "valueType": "uint32", "readWrite": "R" } },
        ],
        "deviceCommands": [{
            "name": "Both", "readWrite": "R",
            "resourceOperations": [{ "deviceResource": "Power" }, { "deviceResource": "Energy" }],
        }],
    })
}

const METER: &str = "name: Meter_2\nmanufacturer: Iron\ndeviceResources:\n- name: T\n  properties: \
                     { valueType: Int16, readWrite: R }\n";

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_written_and_read_back_as_edgex_has_it() {
    let host = host().await;
    let documents = documents();
    let mut bus = subscribe(&host.broker, "edgex/system-events/#").await;
    let meta = Client {
        host: &host,
        service: EdgexService::CoreMetadata,
        documents: documents.as_ref(),
    };
    let (get, post) = (Method::GET, Method::POST);
    let (put, patch, delete) = (Method::PUT, Method::PATCH, Method::DELETE);
    until("the driver has announced its service", || async {
        let (status, _) = host
            .http_of(
                EdgexService::CoreMetadata,
                Method::GET,
                "/api/v3/deviceservice/name/modbus",
                "",
            )
            .await;
        (status == StatusCode::OK).then_some(())
    })
    .await;

    // Common to all services.
    meta.get("/ping").await;
    meta.get("/version").await;
    meta.get("/config").await;
    let secret = json!({ "apiVersion": "v3", "secretName": "mqtt", "secretData": [{ "key": "user", "value": "u" }] });
    meta.ask(post.clone(), "/secret", secret.clone(), 201).await;
    meta.ask(post.clone(), "/secret", secret, 201).await;
    meta.ask(post.clone(), "/secret", json!({ "apiVersion": "v3" }), 400)
        .await;
    assert!(meta.get("/uom").await["uom"]["units"]["power"].is_object());

    // Profiles.
    let profiles = json!([
        request("profile", new_profile("Meter_1")),
        request("profile", new_profile("Meter_1")),
    ]);
    let answer = meta
        .many(post.clone(), "/deviceprofile", profiles, &[201, 409])
        .await;
    assert!(answer[0]["id"].is_string(), "{answer}");
    let mut changed = new_profile("Meter_1");
    changed["model"] = "M2".into();
    let changes = json!([
        request("profile", changed),
        request("profile", new_profile("Nobody")),
    ]);
    meta.many(put.clone(), "/deviceprofile", changes, &[200, 404])
        .await;
    let upload = format!(
        "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"m.yml\"\r\n\r\n{METER}\r\n--x--\r\n"
    );
    let form = "multipart/form-data; boundary=x";
    for (method, status) in [(&post, 201), (&post, 409), (&put, 200)] {
        let path = "/deviceprofile/uploadfile";
        let (code, answer) = host
            .http_with(
                EdgexService::CoreMetadata,
                method,
                path,
                upload.as_str(),
                form,
            )
            .await;
        assert_eq!(code.as_u16(), status, "{answer}");
        if let Some(documents) = &documents {
            documents.check(meta.service, method, path, status, &answer);
        }
    }
    meta.ask(post.clone(), "/deviceprofile/uploadfile", Json::Null, 400)
        .await;
    let all = meta.get("/deviceprofile/all?labels=meter").await;
    assert_eq!(all["totalCount"], 1);
    let one = meta.get("/deviceprofile/name/Meter_1").await;
    assert_eq!(one["profile"]["model"], "M2");
    assert_eq!(one["profile"]["linkedDeviceCount"], 0);
    let energy = &one["profile"]["deviceResources"][1];
    assert_eq!(energy["properties"]["valueType"], "Uint32");
    let info = json!([request(
        "basicinfo",
        json!({ "name": "Meter_1", "description": "d" })
    )]);
    meta.many(patch.clone(), "/deviceprofile/basicinfo", info, &[200])
        .await;
    let infos = meta.get("/deviceprofile/basicinfo/all").await;
    assert_eq!(infos["profiles"][0].get("deviceResources"), None);
    let tags =
        json!({ "apiVersion": "v3", "deviceResources": [{ "name": "Power", "tags": { "a": 1 } }] });
    meta.ask(
        patch.clone(),
        "/deviceprofile/name/Meter_1/tags",
        tags.clone(),
        200,
    )
    .await;
    meta.ask(patch.clone(), "/deviceprofile/name/Nope/tags", tags, 404)
        .await;
    let part = |part: &str, content: Json| json!([{ "apiVersion": "v3", "profileName": "Meter_1", part: content }]);
    let spare = json!({ "name": "Spare", "properties": { "valueType": "Bool", "readWrite": "R" } });
    meta.many(
        post.clone(),
        "/deviceprofile/resource",
        part("resource", spare),
        &[201],
    )
    .await;
    let hidden = part("resource", json!({ "name": "Spare", "isHidden": true }));
    meta.many(patch.clone(), "/deviceprofile/resource", hidden, &[200])
        .await;
    let read = meta
        .get("/deviceresource/profile/Meter_1/resource/Spare")
        .await;
    assert_eq!(read["resource"]["isHidden"], true);
    let command = json!({ "name": "One", "readWrite": "R", "resourceOperations": [{ "deviceResource": "Spare" }] });
    meta.many(
        post.clone(),
        "/deviceprofile/deviceCommand",
        part("deviceCommand", command),
        &[201],
    )
    .await;
    let wrong = json!({ "name": "Two", "readWrite": "W", "resourceOperations": [{ "deviceResource": "Spare" }] });
    meta.many(
        post.clone(),
        "/deviceprofile/deviceCommand",
        part("deviceCommand", wrong),
        &[400],
    )
    .await;
    let hidden = part("deviceCommand", json!({ "name": "One", "isHidden": true }));
    meta.many(
        patch.clone(),
        "/deviceprofile/deviceCommand",
        hidden,
        &[200],
    )
    .await;
    for path in [
        "/deviceprofile/name/Meter_1/deviceCommand/One",
        "/deviceprofile/name/Meter_1/resource/Spare",
    ] {
        meta.ask(delete.clone(), path, Json::Null, 200).await;
        meta.ask(delete.clone(), path, Json::Null, 404).await;
    }
    for path in [
        "/deviceprofile/manufacturer/Iron",
        "/deviceprofile/model/M2",
        "/deviceprofile/manufacturer/Iron/model/M2",
    ] {
        assert!(
            meta.get(path).await["totalCount"].as_u64() >= Some(1),
            "{path}"
        );
    }

    // Device services.
    let service = json!({ "name": "Remote Svc", "baseAddress": "http://remote:59999", "adminState": "UNLOCKED" });
    let services = json!([
        request("service", service.clone()),
        request("service", service),
    ]);
    meta.many(post.clone(), "/deviceservice", services, &[201, 409])
        .await;
    let update = json!([request(
        "service",
        json!({ "name": "Remote Svc", "labels": ["far"] })
    )]);
    meta.many(patch.clone(), "/deviceservice", update, &[200])
        .await;
    let far = meta.get("/deviceservice/all?labels=far").await;
    assert_eq!(far["services"][0]["name"], "Remote Svc");
    meta.get("/deviceservice/name/Remote%20Svc").await;
    meta.ask(
        delete.clone(),
        "/deviceservice/name/Remote%20Svc",
        Json::Null,
        200,
    )
    .await;
    meta.ask(
        delete.clone(),
        "/deviceservice/name/Remote%20Svc",
        Json::Null,
        404,
    )
    .await;

    // Devices. A name that no object may have is kept all the same.
    let mut child = new_device("Pumpe Süd/1");
    child["parent"] = "pump-1".into();
    let mut lost = new_device("lost");
    lost["serviceName"] = "nobody".into();
    let devices = json!([
        request("device", new_device("pump-1")),
        request("device", child),
        request("device", new_device("pump-1")),
        request("device", lost),
    ]);
    let answer = meta
        .many(post.clone(), "/device", devices, &[201, 201, 409, 400])
        .await;
    let id = answer[1]["id"].as_str().unwrap();
    let found = meta.get(&format!("/device/id/{id}")).await;
    assert_eq!(found["device"]["name"], "Pumpe Süd/1");
    assert_eq!(found["device"]["protocols"]["modbus-tcp"]["Port"], 502);
    let name = "Pumpe%20S%C3%BCd%2F1";
    meta.get(&format!("/device/name/{name}")).await;
    meta.get("/device/check/name/pump-1").await;
    meta.ask(get.clone(), "/device/check/name/nope", Json::Null, 404)
        .await;
    let below = meta.get("/device/all?descendantsOf=pump-1").await;
    assert_eq!(below["totalCount"], 1);
    let update = json!([
        request(
            "device",
            json!({ "id": id, "description": "south", "autoEvents": [] })
        ),
        request("device", json!({ "name": "pump-1", "profileName": "Nope" })),
        request("device", json!({ "name": "nope", "description": "x" })),
    ]);
    meta.many(patch.clone(), "/device", update, &[200, 400, 404])
        .await;
    let found = meta.get(&format!("/device/name/{name}")).await;
    assert_eq!(found["device"]["description"], "south");
    assert_eq!(found["device"]["autoEvents"], json!([]));
    assert_eq!(
        meta.get("/device/all?labels=hall&limit=1").await["totalCount"],
        2
    );
    assert_eq!(
        meta.get("/device/service/name/modbus").await["totalCount"],
        2
    );
    assert_eq!(
        meta.get("/device/profile/name/Meter_1").await["totalCount"],
        2
    );
    meta.ask(get.clone(), "/device/all?offset=9", Json::Null, 416)
        .await;
    meta.ask(delete.clone(), "/device/name/pump-1", Json::Null, 409)
        .await;
    meta.ask(
        delete.clone(),
        "/deviceprofile/name/Meter_1",
        Json::Null,
        409,
    )
    .await;
    meta.ask(
        delete.clone(),
        "/deviceservice/name/modbus",
        Json::Null,
        409,
    )
    .await;

    // Provision watchers.
    let watcher = json!({
        "name": "new-meters", "serviceName": "modbus", "adminState": "UNLOCKED",
        "identifiers": { "Address": "10\\..*" },
        "discoveredDevice": { "profileName": "Meter_1", "adminState": "UNLOCKED" },
    });
    let watchers = json!([
        request("provisionwatcher", watcher.clone()),
        request("provisionwatcher", watcher),
    ]);
    meta.many(post.clone(), "/provisionwatcher", watchers, &[201, 409])
        .await;
    let update = json!([request(
        "provisionwatcher",
        json!({ "name": "new-meters", "labels": ["w"] })
    )]);
    meta.many(patch.clone(), "/provisionwatcher", update, &[200])
        .await;
    for path in [
        "/provisionwatcher/all?labels=w",
        "/provisionwatcher/service/name/modbus",
        "/provisionwatcher/profile/name/Meter_1",
    ] {
        assert_eq!(meta.get(path).await["totalCount"], 1, "{path}");
    }
    let one = meta.get("/provisionwatcher/name/new-meters").await;
    assert_eq!(one["provisionWatcher"]["identifiers"]["Address"], "10\\..*");
    let kept: Api<ProvisionWatcher> = Api::default_namespaced(host.client.clone());
    assert_eq!(
        kept.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );

    // Everything goes again, in the order that allows it.
    for path in [
        "/provisionwatcher/name/new-meters".to_owned(),
        format!("/device/name/{name}"),
        "/device/name/pump-1".to_owned(),
        "/deviceprofile/name/Meter_1".to_owned(),
    ] {
        meta.ask(delete.clone(), &path, Json::Null, 200).await;
        meta.ask(delete.clone(), &path, Json::Null, 404).await;
    }
    if let Some(documents) = &documents {
        let left = documents.unasked(EdgexService::CoreMetadata);
        assert!(left.is_empty(), "operations that were not asked: {left:?}");
    }

    // Both doors tell the bus.
    let mut told = Vec::new();
    while let Ok(Some((topic, message))) = tokio::time::timeout(DEADLINE, bus.recv()).await {
        let gone = topic.starts_with("edgex/system-events/core-metadata/deviceprofile/delete");
        assert_eq!(message["payload"]["source"], "core-metadata");
        told.push(topic);
        if gone {
            break;
        }
    }
    for wanted in [
        "edgex/system-events/core-metadata/device/add/modbus/Meter_1",
        "edgex/system-events/core-metadata/device/update/modbus/Meter_1",
        "edgex/system-events/core-metadata/device/delete/modbus/Meter_1",
        "edgex/system-events/core-metadata/provisionwatcher/add/modbus",
    ] {
        assert!(
            told.iter().any(|topic| topic == wanted),
            "{wanted}: {told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_a_rule_is_refused_whole_and_says_all_that_is_wrong() {
    let host = host().await;
    let meta = Client {
        host: &host,
        service: EdgexService::CoreMetadata,
        documents: None,
    };
    let said = async |path: &str, body: Json, texts: &[&str]| {
        let answer = meta.ask(Method::POST, path, body, 400).await;
        let message = answer["message"].as_str().unwrap();
        for text in texts {
            assert!(message.contains(text), "{text}: {message}");
        }
    };
    let blank = json!([request(
        "device",
        json!({ "name": " ", "adminState": "OPEN" })
    )]);
    said(
        "/device",
        blank,
        &[
            "AddDeviceRequest.Device.Name field should not be empty string",
            "AddDeviceRequest.Device.AdminState field should be one of 'LOCKED' 'UNLOCKED'",
            "AddDeviceRequest.Device.ServiceName field is required",
            "AddDeviceRequest.Device.Protocols field is required",
        ],
    )
    .await;
    let mut late = new_device("d");
    late["autoEvents"] = json!([{ "interval": "soon", "sourceName": "" }]);
    said(
        "/device",
        json!([request("device", late)]),
        &[
            "AutoEvents[0].Interval field should follows the ISO 8601",
            "AutoEvents[0].SourceName field is required",
        ],
    )
    .await;
    said(
        "/device",
        json!([{ "device": new_device("d") }]),
        &["ApiVersion field is required"],
    )
    .await;
    said(
        "/device",
        json!([{ "apiVersion": "v3", "requestId": "1", "device": new_device("d") }]),
        &["RequestId field needs a uuid"],
    )
    .await;
    said("/device", json!({}), &["json decoding failed"]).await;
    said(
        "/device",
        json!([request("device", json!(7))]),
        &["device must be an object"],
    )
    .await;
    let mut twice = new_profile("p");
    twice["deviceResources"][1]["name"] = "Power".into();
    said(
        "/deviceprofile",
        json!([request("profile", twice)]),
        &["device resource Power is duplicated"],
    )
    .await;
    let mut odd = new_profile("p");
    odd["deviceResources"][0]["properties"]["valueType"] = "Int17".into();
    said(
        "/deviceprofile",
        json!([request("profile", odd)]),
        &["DeviceResources[0].Properties.ValueType"],
    )
    .await;
    let watcher = json!({ "name": "w", "serviceName": "s", "adminState": "UNLOCKED", "identifiers": { "A": "(" } });
    said(
        "/provisionwatcher",
        json!([request("provisionwatcher", watcher)]),
        &[
            "Identifiers[A] is no regular expression",
            "DiscoveredDevice.AdminState",
        ],
    )
    .await;
    said(
        "/deviceservice",
        json!([request(
            "service",
            json!({ "name": "s", "adminState": "UNLOCKED", "baseAddress": "x y" })
        )]),
        &["BaseAddress field validation failed on the uri tag"],
    )
    .await;
    // Bytes that are no JSON, or no UTF-8.
    for body in ["", "[", "\u{0}", "[{\"device\":\"\\ud800\"}]"] {
        meta.raw(Method::POST, "/device", body, 400).await;
    }
    let services: Api<DeviceService> = Api::default_namespaced(host.client.clone());
    let names = services.list(&ListParams::default()).await.unwrap();
    assert!(
        names
            .items
            .iter()
            .all(|service| service.name_any() == "modbus")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_told_counted_and_deleted() {
    let host = host().await;
    let documents = documents();
    let mut bus = subscribe(&host.broker, "edgex/events/core/#").await;
    let data = Client {
        host: &host,
        service: EdgexService::CoreData,
        documents: documents.as_ref(),
    };
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    for path in ["/ping", "/version", "/config"] {
        data.get(path).await;
    }
    let secret = json!({ "apiVersion": "v3", "secretName": "s", "secretData": [{ "key": "k", "value": "v" }] });
    data.ask(post.clone(), "/secret", secret, 201).await;

    let id = |n: u32| format!("563513b3-f020-46fa-ae44-0000000000{n:02}");
    let event = |n: u32, device: &str, origin: u64, value: &str| {
        json!({
            "apiVersion": "v3", "id": id(n), "deviceName": device, "profileName": "p",
            "sourceName": "All", "origin": origin, "tags": { "at": { "deg": 1 } },
            "readings": [
                { "deviceName": device, "profileName": "p", "resourceName": "T", "origin": origin, "valueType": "Int16", "value": value },
                { "deviceName": device, "profileName": "p", "resourceName": "Name", "origin": origin, "valueType": "String", "value": "x" },
            ],
        })
    };
    for (n, device, origin, value) in [(1, "a b", 10, "5"), (2, "a b", 20, "-7"), (3, "c", 30, "1")]
    {
        let path = format!("/event/s/p/{}/All", device.replace(' ', "%20"));
        let body = request("event", event(n, device, origin, value));
        let answer = data.ask(post.clone(), &path, body.clone(), 201).await;
        assert_eq!(answer["id"], id(n));
        data.ask(post.clone(), &path, body, 409).await;
    }
    let (topic, message) = tokio::time::timeout(DEADLINE, bus.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(topic, "edgex/events/core/s/p/a%20b/All");
    assert_eq!(message["payload"]["event"]["tags"]["at"]["deg"], 1);

    // What does not fit is refused and not kept.
    let refused = async |path: &str, change: &dyn Fn(&mut Json), text: &str| {
        let mut wrong = event(9, "c", 30, "1");
        change(&mut wrong);
        let body = request("event", wrong);
        let answer = data.ask(Method::POST, path, body, 400).await;
        assert!(
            answer["message"].as_str().unwrap().contains(text),
            "{answer}"
        );
    };
    let path = "/event/s/p/c/All";
    refused(
        path,
        &|e| e["readings"] = json!([]),
        "Readings field should greater than 0",
    )
    .await;
    refused(path, &|e| e["id"] = "7".into(), "Id field needs a uuid").await;
    refused(
        path,
        &|e| e["origin"] = 0.into(),
        "Origin field is required",
    )
    .await;
    refused(
        path,
        &|e| e["readings"][0]["value"] = "99999".into(),
        "does not match the Int16",
    )
    .await;
    refused(
        "/event/s/p/d/All",
        &|_| (),
        "event's deviceName c mismatches d",
    )
    .await;

    assert_eq!(data.get("/event/count").await["count"], 3);
    assert_eq!(data.get("/event/count/device/name/a%20b").await["count"], 2);
    assert_eq!(data.get("/reading/count").await["count"], 6);
    assert_eq!(data.get("/reading/count/device/name/c").await["count"], 2);
    assert_eq!(
        data.get("/event/all?limit=-1").await["events"][0]["id"],
        id(3)
    );
    let one = data.get(&format!("/event/id/{}", id(2))).await;
    assert_eq!(one["event"]["readings"][0]["value"], "-7");
    data.ask(get.clone(), "/event/id/none", Json::Null, 404)
        .await;
    assert_eq!(data.get("/event/device/name/c").await["totalCount"], 1);
    assert_eq!(data.get("/event/start/10/end/20").await["totalCount"], 2);
    let numbers = data.get("/event/all?numeric=true").await;
    assert_eq!(numbers["events"][1]["readings"][0]["value"], -7);
    for (path, count) in [
        ("/reading/all", 6),
        ("/reading/device/name/a%20b", 4),
        ("/reading/resourceName/T", 3),
        ("/reading/device/name/c/resourceName/T", 1),
        ("/reading/start/20/end/30", 4),
        ("/reading/resourceName/T/start/20/end/30", 2),
        ("/reading/device/name/a%20b/start/0/end/15", 2),
        (
            "/reading/device/name/a%20b/resourceName/T/start/0/end/99",
            2,
        ),
    ] {
        assert_eq!(data.get(path).await["totalCount"], count, "{path}");
        data.ask(get.clone(), &format!("{path}?limit=x"), Json::Null, 400)
            .await;
        data.ask(get.clone(), &format!("{path}?offset=99"), Json::Null, 416)
            .await;
    }
    let sum = data
        .get("/reading/device/name/a%20b?aggregateFunc=sum")
        .await;
    assert_eq!(sum["aggregateFunc"], "SUM");
    assert_eq!(sum["readings"][0]["value"], "");
    assert_eq!(sum["readings"][1]["value"], -2);
    data.ask(
        get.clone(),
        "/reading/all?aggregateFunc=median",
        Json::Null,
        400,
    )
    .await;

    // In CBOR, with bytes as bytes.
    let mut envelope = Vec::new();
    let raw = request(
        "event",
        json!({
            "apiVersion": "v3", "id": id(4), "deviceName": "c", "profileName": "p",
            "sourceName": "Raw", "origin": 40,
            "readings": [{
                "deviceName": "c", "profileName": "p", "resourceName": "Raw", "origin": 40,
                "valueType": "Binary", "binaryValue": "bytes", "mediaType": "a/b",
            }],
        }),
    );
    let mut cbor = ciborium::Value::serialized(&raw).unwrap();
    bytes_for_text(&mut cbor, "bytes", &[1, 2]);
    ciborium::into_writer(&cbor, &mut envelope).unwrap();
    let (code, answer) = host
        .http_with(
            EdgexService::CoreData,
            &post,
            "/event/s/p/c/Raw",
            envelope,
            "application/cbor",
        )
        .await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let read = data.get("/reading/device/name/c/resourceName/Raw").await;
    assert_eq!(read["readings"][0]["binaryValue"], "AQI=");

    let gone = format!("/event/id/{}", id(1));
    data.ask(delete.clone(), &gone, Json::Null, 200).await;
    data.ask(delete.clone(), &gone, Json::Null, 404).await;
    data.ask(delete.clone(), "/event/device/name/c", Json::Null, 202)
        .await;
    assert_eq!(data.get("/event/count").await["count"], 1);
    data.ask(delete.clone(), "/event/age/x", Json::Null, 400)
        .await;
    data.ask(delete.clone(), "/event/age/1000", Json::Null, 202)
        .await;
    assert_eq!(data.get("/event/count").await["count"], 0);
    if let Some(documents) = &documents {
        let left = documents.unasked(EdgexService::CoreData);
        assert!(left.is_empty(), "operations that were not asked: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_registrations_are_kept() {
    let host = host().await;
    let documents = documents();
    let mut bus = subscribe(&host.broker, "edgex/configs/#").await;
    let keeper = Client {
        host: &host,
        service: EdgexService::CoreKeeper,
        documents: documents.as_ref(),
    };
    let (get, post) = (Method::GET, Method::POST);
    let (put, delete) = (Method::PUT, Method::DELETE);
    for path in ["/ping", "/version", "/config"] {
        keeper.get(path).await;
    }
    let tree = json!({ "value": { "Writable": { "LogLevel": "INFO" }, "Port": 59999 } });
    let path = "/kvs/key/edgex/v4/my_svc";
    let answer = keeper
        .ask(put.clone(), &format!("{path}?flatten=true"), tree, 200)
        .await;
    assert_eq!(answer["response"].as_array().unwrap().len(), 2);
    let (topic, message) = tokio::time::timeout(DEADLINE, bus.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(topic, "edgex/configs/edgex/v4/my_svc");
    assert_eq!(message["payload"]["value"]["Port"], 59999);
    let level = format!("{path}/Writable/LogLevel");
    keeper
        .ask(put.clone(), &level, json!({ "value": "DEBUG" }), 200)
        .await;
    let plain = keeper.get(&format!("{path}?plaintext=true")).await;
    assert_eq!(plain["response"][0]["value"], "59999");
    assert_eq!(plain["response"][1]["value"], "DEBUG");
    assert_eq!(keeper.get(&level).await["response"][0]["value"], "REVCVUc=");
    let names = keeper.get(&format!("{path}?keyOnly=true")).await;
    assert_eq!(names["response"][0], "edgex/v4/my_svc/Port");
    keeper
        .ask(get.clone(), "/kvs/key/edgex/v4/my", Json::Null, 404)
        .await;
    keeper
        .ask(get.clone(), "/kvs/key/a%21", Json::Null, 400)
        .await;
    keeper.ask(put.clone(), path, json!({}), 400).await;
    keeper.ask(delete.clone(), path, Json::Null, 409).await;
    let all = format!("{path}?prefixMatch=true");
    keeper.ask(delete.clone(), &all, Json::Null, 200).await;
    keeper.ask(delete.clone(), &all, Json::Null, 404).await;

    // A service that answers is up, and is seen to be.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let well = tower::service_fn(|_: eyot_http::Request| async {
        Ok::<_, std::convert::Infallible>(eyot_http::text(StatusCode::OK, "pong"))
    });
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(eyot_http::serve(listener, None, well, stop.clone()));
    let registration = |status: &str| {
        json!({ "apiVersion": "v3", "registration": {
            "serviceId": "my_svc", "host": "127.0.0.1", "port": port, "status": status,
            "healthCheck": { "interval": "1s", "path": "/api/v3/ping", "type": "http" },
        }})
    };
    keeper
        .ask(put.clone(), "/registry", registration("UNKNOWN"), 404)
        .await;
    keeper
        .ask(post.clone(), "/registry", registration("UNKNOWN"), 201)
        .await;
    keeper
        .ask(post.clone(), "/registry", registration("UNKNOWN"), 409)
        .await;
    keeper
        .ask(
            post.clone(),
            "/registry",
            json!({ "apiVersion": "v3" }),
            400,
        )
        .await;
    let one = "/registry/serviceId/my_svc";
    let seen = |wanted: &'static str| {
        let keeper = &keeper;
        async move {
            let answer = keeper.get(one).await;
            (answer["registration"]["status"] == wanted).then_some(())
        }
    };
    until("the service is up", || seen("UP")).await;
    stop.cancel();
    until("the service is down", || seen("DOWN")).await;
    keeper
        .ask(put.clone(), "/registry", registration("HALT"), 204)
        .await;
    // The host's own is there without having registered, and is nobody else's to change.
    let all = keeper.get("/registry/all").await;
    assert_eq!(all["totalCount"], 1);
    assert_eq!(all["registrations"][0]["serviceId"], "core-data");
    assert_eq!(
        keeper.get("/registry/all?deregistered=true").await["totalCount"],
        2
    );
    let own = "/registry/serviceId/core-data";
    let found = keeper.get(own).await;
    assert_eq!(
        (
            &found["registration"]["status"],
            &found["registration"]["port"]
        ),
        (&json!("UP"), &json!(59880))
    );
    let mut theirs = registration("UP");
    theirs["registration"]["serviceId"] = json!("core-data");
    for method in [&post, &put] {
        keeper
            .ask(method.clone(), "/registry", theirs.clone(), 409)
            .await;
    }
    keeper.ask(delete.clone(), own, Json::Null, 409).await;
    keeper.ask(delete.clone(), one, Json::Null, 204).await;
    keeper.ask(delete.clone(), one, Json::Null, 404).await;
    if let Some(documents) = &documents {
        let left = documents.unasked(EdgexService::CoreKeeper);
        assert!(left.is_empty(), "operations that were not asked: {left:?}");
    }
}

/// Put bytes where a text stands in for them.
fn bytes_for_text(value: &mut ciborium::Value, text: &str, bytes: &[u8]) {
    use ciborium::Value::{Array, Bytes, Map, Text};
    match value {
        Text(found) if found == text => *value = Bytes(bytes.to_vec()),
        Array(values) => values
            .iter_mut()
            .for_each(|value| bytes_for_text(value, text, bytes)),
        Map(fields) => fields
            .iter_mut()
            .for_each(|(_, value)| bytes_for_text(value, text, bytes)),
        _ => {}
    }
}
