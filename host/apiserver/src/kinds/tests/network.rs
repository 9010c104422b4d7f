//! Ingress, NetworkPolicy, EndpointSlice, Endpoints, ServiceCIDR, IPAddress.

use serde_json::{Value, json};

use super::{create, rejects, update};

fn ingress(path: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
           "spec": {"rules": [{"host": "a.test", "http": {"paths": [path]}}]}})
}

#[test]
fn an_ingress_names_paths_and_backends() {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let path = |kind: &str, path: &str| json!({"pathType": kind, "path": path, "backend": backend});
    let at = "spec.rules[0].http.paths[0]";
    rejects(ingress(path("Exact", "/ok")), &[]);
    rejects(
        ingress(path("Prefix", "a//b/..")),
        &[
            &format!("{at}.path: Invalid value: \"a//b/..\": must be an absolute path"),
            &format!("{at}.path: Invalid value: \"a//b/..\": must not contain '//'"),
            &format!("{at}.path: Invalid value: \"a//b/..\": cannot end with '/..'"),
        ],
    );
    rejects(
        ingress(path("Regex", "/")),
        &[&format!(
            "{at}.pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \
             \"ImplementationSpecific\", \"Prefix\""
        )],
    );
    rejects(
        ingress(json!({"path": "/", "backend": backend})),
        &[&format!(
            "{at}.pathType: Required value: pathType must be specified"
        )],
    );
    rejects(
        ingress(json!({"pathType": "Prefix", "path": "/", "backend": {}})),
        &[&format!(
            "{at}.backend: Invalid value: \"\": resource or service backend is required"
        )],
    );
    rejects(
        ingress(json!({"pathType": "Prefix", "path": "/",
            "backend": {"service": {"port": {"name": "http", "number": 80}}}})),
        &[
            &format!("{at}.backend.service.name: Required value"),
            &format!("{at}.backend: Invalid value: \"\": cannot set both port name & port number"),
        ],
    );
    let mut hosted = ingress(path("Prefix", "/"));
    hosted["spec"]["rules"][0]["host"] = json!("10.0.0.1");
    rejects(
        hosted,
        &["spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"],
    );
    let mut classes = ingress(path("Prefix", "/"));
    classes["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "a"});
    classes["spec"]["ingressClassName"] = json!("b");
    rejects(
        classes,
        &[
            "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match \
           `ingressClassName` when both are specified",
        ],
    );
}

#[test]
fn a_network_policy_selects_peers_and_ports() {
    let policy = |ingress: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"name": "p"}, "spec": {"ingress": [ingress]}})
    };
    let made = create(&policy(json!({"ports": [{"port": 80}]}))).unwrap();
    assert_eq!(made["spec"]["ingress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(made["spec"]["policyTypes"], json!(["Ingress"]));
    let at = "spec.ingress[0]";
    rejects(
        policy(json!({"from": [{}]})),
        &[&format!(
            "{at}.from[0]: Required value: must specify a peer"
        )],
    );
    rejects(
        policy(
            json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8",
            "except": ["10.0.0.0/8", "11.0.0.0/16"]}}]}),
        ),
        &[
            &format!(
                "{at}.from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict \
                 subset of `cidr`"
            ),
            &format!(
                "{at}.from[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict \
                 subset of `cidr`"
            ),
            &format!("{at}.from[0]: Forbidden: may not specify both ipBlock and another peer"),
        ],
    );
    rejects(
        policy(
            json!({"ports": [{"port": 80, "endPort": 79}, {"port": "http", "endPort": 80},
            {"endPort": 80}, {"protocol": "ICMP", "port": 0}]}),
        ),
        &[
            &format!(
                "{at}.ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`"
            ),
            &format!(
                "{at}.ports[1].endPort: Invalid value: 80: may not be specified when `port` is non-numeric"
            ),
            &format!(
                "{at}.ports[2].endPort: Invalid value: 80: may not be specified when `port` is not specified"
            ),
            &format!(
                "{at}.ports[3].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\""
            ),
            &format!(
                "{at}.ports[3].port: Invalid value: 0: must be between 1 and 65535, inclusive"
            ),
        ],
    );
}

fn slice(kind: &str, address: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"},
           "addressType": kind, "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]})
}

#[test]
fn an_endpoint_slice_holds_addresses_of_its_type() {
    rejects(slice("IPv4", "10.1.2.3"), &[]);
    rejects(slice("FQDN", "a.example.com."), &[]);
    let at = "endpoints[0].addresses[0]";
    rejects(
        slice("IPv4", "fd00::1"),
        &[&format!(
            "{at}: Invalid value: \"fd00::1\": must be an IPv4 address"
        )],
    );
    rejects(
        slice("IPv4", "127.0.0.1"),
        &[&format!(
            "{at}: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
             ::1/128)"
        )],
    );
    rejects(
        slice("FQDN", "localhost"),
        &[&format!(
            "{at}: Invalid value: \"localhost\": should be a domain with at least two segments \
             separated by dots"
        )],
    );
    rejects(
        slice("X", "a"),
        &["addressType: Unsupported value: \"X\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
    );
    let changed = update(slice("IPv4", "10.1.2.3"), |slice| {
        slice["addressType"] = json!("FQDN");
        slice["endpoints"] = json!(null);
    });
    assert_eq!(
        changed,
        ["addressType: Invalid value: \"FQDN\": field is immutable"]
    );
}

#[test]
fn endpoints_are_packed_by_the_ports_they_share() {
    let made = create(&json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"},
        "subsets": [
            {"addresses": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.1"}], "ports": [{"name": "a", "port": 1}]},
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"name": "b", "port": 2}]},
        ]}))
    .unwrap();
    assert_eq!(
        made["subsets"],
        json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [
            {"name": "a", "port": 1, "protocol": "TCP"}, {"name": "b", "port": 2, "protocol": "TCP"}]}])
    );
    rejects(
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"},
            "subsets": [{"addresses": [{"ip": "0.0.0.0"}], "ports": [{"port": 0}, {"name": "b", "port": 2}]}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
            "subsets[0].ports[0].name: Required value",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
}

#[test]
fn service_ranges_and_their_addresses_hardly_change() {
    let range = |cidrs: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
               "metadata": {"name": "r"}, "spec": {"cidrs": cidrs}})
    };
    rejects(
        range(json!([])),
        &["spec.cidrs: Required value: at least one CIDR required"],
    );
    rejects(
        range(json!(["10.0.0.0/8", "11.0.0.0/8"])),
        &[
            "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"11.0.0.0/8\"]: may specify no more than \
           one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ],
    );
    let joined = update(range(json!(["10.0.0.0/8"])), |range| {
        range["spec"]["cidrs"] = json!(["10.0.0.0/8", "fd00::/64"]);
    });
    assert!(joined.is_empty(), "{joined:?}");
    let moved = update(range(json!(["10.0.0.0/8"])), |range| {
        range["spec"]["cidrs"] = json!(["11.0.0.0/8"]);
    });
    assert_eq!(
        moved,
        ["spec.cidrs[0]: Invalid value: \"11.0.0.0/8\": field is immutable"]
    );
    let address = |name: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": name},
               "spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "n"}}})
    };
    rejects(address("10.0.0.1"), &[]);
    rejects(
        address("10.0.0"),
        &[
            "metadata.name: Invalid value: \"10.0.0\": must be a valid IP address, (e.g. 10.9.8.7 or \
           2001:db8::ffff)",
        ],
    );
    let moved = update(address("10.0.0.1"), |address| {
        address["spec"]["parentRef"]["name"] = json!("t");
    });
    assert_eq!(
        moved,
        [
            "spec.parentRef: Invalid value: {\"Group\":\"\",\"Resource\":\"services\",\
          \"Namespace\":\"n\",\"Name\":\"t\"}: field is immutable"
        ]
    );
}
