//! The [`Runtime`] of Wasm images: what the component exports decides how it is hosted.

use std::sync::Arc;

use async_trait::async_trait;
use eyot_runtime::{
    Container, ContainerError, ContainerSpec, Exit, Image, Left, LogSink, Runtime,
    guest::{Driver, DriverHost},
};

use crate::{
    container::{Resources, Signals, WasmContainer},
    driver::WasmDriver,
    egress::Egress,
    engine::WasmEngine,
    process,
    program::{InstancePre, Program, Role},
    sockets::Sockets,
    web,
};

/// The label that names the device service of a driver pod.
const SERVICE_LABEL: &str = "eyot.dev/device-service";

/// Runs containers whose image is a Wasm component.
pub struct WasmRuntime {
    engine: Arc<WasmEngine>,
    driver_host: Arc<dyn DriverHost>,
}

impl WasmRuntime {
    pub fn new(engine: Arc<WasmEngine>, driver_host: Arc<dyn DriverHost>) -> Self {
        Self {
            engine,
            driver_host,
        }
    }

    /// Hand the driver over to whoever knows its devices; the container lasts as long as that.
    fn driver(
        &self,
        program: Arc<Program>,
        pre: InstancePre,
        spec: &ContainerSpec,
        signals: &Signals,
        resources: &Resources,
    ) -> impl Future<Output = Exit> + Send + 'static {
        let driver: Arc<dyn Driver> = Arc::new(WasmDriver {
            engine: self.engine.clone(),
            program,
            pre,
            log: spec.log.clone(),
            cpu: resources.cpu.clone(),
            memory: WasmDriver::memory(spec.limits.memory),
        });
        let service = spec.labels.get(SERVICE_LABEL).unwrap_or(&spec.name).clone();
        let (host, pod, log) = (self.driver_host.clone(), spec.pod.clone(), spec.log.clone());
        let stop = signals.terminate.clone();
        async move { host.serve(pod, service, driver, log, stop).await }
    }
}

#[async_trait]
impl Runtime for WasmRuntime {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn needs_netns(&self) -> bool {
        false
    }

    async fn image_needs_netns(&self, image: &Image) -> bool {
        // What is wrong with the image shows when it is started.
        let program = self.engine.program(image).await;
        program.is_ok_and(|(program, role, _)| Sockets::are_used(&program, role))
    }

    async fn prepare(&self, image: &Image) -> Result<(), ContainerError> {
        self.engine.program(image).await.map(drop)
    }

    async fn collect(&self, kept: &[Image]) -> Result<(), ContainerError> {
        let collected = self.engine.artifacts.collect(kept).await;
        collected.map_err(|error| ContainerError::Runtime(format!("compiled components: {error}")))
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError> {
        let (program, role, pre) = self.engine.program(&spec.image).await?;
        let (signals, resources) = (Signals::default(), Resources::of(&spec));
        let engine = &self.engine;
        let egress = Egress::of(&spec)?;
        if Sockets::are_used(&program, role) && !Sockets::have_a_place(&egress) {
            return Err(ContainerError::Config {
                field: "image".into(),
                reason: format!(
                    "{} uses sockets, and did not when the pod was given its network: delete the \
                     pod and create it again",
                    spec.image.reference
                ),
            });
        }
        let on = engine.workload.handle();
        match role {
            Role::Process => {
                let work =
                    process::process(engine, program, pre, &spec, egress, &signals, &resources)?;
                Ok(WasmContainer::spawn(on, &spec, signals, resources, work))
            }
            Role::Web => {
                let (of, engine) = (spec.clone(), engine.clone());
                let resources = resources.counting();
                let work = web::web(engine, program, pre, of, egress, &signals, &resources).await?;
                Ok(WasmContainer::spawn(on, &spec, signals, resources, work))
            }
            Role::Driver => {
                let work = self.driver(program, pre, &spec, &signals, &resources);
                // Its calls are made by the host's own tasks, so it runs among them.
                let on = tokio::runtime::Handle::current();
                Ok(WasmContainer::spawn(&on, &spec, signals, resources, work))
            }
            Role::Step | Role::Exporter => Err(ContainerError::Config {
                field: "image".into(),
                reason: format!(
                    "{} is a part of a pipeline ({}), not a program: name it in the spec of a \
                     Pipeline instead of a Pod",
                    spec.image.reference,
                    role.interface()
                ),
            }),
        }
    }

    async fn recover(&self) -> Result<Vec<Left>, ContainerError> {
        // Guests live in this process and ended with the one before.
        Ok(Vec::new())
    }

    async fn adopt(
        &self,
        left: &Left,
        _: Arc<dyn LogSink>,
    ) -> Result<Arc<dyn Container>, ContainerError> {
        let name = &left.name;
        Err(ContainerError::Runtime(format!(
            "{name} was no guest of this process"
        )))
    }
}
