use std::sync::Arc;

use eyot_client::view::Pod;
use k8s_openapi::api::{
    core::v1::{EndpointSubset, Node, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};

use super::{
    PER_SLICE, desired, labels, mirror,
    pack::{self, Group, Head, Write},
};

fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn service(spec: Value) -> Service {
    let mut service = json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "s", "labels": {"team": "a"}},
        "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "targetPort": "www", "protocol": "TCP"}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    typed(service)
}

fn pod(number: usize, change: Value) -> Arc<Pod> {
    let (high, low) = (number / 256, number % 256);
    let ip = format!("10.1.{high}.{low}");
    let mut pod = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "d", "uid": format!("u{number}"),
                     "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [
            {"name": "c", "ports": [{"name": "www", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                   "conditions": [{"type": "Ready", "status": "True"}]},
    });
    for (pointer, value) in change.as_object().unwrap() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    Arc::new(typed(pod))
}

fn node(name: &str) -> Option<Arc<Node>> {
    let labels = json!({"topology.kubernetes.io/zone": "z1"});
    (name == "n").then(|| Arc::new(typed(json!({"metadata": {"name": "n", "labels": labels}}))))
}

/// Carry out a plan, as the API would.
fn pass(service: &Service, pods: &[Arc<Pod>], held: &mut Vec<Arc<EndpointSlice>>) -> Vec<Write> {
    let wanted = desired::desired(service, pods, &node);
    perform(&head(service), wanted, held)
}

fn head(service: &Service) -> Head<'static> {
    Head {
        owner: crate::owner::reference(service),
        namespace: "d",
        labels: labels(service),
        annotations: None,
        trigger: None,
        per_slice: PER_SLICE,
        placeholder: true,
    }
}

fn perform(head: &Head<'_>, wanted: Vec<Group>, held: &mut Vec<Arc<EndpointSlice>>) -> Vec<Write> {
    let names: Vec<_> = held.iter().map(|s| s.metadata.name.clone()).collect();
    let writes = pack::plan(head, wanted, held, &|name| {
        names.contains(&Some(name.into()))
    });
    for write in &writes {
        match write {
            Write::Create(slice) => held.push(Arc::new((**slice).clone())),
            Write::Replace(slice) => {
                let same = |s: &Arc<EndpointSlice>| s.metadata.name == slice.metadata.name;
                let index = held.iter().position(same).unwrap();
                held[index] = Arc::new((**slice).clone());
            }
            Write::Delete(slice) => held.retain(|s| s.metadata.name != slice.metadata.name),
        }
    }
    writes
}

fn sizes(held: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<_> = held
        .iter()
        .map(|s| s.endpoints.as_ref().unwrap().len())
        .collect();
    sizes.sort_unstable();
    sizes
}

fn kinds(writes: &[Write]) -> String {
    let letter = |write: &Write| match write {
        Write::Create(_) => 'c',
        Write::Replace(_) => 'r',
        Write::Delete(_) => 'd',
    };
    writes.iter().map(letter).collect()
}

#[test]
fn a_slice_says_where_a_pod_is_and_whose_it_is() {
    let mut held = Vec::new();
    pass(&service(json!({})), &[pod(1, json!({}))], &mut held);
    let mut slice = serde_json::to_value(&*held[0]).unwrap();
    slice["metadata"]["name"].take();
    let expected = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": null, "generateName": "web-", "namespace": "d",
            "labels": {"team": "a", "kubernetes.io/service-name": "web",
                       "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                                 "controller": true, "blockOwnerDeletion": true}],
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": ["10.1.0.1"], "nodeName": "n", "zone": "z1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "d", "name": "p1", "uid": "u1"},
        }],
    });
    assert_eq!(slice, expected);
}

#[track_caller]
fn check(spec: Value, change: Value, expected: Option<(bool, bool, bool)>) {
    let groups = desired::desired(&service(spec), &[pod(1, change)], &node);
    let found = groups.iter().flat_map(|group| &group.endpoints).next();
    let found = found.map(|endpoint| {
        let c = endpoint.conditions.clone().unwrap();
        (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
    });
    assert_eq!(found, expected);
}

#[test]
fn conditions_follow_the_pod() {
    let unready = json!({"/status/conditions": []});
    let leaving = json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
    let everyone = json!({"publishNotReadyAddresses": true});
    check(json!({}), json!({}), Some((true, true, false)));
    check(json!({}), unready.clone(), Some((false, false, false)));
    check(everyone.clone(), unready, Some((true, false, false)));
    check(json!({}), leaving.clone(), Some((false, true, true)));
    check(everyone.clone(), leaving, Some((true, true, true)));
    check(json!({}), json!({"/status/phase": "Succeeded"}), None);
    check(
        json!({}),
        json!({"/status/podIPs": [], "/status/podIP": null}),
        None,
    );
    check(json!({}), json!({"/metadata/labels": {"app": "db"}}), None);
    let lost = json!({"/spec/nodeName": "gone"});
    check(json!({}), lost.clone(), None);
    check(everyone, lost, Some((true, true, false)));
    check(json!({"ipFamilies": ["IPv6"]}), json!({}), None);
}

#[test]
fn a_host_name_and_hints_are_given_where_they_apply() {
    let change = json!({"/spec/hostname": "h", "/spec/subdomain": "web"});
    let spec = json!({"clusterIP": "None", "trafficDistribution": "PreferSameNode"});
    let groups = desired::desired(&service(spec.clone()), &[pod(1, change)], &node);
    let endpoint = serde_json::to_value(&groups[1].endpoints[0]).unwrap();
    assert_eq!(endpoint["hostname"], "h");
    let hints = json!({"forNodes": [{"name": "n"}], "forZones": [{"name": "z1"}]});
    assert_eq!(endpoint["hints"], hints);
    let other = json!({"/spec/hostname": "h", "/spec/subdomain": "db"});
    let groups = desired::desired(&service(json!({})), &[pod(1, other)], &node);
    assert_eq!(groups[1].endpoints[0].hostname, None);
    let labels = labels(&service(spec));
    assert_eq!(labels["service.kubernetes.io/headless"], "");
}

#[test]
fn pods_with_other_port_numbers_have_slices_of_their_own() {
    let other = json!({"/spec/containers": [
        {"name": "c", "ports": [{"name": "www", "containerPort": 9090}]}]});
    let without = json!({"/spec/containers": [{"name": "c"}]});
    let pods = [pod(1, json!({})), pod(2, other), pod(3, without)];
    let mut held = Vec::new();
    assert_eq!(kinds(&pass(&service(json!({})), &pods, &mut held)), "ccc");
    let mut ports: Vec<_> = held
        .iter()
        .map(|s| s.ports.as_ref().unwrap().first().and_then(|p| p.port))
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [None, Some(8080), Some(9090)]);
}

#[test]
fn what_is_right_is_not_written_again_and_few_writes_mend_the_rest() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..250).map(|n| pod(n, json!({}))).collect();
    let mut held = Vec::new();
    assert_eq!(kinds(&pass(&service, &pods, &mut held)), "ccc");
    assert_eq!(sizes(&held), [50, 100, 100]);
    assert_eq!(kinds(&pass(&service, &pods, &mut held)), "");
    // One becomes unready: its slice alone is written.
    pods[120] = pod(120, json!({"/status/conditions": []}));
    assert_eq!(kinds(&pass(&service, &pods, &mut held)), "r");
    // One goes and another comes: it takes the free place.
    pods.remove(10);
    pods.push(pod(300, json!({})));
    assert_eq!(kinds(&pass(&service, &pods, &mut held)), "r");
    assert_eq!(sizes(&held), [50, 100, 100]);
    // Twenty more fit where there is room; a hundred more do not.
    pods.extend((400..420).map(|n| pod(n, json!({}))));
    assert_eq!(kinds(&pass(&service, &pods, &mut held)), "r");
    pods.extend((500..600).map(|n| pod(n, json!({}))));
    assert_eq!(kinds(&pass(&service, &pods, &mut held)), "c");
    assert_eq!(sizes(&held), [70, 100, 100, 100]);
    // All gone: one slice stays, empty.
    assert_eq!(kinds(&pass(&service, &[], &mut held)), "rddd");
    assert_eq!(sizes(&held), [0]);
    assert_eq!(kinds(&pass(&service, &[], &mut held)), "");
    // And it is used again.
    assert_eq!(kinds(&pass(&service, &pods[..1], &mut held)), "r");
}

#[test]
fn labels_that_were_changed_are_written() {
    let mut service = service(json!({}));
    let (pods, mut held) = ([pod(1, json!({}))], Vec::new());
    pass(&service, &pods, &mut held);
    service.metadata.labels = Some([("team".to_owned(), "b".to_owned())].into());
    assert_eq!(kinds(&pass(&service, &pods, &mut held)), "r");
    assert_eq!(held[0].metadata.labels.as_ref().unwrap()["team"], "b");
}

#[test]
fn slices_of_an_earlier_service_and_of_other_families_go() {
    let mut first = service(json!({}));
    let (pods, mut held) = ([pod(1, json!({}))], Vec::new());
    pass(&first, &pods, &mut held);
    first.metadata.uid = Some("later".into());
    assert_eq!(kinds(&pass(&first, &pods, &mut held)), "cd");
    let six = service(json!({"ipFamilies": ["IPv6"]}));
    let six = Service {
        metadata: first.metadata.clone(),
        ..six
    };
    assert_eq!(kinds(&pass(&six, &pods, &mut held)), "dc");
    assert_eq!(held[0].address_type, "IPv6");
}

#[test]
fn hand_written_endpoints_are_mirrored_by_family_and_ports() {
    let subsets: Vec<EndpointSubset> = typed(json!([
        {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "10.0.0.1"}],
         "notReadyAddresses": [{"ip": "10.0.0.2", "hostname": "h"}],
         "ports": [{"port": 80}]},
        {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 80, "protocol": "TCP"}]},
        {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81}]},
    ]));
    let groups = mirror::groups(&subsets);
    let found: Vec<_> = groups
        .iter()
        .map(|g| {
            let addresses: Vec<_> = g.endpoints.iter().map(|e| e.addresses[0].clone()).collect();
            (
                g.family.as_str(),
                g.ports[0].port.unwrap(),
                addresses.join(" "),
            )
        })
        .collect();
    let expected = [
        ("IPv4", 80, "10.0.0.1 10.0.0.2 10.0.0.3".to_owned()),
        ("IPv6", 80, "fd00::1".to_owned()),
        ("IPv4", 81, "10.0.0.1".to_owned()),
    ];
    assert_eq!(found, expected);
    let ready = |n: usize| groups[0].endpoints[n].conditions.clone().unwrap().ready;
    assert_eq!((ready(0), ready(1)), (Some(true), Some(false)));
    // Without a placeholder, nothing is left once they are gone.
    let owner = service(json!({}));
    let head = Head {
        placeholder: false,
        ..head(&owner)
    };
    let mut held = Vec::new();
    assert_eq!(kinds(&perform(&head, groups, &mut held)), "ccc");
    assert_eq!(kinds(&perform(&head, Vec::new(), &mut held)), "ddd");
}
