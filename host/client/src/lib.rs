//! What every client of the Kubernetes API inside the host shares: recording events and (in
//! `controller`) the one task that drives reconcilers.

mod recorder;

pub use recorder::{EventType, Recorder};
