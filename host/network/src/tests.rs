//! Everything happens in a network and mount namespace of the test's own thread; nothing of the
//! machine is touched.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::*;

pub(crate) fn pod(name: &str) -> PodRef {
    PodRef {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
    }
}

/// Run a test where it can do no harm. Skips loudly without the privilege.
pub(crate) fn isolated<W>(name: &str, test: impl FnOnce(Options) -> W + Send + 'static)
where
    W: Future<Output = ()>,
{
    let test_name = name.to_owned();
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
            eprintln!("SKIPPED {test_name}: no namespaces: {}", errno.desc());
            return;
        }
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            bridge: "test0".into(),
            cidr: "10.77.0.0/24".parse().unwrap(),
            netns_dir: directory.path().join("netns"),
            services: Some((Ipv4Addr::new(10, 96, 0, 0), 12)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(options));
    });
    thread.join().unwrap();
}

/// The same with a pod network whose table is in use, and packets on bridges seen by it or not: both
/// ways in which kernels treat them. Skips loudly without nftables.
pub(crate) fn with_table<W>(
    name: &'static str,
    bridged: bool,
    test: impl FnOnce(PodNetwork) -> W + Send + 'static,
) where
    W: Future<Output = ()>,
{
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED {name}: no program nft");
        return;
    }
    isolated(name, move |options| async move {
        Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .unwrap();
        let value = if bridged { "1" } else { "0" };
        let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value);
        let network = PodNetwork::open(options).await.unwrap();
        assert!(network.table().is_some());
        test(network).await;
    });
}

/// Do something inside a pod's namespace.
pub(crate) fn inside<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let file = File::open(netns).unwrap();
    std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// One exchange over TCP between two places; answers the peer's address as the server saw it.
fn exchange(server: TcpListener, client: impl FnOnce(SocketAddr) -> TcpStream) -> IpAddr {
    let address = server.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, peer) = server.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip()
    });
    let mut text = String::new();
    client(address).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    serving.join().unwrap()
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap()
}

fn links() -> String {
    let output = std::process::Command::new("ip")
        .args(["-o", "address"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pods_of_both_kinds_and_the_host_reach_each_other() {
    isolated(
        "pods_of_both_kinds_and_the_host_reach_each_other",
        |options| async move {
            let network = PodNetwork::open(options).await.unwrap();
            let container = network.attach(&pod("container"), true).await.unwrap();
            let wasm = network.attach(&pod("wasm"), false).await.unwrap();
            let other = network.attach(&pod("other"), true).await.unwrap();
            assert_eq!(container.ip, Some(Ipv4Addr::new(10, 77, 0, 2).into()));
            assert_eq!(wasm.ip, Some(Ipv4Addr::new(10, 77, 0, 3).into()));
            assert_eq!(
                (container.hostname.as_str(), &wasm.netns),
                ("container", &None)
            );
            let (netns, other_netns) = (container.netns.clone().unwrap(), other.netns.unwrap());
            let (container_ip, wasm_ip) = (container.ip.unwrap(), wasm.ip.unwrap());

            // A container reaches a Wasm pod, under its own address.
            let server = TcpListener::bind((wasm_ip, 0)).unwrap();
            let from = netns.clone();
            let peer = exchange(server, move |address| {
                inside(&from, move || connect(address))
            });
            assert_eq!(peer, container_ip);

            // The host and another container reach a container.
            let listen = move || TcpListener::bind((container_ip, 0)).unwrap();
            let peer = exchange(inside(&netns, listen), connect);
            assert_eq!(peer, IpAddr::from(network.cidr().gateway()));
            let peer = exchange(inside(&netns, listen), move |address| {
                inside(&other_netns, move || connect(address))
            });
            assert_eq!(peer, other.ip.unwrap());

            // Inside a pod, loopback works.
            let local = inside(&netns, || TcpListener::bind("127.0.0.1:0").unwrap());
            let peer = exchange(local, move |address| {
                inside(&netns, move || connect(address))
            });
            assert_eq!(peer, IpAddr::from(Ipv4Addr::LOCALHOST));
        },
    );
}

#[test]
fn attaching_twice_gives_the_same_and_detaching_gives_all_back() {
    isolated(
        "attaching_twice_gives_the_same_and_detaching_gives_all_back",
        |options| async move {
            let network = PodNetwork::open(options).await.unwrap();
            let before = links();
            let (one, two) = (pod("one"), pod("two"));
            let sandbox = network.attach(&one, true).await.unwrap();
            assert_eq!(network.attach(&one, true).await.unwrap(), sandbox);
            assert_eq!(network.attach(&one, false).await.unwrap(), sandbox);
            let wasm = network.attach(&two, false).await.unwrap();
            assert_ne!(wasm.ip, sandbox.ip);
            assert!(links().contains("10.77.0.3/32"), "{}", links());
            for _ in 0..2 {
                network.detach(&one).await.unwrap();
                network.detach(&two).await.unwrap();
            }
            assert_eq!(links(), before);
            assert!(!sandbox.netns.unwrap().exists());
            let next = network.attach(&one, false).await.unwrap();
            assert_eq!(
                next.ip,
                Some(Ipv4Addr::new(10, 77, 0, 4).into()),
                "recent addresses rest"
            );
        },
    );
}

#[test]
fn a_new_host_takes_over_places_and_sweeps_the_rest() {
    isolated(
        "a_new_host_takes_over_places_and_sweeps_the_rest",
        |options| async move {
            let netns_dir = options.netns_dir.clone();
            let (clean, container, wasm) = {
                let network = PodNetwork::open(options.clone()).await.unwrap();
                let clean = links();
                let container = network.attach(&pod("container"), true).await.unwrap();
                let wasm = network.attach(&pod("wasm"), false).await.unwrap();
                network.attach(&pod("gone"), true).await.unwrap();
                network.attach(&pod("half"), true).await.unwrap();
                (clean, container, wasm)
            };
            // One that was being removed when the host was killed, and one whose veth is gone.
            let notes = netns_dir.with_file_name("places-test0");
            std::fs::remove_file(notes.join("uid-half")).unwrap();
            let network = PodNetwork::open(options.clone()).await.unwrap();
            network.sweep().await.unwrap();
            assert_eq!(std::fs::read_dir(&netns_dir).unwrap().count(), 2);
            network.retain(|uid| uid != "uid-gone").await.unwrap();
            assert_eq!(std::fs::read_dir(&netns_dir).unwrap().count(), 1);
            assert_eq!(std::fs::read_dir(&notes).unwrap().count(), 2);
            assert_eq!(
                network.attach(&pod("container"), true).await.unwrap(),
                container
            );
            assert_eq!(network.attach(&pod("wasm"), false).await.unwrap(), wasm);
            let (ip, netns) = (container.ip.unwrap(), container.netns.unwrap());
            let listener = inside(&netns, move || TcpListener::bind((ip, 0)).unwrap());
            exchange(listener, connect);
            let next = network.attach(&pod("next"), false).await.unwrap();
            assert!(next.ip != container.ip && next.ip != wasm.ip, "{next:?}");
            network.retain(|_| false).await.unwrap();
            assert_eq!(links(), clean);
            network.close().await.unwrap();
            assert!(!links().contains("test0"), "{}", links());
            assert!(!notes.exists());
        },
    );
}

#[test]
fn packets_to_the_outside_are_masqueraded() {
    isolated(
        "packets_to_the_outside_are_masqueraded",
        |options| async move {
            if std::process::Command::new("nft")
                .arg("--version")
                .output()
                .is_err()
            {
                eprintln!("SKIPPED packets_to_the_outside_are_masqueraded: no program nft");
                return;
            }
            let network = PodNetwork::open(options.clone()).await.unwrap();
            let sandbox = network.attach(&pod("container"), true).await.unwrap();
            // "Outside" is a second network of the same kind, which knows no way back to the first.
            let outside = Options {
                bridge: "out0".into(),
                cidr: "10.78.0.0/24".parse().unwrap(),
                netns_dir: options.netns_dir.clone(),
                services: None,
            };
            let outside = PodNetwork::open(outside).await.unwrap();
            let server = outside.attach(&pod("server"), true).await.unwrap();
            let (ip, netns) = (server.ip.unwrap(), server.netns.unwrap());
            let listener = inside(&netns, move || TcpListener::bind((ip, 0)).unwrap());
            let from = sandbox.netns.unwrap();
            let peer = exchange(listener, move |address| {
                inside(&from, move || connect(address))
            });
            assert_eq!(peer, IpAddr::from(outside.cidr().gateway()));
        },
    );
}

#[test]
fn a_network_that_is_in_use_is_refused_by_name() {
    isolated(
        "a_network_that_is_in_use_is_refused_by_name",
        |options| async move {
            let _first = PodNetwork::open(options.clone()).await.unwrap();
            let second = Options {
                bridge: "test1".into(),
                ..options
            };
            let error = PodNetwork::open(second).await.err().unwrap().to_string();
            assert_eq!(
                error,
                "pod network 10.77.0.0/24 is in use: interface test0 has 10.77.0.1; choose another"
            );
        },
    );
}

#[test]
fn an_exhausted_network_says_so() {
    isolated("an_exhausted_network_says_so", |options| async move {
        let options = Options {
            cidr: "10.77.0.0/29".parse().unwrap(),
            ..options
        };
        let network = PodNetwork::open(options).await.unwrap();
        for number in 0..5 {
            network
                .attach(&pod(&format!("p{number}")), false)
                .await
                .unwrap();
        }
        let error = network
            .attach(&pod("last"), false)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("all 5 addresses of the pod network 10.77.0.0/29"),
            "{error}"
        );
    });
}

#[tokio::test]
async fn without_privilege_wasm_pods_get_loopback_addresses() {
    let network = PodNetwork {
        cidr: LOOPBACK,
        bridge: None,
        places: Places::new(Path::new("/nowhere/netns"), "none"),
        pods: Mutex::new(Pods {
            pool: Pool::new(LOOPBACK),
            attached: HashMap::new(),
        }),
        changing: tokio::sync::Mutex::default(),
    };
    let sandbox = network.attach(&pod("wasm"), false).await.unwrap();
    let ip = sandbox.ip.unwrap();
    assert_eq!(ip, IpAddr::from(Ipv4Addr::new(127, 244, 0, 2)));
    let server = TcpListener::bind((ip, 0)).unwrap();
    exchange(server, connect);
    let error = network.attach(&pod("container"), true).await.unwrap_err();
    assert!(matches!(error, NetworkError::Unprivileged), "{error}");
}
