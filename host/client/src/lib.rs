//! What every client of the Kubernetes API inside the host shares: recording events, local copies
//! of objects, and (in [`controller`]) the one task that drives reconcilers.

mod cache;
pub mod controller;
mod correlate;
mod queue;
mod recorder;
pub mod view;
mod watches;

pub use cache::{Cache, Change, Key, follow};
pub use controller::{Controller, Reconciler, Requeue};
pub use queue::Queue;
pub use recorder::{EventType, Recorder};
pub use watches::{Kind, Watches};
