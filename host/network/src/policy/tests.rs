//! Policies in the kernel, seen by real sockets.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use eyot_client::view::Pod;
use k8s_openapi::api::{core::v1::Namespace, networking::v1::NetworkPolicy};
use serde_json::{Value, json};

use super::{host_ports::host_ports, *};
use crate::tests::{inside, pod, with_table};

struct Scene {
    network: PodNetwork,
    pods: Vec<Arc<Pod>>,
}

fn scene<W>(name: &'static str, bridged: bool, test: impl FnOnce(Scene) -> W + Send + 'static)
where
    W: Future<Output = ()>,
{
    with_table(name, bridged, move |network| async move {
        test(Scene {
            network,
            pods: Vec::new(),
        })
        .await;
    });
}

impl Scene {
    /// A pod that listens on port 8080, which is port 18080 of the host.
    async fn pod(&mut self, name: &str) -> (Ipv4Addr, PathBuf) {
        let sandbox = self.network.attach(&pod(name), true).await.unwrap();
        let Some(IpAddr::V4(address)) = sandbox.ip else {
            panic!("{:?}", sandbox.ip)
        };
        let netns = sandbox.netns.unwrap();
        let listener = inside(&netns, move || TcpListener::bind((address, 8080)).unwrap());
        std::thread::spawn(move || for _ in listener.incoming() {});
        self.pods.push(Arc::new(
            serde_json::from_value(json!({
                "metadata": {"namespace": "d", "name": name, "labels": {"name": name}},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [
                    {"containerPort": 8080, "hostPort": 18080}]}]},
                "status": {"phase": "Running", "podIP": address},
            }))
            .unwrap(),
        ));
        (address, netns)
    }

    async fn enforce(&self, specs: &[Value]) {
        let policies: Vec<Arc<NetworkPolicy>> = specs
            .iter()
            .enumerate()
            .map(|(number, spec)| {
                let meta = json!({"namespace": "d", "name": format!("np{number}")});
                Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
            })
            .collect();
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "d"}})).unwrap();
        let planned = plan(
            &policies,
            &self.pods,
            &[Arc::new(namespace)],
            self.network.cidr(),
            self.network.gateway(),
        );
        let table = self.network.table().unwrap();
        table.set(Part::Policies, planned.rules).await.unwrap();
    }
}

/// Long enough for a connection on a loaded machine, whose first packets may be lost.
const REACHED: Duration = Duration::from_secs(30);
/// What is dropped never gets there, however long it is waited for.
const HELD_BACK: Duration = Duration::from_millis(400);

fn connects(netns: &Path, to: Ipv4Addr, within: Duration) -> bool {
    let at = SocketAddr::from((to, 8080));
    inside(netns, move || {
        TcpStream::connect_timeout(&at, within).is_ok()
    })
}

fn reaches(netns: &Path, to: Ipv4Addr) -> bool {
    connects(netns, to, REACHED)
}

fn is_held_back(netns: &Path, to: Ipv4Addr) -> bool {
    !connects(netns, to, HELD_BACK)
}

async fn enforcing(mut scene: Scene) {
    let (web, web_net) = scene.pod("web").await;
    let (db, db_net) = scene.pod("db").await;
    let (_, other_net) = scene.pod("other").await;
    assert!(reaches(&web_net, db) && reaches(&other_net, db));
    let of = |name: &str| json!({"matchLabels": {"name": name}});

    // Only one pod, only one port; the host always.
    let only_web = json!({
        "podSelector": of("db"), "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": of("web")}], "ports": [{"port": 8080}]}],
    });
    scene.enforce(std::slice::from_ref(&only_web)).await;
    assert!(reaches(&web_net, db));
    assert!(is_held_back(&other_net, db));
    assert!(reaches(&db_net, db), "itself");
    assert!(
        reaches(&db_net, web),
        "nobody said anything about what goes out"
    );
    assert!(TcpStream::connect_timeout(&(db, 8080).into(), REACHED).is_ok());

    // What goes out is held back on its own account.
    let nothing_out = json!({"podSelector": of("web"), "policyTypes": ["Egress"]});
    scene.enforce(&[only_web.clone(), nothing_out]).await;
    assert!(is_held_back(&web_net, db));
    assert!(reaches(&other_net, web));
    let to_block = json!({
        "podSelector": of("web"), "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.77.0.0/16", "except": [format!("{web}/32")]}}]}],
    });
    scene.enforce(&[only_web, to_block]).await;
    assert!(reaches(&web_net, db));

    // Without policies all is open again.
    scene.enforce(&[]).await;
    assert!(reaches(&other_net, db));
}

#[test]
fn policies_hold_between_pods_of_one_bridge() {
    scene("policies_hold_between_pods_of_one_bridge", false, enforcing);
}

#[test]
fn policies_hold_where_the_kernel_filters_bridged_packets() {
    scene(
        "policies_hold_where_the_kernel_filters_bridged_packets",
        true,
        enforcing,
    );
}

#[test]
fn a_host_port_leads_to_its_container() {
    scene(
        "a_host_port_leads_to_its_container",
        false,
        |mut scene| async move {
            let (_, netns) = scene.pod("web").await;
            let table = scene.network.table().unwrap();
            table
                .set(Part::HostPorts, host_ports(&scene.pods, "n"))
                .await
                .unwrap();
            let dial = |at: SocketAddr| TcpStream::connect_timeout(&at, REACHED);
            assert!(dial(SocketAddr::from(([127, 0, 0, 1], 18080))).is_ok());
            // The host's address, from the pod itself.
            Command::new("ip")
                .args(["address", "add", "192.0.2.1/32", "dev", "lo"])
                .status()
                .unwrap();
            assert!(inside(&netns, move || dial(SocketAddr::from((
                [192, 0, 2, 1],
                18080
            )))
            .is_ok()));
            table
                .set(Part::HostPorts, host_ports(&[], "n"))
                .await
                .unwrap();
            assert!(dial(SocketAddr::from(([127, 0, 0, 1], 18080))).is_err());
        },
    );
}
