//! The REST API of device services.

use http::Method;
use serde_json::{Value as Json, json};

use super::{
    super::host::{DEVICE_SERVICES, host, until},
    Client,
    schema::documents,
};
use crate::EdgexService;

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
