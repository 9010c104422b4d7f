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
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    sockets: Option<Arc<Sockets>>,
    draw: Draw,
    pub(crate) capabilities: Capabilities,
}

impl State {
    pub(crate) fn new(wasi: WasiCtx, draw: Draw, capabilities: Capabilities) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self {
            table,
            wasi,
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
        (self.wasi.sockets(), &mut self.table, self.sockets.as_ref())
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

/// WASI as a container of a pod sees it: arguments, environment and mounts of its manifest.
pub(crate) fn container_wasi(
    spec: &ContainerSpec,
    args: &[String],
) -> Result<WasiCtxBuilder, ContainerError> {
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
            ctx: &mut self.wasi,
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
