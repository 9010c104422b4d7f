//! What the host keeps for one instance: the `T` of its `Store<T>`.

use eyot_runtime::{ContainerError, ContainerSpec};
use wasmtime::{Engine, Store, component::ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

use crate::{capability::Capabilities, clock::Clock, memory::Draw, output::Output};

/// Resources (streams, files, requests) that one instance may hold open.
const RESOURCES: usize = 10_000;
/// Bytes that a guest may have the host copy out of it in one call: bodies and batches pass, a
/// list made to exhaust the host does not.
const COPIED_PER_CALL: usize = 64 << 20;

pub(crate) struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: NoOutgoing,
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
            outgoing: NoOutgoing,
            draw,
            capabilities,
        }
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
pub(crate) fn output(wasi: &mut WasiCtxBuilder, log: &std::sync::Arc<dyn eyot_runtime::LogSink>) {
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

/// Outgoing HTTP is linked, because many web components import it without using it, and denied.
struct NoOutgoing;

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ),
    HttpError,
>;

impl WasiHttpHooks for NoOutgoing {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(HttpError::HttpRequestDenied)))
    }
}
