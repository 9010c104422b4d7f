//! Write device drivers, pipeline steps and exporters for Eyot.
//!
//! Each is a Wasm component: a struct, a trait and one macro.
//!
//! | you write | trait | macro |
//! |---|---|---|
//! | a driver, which knows one device protocol | [`Driver`] | [`export_driver!`] |
//! | a step, which looks at, changes or drops what passes | [`Step`] | [`export_step!`] |
//! | a step that remembers, or waits for time to pass | [`Accumulator`] | [`export_accumulator!`] |
//! | an exporter, which delivers it somewhere | [`Exporter`] | [`export_exporter!`] |
//!
//! Build with `cargo build --target wasm32-wasip2 --release` as a `cdylib`, and push the file with
//! `eyot push NAME FILE`. The macros do nothing on other targets, so `cargo test` runs natively:
//! transports such as [`modbus`] are traits, and a test hands the driver a simulated one.
//!
//! ```
//! use eyot_sdk::{Device, Driver, Error, ReadRequest, Reading, Value};
//! use serde::Deserialize;
//!
//! /// Answers each read with the number in the resource's attribute `start`, then counts on.
//! struct Counter {
//!     count: u32,
//! }
//!
//! #[derive(Deserialize)]
//! struct Attributes {
//!     #[serde(default, deserialize_with = "eyot_sdk::lenient::number")]
//!     start: u32,
//! }
//!
//! impl Driver for Counter {
//!     type Attributes = Attributes;
//!
//!     fn open(_device: &Device) -> Result<Self, Error> {
//!         Ok(Self { count: 0 })
//!     }
//!
//!     fn read(&mut self, requests: &[ReadRequest<'_, Attributes>]) -> Result<Vec<Reading>, Error> {
//!         self.count += 1;
//!         let count = self.count;
//!         let answer = |request: &ReadRequest<'_, Attributes>| {
//!             request.answer(Value::Uint32(request.attributes.start + count))
//!         };
//!         Ok(requests.iter().map(answer).collect())
//!     }
//! }
//!
//! eyot_sdk::export_driver!(Counter);
//! ```

#![warn(missing_docs)]

#[doc(hidden)]
pub mod bindings;
mod driver;
pub mod http;
mod json;
pub mod lenient;
pub mod lines;
pub mod log;
pub mod memory;
pub mod modbus;
pub mod mqtt;
pub mod net;
mod pipeline;
pub mod publisher;
mod settings;
mod value;

pub use bindings::{
    driver::exports::eyot::device::service::{DiscoveredDevice, Info as Service, ScanRequest},
    driver::eyot::{
        device::types::{Device, Error, Invalid, Protocol, ProtocolError},
        reading::types::{Binary, Event, Reading, Value},
    },
    step::eyot::pipeline::types::{Error as PipelineError, Item, Payload},
};
#[doc(hidden)]
pub use driver::Session;
pub use driver::{Delivery, Driver, ReadRequest, Resource, WriteRequest};
#[doc(hidden)]
pub use pipeline::Place;
pub use pipeline::{Accumulator, Exporter, Step};
pub use publisher::publish;
pub use settings::from_settings;
pub use value::ValueType;

/// Version of this SDK. Every guest carries it in the custom section `eyot:sdk` of its core module.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Puts [`VERSION`] into the guest; part of the export macros.
#[doc(hidden)]
#[macro_export]
macro_rules! __version_section {
    () => {
        #[unsafe(link_section = "eyot:sdk")]
        #[used]
        static EYOT_SDK: [u8; $crate::VERSION.len()] = {
            let mut bytes = [0; $crate::VERSION.len()];
            let mut index = 0;
            while index < bytes.len() {
                bytes[index] = $crate::VERSION.as_bytes()[index];
                index += 1;
            }
            bytes
        };
    };
}
