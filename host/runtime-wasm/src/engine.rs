//! What all guests of a host share.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use eyot_http::Locals;
use eyot_runtime::{ContainerError, Image, keyvalue::KeyValues};
use tokio::runtime::{Builder, Handle, Runtime};
use wasmtime::{Engine, Store, component::Linker};

use crate::{
    artifacts::Artifacts,
    capability::Shared,
    clock::Ticker,
    config::{self, EngineError},
    egress::Resolver,
    inspect,
    program::{InstancePre, Linkers, Program, Role},
};

/// How to set up the engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where compiled components are kept; only this user may have access to it.
    pub cache_dir: PathBuf,
    /// The broker that `mqtt://local` stands for.
    pub local_broker: SocketAddr,
    /// The cluster's DNS, where guests find names; `None` leaves that to the host's own resolver.
    pub dns: Option<SocketAddr>,
    /// Where guests keep values by key; `None` denies them that.
    pub keyvalues: Option<Arc<dyn KeyValues>>,
    /// Guest instances at once; `None` makes it fit the machine's memory.
    pub instances: Option<u32>,
    /// Where web services of guests are to be found without a socket.
    pub locals: Locals,
}

impl Options {
    pub fn new(cache_dir: impl Into<PathBuf>, local_broker: SocketAddr) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            local_broker,
            dns: None,
            keyvalues: None,
            instances: None,
            locals: Locals::default(),
        }
    }
}

/// The engine. It is also the [`StepLoader`](eyot_runtime::guest::StepLoader) of pipelines.
pub struct WasmEngine {
    pub(crate) engine: Engine,
    pub(crate) artifacts: Artifacts,
    pub(crate) linkers: Linkers,
    pub(crate) shared: Shared,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) resolver: Resolver,
    /// Where the guests of pods run.
    pub(crate) workload: Workload,
    pub(crate) locals: Locals,
}

impl WasmEngine {
    pub fn new(options: Options) -> Result<Arc<Self>, EngineError> {
        let engine = config::engine(options.instances)?;
        let linkers = Linkers::new(&engine);
        let linkers = linkers.map_err(|error| EngineError::Engine(format!("{error:#}")))?;
        Ok(Arc::new(Self {
            artifacts: Artifacts::open(engine.clone(), &options.cache_dir)?,
            linkers,
            shared: Shared::new(options.local_broker, options.keyvalues),
            resolver: Resolver::new(options.dns),
            ticker: Ticker::start(&engine).map_err(EngineError::Threads)?,
            workload: Workload::start().map_err(EngineError::Threads)?,
            locals: options.locals,
            engine,
        }))
    }

    /// The interfaces that the component of an image exports.
    pub async fn exports(&self, image: &Image) -> Result<Vec<String>, ContainerError> {
        inspect::exports(image).await
    }

    /// Load a pod's image and resolve its imports.
    pub(crate) async fn program(
        &self,
        image: &Image,
    ) -> Result<(Arc<Program>, Role, InstancePre), ContainerError> {
        let program = self.artifacts.load(image).await?;
        let role = program.role(image)?;
        let pre = program.prepare(role, &self.linkers, image)?.clone();
        Ok((program, role, pre))
    }
}

impl WasmEngine {
    /// What the engine alone takes to make and drop an instance of this component, with nothing
    /// behind its imports: what `make bench` sets beside what an instance of a pod costs.
    #[doc(hidden)]
    pub async fn bare_instantiation(
        &self,
        image: &Image,
        rounds: u32,
    ) -> Result<Duration, ContainerError> {
        let program = self.artifacts.load(image).await?;
        let mut linker = Linker::new(&self.engine);
        let failed = |error: wasmtime::Error| ContainerError::Runtime(format!("{error:#}"));
        let component = program.component();
        linker
            .define_unknown_imports_as_traps(component)
            .map_err(failed)?;
        let pre = linker.instantiate_pre(component).map_err(failed)?;
        let mut begin = Instant::now();
        // The first rounds warm the pool.
        for round in 0..rounds + rounds / 10 {
            if round == rounds / 10 {
                begin = Instant::now();
            }
            let mut store = Store::new(&self.engine, ());
            store.set_epoch_deadline(u64::MAX / 2);
            pre.instantiate_async(&mut store).await.map_err(failed)?;
        }
        Ok(begin.elapsed() / rounds.max(1))
    }
}

/// Threads for pods alone: a guest that computes without end slows down other guests, and leaves
/// the threads of the host's own tasks to them.
pub(crate) struct Workload {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Workload {
    fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("wasm-guest")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // The ordinary drop blocks, which a task of another runtime must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
