//! Both ends over real TLS and TCP on loopback.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use eyot_http::{Request, Response, Upgrade, upgrade};
use futures::StreamExt;
use http_body_util::BodyExt;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Address, Credential, Pin, Uplink, uplink::DialError};

const LIMIT: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    tunnels: Tunnels,
    beats: mpsc::Receiver<String>,
    authority: CertificateDer<'static>,
    _stop: tokio_util::sync::DropGuard,
    _parts: JoinSet<()>,
}

/// A server that takes everybody for the node that a header names.
async fn server(not_after: Option<i32>) -> Server {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().der().clone();
    let issuer = Issuer::from_ca_cert_der(&authority, key).unwrap();
    let own = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    if let Some(year) = not_after {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
    }
    let certificate = params.signed_by(&own, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone(), authority.clone()],
            PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = eyot_http::bind("a test", ([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (tunnels, beats) = Tunnels::new(stop.clone());
    let door = tunnels.clone();
    let service = service_fn(move |request: Request| {
        let door = door.clone();
        async move {
            Ok::<_, Infallible>(match Tunnels::is_asked(&request) {
                true => door.answer("edge", request),
                false => eyot_http::text(http::StatusCode::OK, "the API"),
            })
        }
    });
    let mut parts = JoinSet::new();
    let serving = eyot_http::serve(
        listener,
        Some(Arc::new(config).into()),
        service,
        stop.clone(),
    );
    parts.spawn(serving);
    Server {
        address,
        tunnels,
        beats,
        authority,
        _stop: stop.drop_guard(),
        _parts: parts,
    }
}

fn credential(server: &Server) -> Credential {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.authority.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Credential {
        tls: Arc::new(tls),
        bearer: None,
    }
}

/// Says hello, echoes what takes the connection over, and streams without end.
async fn kubelet(mut request: Request) -> Result<Response, Infallible> {
    Ok(match request.uri().path() {
        "/echo" => {
            let upgrade = Upgrade::take(request.extensions_mut()).unwrap();
            tokio::spawn(async move {
                let (mut reads, mut writes) = tokio::io::split(upgrade.connection().await.unwrap());
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
            });
            upgrade::switching("echo")
        }
        "/endless" => {
            let chunk = bytes::Bytes::from(vec![7; 64 * 1024]);
            let chunks = futures::stream::repeat(Ok::<_, Infallible>(chunk));
            http::Response::new(eyot_http::from_stream(chunks))
        }
        path => eyot_http::text(http::StatusCode::OK, format!("hello from {path}")),
    })
}

struct Edge {
    uplink: Uplink,
    stop: CancellationToken,
}

fn edge(server: &Server) -> Edge {
    let uplink = Uplink::new(server.address.into(), credential(server));
    let stop = CancellationToken::new();
    let (way, cancel) = (uplink.clone(), stop.clone());
    tokio::spawn(async move { way.run(cancel).await });
    let (way, cancel) = (uplink.clone(), stop.clone());
    tokio::spawn(async move {
        serve(
            way,
            service_fn(kubelet),
            Arc::new(Notify::new()),
            |_| {},
            cancel,
        )
        .await;
    });
    Edge { uplink, stop }
}

async fn ask(server: &Server, path: &str) -> Response {
    let kubelet = loop {
        match server.tunnels.kubelet("edge") {
            Some(kubelet) => break kubelet,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let request = http::Request::get(path).body(eyot_http::empty()).unwrap();
    timeout(LIMIT, kubelet.oneshot(request))
        .await
        .unwrap()
        .unwrap()
}

async fn text(response: Response) -> String {
    let bytes = eyot_http::collect(response.into_body(), 1 << 20)
        .await
        .unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_node_that_listens_nowhere_is_called_and_its_beats_are_heard() {
    let mut server = server(None).await;
    assert!(server.tunnels.kubelet("edge").is_none());
    let edge = edge(&server);
    assert_eq!(text(ask(&server, "/pods").await).await, "hello from /pods");
    assert_eq!(
        text(ask(&server, "/again").await).await,
        "hello from /again"
    );
    let beat = timeout(LIMIT, server.beats.recv()).await.unwrap();
    assert_eq!(beat.as_deref(), Some("edge"));
    let request = http::Request::get("/x").body(eyot_http::empty()).unwrap();
    let answer = edge.uplink.send(request).await.unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "the API"
    );
    assert_eq!(server.tunnels.count(), 1);
    edge.stop.cancel();
    timeout(LIMIT, async {
        while server.tunnels.count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_connection_is_taken_over_through_the_tunnel() {
    let server = server(None).await;
    let _edge = edge(&server);
    let response = {
        drop(ask(&server, "/first").await);
        let kubelet = server.tunnels.kubelet("edge").unwrap();
        // What exec's client has at the server: one end of a pair.
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let serving = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let kubelet = kubelet.clone();
            let upgrade = Upgrade::take(request.extensions_mut());
            let mut inner = http::Request::get("/echo")
                .header("connection", "upgrade")
                .header("upgrade", "echo")
                .body(eyot_http::empty())
                .unwrap();
            upgrade.unwrap().put(inner.extensions_mut());
            let answer: futures::future::BoxFuture<'static, Result<Response, Infallible>> =
                Box::pin(kubelet.oneshot(inner));
            answer
        });
        let service = hyper_util::service::TowerToHyperService::new(serving);
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(theirs), service)
                .with_upgrades(),
        );
        ours
    };
    let mut client = response;
    client
        .write_all(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LIMIT, client.read_u8()).await.unwrap().unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    for round in 0..3_u8 {
        let sent = vec![round; 100_000];
        let (mut reads, mut writes) = tokio::io::split(&mut client);
        let mut back = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(
            writes.write_all(&sent),
            timeout(LIMIT, reads.read_exact(&mut back))
        );
        wrote.unwrap();
        read.unwrap().unwrap();
        assert_eq!(back, sent);
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_nothing_else() {
    let mut server = server(None).await;
    let edge = edge(&server);
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut body = ask(&server, "/endless")
            .await
            .into_body()
            .into_data_stream();
        assert!(body.next().await.unwrap().is_ok());
        unread.push(body);
    }
    while server.beats.try_recv().is_ok() {}
    assert_eq!(text(ask(&server, "/pods").await).await, "hello from /pods");
    let request = http::Request::get("/x").body(eyot_http::empty()).unwrap();
    assert!(
        edge.uplink
            .send(request)
            .await
            .unwrap()
            .status()
            .is_success()
    );
    // Also its beat comes in time.
    assert!(
        timeout(SILENT, server.beats.recv())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_connection_that_broke_is_made_again_and_calls_go_on() {
    let server = server(None).await;
    let edge = edge(&server);
    let first = edge.uplink.link(0).await.number;
    drop(ask(&server, "/").await);
    // Another certificate means another connection; the old one is let go of.
    edge.uplink.renew(credential(&server));
    let second = timeout(LIMIT, edge.uplink.link(first)).await.unwrap();
    assert!(second.number > first);
    let request = http::Request::get("/x").body(eyot_http::empty()).unwrap();
    assert!(
        edge.uplink
            .send(request)
            .await
            .unwrap()
            .status()
            .is_success()
    );
    assert_eq!(text(ask(&server, "/pods").await).await, "hello from /pods");
    edge.stop.cancel();
}

#[tokio::test]
async fn only_the_pinned_authority_is_believed_and_clocks_are_told_of() {
    let good = server(None).await;
    let pin = Pin::of(&good.authority).unwrap();
    let token = |pin: Pin| format!("abcdef.0123456789abcdef@{pin}").parse().unwrap();
    let address = |server: &Server| Address::from(server.address);
    let found = crate::enrol::introduce(address(&good), &token(pin))
        .await
        .unwrap();
    assert!(found.authority.contains("BEGIN CERTIFICATE"));
    let other = server(None).await;
    let of = |server: &Server, pin: Pin| {
        let (address, token) = (address(server), token(pin));
        async move {
            crate::enrol::introduce(address, &token)
                .await
                .err()
                .unwrap()
        }
    };
    let stranger = of(&other, pin).await;
    assert!(
        stranger.to_string().contains("another authority"),
        "{stranger}"
    );
    let old = server(Some(2002)).await;
    let pin = Pin::of(&old.authority).unwrap();
    let wrong = of(&old, pin).await;
    assert!(
        matches!(
            &wrong,
            crate::enrol::EnrolError::Dial(DialError::Clock { .. })
        ),
        "{wrong}"
    );
    assert!(wrong.to_string().contains("set the clock"), "{wrong}");
}
