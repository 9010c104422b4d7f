//! What the host keeps for one instance: the `T` of its `Store<T>`.

use std::sync::Arc;

use eyot_runtime::{ContainerError, ContainerSpec};
use wasmtime::{Engine, Store, component::ResourceTable};
use wasmtime_wasi::{
    FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, sockets::WasiSocketsCtx,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    capability::Capabilities, clock::Clock, egress::Outgoing, memory::Draw, output::Output,
    sockets::Sockets,
};

/// Resources (streams, files, requests) that one instance may hold open.
const RESOURCES: usize = 10_000;
/// Bytes that a guest may have the host copy out of it in one call: bodies and batches pass, a
/// list made to exhaust the host does not.
const COPIED_PER_CALL: usize = 64 << 20;

pub(crate) struct State {
    table: ResourceTable,
    wasi: Wasi,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    sockets: Option<Arc<Sockets>>,
    draw: Draw,
    pub(crate) capabilities: Capabilities,
}

impl State {
    pub(crate) fn new(wasi: impl Into<Wasi>, draw: Draw, capabilities: Capabilities) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self {
            table,
            wasi: wasi.into(),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::default(),
            sockets: None,
            draw,
            capabilities,
        }
    }

    /// The same with what may be reached by HTTP and by sockets.
    pub(crate) fn with_network(self, outgoing: Outgoing, sockets: Arc<Sockets>) -> Self {
        let sockets = Some(sockets);
        Self {
            outgoing,
            sockets,
            ..self
        }
    }

    /// Streams, files and what else has a handle.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Why the guest has not all of WASI that its pod gives it, if so.
    pub(crate) fn lacks(&self) -> Option<&str> {
        self.wasi.lacks.as_deref()
    }

    pub(crate) fn capabilities_and_table(&mut self) -> (&Capabilities, &mut ResourceTable) {
        (&self.capabilities, &mut self.table)
    }

    /// What sockets are made of, and what they may do.
    pub(crate) fn socket_parts(
        &mut self,
    ) -> (
        &mut WasiSocketsCtx,
        &mut ResourceTable,
        Option<&Arc<Sockets>>,
    ) {
        (
            self.wasi.get().sockets(),
            &mut self.table,
            self.sockets.as_ref(),
        )
    }

    /// A store over this state that is bounded in memory and time.
    pub(crate) fn into_store(self, engine: &Engine, clock: &Clock) -> Store<Self> {
        let mut store = Store::new(engine, self);
        store.limiter(|state| &mut state.draw);
        store.set_hostcall_fuel(COPIED_PER_CALL);
        clock.govern(&mut store);
        store
    }
}

/// WASI of one instance. Generators of random numbers, clocks, streams and directories cost more
/// than all else that is made for an instance, and the answer to most requests needs none of them:
/// so those of a web service are made when the guest first asks for one.
pub(crate) struct Wasi {
    made: Option<WasiCtx>,
    /// Whose they are to be.
    of: Option<Arc<Surroundings>>,
    /// Why they could not be had as the pod wants them: the guest must not pass for one that had.
    lacks: Option<String>,
}

impl From<WasiCtx> for Wasi {
    fn from(made: WasiCtx) -> Self {
        Self {
            made: Some(made),
            of: None,
            lacks: None,
        }
    }
}

impl From<Arc<Surroundings>> for Wasi {
    fn from(of: Arc<Surroundings>) -> Self {
        Self {
            made: None,
            of: Some(of),
            lacks: None,
        }
    }
}

impl Wasi {
    fn get(&mut self) -> &mut WasiCtx {
        let Self { made, of, lacks } = self;
        made.get_or_insert_with(|| {
            let made = of
                .take()
                .map_or_else(|| Ok(WasiCtx::default()), |of| of.wasi(&[]));
            made.unwrap_or_else(|error| {
                *lacks = Some(error.to_string());
                WasiCtx::default()
            })
        })
    }
}

/// What the instances of one container find around them.
pub(crate) struct Surroundings {
    pub(crate) spec: ContainerSpec,
    pub(crate) sockets: Arc<Sockets>,
}

impl Surroundings {
    /// # Errors
    ///
    /// A directory of a volume cannot be opened.
    pub(crate) fn wasi(&self, args: &[String]) -> Result<WasiCtx, ContainerError> {
        let mut wasi = container_wasi(&self.spec, args)?;
        self.sockets.permit(&mut wasi);
        Ok(wasi.build())
    }
}

/// WASI as a container of a pod sees it: arguments, environment and mounts of its manifest.
fn container_wasi(spec: &ContainerSpec, args: &[String]) -> Result<WasiCtxBuilder, ContainerError> {
    let mut wasi = WasiCtxBuilder::new();
    output(&mut wasi, &spec.log);
    wasi.args(args).envs(&spec.env);
    if let Some(dir) = &spec.working_dir {
        wasi.initial_cwd(dir);
    }
    for mount in &spec.mounts {
        let perms = if mount.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        wasi.preopened_dir(&mount.source, &mount.target, perms)
            .map_err(|error| ContainerError::Config {
                field: format!("volumeMounts[{}]", mount.target),
                reason: format!("{} cannot be opened: {error:#}", mount.source.display()),
            })?;
    }
    Ok(wasi)
}

/// Send both output streams to a log.
pub(crate) fn output(wasi: &mut WasiCtxBuilder, log: &Arc<dyn eyot_runtime::LogSink>) {
    wasi.stdout(Output::new(log.clone(), eyot_runtime::LogStream::Stdout));
    wasi.stderr(Output::new(log.clone(), eyot_runtime::LogStream::Stderr));
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: self.wasi.get(),
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }
}
