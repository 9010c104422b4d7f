//! Services and slices in, rules out.

use serde_json::{Value, json};

use super::*;

fn facts() -> Facts {
    Facts {
        node: "here".to_owned(),
        zone: Some("north".to_owned()),
        pods: "10.244.0.0/24".parse().unwrap(),
    }
}

fn service(name: &str, spec: Value) -> Arc<Service> {
    let meta = json!({"namespace": "d", "name": name});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
}

/// Endpoints are written as `address[@node][!condition]`; conditions are `down` and `ending`.
fn slice(service: &str, port: u16, endpoints: &[&str]) -> Arc<EndpointSlice> {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|text| {
            let (text, condition) = text.split_once('!').unwrap_or((text, ""));
            let (address, node) = text.split_once('@').unwrap_or((text, ""));
            let conditions = match condition {
                "down" => json!({"ready": false, "serving": false, "terminating": false}),
                "ending" => json!({"ready": false, "serving": true, "terminating": true}),
                _ => json!({"ready": true}),
            };
            json!({"addresses": [address], "nodeName": node, "conditions": conditions})
        })
        .collect();
    let labels = json!({"kubernetes.io/service-name": service});
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": format!("{service}-1"), "labels": labels},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        }))
        .unwrap(),
    )
}

/// The plan as lines: elements, then chains.
#[track_caller]
fn check(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], expected: &[&str]) {
    let planned = plan(services, slices, &facts());
    let mut lines = Vec::new();
    for (map, elements) in &planned.rules.elements {
        for (key, value) in elements {
            lines.push(format!("{map} {key} {value}").trim_end().to_owned());
        }
    }
    for (chain, rules) in &planned.rules.chains {
        lines.extend(rules.iter().map(|rule| format!("{chain}: {rule}")));
    }
    let said = planned
        .complaints
        .iter()
        .map(|c| format!("! {}", c.message));
    lines.extend(said);
    assert_eq!(lines, expected);
}

#[test]
fn a_cluster_address_leads_to_the_ready_backends() {
    let web = service(
        "web",
        json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}),
    );
    check(
        &[web],
        &[slice(
            "web",
            8080,
            &[
                "10.244.0.2",
                "10.244.0.3!down",
                "10.244.0.4",
                "10.244.0.5!ending",
            ],
        )],
        &[
            "cluster-ips 10.96.0.7",
            "hairpin 10.244.0.2 . 10.244.0.2",
            "hairpin 10.244.0.4 . 10.244.0.4",
            "service-ips 10.96.0.7 . 6 . 80 goto c-d/web/6-80",
            "c-d/web/6-80: ip daddr 10.96.0.7 ip saddr != 10.244.0.0/24 jump masquerade-it",
            "c-d/web/6-80: meta l4proto 6 dnat ip to numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.0.4 . 8080 }",
        ],
    );
}

/// Endpoints with `node` and `zone` that they are meant for, if any; what is left of the first rule.
fn used(endpoints: &[(&str, Option<&str>, Option<&str>)]) -> Vec<String> {
    let web = service(
        "web",
        json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}),
    );
    let addresses: Vec<&str> = endpoints.iter().map(|(address, ..)| *address).collect();
    let mut slice = EndpointSlice::clone(&slice("web", 8080, &addresses));
    for (endpoint, (_, node, zone)) in slice.endpoints.iter_mut().flatten().zip(endpoints) {
        let named = |name: &Option<&str>| name.map(|name| json!([{"name": name}]));
        let hints = json!({"forNodes": named(node), "forZones": named(zone)});
        endpoint.hints = Some(serde_json::from_value(hints).unwrap());
    }
    let planned = plan(&[web], &[Arc::new(slice)], &facts());
    let pairs = planned.rules.elements["hairpin"].keys();
    pairs
        .filter_map(|pair| Some(pair.split_once(' ')?.0.to_owned()))
        .collect()
}

#[test]
fn near_backends_are_preferred_where_all_say_whom_they_are_near() {
    let (a, b, c) = ("10.244.0.2", "10.244.1.3", "10.244.2.4");
    let (here, there) = (Some("here"), Some("there"));
    let (north, south) = (Some("north"), Some("south"));
    assert_eq!(
        used(&[(a, here, north), (b, there, north), (c, there, south)]),
        [a]
    );
    assert_eq!(
        used(&[(a, there, north), (b, there, south), (c, there, north)]),
        [a, c]
    );
    assert_eq!(used(&[(a, None, north), (b, None, south)]), [a]);
    assert_eq!(
        used(&[(a, None, north), (b, None, None)]),
        [a, b],
        "one does not say"
    );
    assert_eq!(
        used(&[(a, there, south), (b, there, south)]),
        [a, b],
        "none is near"
    );
    let down = "10.244.1.3!down";
    assert_eq!(
        used(&[(a, there, south), (down, here, north)]),
        [a],
        "the near one is not ready"
    );
    assert_eq!(
        used(&[(a, here, north), (down, None, None)]),
        [a],
        "one that is not ready says nothing"
    );
}

#[test]
fn backends_that_end_serve_when_nothing_else_is_left() {
    let web = service(
        "web",
        json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}),
    );
    check(
        &[web],
        &[slice(
            "web",
            8080,
            &["10.244.0.3!down", "10.244.0.5!ending"],
        )],
        &[
            "cluster-ips 10.96.0.7",
            "hairpin 10.244.0.5 . 10.244.0.5",
            "service-ips 10.96.0.7 . 6 . 80 goto c-d/web/6-80",
            "c-d/web/6-80: ip daddr 10.96.0.7 ip saddr != 10.244.0.0/24 jump masquerade-it",
            "c-d/web/6-80: meta l4proto 6 dnat to 10.244.0.5:8080",
        ],
    );
}

#[test]
fn without_endpoints_every_front_refuses() {
    let web = service(
        "web",
        json!({
            "clusterIP": "10.96.0.7", "type": "NodePort", "externalIPs": ["192.0.2.9"],
            "ports": [{"port": 80, "nodePort": 30080}],
        }),
    );
    check(
        &[web],
        &[],
        &[
            "cluster-ips 10.96.0.7",
            "no-endpoint-nodeports 6 . 30080 goto refuse-it",
            "no-endpoints 10.96.0.7 . 6 . 80 goto refuse-it",
            "no-endpoints 192.0.2.9 . 6 . 80 goto refuse-it",
        ],
    );
}

#[test]
fn policy_local_keeps_the_outside_on_the_node_and_lets_the_inside_go_anywhere() {
    let spec = json!({
        "clusterIP": "10.96.0.7", "type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    let outside = |extra: &[&'static str]| {
        let mut lines = vec![
            "x-d/web/6-80: ip saddr 10.244.0.0/24 goto c-d/web/6-80",
            "x-d/web/6-80: fib saddr type local jump masquerade-it",
            "x-d/web/6-80: fib saddr type local goto c-d/web/6-80",
        ];
        lines.extend(extra);
        lines
    };
    let mut expected = vec![
        "cluster-ips 10.96.0.7",
        "hairpin 10.244.0.2 . 10.244.0.2",
        "hairpin 10.244.1.3 . 10.244.1.3",
        "service-ips 10.96.0.7 . 6 . 80 goto c-d/web/6-80",
        "service-nodeports 6 . 30080 goto x-d/web/6-80",
        "c-d/web/6-80: ip daddr 10.96.0.7 ip saddr != 10.244.0.0/24 jump masquerade-it",
        "c-d/web/6-80: meta l4proto 6 dnat ip to numgen random mod 2 map { 0 : 10.244.0.2 . 80, 1 : 10.244.1.3 . 80 }",
        "l-d/web/6-80: meta l4proto 6 dnat to 10.244.0.2:80",
    ];
    expected.extend(outside(&["x-d/web/6-80: goto l-d/web/6-80"]));
    check(
        &[service("web", spec.clone())],
        &[slice("web", 80, &["10.244.0.2@here", "10.244.1.3@there"])],
        &expected,
    );
    let mut expected = vec![
        "cluster-ips 10.96.0.7",
        "hairpin 10.244.1.3 . 10.244.1.3",
        "no-endpoint-nodeports 6 . 30080 goto drop-it",
        "service-ips 10.96.0.7 . 6 . 80 goto c-d/web/6-80",
        "service-nodeports 6 . 30080 goto x-d/web/6-80",
        "c-d/web/6-80: ip daddr 10.96.0.7 ip saddr != 10.244.0.0/24 jump masquerade-it",
        "c-d/web/6-80: meta l4proto 6 dnat to 10.244.1.3:80",
    ];
    expected.extend(outside(&[]));
    check(
        &[service("web", spec)],
        &[slice("web", 80, &["10.244.1.3@there"])],
        &expected,
    );
}

#[test]
fn internal_policy_local_has_only_backends_of_the_node() {
    let spec = json!({"clusterIP": "10.96.0.7", "internalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    check(
        &[service("web", spec.clone())],
        &[slice("web", 80, &["10.244.0.2@here", "10.244.1.3@there"])],
        &[
            "cluster-ips 10.96.0.7",
            "hairpin 10.244.0.2 . 10.244.0.2",
            "service-ips 10.96.0.7 . 6 . 80 goto l-d/web/6-80",
            "l-d/web/6-80: meta l4proto 6 dnat to 10.244.0.2:80",
        ],
    );
    check(
        &[service("web", spec)],
        &[slice("web", 80, &["10.244.1.3@there"])],
        &[
            "cluster-ips 10.96.0.7",
            "no-endpoints 10.96.0.7 . 6 . 80 goto drop-it",
        ],
    );
}

#[test]
fn with_affinity_each_backend_remembers_its_clients() {
    let web = service(
        "web",
        json!({
            "clusterIP": "10.96.0.7", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ports": [{"port": 53, "protocol": "UDP"}],
        }),
    );
    let planned = plan(
        &[web],
        &[slice("web", 53, &["10.244.0.2", "10.244.0.3"])],
        &facts(),
    );
    assert_eq!(
        planned.rules.chains["c-d/web/17-53"],
        [
            "ip daddr 10.96.0.7 ip saddr != 10.244.0.0/24 jump masquerade-it",
            "ip saddr @a-60-10.244.0.2-53-d/web/17-53 goto e-60-10.244.0.2-53-d/web/17-53",
            "ip saddr @a-60-10.244.0.3-53-d/web/17-53 goto e-60-10.244.0.3-53-d/web/17-53",
            "numgen random mod 2 vmap { 0 : goto e-60-10.244.0.2-53-d/web/17-53, 1 : goto e-60-10.244.0.3-53-d/web/17-53 }",
        ]
    );
    assert_eq!(planned.rules.sets.len(), 2);
    let front = (Ipv4Addr::new(10, 96, 0, 7), 53);
    assert_eq!(planned.udp.addresses[&front].len(), 2);
}

#[test]
fn a_balancers_address_is_held_to_its_source_ranges() {
    let mut web = service(
        "web",
        json!({
            "clusterIP": "10.96.0.7", "type": "LoadBalancer", "ports": [{"port": 80}],
            "loadBalancerSourceRanges": ["10.1.2.3/8", "10.9.0.0/16", "192.0.2.0/24", "nonsense"],
        }),
    );
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}]}});
    Arc::make_mut(&mut web).status = serde_json::from_value(status).unwrap();
    let planned = plan(&[web], &[slice("web", 80, &["10.244.0.2"])], &facts());
    let ips = &planned.rules.elements["service-ips"];
    assert_eq!(ips["192.0.2.1 . 6 . 80"], "goto f-d/web/6-80");
    assert_eq!(ips.len(), 2, "the proxy's address is its own");
    assert_eq!(
        planned.rules.chains["f-d/web/6-80"],
        [
            "ip saddr != { 10.0.0.0/8, 192.0.2.0/24 } drop",
            "goto x-d/web/6-80"
        ]
    );
}

#[test]
fn what_two_services_ask_for_goes_to_the_one_that_was_first() {
    let spec = |ip: &str| {
        json!({
            "clusterIP": ip, "externalIPs": ["192.0.2.9"], "type": "NodePort",
            "ports": [{"port": 80, "nodePort": 30080}],
        })
    };
    let mut first = service("z-first", spec("10.96.0.7"));
    let mut second = service("a-second", spec("10.96.0.8"));
    let at = |text: &str| serde_json::from_value(json!(text)).unwrap();
    Arc::make_mut(&mut first).metadata.creation_timestamp = at("2026-01-01T00:00:00Z");
    Arc::make_mut(&mut second).metadata.creation_timestamp = at("2026-01-02T00:00:00Z");
    let slices = [
        slice("z-first", 80, &["10.244.0.2"]),
        slice("a-second", 80, &["10.244.0.3"]),
    ];
    let planned = plan(&[second, first], &slices, &facts());
    let ips = &planned.rules.elements["service-ips"];
    assert_eq!(ips["192.0.2.9 . 6 . 80"], "goto x-d/z-first/6-80");
    assert_eq!(ips.len(), 3);
    let said: Vec<&str> = planned
        .complaints
        .iter()
        .map(|c| c.message.as_str())
        .collect();
    assert_eq!(
        said,
        [
            "address 192.0.2.9 with port 80 belongs to service d/z-first already: not balanced",
            "node port 30080 belongs to service d/z-first already: not balanced",
        ]
    );
}

#[test]
fn what_makes_no_sense_is_left_out() {
    let many = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "externalIPs": ["x", "fd00::1"],
        "ports": [{"port": 80, "protocol": "QUIC"}, {"port": 70_000, "name": "far"}, {"port": 81, "name": "ok"}]});
    let mut odd = slice(
        "web",
        80,
        &[
            "fd00::2",
            "300.1.1.1",
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "10.244.0.2",
        ],
    );
    Arc::make_mut(&mut odd).ports = serde_json::from_value(json!([
        {"name": "ok", "port": 0}, {"name": "ok", "port": 70_000}, {"name": "ok"}, {"name": "ok", "port": 81}
    ]))
    .unwrap();
    check(
        &[
            service("web", many),
            service(
                "headless",
                json!({"clusterIP": "None", "ports": [{"port": 1}]}),
            ),
            service(
                "named",
                json!({"type": "ExternalName", "externalName": "example.org"}),
            ),
            service("empty", json!({})),
        ],
        &[odd],
        &[
            "cluster-ips 10.96.0.7",
            "hairpin 10.244.0.2 . 10.244.0.2",
            "service-ips 10.96.0.7 . 6 . 81 goto c-d/web/6-81",
            "c-d/web/6-81: ip daddr 10.96.0.7 ip saddr != 10.244.0.0/24 jump masquerade-it",
            "c-d/web/6-81: meta l4proto 6 dnat to 10.244.0.2:81",
        ],
    );
}

#[test]
fn long_names_stay_short_and_different() {
    let name = |end: char| format!("{}{end}", "n".repeat(62));
    let (one, other) = (
        id(&"s".repeat(63), &name('a'), Protocol::Tcp, 80),
        id(&"s".repeat(63), &name('b'), Protocol::Tcp, 80),
    );
    assert!(one.len() <= MAX_NAME && other.len() <= MAX_NAME);
    assert_ne!(one, other);
}
