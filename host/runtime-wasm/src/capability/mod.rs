//! What guests may use beside WASI: one module per capability, all of one shape.
//!
//! Each module has a `Client`, the part of one instance, made from the grants of that instance,
//! and implements the interface of its WIT package on it. What instances share (connections) is a
//! `Pool` in [`Shared`]. Which role gets which capability is the one table here.

pub(crate) mod config;
pub(crate) mod datagrams;
pub(crate) mod keyvalue;
pub(crate) mod log;
pub(crate) mod logging;
pub(crate) mod memory;
pub(crate) mod modbus;
pub(crate) mod mqtt;
pub(crate) mod publisher;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use eyot_runtime::{ContainerError, ContainerSpec, guest::Grants, keyvalue::KeyValues};
use tokio::sync::Notify;
use wasmtime::component::{HasData, Linker};

use crate::{bindings, program::Role, state::State};

/// What programs of pods may import.
const WORKLOAD: &[&str] = &[
    "wasi:config/store",
    "wasi:logging/logging",
    "wasi:keyvalue/store",
    "wasi:keyvalue/atomics",
    "wasi:keyvalue/batch",
];

/// The interfaces that each role may import.
const TABLE: [(Role, &[&str]); 5] = [
    (Role::Process, WORKLOAD),
    (Role::Web, WORKLOAD),
    (
        Role::Driver,
        &[
            "eyot:device/log",
            "eyot:device/publisher",
            "eyot:modbus/client",
            "eyot:mqtt/client",
            "eyot:mqtt/subscriber",
            "eyot:datagrams/receiver",
        ],
    ),
    (Role::Step, &["eyot:pipeline/memory"]),
    (Role::Exporter, &["eyot:mqtt/client"]),
];

/// What the instances of the whole host share.
pub(crate) struct Shared {
    modbus: Arc<modbus::Pool>,
    mqtt: Arc<mqtt::Pool>,
    datagrams: Arc<datagrams::Pool>,
    keyvalues: Option<Arc<dyn KeyValues>>,
}

impl Shared {
    pub(crate) fn new(local_broker: SocketAddr, keyvalues: Option<Arc<dyn KeyValues>>) -> Self {
        Self {
            keyvalues,
            modbus: Arc::default(),
            mqtt: Arc::new(mqtt::Pool::new(local_broker)),
            datagrams: Arc::default(),
        }
    }
}

/// The capabilities of one instance.
pub(crate) struct Capabilities {
    log: log::Client,
    pub(crate) publisher: publisher::Client,
    pub(crate) memory: memory::Client,
    /// Told when a message for this instance waits at a transport.
    pub(crate) alarm: Arc<Notify>,
    modbus: modbus::Client,
    mqtt: mqtt::Client,
    datagrams: datagrams::Client,
    config: config::Client,
    keyvalue: keyvalue::Client,
    logging: logging::Client,
}

impl Capabilities {
    pub(crate) fn new(shared: &Shared, grants: &Grants, log: log::Client) -> Self {
        let alarm = Arc::<Notify>::default();
        Self {
            log,
            publisher: publisher::Client::new(false),
            memory: memory::Client::default(),
            alarm: alarm.clone(),
            modbus: modbus::Client::new(shared.modbus.clone(), &grants.modbus),
            mqtt: mqtt::Client::new(shared.mqtt.clone(), grants, alarm.clone()),
            datagrams: datagrams::Client::new(
                shared.datagrams.clone(),
                &grants.listen,
                &grants.sockets,
                alarm,
            ),
            config: config::Client::default(),
            keyvalue: keyvalue::Client::default(),
            logging: logging::Client::default(),
        }
    }

    /// The same for an instance that serves a device.
    pub(crate) fn for_device(self) -> Self {
        Self {
            publisher: publisher::Client::new(true),
            ..self
        }
    }

    /// The same for a step, with what it remembers.
    pub(crate) fn remembering(self, memory: &[(String, Bytes)]) -> Self {
        Self {
            memory: memory::Client::new(memory),
            ..self
        }
    }

    /// Those of an instance of a program of a pod.
    pub(crate) fn of(shared: &Shared, given: &Given) -> Self {
        Self {
            config: given.config.clone(),
            keyvalue: given.keyvalue.clone(),
            logging: given.logging.clone(),
            ..Self::none(shared)
        }
    }

    /// Those of a guest that gets none.
    pub(crate) fn none(shared: &Shared) -> Self {
        Self::new(shared, &Grants::default(), log::Client::silent())
    }
}

/// What all instances of a container get alike: worked out once, shared by all of them.
pub(crate) struct Given {
    config: config::Client,
    keyvalue: keyvalue::Client,
    logging: logging::Client,
}

impl Given {
    /// # Errors
    ///
    /// An annotation of the pod that makes no sense.
    pub(crate) fn of(shared: &Shared, spec: &ContainerSpec) -> Result<Self, ContainerError> {
        Ok(Self {
            config: config::Client::new(&spec.env),
            keyvalue: keyvalue::Client::new(shared.keyvalues.clone(), spec)?,
            logging: logging::Client::new(spec.log.clone()),
        })
    }
}

/// The interfaces that `role` may import, beside WASI.
pub(crate) fn names(role: Role) -> &'static [&'static str] {
    TABLE
        .iter()
        .find(|(of, _)| *of == role)
        .map_or(&[], |(_, names)| names)
}

/// Whether `role` may import `import`, in any version.
pub(crate) fn granted(role: Role, import: &str) -> bool {
    let interface = import.split('@').next();
    names(role).iter().any(|name| Some(*name) == interface)
}

struct Log;
impl HasData for Log {
    type Data<'a> = &'a mut log::Client;
}

struct Publisher;
impl HasData for Publisher {
    type Data<'a> = &'a mut publisher::Client;
}

struct Memory;
impl HasData for Memory {
    type Data<'a> = &'a mut memory::Client;
}

struct Modbus;
impl HasData for Modbus {
    type Data<'a> = &'a mut modbus::Client;
}

struct Mqtt;
impl HasData for Mqtt {
    type Data<'a> = &'a mut mqtt::Client;
}

struct Datagrams;
impl HasData for Datagrams {
    type Data<'a> = &'a mut datagrams::Client;
}

struct Config;
impl HasData for Config {
    type Data<'a> = &'a mut config::Client;
}

struct KeyValue;
impl HasData for KeyValue {
    type Data<'a> = keyvalue::View<'a>;
}

fn keyvalue(state: &mut State) -> keyvalue::View<'_> {
    let (capabilities, table) = state.capabilities_and_table();
    keyvalue::View {
        client: &capabilities.keyvalue,
        table,
    }
}

struct Logging;
impl HasData for Logging {
    type Data<'a> = &'a mut logging::Client;
}

/// Link what `role` may import.
pub(crate) fn add_to_linker(linker: &mut Linker<State>, role: Role) -> wasmtime::Result<()> {
    for name in names(role) {
        match *name {
            "eyot:device/log" => {
                bindings::log::add_to_linker::<_, Log>(linker, |s| &mut s.capabilities.log)?;
            }
            "eyot:device/publisher" => {
                bindings::publisher::add_to_linker::<_, Publisher>(linker, |s| {
                    &mut s.capabilities.publisher
                })?;
            }
            "eyot:pipeline/memory" => {
                bindings::memory::add_to_linker::<_, Memory>(linker, |s| {
                    &mut s.capabilities.memory
                })?;
            }
            "eyot:modbus/client" => {
                bindings::modbus::add_to_linker::<_, Modbus>(linker, |s| {
                    &mut s.capabilities.modbus
                })?;
            }
            "eyot:mqtt/client" => {
                bindings::mqtt::add_to_linker::<_, Mqtt>(linker, |s| &mut s.capabilities.mqtt)?;
            }
            "eyot:mqtt/subscriber" => {
                bindings::subscriber::add_to_linker::<_, Mqtt>(linker, |s| {
                    &mut s.capabilities.mqtt
                })?;
            }
            "eyot:datagrams/receiver" => {
                bindings::datagrams::add_to_linker::<_, Datagrams>(linker, |s| {
                    &mut s.capabilities.datagrams
                })?;
            }
            "wasi:config/store" => {
                bindings::config::add_to_linker::<_, Config>(linker, |s| {
                    &mut s.capabilities.config
                })?;
            }
            "wasi:keyvalue/store" => {
                bindings::keyvalue::store::add_to_linker::<_, KeyValue>(linker, keyvalue)?;
            }
            "wasi:keyvalue/atomics" => {
                bindings::keyvalue::atomics::add_to_linker::<_, KeyValue>(linker, keyvalue)?;
            }
            "wasi:keyvalue/batch" => {
                bindings::keyvalue::batch::add_to_linker::<_, KeyValue>(linker, keyvalue)?;
            }
            "wasi:logging/logging" => {
                bindings::logging::add_to_linker::<_, Logging>(linker, |s| {
                    &mut s.capabilities.logging
                })?;
            }
            other => return Err(wasmtime::format_err!("no module for capability {other}")),
        }
    }
    Ok(())
}
