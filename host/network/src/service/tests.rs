//! Plans put into the kernel, and sockets that see what they do.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use serde_json::{Value, json};

use super::*;
use crate::tests::{inside, pod, with_table};

const WEB: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 7)), 80);

struct Scene {
    network: PodNetwork,
    facts: Facts,
    datagrams: Datagrams,
}

fn scene<W>(name: &'static str, bridged: bool, test: impl FnOnce(Scene) -> W + Send + 'static)
where
    W: Future<Output = ()>,
{
    with_table(name, bridged, move |network| async move {
        let facts = Facts {
            node: "here".to_owned(),
            zone: None,
            pods: network.cidr(),
        };
        test(Scene {
            network,
            facts,
            datagrams: Datagrams::default(),
        })
        .await;
    });
}

impl Scene {
    async fn pod(&self, name: &str) -> (Ipv4Addr, PathBuf) {
        let sandbox = self.network.attach(&pod(name), true).await.unwrap();
        let Some(IpAddr::V4(address)) = sandbox.ip else {
            panic!("{:?}", sandbox.ip)
        };
        (address, sandbox.netns.unwrap())
    }

    async fn balance(&mut self, spec: Value, backends: &[Ipv4Addr], port: u16) {
        let service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": spec});
        let service: Arc<Service> = Arc::new(serde_json::from_value(service).unwrap());
        let endpoints: Vec<Value> = backends
            .iter()
            .map(|address| json!({"addresses": [address], "nodeName": "here"}))
            .collect();
        let slice = json!({
            "metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": port}],
        });
        let slice: Arc<EndpointSlice> = Arc::new(serde_json::from_value(slice).unwrap());
        let planned = plan(&[service], &[slice], &self.facts);
        let table = self.network.table().unwrap();
        table.set(Part::Services, planned.rules).await.unwrap();
        self.datagrams = planned.udp;
    }
}

fn plain() -> Value {
    json!({"clusterIP": "10.96.0.7", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]})
}

/// A server in a pod that greets everyone with the pod's address and the client's.
fn serve(netns: &Path, address: Ipv4Addr, port: u16) {
    let listener = inside(netns, move || TcpListener::bind((address, port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(format!("{address} {peer}").as_bytes());
        }
    });
}

/// Who answered, and whom it saw.
fn ask(address: SocketAddr) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (server, client) = text.split_once(' ').unwrap();
    Ok((server.to_owned(), client.to_owned()))
}

fn counts(netns: &Path, times: usize) -> BTreeMap<String, usize> {
    inside(netns, move || {
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            *counts.entry(ask(WEB).unwrap().0).or_default() += 1;
        }
        counts
    })
}

async fn balancing(mut scene: Scene) {
    let mut backends = Vec::new();
    for name in ["a", "b", "c"] {
        let (address, netns) = scene.pod(name).await;
        serve(&netns, address, 8080);
        backends.push((address, netns));
    }
    let addresses: Vec<Ipv4Addr> = backends.iter().map(|(address, _)| *address).collect();
    let (client, netns) = scene.pod("client").await;
    scene.balance(plain(), &addresses, 8080).await;

    // From another pod, whose address the backend sees.
    let seen = counts(&netns, 60);
    assert_eq!(seen.len(), 3, "{seen:?}");
    let (_, saw) = inside(&netns, || ask(WEB).unwrap());
    assert_eq!(saw, client.to_string());
    // From the host itself, also by the node port of a loopback address.
    ask(WEB).unwrap();
    ask(SocketAddr::from(([127, 0, 0, 1], 30080))).unwrap();
    // A backend reaches itself.
    scene.balance(plain(), &addresses[..1], 8080).await;
    let (served, _) = inside(&backends[0].1, || ask(WEB).unwrap());
    assert_eq!(served, addresses[0].to_string());
    // Another port of the address, and a Service without endpoints, are refused at once.
    let started = Instant::now();
    let refused = |netns: &Path, port| {
        let error = inside(netns, move || {
            ask(SocketAddr::new(WEB.ip(), port)).unwrap_err()
        });
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{error}"
        );
    };
    refused(&netns, 81);
    scene.balance(plain(), &[], 8080).await;
    refused(&netns, 80);
    assert_eq!(
        ask(WEB).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    let node_port = ask(SocketAddr::from(([127, 0, 0, 1], 30080)));
    assert_eq!(
        node_port.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    assert!(started.elapsed() < Duration::from_secs(4));
}

#[test]
fn three_backends_share_the_connections_of_pods_and_host() {
    scene(
        "three_backends_share_the_connections_of_pods_and_host",
        false,
        balancing,
    );
}

#[test]
fn the_same_where_the_kernel_filters_bridged_packets() {
    scene(
        "the_same_where_the_kernel_filters_bridged_packets",
        true,
        balancing,
    );
}

#[test]
fn with_affinity_a_client_stays_until_the_time_is_over() {
    scene(
        "with_affinity_a_client_stays_until_the_time_is_over",
        false,
        |mut scene| async move {
            let mut addresses = Vec::new();
            for name in ["a", "b", "c", "d"] {
                let (address, netns) = scene.pod(name).await;
                serve(&netns, address, 8080);
                addresses.push(address);
            }
            let (_, netns) = scene.pod("client").await;
            let spec = json!({
                "clusterIP": "10.96.0.7", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
            });
            scene.balance(spec.clone(), &addresses, 8080).await;
            let first = counts(&netns, 20);
            assert_eq!(first.len(), 1, "{first:?}");
            // A change of the other backends moves nobody.
            let stays: Ipv4Addr = first.keys().next().unwrap().parse().unwrap();
            let fewer: Vec<Ipv4Addr> = addresses
                .iter()
                .copied()
                .filter(|a| *a == stays || *a == addresses[0])
                .collect();
            scene.balance(spec.clone(), &fewer, 8080).await;
            assert_eq!(counts(&netns, 10).keys().next(), first.keys().next());
            scene.balance(spec, &addresses, 8080).await;
            // The time over, all are chosen again, sooner or later.
            let deadline = Instant::now() + Duration::from_secs(60);
            while counts(&netns, 1).keys().next() == first.keys().next() {
                assert!(Instant::now() < deadline, "it never left");
                tokio::time::sleep(Duration::from_millis(1200)).await;
            }
        },
    );
}

#[test]
fn a_wasm_pod_is_a_backend_like_any_other() {
    scene(
        "a_wasm_pod_is_a_backend_like_any_other",
        false,
        |mut scene| async move {
            let sandbox = scene.network.attach(&pod("wasm"), false).await.unwrap();
            let Some(IpAddr::V4(address)) = sandbox.ip else {
                panic!()
            };
            let listener = TcpListener::bind((address, 8080)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let _ = stream.unwrap().write_all(b"wasm -");
                }
            });
            scene.balance(plain(), &[address], 8080).await;
            let (_, netns) = scene.pod("client").await;
            assert_eq!(counts(&netns, 1).len(), 1);
            ask(WEB).unwrap();
            ask(SocketAddr::from(([127, 0, 0, 1], 30080))).unwrap();
        },
    );
}

#[test]
fn a_udp_client_is_led_elsewhere_when_its_backend_goes() {
    scene(
        "a_udp_client_is_led_elsewhere_when_its_backend_goes",
        false,
        |mut scene| async move {
            let mut addresses = Vec::new();
            for name in ["a", "b"] {
                let (address, netns) = scene.pod(name).await;
                let socket = inside(&netns, move || UdpSocket::bind((address, 53)).unwrap());
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(address.to_string().as_bytes(), from);
                    }
                });
                addresses.push(address);
            }
            let spec =
                json!({"clusterIP": "10.96.0.7", "ports": [{"port": 53, "protocol": "UDP"}]});
            let (_, netns) = scene.pod("client").await;
            let socket = inside(&netns, || UdpSocket::bind(("0.0.0.0", 0)).unwrap());
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket.connect((WEB.ip(), 53)).unwrap();
            let ask = || {
                socket.send(b"?").unwrap();
                let mut buffer = [0; 64];
                let read = socket.recv(&mut buffer).unwrap();
                std::str::from_utf8(&buffer[..read])
                    .unwrap()
                    .parse::<Ipv4Addr>()
                    .unwrap()
            };
            scene.balance(spec.clone(), &addresses, 53).await;
            let first = ask();
            assert_eq!(ask(), first, "one flow has one backend");
            let rest: Vec<Ipv4Addr> = addresses.into_iter().filter(|a| *a != first).collect();
            scene.balance(spec, &rest, 53).await;
            assert_eq!(conntrack::forget(&scene.datagrams).unwrap(), 1);
            assert_eq!(ask(), rest[0]);
            assert_eq!(conntrack::forget(&scene.datagrams).unwrap(), 0);
        },
    );
}

#[test]
fn a_table_that_was_taken_away_is_made_anew() {
    scene(
        "a_table_that_was_taken_away_is_made_anew",
        false,
        |mut scene| async move {
            let (address, netns) = scene.pod("a").await;
            serve(&netns, address, 8080);
            scene.balance(plain(), &[address], 8080).await;
            let nft = |args: &[&str]| Command::new("nft").args(args).output().unwrap();
            assert!(
                nft(&["delete", "table", "ip", "eyot-test0"])
                    .status
                    .success()
            );
            let (other, _) = scene.pod("b").await;
            scene.balance(plain(), &[address, other], 8080).await;
            scene.balance(plain(), &[address], 8080).await;
            ask(WEB).unwrap();
            scene.network.close().await.unwrap();
            let left = nft(&["list", "tables"]).stdout;
            assert_eq!(String::from_utf8(left).unwrap(), "");
        },
    );
}

#[test]
fn thousands_of_services_are_one_transaction_and_a_change_is_small() {
    scene(
        "thousands_of_services_are_one_transaction_and_a_change_is_small",
        false,
        |scene| async move {
            const COUNT: u32 = 5_000;
            let mut services = Vec::new();
            let mut slices = Vec::new();
            for number in 0..COUNT {
                let name = format!("s{number}");
                let address = Ipv4Addr::from(0x0a60_0100 + number);
                let service = json!({
                    "metadata": {"namespace": "d", "name": name},
                    "spec": {"clusterIP": address, "ports": [{"port": 80}]},
                });
                services.push(Arc::new(
                    serde_json::from_value::<Service>(service).unwrap(),
                ));
                let slice = json!({
                    "metadata": {"namespace": "d", "name": name, "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4", "ports": [{"port": 8080}],
                    "endpoints": [{"addresses": ["10.77.0.2"]}, {"addresses": ["10.77.0.3"]}],
                });
                slices.push(Arc::new(
                    serde_json::from_value::<EndpointSlice>(slice).unwrap(),
                ));
            }
            let table = scene.network.table().unwrap();
            let started = Instant::now();
            let planned = plan(&services, &slices, &scene.facts);
            let planning = started.elapsed();
            table.set(Part::Services, planned.rules).await.unwrap();
            let first = started.elapsed();
            services.pop();
            let started = Instant::now();
            table
                .set(Part::Services, plan(&services, &slices, &scene.facts).rules)
                .await
                .unwrap();
            eprintln!(
                "planned in {planning:?}, set in {first:?}, changed in {:?}",
                started.elapsed()
            );
            assert!(first < Duration::from_secs(60));
        },
    );
}
