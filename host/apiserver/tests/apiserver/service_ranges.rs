//! Ranges of service addresses that users add, and the objects that show who has which address.

use eyot_apiserver::{ApiServer, Options, ServiceRanges};
use eyot_store::{Key, Store};
use serde_json::{Value, json};

use crate::{get, ok, send, server, server_with};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const NETWORKING: &str = "/apis/networking.k8s.io/v1";

fn service(name: &str, address: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], "clusterIP": address},
    })
}

fn address_of(service: &Value) -> &str {
    service["spec"]["clusterIP"].as_str().unwrap()
}

async fn record(server: &ApiServer, address: &str) -> (u16, Value) {
    get(server, &format!("{NETWORKING}/ipaddresses/{address}")).await
}

#[tokio::test]
async fn an_address_is_shown_for_as_long_as_a_service_has_it() {
    let server = server().await;
    let made = ok(&server, "POST", SERVICES, service("a", None)).await;
    let address = address_of(&made);
    let (code, shown) = record(&server, address).await;
    assert_eq!(code, 200, "{shown}");
    assert_eq!(
        shown["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "a"})
    );
    assert_eq!(
        shown["metadata"]["labels"],
        json!({
            "ipaddress.kubernetes.io/ip-family": "IPv4",
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
        })
    );
    // The API's own.
    assert_eq!(record(&server, "10.96.0.1").await.0, 200);
    // Taken away by hand, it is made again.
    let path = format!("{NETWORKING}/ipaddresses/{address}");
    ok(&server, "DELETE", &path, Value::Null).await;
    let (code, again) = record(&server, address).await;
    assert_eq!(code, 200);
    assert_ne!(again["metadata"]["uid"], shown["metadata"]["uid"]);
    let patch = json!({"spec": {"type": "ExternalName", "externalName": "x.test"}});
    let path = format!("{SERVICES}/a");
    let now = ok(&server, "PATCH", &path, patch).await;
    assert!(now["spec"]["clusterIP"].is_null());
    assert_eq!(record(&server, address).await.0, 404);
    let made = ok(&server, "POST", SERVICES, service("b", Some("10.96.0.77"))).await;
    assert_eq!(record(&server, address_of(&made)).await.0, 200);
    ok(&server, "DELETE", &format!("{SERVICES}/b"), Value::Null).await;
    assert_eq!(record(&server, "10.96.0.77").await.0, 404);
    // A trial shows nothing.
    let trial = format!("{SERVICES}?dryRun=All");
    ok(&server, "POST", &trial, service("c", Some("10.96.0.78"))).await;
    assert_eq!(record(&server, "10.96.0.78").await.0, 404);
}

#[tokio::test]
async fn an_address_that_somebody_keeps_is_not_given_out() {
    let server = server().await;
    let kept = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": "10.96.0.9"},
        "spec": {"parentRef": {"resource": "others", "name": "mine"}},
    });
    let path = format!("{NETWORKING}/ipaddresses");
    ok(&server, "POST", &path, kept).await;
    let asked = service("a", Some("10.96.0.9"));
    let (code, answer) = send(&server, "POST", SERVICES, asked.clone()).await;
    assert_eq!(code, 422);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .ends_with("failed to allocate IP 10.96.0.9: provided IP is already allocated"),
        "{answer}"
    );
    let path = format!("{path}/10.96.0.9");
    ok(&server, "DELETE", &path, Value::Null).await;
    ok(&server, "POST", SERVICES, asked).await;
}

#[tokio::test]
async fn an_added_range_is_used_while_it_is_ready() {
    let ports = ServiceRanges::NODE_PORTS;
    // Two addresses, one of which is the API's own.
    let server = server_with(Options {
        services: ServiceRanges::parse("10.0.0.0/30", ports).unwrap(),
        ..Options::default()
    })
    .await;
    ok(&server, "POST", SERVICES, service("a", None)).await;
    let (code, full) = send(&server, "POST", SERVICES, service("b", None)).await;
    assert_eq!(code, 500);
    assert!(full["message"].as_str().unwrap().ends_with("range is full"));
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": ["10.1.0.0/29"]},
    });
    let ranges = format!("{NETWORKING}/servicecidrs");
    ok(&server, "POST", &ranges, range).await;
    let made = ok(&server, "POST", SERVICES, service("b", None)).await;
    assert!(address_of(&made).starts_with("10.1.0."), "{made}");
    let closed = json!({"status": {"conditions": [{
        "type": "Ready", "status": "False", "reason": "Terminating", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    let status = format!("{ranges}/more/status");
    ok(&server, "PATCH", &status, closed).await;
    let (code, _) = send(&server, "POST", SERVICES, service("c", None)).await;
    assert_eq!(code, 500);
    let asked = service("c", Some("10.1.0.6"));
    let (code, answer) = send(&server, "POST", SERVICES, asked).await;
    assert_eq!(code, 422);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("the provided network does not match the current range"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_range_of_no_address_gives_none() {
    let server = server_with(Options {
        services: ServiceRanges::parse("10.0.0.0/30", ServiceRanges::NODE_PORTS).unwrap(),
        ..Options::default()
    })
    .await;
    ok(&server, "POST", SERVICES, service("a", None)).await;
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "tiny"}, "spec": {"cidrs": ["10.1.0.0/32"]},
    });
    ok(
        &server,
        "POST",
        &format!("{NETWORKING}/servicecidrs"),
        range,
    )
    .await;
    let (code, _) = send(&server, "POST", SERVICES, service("b", None)).await;
    assert_eq!(code, 500);
}

#[tokio::test]
async fn a_start_mends_what_a_stop_left() {
    let store = Store::in_memory(eyot_apiserver::extract);
    let open = async || ApiServer::new(store.clone(), Options::default()).await;
    let server = open().await.unwrap();
    ok(&server, "POST", SERVICES, service("a", Some("10.96.0.7"))).await;
    ok(&server, "POST", SERVICES, service("b", Some("10.96.0.8"))).await;
    let lost = Key::new("ipaddresses.networking.k8s.io", "", "10.96.0.7");
    store.delete(&lost, None).await.unwrap();
    let gone = Key::new("services", "default", "b");
    store.delete(&gone, None).await.unwrap();
    assert_eq!(record(&server, "10.96.0.8").await.0, 200);
    let again = open().await.unwrap();
    assert_eq!(record(&again, "10.96.0.7").await.0, 200);
    assert_eq!(record(&again, "10.96.0.8").await.0, 404);
}
