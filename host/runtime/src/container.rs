//! What a runtime is told, and what it gives back.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    image::Image,
    process::{ExecSpec, Input, Process, no_exec},
    security::Security,
};

/// Which pod a container belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One container of a pod, with everything resolved: no names of ConfigMaps, no defaults to fill.
#[derive(Clone)]
pub struct ContainerSpec {
    pub pod: PodRef,
    /// Labels of the pod: how a driver pod names its device service.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Annotations of the pod: how guests are to be hosted, and what they may reach.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Name of the container in the pod.
    pub name: String,
    /// 0 for the first start, then one more for each restart. With the pod's uid and the name it
    /// makes an identifier that is never used twice.
    pub attempt: u32,
    pub image: Image,
    /// `command` of the manifest: replaces the image's entry point if not empty.
    pub command: Vec<String>,
    /// `args` of the manifest: replaces the image's `Cmd` if not empty.
    pub args: Vec<String>,
    /// Environment of the manifest, in order; overrides the image's.
    pub env: Vec<(String, String)>,
    /// Overrides the image's.
    pub working_dir: Option<String>,
    pub security: Security,
    /// Keep its standard input open for who attaches; else it reads the end at once.
    pub stdin: bool,
    /// Give it a terminal: one stream for all output.
    pub tty: bool,
    /// `SIGUSR1`, for example: what asks it to end, instead of the image's signal.
    pub stop_signal: Option<String>,
    pub mounts: Vec<Mount>,
    pub limits: Limits,
    pub sandbox: Sandbox,
    /// Container ports in the order of the manifest; a Wasm web service listens on the first.
    pub ports: Vec<u16>,
    /// Where standard output and error go.
    pub log: Arc<dyn LogSink>,
}

/// A directory or file of the host shown inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
    /// Also what is mounted below it is read-only. Only where `read_only` is.
    pub recursive_read_only: bool,
    pub propagation: Propagation,
}

/// Which later mounts show on the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    None,
    /// The host's show in the container.
    FromHost,
    /// And the container's on the host: for privileged containers only.
    Both,
}

/// Upper bounds; `None` is unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Thousandths of a processor that it is to have when there are too few for all: a weight, not
    /// a bound.
    pub cpu_request_millis: Option<u64>,
    /// Number of tasks.
    pub pids: Option<u64>,
    /// How soon the kernel ends it when memory runs out for all: -1000 last, 1000 first.
    pub oom_score: Option<i32>,
    /// What all containers of the pod may use together.
    pub pod: PodLimits,
}

/// Upper bounds and weight of a pod as a whole, in the units of [`Limits`]; `None` is unbounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodLimits {
    pub memory: Option<u64>,
    pub cpu_millis: Option<u64>,
    pub cpu_request_millis: Option<u64>,
    pub pids: Option<u64>,
    pub class: ServiceClass,
}

/// Who is served first when there is too little for all, by what pods ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ServiceClass {
    /// All that it may use is what it asks for.
    #[default]
    Guaranteed,
    /// It asks for some.
    Burstable,
    /// It asks for nothing.
    BestEffort,
}

/// What the containers of one pod share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The pod's address. `None` only for pods on the host's network.
    pub ip: Option<IpAddr>,
    /// The network namespace file of pods whose images need one.
    pub netns: Option<PathBuf>,
    pub hostname: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// Takes a container's output. Never blocks for long: it writes to a file.
pub trait LogSink: Send + Sync {
    /// Any chunk of output, not necessarily whole lines.
    fn write(&self, stream: LogStream, data: &[u8]);

    /// The same for output that came earlier, at that time.
    fn write_late(&self, stream: LogStream, data: &[u8], _at: SystemTime) {
        self.write(stream, data);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Please end: SIGTERM, or its like for a guest.
    Terminate,
    /// End now.
    Kill,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n for signal n; 134 for a trap, as a shell would see an abort.
    pub code: i32,
    /// Kubernetes' words: `Completed`, `Error`, `OOMKilled`, …
    pub reason: &'static str,
    /// For the user: the trap with its Wasm backtrace, for example. Empty if there is nothing to say.
    pub message: String,
}

impl Exit {
    /// The exit of a program that ended by itself.
    pub fn from_code(code: i32) -> Self {
        let reason = if code == 0 { "Completed" } else { "Error" };
        Self {
            code,
            reason,
            message: String::new(),
        }
    }
}

/// A measurement of a running container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub memory: u64,
    /// Processor time used since the start.
    pub cpu: Duration,
    /// Requests answered since the start, whatever the answers were. `None` where they do not pass
    /// through this host.
    pub requests: Option<u64>,
}

/// Why a container could not be prepared or started. The text of each is shown to the user in the
/// container's status, so it says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The image cannot be run by anybody: truncated, wrong media type, no such entry point.
    /// Status reason `InvalidImage`.
    #[error("image {image} cannot be run: {reason}")]
    Image { image: String, reason: String },
    /// The component imports something that this host does not grant. Status reason
    /// `CreateContainerConfigError`.
    #[error("component {image} imports {import}, which is not granted: {remedy}")]
    NotGranted {
        image: String,
        import: String,
        remedy: String,
    },
    /// The pod asks for something that cannot be done. Status reason `CreateContainerConfigError`.
    #[error("{field}: {reason}")]
    Config { field: String, reason: String },
    /// The container cannot be made as it is described: a capability or a profile that is not to
    /// be had. Status reason `CreateContainerError`.
    #[error("{0}")]
    Create(String),
    /// The container was made, and the program in it could not be executed. It counts as one that
    /// ended at once, with reason `StartError`.
    #[error("{0}")]
    Program(String),
    /// The runtime failed. Status reason `RunContainerError`; tried again with back-off.
    #[error("{0}")]
    Runtime(String),
}

impl ContainerError {
    /// A memory limit below what is in use, in the kubelet's words.
    #[must_use]
    pub fn below_usage(limit: u64, used: u64) -> Self {
        Self::Runtime(format!(
            "attempting to set memory limit ({limit}) below current usage ({used})"
        ))
    }
}

/// Runs containers of one kind of image.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// A short name for logs: `wasm`, `oci`.
    fn name(&self) -> &'static str;

    /// Whether all images of this runtime need a network namespace of their own, and files in which
    /// programs look up names. Wasm guests do not: the host does that for them.
    fn needs_netns(&self) -> bool;

    /// The same for one image of it, which may need one where others do not.
    async fn image_needs_netns(&self, _image: &Image) -> bool {
        self.needs_netns()
    }

    /// Do once per image what is slow (compile, unpack), so that `start` is fast. Idempotent, may
    /// be called concurrently for the same image; the work is done once.
    async fn prepare(&self, image: &Image) -> Result<(), ContainerError>;

    /// Show the files of an image at an empty directory, to be read only.
    async fn mount(&self, image: &Image, _at: &Path) -> Result<(), ContainerError> {
        Err(ContainerError::Image {
            image: image.reference.clone(),
            reason: "it holds no files that a volume could show".into(),
        })
    }

    /// Start a container. When it returns, the program runs (for a web service: it listens).
    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError>;

    /// Called once, before anything is started: the containers that an earlier life of this host
    /// left, be they running or ended since. What it left of others is cleared.
    async fn recover(&self) -> Result<Vec<Left>, ContainerError>;

    /// Take one of them on: its output goes to `log`, beginning with what nobody has taken yet.
    async fn adopt(
        &self,
        left: &Left,
        log: Arc<dyn LogSink>,
    ) -> Result<Arc<dyn Container>, ContainerError>;

    /// The pod is over: give back what its containers shared beyond the life of each. Idempotent;
    /// does nothing while one of them is there.
    async fn release(&self, _pod: &PodRef) -> Result<(), ContainerError> {
        Ok(())
    }

    /// Remove what [`Self::prepare`] made of images other than these and nothing runs from.
    async fn collect(&self, _kept: &[Image]) -> Result<(), ContainerError> {
        Ok(())
    }
}

/// A container that outlived the host that started it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Left {
    /// See [`Container::id`].
    pub id: String,
    pub pod: PodRef,
    /// Of the container in its pod.
    pub name: String,
    pub attempt: u32,
    /// Of its image.
    pub digest: String,
    pub started: SystemTime,
}

/// A started container. Dropping it does not end it.
#[async_trait]
pub trait Container: Send + Sync {
    /// Unique on this host, for status (`containerID`) without the scheme.
    fn id(&self) -> &str;

    /// Resolves when it has ended and all of its output was given to the log. May be called by
    /// several and after the end.
    async fn wait(&self) -> Exit;

    /// Deliver a signal. No error if it has ended.
    async fn signal(&self, signal: Signal) -> Result<(), ContainerError>;

    /// Run another program in it.
    async fn exec(&self, _spec: ExecSpec) -> Result<Process, ContainerError> {
        Err(no_exec("Wasm"))
    }

    /// The host stops: let go of the container without ending it, so that the next life of the host
    /// finds all output that is not in the log yet. False if it cannot be without this process.
    async fn let_go(&self) -> bool {
        false
    }

    /// The way to its standard input and terminal; `None` if it was started with neither.
    fn input(&self) -> Option<Arc<dyn Input>> {
        None
    }

    /// Measure it; `None` if it has ended.
    async fn usage(&self) -> Option<Usage>;

    /// Change what it may use while it runs: processor and memory, its own and its pod's. A memory
    /// limit that is exceeded by now is refused, so that nothing that runs is killed by it.
    async fn resize(&self, _limits: &Limits) -> Result<(), ContainerError> {
        Err(ContainerError::Runtime(
            "this container's resources cannot be changed while it runs".into(),
        ))
    }

    /// The directory of this machine with what it has written outside of its volumes, if there is
    /// one.
    fn written(&self) -> Option<PathBuf> {
        None
    }

    /// Give back what remains after the end: mounts, control groups, directories. Idempotent.
    async fn remove(&self) -> Result<(), ContainerError>;
}

/// Bytes given to a log in one go.
pub type LogChunk = (LogStream, Bytes);
