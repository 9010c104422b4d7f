//! Runs OCI container images as processes, through libcontainer.
//!
//! The only crate that knows libcontainer. [`OciRuntime`] is the [`eyot_runtime::Runtime`] for
//! container images: it unpacks each image layer once, stacks them for each container with
//! overlayfs, writes the runtime configuration, and lets the [`launcher`] build the container.
//! From then on signals go through a pidfd, and control groups are read and removed directly. The
//! launcher outlives this process for as long as there are containers: it is their parent, and says
//! and writes down how they ended. The next life of the host finds them by their bundles
//! ([`recover`]) and goes on.
//!
//! ```text
//! prepare   blob ──unpack──▶ DATA/layers/<diff_id>/                       (shared, kept)
//! start     layers ──overlay──▶ DATA/containers/<id>/root                 (one per container)
//!           config.json, hosts, hostname in STATE/bundles/<id>/
//!           launcher: create → STATE/states/<id>/, cgroup PARENT/<pod>/<container>; start
//!           with the pod's first: namespaces and /dev/shm in STATE/pods/<pod>/
//! wait      code from the launcher → out of memory? → output drained → Exit
//! exec      process.json in the bundle; launcher: exec
//! remove    cgroups, overlay, directories; with the pod's last: STATE/pods/<pod>/
//! recover   bundles with a record and a living process, or an exit code; all else is removed
//! ```
//!
//! The state directory should be on tmpfs (`/run`): it is written for every container and of no
//! use after a reboot.
//!
//! A binary that uses this crate calls [`launcher::main_if_launcher`] first in `main`.

mod bundle;
mod capability;
mod cgroup;
mod confinement;
mod container;
mod ended;
mod exec;
mod kernel;
pub mod launcher;
mod layers;
mod namespace;
mod overlay;
mod pod;
mod recover;
mod rooted;
mod runtime;
mod seccomp;
mod spec;
mod streams;
mod unpack;
mod user;
mod zstd;

pub use launcher::{Launcher, LauncherError};
pub use runtime::{OciRuntime, Options};
