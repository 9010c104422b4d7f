//! Runs WebAssembly components: as processes, web services, device drivers, pipeline steps and
//! exporters. What a component *exports* decides which of these it is.
//!
//! This crate fences wasmtime. To its users it is a [`Runtime`](eyot_runtime::Runtime) (pods) and a
//! [`StepLoader`](eyot_runtime::guest::StepLoader) (pipelines); drivers go from a started pod to the
//! [`DriverHost`](eyot_runtime::guest::DriverHost) that the caller gives.
//!
//! - [`WasmEngine`] holds what all guests share: compiled artefacts ([`artifacts`]), the pool of
//!   instances ([`config`]), the clock that interrupts them ([`clock`]) and the connections of the
//!   [`capability`] modules.
//! - [`WasmRuntime`] starts one container: [`process`], [`web`] or [`driver`].
//! - [`pipeline`] makes the instances that pipelines call.
//!
//! A guest can do three harmful things: compute for ever, take all memory, and reach where it must
//! not. The first is bounded by [`clock`] (it yields every tick, is charged for its time, and has its share of it: [`fair`]), the
//! second by [`memory`], and the third by what is linked: WASI 0.2 whose file system holds the
//! pod's volumes, whose outgoing HTTP and [`sockets`] reach what its pod is granted ([`egress`]),
//! and the capabilities that its grants name.

mod artifacts;
mod bindings;
mod capability;
mod clock;
mod config;
mod container;
mod convert;
mod driver;
mod egress;
mod engine;
mod failure;
mod fair;
mod inspect;
mod memory;
mod netns;
mod output;
mod pipeline;
mod process;
mod program;
mod resident;
mod runtime;
mod sockets;
mod state;
mod tls;
mod web;

pub use config::EngineError;
pub use engine::{Options, WasmEngine};
pub use runtime::WasmRuntime;
