//! Pipeline steps and exporters: warm instances, called with one batch after the other.

use std::sync::Arc;

use async_trait::async_trait;
use bumpalo::Bump;
use bytes::Bytes;
use eyot_runtime::{
    ContainerError, Image, LogSink, LogStream,
    guest::{Exporter, Grants, Item, Processed, Step, StepError, StepLoader},
};
use wasmtime::Store;
use wasmtime::component::Instance;
use wasmtime_wasi::WasiCtxBuilder;

use crate::{
    bindings::{exporter, pipeline, step, timer},
    capability::{Capabilities, log},
    clock::{Clock, Cpu},
    convert,
    egress::{Egress, Outgoing, Resolver},
    engine::WasmEngine,
    memory::{Budget, Draw},
    program::{InstancePre, Program, Role},
    resident::{MEMORY, Resident, Trapped},
    sockets::Sockets,
    state::{self, State},
    tls,
};

#[async_trait]
impl StepLoader for WasmEngine {
    async fn step(
        &self,
        image: &Image,
        settings: &[(String, String)],
        memory: &[(String, Bytes)],
    ) -> Result<Box<dyn Step>, StepError> {
        let (program, pre) = self.guest(image, Role::Step).await?;
        let mut made = self
            .instance(image, program, &pre, &Grants::default(), memory)
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
        // Most steps have nothing to do with time.
        let timer = timer::GuestIndices::new(&pre)
            .and_then(|indices| indices.load(&mut made.store, &made.instance))
            .ok();
        Ok(Box::new(WasmStep { made, guest, timer }))
    }

    async fn exporter(
        &self,
        image: &Image,
        settings: &[(String, String)],
        grants: Grants,
    ) -> Result<Box<dyn Exporter>, StepError> {
        let (program, pre) = self.guest(image, Role::Exporter).await?;
        let mut made = self.instance(image, program, &pre, &grants, &[]).await?;
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
        memory: &[(String, Bytes)],
    ) -> Result<Made, StepError> {
        let log: Arc<dyn LogSink> = Arc::new(HostLog {
            image: image.reference.clone(),
        });
        let mut wasi = WasiCtxBuilder::new();
        state::output(&mut wasi, &log);
        // What is wrong with it is said now, not at the first delivery.
        tls::client(grants.tls.as_deref())
            .map_err(|reason| StepError::Config(format!("the TLS secret: {reason}")))?;
        // A step is granted nothing, and so reaches nothing.
        let egress = Egress::of_driver(&grants.sockets);
        let sockets = Sockets::of_driver(egress.clone());
        sockets.permit(&mut wasi);
        let outgoing = Outgoing::new(egress, Resolver::default()).with_tls(grants.tls.clone());
        let capabilities =
            Capabilities::new(&self.shared, grants, log::Client::silent()).remembering(memory);
        let draw = Draw::new(Budget::new(Some(MEMORY)));
        let clock = Clock::new(self.ticker.clone(), Cpu::new(None, None));
        let mut store = State::new(wasi.build(), draw, capabilities)
            .with_network(outgoing, sockets)
            .into_store(&self.engine, &clock);
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
    timer: Option<timer::Guest>,
}

impl WasmStep {
    /// What came of a call that did not trap.
    fn processed(
        &mut self,
        items: Result<Vec<pipeline::ItemResult>, pipeline::Error>,
        batch: &[Item],
    ) -> Result<Processed, StepError> {
        let memory = &mut self.made.store.data_mut().capabilities.memory;
        let items = items.inspect_err(|_| memory.revert())?;
        Ok(Processed {
            items: convert::from_items(items, batch),
            memory: memory.take_changes(),
            wake: memory.take_wake(),
        })
    }
}

#[async_trait]
impl Step for WasmStep {
    async fn process(&mut self, batch: &[Item]) -> Result<Processed, StepError> {
        let bump = Bump::new();
        let call = self
            .guest
            .call_process(&mut self.made.store, convert::items(&bump, batch));
        let items = self.made.resident.call("process", call).await;
        self.processed(items.map_err(trapped)?, batch)
    }

    async fn tick(&mut self) -> Result<Processed, StepError> {
        let Some(timer) = &self.timer else {
            return Ok(Processed::default());
        };
        let call = timer.call_tick(&mut self.made.store);
        let items = self.made.resident.call("tick", call).await;
        self.processed(items.map_err(trapped)?, &[])
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
