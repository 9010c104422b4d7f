//! The router between real clients and backends, on loopback.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use bytes::Bytes;
use eyot_http::{Peer, upgrade};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ingress::{
    identity::Identities,
    settings::{Protocol, Settings},
};

const DOOR: Door = Door {
    scheme: "http",
    port: 80,
};

/// Serve `answer` until the answer is dropped or cancelled.
async fn serve<F>(answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static) -> Served
where
    F: Future<Output = Response> + Send + 'static,
{
    serve_with(None, answer).await
}

async fn serve_with<F>(
    tls: Option<eyot_http::Tls>,
    answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
) -> Served
where
    F: Future<Output = Response> + Send + 'static,
{
    let service = tower::service_fn(move |request| {
        let answer = answer(request);
        async move { Ok(answer.await) }
    });
    serve_service(tls, service).await
}

async fn serve_service<S>(tls: Option<eyot_http::Tls>, service: S) -> Served
where
    S: tower::Service<Request, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(eyot_http::serve(listener, tls, service, stop.clone()));
    Served { at, stop }
}

struct Served {
    at: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn target(backends: &[SocketAddr]) -> Target {
    Target {
        backends: backends.to_vec(),
        http2: false,
        identity: None,
        settings: Arc::default(),
        refusal: None,
    }
}

fn with(settings: Settings, backends: &[SocketAddr]) -> Target {
    Target {
        settings: Arc::new(settings),
        ..target(backends)
    }
}

/// A router at an address of its own.
async fn front(target: Target) -> (Router, Served) {
    let router = Router::new(Locals::default(), DOOR);
    router.set(Routes::all_to(target));
    let served = serve_service(None, router.clone()).await;
    (router, served)
}

async fn connect(at: SocketAddr) -> http1::SendRequest<Body> {
    let stream = TcpStream::connect(at).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

fn request(method: &str, body: Body) -> Request {
    let request = http::Request::builder().method(method).uri("/path");
    request.header("host", "shop.example").body(body).unwrap()
}

/// Status and text.
async fn ask(at: SocketAddr, request: Request) -> (u16, String) {
    let answer = connect(at).await.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(at: SocketAddr) -> (u16, String) {
    ask(at, request("GET", eyot_http::empty())).await
}

fn ok(text: &str) -> Response {
    eyot_http::text(StatusCode::OK, text)
}

/// A body without a length.
fn chunks(chunks: &[&'static str]) -> Body {
    let chunks: Vec<_> = chunks
        .iter()
        .map(|c| Ok::<_, Infallible>(Bytes::from(*c)))
        .collect();
    eyot_http::from_stream(futures::stream::iter(chunks))
}

/// A body that begins and never goes on.
fn stuck() -> Body {
    let begun = futures::stream::iter([Ok::<_, Infallible>(Bytes::from("begun"))]);
    eyot_http::from_stream(futures::StreamExt::chain(begun, futures::stream::pending()))
}

#[tokio::test]
async fn connections_to_a_backend_are_used_again() {
    let peers = Arc::new(Mutex::new(HashSet::new()));
    let seen = peers.clone();
    let backend = serve(move |request| {
        let peer = request.extensions().get::<Peer>().unwrap().address;
        seen.lock().unwrap().insert(peer);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            ok(std::str::from_utf8(&body).unwrap())
        }
    })
    .await;
    let (router, front) = front(target(&[backend.at])).await;
    for _ in 0..10 {
        assert_eq!(get(front.at).await, (200, String::new()));
        let posted = ask(front.at, request("POST", chunks(&["a", "b"]))).await;
        assert_eq!(posted, (200, "ab".into()));
    }
    assert_eq!(peers.lock().unwrap().len(), 1);
    router.sweep();
    assert_eq!(get(front.at).await.0, 200);
    assert_eq!(peers.lock().unwrap().len(), 1, "it is in use");
}

/// A backend that keeps a connection and closes it when the next request comes, without reading it:
/// as one that closes at the same moment.
async fn closes_when_used_again() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    read.push(stream.read_u8().await?);
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await?;
                stream.read_u8().await.map(drop)
            });
        }
    });
    (at, connections)
}

#[tokio::test]
async fn what_may_be_done_twice_is_sent_again_when_a_used_connection_breaks() {
    let (at, connections) = closes_when_used_again().await;
    let (_router, front) = front(target(&[at])).await;
    for expected in 1..=3 {
        assert_eq!(get(front.at).await, (200, "ok".into()));
        assert_eq!(connections.load(Ordering::SeqCst), expected);
    }
    let (status, said) = ask(front.at, request("POST", eyot_http::empty())).await;
    assert_eq!(status, 502, "{said}");
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn backends_that_do_not_accept_are_passed_over() {
    let backend = serve(|_| async { ok("here") }).await;
    // Bound, so that nobody else has it, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let gone = socket.local_addr().unwrap();
    let (router, front) = front(target(&[gone, backend.at])).await;
    for _ in 0..6 {
        let posted = ask(front.at, request("POST", chunks(&["a"]))).await;
        assert_eq!(posted, (200, "here".into()));
    }
    let once = Settings {
        tries: 1,
        ..Settings::default()
    };
    router.set(Routes::all_to(with(once, &[gone, gone])));
    assert_eq!(get(front.at).await.0, 503);
    router.set(Routes::all_to(Target {
        refusal: Some("no"),
        ..target(&[backend.at])
    }));
    assert_eq!(get(front.at).await, (503, "no\n".into()));
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers() {
    // Answers with what it was asked, frame by frame, and the status in a trailer.
    let backend = serve(|request| async move {
        assert_eq!(request.version(), http::Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.uri().authority().unwrap(), "shop.example");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let end = futures::stream::iter([Ok::<_, eyot_http::BoxError>(Frame::trailers(trailers))]);
        let frames = futures::StreamExt::chain(request.into_body().into_data_stream(), {
            futures::stream::empty()
        });
        let frames = futures::StreamExt::map(frames, |data| data.map(Frame::data));
        let body = StreamBody::new(futures::StreamExt::chain(frames, end));
        Response::new(body.boxed_unsync())
    })
    .await;
    let grpc = Target {
        http2: true,
        ..target(&[backend.at])
    };
    let (_router, front) = front(grpc).await;
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::post("http://shop.example/pkg.Service/Call")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(chunks(&["one", "two"]))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let whole = answer.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(whole.to_bytes(), "onetwo");
    }
    // A client of HTTP/1.1 reaches it, too.
    let request = http::Request::get("/")
        .header("host", "shop.example")
        .header("te", "trailers");
    let (status, _) = ask(front.at, request.body(eyot_http::empty()).unwrap()).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused_whether_they_say_so_or_not() {
    let backend = serve(|request| async move {
        match request.into_body().collect().await {
            Ok(body) => ok(std::str::from_utf8(&body.to_bytes()).unwrap()),
            Err(error) => eyot_http::text(StatusCode::IM_A_TEAPOT, error.to_string()),
        }
    })
    .await;
    let small = Settings {
        body: Some(4),
        ..Settings::default()
    };
    let (_router, front) = front(with(small, &[backend.at])).await;
    let full = |text: &'static str| eyot_http::full(Bytes::from(text));
    assert_eq!(
        ask(front.at, request("POST", full("1234"))).await,
        (200, "1234".into())
    );
    assert_eq!(ask(front.at, request("POST", full("12345"))).await.0, 413);
    assert_eq!(
        ask(front.at, request("POST", chunks(&["12", "34"])))
            .await
            .0,
        200
    );
    assert_eq!(
        ask(front.at, request("POST", chunks(&["123", "45"])))
            .await
            .0,
        413
    );
}

#[tokio::test]
async fn what_stands_still_ends() {
    let backend = serve(|request| async move {
        match request.method().as_str() {
            "GET" => std::future::pending().await,
            "PUT" => Response::new(stuck()),
            _ => match request.into_body().collect().await {
                Ok(_) => ok("whole"),
                Err(error) => eyot_http::text(StatusCode::IM_A_TEAPOT, error.to_string()),
            },
        }
    })
    .await;
    let impatient = Settings {
        send: Duration::from_millis(300),
        read: Duration::from_millis(300),
        ..Settings::default()
    };
    let (_router, front) = front(with(impatient, &[backend.at])).await;
    assert_eq!(get(front.at).await.0, 504);
    assert_eq!(ask(front.at, request("POST", stuck())).await.0, 408);
    let mut sender = connect(front.at).await;
    let answer = sender
        .send_request(request("PUT", eyot_http::empty()))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        answer.into_body().collect().await.is_err(),
        "half an answer is no whole one"
    );
}

#[tokio::test]
async fn a_taken_over_connection_is_carried_through() {
    let backend = serve(|mut request| async move {
        assert!(upgrade::wants(request.headers(), "echo"));
        let upgrade = Upgrade::take(request.extensions_mut()).unwrap();
        tokio::spawn(async move {
            let mut connection = upgrade.connection().await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(&mut connection);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        upgrade::switching("echo")
    })
    .await;
    let (_router, front) = front(target(&[backend.at])).await;
    for _ in 0..2 {
        let mut request = request("GET", eyot_http::empty());
        request
            .headers_mut()
            .insert("connection", "Upgrade".parse().unwrap());
        request
            .headers_mut()
            .insert("upgrade", "echo".parse().unwrap());
        let mut answer = connect(front.at).await.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut connection = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        connection.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        connection.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
    }
}

#[tokio::test]
async fn no_request_is_dropped_while_routes_change_and_backends_end() {
    let answering = || serve(|_| async { ok("here") });
    let mut backend = answering().await;
    let (router, front) = front(target(&[backend.at])).await;
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, asked, at) = (stop.clone(), asked.clone(), front.at);
            tokio::spawn(async move {
                let mut sender = connect(at).await;
                while !stop.load(Ordering::SeqCst) {
                    sender.ready().await.unwrap();
                    let sent = sender.send_request(request("GET", eyot_http::empty()));
                    let answer = sent.await.unwrap();
                    assert_eq!(answer.status(), 200);
                    let body = answer.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(body, "here");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let next = answering().await;
        router.set(Routes::all_to(target(&[next.at])));
        let before = asked.load(Ordering::SeqCst);
        // Requests that found the routes from before are over by then.
        while asked.load(Ordering::SeqCst) < before + 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        backend = next;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    drop(backend);
}

#[tokio::test]
async fn a_service_of_this_process_is_called_without_a_socket() {
    // Nobody listens there.
    let at: SocketAddr = ([127, 0, 0, 1], 1).into();
    let (router, front) = front(target(&[at])).await;
    assert_eq!(get(front.at).await.0, 503);
    let service = tower::service_fn(|request: Request| async move {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(ok(&format!("{host} {}", body.len())))
    });
    let registered = router.shared.locals.register(at, service);
    let posted = ask(front.at, request("POST", chunks(&["123", "4"]))).await;
    assert_eq!(posted, (200, "shop.example 4".into()));
    drop(registered);
    assert_eq!(get(front.at).await.0, 503);
}

/// A certificate for `name` by an authority of its own, for a server; and the Secret that trusts it.
fn certified(name: &str) -> (eyot_http::Tls, Arc<Secret>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let secret = Secret {
        data: Some(
            [(
                "ca.crt".to_owned(),
                ByteString(certificate.pem().into_bytes()),
            )]
            .into(),
        ),
        ..Secret::default()
    };
    (Arc::new(config).into(), Arc::new(secret))
}

#[tokio::test]
async fn a_backend_with_tls_must_be_who_it_should_be_if_that_is_asked_for() {
    let (tls, secret) = certified("web.d.svc");
    let backend = serve_with(Some(tls), |_| async { ok("secret") }).await;
    let (router, front) = front(target(&[backend.at])).await;
    for (verify, name, expected) in [
        (false, "other.d.svc", 200),
        (true, "web.d.svc", 200),
        (true, "other.d.svc", 503),
    ] {
        let settings = Settings {
            verify,
            secret: Some("ca".to_owned()),
            ..Settings::default()
        };
        let https = Protocol::of_app_protocol("https");
        let find = |_: &str, _: &str| Some(secret.clone());
        let identity = Identities::default().get(&settings, https, name, "d", find);
        router.set(Routes::all_to(Target {
            identity: Some(identity.unwrap()),
            ..target(&[backend.at])
        }));
        assert_eq!(get(front.at).await.0, expected, "{name}");
    }
}

#[tokio::test]
async fn a_request_for_several_hosts_is_refused() {
    let backend = serve(|_| async { ok("here") }).await;
    let (_router, front) = front(target(&[backend.at])).await;
    let mut twice = request(
        "GET",
        Full::default()
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    twice
        .headers_mut()
        .append("host", "other.example".parse().unwrap());
    assert_eq!(ask(front.at, twice).await.0, 400);
}
