//! Building the guests, one engine for all tests, and a log that can be awaited.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock, Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use eyot_http::Locals;
use eyot_runtime::{
    Container, ContainerSpec, Exit, Image, ImageContent, Limits, LogSink, LogStream, PodRef,
    Runtime, Sandbox, Security,
    guest::{Driver, DriverHost},
};
use eyot_runtime_wasm::{Options, WasmEngine, WasmRuntime};
use eyot_store::KeyValues;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; only failures take it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The engine that tests share, so that each guest is compiled once.
pub(crate) fn engine() -> Arc<WasmEngine> {
    static ENGINE: LazyLock<Arc<WasmEngine>> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap().keep();
        let values = KeyValues::new(dir.join("keyvalue.db"));
        let mut options = Options::new(dir.join("cache"), ([127, 0, 0, 1], 1).into());
        options.keyvalues = Some(Arc::new(values));
        options.instances = Some(256);
        options.locals = locals();
        WasmEngine::new(options).unwrap()
    });
    ENGINE.clone()
}

/// Where its web services are found without a socket.
pub(crate) fn locals() -> Locals {
    static LOCALS: LazyLock<Locals> = LazyLock::new(Locals::default);
    LOCALS.clone()
}

pub(crate) fn runtime() -> WasmRuntime {
    WasmRuntime::new(engine(), Arc::new(NoDevices))
}

/// The image of a guest: `process`, or one of the examples of `tests/guests`. `None` if guests
/// cannot be built here, which is said loudly.
pub(crate) fn guest(test: &str, name: &str) -> Option<Image> {
    let Some(dir) = built() else {
        eprintln!("SKIPPED {test}: the target wasm32-wasip2 is not installed");
        return None;
    };
    let file = format!("{name}.wasm");
    let path = if name == "process" {
        dir.join(file)
    } else {
        dir.join("examples").join(file)
    };
    Some(image(&path))
}

pub(crate) fn image(path: &Path) -> Image {
    let bytes = std::fs::read(path).unwrap();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let name = path.file_stem().unwrap().to_str().unwrap();
    Image {
        reference: format!("demo/{name}:v1"),
        digest: digest.clone(),
        content: Arc::new(ImageContent::Wasm {
            path: path.into(),
            digest,
        }),
    }
}

fn built() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let build = |offline: bool| {
        let mut command = Command::new(env!("CARGO"));
        command.args([
            "build",
            "--quiet",
            "--release",
            "--target",
            "wasm32-wasip2",
            "--locked",
        ]);
        command
            .args(["--bins", "--examples", "--manifest-path"])
            .arg(&manifest);
        command
            .arg("--target-dir")
            .arg(&target)
            .args(offline.then_some("--offline"));
        command.output().unwrap()
    };
    let mut output = build(true);
    if !output.status.success() {
        output = build(false);
    }
    if output.status.success() {
        return Some(target.join("wasm32-wasip2/release"));
    }
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("target may not be installed"),
        "building the guests failed: {error}"
    );
    None
}

/// A container log that tests can wait on.
#[derive(Default)]
pub(crate) struct Log {
    text: Mutex<String>,
    written: tokio::sync::Notify,
}

impl LogSink for Log {
    fn write(&self, stream: LogStream, data: &[u8]) {
        let mark = if stream == LogStream::Stderr {
            "! "
        } else {
            ""
        };
        let mut text = self.text.lock().unwrap();
        for line in String::from_utf8(data.to_vec())
            .unwrap()
            .split_inclusive('\n')
        {
            *text += mark;
            *text += line;
        }
        self.written.notify_waiters();
    }
}

impl Log {
    pub(crate) fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Wait until the log contains `part`.
    pub(crate) async fn contains(&self, part: &str) -> String {
        let wait = async {
            loop {
                let written = self.written.notified();
                let mut written = std::pin::pin!(written);
                written.as_mut().enable();
                if self.text().contains(part) {
                    return self.text();
                }
                written.await;
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(text) => text,
            Err(_) => panic!("no {part:?} in the log:\n{}", self.text()),
        }
    }
}

pub(crate) fn spec(image: Image, args: &[&str], log: &Arc<Log>) -> ContainerSpec {
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
        image,
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
            memory: Some(64 << 20),
            ..Limits::default()
        },
        sandbox: Sandbox {
            ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            netns: None,
            hostname: "pod".into(),
        },
        ports: Vec::new(),
        log: log.clone(),
    }
}

pub(crate) async fn start(spec: ContainerSpec) -> Arc<dyn Container> {
    runtime().start(spec).await.unwrap()
}

pub(crate) async fn end(container: &Arc<dyn Container>) -> Exit {
    tokio::time::timeout(DEADLINE, container.wait())
        .await
        .expect("the container did not end")
}

/// For tests without drivers.
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
