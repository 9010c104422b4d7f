//! `make bench`: what a fresh instance per request costs, beside the engine's bare figure. Prints rows
//! of a Markdown table.
//!
//! `bench-wasm COMPONENT.wasm` serves a component that exports `wasi:http/incoming-handler` as a pod's
//! container would be, and asks it without a socket, one request at a time. What an instance costs is
//! the difference to requests that one instance serves in turn. The bare figure is the engine's own
//! `instantiate` and drop of the same component, with nothing behind its imports.

use std::{
    collections::BTreeMap,
    error::Error,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use eyot_http::{Body, Local, Locals};
use eyot_runtime::{
    ContainerSpec, Exit, Image, ImageContent, Limits, LogSink, LogStream, PodRef, Runtime, Sandbox,
    Security, Signal,
    guest::{Driver, DriverHost},
};
use eyot_runtime_wasm::{Options, WasmEngine, WasmRuntime};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Enough for a figure that is steady to a few percent.
const REQUESTS: u32 = 50_000;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-wasm: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let path = std::env::args_os().nth(1);
    let path = path.ok_or("which component? bench-wasm COMPONENT.wasm")?;
    let image = image(Path::new(&path))?;
    let cache = tempfile::tempdir()?;
    let mut options = Options::new(cache.path(), (Ipv4Addr::LOCALHOST, 1).into());
    let locals = Locals::default();
    options.locals = locals.clone();
    let engine = WasmEngine::new(options)?;
    let bare = engine.bare_instantiation(&image, REQUESTS).await?;
    let fresh = Asked::of(&engine, &locals, &image, 1).await?;
    let reused = Asked::of(&engine, &locals, &image, 10_000).await?;
    let instance = fresh.processor.saturating_sub(reused.processor);
    println!("| what | aim | measured | beside |");
    println!("|---|---|---|---|");
    let micro = |time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6);
    println!(
        "| processor time of a Wasm HTTP request without a socket, fresh instance | | {} | one \
         instance for all: {} |",
        micro(fresh.processor),
        micro(reused.processor)
    );
    println!(
        "| the same, elapsed | | {} | {} |",
        micro(fresh.elapsed),
        micro(reused.elapsed)
    );
    println!(
        "| a fresh instance, made and dropped | ≤ 1.5 × the engine's bare figure | {} | bare: {} |",
        micro(instance),
        micro(bare)
    );
    Ok(())
}

fn image(path: &Path) -> Result<Image> {
    std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Any name will do for the cache, which is this run's own.
    let digest = format!("sha256:{}", "0".repeat(64));
    Ok(Image {
        reference: path.display().to_string(),
        digest: digest.clone(),
        content: Arc::new(ImageContent::Wasm {
            path: path.into(),
            digest,
        }),
    })
}

/// What one request took, on average.
struct Asked {
    elapsed: Duration,
    processor: Duration,
}

impl Asked {
    async fn of(
        engine: &Arc<WasmEngine>,
        locals: &Locals,
        image: &Image,
        reuse: u32,
    ) -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let runtime = WasmRuntime::new(engine.clone(), Arc::new(NoDevices));
        let container = runtime.start(spec(image, free, reuse)).await?;
        let service = locals.find(&free).ok_or("the service is not registered")?;
        for _ in 0..REQUESTS / 10 {
            ask(&service).await?;
        }
        let (begin, before) = (Instant::now(), processor_time()?);
        for _ in 0..REQUESTS {
            ask(&service).await?;
        }
        let used = processor_time()?.saturating_sub(before);
        let elapsed = begin.elapsed();
        container.signal(Signal::Kill).await?;
        container.wait().await;
        Ok(Self {
            elapsed: elapsed / REQUESTS,
            processor: used / REQUESTS,
        })
    }
}

/// One request, and all of its answer.
async fn ask(service: &Local) -> Result<()> {
    let request = http::Request::get("/").header("host", "bench");
    let answer = service.clone().ask(request.body(Body::default())?).await;
    let status = answer.status();
    answer.into_body().collect().await?;
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("the component answers {status}").into()),
    }
}

fn spec(image: &Image, address: SocketAddr, reuse: u32) -> ContainerSpec {
    ContainerSpec {
        pod: PodRef {
            namespace: "default".into(),
            name: "bench".into(),
            uid: "bench".into(),
        },
        labels: BTreeMap::new(),
        annotations: BTreeMap::from([("eyot.dev/instance-reuse".into(), reuse.to_string())]),
        name: "bench".into(),
        attempt: 0,
        image: image.clone(),
        command: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        security: Security::default(),
        stdin: false,
        tty: false,
        stop_signal: None,
        mounts: Vec::new(),
        limits: Limits::default(),
        sandbox: Sandbox {
            ip: Some(address.ip()),
            netns: None,
            hostname: "bench".into(),
        },
        ports: vec![address.port()],
        log: Arc::new(Silent),
    }
}

/// Processor time of this process, user and system; proc_pid_stat(5), fields 14 and 15.
fn processor_time() -> Result<Duration> {
    /// Of USER_HZ, which is the same on all machines that Linux runs on.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat
        .rsplit_once(')')
        .ok_or("no fields in /proc/self/stat")?;
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u32>()?;
    }
    Ok(TICK * ticks)
}

struct Silent;

impl LogSink for Silent {
    fn write(&self, _: LogStream, _: &[u8]) {}
}

struct NoDevices;

#[async_trait]
impl DriverHost for NoDevices {
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
