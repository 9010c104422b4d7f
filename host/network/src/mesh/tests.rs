//! Two machines: the test's own network namespace and another one, with a link between.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Command,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::{io::AsyncReadExt, net::TcpSocket};

use super::{
    kernel::Kernel,
    plan::{Link, Own, Peer, Way, plan},
};
use crate::{
    Cidr,
    tests::{inside, isolated},
};

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.unwrap().success(), "ip {arguments}");
}

fn output(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

/// The ways of one machine, made in its namespace.
async fn set(netns: &Path, range: &str, ways: BTreeMap<Cidr, Way>) {
    let (netns, range) = (netns.to_owned(), range.parse().unwrap());
    let setting = std::thread::spawn(move || {
        let file = std::fs::File::open(netns).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let mut kernel = Kernel::open("test0", range).await.unwrap();
            kernel.set(&ways, 0x4242).await.unwrap();
            // Once more from what is there, as the next life of a host does.
            let mut kernel = Kernel::open("test0", range).await.unwrap();
            kernel.set(&ways, 0x4242).await.unwrap();
        });
    });
    tokio::task::spawn_blocking(|| setting.join().unwrap())
        .await
        .unwrap();
}

/// Who a pod there sees when a pod here connects.
async fn seen(there: &Path) -> String {
    let listener = inside(there, || TcpListener::bind("10.88.0.5:0").unwrap());
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip().to_string()
    });
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("10.77.0.5:0".parse().unwrap()).unwrap();
    let connecting = tokio::time::timeout(Duration::from_secs(5), socket.connect(address));
    let mut stream = connecting.await.unwrap().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    serving.join().unwrap()
}

#[test]
fn pods_of_two_machines_talk_by_the_link_and_by_the_tunnel() {
    isolated(
        "pods_of_two_machines_talk_by_the_link_and_by_the_tunnel",
        |options| async move {
            let there = options.netns_dir.with_file_name("there");
            std::fs::write(&there, "").unwrap();
            let own = there.with_file_name("here");
            std::fs::write(&own, "").unwrap();
            let (from, onto) = ("/proc/thread-self/ns/net", there.clone());
            let bind = |onto: &Path| {
                let flags = nix::mount::MsFlags::MS_BIND;
                nix::mount::mount(Some(from), onto, None::<&str>, flags, None::<&str>).unwrap();
            };
            bind(&own);
            std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let flags = nix::mount::MsFlags::MS_BIND;
                nix::mount::mount(Some(from), &onto, None::<&str>, flags, None::<&str>).unwrap();
            })
            .join()
            .unwrap();
            ip("link set lo up");
            ip("link add name here0 type veth peer name there0");
            let file = std::fs::File::open(&there).unwrap();
            let status = Command::new("ip")
                .args(["link", "set", "there0", "netns"])
                .arg(format!(
                    "/proc/{}/fd/{}",
                    std::process::id(),
                    std::os::fd::AsRawFd::as_raw_fd(&file)
                ))
                .status();
            assert!(status.unwrap().success());
            ip("address add 192.0.2.1/24 dev here0");
            ip("address add 10.77.0.5/32 dev lo");
            ip("link set here0 up");
            inside(&there, || {
                ip("link set lo up");
                ip("address add 192.0.2.2/24 dev there0");
                ip("address add 10.88.0.5/32 dev lo");
                ip("link set there0 up");
            });
            let (here_pods, there_pods): (Cidr, Cidr) = (
                "10.77.0.0/24".parse().unwrap(),
                "10.88.0.0/24".parse().unwrap(),
            );

            // As it is planned of what the kernel says of its links.
            let kernel = Kernel::open("test0", here_pods).await.unwrap();
            let peers = [Peer {
                node: "there".into(),
                address: THERE,
                range: there_pods,
            }];
            let links: Vec<Link> = kernel.links().await.unwrap();
            let ways = plan(
                &Own {
                    node: "here",
                    range: here_pods,
                    links,
                },
                &peers,
            );
            assert!(
                matches!(ways[&there_pods], Way::Direct { via: THERE, .. }),
                "{ways:?}"
            );
            set(&own, "10.77.0.0/24", ways.clone()).await;
            let back = |way| -> BTreeMap<Cidr, Way> { [(here_pods, way)].into() };
            let link = inside(&there, || nix::net::if_::if_nametoindex("there0").unwrap());
            let direct = Way::Direct { via: HERE, link };
            set(&there, "10.88.0.0/24", back(direct)).await;
            assert_eq!(seen(&there).await, "10.77.0.5");
            assert!(!output("link").contains("004242"));

            // Changed while it is used; both sides choose for themselves.
            let tunnel = [(there_pods, Way::Tunnel { to: THERE })].into();
            set(&own, "10.77.0.0/24", tunnel).await;
            set(&there, "10.88.0.0/24", back(Way::Tunnel { to: HERE })).await;
            assert!(output("route get 10.88.0.5").contains("004242"));
            assert_eq!(seen(&there).await, "10.77.0.5");

            // The node is gone, and then the host: nothing is left.
            set(&own, "10.77.0.0/24", BTreeMap::new()).await;
            assert_eq!(output("route show 10.88.0.0/24"), "");
            super::remove("test0", here_pods).await.unwrap();
            assert!(!output("link").contains("004242"));
        },
    );
}
