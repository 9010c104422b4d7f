//! Readings that are bytes, as core-command and the device services answer them.

use eyot_api::{Device, DeviceProfile};
use eyot_runtime::reading::Value;
use http::{Request, StatusCode};
use kube::{Api, api::PostParams};
use serde_json::json;
use tower::ServiceExt;

use super::super::host::{Host, host, until};
use crate::EdgexService;

/// Not UTF-8, so that no detour over a text leaves it as it is.
const PICTURE: &[u8] = &[0xff, 0xd8, 0xff, 0x00, 0x80];

async fn camera(host: &Host) {
    let profile = DeviceProfile::from_edgex_yaml(
        r"
name: camera
deviceResources:
- name: Picture
  properties: { valueType: Binary, readWrite: R, mediaType: image/jpeg }
- name: Zoom
  properties: { valueType: Uint8, readWrite: R }
deviceCommands:
- name: Both
  readWrite: R
  resourceOperations: [ { deviceResource: Zoom }, { deviceResource: Picture } ]
",
    )
    .unwrap();
    let profiles: Api<DeviceProfile> = Api::default_namespaced(host.client.clone());
    profiles
        .create(&PostParams::default(), &profile)
        .await
        .unwrap();
    let picture = Value::Binary {
        data: PICTURE.to_vec(),
        media_type: "image/jpeg".into(),
    };
    host.site.set("gate", "Picture", picture);
    host.site.set("gate", "Zoom", Value::Uint8(3));
    let spec = json!({
        "serviceName": "modbus", "profileName": "camera",
        "protocols": { "modbus-tcp": { "Address": "10.0.0.7", "Port": "502" } },
    });
    let device = Device::new("gate", serde_json::from_value(spec).unwrap());
    let devices: Api<Device> = Api::default_namespaced(host.client.clone());
    devices
        .create(&PostParams::default(), &device)
        .await
        .unwrap();
}

/// The status, media type and body of an answer.
async fn get(host: &Host, service: EdgexService, path: &str) -> (StatusCode, String, Vec<u8>) {
    let request = Request::get(path).body(eyot_http::empty()).unwrap();
    let service = host.devices.service_of(service);
    let response = service.oneshot(request).await.unwrap();
    let media_type = response.headers()["content-type"].to_str().unwrap().into();
    let status = response.status();
    let body = eyot_http::collect(response.into_body(), 1 << 20).await;
    (status, media_type, body.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_bytes_is_answered_in_cbor_and_any_other_in_json() {
    let host = host().await;
    camera(&host).await;
    let shared = &host;
    until("the camera is served", || async move {
        let path = "/api/v3/device/name/gate/Zoom";
        let (status, media_type, _) = get(shared, EdgexService::CoreCommand, path).await;
        (status == StatusCode::OK).then(|| assert_eq!(media_type, "application/json"))
    })
    .await;
    for (service, path) in [
        (EdgexService::CoreCommand, "/api/v3/device/name/gate/Both"),
        (
            EdgexService::DeviceServices,
            "/modbus/api/v3/device/name/gate/Both",
        ),
    ] {
        let (status, media_type, body) = get(&host, service, path).await;
        assert_eq!((status, &*media_type), (StatusCode::OK, "application/cbor"));
        let answer: ciborium::Value = ciborium::from_reader(&*body).unwrap();
        let field = |of: &ciborium::Value, name: &str| {
            let fields = of.as_map().unwrap().iter();
            let found = fields.clone().find(|(key, _)| key.as_text() == Some(name));
            found.unwrap_or_else(|| panic!("no {name}")).1.clone()
        };
        assert_eq!(field(&answer, "statusCode"), 200.into());
        let event = field(&answer, "event");
        assert!(field(&event, "origin").as_integer().is_some());
        let readings = field(&event, "readings").into_array().unwrap();
        assert_eq!(field(&readings[0], "value").as_text(), Some("3"));
        let bytes = field(&readings[1], "binaryValue").into_bytes().unwrap();
        assert_eq!(bytes, PICTURE);
        let media_type = field(&readings[1], "mediaType");
        assert_eq!(media_type.as_text(), Some("image/jpeg"));
    }
}
