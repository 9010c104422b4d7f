//! Runs OCI container images as processes, through libcontainer.
//!
//! The only crate that knows libcontainer. [`OciRuntime`] is the [`eyot_runtime::Runtime`] for
//! container images: it unpacks each image layer once, stacks them for each container with
//! overlayfs, writes the runtime configuration, and lets the [`launcher`] build the container.
//! From then on the container's first process is a child of this one: its exit comes from a pidfd,
//! signals go through it, and control groups are read and removed directly. So once a container
//! runs, libcontainer and the launcher have no part in it.
//!
//! ```text
//! prepare   blob ──unpack──▶ DATA/layers/<diff_id>/                       (shared, kept)
//! start     layers ──overlay──▶ DATA/containers/<id>/root                 (one per container)
//!           config.json, hosts, hostname in STATE/bundles/<id>/
//!           launcher: create → STATE/states/<id>/, cgroup PARENT/<pod>/<container>; start
//! wait      pidfd readable → waitid → out of memory? → output drained → Exit
//! exec      process.json in the bundle; launcher: exec → a child of this process as well
//! remove    cgroups, overlay, directories; the same steps `sweep` takes for what it finds
//! ```
//!
//! The state directory should be on tmpfs (`/run`): it is written for every container and of no
//! use after a reboot.
//!
//! A binary that uses this crate calls [`launcher::main_if_launcher`] first in `main`.

mod capability;
mod cgroup;
mod confinement;
mod container;
mod exec;
mod kernel;
pub mod launcher;
mod layers;
mod overlay;
mod rooted;
mod runtime;
mod seccomp;
mod spec;
mod streams;
mod unpack;
mod user;

pub use launcher::{Launcher, LauncherError};
pub use runtime::{OciRuntime, Options};
