//! The seam between those who decide what runs (node, devices) and those who run it
//! (`runtime-oci`, `runtime-wasm`, `registry`).
//!
//! Traits and plain data, no I/O. Nothing here knows Kubernetes objects, wasmtime or libcontainer:
//! the node resolves a pod into [`ContainerSpec`]s before it calls a [`Runtime`], and a runtime
//! hands back a [`Container`]. Guests that are *called* instead of running by themselves (drivers,
//! pipeline steps, exporters) are the traits in [`guest`].

pub mod container;
pub mod guest;
pub mod image;
pub mod instance;
pub mod keyvalue;
pub mod process;
pub mod reading;
pub mod security;

pub use container::{
    Container, ContainerError, ContainerSpec, Exit, Left, Limits, LogSink, LogStream, Mount,
    PodLimits, PodRef, Propagation, Runtime, Sandbox, ServiceClass, Signal, Usage,
};
pub use image::{
    Credential, Image, ImageConfig, ImageContent, ImageError, ImageStore, Pulled, StoredImage,
};
pub use instance::Instance;
pub use process::{ExecSpec, Input, Process, ProcessControl, TerminalSize};
pub use security::{Processes, Seccomp, Security};
