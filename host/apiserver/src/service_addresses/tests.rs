use eyot_store::Key;

use super::*;
use crate::kinds;

fn ranges(text: &str, ports: RangeInclusive<u16>) -> ServiceRanges {
    ServiceRanges::parse(text, ports).unwrap()
}

fn resource() -> Resource {
    let spec = kinds::all().iter().find(|spec| spec.kind == "Service");
    Resource::builtin(spec.unwrap())
}

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "d"}, "spec": spec});
    resource().default(&mut service);
    service
}

fn message(failure: &Failure) -> String {
    failure.status()["message"].as_str().unwrap().to_owned()
}

struct Setup {
    store: Store,
    addresses: ServiceAddresses,
}

impl Setup {
    fn new(text: &str, ports: RangeInclusive<u16>) -> Setup {
        let store = Store::in_memory(crate::extract);
        let addresses = ServiceAddresses::new(&store, ranges(text, ports));
        Setup { store, addresses }
    }

    fn try_complete(&self, service: &mut Value, old: Option<&Value>) -> Result<(), String> {
        let done = self.addresses.complete(&resource(), service, old, false);
        done.map(drop).map_err(|failure| message(&failure))
    }

    async fn create(&self, name: &str, spec: Value) -> Result<Value, String> {
        let mut service = service(name, spec);
        let kept = self
            .addresses
            .complete(&resource(), &mut service, None, false)
            .map_err(|failure| message(&failure))?;
        let key = Key::new("services", "d", name);
        self.store.create(key, service.clone()).await.unwrap();
        drop(kept);
        Ok(service)
    }

    async fn delete(&self, name: &str) {
        let key = Key::new("services", "d", name);
        self.store.delete(&key, None).await.unwrap();
    }
}

#[test]
fn ranges_are_checked_when_they_are_read() {
    let check = |text: &str, expected: Option<ServiceRangeError>| {
        let found = ServiceRanges::parse(text, 1..=2).err();
        assert_eq!(found, expected, "{text}");
    };
    check("10.0.0.0/16", None);
    check("10.0.0.0/16, fd00::/108", None);
    check(
        "10.0.0.0",
        Some(ServiceRangeError::NoRange("10.0.0.0".into())),
    );
    check(
        "10.0.0.1/16",
        Some(ServiceRangeError::NotFirst("10.0.0.1/16".into())),
    );
    check(
        "10.0.0.0/31",
        Some(ServiceRangeError::TooSmall("10.0.0.0/31".into())),
    );
    check("10.0.0.0/16,10.1.0.0/16", Some(ServiceRangeError::Families));
    assert_eq!(
        ServiceRanges::parse("10.0.0.0/16", 0..=2),
        Err(ServiceRangeError::Ports)
    );
}

#[tokio::test]
async fn every_service_has_its_own_address_until_none_is_left() {
    let setup = Setup::new("10.0.0.0/29", 30_000..=30_003);
    let mut seen = HashSet::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let made = setup.create(name, json!({})).await.unwrap();
        let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
        assert_eq!(made["spec"]["clusterIPs"], json!([address]));
        assert!(seen.insert(address));
    }
    assert!(!seen.contains("10.0.0.0") && !seen.contains("10.0.0.7"));
    let full = setup.create("g", json!({})).await.unwrap_err();
    assert!(
        full.contains("failed to allocate a serviceIP: range is full"),
        "{full}"
    );
    setup.delete("c").await;
    setup.create("g", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_service_may_ask_for_an_address_that_is_free() {
    let setup = Setup::new("10.0.0.0/24", 30_000..=30_003);
    let asks = |address: &str| json!({"clusterIP": address});
    setup.create("a", asks("10.0.0.9")).await.unwrap();
    for (address, why) in [
        ("10.0.0.9", "provided IP is already allocated"),
        (
            "10.1.0.9",
            "the provided network does not match the current range",
        ),
        (
            "10.0.0.255",
            "the provided IP (10.0.0.255) is not in the valid range. The range of valid IPs is \
             10.0.0.0/24",
        ),
    ] {
        let refused = setup.create("b", asks(address)).await.unwrap_err();
        assert_eq!(
            refused,
            format!(
                "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{address}\"]: failed \
                 to allocate IP {address}: {why}"
            )
        );
    }
}

#[tokio::test]
async fn what_is_reserved_is_given_back() {
    let setup = Setup::new("10.0.0.0/24", 30_000..=30_001);
    let mut one = service("a", json!({"clusterIP": "10.0.0.9"}));
    let kept = setup
        .addresses
        .complete(&resource(), &mut one, None, false)
        .unwrap();
    let mut two = service("b", json!({"clusterIP": "10.0.0.9"}));
    assert!(setup.try_complete(&mut two, None).is_err());
    drop(kept);
    let mut two = service("b", json!({"clusterIP": "10.0.0.9"}));
    assert_eq!(setup.try_complete(&mut two, None), Ok(()));
    // A trial run takes nothing.
    let mut trial = service("c", json!({"type": "NodePort", "ports": [{"port": 1}]}));
    let kept = setup
        .addresses
        .complete(&resource(), &mut trial, None, true)
        .unwrap();
    assert!(kept.is_none());
    assert_eq!(trial["spec"]["clusterIP"], "10.0.0.0");
    assert_eq!(trial["spec"]["ports"][0]["nodePort"], 32_769);
}

#[tokio::test]
async fn many_at_once_get_different_addresses() {
    let setup = Arc::new(Setup::new("10.0.0.0/24", 30_000..=30_003));
    let tasks = (0..100).map(|number| {
        let setup = setup.clone();
        tokio::spawn(async move {
            setup
                .create(&format!("s{number}"), json!({}))
                .await
                .unwrap()
        })
    });
    let mut seen = HashSet::new();
    for task in tasks.collect::<Vec<_>>() {
        let made = task.await.unwrap();
        assert!(seen.insert(made["spec"]["clusterIP"].as_str().unwrap().to_owned()));
    }
}

#[tokio::test]
async fn node_ports_are_given_and_asked_for() {
    let setup = Setup::new("10.0.0.0/24", 30_000..=30_002);
    let ports = |ports: Value| json!({"type": "NodePort", "ports": ports});
    let both = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let made = setup.create("dns", ports(both)).await.unwrap();
    assert_eq!(
        made["spec"]["ports"][0]["nodePort"],
        made["spec"]["ports"][1]["nodePort"]
    );
    let taken = made["spec"]["ports"][0]["nodePort"].clone();
    let refused = setup
        .create("b", ports(json!([{"port": 1, "nodePort": taken}])))
        .await;
    assert_eq!(
        refused.unwrap_err(),
        format!(
            "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {taken}: provided \
             port is already allocated"
        )
    );
    let refused = setup
        .create("b", ports(json!([{"port": 1, "nodePort": 80}])))
        .await;
    assert_eq!(
        refused.unwrap_err(),
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is \
         not in the valid range. The range of valid ports is 30000-30002"
    );
    setup
        .create("c", ports(json!([{"port": 1}])))
        .await
        .unwrap();
    // A balancer with local traffic takes one more for its health check.
    let balancer = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "allocateLoadBalancerNodePorts": false, "ports": [{"port": 1}]});
    let made = setup.create("d", balancer.clone()).await.unwrap();
    assert!(made["spec"]["healthCheckNodePort"].as_i64().unwrap() >= 30_000);
    assert_eq!(made["spec"]["ports"][0].get("nodePort"), None);
    let full = setup.create("e", balancer).await.unwrap_err();
    assert!(
        full.contains("failed to allocate a HealthCheck NodePort 0: range is full"),
        "{full}"
    );
    setup.delete("dns").await;
    setup
        .create("e", ports(json!([{"port": 1, "nodePort": taken}])))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_changed_service_keeps_what_it_has() {
    let setup = Setup::new("10.0.0.0/24", 30_000..=30_010);
    let spec = json!({"type": "NodePort", "ports": [{"name": "a", "port": 1}]});
    let stored = setup.create("a", spec.clone()).await.unwrap();
    let change = |spec: Value| {
        let mut next = service("a", spec);
        setup.try_complete(&mut next, Some(&stored)).unwrap();
        next["spec"].clone()
    };
    // The same manifest again.
    assert_eq!(change(spec), stored["spec"]);
    // Another port beside the first.
    let more = change(
        json!({"type": "NodePort", "ports": [{"name": "b", "port": 2}, {"name": "a", "port": 1}]}),
    );
    assert_eq!(more["ports"][1], stored["spec"]["ports"][0]);
    assert_ne!(more["ports"][0]["nodePort"], more["ports"][1]["nodePort"]);
    // Types that need less.
    let mut plain = stored["spec"].clone();
    plain["type"] = json!("ClusterIP");
    let plain = change(plain);
    assert_eq!(plain["clusterIP"], stored["spec"]["clusterIP"]);
    assert_eq!(plain["ports"][0].get("nodePort"), None);
    assert_eq!(plain.get("externalTrafficPolicy"), None);
    let mut outside = stored["spec"].clone();
    outside["type"] = json!("ExternalName");
    outside["externalName"] = json!("x.test");
    let outside = change(outside);
    for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(outside.get(name), None, "{name}");
    }
    // And back again.
    let stored = setup
        .create(
            "x",
            json!({"type": "ExternalName", "externalName": "x.test"}),
        )
        .await
        .unwrap();
    assert_eq!(stored["spec"].get("clusterIP"), None);
    let mut next = service("x", json!({"ports": [{"port": 1}]}));
    setup.try_complete(&mut next, Some(&stored)).unwrap();
    assert!(
        next["spec"]["clusterIP"]
            .as_str()
            .unwrap()
            .starts_with("10.0.0.")
    );
}

#[tokio::test]
async fn two_families_come_and_go_by_policy() {
    let setup = Setup::new("10.0.0.0/24,fd00::/112", 30_000..=30_010);
    let stored = setup.create("a", json!({})).await.unwrap();
    assert_eq!(stored["spec"]["ipFamilies"], json!(["IPv4"]));
    let mut next = stored.clone();
    next["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    setup.try_complete(&mut next, Some(&stored)).unwrap();
    assert_eq!(next["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(next["spec"]["clusterIPs"][0], stored["spec"]["clusterIP"]);
    assert!(
        next["spec"]["clusterIPs"][1]
            .as_str()
            .unwrap()
            .starts_with("fd00::")
    );
    let mut back = next.clone();
    back["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    setup.try_complete(&mut back, Some(&next)).unwrap();
    assert_eq!(back["spec"], stored["spec"]);
    // A server of one family.
    let setup = Setup::new("10.0.0.0/24", 30_000..=30_010);
    let refused = setup
        .create("a", json!({"ipFamilyPolicy": "RequireDualStack"}))
        .await;
    assert_eq!(
        refused.unwrap_err(),
        "Service \"a\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this \
         cluster is not configured for dual-stack services"
    );
    let made = setup
        .create("b", json!({"clusterIP": "None"}))
        .await
        .unwrap();
    assert_eq!(made["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
}
