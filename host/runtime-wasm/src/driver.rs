//! Drivers: components that export `eyot:device/driver`. One instance per device, and one for each
//! question that belongs to none.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bumpalo::Bump;
use eyot_runtime::{
    LogSink,
    guest::{
        Delivery, DeviceInfo, DiscoveredDevice, Driver, DriverError, DriverSession, Grants,
        Publication, ReadRequest, ServiceInfo, WriteRequest,
    },
    reading::Reading,
};
use tokio::sync::Notify;
use wasmtime::{Store, component::Instance};
use wasmtime_wasi::WasiCtxBuilder;

use crate::{
    bindings::{driver, inlet, listener, service},
    capability::{Capabilities, log},
    clock::{Clock, Cpu},
    convert,
    egress::{Egress, Outgoing, Resolver},
    engine::WasmEngine,
    memory::{Budget, Draw},
    program::{InstancePre, Program},
    resident::{MEMORY, Resident, Trapped},
    sockets::Sockets,
    state::{self, State},
};

/// Time for `close` and `stop`, as the contract says.
const CLOSE: Duration = Duration::from_secs(1);
/// Devices that one search may find, as the contract says.
const DISCOVERED: usize = 10_000;
/// Shortest time between two calls of `poll`, as the contract says.
const SHORTEST_POLL: Duration = Duration::from_millis(10);

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

    /// Make an instance that reaches what it is granted, and whose log names `name`.
    async fn instance(
        &self,
        name: &str,
        grants: &Grants,
        device: bool,
    ) -> Result<Made, DriverError> {
        let mut wasi = WasiCtxBuilder::new();
        state::output(&mut wasi, &self.log);
        let egress = Egress::of_driver(&grants.sockets);
        let sockets = Sockets::of_driver(egress.clone());
        sockets.permit(&mut wasi);
        let log = log::Client::new(self.log.clone(), name.to_owned());
        let capabilities = Capabilities::new(&self.engine.shared, grants, log);
        let capabilities = match device {
            true => capabilities.for_device(),
            false => capabilities,
        };
        let draw = Draw::new(Budget::new(Some(self.memory)));
        let clock = Clock::new(self.engine.ticker.clone(), self.cpu.clone());
        let outgoing = Outgoing::new(egress, Resolver::default());
        let mut store = State::new(wasi.build(), draw, capabilities)
            .with_network(outgoing.with_tls(grants.tls.clone()), sockets)
            .into_store(&self.engine.engine, &clock);
        let mut resident = Resident::new(clock, self.program.clone());
        let instance = resident
            .instantiate(&self.pre, &mut store)
            .await
            .map_err(trapped)?;
        Ok(Made {
            store,
            instance,
            resident,
        })
    }

    /// An instance for what belongs to no device, started; `None` if the driver has no such part.
    async fn service(
        &self,
        info: &ServiceInfo,
        grants: &Grants,
    ) -> Result<Option<Service>, DriverError> {
        let Ok(indices) = service::GuestIndices::new(&self.pre) else {
            return Ok(None);
        };
        let mut made = self.instance(&info.name, grants, false).await?;
        let guest = indices
            .load(&mut made.store, &made.instance)
            .map_err(|error| DriverError::Trapped(format!("{error:#}")))?;
        let mut service = Service { made, guest };
        let Service { made, guest } = &mut service;
        let call = guest.call_start(&mut made.store, convert::service(info));
        made.resident.call("start", call).await.map_err(trapped)??;
        Ok(Some(service))
    }
}

/// An instance, before it is known what it exports.
struct Made {
    store: Store<State>,
    instance: Instance,
    resident: Resident,
}

/// An instance of the driver, not of a device.
struct Service {
    made: Made,
    guest: service::Guest,
}

impl Service {
    async fn stop(self) {
        let Self { mut made, guest } = self;
        goodbye(&mut made.resident, "stop", guest.call_stop(&mut made.store)).await;
    }
}

/// The last call of an instance.
async fn goodbye(
    resident: &mut Resident,
    name: &str,
    call: impl Future<Output = wasmtime::Result<()>>,
) {
    if resident.is_dead() {
        return;
    }
    match tokio::time::timeout(CLOSE, resident.call(name, call)).await {
        Ok(Ok(())) => {}
        Ok(Err(Trapped(reason))) => tracing::debug!(reason, name, "the end of a driver failed"),
        Err(_) => tracing::debug!(name, "the end of a driver took too long"),
    }
}

#[async_trait]
impl Driver for WasmDriver {
    async fn validate(&self, info: ServiceInfo, device: DeviceInfo) -> Result<(), DriverError> {
        let Some(mut service) = self.service(&info, &Grants::default()).await? else {
            return Ok(());
        };
        let outcome = {
            let bump = Bump::new();
            let Service { made, guest } = &mut service;
            let call = guest.call_validate(&mut made.store, convert::device(&bump, &device));
            made.resident
                .call("validate", call)
                .await
                .map_err(trapped)?
        };
        service.stop().await;
        Ok(outcome?)
    }

    async fn discover(
        &self,
        info: ServiceInfo,
        options: &str,
        grants: Grants,
    ) -> Result<Vec<DiscoveredDevice>, DriverError> {
        let Some(mut service) = self.service(&info, &grants).await? else {
            return Err(DriverError::NotSupported(
                "the driver finds no devices".into(),
            ));
        };
        let outcome = {
            let Service { made, guest } = &mut service;
            let call = guest.call_discover(&mut made.store, options);
            made.resident
                .call("discover", call)
                .await
                .map_err(trapped)?
        };
        service.stop().await;
        let found = outcome?;
        if found.len() > DISCOVERED {
            let count = found.len();
            return Err(DriverError::Other(format!(
                "the driver found {count} devices; {DISCOVERED} are taken at most"
            )));
        }
        Ok(found.into_iter().map(convert::from_discovered).collect())
    }

    async fn profile_scan(
        &self,
        info: ServiceInfo,
        device: DeviceInfo,
        profile_name: &str,
        options: &str,
        grants: Grants,
    ) -> Result<String, DriverError> {
        let Some(mut service) = self.service(&info, &grants).await? else {
            return Err(DriverError::NotSupported(
                "the driver scans no devices".into(),
            ));
        };
        let outcome = {
            let bump = Bump::new();
            let Service { made, guest } = &mut service;
            let request = service::ScanRequest {
                device: convert::device(&bump, &device),
                profile_name,
                options,
            };
            let call = guest.call_profile_scan(&mut made.store, request);
            made.resident
                .call("profile-scan", call)
                .await
                .map_err(trapped)?
        };
        service.stop().await;
        Ok(outcome?)
    }

    async fn open(
        &self,
        info: DeviceInfo,
        grants: Grants,
    ) -> Result<Box<dyn DriverSession>, DriverError> {
        let Made {
            mut store,
            instance,
            mut resident,
        } = self.instance(&info.name, &grants, true).await?;
        let guest = driver::GuestIndices::new(&self.pre)
            .and_then(|indices| indices.load(&mut store, &instance))
            .map_err(|error| DriverError::Trapped(format!("{error:#}")))?;
        // Drivers of the first version of the contract do not listen.
        let listener = listener::GuestIndices::new(&self.pre)
            .and_then(|indices| indices.load(&mut store, &instance))
            .ok();
        let inlet = inlet::GuestIndices::new(&self.pre)
            .and_then(|indices| indices.load(&mut store, &instance))
            .ok();
        {
            let bump = Bump::new();
            let device = convert::device(&bump, &info);
            let call = guest.call_open(&mut store, device);
            resident.call("open", call).await.map_err(trapped)??;
        }
        Ok(Box::new(Session {
            store,
            guest,
            listener,
            inlet,
            resident,
        }))
    }
}

struct Session {
    store: Store<State>,
    guest: driver::Guest,
    listener: Option<listener::Guest>,
    inlet: Option<inlet::Guest>,
    resident: Resident,
}

fn trapped(Trapped(reason): Trapped) -> DriverError {
    DriverError::Trapped(reason)
}

#[async_trait]
impl DriverSession for Session {
    async fn subscribe(&mut self, resources: &[ReadRequest]) -> Result<(), DriverError> {
        let Some(listener) = &self.listener else {
            return Err(DriverError::NotSupported(
                "the driver does not listen".into(),
            ));
        };
        let bump = Bump::new();
        let call = listener.call_subscribe(&mut self.store, convert::reads(&bump, resources));
        Ok(self
            .resident
            .call("subscribe", call)
            .await
            .map_err(trapped)??)
    }

    async fn poll(&mut self) -> Result<Option<Duration>, DriverError> {
        let Some(listener) = &self.listener else {
            return Ok(None);
        };
        let call = listener.call_poll(&mut self.store);
        let again = self.resident.call("poll", call).await.map_err(trapped)??;
        let again = Duration::from_millis(again.into());
        Ok((!again.is_zero()).then(|| again.max(SHORTEST_POLL)))
    }

    async fn deliver(&mut self, delivery: Delivery) -> Result<(), DriverError> {
        let Some(inlet) = &self.inlet else {
            return Err(DriverError::NotSupported(
                "nothing can be sent to the devices of this driver".into(),
            ));
        };
        let delivery = inlet::Delivery {
            resource: convert::read(&delivery.resource),
            media_type: &delivery.media_type,
            body: &delivery.body,
        };
        let call = inlet.call_deliver(&mut self.store, delivery);
        Ok(self
            .resident
            .call("deliver", call)
            .await
            .map_err(trapped)??)
    }

    fn alarm(&self) -> Arc<Notify> {
        self.store.data().capabilities.alarm.clone()
    }

    fn published(&mut self) -> Vec<Publication> {
        self.store.data_mut().capabilities.publisher.take()
    }

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

    async fn close(self: Box<Self>) {
        let Self {
            mut store,
            guest,
            mut resident,
            ..
        } = *self;
        goodbye(&mut resident, "close", guest.call_close(&mut store)).await;
    }
}
