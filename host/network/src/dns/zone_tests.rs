//! A small cluster, and what is asked about it.

use serde_json::{Value, json};

use super::*;

fn zone() -> Zone {
    let service = |name: &str, spec: Value| -> Arc<Service> {
        let meta = json!({"namespace": "d", "name": name});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
    };
    let slice = |service: &str, ports: Value, endpoints: Value| -> Arc<EndpointSlice> {
        let meta = json!({
            "namespace": "d", "name": format!("{service}-1"),
            "labels": {"kubernetes.io/service-name": service},
        });
        Arc::new(
            serde_json::from_value(json!({
                "metadata": meta, "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
            }))
            .unwrap(),
        )
    };
    let port =
        json!([{"name": "http", "port": 80}, {"name": "stats", "port": 81, "protocol": "UDP"}]);
    let services = [
        service(
            "web",
            json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": port}),
        ),
        service(
            "db",
            json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
        ),
        service("empty", json!({"clusterIP": "None"})),
        service(
            "away",
            json!({"type": "ExternalName", "externalName": "Example.org"}),
        ),
    ];
    let slices = [
        slice(
            "web",
            json!([{"name": "http", "port": 8080}]),
            json!([{"addresses": ["10.244.0.2"]}]),
        ),
        slice(
            "db",
            json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]),
            json!([
                {"addresses": ["10.244.0.3"], "hostname": "db-0"},
                {"addresses": ["10.244.0.4"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.5"], "hostname": "db-2", "conditions": {"ready": false}},
            ]),
        ),
    ];
    let namespace = json!({"metadata": {"name": "d"}});
    let namespaces = [Arc::new(
        serde_json::from_value::<Namespace>(namespace).unwrap(),
    )];
    Zone::new(&services, &slices, &namespaces, "10.96.0.10".parse().ok())
}

/// What a name's answer is, as words.
#[track_caller]
fn check(name: &str, kind: Kind, expected: &str) {
    let told = match zone().answer(name, kind) {
        Answer::NoName => "no name".to_owned(),
        Answer::Empty => "empty".to_owned(),
        Answer::NotOurs => "not ours".to_owned(),
        Answer::Records(records, further) => {
            let records = records.iter().map(|record| match record {
                Content::Address(address) => address.to_string(),
                Content::Service(port, target) => format!("{port} {target}"),
                Content::Name(name) | Content::Alias(name) | Content::Server(name) => name.clone(),
                Content::Text(text) => text.clone(),
                Content::Start => "start".to_owned(),
            });
            let further = further
                .iter()
                .map(|(name, address)| format!("+{name} {address}"));
            records.chain(further).collect::<Vec<_>>().join(", ")
        }
    };
    assert_eq!(told, expected, "{name} {kind:?}");
}

#[test]
fn services_have_their_addresses() {
    check("web.d.svc.cluster.local", Kind::V4, "10.96.0.7");
    check("web.d.svc.cluster.local", Kind::V6, "fd00::7");
    check("web.d.svc.cluster.local", Kind::Text, "empty");
    check("10-244-0-2.web.d.svc.cluster.local", Kind::V4, "10.244.0.2");
    check("web.other.svc.cluster.local", Kind::V4, "no name");
    check("none.d.svc.cluster.local", Kind::V4, "no name");
    check("away.d.svc.cluster.local", Kind::V4, "example.org.");
}

#[test]
fn headless_services_have_those_of_their_ready_endpoints() {
    check("db.d.svc.cluster.local", Kind::V4, "10.244.0.4, 10.244.0.3");
    check("db.d.svc.cluster.local", Kind::V6, "empty");
    check("db-0.db.d.svc.cluster.local", Kind::V4, "10.244.0.3");
    check("db-2.db.d.svc.cluster.local", Kind::V4, "no name");
    check("empty.d.svc.cluster.local", Kind::V4, "no name");
}

#[test]
fn named_ports_have_places() {
    check(
        "_http._tcp.web.d.svc.cluster.local",
        Kind::Service,
        "80 web.d.svc.cluster.local., +web.d.svc.cluster.local. 10.96.0.7, +web.d.svc.cluster.local. fd00::7",
    );
    check(
        "_sql._tcp.db.d.svc.cluster.local",
        Kind::Service,
        "5432 10-244-0-4.db.d.svc.cluster.local., 5432 db-0.db.d.svc.cluster.local., \
         +10-244-0-4.db.d.svc.cluster.local. 10.244.0.4, +db-0.db.d.svc.cluster.local. 10.244.0.3",
    );
    check(
        "_http._udp.web.d.svc.cluster.local",
        Kind::Service,
        "no name",
    );
    check("_http._tcp.web.d.svc.cluster.local", Kind::V4, "empty");
    check("_tcp.web.d.svc.cluster.local", Kind::V4, "empty");
    check("_stats._udp.web.d.svc.cluster.local", Kind::V4, "empty");
}

#[test]
fn pods_and_the_zone_itself_are_there() {
    check("1-2-3-4.d.pod.cluster.local", Kind::V4, "1.2.3.4");
    check("1-2-3-4.d.pod.cluster.local", Kind::V6, "empty");
    check("fd00--7.d.pod.cluster.local", Kind::V6, "fd00::7");
    check("1-2-3-4.none.pod.cluster.local", Kind::V4, "no name");
    check("1-2-3.d.pod.cluster.local", Kind::V4, "no name");
    check("cluster.local", Kind::Start, "start");
    check(
        "cluster.local",
        Kind::Server,
        "ns.dns.cluster.local., +ns.dns.cluster.local. 10.96.0.10",
    );
    check("ns.dns.cluster.local", Kind::V4, "10.96.0.10");
    check("dns-version.cluster.local", Kind::Text, "1.1.0");
    check("svc.cluster.local", Kind::V4, "empty");
    check("d.svc.cluster.local", Kind::V4, "empty");
    check("none.svc.cluster.local", Kind::V4, "no name");
    check("x.cluster.local", Kind::V4, "no name");
    check("mycluster.local", Kind::V4, "not ours");
    check("example.org", Kind::V4, "not ours");
    check("", Kind::V4, "not ours");
    check("a.b.c.web.d.svc.cluster.local", Kind::V4, "no name");
}

#[test]
fn addresses_have_names() {
    check(
        "7.0.96.10.in-addr.arpa",
        Kind::Pointer,
        "web.d.svc.cluster.local.",
    );
    check(
        "3.0.244.10.in-addr.arpa",
        Kind::Pointer,
        "db-0.db.d.svc.cluster.local.",
    );
    check("3.0.244.10.in-addr.arpa", Kind::V4, "empty");
    check("9.9.9.9.in-addr.arpa", Kind::Pointer, "not ours");
    let v6 = format!("7{}.0.0.d.f.ip6.arpa", ".0".repeat(27));
    check(&v6, Kind::Pointer, "web.d.svc.cluster.local.");
    check("1.2.ip6.arpa", Kind::Pointer, "not ours");
}
