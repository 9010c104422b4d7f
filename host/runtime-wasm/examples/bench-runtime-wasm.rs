//! What hosting guests costs: start, memory, HTTP requests, calls into pipeline parts.
//!
//! `cargo run --release -p eyot-runtime-wasm --example bench-runtime-wasm -- DIR`, where DIR holds the guests of
//! `tests/guests` as `cargo build --release --target wasm32-wasip2 --bins --examples` leaves them.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and ends on errors"
)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use eyot_runtime::{
    Container, ContainerSpec, Exit, Image, ImageContent, Limits, LogSink, LogStream, PodRef,
    Runtime, Sandbox, Security, Signal,
    guest::{Driver, DriverHost, Item, StepLoader},
    reading::{Event, Reading, Value},
};
use eyot_runtime_wasm::{Options, WasmEngine, WasmRuntime};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

const PROCESSES: u32 = 500;
const CONNECTIONS: usize = 16;
const REQUESTS: usize = 2000;
const BATCHES: u32 = 2000;

#[tokio::main]
async fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let dir = Path::new(&dir);
    let cache = tempfile::tempdir().unwrap();
    report("resident before the engine");
    let started = Instant::now();
    let options = Options::new(cache.path().join("cache"), ([127, 0, 0, 1], 1).into());
    let engine = WasmEngine::new(options).unwrap();
    println!("{:<46} {:?}", "engine", started.elapsed());
    report("resident with an idle engine");
    let runtime = WasmRuntime::new(engine.clone(), Arc::new(Nobody));
    let (process, web, step) = (
        dir.join("process.wasm"),
        dir.join("examples/web.wasm"),
        dir.join("examples/step.wasm"),
    );
    for path in [&process, &web, &step] {
        let started = Instant::now();
        let image = image(path);
        match &*path.file_stem().unwrap().to_string_lossy() {
            "step" => drop(engine.step(&image, &[], &[]).await.unwrap()),
            _ => runtime.prepare(&image).await.unwrap(),
        }
        println!(
            "{:<46} {:?}",
            format!("compile {}", path.display()),
            started.elapsed()
        );
    }
    report("resident after compiling");
    processes(&runtime, &image(&process)).await;
    requests(&runtime, &image(&web)).await;
    batches(&engine, &image(&step)).await;
    report("resident at the end");
}

/// What the process holds: of its own, and of files (its program, compiled guests) that the
/// system can take back.
fn report(what: &str) {
    let (own, files) = (memory("RssAnon:"), memory("RssFile:"));
    println!("{what:<46} {own} KiB, and {files} KiB of files");
}

async fn processes(runtime: &WasmRuntime, image: &Image) {
    let started = Instant::now();
    for _ in 0..PROCESSES {
        let container = runtime.start(spec(image, &["hello"], 0)).await.unwrap();
        assert_eq!(container.wait().await.code, 0);
    }
    println!(
        "{:<46} {:?}",
        "process from start to exit",
        started.elapsed() / PROCESSES
    );
}

async fn requests(runtime: &WasmRuntime, image: &Image) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let container = runtime.start(spec(image, &[], port)).await.unwrap();
    let before = processor_time(&container).await;
    let started = Instant::now();
    let clients = (0..CONNECTIONS).map(|_| tokio::spawn(client(([127, 0, 0, 1], port).into())));
    futures::future::join_all(clients.collect::<Vec<_>>()).await;
    let total = u32::try_from(CONNECTIONS * REQUESTS).unwrap();
    println!(
        "{:<46} {:.0} requests/s, {:?} of processor time each in guests",
        "fresh instance per request, 16 connections",
        f64::from(total) / started.elapsed().as_secs_f64(),
        (processor_time(&container).await - before) / total,
    );
    container.signal(Signal::Kill).await.unwrap();
    container.wait().await;
}

async fn client(address: SocketAddr) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = stream.set_nodelay(true);
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for _ in 0..REQUESTS {
        let request = http::Request::get("/")
            .header("host", "pod")
            .body(Empty::<Bytes>::new());
        let response = send.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
}

async fn batches(engine: &WasmEngine, image: &Image) {
    let settings = [("mark".to_owned(), "false".to_owned())];
    let mut step = engine.step(image, &settings, &[]).await.unwrap();
    for size in [1, 100] {
        let batch: Vec<Item> = (0..size).map(event).collect();
        let started = Instant::now();
        for _ in 0..BATCHES {
            assert_eq!(step.process(&batch).await.unwrap().items.len(), batch.len());
        }
        println!(
            "{:<46} {:?}",
            format!("step, batch of {size} events"),
            started.elapsed() / BATCHES
        );
    }
}

fn event(number: i32) -> Item {
    Item::Event(Arc::new(Event {
        id: format!("00000000-0000-0000-0000-{number:012}"),
        service: "modbus".into(),
        device: "boiler".into(),
        profile: "boiler-profile".into(),
        source: "Temperature".into(),
        origin: 1,
        readings: vec![Reading {
            resource: "Temperature".into(),
            value: Value::Float32(21.5),
            origin: 1,
            units: "°C".into(),
            tags: Vec::new(),
        }],
        tags: Vec::new(),
    }))
}

async fn processor_time(container: &Arc<dyn Container>) -> Duration {
    container
        .usage()
        .await
        .map_or(Duration::ZERO, |usage| usage.cpu)
}

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(what))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn image(path: &Path) -> Image {
    let digest = format!(
        "sha256:{}",
        hex::encode(Sha256::digest(std::fs::read(path).unwrap()))
    );
    Image {
        reference: "bench".into(),
        digest: digest.clone(),
        content: Arc::new(ImageContent::Wasm {
            path: path.into(),
            digest,
        }),
    }
}

fn spec(image: &Image, args: &[&str], port: u16) -> ContainerSpec {
    ContainerSpec {
        pod: PodRef {
            namespace: "default".into(),
            name: "pod".into(),
            uid: "uid".into(),
        },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        name: "main".into(),
        attempt: 0,
        image: image.clone(),
        command: Vec::new(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        working_dir: None,
        security: Security::default(),
        stdin: false,
        tty: false,
        stop_signal: None,
        mounts: Vec::new(),
        limits: Limits {
            memory: Some(1 << 30),
            ..Limits::default()
        },
        sandbox: Sandbox {
            ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            netns: None,
            hostname: "pod".into(),
        },
        ports: vec![port],
        log: Arc::new(Nowhere),
    }
}

struct Nowhere;

impl LogSink for Nowhere {
    fn write(&self, _: LogStream, _: &[u8]) {}
}

struct Nobody;

#[async_trait]
impl DriverHost for Nobody {
    async fn serve(
        &self,
        _: PodRef,
        _: String,
        _: Arc<dyn Driver>,
        _: Arc<dyn LogSink>,
        _: CancellationToken,
    ) -> Exit {
        Exit::from_code(0)
    }
}
