//! The device tier: drivers' devices, the readings bus, pipelines, the embedded broker and the
//! EdgeX REST API.
//!
//! What it reads: Device, DeviceProfile and Pipeline objects, through `kube::Client`; drivers that
//! `runtime-wasm` hands over when their pod starts ([`eyot_runtime::guest::DriverHost`]). What it writes: the statuses of
//! Device and Pipeline, Events about them, readings into the store's readings, MQTT messages. It
//! knows guests only through the traits of `eyot-runtime`, and nothing of wasmtime.
//!
//! One task per device ([`device`]), one per pipeline and component ([`pipeline`]), one publishing
//! path without waiting between them ([`bus`]).

mod backoff;
pub mod broker;
mod bus;
mod clock;
mod device;
mod edgex;
mod encode;
#[cfg(test)]
mod fakes;
mod granted;
mod loss;
mod pipeline;
mod retention;
mod scan;
mod service;
mod source;
mod status;
mod transform;
mod twins;
mod value;

use eyot_edgex::catalog;

pub use broker::{Access, Broker, BrokerError, Mqtt, Users};
pub use bus::Tap;
pub use device::CommandError;
pub use edgex::{Edgex, EdgexService};
pub use pipeline::{
    Contents, PREFIX as PIPELINES, PipelineDoor, PipelineExaminer, PipelineFindings,
};
pub use scan::ScanError;
pub use service::{Devices, Options, OwnService};
#[cfg(test)]
mod tests;
