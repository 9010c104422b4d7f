//! Pipeline steps and exporters: warm instances, called with one batch after the other.

use std::sync::Arc;

use async_trait::async_trait;
use bumpalo::Bump;
use eyot_runtime::{
    ContainerError, Image, LogSink, LogStream,
    guest::{Exporter, Grants, Item, Step, StepError, StepLoader},
};
use wasmtime::Store;
use wasmtime::component::Instance;
use wasmtime_wasi::WasiCtxBuilder;

use crate::{
    bindings::{exporter, step},
    capability::{Capabilities, log},
    clock::{Clock, Cpu},
    convert,
    engine::WasmEngine,
    memory::{Budget, Draw},
    program::{InstancePre, Program, Role},
    resident::{MEMORY, Resident, Trapped},
    state::{self, State},
};

#[async_trait]
impl StepLoader for WasmEngine {
    async fn step(
        &self,
        image: &Image,
        settings: &[(String, String)],
    ) -> Result<Box<dyn Step>, StepError> {
        let (program, pre) = self.guest(image, Role::Step).await?;
        let mut made = self
            .instance(image, program, &pre, &Grants::default())
            .await?;
        let guest = step::GuestIndices::new(&pre)
            .and_then(|indices| indices.load(&mut made.store, &made.instance))
            .map_err(|error| StepError::Config(format!("{error:#}")))?;
        {
            let bump = Bump::new();
            let settings = convert::tags(&bump, settings);
            let call = guest.call_configure(&mut made.store, settings);
            made.resident
                .call("configure", call)
                .await
                .map_err(trapped)??;
        }
        Ok(Box::new(WasmStep { made, guest }))
    }

    async fn exporter(
        &self,
        image: &Image,
        settings: &[(String, String)],
        grants: Grants,
    ) -> Result<Box<dyn Exporter>, StepError> {
        let (program, pre) = self.guest(image, Role::Exporter).await?;
        let mut made = self.instance(image, program, &pre, &grants).await?;
        let guest = exporter::GuestIndices::new(&pre)
            .and_then(|indices| indices.load(&mut made.store, &made.instance))
            .map_err(|error| StepError::Config(format!("{error:#}")))?;
        {
            let bump = Bump::new();
            let settings = convert::tags(&bump, settings);
            let call = guest.call_configure(&mut made.store, settings);
            made.resident
                .call("configure", call)
                .await
                .map_err(trapped)??;
        }
        Ok(Box::new(WasmExporter { made, guest }))
    }
}

impl WasmEngine {
    async fn guest(
        &self,
        image: &Image,
        role: Role,
    ) -> Result<(Arc<Program>, InstancePre), StepError> {
        let program = self.artifacts.load(image).await.map_err(not_loaded)?;
        if !program.has(role) {
            return Err(StepError::Config(format!(
                "image {} exports {}, not {}",
                image.reference,
                program.exports(),
                role.interface()
            )));
        }
        let pre = program
            .prepare(role, &self.linkers, image)
            .map_err(not_loaded)?
            .clone();
        Ok((program, pre))
    }

    async fn instance(
        &self,
        image: &Image,
        program: Arc<Program>,
        pre: &InstancePre,
        grants: &Grants,
    ) -> Result<Made, StepError> {
        let log: Arc<dyn LogSink> = Arc::new(HostLog {
            image: image.reference.clone(),
        });
        let mut wasi = WasiCtxBuilder::new();
        state::output(&mut wasi, &log);
        let capabilities = Capabilities::new(&self.shared, grants, log::Client::silent());
        let draw = Draw::new(Budget::new(Some(MEMORY)));
        let clock = Clock::new(self.ticker.clone(), Cpu::new(None, None));
        let mut store =
            State::new(wasi.build(), draw, capabilities).into_store(&self.engine, &clock);
        let mut resident = Resident::new(clock, program);
        let instance = resident
            .instantiate(pre, &mut store)
            .await
            .map_err(trapped)?;
        Ok(Made {
            store,
            instance,
            resident,
        })
    }
}

/// An instance, before it is known what it exports.
struct Made {
    store: Store<State>,
    instance: Instance,
    resident: Resident,
}

struct WasmStep {
    made: Made,
    guest: step::Guest,
}

#[async_trait]
impl Step for WasmStep {
    async fn process(&mut self, batch: &[Item]) -> Result<Vec<Item>, StepError> {
        let bump = Bump::new();
        let call = self
            .guest
            .call_process(&mut self.made.store, convert::items(&bump, batch));
        let items = self
            .made
            .resident
            .call("process", call)
            .await
            .map_err(trapped)??;
        Ok(convert::from_items(items, batch))
    }
}

struct WasmExporter {
    made: Made,
    guest: exporter::Guest,
}

#[async_trait]
impl Exporter for WasmExporter {
    async fn deliver(&mut self, batch: &[Item]) -> Result<(), StepError> {
        let bump = Bump::new();
        let call = self
            .guest
            .call_deliver(&mut self.made.store, convert::items(&bump, batch));
        Ok(self
            .made
            .resident
            .call("deliver", call)
            .await
            .map_err(trapped)??)
    }
}

fn trapped(Trapped(reason): Trapped) -> StepError {
    StepError::Trapped(reason)
}

fn not_loaded(error: ContainerError) -> StepError {
    match error {
        ContainerError::Runtime(reason) => StepError::Retry(reason),
        other => StepError::Config(other.to_string()),
    }
}

/// Pipelines are no pods and have no log of their own: what their guests print goes to the host's.
struct HostLog {
    image: String,
}

impl LogSink for HostLog {
    fn write(&self, _: LogStream, data: &[u8]) {
        for line in String::from_utf8_lossy(data).lines() {
            tracing::info!(image = self.image, "{line}");
        }
    }
}
