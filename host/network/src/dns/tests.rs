//! The server at real sockets, with another behind it.

use std::time::Instant;

use super::{
    message::{Data, Foreign, Record, Reply, Request, kind},
    *,
};

/// A server behind ours that has an address for every name and counts who asks.
async fn behind() -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (read, from) = socket.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let request = Request::parse(&buffer[..read]).unwrap();
            let answers = vec![Record {
                name: request.name.clone(),
                ttl: 60,
                data: Data::Address(IpAddr::from([192, 0, 2, 80])),
            }];
            let reply = Reply {
                answers,
                ..Reply::default()
            };
            socket
                .send_to(&reply.write(&request, false), from)
                .await
                .unwrap();
        }
    });
    (port, asked)
}

async fn ask(at: SocketAddr, request: &Request) -> Foreign {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bytes = request.question_for(request.id).unwrap();
    socket.send_to(&bytes, at).await.unwrap();
    let mut buffer = [0; 2048];
    let read = socket.recv(&mut buffer);
    let read = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap()
        .unwrap();
    Foreign::parse(&buffer[..read], request, request.id).unwrap()
}

#[tokio::test]
async fn names_of_the_cluster_and_of_the_world_are_answered_over_both_protocols() {
    let (port, asked) = behind().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\n").unwrap();
    let server = Arc::new(Server::new(
        Forwarder::new(file.clone(), None).at_port(port),
    ));
    let service = |name: &str, spec| {
        let meta = json!({"namespace": "d", "name": name});
        let service = json!({"metadata": meta, "spec": spec});
        Arc::new(serde_json::from_value::<Service>(service).unwrap())
    };
    let services = [
        service("web", json!({"clusterIP": "10.96.0.7"})),
        service(
            "away",
            json!({"type": "ExternalName", "externalName": "example.org"}),
        ),
    ];
    server.set(Zone::new(&services, &[], &[], None));
    let (datagrams, connections) = listen(IpAddr::from([127, 0, 0, 1])).await.unwrap();
    let at = datagrams.local_addr().unwrap();
    tokio::spawn(Arc::clone(&server).datagrams(datagrams));
    tokio::spawn(Arc::clone(&server).connections(connections));

    let web = Request::made("web.d.svc.cluster.local", kind::A);
    let reply = ask(at, &web).await;
    assert_eq!(reply.addresses(), [(30, IpAddr::from([10, 96, 0, 7]))]);
    let reply = ask(at, &Request::made("no.d.svc.cluster.local", kind::A)).await;
    assert_eq!((reply.answers, reply.keep), (0, Some(30)));

    // Others are asked once, then remembered; an alias brings its target along.
    for _ in 0..3 {
        let reply = ask(at, &Request::made("Example.ORG", kind::A)).await;
        assert_eq!(reply.addresses()[0].1, IpAddr::from([192, 0, 2, 80]));
    }
    let reply = ask(at, &Request::made("away.d.svc.cluster.local", kind::A)).await;
    assert_eq!((reply.answers, reply.addresses().len()), (2, 1));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);

    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    for id in [1, 2] {
        server::write_framed(&mut stream, &web.question_for(id).unwrap())
            .await
            .unwrap();
        let bytes = server::read_framed(&mut stream).await.unwrap().unwrap();
        assert_eq!(
            Foreign::parse(&bytes, &web, id).unwrap().addresses().len(),
            1
        );
    }

    // Nobody to ask: said at once.
    std::fs::write(&file, "").unwrap();
    let started = Instant::now();
    let reply = ask(at, &Request::made("example.net", kind::A)).await;
    assert!(reply.is_failure() && started.elapsed() < Duration::from_secs(5));
}
