//! Web services.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use bytes::Bytes;
use eyot_runtime::{Container, ContainerError, Runtime, Signal};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Log, end, guest, locals, runtime, spec};

struct Service {
    address: SocketAddr,
    container: Arc<dyn Container>,
    log: Arc<Log>,
}

async fn serve(test: &str) -> Option<Service> {
    serve_with(test, &[]).await
}

/// With annotations of the pod.
async fn serve_with(test: &str, annotations: &[(&str, &str)]) -> Option<Service> {
    let image = guest(test, "web")?;
    let log = Arc::new(Log::default());
    // Another process may take a port between finding it free and using it.
    for _ in 0..10 {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut spec = spec(image.clone(), &[], &log);
        spec.ports = vec![port];
        let annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        spec.annotations = annotations.collect();
        spec.env = vec![("GREETING".into(), "hello".into())];
        match runtime().start(spec).await {
            Ok(container) => {
                let address = ([127, 0, 0, 1], port).into();
                return Some(Service {
                    address,
                    container,
                    log,
                });
            }
            Err(error) => assert!(error.to_string().contains("in use"), "{error}"),
        }
    }
    panic!("no free port");
}

impl Service {
    async fn request(&self, path: &str, body: &[u8]) -> (StatusCode, Result<String, hyper::Error>) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::post(path).header("host", "pod");
        let request = request
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        let response = send.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await;
        (
            status,
            body.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap()),
        )
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (status, body) = self.request(path, b"").await;
        (status.as_u16(), body.unwrap())
    }
}

#[tokio::test]
async fn it_answers_as_soon_as_it_is_started_with_its_environment() {
    let Some(service) = serve("web").await else {
        return;
    };
    assert_eq!(service.get("/").await, (200, "hello\n".into()));
    assert_eq!(service.get("/env").await, (200, "Ok(\"hello\")".into()));
    let usage = service.container.usage().await.unwrap();
    assert_eq!(usage.requests, Some(2));
    service.container.signal(Signal::Terminate).await.unwrap();
    let exit = end(&service.container).await;
    assert_eq!((exit.code, exit.reason), (0, "Completed"));
    assert!(TcpStream::connect(service.address).await.is_err());
}

#[tokio::test]
async fn each_request_has_an_instance_of_its_own() {
    let Some(service) = serve("web").await else {
        return;
    };
    for _ in 0..3 {
        assert_eq!(service.get("/count").await, (200, "1".into()));
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let Some(service) = serve("web").await else {
        return;
    };
    let long = "0123456789".repeat(100_000);
    let (status, body) = service.request("/echo", long.as_bytes()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.unwrap() == long);
}

#[tokio::test]
async fn a_guest_that_fails_is_a_500_with_the_reason_in_the_log_alone() {
    let Some(service) = serve("web").await else {
        return;
    };
    for (path, reason) in [
        ("/panic", "unreachable"),
        ("/hog", "out of memory"),
        ("/silent", "returned without an answer"),
    ] {
        let (status, body) = service.get(path).await;
        assert_eq!(
            (status, body.as_str()),
            (500, "500 Internal Server Error\n")
        );
        service.log.contains(&format!("! POST {path}: ")).await;
        service.log.contains(reason).await;
    }
    assert_eq!(service.get("/").await.0, 200);
    // The memory of the failed instances is given back.
    assert_eq!(service.container.usage().await.unwrap().memory, 0);
}

#[tokio::test]
async fn a_guest_that_fails_half_way_breaks_the_answer_and_is_logged() {
    let Some(service) = serve("web").await else {
        return;
    };
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream
        .write_all(b"GET /late-panic HTTP/1.1\r\nhost: pod\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    // No last chunk: a client cannot take this for the whole answer.
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    service.log.contains("after its answer had begun").await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_work_for_it() {
    let Some(service) = serve("web").await else {
        return;
    };
    let memory = async || service.container.usage().await.unwrap().memory;
    let until = async |wanted: bool| {
        let wait = async {
            while (memory().await > 0) != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::support::DEADLINE, wait)
            .await
            .unwrap();
    };
    let stuck = tokio::time::timeout(
        std::time::Duration::from_millis(500),
        service.request("/spin", b""),
    );
    assert!(stuck.await.is_err());
    until(false).await;
    assert_eq!(service.get("/").await.0, 200);
}

#[tokio::test]
async fn outgoing_requests_are_denied() {
    let Some(service) = serve("web").await else {
        return;
    };
    assert_eq!(service.get("/out").await, (200, "denied true".into()));
}

/// A server that answers each connection with who asked.
async fn who_asks() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, from) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            let text = format!("{}", from.ip());
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            let _ = stream.write_all((head + &text).as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn outgoing_requests_reach_what_the_pod_is_granted_from_its_own_address() {
    let server = who_asks().await;
    let grants = format!("127.0.0.1:{0}, localhost:{0}", server.port());
    let Some(service) = serve_with("web", &[("eyot.dev/egress", &grants)]).await else {
        return;
    };
    let answer = (200, "200 127.0.0.1".to_owned());
    assert_eq!(service.get(&format!("/fetch/{server}")).await, answer);
    let named = format!("/fetch/localhost:{}", server.port());
    assert_eq!(service.get(&named).await, answer);
    for other in ["127.0.0.1:1", "127.0.0.2:80", "example.com:80"] {
        let (_, text) = service.get(&format!("/fetch/{other}")).await;
        assert!(text.contains("HttpRequestDenied"), "{other}: {text}");
    }
}

#[tokio::test]
async fn an_instance_serves_as_many_requests_as_the_pod_allows_and_idles_not_for_long() {
    let Some(service) = serve_with("web", &[("eyot.dev/instance-reuse", "3")]).await else {
        return;
    };
    for count in ["1", "2", "3", "1"] {
        assert_eq!(service.get("/count").await, (200, count.into()));
    }
    assert_eq!(service.get("/panic").await.0, 500);
    assert_eq!(
        service.get("/count").await,
        (200, "1".into()),
        "a trap ends it"
    );
    let idle = async {
        while service.container.usage().await.unwrap().memory > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, idle)
        .await
        .expect("the idle instance is dropped");
    assert_eq!(service.get("/count").await, (200, "1".into()));
}

#[tokio::test]
async fn it_is_called_without_a_socket_by_who_is_in_the_same_process() {
    let Some(service) = serve_with("web", &[("eyot.dev/instance-reuse", "2")]).await else {
        return;
    };
    let ask = async |path: &str| {
        let request = Request::get(path).header("host", "pod");
        let local = locals().find(&service.address).unwrap();
        let answer = local.ask(request.body(eyot_http::empty()).unwrap()).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    // The same instances, accounts and log as by its socket.
    assert_eq!(ask("/count").await, (200, "1".into()));
    assert_eq!(service.get("/count").await, (200, "2".into()));
    assert_eq!(ask("/count").await, (200, "1".into()));
    assert!(service.container.usage().await.unwrap().cpu.as_nanos() > 0);
    assert_eq!(ask("/panic").await.0, 500);
    service.log.contains("/panic").await;
    service.container.signal(Signal::Terminate).await.unwrap();
    assert_eq!(end(&service.container).await.code, 0);
    assert!(locals().find(&service.address).is_none());
}

#[tokio::test]
async fn one_that_is_told_to_end_answers_those_who_still_come() {
    let Some(service) = serve("web").await else {
        return;
    };
    service.container.signal(Signal::Terminate).await.unwrap();
    // As long as there are requests, it answers; each closes its connection.
    for _ in 0..10 {
        assert_eq!(service.get("/").await, (200, "hello\n".into()));
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    assert_eq!(end(&service.container).await.code, 0);
    assert!(TcpStream::connect(service.address).await.is_err());
}

#[tokio::test]
async fn annotations_that_make_no_sense_are_named() {
    let Some(image) = guest("web", "web") else {
        return;
    };
    for (name, value) in [
        ("eyot.dev/instance-reuse", "many"),
        ("eyot.dev/egress", "somewhere"),
    ] {
        let mut spec = spec(image.clone(), &[], &Arc::new(Log::default()));
        spec.annotations.insert(name.into(), value.into());
        let error = runtime().start(spec).await.err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(value), "{error}");
    }
}

#[tokio::test]
async fn a_busy_port_is_an_error_that_names_it() {
    let Some(image) = guest("web", "web") else {
        return;
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = spec(image, &[], &Arc::new(Log::default()));
    spec.ports = vec![taken.local_addr().unwrap().port()];
    let Err(error) = runtime().start(spec).await else {
        panic!("started")
    };
    assert!(matches!(error, ContainerError::Config { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&taken.local_addr().unwrap().to_string()),
        "{error}"
    );
}
