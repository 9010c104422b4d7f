//! Drivers: components that export `eyot:device/driver`. One instance per device.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bumpalo::Bump;
use eyot_runtime::{
    LogSink,
    guest::{DeviceInfo, Driver, DriverError, DriverSession, Grants, ReadRequest, WriteRequest},
    reading::Reading,
};
use wasmtime::Store;
use wasmtime_wasi::WasiCtxBuilder;

use crate::{
    bindings::driver::{Guest, GuestIndices},
    capability::{Capabilities, log},
    clock::{Clock, Cpu},
    convert,
    engine::WasmEngine,
    memory::{Budget, Draw},
    program::{InstancePre, Program},
    resident::{MEMORY, Resident, Trapped},
    state::{self, State},
};

/// Time for `close`, as the contract says.
const CLOSE: Duration = Duration::from_secs(1);

/// The driver of one pod.
pub(crate) struct WasmDriver {
    pub(crate) engine: Arc<WasmEngine>,
    pub(crate) program: Arc<Program>,
    pub(crate) pre: InstancePre,
    pub(crate) log: Arc<dyn LogSink>,
    pub(crate) cpu: Arc<Cpu>,
    /// Bytes per instance: the pod's limit if that is lower than the usual.
    pub(crate) memory: u64,
}

impl WasmDriver {
    pub(crate) fn memory(limit: Option<u64>) -> u64 {
        limit.unwrap_or(MEMORY).min(MEMORY)
    }
}

#[async_trait]
impl Driver for WasmDriver {
    async fn open(
        &self,
        info: DeviceInfo,
        grants: Grants,
    ) -> Result<Box<dyn DriverSession>, DriverError> {
        let mut wasi = WasiCtxBuilder::new();
        state::output(&mut wasi, &self.log);
        let log = log::Client::new(self.log.clone(), info.name.clone());
        let capabilities = Capabilities::new(&self.engine.shared, &grants, log);
        let draw = Draw::new(Budget::new(Some(self.memory)));
        let clock = Clock::new(self.engine.ticker.clone(), self.cpu.clone());
        let mut store =
            State::new(wasi.build(), draw, capabilities).into_store(&self.engine.engine, &clock);
        let mut resident = Resident::new(clock, self.program.clone());
        let instance = resident
            .instantiate(&self.pre, &mut store)
            .await
            .map_err(trapped)?;
        let guest = GuestIndices::new(&self.pre)
            .and_then(|indices| indices.load(&mut store, &instance))
            .map_err(|error| DriverError::Trapped(format!("{error:#}")))?;
        {
            let bump = Bump::new();
            let device = convert::device(&bump, &info);
            let call = guest.call_open(&mut store, device);
            resident.call("open", call).await.map_err(trapped)??;
        }
        Ok(Box::new(Session {
            store,
            guest,
            resident,
        }))
    }
}

struct Session {
    store: Store<State>,
    guest: Guest,
    resident: Resident,
}

fn trapped(Trapped(reason): Trapped) -> DriverError {
    DriverError::Trapped(reason)
}

#[async_trait]
impl DriverSession for Session {
    async fn read(&mut self, requests: &[ReadRequest]) -> Result<Vec<Reading>, DriverError> {
        let bump = Bump::new();
        let call = self
            .guest
            .call_read(&mut self.store, convert::reads(&bump, requests));
        let readings = self.resident.call("read", call).await.map_err(trapped)??;
        if readings.len() != requests.len() {
            return Err(DriverError::Other(format!(
                "the driver gave {} readings for {} requests",
                readings.len(),
                requests.len()
            )));
        }
        Ok(readings.into_iter().map(convert::from_reading).collect())
    }

    async fn write(&mut self, requests: &[WriteRequest]) -> Result<(), DriverError> {
        let bump = Bump::new();
        let call = self
            .guest
            .call_write(&mut self.store, convert::writes(&bump, requests));
        Ok(self.resident.call("write", call).await.map_err(trapped)??)
    }

    async fn close(mut self: Box<Self>) {
        if self.resident.is_dead() {
            return;
        }
        let call = self
            .resident
            .call("close", self.guest.call_close(&mut self.store));
        match tokio::time::timeout(CLOSE, call).await {
            Ok(Ok(())) => {}
            Ok(Err(Trapped(reason))) => tracing::debug!(reason, "closing a driver failed"),
            Err(_) => tracing::debug!("closing a driver took too long"),
        }
    }
}
